"""A TCP proxy on loopback that a test can cut, stall and slow down: a bad network between a client and a node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Forwards bytes to one address. `delay` (seconds) is how much later each piece arrives, in both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing, self._answering = asyncio.Event(), asyncio.Event()
        self.flow()
        self._writers: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.delay = 0.0
        self.accepted = 0
        """Connections that were made so far."""
        self.carried = 0
        """Bytes that were let through so far, either way."""

    @property
    def address(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"{self.host}:{self.port}"

    async def listen(self) -> None:
        """Take connections: at first on a free port, after `refuse` on the same one again."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, host: str, port: int) -> None:
        """Forward new connections to another address; those that stand stay where they are."""
        self._target = (host, port)

    def refuse(self) -> None:
        """Take no more connections; those that stand go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Break all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Let nothing through any more, without a word to either side."""
        self._flowing.clear()

    def hold_answers(self) -> None:
        """Let through what is sent to the address, and nothing that comes back."""
        self._answering.clear()

    def flow(self) -> None:
        """Let everything through again, what was held back first."""
        self._flowing.set()
        self._answering.set()

    async def aclose(self) -> None:
        """Break everything and wait until nothing runs."""
        self.refuse()
        self.flow()
        self.delay = 0.0
        self.cut()
        if self._running:
            await asyncio.wait(self._running)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if (task := asyncio.current_task()) is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, there_writer}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._pump(reader, there_writer), self._pump(there_reader, writer, self._answering)
            )
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                if gate is not None:
                    await gate.wait()
                if writer.transport.is_closing():
                    return
                writer.write(data)
                self.carried += len(data)
                await writer.drain()
            await self._flowing.wait()
            if not writer.transport.is_closing():
                writer.write_eof()


@contextlib.asynccontextmanager
async def proxied(host: str, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy to an address; in the end every connection through it is broken."""
    proxy = Proxy(host, port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.aclose()
