"""Where the bytes of media are: in files of one folder, under names that this server makes.

`Objects` is all that anyone else knows of it, so that a store of objects elsewhere could take the folder's place. Nodes share the
folder as they share the stores: several on one machine do by their settings, several machines need a shared file system that
knows `flock` (NFS 4 does).

- A name is the id of an upload or of a file, never anything that a client wrote. A file belongs to one thing alone, although two
  may have the same bytes: so what is deleted is gone, without asking who else has it, and nobody learns by uploading something
  whether somebody else has it, too.
- What is received grows in `incoming`, locked by whoever receives it; the lock goes with its process. What is in `incoming`, and
  neither locked nor written to for `FORGOTTEN_SECONDS`, is deleted, whoever left it there and whatever happened to them.
- What is finished is flushed to the disk, and only then gets its name, in one step.

All of it happens in a few threads of its own: a slow disk holds up neither the loop nor those who sign in.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar
from uuid import UUID

from protocol.refusals import ErrorCode, Refused

_LOGGER = logging.getLogger("looprooms.objects")

FORGOTTEN_SECONDS: Final = 30.0
"""After so long without a byte, an upload that was broken off can't be taken up again."""
SWEEP_SECONDS: Final = 5.0
THREADS: Final = 4
_CHUNK: Final = 1048576
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

T = TypeVar("T")


class Incoming(Protocol):
    """A file that is being received, by this process alone."""

    @property
    def size(self) -> int:
        """How many bytes are there."""

    @property
    def path(self) -> Path:
        """Where they are, for whoever works on them before they are kept."""

    async def restart(self) -> None:
        """Forget what was received. Raises `Refused` (unavailable)."""

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises `Refused` (unavailable) when there is no room for it."""

    async def work(self, do: Callable[[Path], T]) -> T:
        """Have something done to the file, in a thread. Raises `Refused` (unavailable)."""

    def changed(self) -> None:
        """Note that what was received has been changed in its place."""

    async def keep(self, name: UUID) -> bytes:
        """Keep the file for good under `name`; return its SHA-256. Raises `Refused` (unavailable)."""

    async def discard(self) -> None:
        """Delete the file."""

    def close(self) -> None:
        """Let go of the file; it may be taken up again for a while, unless it was kept or discarded."""


class Stored(Protocol):
    """A file that is kept, open to be read."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    async def read(self, start: int, length: int) -> bytes:
        """Return at most `length` bytes from `start` on."""

    def close(self) -> None:
        """Let go of it."""


class Objects(Protocol):
    """The bytes of media."""

    async def receive(self, upload: UUID) -> Incoming:
        """Begin to receive an upload, or take it up again. Raises `Refused`: busy while somebody else receives it, unavailable."""

    async def received(self, upload: UUID) -> int:
        """Return how many bytes of an upload are there."""

    async def open(self, name: UUID) -> Stored | None:
        """Open a file to read it. None: it is not there."""

    async def delete(self, names: Sequence[UUID]) -> None:
        """Delete files; those that are not there are no matter."""

    async def names(self, older: float) -> list[UUID]:
        """Return all files that were kept more than `older` seconds ago."""

    async def run(self) -> None:
        """Sweep away what was received and abandoned, for ever."""

    def aclose(self) -> None:
        """Stop."""


class FolderObjects:
    """Files in a folder. It is made when the first file comes."""

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "kept"
        self._incoming = folder / "incoming"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")

    async def receive(self, upload: UUID) -> Incoming:
        """See `Objects`."""
        return await self.work(self._receive, upload)

    async def received(self, upload: UUID) -> int:
        """See `Objects`."""
        return await self.work(_size_of, self._incoming / str(upload))

    async def open(self, name: UUID) -> Stored | None:
        """See `Objects`."""
        return await self.work(self._open, name)

    async def delete(self, names: Sequence[UUID]) -> None:
        """See `Objects`."""
        await self.work(self._delete, names)

    async def names(self, older: float) -> list[UUID]:
        """See `Objects`."""
        return await self.work(self._names, older)

    async def run(self) -> None:
        """See `Objects`."""
        while True:
            try:
                await self.work(self.sweep)
            except Refused:
                _LOGGER.warning("abandoned uploads could not be swept away: the folder can't be read")
            await asyncio.sleep(SWEEP_SECONDS)

    def aclose(self) -> None:
        """See `Objects`."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def work(self, do: Callable[..., T], *arguments: object) -> T:
        """Do something in a thread. What the system refuses is raised as `Refused` (unavailable), and logged."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, do, *arguments)
        except OSError as error:
            what = "there is no room for media" if error.errno in _FULL else "media can't be read or written"
            _LOGGER.error("%s: %s", what, error.strerror)  # noqa: TRY400 - the traceback says nothing more
            raise Refused(ErrorCode.UNAVAILABLE, retry_after=5.0) from None

    def place(self, name: UUID) -> Path:
        """Return where a file is kept: in one of 256 folders, so that none gets too long."""
        return self._kept / name.hex[:2] / str(name)

    def sweep(self) -> None:
        """Delete what was abandoned."""
        if not self._incoming.is_dir():
            return
        for path in list(self._incoming.iterdir()):
            if _age(path) >= FORGOTTEN_SECONDS and (descriptor := _locked(path, os.O_RDONLY)) is not None:
                if _age(path) >= FORGOTTEN_SECONDS:
                    path.unlink(missing_ok=True)
                os.close(descriptor)

    def _receive(self, upload: UUID) -> Incoming:
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._incoming / str(upload)
        descriptor = _locked(path, os.O_RDWR | os.O_CREAT)
        if descriptor is None:
            raise Refused(ErrorCode.BUSY, "It is being received on another connection.", retry_after=1.0)
        return _Receiving(self, path, descriptor)

    def _open(self, name: UUID) -> Stored | None:
        try:
            return _Reading(self, os.open(self.place(name), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None

    def _delete(self, names: Sequence[UUID]) -> None:
        for name in names:
            self.place(name).unlink(missing_ok=True)

    def _names(self, older: float) -> list[UUID]:
        return [UUID(path.name) for path in self._kept.glob("??/*") if _age(path) > older]


class _Receiving:
    """See `Incoming`. Its descriptor holds the lock."""

    def __init__(self, folder: FolderObjects, path: Path, descriptor: int) -> None:
        self._folder = folder
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._digest = hashlib.sha256()
        self._digested = 0

    async def restart(self) -> None:
        """See `Incoming`."""
        await self._folder.work(os.ftruncate, self._descriptor, 0)
        self.size = self._digested = 0
        self._digest = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        """See `Incoming`."""
        await self._folder.work(self._append, data)

    async def work(self, do: Callable[[Path], T]) -> T:
        """See `Incoming`."""
        return await self._folder.work(do, self.path)

    def changed(self) -> None:
        """See `Incoming`."""
        self.size = os.fstat(self._descriptor).st_size
        self._digested = 0
        self._digest = hashlib.sha256()

    async def keep(self, name: UUID) -> bytes:
        """See `Incoming`."""
        return await self._folder.work(self._keep, name)

    async def discard(self) -> None:
        """See `Incoming`."""
        await self._folder.work(self.path.unlink, True)

    def close(self) -> None:
        """See `Incoming`."""
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._descriptor, view, self.size + len(data) - len(view)) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        if self._digested == self.size:
            self._digest.update(data)
            self._digested += len(data)
        self.size += len(data)

    def _keep(self, name: UUID) -> bytes:
        """The sum was made while the bytes came; of what came before a break, or was changed since, it is made now."""
        while chunk := os.pread(self._descriptor, _CHUNK, self._digested):
            self._digest.update(chunk)
            self._digested += len(chunk)
        os.fsync(self._descriptor)
        place = self._folder.place(name)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.rename(place)
        for folder in (place.parent, place.parent.parent):
            _flush(folder)
        return self._digest.digest()


class _Reading:
    """See `Stored`."""

    def __init__(self, folder: FolderObjects, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    async def read(self, start: int, length: int) -> bytes:
        """See `Stored`."""
        return await self._folder.work(os.pread, self._descriptor, length, start)

    def close(self) -> None:
        """See `Stored`."""
        os.close(self._descriptor)


def open_objects(folder: str, data_dir: str) -> Objects:
    """Make what keeps media: in `folder`, else in the data folder."""
    return FolderObjects(Path(folder) if folder else Path(data_dir) / "media")


def _locked(path: Path, flags: int) -> int | None:
    """Open a file and lock it. None: somebody else has it locked, or it is not there."""
    while True:
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # it was deleted between the two


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
