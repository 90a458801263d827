"""What text of people is kept as: one normal form, without what deceives the eye or breaks a store.

Kept: letters of every script, emoji with their joiners, line breaks. Dropped: control characters, invisible formatting
(direction overrides among it), code points that mean nothing, piles of combining marks.
"""

from __future__ import annotations

import re
import unicodedata

_KEPT_FORMAT = {"\u200c", "\u200d"}  # the joiners that Persian, Indic scripts and emoji families need
_MOST_MARKS = 4  # combining marks on one letter; Vietnamese needs 2, Hebrew and Tibetan up to 4
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalised(text: str) -> str:
    """Return `text` in its normal form (NFC); empty when nothing readable is left."""
    if not (text.isascii() and text.isprintable()):
        text = _cleaned(unicodedata.normalize("NFC", text))
    text = _LINES.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip().strip("\u200c\u200d").strip()


def _cleaned(text: str) -> str:
    kept = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if category[0] == "M":
            marks += 1
            if marks > _MOST_MARKS:
                continue
        else:
            marks = 0
            if category[0] == "C" and character not in _KEPT_FORMAT:
                if character in "\n\t\r\x0b\x0c":
                    kept.append("\n" if character == "\n" else " ")
                continue
        kept.append(character)
    return "".join(kept)
