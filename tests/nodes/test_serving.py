"""`looprooms serve` as a newcomer and an operator use it, with real processes and stores."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.chat import ChatLine
from protocol.client import connect
from protocol.client.account import sign_in
from protocol.rooms import JoinRoom, ListRooms
from storage.demo import MEMBER
from storage.embedded import running
from tests.commands import PATIENCE, Served, a_folder, demo_password, looprooms, served
from tests.nodes.cluster import free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.nodes, pytest.mark.patient]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder to start in."""
    with a_folder() as one:
        yield one


async def say(server: Served, text: str) -> None:
    """Sign in as the demo member and say something in the live looproom."""
    url = f"http://127.0.0.1:{server.port}"
    account = await sign_in(url, MEMBER.email, demo_password(server))
    async with connect(url, token=account) as client:
        await client.call(JoinRoom("morning-calm"))
        await client.send_chat("morning-calm", text)
        async for event in client:
            if isinstance(event, ChatLine):
                assert event.line.text == text
                return


async def said_before(server: Served) -> list[str]:
    """Return what a newcomer finds said in the live looproom."""
    url = f"http://127.0.0.1:{server.port}"
    account = await sign_in(url, MEMBER.email, demo_password(server))
    async with connect(url, token=account) as client:
        joined = await client.call(JoinRoom("morning-calm"))
        return [line.text for line in joined.recent]


async def test_a_newcomer_finds_everything(folder: Path) -> None:
    """In an empty folder: ready, five looprooms in five categories, one premium, one live; the demo member can sign in and speak."""
    with served(folder) as server:
        assert server.get("/health/ready")[0] == 200
        url = f"http://127.0.0.1:{server.port}"
        async with connect(url, token=await sign_in(url, MEMBER.email, demo_password(server))) as client:
            rooms = (await client.call(ListRooms())).rooms
        assert len(rooms) == len({room.category for room in rooms}) == 5
        assert [sum(room.premium for room in rooms), sum(room.live for room in rooms)] == [1, 1]
        await say(server, "hello")
        assert server.stop() == 0
        assert "traceback" not in server.said.lower()


async def test_a_killed_server_leaves_nothing_behind_and_loses_nothing(folder: Path) -> None:
    """`kill -9` with and without workers: its Postgres, Valkey and workers end, and the next start finds what was said."""
    for turn, workers in enumerate(("1", "2")):
        with served(folder, "--workers", workers) as server:
            await say(server, f"turn {turn}")
            family = server.family()
            assert len(family) >= 2  # Postgres and Valkey, and the workers where there are some
            server.process.kill()
            server.process.wait(PATIENCE)
            wait_for(lambda family=family: not any(map(running, family)), PATIENCE)  # type: ignore[misc] # bound now
    with served(folder) as server:
        assert await said_before(server) == ["turn 0", "turn 1"]


def test_ctrl_c_stops_all_of_it(folder: Path) -> None:
    """SIGINT: exit 0, and none of its processes is left."""
    with served(folder, "--workers", "2") as server:
        family = server.family()
        assert server.stop(signal.SIGINT) == 0
        assert not any(map(running, family))


def test_a_worker_that_dies_is_replaced(folder: Path) -> None:
    """A killed worker is started again on the same port, and the other one is not touched."""
    with served(folder, "--workers", "2") as server:
        workers = server.workers()
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)

        def replaced() -> bool:
            now = server.workers()
            return len(now) == 2 and workers[0] not in now and workers[1] in now

        wait_for(replaced, PATIENCE)
        for _ in range(20):
            assert server.get("/health/live")[0] == 200
        assert server.stop() == 0


def test_a_second_server_on_the_folder_is_told_so(folder: Path) -> None:
    """One data folder has one server: the second says who has it, in one sentence, and exits with 2."""
    with served(folder) as server:
        second = looprooms(folder, "serve", "--port", str(free_port()))
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == (
            f"The data folder {folder / '.looprooms'} is in use by another server, process {server.process.pid}; "
            "stop that one, or name another folder with --data-dir.\n"
        )
        beside = looprooms(folder, "payments", "reconcile")
        assert (beside.returncode, beside.stdout) == (
            0,
            "0 events were missed, 0 subscriptions looked at, 0 people stand anew.\n",
        )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_said(folder: Path, workers: str) -> None:
    """The port is taken first: one sentence, exit 2, and no store was started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = looprooms(folder, "serve", "--port", str(port), "--workers", workers)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Port {port} of 127.0.0.1 can't be used: Address already in use.\n"
    assert not (folder / ".looprooms").exists()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"LOOPROOMS_PORTS": "1"}, "LOOPROOMS_PORTS is not a setting; the nearest is LOOPROOMS_PORT."),
        ({"LOOPROOMS_PORT": "many"}, "LOOPROOMS_PORT is 'many', but must be a whole number."),
        (
            {"LOOPROOMS_HOST": "192.0.2.1"},
            "Port 8000 of 192.0.2.1 can't be used: Cannot assign requested address.",
        ),
        (
            {"LOOPROOMS_DATA_DIR": "/proc/nowhere"},
            "The data folder /proc/nowhere can't be written: No such file or directory.",
        ),
        (
            {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"},
            "LOOPROOMS_SIGNING_KEYS must be set when DATABASE_URL is; `looprooms settings --new-key` prints a key.",
        ),
        (
            {
                "DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
                "REDIS_URL": "redis://127.0.0.1:1",
                "LOOPROOMS_SIGNING_KEYS": "a:" + "A" * 43,
                "LOOPROOMS_SEALING_KEYS": "a:" + "A" * 43,
            },
            "Postgres at DATABASE_URL does not answer: [Errno 111] Connection refused.",
        ),
    ],
    ids=["unknown", "wrong type", "foreign address", "folder", "no key", "no Postgres"],
)
def test_a_broken_setting_is_one_sentence(folder: Path, environment: dict[str, str], sentence: str) -> None:
    """Whatever the operator did wrong: one sentence on stderr, exit 2, no traceback."""
    refused = looprooms(folder, "serve", **environment)
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", sentence + "\n")


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    """A file in the place of the folder: one sentence, exit 2."""
    (folder / ".looprooms").write_text("")
    refused = looprooms(folder, "serve")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"The data folder {folder / '.looprooms'} can't be written: File exists.\n"


async def test_migrate_and_seed_without_a_server(folder: Path) -> None:
    """`migrate` applies everything once; `seed` twice is once; with a password one can sign in as the demo people."""
    first = looprooms(folder, "migrate", "--data-dir", ".looprooms")
    assert first.returncode == 0
    assert first.stdout.splitlines()[0] == "applied 0001_people.sql"
    assert looprooms(folder, "migrate").stdout == "The schema is current.\n"
    for _ in range(2):
        seeded = looprooms(folder, "seed", "--demo-password", "violets under a lamp")
        assert (seeded.returncode, seeded.stderr) == (0, "")
    with served(folder) as server:
        url = f"http://127.0.0.1:{server.port}"
        account = await sign_in(url, MEMBER.email, demo_password(server))
        async with connect(url, token=account) as client:
            assert len((await client.call(ListRooms())).rooms) == 5


def test_a_role_is_given_while_the_server_runs(folder: Path) -> None:
    """`looprooms role`, and others, reach the stores that the running server has started, and those of one that is stopped."""
    with served(folder):
        done = looprooms(folder, "role", MEMBER.email, "MODERATOR")
        assert (done.returncode, done.stdout) == (0, "They are MODERATOR now.\n"), done.stderr
        assert looprooms(folder, "migrate").stdout == "The schema is current.\n"
        assert looprooms(folder, "seed").returncode == 0
    done = looprooms(folder, "role", MEMBER.email, "MODERATOR")
    assert (done.returncode, done.stdout) == (0, "They were MODERATOR already.\n"), done.stderr


def test_a_sealing_key_is_rotated_where_it_is_kept(folder: Path) -> None:
    """While the server is stopped a new key goes first; the server starts with it, and everyone can sign in."""
    with served(folder):
        pass
    done = looprooms(folder, "keys", "reseal", "--new-key")
    assert done.returncode == 0, done.stderr
    keys = next(folder.rglob("sealing.keys")).read_text().split()
    assert len(keys) == 2
    assert f"under {keys[0].partition(':')[0]} (newest)" in done.stdout
    assert f"Nothing is sealed under {keys[1].partition(':')[0]} any more" in done.stdout
    next(folder.rglob("sealing.keys")).write_text(keys[0] + "\n")
    with served(folder) as server:
        assert server.get("/health/ready")[0] == 200
