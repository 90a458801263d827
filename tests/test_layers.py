"""The house stands as it was drawn: imports go one way, each command has one handler, each module of the machine its test."""

from __future__ import annotations

import subprocess

import pytest

from protocol.contract import COMMANDS
from protocol.session import Hello
from server import node
from server.hub.dispatch import HANDLERS
from tests.layers import (
    ELSEWHERE,
    LENT,
    MOST_LINES,
    ROOT,
    Import,
    handled,
    handlers_of,
    ill_named,
    imports,
    read_sources,
    tangled,
    too_long,
    untested,
    wrong_directions,
)

SOURCES = read_sources()


def files() -> frozenset[str]:
    """Return the files of the project, new ones too, but nothing that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(path for path in listed.stdout.splitlines() if (ROOT / path).exists())


# The house.


def test_layers() -> None:
    """`server` imports `storage` imports `protocol`, and nothing goes back."""
    assert wrong_directions(SOURCES) == []


def test_inside_the_layers() -> None:
    """Domains import the machine, never the reverse; and nobody another domain's handlers."""
    assert tangled(SOURCES) == []


def test_what_is_lent_is_there() -> None:
    """A domain lends what it has, and what somebody borrows."""
    borrowed = {(one.module, one.name) for source in SOURCES.values() for one in imports(source)}
    for module, names in LENT.items():
        assert {name for name in names if (module, name) not in borrowed} == set()


def test_each_command_has_one_handler() -> None:
    """Each command of the contract is handled by one function; only hello is greeted, by the node itself."""
    modules = handled(SOURCES)
    expected = {command.__name__ for command in COMMANDS} - {Hello.__name__}
    assert modules.keys() == expected
    assert {command: found for command, found in modules.items() if len(found) != 1} == {}


def test_a_node_has_all_handlers() -> None:
    """Importing what a node is made of registers them all: none is forgotten."""
    assert node.__name__ == "server.node"
    assert HANDLERS.keys() == {*COMMANDS} - {Hello}


def test_each_module_of_the_machine_has_its_test() -> None:
    """Who changes a module finds its test by its name."""
    assert untested(files()) == []


def test_names() -> None:
    """A file is named after what is in it."""
    assert ill_named(files()) == []


def test_lengths() -> None:
    """A file is as long as one reads at once."""
    lengths = {
        path: len((ROOT / path).read_text("utf-8").splitlines()) for path in files() if path.endswith(".py")
    }
    assert too_long(lengths) == []


def test_exceptions_are_needed() -> None:
    """Nothing is excepted that does not exist, or that has a test of its name by now."""
    there = files()
    for module, test in ELSEWHERE.items():
        assert module in there
        assert test in there
        assert untested(frozenset({module})) == [module]


# The inspector finds what is planted.


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("protocol/chat.py", "import storage.chat", "protocol.chat imports storage.chat"),
        ("protocol/chat.py", "from server import node", "protocol.chat imports server"),
        (
            "storage/chat.py",
            "def f():\n    from server.hub.hub import Hub",
            "storage.chat imports server.hub.hub",
        ),
        ("server/chat.py", "from tests.stores import pool", "server.chat imports tests.stores"),
        ("server/chat.py", "import bench.fanout", "server.chat imports bench.fanout"),
        ("bench/fanout.py", "from storage.chat import append", "bench.fanout imports storage.chat"),
        ("bench/commits.py", "from server.node import Node", "bench.commits imports server.node"),
        (
            "storage/chat.py",
            "if TYPE_CHECKING:\n    from server.node import Node",
            "storage.chat imports server.node",
        ),
        (
            "protocol/codec.py",
            "from protocol.client import connect",
            "protocol.codec imports protocol.client: the contract knows no client",
        ),
        (
            "protocol/codec.py",
            "from protocol import client",
            "protocol.codec imports protocol: the contract knows no client",
        ),
    ],
)
def test_a_wrong_direction_is_found(path: str, source: str, complaint: str) -> None:
    """An import that goes the wrong way is found, also in a function or for types alone."""
    assert wrong_directions({path: source}) == [complaint]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("server/chat.py", "from storage.chat import append\nfrom protocol import chat\nimport asyncio"),
        ("bench/commits.py", "from storage.chat import append"),
        ("protocol/client/link.py", "from protocol.client import calls"),
        ("storage/__init__.py", "from protocol.envelope import Epoch"),
    ],
)
def test_the_right_direction(path: str, source: str) -> None:
    """What may be imported is not complained of."""
    assert wrong_directions({path: source}) == []


CHAT = "@handles(SendChat)\nasync def send(call, command): ...\n\n\nclass ChatWriter: ...\n"
ROOMS = "@handles(JoinRoom, alone=True)\nasync def join(call, command): ...\n\n\ndef admit(): ...\n"


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "server/hub/hub.py",
            "from server.chat import ChatWriter",
            "server.hub.hub imports server.chat.ChatWriter: the machine knows no domain",
        ),
        (
            "server/hub/hub.py",
            "from server.node import Node",
            "server.hub.hub imports server.node.Node: the machine knows no domain",
        ),
        (
            "storage/postgres/pool.py",
            "from storage import chat",
            "storage.postgres.pool imports storage.chat: the machine knows no domain",
        ),
        (
            "storage/redis/pool.py",
            "import storage.presence",
            "storage.redis.pool imports storage.presence: the machine knows no domain",
        ),
        (
            "server/gateways/mail.py",
            "from server.node import Node",
            "server.gateways.mail imports server.node.Node: the machine knows no domain",
        ),
        (
            "server/node.py",
            "from server.chat import send",
            "server.node imports server.chat.send, which is a handler",
        ),
        (
            "server/rooms.py",
            f"from server.chat import ChatWriter\n{ROOMS}",
            "server.rooms imports server.chat.ChatWriter of another domain",
        ),
    ],
)
def test_a_tangle_is_found(path: str, source: str, complaint: str) -> None:
    """A machine that knows a domain, and a domain that reaches into another, are found."""
    assert tangled({"server/chat.py": CHAT, "server/rooms.py": ROOMS, path: source}) == [complaint]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "server/hub/dispatch.py",
            "if TYPE_CHECKING:\n    from server.node import Node\nfrom server.hub.hub import Hub",
        ),
        ("server/node.py", "from server.chat import ChatWriter\nfrom server import chat as _handlers"),
        ("server/chat.py", f"from server.rooms import admit\n{CHAT}"),
        ("storage/redis/limits.py", "from storage.postgres.gather import Gather"),
        ("server/chat.py", f'"""Write @handles(SendChat)."""\n{CHAT}'),
    ],
)
def test_no_tangle(path: str, source: str) -> None:
    """What a domain lends, what a node is made of, and types are no tangle."""
    assert tangled({"server/chat.py": CHAT, "server/rooms.py": ROOMS, path: source}) == []


def test_handlers_are_found() -> None:
    """Handlers are found by their decorator, whatever else it says, and counted by their command."""
    assert list(handlers_of(ROOMS)) == ["join"]
    assert handled({"server/a.py": CHAT, "server/b.py": CHAT, "server/c.py": ROOMS}) == {
        "SendChat": ["server.a", "server.b"],
        "JoinRoom": ["server.c"],
    }


def test_a_missing_test_is_found() -> None:
    """A module without a test of its name is found; a test that is named further counts, one that is named alike does not."""
    there = {
        "server/hub/wheel.py",
        "server/hub/pulse.py",
        "server/hub/__init__.py",
        "protocol/chat.py",
        "protocol/client/link.py",
        "storage/redis/limits.lua",
        "server/chat.py",
        "tests/hub/test_wheel_turns.py",
        "tests/hub/test_pulses.py",
    }
    assert untested(frozenset(there)) == [
        "protocol/chat.py",
        "protocol/client/link.py",
        "server/hub/pulse.py",
    ]
    tests = {"tests/protocol/test_chat.py", "tests/protocol/client/test_link.py", "tests/hub/test_pulse.py"}
    assert untested(frozenset(there | tests)) == []


def test_names_and_lengths_are_looked_at() -> None:
    """A drawer and a scroll are found."""
    names = {"server/utils.py", "tests/test_helpers.py", "server/common_passwords.py", "storage/base.sql"}
    assert ill_named(frozenset(names)) == ["server/utils.py", "tests/test_helpers.py"]
    lengths = {"server/a.py": MOST_LINES, "server/b.py": MOST_LINES + 1, "tests/test_a.py": MOST_LINES + 1}
    assert too_long(lengths) == [f"server/b.py has {MOST_LINES + 1} lines"]


def test_imports_are_read() -> None:
    """Every way to import is seen, and which of them are for the type checker."""
    source = "import a.b, c\nfrom d import e as f\nif TYPE_CHECKING:\n    from g import h\n"
    assert set(imports(source)) == {
        Import("a.b", "", False),
        Import("c", "", False),
        Import("d", "e", False),
        Import("g", "h", True),
    }
