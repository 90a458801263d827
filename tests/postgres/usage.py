"""What a module of storage does with its statements, read off its source: how many parameters it gives, which columns it reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct

READING = ("fetch", "fetchrow", "cursor")
RUNNING = (*READING, "fetchval", "execute", "executemany")


class Described(Struct, frozen=True):
    """What Postgres says of a statement: how many parameters it takes, and the names of its columns."""

    parameters: int
    columns: tuple[str, ...]


class Use(Struct, frozen=True):
    """A place where a statement is run. `given` is None where the number of arguments can't be read off."""

    function: str
    statement: str
    method: str
    given: int | None


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Usage:
    """The uses of one module.

    `beside` are the sources of modules, by their names, from which it may import what reads rows. Columns that are `shared` may
    be left unread by one statement, because others of the same columns have readers for them.
    """

    def __init__(
        self,
        source: str,
        beside: Mapping[str, str] = MappingProxyType({}),
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self._shared = shared
        tree = ast.parse(source)
        self._functions = {function.name: function for function in _functions(tree)}
        for name, wanted in _imports(tree):
            if name in beside:
                there = {function.name: function for function in _functions(ast.parse(beside[name]))}
                readers = [one for one in wanted & there.keys() if not any(_uses(one, there[one]))]
                self._functions |= {one: there[one] for one in readers}
        self.uses = [use for name, function in self._functions.items() for use in _uses(name, function)]
        self._names = {name: set(_columns(function)) for name, function in self._functions.items()}
        self._unpack = {name for name, function in self._functions.items() if _unpacks(function)}
        self._mentioned = {
            name: {one for one in _mentioned(function) if one in self._functions and one != name}
            for name, function in self._functions.items()
        }

    def complaints(self, described: Mapping[str, Described]) -> list[str]:
        """Say where uses and statements differ, and which statements of the module it does not use."""
        found = []
        for use in self.uses:
            if (statement := described.get(use.statement)) is not None:
                found += _misused(use, statement)
        for name in self._functions:
            run = {use.statement for use in self._run_by(name)} & described.keys()
            there = {column for statement in run for column in described[statement].columns}
            if run:
                found += [
                    f"{name} reads {column}, which {' and '.join(sorted(run))} has not"
                    for column in sorted(self._read_by(name) - there)
                ]
        for name, description in described.items():
            found += self._unread(name, description)
        return found

    def reads(self) -> set[str]:
        """Return the columns that functions of the module read."""
        return set().union(*self._names.values())

    def _unread(self, statement: str, description: Described) -> list[str]:
        uses = [use for use in self.uses if use.statement == statement]
        if not any(use.method in READING for use in uses):
            return []
        readers = [name for name in self._functions if any(use in uses for use in self._run_by(name))]
        if any(name in self._unpack for reader in readers for name in self._reached(reader)):
            return []
        read = self._shared.union(*(self._read_by(reader) for reader in readers))
        return [
            f"nobody reads {column} of {statement}" for column in description.columns if column not in read
        ]

    def _reached(self, name: str) -> set[str]:
        """Return a function and all that it calls, directly or not."""
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += self._mentioned[one]
        return reached

    def _run_by(self, name: str) -> list[Use]:
        reached = self._reached(name)
        return [use for use in self.uses if use.function in reached]

    def _read_by(self, name: str) -> set[str]:
        return {column for one in self._reached(name) for column in self._names[one]}


def _misused(use: Use, statement: Described) -> list[str]:
    found = []
    if use.given is not None and use.given != statement.parameters:
        found.append(
            f"{use.function} gives {use.statement} {use.given} parameters, it takes {statement.parameters}"
        )
    if use.method == "fetchval" and len(statement.columns) != 1:
        found.append(f"{use.function} wants one value of {use.statement}, it has {len(statement.columns)}")
    if use.method in READING and not statement.columns:
        found.append(f"{use.function} wants rows of {use.statement}, it has none")
    return found


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in tree.body:
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (one for one in node.body if isinstance(one, Function))


def _imports(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module, {alias.name for alias in node.names}


def _uses(name: str, function: Function) -> Iterator[Use]:
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in RUNNING
            and node.args
            and (statement := _named(node.args[0])) is not None
        ):
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            yield Use(name, statement, node.func.attr, None if starred else len(node.args) - 1)


def _named(argument: ast.expr) -> str | None:
    """Return the constant that is run: itself, or what a call makes a statement of."""
    if isinstance(argument, ast.Call) and argument.args:
        argument = argument.args[0]
    return argument.id if isinstance(argument, ast.Name) and argument.id.isupper() else None


def _columns(function: Function) -> Iterator[str]:
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            yield node.slice.value


def _unpacks(function: Function) -> bool:
    """Say whether a function takes rows as a whole, by the order of their columns."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values"
        for node in ast.walk(function)
    )


def _mentioned(function: Function) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
