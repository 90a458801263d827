"""How somebody shows themselves, and looks at what a looproom plays: a picture is chosen and seen, a recording is heard."""

from __future__ import annotations

import io
import wave

from tests.browser.chromium import Person
from tests.browser.coming_in_journey import registered
from tests.browser.conftest import House
from tests.gallery import announced, jpeg, sent
from tests.http.serving import PASSWORD
from tests.leaving import Member
from tests.waiting import until

CHOOSE = """
(async () => {
  const canvas = document.createElement("canvas");
  canvas.width = 300; canvas.height = 200;
  canvas.getContext("2d").fillRect(0, 0, 300, 200);
  const blob = await new Promise((made) => canvas.toBlob(made, "image/png"));
  const chosen = new DataTransfer();
  chosen.items.add(new File([blob], "me.png", { type: "image/png" }));
  document.querySelector("#face input").files = chosen.files;
  return true;
})()
"""


def recording() -> bytes:
    """Make three seconds of silence."""
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * 8000 * 3))
    return made.getvalue()


async def host(house: House) -> Member:
    """Sign in as the one who hosts the demo looprooms."""
    answer = await house.site.client.post(
        "/auth/login", json={"email": "maya@demo.looprooms.example", "password": PASSWORD}
    )
    return Member(house.site, dict(answer.json()) | {"email": "maya@demo.looprooms.example"})


async def test_a_picture_of_oneself(person: Person, house: House) -> None:
    """One chooses it, sees it as others do, and takes it away again."""
    page, _ = await registered(person, house)
    assert await page.value(CHOOSE)
    await page.click("Show it to others")
    await page.sees("Take it away")
    await until(lambda: page.value("document.getElementById('avatar').naturalWidth === 256"))
    await page.picture("face")
    await page.click("Take it away")
    await until(lambda: page.value("document.getElementById('avatar').hidden"))


async def test_what_a_looproom_plays(person: Person, house: House) -> None:
    """It is loaded by the page's own player, with a cookie that no script sees; the host gives another one, and it changes."""
    maya = await host(house)
    room: str = await house.site.node.stores.pool.fetchval(
        "select id::text from rooms where slug = 'morning-calm'"
    )
    urls = []
    for kind, data, media_type in (
        ("THUMBNAIL", jpeg(), "image/jpeg"),
        ("CONTENT", recording(), "audio/wav"),
    ):
        upload = (await announced(maya, data, media_type, kind, room)).json()["id"]
        urls.append((await sent(maya, upload, data)).json()["media"]["url"])
    page, _ = await registered(person, house)
    await until(
        lambda: page.value(f"document.querySelector('img[src=\"{urls[0]}\"]')?.naturalWidth === 1280")
    )
    await page.picture("doors")
    await page.value(
        "document.querySelector('img[src^=\"/media/\"]').parentElement.querySelector('button').click()"
    )
    await until(lambda: page.value("document.getElementById('player').duration === 3"))
    await page.picture("player")
    assert "media" not in str(await page.value("document.cookie"))
    assert (await person.cookies())["__Host-looprooms-media"]["httpOnly"]
    upload = (await announced(maya, recording(), "audio/wav", "CONTENT", room)).json()["id"]
    url = (await sent(maya, upload, recording())).json()["media"]["url"]
    await until(lambda: page.value(f"document.getElementById('player').getAttribute('src') === '{url}'"))
    await until(lambda: page.value("document.getElementById('player').readyState > 0"))
    await page.click("← All looprooms")
    await until(lambda: page.value("document.getElementById('player').hidden"))
