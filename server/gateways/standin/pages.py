"""What people see of the stand-in: a checkout, a portal, a creator's onboarding; and a way to let months pass.

Plain HTML made here, with one style and no script. A form may lead back to the page that it came from, and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from server.gateways.standin.billing import DECLINED, FAILS_LATER, GOOD, Billing
from server.gateways.standin.connect import Connect
from server.gateways.standin.ledger import Ledger, Object
from server.gateways.standin.problems import StripeProblem

STYLE: Final = Path(__file__).with_name("standin.css")
CARDS: Final = {
    GOOD: "4242 4242 4242 4242: always pays",
    FAILS_LATER: "4000 0000 0000 0341: pays now, and fails at the next renewal",
    DECLINED: "4000 0000 0000 0002: is declined",
}


class Pages:
    """The pages of one stand-in."""

    def __init__(self, ledger: Ledger, billing: Billing, connect: Connect) -> None:
        self._ledger = ledger
        self._billing = billing
        self._connect = connect

    def routes(self) -> list[Route]:
        """List the pages."""
        return [
            Route("/standin.css", self.style),
            Route("/c/pay/{id}", self.checkout, methods=["GET", "POST"]),
            Route("/p/session/{id}", self.portal, methods=["GET", "POST"]),
            Route("/o/{id}/{ticket}", self.onboarding, methods=["GET", "POST"]),
        ]

    async def style(self, _: Request) -> Response:
        """Give the style."""
        return Response(STYLE.read_bytes(), media_type="text/css")

    async def checkout(self, request: Request) -> Response:
        """Show what is to be paid, and take the pretend money."""
        try:
            session = self._ledger.get("checkout.session", request.path_params["id"])
        except StripeProblem:
            return _page("Checkout", "<p>There is no such checkout.</p>", status=404)
        if session["status"] != "open":
            return _page("Checkout", f"<p>This checkout is {escape(session['status'])}.</p>", back=session)
        complaint = ""
        if request.method == "POST":
            try:
                self._billing.complete(session, (await _form(request)).get("card", GOOD))
                self._ledger.save()
                url = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
                return RedirectResponse(url, 303)
            except StripeProblem as problem:
                complaint = f"<p class=complaint>{escape(problem.message)}</p>"
        items = "".join(
            f"<li>{escape(self._name(item['price']))}: {_money(item['price'])}</li>"
            for item in session["standin"]["items"]
        )
        trial = session["standin"]["subscription_data"].get("trial_period_days")
        free = f"<p>{trial} days are free; the first payment is after that.</p>" if trial else ""
        cards = "".join(
            f"<label><input type=radio name=card value='{escape(value)}'{' checked' if value == GOOD else ''}> "
            f"{escape(text)}</label>"
            for value, text in CARDS.items()
        )
        cancel = session["cancel_url"]
        leave = f"<p><a href='{escape(cancel)}'>Back without paying</a></p>" if cancel else ""
        body = f"{complaint}<ul>{items}</ul>{free}<form method=post>{cards}<button>Pay in pretend money</button></form>{leave}"
        return _page("Checkout", body, back=session)

    async def portal(self, request: Request) -> Response:
        """Show what a customer has, and let them cancel, go on, or let time pass."""
        try:
            visit = self._ledger.get("billing_portal.session", request.path_params["id"])
        except StripeProblem:
            return _page("Your subscriptions", "<p>There is no such visit.</p>", status=404)
        if request.method == "POST":
            self._act(await _form(request), visit["customer"])
            self._ledger.save()
            return RedirectResponse(request.url.path, 303)
        parts = [
            self._subscription(one) for one in self._ledger.all("subscription", customer=visit["customer"])
        ]
        back = visit["return_url"]
        leave = f"<p><a href='{escape(back)}'>Back</a></p>" if back else ""
        return _page("Your subscriptions", ("".join(parts) or "<p>You have none.</p>") + leave)

    def _act(self, form: dict[str, str], customer: str) -> None:
        try:
            subscription = self._ledger.get("subscription", form.get("subscription", ""))
            if subscription["customer"] != customer:
                return
            match form.get("do"):
                case "cancel":
                    self._billing.cancel_at_end(subscription, cancel=True)
                case "resume":
                    self._billing.cancel_at_end(subscription, cancel=False)
                case "stop":
                    self._billing.cancel(subscription)
                case "card":
                    self._billing.set_method(subscription, form.get("card", GOOD))
                case "month":
                    self._ledger.skipped += self._billing.month
                    self._billing.advance()
        except StripeProblem:
            return  # it has ended meanwhile: the page shows how it stands

    def _subscription(self, one: Object) -> str:
        item = one["items"]["data"][0]
        end = datetime.fromtimestamp(item["current_period_end"], UTC).strftime("%Y-%m-%d %H:%M")
        stays = "ends" if one["cancel_at_period_end"] else "is renewed"
        living = one["status"] not in ("canceled", "incomplete_expired")
        rows = [f"<h2>{escape(self._name(item['price']))}, {_money(item['price'])}</h2>"]
        rows.append(
            f"<p>It is <b>{escape(one['status'])}</b>{f', and {stays} at {end} UTC' if living else ''}.</p>"
        )
        if living:
            keep = one["cancel_at_period_end"]
            rows.append(
                _button(one, "resume" if keep else "cancel", "Go on" if keep else "Cancel at the end")
            )
            rows.append(_button(one, "stop", "Cancel now"))
            rows.append(_button(one, "month", "Let a month pass"))
            fails = one["default_payment_method"] == FAILS_LATER
            other, label = (GOOD, "Use a good card") if fails else (FAILS_LATER, "Use a card that fails")
            rows.append(_button(one, "card", label, other))
        return f"<section>{''.join(rows)}</section>"

    async def onboarding(self, request: Request) -> Response:
        """Let a creator tell all that is asked of them, with one click."""
        account = self._ledger.objects.get(request.path_params["id"], {})
        kept = account.get("standin", {})
        if kept.get("ticket") != request.path_params["ticket"]:
            return _page("Onboarding", "<p>This link was used, or never given out.</p>", status=404)
        if request.method == "POST":
            account.pop("standin")
            self._connect.onboard(account)
            self._ledger.save()
            return RedirectResponse(kept["return_url"], 303)
        body = "<form method=post><button>I have told everything</button></form>"
        return _page("Onboarding", body, back={"success_url": kept["return_url"]})

    def _name(self, price: Object) -> str:
        name: str = self._ledger.get("product", price["product"])["name"]
        return name


def _button(one: Object, act: str, label: str, card: str = "") -> str:
    return (
        f"<form method=post><input type=hidden name=subscription value='{escape(one['id'])}'>"
        f"<input type=hidden name=card value='{escape(card)}'>"
        f"<button name=do value={act}>{escape(label)}</button></form>"
    )


def _money(price: Object) -> str:
    every = f" a {price['recurring']['interval']}" if price["recurring"] else ""
    return f"{price['unit_amount'] / 100:.2f} {escape(price['currency'].upper())}{escape(every)}"


async def _form(request: Request) -> dict[str, str]:
    body = (await request.body())[:4096].decode(errors="replace")
    return {name: values[0] for name, values in parse_qs(body).items()}


def _page(title: str, body: str, *, status: int = 200, back: Object | None = None) -> Response:
    # A browser takes a redirect that follows a form for a part of it, so the page that one returns to is named, too.
    to = urlsplit(back["success_url"]) if back is not None else None
    targets = "'self'" + (f" {to.scheme}://{to.netloc}" if to is not None and to.netloc else "")
    policy = f"default-src 'none'; style-src 'self'; form-action {targets}; base-uri 'none'; frame-ancestors 'none'"
    html = (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)} (pretend)</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'><link rel=stylesheet href=/standin.css></head><body><main>"
        "<p class=note>This is a stand-in for Stripe: nothing here is real, and no money moves.</p>"
        f"<h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(html, status, headers, "text/html; charset=utf-8")
