"""How somebody pays in pretend money, and what opens while they and others look at it."""

from __future__ import annotations

from protocol.client import Occurrence, connect
from protocol.rooms import JoinRoom, RoomUnlocked
from tests.browser.chromium import Page, Person
from tests.browser.coming_in_journey import registered
from tests.browser.conftest import House
from tests.http.letters import sign_in
from tests.http.serving import PASSWORD
from tests.waiting import until


async def _at_pay(person: Person, house: House) -> tuple[Page, str]:
    _, email = await registered(person, house)
    page = await person.open(f"{house.home}/pay")
    await page.sees("pretend", "You have none yet.", "Deep Sleep Journey")
    return page, email


async def test_premium(person: Person, house: House) -> None:
    """The room opens in the tab that only looks on, in a client elsewhere, and on the page that one comes back to."""
    looking, email = await _at_pay(person, house)
    await looking.sees("a preview, 120 seconds left")
    await looking.picture("pay")
    token = (await sign_in(house.site, email)).json()["access_token"]
    heard: list[Occurrence] = []
    async with connect(house.home, token=token) as client:
        joined = await client.call(JoinRoom("deep-sleep"))
        assert joined.preview_ends_in is not None
        page = await person.open(f"{house.home}/pay")
        await page.click("Subscribe")
        await page.sees("This is a stand-in for Stripe")
        await page.picture("checkout")
        await page.click("Pay in pretend money")
        await page.sees("Your subscription", "premium monthly", "open to you", "Thank you.")
        await page.picture("paid")
        await looking.sees("premium monthly", "open to you")
        async for occurrence in client:
            heard.append(occurrence)
            if isinstance(occurrence, RoomUnlocked):
                break
    await page.click("Manage it")
    await page.sees("Your subscriptions", "Cancel at the end")
    await page.picture("portal")
    await page.click("Cancel at the end")
    await page.sees("Go on")
    await page.click("Back")
    await page.sees("it ends on")


async def test_a_card_that_is_declined(person: Person, house: House) -> None:
    """It is said, and the next one pays; whoever goes back without paying has nothing."""
    page, _ = await _at_pay(person, house)
    await page.click("Subscribe")
    await page.sees("Back without paying")
    await page.value("document.querySelector('input[value*=eclined]').click()")
    await page.click("Pay in pretend money")
    await page.sees("Your card was declined.")
    await page.picture("declined")
    await page.click("Back without paying")
    await page.sees("You have none yet.", "Choose a plan")


async def test_a_pass(person: Person, house: House) -> None:
    """A pass for one session opens the exclusive room."""
    page, _ = await _at_pay(person, house)
    await page.sees("Evenings with Maya", "$4.00 for a session")
    await page.click("$4.00 for a session")
    await page.sees("This is a stand-in for Stripe", "4.00 USD")
    await page.click("Pay in pretend money")

    async def open_to_me() -> bool:
        lines = (await page.shown()).splitlines()
        return any("Evenings with Maya" in one for one in lines) and "open to you" in lines

    await page.sees("Evenings with Maya", "Thank you.")
    await until(open_to_me)
    assert "in a moment" not in await page.shown()
    await page.picture("pass")
    assert "You have none yet." in await page.shown()


async def test_signing_in_where_one_pays(person: Person, house: House) -> None:
    """Whoever is not signed in signs in there, and out again."""
    _, email = await _at_pay(person, house)
    page = await person.open(f"{house.home}/pay")
    await page.click("Sign out")
    await page.sees("Sign in")
    assert "Your subscription" not in await page.shown()
    await page.fill("#sign-in", email=email, password=PASSWORD)
    await page.click("Sign in")
    await page.sees("You have none yet.", "Choose a plan")


async def test_the_documents(person: Person, house: House) -> None:
    """They are there, and are filtered by what one types."""
    page = await person.open(f"{house.home}/docs")
    await page.sees("POST /auth/login", "chat.send")
    await page.picture("docs")
    await page.value("document.getElementById('filter').focus()")
    await page.call("Input.insertText", text="chat.")
    await until(lambda: _filtered(page))


async def _filtered(page: Page) -> bool:
    shown = str(await page.value("document.querySelector('nav').innerText"))
    return "chat.send" in shown and "/auth/login" not in shown
