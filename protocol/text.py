"""What text of people is kept as: one normal form, without what deceives the eye or breaks a store.

Kept: letters of every script, emoji with their joiners (those too that are newer than this Python), line breaks. Dropped:
control characters, invisible formatting (direction overrides among it), code points that mean nothing, piles of combining
marks. A text in which nothing can be seen is empty.
"""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji families need them, between two characters
_MOST_MARKS = 4  # combining marks on one letter; Vietnamese needs 2, Hebrew and Tibetan up to 4
_FILLERS = "\u3164\uffa0"  # letters that look like a space, and are used as one
_BLANK = "\u2800\u115f\u1160"  # of use beside others; nothing by themselves
_NEWEST_EMOJI = range(
    0x1F000, 0x1FB00
)  # set aside for pictographs; emoji are added here with each Unicode version
_SUBDIVISION_FLAGS = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)")
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")


def normalised(text: str) -> str:
    """Return `text` in its normal form (NFC); empty when nothing readable is left."""
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFC", _cleaned(unicodedata.normalize("NFC", text)))
    text = _LINES.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip(" \n" + _JOINERS)


def _cleaned(text: str) -> str:
    kept: list[str] = []
    marks = 0
    readable = False
    for place, part in enumerate(_SUBDIVISION_FLAGS.split(text)):
        if place % 2:  # the flag of Scotland, say: a black flag and invisible letters
            kept.append(part)
            readable = True
            continue
        for character in part:
            category = unicodedata.category(character)
            if category[0] == "M":
                marks += 1
                if marks > _MOST_MARKS:
                    continue
            elif character in _JOINERS:
                if not kept or kept[-1] in _JOINERS or kept[-1].isspace():
                    continue
            elif character.isspace() or character in _FILLERS:
                character = "\n" if character == "\n" else " "
                marks = 0
            elif category[0] == "C" and not (category == "Cn" and ord(character) in _NEWEST_EMOJI):
                continue
            else:
                marks = 0
                readable = readable or character not in _BLANK
            kept.append(character)
    return "".join(kept) if readable else ""
