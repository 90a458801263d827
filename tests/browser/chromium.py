"""A real Chromium, spoken to over its DevTools protocol: what one does with a mouse and a keyboard, and what one sees.

It is our own client of that protocol, over the websocket library that the server stands on: some dozens of commands need no
driver of a hundred megabytes. Whatever a page complains of (an error, a blocked load, a refused policy) is kept, and a journey
fails by it at its end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.waiting import until

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE: Final = 20.0
"""Seconds until what must be seen counts as not there."""
PHONE: Final = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
_QUIET: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1100,900",
)


def chromium() -> str | None:
    """Return the path of a browser: the one that `CHROMIUM` names, or one that is on the PATH. None: there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser that runs. Everything goes over one connection, to each page by its session."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self.pages: list[Page] = []
        """All that were opened, those that are closed, too."""

    async def hear(self) -> None:
        """Take what the browser says, for ever."""
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                answered = self._waiting.pop(message["id"])
                if "error" in message:
                    answered.set_exception(AssertionError(message["error"]["message"]))
                else:
                    answered.set_result(message["result"])
            elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page.hear(message["method"], message["params"])

    async def call(self, method: str, session: str | None = None, **fields: Any) -> Any:
        """Give a command, and return what comes of it."""
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": fields}
        await self._connection.send(json.dumps(message | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(PATIENCE):
            return await answered

    async def person(self) -> Person:
        """Begin with nothing kept: no cookie, no history."""
        context = await self.call("Target.createBrowserContext")
        return Person(self, context["browserContextId"])

    async def page(self, context: str) -> Page:
        """Open an empty page."""
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))[
            "targetId"
        ]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        self.pages.append(page)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await page.call(f"{domain}.enable")
        return page


class Person:
    """Somebody at a browser of their own."""

    def __init__(self, browser: Chromium, context: str) -> None:
        self._browser = browser
        self._context = context

    async def open(self, address: str) -> Page:
        """Open a page."""
        page = await self._browser.page(self._context)
        await page.go(address)
        return page

    async def cookies(self) -> dict[str, dict[str, Any]]:
        """Return what the browser keeps, by name."""
        found = await self._browser.call("Storage.getCookies", browserContextId=self._context)
        return {cookie["name"]: cookie for cookie in found["cookies"]}


class Page:
    """One tab. `complaints` are what its console says and what the browser blocked."""

    def __init__(self, browser: Chromium, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self.context = context
        self.complaints: list[str] = []
        self.refused: list[tuple[str, int]] = []
        """Answers of 400 and more: the path and the status."""
        self._loads = 0

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take what happens in the page."""
        match method:
            case "Page.domContentEventFired":
                self._loads += 1
            case "Page.frameNavigated" if params.get("type") == "BackForwardCacheRestore":
                self._loads += 1
            case "Runtime.exceptionThrown":
                self.complaints.append(msgspec.json.encode(params["exceptionDetails"]).decode()[:800])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                # An answer that says no is an answer; a journey says which it expects, by `refused`.
                if params["entry"]["source"] != "network":
                    self.complaints.append(params["entry"]["text"])
            case "Network.responseReceived" if params["response"]["status"] >= 400:
                self.refused.append((params["response"]["url"], params["response"]["status"]))
            case "Network.loadingFailed" if params.get("blockedReason"):
                self.complaints.append(f"blocked: {params['blockedReason']}")
            case "Audits.issueAdded" if "ContentSecurityPolicy" in params["issue"]["code"]:
                self.complaints.append(msgspec.json.encode(params["issue"]).decode())

    async def call(self, method: str, **fields: Any) -> Any:
        """Give a command to this page."""
        return await self._browser.call(method, self._session, **fields)

    async def go(self, address: str) -> None:
        """Type an address."""
        async with self._loading():
            await self.call("Page.navigate", url=address)

    async def back(self, by: int = -1) -> None:
        """Go back in the history, or on."""
        history = await self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] + by]
        async with self._loading():
            await self.call("Page.navigateToHistoryEntry", entryId=entry["id"])

    @asynccontextmanager
    async def _loading(self) -> AsyncIterator[None]:
        before = self._loads
        yield
        await until(lambda: self._loads > before, within=PATIENCE)

    async def value(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def sees(self, *texts: str, within: float = PATIENCE) -> None:
        """Wait until all this is shown: what is hidden does not count."""
        shown = ""
        with contextlib.suppress(AssertionError):
            for text in texts:

                async def there(text: str = text) -> bool:
                    nonlocal shown
                    try:
                        shown = await self.shown()
                    except AssertionError:  # between two documents there is none
                        return False
                    return text in shown

                await until(there, within=within)
            return
        raise AssertionError(f"{texts} is not all on {await self.value('location.href')}:\n{shown}")

    async def shown(self) -> str:
        """Return all text that is shown."""
        return str(await self.value("document.body?.innerText ?? ''"))

    async def click(self, what: str) -> None:
        """Click on the middle of the button or link that says `what`, as a mouse does; wait for it first."""
        script = f"""(() => {{
            const found = [...document.querySelectorAll("button, a, input[type=radio]")]
                .filter((one) => one.checkVisibility() && !one.disabled
                    && (one.innerText.trim() === {json.dumps(what)} || one.id === {json.dumps(what)}));
            if (!found.length) return null;
            found[0].scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = found[0].getBoundingClientRect();
            return [x + width / 2, y + height / 2];
        }})()"""
        place = await self._there(script, what)
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    async def fill(self, form: str, **fields: str) -> None:
        """Type into the fields of a form, by their names; wait for each first."""
        for name, text in fields.items():
            where = f"{form} input[name={name}]"
            script = f"""(() => {{
                const one = document.querySelector({json.dumps(where)});
                if (!one?.checkVisibility()) return null;
                one.focus();
                one.select();
                return document.activeElement === one || null;
            }})()"""
            await self._there(script, where)
            await self.call("Input.insertText", text=text)

    async def _there(self, script: str, what: str) -> Any:
        """Wait, with the page before one's eyes, until a script finds something; return that."""
        await self.call("Page.bringToFront")
        found: Any = None

        async def there() -> bool:
            nonlocal found
            with contextlib.suppress(AssertionError):  # between two documents there is nothing
                found = await self.value(script)
            return found is not None

        try:
            await until(there, within=PATIENCE)
        except AssertionError:
            raise AssertionError(f"there is no {what!r} on:\n{await self.shown()}") from None
        return found

    async def press_enter(self) -> None:
        """Press the enter key."""
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    async def on_a_phone(self) -> None:
        """Be as wide as a phone from now on."""
        await self.call("Emulation.setDeviceMetricsOverride", **PHONE)

    async def too_wide(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(await self.value("document.documentElement.scrollWidth - innerWidth"))

    async def picture(self, name: str) -> None:
        """Keep a picture of the page where `PICTURES` says, of the whole one if it is not endless; without it none is made."""
        folder = os.environ.get("PICTURES")
        if folder:
            await self.call("Page.bringToFront")
            whole = await self.value("document.documentElement.scrollHeight") < 10_000
            taken = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
            await asyncio.to_thread(_keep, Path(folder) / f"{name}.png", base64.b64decode(taken["data"]))


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@asynccontextmanager
async def browsing(command: str) -> AsyncIterator[Chromium]:
    """Run a browser with nothing kept until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="lr-browser-"))
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        command,
        *_QUIET,
        *rights,
        f"--user-data-dir={folder}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said = folder / "DevToolsActivePort"
        await until(lambda: process.returncode is not None or _whole(said), within=PATIENCE)
        assert process.returncode is None, f"{command} ended with {process.returncode}"
        port, path = said.read_text("utf-8").split()
        async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, ping_interval=None) as connection:
            browser = Chromium(connection)
            hearing = asyncio.create_task(browser.hear())
            try:
                yield browser
            finally:
                hearing.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a group of its own: its renderers, and nobody else
        await process.wait()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _whole(path: Path) -> bool:
    return path.exists() and len(path.read_text("utf-8").split()) == 2
