"""Branch coverage of the contract and of the hub, each module measured by its own tests alone.

    python -m tests.covered

That another test happens to pass through a line does not test it. So each test is noted with what it passed through, and of
each module only what its twin (`tests.layers`) did counts; the client, which is one thing in many files, is measured by all
the tests of its folder. Says what is missing where, and fails when something is.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import coverage
from coverage.exceptions import NoDataError

from tests.layers import ROOT

MEASURED = ("protocol", "protocol/client", "server/hub")
WHEN_IMPORTED = "^$"
"""What is run when a module is imported belongs to no test."""


def modules() -> Iterator[tuple[str, str]]:
    """Yield each module that is measured, and a pattern of its own tests."""
    for folder in MEASURED:
        tests = f"tests/{folder.removeprefix('server/')}/"
        for path in sorted((ROOT / folder).glob("*.py")):
            own = tests if folder == "protocol/client" else rf"{tests}test_{path.stem}(_\w+)?\.py::"
            yield f"{folder}/{path.name}", f"^{own}"


def run_tests(data: Path, workers: list[str]) -> None:
    """Run the tests of what is measured, and note what each passes through."""
    folders = [f"--cov={folder}" for folder in ("protocol", "server/hub")]
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers),
            *(*folders, "--cov-branch", "--cov-context=test", "--cov-report=", "--cov-config=/dev/null"),
            *("tests/protocol", "tests/hub"),
        ],
        cwd=ROOT,
        env={**os.environ, "COVERAGE_FILE": str(data)},
        check=True,
    )


def missing(measured: coverage.Coverage, module: str, own: str) -> str:
    """Return the line of the report that says what a module's own tests leave out; empty when that is nothing."""
    told = io.StringIO()
    try:
        percent = measured.report(
            morfs=[str(ROOT / module)], contexts=[WHEN_IMPORTED, own], show_missing=True, file=told
        )
    except NoDataError:
        return ""  # there is nothing in it but words
    line = next(line for line in told.getvalue().splitlines() if re.match(rf"\S*{re.escape(module)}", line))
    return "" if percent == 100.0 else line


def main() -> int:
    """Measure, and say what is missing."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "coverage"
        run_tests(data, sys.argv[1:])
        measured = coverage.Coverage(data_file=str(data), config_file=False, branch=True)
        measured.load()
        found = [line for module, own in modules() if (line := missing(measured, module, own))]
    for line in found:
        sys.stdout.write(f"{line}\n")
    count = sum(1 for _ in modules())
    sys.stdout.write(
        f"{count - len(found)} of {count} modules are covered, branch by branch, by their own tests.\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
