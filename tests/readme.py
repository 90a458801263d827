"""The README's tables, written from the code: ``python -m tests.readme`` puts them in, `test_readme` compares them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from protocol.closing import CloseCode, reconnects
from protocol.refusals import ErrorCode
from server import settings
from storage.privacy import PARTS

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
