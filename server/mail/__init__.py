"""The letters that people get. The words of each stand once, in a file of its own; a layout makes plain text or HTML of them.

Nothing in a letter was written by somebody else: whoever makes an account with a stranger's address must not be able to
send that stranger their own words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.gateways.mail import Mail

FOLDER: Final = Path(__file__).parent


def _environment(*, html: bool) -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        autoescape=html,  # noqa: S701 - plain text is not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )


_TEXT: Final = _environment(html=False)
_HTML: Final = _environment(html=True)
LETTERS: Final = frozenset(path.stem for path in FOLDER.glob("*.txt")) - {"layout"}


def compose(letter: str, to: str, *, home: str, link: str | None = None) -> Mail:
    """Write a letter to somebody: one of `LETTERS`. `home` is where the server is, `link` what is to be clicked."""
    values = {"home": home, "link": link}
    template = _TEXT.get_template(f"{letter}.txt")
    subject = "".join(template.blocks["subject"](template.new_context(values))).strip()
    return Mail(
        to=to,
        subject=subject,
        text=template.render(values, layout="layout.txt"),
        html=_HTML.get_template(f"{letter}.txt").render(values, layout="layout.html"),
        link=link,
    )
