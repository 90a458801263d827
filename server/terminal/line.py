"""A line of input at the bottom of a terminal, kept whole while other lines arrive above it.

`LineEditor` is a plain object: keys in, finished lines out. `Terminal` knows the file descriptors, with or without a
terminal behind them: from a pipe it reads lines and writes lines, and nothing is drawn.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import os
import re
import shutil
import sys
import termios
import threading
import tty
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator

_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z]|[^\[O])")
_BEGUN = re.compile(r"\x1b(?:\[[0-9;]*|O)?\Z")
_ERASE = "\r\x1b[K"


class LineEditor:
    """The line that is being typed. `ended` is set by ctrl-D on an empty line."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False
        self._cursor = 0
        self._history: list[str] = []
        self._shown = 0  # which line of the history is shown; its length means the new one
        self._kept = ""
        self._rest = ""

    def feed(self, keys: str) -> list[str]:
        """Take what was typed and return the lines that were finished. Redraw afterwards."""
        keys = self._rest + keys
        self._rest = ""
        lines: list[str] = []
        at = 0
        while at < len(keys):
            if keys[at] == "\x1b":
                if _BEGUN.match(keys, at):
                    self._rest = keys[at:]
                    break
                sequence = _SEQUENCE.match(keys, at)
                if sequence is not None:
                    self._move(sequence.group())
                    at = sequence.end()
                    continue
            if keys[at] in "\r\n":
                lines.append(self._finish())
            else:
                self._key(keys[at])
            at += 1
        return lines

    def _finish(self) -> str:
        line = self.text
        if line and self._history[-1:] != [line]:
            self._history.append(line)
        self._shown = len(self._history)
        self._set("")
        return line

    def _set(self, text: str) -> None:
        self.text = text
        self._cursor = len(text)

    def _key(self, key: str) -> None:
        before, after = self.text[: self._cursor], self.text[self._cursor :]
        match key:
            case "\x7f" | "\x08":
                before = before[:-1]
            case "\x15":  # ctrl-U
                before = ""
            case "\x17":  # ctrl-W
                before = re.sub(r"\S*\s*\Z", "", before)
            case "\x0b":  # ctrl-K
                after = ""
            case "\x01":  # ctrl-A
                self._cursor = 0
                return
            case "\x05":  # ctrl-E
                self._cursor = len(self.text)
                return
            case "\x04":  # ctrl-D
                self.ended = self.ended or not self.text
                after = after[1:]
            case _ if key == "\t" or key.isprintable():
                before += " " if key == "\t" else key
        self.text = before + after
        self._cursor = len(before)

    def _move(self, sequence: str) -> None:
        match sequence[1:]:
            case "[D" | "OD":
                self._cursor = max(0, self._cursor - 1)
            case "[C" | "OC":
                self._cursor = min(len(self.text), self._cursor + 1)
            case "[H" | "OH" | "[1~":
                self._cursor = 0
            case "[F" | "OF" | "[4~":
                self._cursor = len(self.text)
            case "[3~":
                self.text = self.text[: self._cursor] + self.text[self._cursor + 1 :]
            case "[A" | "OA":
                self._recall(-1)
            case "[B" | "OB":
                self._recall(1)

    def _recall(self, step: int) -> None:
        wanted = self._shown + step
        if not 0 <= wanted <= len(self._history):
            return
        if self._shown == len(self._history):
            self._kept = self.text
        self._shown = wanted
        self._set(self._history[wanted] if wanted < len(self._history) else self._kept)

    def drawn(self, prompt: str, width: int) -> str:
        """Return what draws prompt and line in one row of `width` cells, and leaves the cursor in its place."""
        room = max(1, width - _cells(prompt) - 1)
        before, after = self.text[: self._cursor], self.text[self._cursor :]
        while _cells(before) >= room:
            before = before[1:]
        while _cells(before) + _cells(after) > room:
            after = after[:-1]
        back = _cells(after)
        return f"{_ERASE}{prompt}{before}{after}" + (f"\x1b[{back}D" if back else "")


def _cells(text: str) -> int:
    """Return the columns that `text` takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


class Terminal:
    """Standard input and output."""

    def __init__(self) -> None:
        self._edited: Callable[[str], None] = lambda _: None
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._editor = LineEditor()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._drawing = False
        self.prompt = "> "
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Terminal]:
        """Read from now on; put everything back in the end. Needs the running loop."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        if not self.interactive:
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._read_pipe, args=(loop,), daemon=True).start()
            yield self
            return
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
        asyncio.get_running_loop().add_reader(fd, self._read_keys, fd)
        self._drawing = True
        self._draw()
        try:
            yield self
        finally:
            self._drawing = False
            self._write(_ERASE)
            asyncio.get_running_loop().remove_reader(fd)
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def listen(self, edited: Callable[[str], None]) -> None:
        """Have `edited` called with the unfinished line whenever it has changed."""
        self._edited = edited

    async def lines(self) -> AsyncIterator[str]:
        """Yield each line that is typed, until the input ends."""
        while (line := await self._lines.get()) is not None:
            yield line

    def end(self) -> None:
        """End the input from our side."""
        self._lines.put_nowait(None)

    def show(self, text: str) -> None:
        """Print a line above the one that is being typed."""
        if self._drawing:
            self._write(f"{_ERASE}{text}\n")
            self._draw()
        else:
            self._write(f"{text}\n")

    def ask(self, prompt: str) -> None:
        """Change the prompt."""
        if prompt != self.prompt:
            self.prompt = prompt
            self._draw()

    def _draw(self) -> None:
        if self._drawing:
            self._write(self._editor.drawn(self.prompt, shutil.get_terminal_size().columns))

    def _write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(text)
            sys.stdout.flush()

    def _read_keys(self, fd: int) -> None:
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        for line in self._editor.feed(self._decode(data)):
            self._lines.put_nowait(line)
        if self._editor.ended or not data:
            self._lines.put_nowait(None)
        self._edited(self._editor.text)
        self._draw()

    def _read_pipe(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            for line in sys.stdin:
                loop.call_soon_threadsafe(self._lines.put_nowait, line.rstrip("\r\n"))
            loop.call_soon_threadsafe(self._lines.put_nowait, None)
