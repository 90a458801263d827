"""How the house is built, as far as it can be read off the sources: who imports whom, who handles what, who has a test."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

ROOT: Final = Path(__file__).parents[1]
LAYERS: Final = ("protocol", "storage", "server", "bench")

Sources = Mapping[str, str]
"""Texts of modules, by their path from the root."""

BELOW: Final[Mapping[str, frozenset[str]]] = {
    "protocol": frozenset({"protocol"}),
    "storage": frozenset({"storage", "protocol"}),
    "server": frozenset({"server", "storage", "protocol"}),
    "bench": frozenset({"bench", "protocol"}),
}
"""What each layer may import."""

BESIDE: Final[Mapping[str, frozenset[str]]] = {"bench.commits": frozenset({"storage"})}
"""Modules that may import more: one that measures the storage itself."""

MACHINE: Final[Mapping[str, frozenset[str]]] = {
    "storage.postgres": frozenset({"storage.postgres", "storage.embedded"}),
    "storage.redis": frozenset({"storage.redis", "storage.postgres.gather", "storage.embedded"}),
    "server.hub": frozenset({"server.hub", "server.limits"}),
    "server.terminal": frozenset({"server.terminal"}),
    "server.gateways": frozenset({"server.gateways", "server.settings", "server.plans"}),
}
"""Folders of the machine, and what of their own layer they may import: no domain."""

ASSEMBLY: Final = "server.node"
"""Where a node is put together. The machine may name it for its types, and not run it."""

LENT: Final[Mapping[str, frozenset[str]]] = {
    "server.rooms": frozenset(
        {
            "Admission",
            "admit",
            "enter",
            "visible",
            "recent_lines",
            "seen_state",
            "put_out",
            "show",
            "still_visible",
        }
    ),
    "server.live": frozenset({"tell_live"}),
    "server.presence": frozenset({"PresenceTracker"}),
}
"""What a domain with handlers lets others use: who may enter a room is decided in one place."""

FORBIDDEN: Final = frozenset(
    {"utils", "util", "helpers", "helper", "manager", "managers", "common", "base", "misc"}
)
"""Names that say nothing of what is in a file."""

MOST_LINES: Final = 500
MOST_LINES_OF_TESTS: Final = 700

TWINNED: Final = (
    "protocol",
    "protocol/client",
    "server/hub",
    "server/http",
    "server/gateways",
    "server/terminal",
    "storage/postgres",
    "storage/redis",
)
"""Folders each of whose modules has a test file of its name."""


ELSEWHERE: Final[Mapping[str, str]] = {
    "server/gateways/identity.py": "tests/http/test_providers.py",
    "server/gateways/picture_process.py": "tests/gateways/test_pictures.py",
    "server/http/passwords.py": "tests/http/test_account_passwords.py",
    "server/http/pay.py": "tests/http/test_payments.py",
    "server/http/privacy.py": "tests/http/test_export.py",
    "server/http/proofs.py": "tests/http/test_identities.py",
}
"""Modules whose test is named after what one does with them."""


class Import(Struct, frozen=True):
    """A name that a module imports. `typing` says that it is for the type checker alone."""

    module: str
    name: str
    typing: bool


def read_sources() -> Sources:
    """Read all modules of the layers."""
    return {
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for layer in LAYERS
        for path in sorted((ROOT / layer).rglob("*.py"))
    }


def module_of(path: str) -> str:
    """Return the name of the module in a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(source: str) -> Iterator[Import]:
    """Yield what a module imports, wherever in it."""
    tree = ast.parse(source)
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", id(node) in typing)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                yield Import(node.module, alias.name, id(node) in typing)


def wrong_directions(sources: Sources) -> list[str]:
    """Say which module imports from a layer that it must not know."""
    found = []
    for path, source in sources.items():
        module = module_of(path)
        layer = module.partition(".")[0]
        allowed = BELOW[layer] | BESIDE.get(module, frozenset())
        for one in imports(source):
            top = one.module.partition(".")[0]
            if top in {*LAYERS, "tests"} and top not in allowed:
                found.append(f"{module} imports {one.module}")
            elif (
                layer == "protocol"
                and not module.startswith("protocol.client")
                and _within(one, "protocol.client")
            ):
                found.append(f"{module} imports {one.module}: the contract knows no client")
    return found


def tangled(sources: Sources) -> list[str]:
    """Say where the machine imports a domain, or a domain another domain's handlers."""
    found = []
    with_handlers = {
        module_of(path): names for path, source in sources.items() if (names := set(handlers_of(source)))
    }
    for path, source in sources.items():
        module = module_of(path)
        machine = next((folder for folder in MACHINE if module.startswith(f"{folder}.")), None)
        for one in imports(source):
            if machine is not None and one.module.partition(".")[0] == module.partition(".")[0]:
                allowed = any(_within(one, name) for name in MACHINE[machine])
                if not allowed and not (one.module == ASSEMBLY and one.typing):
                    found.append(f"{module} imports {_full(one)}: the machine knows no domain")
            if one.module in with_handlers and one.module != module:
                if one.name in with_handlers[one.module]:
                    found.append(f"{module} imports {_full(one)}, which is a handler")
                elif module in with_handlers and one.name not in LENT.get(one.module, ()):
                    found.append(f"{module} imports {_full(one)} of another domain")
    return found


def handlers_of(source: str) -> Iterator[str]:
    """Yield the names of the functions that are registered as handlers."""
    for function, _ in _handled(source):
        yield function


def handled(sources: Sources) -> Mapping[str, list[str]]:
    """Return, for each command that is handled by its name, the modules that do."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for _, command in _handled(source):
            found[command].append(module_of(path))
    return found


def untested(files: frozenset[str]) -> list[str]:
    """Return the modules, of all files from the root, that have no test file of their name."""
    found = []
    for path in sorted(files):
        folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).stem
        if folder not in TWINNED or name == "__init__" or not path.endswith(".py"):
            continue
        inside = folder if folder.startswith("protocol") else folder.partition("/")[2]
        place = f"tests/{inside}/test_{name}"
        if not any(_is_test_of(test, place) for test in files) and ELSEWHERE.get(path) not in files:
            found.append(path)
    return found


def ill_named(files: frozenset[str]) -> list[str]:
    """Return the files whose names say nothing of what is in them."""
    return [
        path
        for path in sorted(files)
        if PurePosixPath(path).suffix == ".py" and PurePosixPath(path).stem.removeprefix("test_") in FORBIDDEN
    ]


def too_long(lengths: Mapping[str, int]) -> list[str]:
    """Return the files that have more lines than one reads at once."""
    return [
        f"{path} has {lines} lines"
        for path, lines in lengths.items()
        if lines > (MOST_LINES_OF_TESTS if path.startswith("tests/") else MOST_LINES)
    ]


def _handled(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and ast.unparse(decorator.func) == "handles"
                    and decorator.args
                ):
                    yield node.name, ast.unparse(decorator.args[0])


def _full(one: Import) -> str:
    return f"{one.module}.{one.name}" if one.name else one.module


def _within(one: Import, name: str) -> bool:
    """Say whether what is imported is `name`, or something in it."""
    return any(full == name or full.startswith(f"{name}.") for full in (one.module, _full(one)))


def _is_test_of(test: str, place: str) -> bool:
    return test == f"{place}.py" or (test.startswith(f"{place}_") and test.endswith(".py"))
