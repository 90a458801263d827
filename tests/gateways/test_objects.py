"""Files of media in a folder: received in pieces by one at a time, kept whole, and swept away when nobody comes back."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways import objects as gateway
from server.gateways.objects import FORGOTTEN_SECONDS, FolderObjects, open_objects


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FolderObjects]:
    """Give a folder that is not there yet."""
    folder = FolderObjects(tmp_path / "media")
    yield folder
    folder.aclose()


async def receive(objects: FolderObjects, upload: UUID, *pieces: bytes) -> None:
    """Receive some of an upload, and let go of it."""
    incoming = await objects.receive(upload)
    for piece in pieces:
        await incoming.write(piece)
    incoming.close()


def files(folder: Path) -> list[Path]:
    """Return all files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_received_and_kept(objects: FolderObjects, tmp_path: Path) -> None:
    """What came in pieces, over several connections, is kept as one file, with its sum; nothing else is left."""
    upload, name = uuid4(), uuid4()
    await receive(objects, upload, b"one ", b"two ")
    assert await objects.received(upload) == 8
    incoming = await objects.receive(upload)
    assert incoming.size == 8
    await incoming.write(b"three")
    assert await incoming.keep(name) == hashlib.sha256(b"one two three").digest()
    incoming.close()
    assert files(tmp_path) == [objects.place(name)]
    assert objects.place(name).stat().st_mode & 0o077 == 0
    stored = await objects.open(name)
    assert stored is not None
    assert (stored.size, await stored.read(4, 3), await stored.read(8, 100)) == (13, b"two", b"three")
    stored.close()


async def test_the_sum_is_that_of_what_is_kept(objects: FolderObjects) -> None:
    """Begun anew, or changed in its place, the sum is made of what is there."""
    incoming = await objects.receive(uuid4())
    await incoming.write(b"wrong")
    await incoming.restart()
    assert incoming.size == 0
    await incoming.write(b"right")
    await incoming.work(lambda path: path.write_bytes(b"other"))
    incoming.changed()
    assert await incoming.keep(uuid4()) == hashlib.sha256(b"other").digest()
    incoming.close()


async def test_one_at_a_time(objects: FolderObjects) -> None:
    """An upload that is being received is received by nobody else, on whatever node; afterwards it can be taken up."""
    upload = uuid4()
    incoming = await objects.receive(upload)
    with pytest.raises(Refused) as refused:
        await objects.receive(upload)
    assert refused.value.code is ErrorCode.BUSY
    incoming.close()
    (await objects.receive(upload)).close()


async def test_abandoned_uploads_are_swept_away(objects: FolderObjects, tmp_path: Path) -> None:
    """What nobody receives and nobody has written to for a while goes, also what a killed process has left; nothing else does."""
    old, fresh, held, kept = (uuid4() for _ in range(4))
    for upload in (old, fresh):
        await receive(objects, upload, b"some")
    holding = await objects.receive(held)
    keeping = await objects.receive(uuid4())
    await keeping.keep(kept)
    keeping.close()
    for path in (tmp_path / "media" / "incoming").iterdir():
        if path.name != str(fresh):
            os.utime(path, (0, time.time() - FORGOTTEN_SECONDS))
    os.utime(objects.place(kept), (0, 0))
    objects.sweep()
    assert {path.name for path in files(tmp_path)} == {str(fresh), str(held), str(kept)}
    holding.close()


RECEIVING = """
import asyncio, sys, uuid
from pathlib import Path
from server.gateways.objects import FolderObjects


async def receive():
    incoming = await FolderObjects(Path(sys.argv[1])).receive(uuid.UUID(sys.argv[2]))
    await incoming.write(b"some")
    print("received", flush=True)
    await asyncio.sleep(60)


asyncio.run(receive())
"""


async def test_what_a_killed_process_was_receiving(objects: FolderObjects, tmp_path: Path) -> None:
    """As long as it lives nobody else receives it or sweeps it away; killed, it is in nobody's way, and goes like all others."""
    upload = uuid4()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECEIVING, tmp_path / "media", str(upload), stdout=PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"received\n"
        path = tmp_path / "media" / "incoming" / str(upload)
        os.utime(path, (0, 0))
        objects.sweep()
        assert files(tmp_path) == [path]
        with pytest.raises(Refused):
            await objects.receive(upload)
    finally:
        process.kill()
        await process.wait()
    incoming = await objects.receive(upload)
    assert incoming.size == 4
    incoming.close()
    os.utime(path, (0, 0))
    objects.sweep()
    assert files(tmp_path) == []


async def test_sweeping_goes_on_for_ever(objects: FolderObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins at once, for what was left before; and a folder that can't be read ends it no more than one that is not there."""
    turns: list[int] = []
    enough = asyncio.Event()

    def sweep() -> None:
        turns.append(1)
        if len(turns) == 3:
            enough.set()
        raise OSError(errno.EIO, "it is broken")

    monkeypatch.setattr(gateway, "SWEEP_SECONDS", 0.001)
    objects.sweep()
    monkeypatch.setattr(objects, "sweep", sweep)
    running = asyncio.create_task(objects.run())
    await asyncio.wait_for(enough.wait(), 10)
    running.cancel()


async def test_no_room(objects: FolderObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full it is said so, and what was received before can be gone on with."""
    upload = uuid4()
    incoming = await objects.receive(upload)
    await incoming.write(b"some")
    real = os.pwrite

    def half(descriptor: int, data: memoryview, at: int) -> int:
        if len(data) > 5:
            return real(descriptor, data[:5], at)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(Refused) as refused:
            await incoming.write(b"much more")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert incoming.size == await objects.received(upload) == 4
    await incoming.write(b" more")
    assert await incoming.keep(uuid4()) == hashlib.sha256(b"some more").digest()
    incoming.close()


async def test_deleted(objects: FolderObjects) -> None:
    """What is deleted is not there any more, and what was never there is no matter."""
    incoming = await objects.receive(uuid4())
    name = uuid4()
    await incoming.keep(name)
    incoming.close()
    assert await objects.names(3600) == []
    os.utime(objects.place(name), (0, 0))
    assert await objects.names(3600) == [name]
    await objects.delete([name, uuid4()])
    assert await objects.open(name) is None
    assert await objects.names(0) == []


async def test_where(tmp_path: Path) -> None:
    """The folder of the settings, else one in the data folder; none of it is made before it is needed."""
    for folder, expected in (("", tmp_path / "data" / "media"), (str(tmp_path / "far"), tmp_path / "far")):
        opened = open_objects(folder, str(tmp_path / "data"))
        assert isinstance(opened, FolderObjects)
        assert opened.place(UUID(int=1)).is_relative_to(expected)
        assert await opened.received(uuid4()) == 0
        opened.aclose()
    assert files(tmp_path) == []
