"""`looprooms keys` as an operator uses it: on a running server of two nodes, and where the keys are in the environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jwt
import msgspec
import pytest

from protocol.client.account import sign_in
from server.process.keys import made_at, new_key
from storage.demo import MEMBER
from tests.commands import a_folder, demo_password, looprooms, served

pytestmark = [pytest.mark.nodes, pytest.mark.patient]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give an empty folder to start in."""
    with a_folder() as one:
        yield one


async def test_a_running_server_takes_the_new_key(folder: Path) -> None:
    """After the command both nodes sign with the new key and verify with both; a second rotation at once is told to wait."""
    with served(folder, "--workers", "2", LOOPROOMS_LIMITS_FACTOR="1000") as server:
        url = f"http://127.0.0.1:{server.port}"
        password = demo_password(server)
        before = await (await sign_in(url, MEMBER.email, password))()
        done = looprooms(folder, "keys", "rotate", "--pause", "5")
        assert done.returncode == 0, done.stderr
        old, new = jwt.get_unverified_header(before)["kid"], done.stdout.split()[3]
        assert done.stdout.splitlines()[-1] == f"the key {new} signs from now on, {old} still verifies"

        def key_ids() -> list[str]:
            status, body = server.get("/.well-known/jwks.json")
            assert status == 200
            return [key["kid"] for key in msgspec.json.decode(body)["keys"]]

        # A connection goes to either node, by chance: ask until sixty in a row have taken it.
        row = 0
        while row < 60:
            row = row + 1 if key_ids() == [new, old] else 0
        for _ in range(6):
            after = await (await sign_in(url, MEMBER.email, password))()
            assert jwt.get_unverified_header(after)["kid"] == new
            assert server.get("/me", authorization=f"Bearer {before}")[0] == 200
            assert server.get("/me", authorization=f"Bearer {after}")[0] == 200
        again = looprooms(folder, "keys", "rotate", "--pause", "5")
        assert again.returncode == 2
        assert "try again in" in again.stderr


def test_keys_of_the_environment(folder: Path) -> None:
    """Standard output has the next value and nothing else, three times until only the new key is left."""
    first = new_key()
    values = [first]
    for _ in range(3):
        done = looprooms(folder, "keys", "rotate", LOOPROOMS_SIGNING_KEYS=values[-1])
        assert done.returncode == 0, done.stderr
        assert "LOOPROOMS_SIGNING_KEYS" in done.stderr
        values.append(done.stdout.strip())
    added, promoted, retired = (value.split(",") for value in values[1:])
    assert [len(added), len(promoted), len(retired)] == [2, 2, 1]
    assert added[0] == promoted[1] == first
    assert added[1] == promoted[0] == retired[0]
    assert made_at(retired[0]) > made_at(first)


def test_no_keys_yet(folder: Path) -> None:
    """Before the first start there is nothing to rotate, which is one sentence."""
    for command in ("rotate", "retire"):
        done = looprooms(folder, "keys", command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "signing.keys" in done.stderr
        assert "Traceback" not in done.stderr
