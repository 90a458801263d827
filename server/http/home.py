"""The page at `/`: one comes in, sees the looprooms, is in one of them, and sees where one is signed in.

It is what a newcomer finds who types the address of the server, and a client of everything that this server offers in the
smallest form: HTML made once, a style and a script of our own, and the cookie that no script reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

STYLE: Final = Path(__file__).with_name("home.css")
SCRIPT: Final = Path(__file__).with_name("home.js")
LIVE: Final = Path(__file__).with_name("live.js")
"""What this page and that of payments have in common."""
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="16" cy="16" r="11" fill="none" '
    'stroke="#5f9468" stroke-width="6" stroke-linecap="round" stroke-dasharray="56 14"/></svg>'
)
"""A loop that is open at one place."""
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; media-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_TEMPLATE: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
).get_template("home.html")


def render(registration: str) -> str:
    """Return the page. Where `registration` is for who is invited, others may ask for a place."""
    return _TEMPLATE.render(registration=registration)
