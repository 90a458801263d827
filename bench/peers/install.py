"""What the peers need, in a folder of its own: a virtual environment, node modules, and the floor as a program.

Everything is pinned: Python packages with their hashes, node packages with their integrity. What was installed from the
same pins is not installed again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
_SECONDS = 600


class Missing(Exception):  # noqa: N818 - a reason, not an error
    """A peer cannot be had here; the message says why."""


class Workshop:
    """The folder. Each method returns what a peer is started with, or raises `Missing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def python(self) -> Path:
        """Return the interpreter of an environment with the Python peers."""
        environment = self.folder / "venv"
        interpreter = environment / "bin" / "python"
        pins = HERE / "requirements.txt"
        if not self._current("venv", pins):
            shutil.rmtree(environment, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(environment)], self.folder)
            _run(
                [str(interpreter), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)],
                self.folder,
            )
            self._stamp("venv", pins)
        return interpreter

    def node(self, name: str) -> Path:
        """Return a server file with the node modules beside it."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise Missing("there is no node or no npm on the PATH")
        modules = self.folder / "node"
        modules.mkdir(exist_ok=True)
        pins = HERE / "package-lock.json"
        if not self._current("node", pins):
            for file in ("package.json", "package-lock.json"):
                shutil.copy(HERE / file, modules / file)
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], modules)
            self._stamp("node", pins)
        shutil.copy(SERVERS / name, modules / name)
        return modules / name

    def program(self, name: str) -> Path:
        """Return a C program, compiled."""
        compiler = next((found for one in ("cc", "gcc", "clang") if (found := shutil.which(one))), None)
        if compiler is None:
            raise Missing("there is no C compiler on the PATH")
        source, made = SERVERS / name, self.folder / Path(name).stem
        if not self._current(made.name, source):
            _run([compiler, "-O2", "-o", str(made), str(source)], self.folder)
            self._stamp(made.name, source)
        return made

    def _current(self, what: str, pins: Path) -> bool:
        stamp = self.folder / f"{what}.stamp"
        return stamp.exists() and stamp.read_text() == _digest(pins)

    def _stamp(self, what: str, pins: Path) -> None:
        (self.folder / f"{what}.stamp").write_text(_digest(pins))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "it said nothing").strip().splitlines()
        raise Missing(
            f"{Path(command[0]).name} failed: {said[-1][:200] if said else 'it said nothing'}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name} failed: {error}") from error
