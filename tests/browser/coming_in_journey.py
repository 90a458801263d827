"""How somebody comes in, is known, and goes: what they see of it, and what their browser keeps."""

from __future__ import annotations

import itertools

from tests.browser.chromium import Chromium, Page, Person
from tests.browser.conftest import House
from tests.http.letters import NEW_PASSWORD, sign_in
from tests.http.provider import Someone
from tests.http.serving import PASSWORD
from tests.postbox import link_in

COOKIE = "__Host-looprooms-refresh"
WELCOME = "However you feel, somebody is there."
_NUMBERS = itertools.count(1)


async def registered(person: Person, house: House) -> tuple[Page, str]:
    """Make an account on the page; return it and the address."""
    email = f"guest{next(_NUMBERS)}@example.org"
    page = await person.open(f"{house.home}/")
    await page.sees(WELCOME, "New here?")
    await page.fill("#register", name="Guest", email=email, password=PASSWORD)
    await page.click("Create my account")
    await page.sees("Looprooms", "Morning Calm", email)
    return page, email


async def test_a_newcomer(person: Person, house: House) -> None:
    """One registers, proves the address by the link, signs out, and nothing of it is seen any more, by no way back."""
    page = await person.open(f"{house.home}/")
    await page.sees(WELCOME)
    await page.picture("door")
    page, email = await registered(person, house)
    await page.sees("Confirm your e-mail address")
    await page.picture("lobby")
    kept = (await person.cookies())[COOKIE]
    assert (kept["httpOnly"], kept["secure"], kept["sameSite"], kept["path"]) == (True, True, "Strict", "/")
    assert COOKIE not in str(await page.value("document.cookie"))
    assert await page.value("JSON.stringify({...localStorage, ...sessionStorage})") == "{}"

    mailed = await person.open(link_in(await house.box.next(email)))
    await mailed.picture("verify")
    await mailed.click("Confirm the address")
    await mailed.sees("The address is confirmed.")
    await mailed.picture("verified")
    assert "#" not in str(await mailed.value("location.href"))
    await page.go(f"{house.home}/")
    await page.sees(email)
    assert "Confirm your e-mail address" not in await page.shown()

    await page.click("Premium")
    await page.sees("Choose a plan")
    await page.click("Looprooms")
    await page.sees(email)
    await page.click("Sign out")
    await page.sees(WELCOME)
    assert COOKIE not in await person.cookies()
    await page.back()
    await page.sees("You have no account yet?")
    assert "Your subscription" not in await page.shown()
    await page.back()
    await page.sees(WELCOME)
    assert email not in await page.shown()
    await page.back(+1)
    await page.sees("You have no account yet?")
    assert "Your subscription" not in await page.shown()

    await page.go(f"{house.home}/")
    await page.fill("#sign-in", email=email, password="not this one at all")
    await page.click("Sign in")
    await page.sees("Check the e-mail address and the password.")
    await page.fill("#sign-in", email=email, password=PASSWORD)
    await page.press_enter()
    await page.sees(email)


async def test_a_forgotten_password(person: Person, house: House) -> None:
    """The link of the mail sets a new one, everybody is signed out where they look, and the old one is worth nothing."""
    page, email = await registered(person, house)
    other = await person.open(f"{house.home}/account/forgot")
    await other.picture("forgot")
    await other.fill("form", email=email)
    await other.click("Send the link")
    await other.sees("Look into your mail")
    reset = await person.open(link_in(await house.box.next(email, 2)))
    await reset.picture("reset")
    await reset.fill("form", password="password1")
    await reset.click("Set the password")
    await reset.sees("Choose a password of 8 to 1,024 characters that is not a common one.")
    await reset.picture("reset-weak")
    await reset.fill("form", password=NEW_PASSWORD)
    await reset.click("Set the password")
    await reset.sees("You have a new password.")
    await page.sees("You have been signed out.", WELCOME)
    assert (await sign_in(house.site, email)).status_code == 401
    await reset.click("To the looprooms")
    await reset.sees(WELCOME)
    await reset.fill("#sign-in", email=email, password=NEW_PASSWORD)
    await reset.click("Sign in")
    await reset.sees(email)


async def test_two_devices(browser: Chromium, person: Person, house: House) -> None:
    """Each is listed on the other; one is signed out from there, and sees it at once."""
    page, email = await registered(person, house)
    tablet = await browser.person()
    there = await tablet.open(f"{house.home}/")
    await there.fill("#sign-in", email=email, password=PASSWORD)
    await there.click("Sign in")
    await there.sees("this one", "Sign it out")
    await page.go(f"{house.home}/")
    await page.sees("Chrome on Linux", "Sign out everywhere else")
    await page.picture("two-devices")
    await page.click("Sign it out")
    await there.sees("You have been signed out.", WELCOME)
    assert email not in await there.shown()
    await page.sees("this one")
    assert "Sign it out" not in await page.shown()
    assert there.complaints == []


async def test_google(person: Person, house: House) -> None:
    """The button leads there and back, signed in; whoever was signed in here before is not any more."""
    before, email = await registered(person, house)
    token = (await person.cookies())[COOKIE]["value"]
    house.google.someone = Someone("greta-there", "greta@elsewhere.example", name="Greta")
    page = await person.open(f"{house.home}/auth/google/start?then=/")
    await page.sees("Greta", "Looprooms")
    assert str(await page.value("location.href")) == f"{house.home}/"
    await before.sees("You have been signed out.")
    assert email not in await before.shown()
    assert (await house.site.post("/auth/refresh", refresh_token=token)).status_code == 401
    await page.sees("You sign in with Google.")
    await page.fill("#add-email", email="greta@home.example", password=PASSWORD)
    await page.click("Send me the link")
    await page.sees("Look into your mail")
    await page.picture("google-lobby")
    mailed = await person.open(link_in(await house.box.next("greta@home.example")))
    await mailed.click("Use this address")
    await mailed.sees("The address is yours now.")
    assert (await sign_in(house.site, "greta@home.example")).status_code == 200
    await page.click("Sign out")
    await page.sees(WELCOME)
    await page.click("Continue with Google")
    await page.sees("Greta", "Looprooms")
    house.google.cancels = True
    await page.click("Sign out")
    await page.click("Continue with Google")
    await page.sees("You have not signed in.", WELCOME)
    house.google.cancels = False


async def test_a_looproom(browser: Chromium, person: Person, house: House) -> None:
    """Two people see each other come, talk and cheer."""
    page, _ = await registered(person, house)
    await page.click("Enter")
    await page.sees("You are the first one here.")
    friend = await browser.person()
    other, _ = await registered(friend, house)
    await other.click("Enter")
    await other.sees("2 people are here.")
    await page.sees("2 people are here.")
    await page.fill("#say", text="<b>Good</b> morning")
    await page.press_enter()
    await other.sees("<b>Good</b> morning")
    await other.click("heart")
    await page.sees("heart 1")
    await page.picture("looproom")
    await other.click("← All looprooms")
    await page.sees("You are the first one here.")
    assert other.complaints == []


async def test_on_a_phone(person: Person, house: House) -> None:
    """Nothing is wider than the screen."""
    page, _ = await registered(person, house)
    await page.on_a_phone()
    assert await page.too_wide() <= 0
    await page.picture("phone-lobby")
    await page.click("Enter")
    await page.sees("here.")
    assert await page.too_wide() <= 0
    await page.picture("phone-looproom")
    stranger = await person.open("about:blank")
    await stranger.on_a_phone()
    for path in ("/pay", "/docs", "/account/forgot", "/account/reset", "/account/invitation"):
        await stranger.go(f"{house.home}{path}")
        assert await stranger.too_wide() <= 0, path
        await stranger.picture(f"phone{path.replace('/', '-')}")
    await page.click("Sign out")
    await page.sees(WELCOME)
    assert await page.too_wide() <= 0
    await page.picture("phone-door")
