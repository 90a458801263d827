"""Pictures are made anew, in a process of their own: nothing but what one sees goes from the old one into the new."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from protocol.refusals import ErrorCode, Refused
from server.gateways import picture_process, pictures
from server.gateways.pictures import TYPES, Pictures

SIZE = (64, 48)
GPS = b"48.8577N"
PAGE = b"<html><script>alert(1)</script></html>"


def picture(
    media_type: str = "image/jpeg",
    size: tuple[int, int] = (200, 100),
    *,
    orientation: int = 1,
    mode: str = "RGB",
) -> bytes:
    """Make a picture, red on its left and blue on its right, that says where it was taken."""
    image = Image.new("RGB", size, "blue")
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = GPS.decode()
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 27.7)
    made = io.BytesIO()
    kind = picture_process.FORMATS[media_type]
    more = {"comment": GPS} if kind in ("JPEG", "GIF") else {"xmp": GPS}
    image.convert(mode).save(made, kind, exif=exif, **more)
    return made.getvalue()


def put(path: Path, data: bytes) -> None:
    """Write a file."""
    path.write_bytes(data)


def left_in(path: Path) -> bytes:
    """Read a file."""
    return path.read_bytes()


async def remade(path: Path, data: bytes, media_type: str = "image/jpeg") -> Image.Image:
    """Have a picture made anew, and open it."""
    put(path, data)
    await Pictures().remake(path, media_type, SIZE)
    left = left_in(path)
    assert GPS not in left
    assert PAGE not in left
    return Image.open(io.BytesIO(left))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "picture"


def test_both_processes_mean_the_same() -> None:
    """What is run is not imported by the server, so what they have in common is compared here; and no decoder gets in."""
    assert Path(picture_process.__file__) == pictures.PROCESS
    assert picture_process.REFUSED == pictures.REFUSED
    assert tuple(picture_process.FORMATS) == TYPES
    script = "import sys, server.node; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_every_type_becomes_one(path: Path) -> None:
    """Whatever type it was, it is WebP of one size, and says nothing of where it was taken; a page behind it is gone."""
    for media_type in TYPES:
        data = picture(media_type)
        assert GPS in data
        new = await remade(path, data + PAGE, media_type)
        assert (new.format, new.size, new.mode) == ("WEBP", SIZE, "RGB")
        assert not new.getexif()
        assert new.info.keys() <= {"loop", "background", "timestamp", "duration"}


async def test_it_stands_upright(path: Path) -> None:
    """It is turned as the picture says: what was on its left is above."""
    new = (await remade(path, picture(orientation=6))).convert("RGB")
    red, blue = new.getpixel((32, 4)), new.getpixel((32, 44))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 200
    assert red[2] < 50
    assert blue[2] > 200
    assert blue[0] < 50


def test_every_turn_undoes_its_orientation() -> None:
    """The turns are those of the library's own."""
    for orientation, turn in picture_process.TURNS.items():
        image = Image.open(io.BytesIO(picture("image/png", (8, 6), orientation=orientation)))
        assert ImageOps.exif_transpose(image).tobytes() == image.transpose(turn).tobytes()


async def test_what_can_be_seen_through_stays_so(path: Path) -> None:
    """A transparent picture gets no background."""
    image = Image.new("RGBA", (100, 100), (0, 255, 0, 0))
    made = io.BytesIO()
    image.save(made, "PNG")
    new = await remade(path, made.getvalue(), "image/png")
    assert new.mode == "RGBA"
    assert new.getchannel("A").getextrema() == (0, 0)


def bomb(width: int, height: int) -> bytes:
    """Make a PNG of some kilobytes that becomes as many pixels as it says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    line = bytes(1 + width // 8)
    body = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


REFUSED = {
    "a page": ("image/png", PAGE),
    "nothing": ("image/png", b""),
    "another type": ("image/png", picture("image/jpeg")),
    "cut": ("image/jpeg", picture()[:300]),
    "a bomb": ("image/png", bomb(12000, 12000)),
    "a bomb of the library's own kind": ("image/png", bomb(20000, 20000)),
    "a large one that is not there": (
        "image/png",
        bomb(16, 16)[:16] + struct.pack(">II", 60000, 60000) + bomb(16, 16)[24:],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_no_picture_is_refused(path: Path, what: str) -> None:
    """Something else than was said, a broken one, and one of more pixels than anyone needs are refused."""
    media_type, data = REFUSED[what]
    with pytest.raises(Refused) as refused:
        await remade(path, data, media_type)
    assert refused.value.code is ErrorCode.MEDIA_REFUSED


def test_a_bomb_is_refused_before_it_goes_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels are counted and never made: that is why it takes no time."""
    put(path, bomb(8000, 8000))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="too many pixels"):
        picture_process.remake(str(path), "image/png", SIZE)


async def test_it_may_do_little(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has none of the server's environment, and bounds on memory, time and what it writes."""
    spy = tmp_path / "spy.py"
    spy.write_text(
        f"import os, sys, resource as r\nsys.path.insert(0, {str(Path(picture_process.__file__).parent)!r})\n"
        "import picture_process\npicture_process.bound()\n"
        "bounds = [r.getrlimit(one)[0] for one in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_CORE)]\n"
        "open(sys.argv[1], 'w').write(repr((bounds, sorted(os.environ))))\n"
    )
    monkeypatch.setenv("LOOPROOMS_SECRET", "secret")
    monkeypatch.setattr(pictures, "PROCESS", spy)
    await Pictures().remake(path, "image/png", SIZE)
    bounds, environment = eval(left_in(path))  # it is ours
    assert bounds == [
        picture_process.MOST_MEMORY,
        picture_process.MOST_SECONDS,
        picture_process.MOST_WRITTEN,
        0,
    ]
    assert set(environment) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}


@pytest.mark.parametrize(
    ("script", "logged"),
    [("import time; time.sleep(60)", False), ("import os; os.kill(os.getpid(), 11)", True)],
    ids=["hangs", "crashes"],
)
async def test_a_decoder_that_fails(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    logged: bool,
) -> None:
    """One that hangs is ended, one that crashes takes nobody with it; the picture is refused, and the next one is made."""
    bad = tmp_path / "bad.py"
    bad.write_text(script)
    making = Pictures()
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "PROCESS", bad)
        patched.setattr(pictures, "SECONDS", 0.3)
        with pytest.raises(Refused) as refused:
            await making.remake(path, "image/png", SIZE)
    assert refused.value.code is ErrorCode.MEDIA_REFUSED
    assert bool(caplog.records) is logged
    put(path, picture())
    await making.remake(path, "image/jpeg", SIZE)


async def test_few_at_a_time(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are made at a time, some wait for a while, and more are told to come back."""
    slow = tmp_path / "slow.py"
    slow.write_text("import sys, time; time.sleep(60)")
    monkeypatch.setattr(pictures, "PROCESS", slow)
    monkeypatch.setattr(pictures, "WAITING", 3)
    monkeypatch.setattr(pictures, "PATIENCE", 0.2)
    making = Pictures()
    tasks = [asyncio.create_task(making.remake(path, "image/png", SIZE)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await making.remake(path, "image/png", SIZE)
    assert refused.value.code is ErrorCode.BUSY
    done, waiting = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [one.exception().code for one in done] == [ErrorCode.BUSY]  # type: ignore[union-attr] # of a refusal
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
