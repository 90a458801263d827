"""Files of sound and moving pictures are read to their last byte: what tells about people is gone, what hides in them is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from server.containers import TYPES, Container, Unreadable, cleared
from server.containers.ogg import checksum
from server.containers.source import MOST_PARTS, Source
from tests.recordings import FRAMES, GPS, PAGE, box, element, mp3, mp4, ogg, wav, webm

GOOD: dict[str, Callable[[], bytes]] = {
    "video/mp4": mp4,
    "audio/mp4": lambda: mp4(handler=b"soun"),
    "video/webm": webm,
    "audio/webm": lambda: webm(video=False, live=True),
    "audio/mpeg": mp3,
    "audio/ogg": ogg,
    "audio/wav": wav,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "file"


def clear(file: Path, data: bytes, media_type: str) -> tuple[Container, bytes]:
    """Clear a file of these bytes; return what was found, and the bytes that are left."""
    file.write_bytes(data)
    return cleared(file, media_type), file.read_bytes()


def test_every_type_has_a_good_one() -> None:
    """What is taken is tested."""
    assert GOOD.keys() == TYPES.keys()


@pytest.mark.parametrize("media_type", GOOD)
def test_what_tells_about_people_is_gone(file: Path, media_type: str) -> None:
    """Places are nowhere in the file any more; it is as long as it was, and what is played is where it was."""
    data = GOOD[media_type]()
    assert GPS in data
    found, left = clear(file, data, media_type)
    assert GPS not in left
    assert len(left) == len(data)
    if media_type not in ("audio/mpeg", "audio/ogg"):
        assert left.index(FRAMES) == data.index(FRAMES)
    assert found.changes
    assert clear(file, left, media_type)[1] == left


@pytest.mark.parametrize("front", [True, False], ids=["index-first", "index-last"])
def test_mp4_is_still_one(file: Path, front: bool) -> None:
    """The index has its tracks of pictures, and no other; its dates are gone, and its length is known, wherever it stands."""
    data = mp4(front=front)
    found, left = clear(file, data, "video/mp4")
    assert found.duration_ms == 20000
    assert left.count(b"trak") == 1
    assert (3_900_000_000).to_bytes(4, "big") not in left
    index = data.index(b"moov") - 4
    if front:
        assert found.opening > index
        assert found.closing is None
    else:
        assert found.closing == index


def test_ogg_is_still_one(file: Path) -> None:
    """Pages that were changed have right checksums, and the packet of comments says that there are none."""
    for vorbis in (False, True):
        found, left = clear(file, ogg(vorbis=vorbis, comment=60000), "audio/ogg")
        assert found.duration_ms == 20000
        start = 0
        while start < len(left):
            pieces = left[start + 27 : start + 27 + left[start + 26]]
            end = start + 27 + len(pieces) + sum(pieces)
            page = bytearray(left[start:end])
            page[22:26] = bytes(4)
            assert checksum(page).to_bytes(4, "little") == left[start + 22 : start + 26]
            start = end
        at = left.index(b"self") + 4
        assert left[at : at + 5] == (bytes(4) + b"\1" if vorbis else bytes(5))


def test_durations(file: Path) -> None:
    """How long a file plays is read from it, or not known."""
    assert clear(file, wav(), "audio/wav")[0].duration_ms == len(FRAMES)
    assert clear(file, webm(), "video/webm")[0].duration_ms == 20000
    assert clear(file, webm(seconds=None, live=True), "video/webm")[0].duration_ms is None
    assert clear(file, mp3(), "audio/mpeg")[0].duration_ms == pytest.approx(100 * 26.12, abs=2)


REFUSED = {
    "a page": ("video/mp4", PAGE * 10),
    "nothing": ("audio/mpeg", b""),
    "cut": ("video/mp4", mp4()[:-20]),
    "a page behind MP4": ("video/mp4", mp4(last=PAGE)),
    "an archive behind MP4": ("video/mp4", mp4(last=b"PK\3\4" + PAGE)),
    "an unknown box": ("video/mp4", mp4(last=box(b"html", PAGE))),
    "two indexes": ("video/mp4", mp4(last=box(b"moov"))),
    "no index": ("video/mp4", box(b"ftyp", b"isom", bytes(4)) + box(b"mdat", FRAMES)),
    "a quicktime": ("video/mp4", mp4().replace(b"isom", b"qt  ", 1)),
    "sound as pictures": ("video/mp4", mp4(handler=b"soun")),
    "pictures as sound": ("audio/mp4", mp4()),
    "a journey in fragments": ("video/mp4", mp4(last=box(b"moof"))),
    "a box without end": ("video/mp4", mp4(last=b"\0\0\0\1mdat" + b"\xff" * 8)),
    "mp4 as webm": ("video/webm", mp4()),
    "a page behind webm": ("video/webm", webm(last=PAGE)),
    "an unknown element": ("video/webm", webm(inside=element(0x1A2B3C4D, PAGE))),
    "matroska": ("video/webm", webm().replace(b"webm", b"matr")),
    "cut webm": ("video/webm", webm()[:-5]),
    "a page behind wav": ("audio/wav", wav(last=PAGE)),
    "wav without sound": ("audio/wav", wav(sound=b"")),
    "a page before mp3": ("audio/mpeg", mp3(front=PAGE)),
    "mostly a page": ("audio/mpeg", mp3(last=PAGE * 2000)),
    "two frames": ("audio/mpeg", mp3(frames=2)),
    "a page behind ogg": ("audio/ogg", ogg(last=PAGE)),
    "another stream": ("audio/ogg", ogg(last=ogg())),
    "ogg of something": ("audio/ogg", ogg().replace(b"OpusHead", b"SomeHead")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_something_else_is_refused(file: Path, what: str) -> None:
    """Another file than was said, one that ends early, and one with something in front, behind or in between are refused."""
    media_type, data = REFUSED[what]
    with pytest.raises(Unreadable):
        clear(file, data, media_type)


def test_what_follows_sound_becomes_zeros(file: Path) -> None:
    """An archive behind an MP3 is no archive any more."""
    _, left = clear(file, mp3(last=b"PK\5\6" + PAGE), "audio/mpeg")
    assert PAGE not in left
    assert left.endswith(bytes(128 + 4 + len(PAGE)))


def test_a_file_of_nothing_but_parts(file: Path) -> None:
    """Work is bounded: a file of more parts than any has that is meant well is refused."""
    data = box(b"ftyp", b"isom", bytes(4)) + box(b"free") * (MOST_PARTS + 1)
    with pytest.raises(Unreadable):
        clear(file, data, "video/mp4")


@pytest.mark.parametrize("media_type", GOOD)
def test_broken_in_any_way(file: Path, media_type: str) -> None:
    """Whatever bytes are changed, a file is read or refused, and nothing else happens."""
    draw = random.Random(media_type)
    good = GOOD[media_type]()
    played = good.find(FRAMES) if FRAMES in good else len(good)
    structure = [at for at in range(len(good)) if not played <= at < played + len(FRAMES)]
    for _ in range(150):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.choice(structure)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        del data[draw.choice((len(data), draw.randrange(len(data)))) :]
        try:
            _, left = clear(file, bytes(data), media_type)
        except Unreadable:
            continue
        assert len(left) == len(data)


def test_only_what_is_there_is_read(file: Path) -> None:
    """A place before or behind the file is none."""
    file.write_bytes(b"12345678")
    with file.open("rb") as opened:
        source = Source(opened.fileno())
        assert source.at(2, 3) == b"345"
        for start, length in ((-1, 2), (7, 2), (9, 1)):
            with pytest.raises(Unreadable):
                source.at(start, length)
