"""Every statement of storage is prepared on a real database that has the schema, and used as it is: no column can drift."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest

import storage
from storage.personal import Part
from storage.postgres.embedded import EmbeddedPostgres
from storage.resealing import SEALED
from tests.postgres.usage import Described, Usage
from tests.stores import make_database

SOURCES = {
    f"storage.{path.stem}": path.read_text("utf-8")
    for path in sorted(Path(storage.__path__[0]).glob("*.py"))
    if path.stem != "__init__"
}
READ = frozenset(column for source in SOURCES.values() for column in Usage(source).reads())
MODULES = [name.partition(".")[2] for name in SOURCES]
VERBS = ("select", "insert", "update", "delete", "with", "set")


def module_of(name: str) -> ModuleType:
    """Import a module of storage."""
    return importlib.import_module(f"storage.{name}")


def statements(module: ModuleType) -> dict[str, list[str]]:
    """Return the SQL constants of a module, each as the statements that it stands for."""
    found = {}
    for name, value in vars(module).items():
        own = isinstance(value, str) and name.isupper() and not name.startswith("_")
        if own and value.split(maxsplit=1)[:1] and value.split(maxsplit=1)[0] in VERBS:
            found[name] = [sealed.sql(value) for sealed in SEALED] if "{table}" in value else [value]
    return found


STATEMENTS = [
    pytest.param(name, constant, id=f"{name}.{constant}")
    for name in MODULES
    for constant in statements(module_of(name))
]
PARTS = [
    pytest.param(part, id=part.name)
    for name in MODULES
    for part in getattr(module_of(name), "PARTS", ())
    if isinstance(part, Part)
]


@pytest.fixture(scope="module")
async def connection(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connect to a database that has the schema."""
    connection = await asyncpg.connect(await make_database(postgres))
    yield connection
    await connection.close()


async def describe(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> Described:
    """Ask Postgres what a statement takes and gives. One that it knows no plan for, such as ``set``, takes and gives nothing."""
    prepared = await connection.prepare(statement)
    columns = tuple(attribute.name for attribute in prepared.get_attributes())
    return Described(len(prepared.get_parameters()), columns)


def test_statements_are_found() -> None:
    """The search is not blind: modules that are known to have statements do."""
    assert {"chat", "session", "rooms"} <= {name for name in MODULES if statements(module_of(name))}
    assert len(STATEMENTS) > 50


@pytest.mark.parametrize(("name", "constant"), STATEMENTS)
async def test_prepares(connection: asyncpg.Connection[asyncpg.Record], name: str, constant: str) -> None:
    """Each statement is one that Postgres can plan with this schema; none has two columns of one name."""
    for statement in statements(module_of(name))[constant]:
        described = await describe(connection, statement)
        assert len(described.columns) == len(set(described.columns))


@pytest.mark.parametrize("part", PARTS)
async def test_parts_of_a_person(connection: asyncpg.Connection[asyncpg.Record], part: Part) -> None:
    """What is written down about a person is selected by that person alone."""
    described = await describe(connection, part.rows)
    assert described.parameters == 1
    assert len(described.columns) == len(set(described.columns)) > 0


@pytest.mark.parametrize("name", [name for name in MODULES if statements(module_of(name))])
async def test_used_as_it_is(connection: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    """Functions give a statement as many parameters as it takes, read the columns that it has, and leave none unread."""
    module = module_of(name)
    described = {constant: await describe(connection, sql[0]) for constant, sql in statements(module).items()}
    assert Usage(SOURCES[module.__name__], SOURCES, READ).complaints(described) == []


@pytest.mark.parametrize("name", [name for name in MODULES if statements(module_of(name))])
def test_every_statement_is_used(name: str) -> None:
    """A statement that nothing runs is gone."""
    run = {use.statement for source in SOURCES.values() for use in Usage(source).uses}
    assert statements(module_of(name)).keys() - run == set()


# The reader itself.


PLANTED = """
async def find(connection, id):
    row = await connection.fetchrow(FIND, id)
    return _thing(row)

async def find_all(connection):
    return [_thing(row) for row in await connection.fetch(ALL, *ids)]

def _thing(row):
    return Thing(row["id"], row["name"])

class Counter:
    async def count(self, connection):
        return await connection.fetchval(COUNT)

    async def touch(self, connection, a, b):
        await connection.execute(shaped.sql(TOUCH), a, b, timeout=3)
"""
RIGHT = {
    "FIND": Described(1, ("id", "name")),
    "ALL": Described(2, ("id", "name")),
    "COUNT": Described(0, ("count",)),
    "TOUCH": Described(2, ()),
}


def test_right_use() -> None:
    """A module that does everything right is not complained of."""
    assert Usage(PLANTED).complaints(RIGHT) == []


@pytest.mark.parametrize(
    ("statement", "described", "complaint"),
    [
        ("FIND", Described(2, ("id", "name")), "find gives FIND 1 parameters, it takes 2"),
        ("TOUCH", Described(1, ()), "touch gives TOUCH 2 parameters, it takes 1"),
        ("FIND", Described(1, ("id", "title")), "find reads name, which FIND has not"),
        ("FIND", Described(1, ("id", "name", "age")), "nobody reads age of FIND"),
        ("COUNT", Described(0, ("count", "other")), "count wants one value of COUNT, it has 2"),
        ("ALL", Described(0, ()), "find_all wants rows of ALL, it has none"),
    ],
)
def test_planted_drift_is_found(statement: str, described: Described, complaint: str) -> None:
    """A column that was renamed, added or taken away, and a parameter too many or too few, are each found."""
    assert complaint in Usage(PLANTED).complaints({**RIGHT, statement: described})


def test_shared_columns() -> None:
    """Columns that several statements share are read where they are wanted."""
    described = {**RIGHT, "FIND": Described(1, ("id", "name", "age"))}
    assert Usage(PLANTED, shared=frozenset({"age"})).complaints(described) == []


def test_helpers_of_another_module() -> None:
    """A function that is imported reads columns like one of the module's own."""
    source = """
from storage.things import thing_of

async def find(connection):
    return thing_of(await connection.fetchrow(FIND))
"""
    beside = {"storage.things": "def thing_of(row):\n    return row['name']\n"}
    described = {"FIND": Described(0, ("name",))}
    assert Usage(source, beside).complaints(described) == []
    assert Usage(source).complaints(described) == ["nobody reads name of FIND"]


def test_rows_as_a_whole() -> None:
    """Where a row is taken as a whole, its columns are the struct's affair."""
    source = "async def find(connection):\n    return Thing(*(await connection.fetchrow(FIND)).values())\n"
    assert Usage(source).complaints({"FIND": Described(0, ("id", "name"))}) == []
