"""The Autobahn|Testsuite against our protocol class: hundreds of cases of RFC 6455 and 7692. An optional run, by `make autobahn`.

The suite needs Python 2.7, which few machines have: where its command `wstest` is not there, this says so and is content. With
a Python 2.7 and its pip, `pip install autobahntestsuite` brings it; it is found on the PATH, or named by `WSTEST` (a command
with its arguments, as `WSTEST="python2.7 /opt/suite/bin/wstest"`). Debian had a Python 2.7 up to bullseye.

Last run on 2026-11-25 with version 25.10.1: of 391 cases none failed but 7.1.5, and four were not strict (6.4.*, text that is no
UTF-8 is found when the message is whole). It takes five minutes.

What is tested is the server's own `HttpConnection` and `Connection` under uvicorn, with a hub that echoes. Limits are lifted,
because the suite sends messages of 16 MiB in 65,536 fragments; that they hold is what `tests/nodes/test_wire.py` is for.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import uvicorn
import uvloop
from websockets.frames import Opcode

from protocol.contract import JSON_SUBPROTOCOL
from protocol.frames import deflated_frame, server_frame
from server.http.connection import HttpConnection
from server.hub import connection as protocol_class
from server.hub.connection import Connection
from server.hub.hub import Hub, Limits
from server.hub.members import Dialect

GROUPS: Final = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12")
INTENDED: Final = frozenset({"7.1.5"})
"""A close frame between fragments ends the connection: upstream means it so (websockets, `Protocol.receive_data`)."""
MOST_NON_STRICT: Final = 11
_MUCH: Final = 10**9


def wstest() -> list[str]:
    """Return the command of the suite; empty when there is none."""
    if given := os.environ.get("WSTEST"):
        return shlex.split(given)
    found = shutil.which("wstest")
    return [] if found is None else [found]


def _echo(connection: Connection, opcode: Opcode, data: bytes) -> None:
    deflated = connection.dialect in (Dialect.JSON_DEFLATED, Dialect.MSGPACK_DEFLATED)
    connection._must((deflated_frame if deflated else server_frame)(opcode, data))


async def _test(command: list[str], cases: list[str], folder: Path) -> dict[str, str]:
    hub = Hub(
        Limits(
            heartbeat=_MUCH,
            heartbeat_timeout=_MUCH,
            hello_timeout=_MUCH,
            slow_close=_MUCH,
            message_bytes=_MUCH,
            outbox_bytes=_MUCH,
            commands_rate=_MUCH,
            commands_burst=_MUCH,
            rooms=1,
            connections=_MUCH,
            origins=None,
            hosts=frozenset({"127.0.0.1"}),
        ),
        asyncio.get_running_loop(),
    )
    hub.receive = _echo
    config = uvicorn.Config(
        cast("Any", None),
        http=HttpConnection,
        ws=cast("Any", hub.connect),
        lifespan="off",
        log_config=None,
        proxy_headers=False,
    )
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    spec = {
        "outdir": str(folder),
        "servers": [
            {
                "agent": "looprooms",
                "url": f"ws://127.0.0.1:{listener.getsockname()[1]}/ws",
                "protocols": [JSON_SUBPROTOCOL],
            }
        ],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
    with (folder / "wstest.log").open("wb") as log:
        suite = await asyncio.create_subprocess_exec(
            *command,
            "-m",
            "fuzzingclient",
            "-s",
            str(folder / "spec.json"),
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        status = await suite.wait()
    server.should_exit = True
    await serving
    report = folder / "index.json"
    if status or not report.exists():
        sys.exit(f"The suite ended with {status}: {(folder / 'wstest.log').read_text('utf-8')[-2000:]}")
    found: dict[str, dict[str, str]] = msgspec.json.decode(report.read_bytes())["looprooms"]
    return {case: result["behavior"] for case, result in found.items()}


def judged(behaviours: dict[str, str]) -> list[str]:
    """Return what is wrong with the results, in sentences; nothing when all is well."""
    failed = sorted(
        case for case, behaviour in behaviours.items() if behaviour == "FAILED" and case not in INTENDED
    )
    loose = sorted(case for case, behaviour in behaviours.items() if behaviour == "NON-STRICT")
    wrong = [f"{case} failed" for case in failed]
    if len(loose) > MOST_NON_STRICT:
        wrong.append(f"{len(loose)} cases are not strict: {', '.join(loose)}")
    return wrong


def main() -> None:
    """Run the groups of the command line, or all, and say what came of each."""
    command = wstest()
    if not command:
        print("Skipped: the Autobahn|Testsuite (wstest) is not on this machine. See tests/autobahn.py.")
        return
    groups = sys.argv[1:] or GROUPS
    protocol_class.MOST_FRAGMENTS = protocol_class.HELLO_BYTES = _MUCH  # type: ignore[misc] # see above
    protocol_class.CONTROL_BURST = float(_MUCH)  # type: ignore[misc] # see above
    folder = Path(tempfile.mkdtemp(prefix="autobahn-"))
    behaviours = uvloop.run(_test(command, [f"{group}.*" for group in groups], folder))
    for group in groups:
        counts = Counter(
            behaviour for case, behaviour in behaviours.items() if re.match(rf"{re.escape(group)}\.", case)
        )
        print(
            f"{group:>3}.*  "
            + "  ".join(f"{count} {behaviour}" for behaviour, count in sorted(counts.items()))
        )
    print(f"The report: {folder / 'index.html'}")
    if wrong := judged(behaviours):
        sys.exit("\n".join(wrong))
    print(f"{len(behaviours)} cases as they should be.")


if __name__ == "__main__":
    main()
