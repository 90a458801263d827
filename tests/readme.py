"""The README's tables, written from the code: ``python -m tests.readme`` puts them in, `test_readme` compares them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from protocol.closing import CloseCode, reconnects
from protocol.refusals import ErrorCode
from server import settings
from storage.privacy import PARTS
from storage.redis.limits import Limit

README = Path(__file__).parent.parent / "README.md"


def settings_table() -> str:
    """Every setting: variable, default, meaning."""
    return _table(
        ("variable", "default", "meaning"),
        (
            (_code(settings.variable(field)), _code(settings.default(field)), settings.meaning(field))
            for field in settings.Settings.__struct_fields__
        ),
    )


def errors_table() -> str:
    """Every error code: its HTTP status, whether to try again, what to do."""
    return _table(
        ("code", "HTTP", "try again", "what to do"),
        ((_code(code), str(code.status), _yes(code.retryable), code.advice) for code in ErrorCode),
    )


def closes_table() -> str:
    """Every close code of ours: its name, whether to come back, what it means."""
    return _table(
        ("code", "name", "come back", "meaning"),
        ((str(int(code)), _code(code.name), _yes(reconnects(code)), code.meaning) for code in CloseCode),
    )


def limits_table() -> str:
    """Every limit that nodes count together, with what its docstring says of it."""
    return _table(
        ("limit", "at once", "then one each", "of what"),
        (
            (_code(limit.name), f"{limit.burst:g}", _span(1 / limit.rate), meaning)
            for limit, meaning in sorted(_limits(), key=lambda found: found[0].name)
        ),
    )


def _limits() -> Iterator[tuple[Limit, str]]:
    """Find the limits where they stand: a constant, and the string under it."""
    for path in sorted((README.parent / "server").rglob("*.py")):
        statements = ast.parse(path.read_text("utf-8")).body
        for statement, after in pairwise(statements):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Call)):
                continue
            if ast.unparse(statement.value.func) == "Limit":
                module = import_module(".".join(path.relative_to(README.parent).with_suffix("").parts))
                limit: Limit = getattr(module, ast.unparse(statement.target))
                assert isinstance(after, ast.Expr), f"{limit.name} says not of what it is a limit"
                yield limit, " ".join(str(ast.literal_eval(after.value)).split())


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def stays_table() -> str:
    """What is left of a person who has left for good."""
    return _table(
        ("of", "stays"),
        ((_code(part.columns[0].partition(".")[0]), part.stays) for part in PARTS if part.stays),
    )


TABLES = {
    "settings": settings_table,
    "errors": errors_table,
    "closes": closes_table,
    "limits": limits_table,
    "stays": stays_table,
}


def written(text: str) -> str:
    """Return the README's text with its tables as they should be."""
    for name, table in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = f"{before}{start}{table()}\n{end}{after}"
    return text


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
