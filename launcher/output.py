"""The only module that prints. Results go to stdout, everything else to stderr; colour and progress only on a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO


class ReaderLeft(Exception):
    """Nobody reads stdout any more: stop quietly."""


_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "dim": 2, "bold": 1}


def result(text: str, *, more: bool = False) -> None:
    """One line (or block) of result on stdout, flushed so that a pipe sees it at once, unless `more` comes at once.

    Raises ReaderLeft when whoever read stdout (`| head`) has gone. Not BrokenPipeError: click would make that exit code 1.
    """
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        _leave()
    if not more:
        flush()


def flush() -> None:
    """Let a pipe see what was written. Raises ReaderLeft as `result` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave()


def _leave() -> NoReturn:
    _silence(sys.stdout)
    raise ReaderLeft from None


def _silence(stream: TextIO) -> None:
    """What is still written goes nowhere; the interpreter's last flush stays quiet too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def redraw() -> None:
    """On a terminal: what comes next stands at its top, and nothing below it."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[J")


def json_result(value: Any) -> None:
    """One JSON document on stdout, for programs."""
    result(json.dumps(value, indent=2, default=str))


def json_line(value: Mapping[str, Any]) -> None:
    """One JSON object on one line."""
    result(json.dumps(value, default=str))


def note(text: str) -> None:
    """A message for the person, on stderr. Where nobody reads it any more (`2>&1 | head`) the work goes on without it."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        _silence(sys.stderr)


def warn(text: str) -> None:
    """A message that wants attention, on stderr."""
    note(f"{paint('warning:', 'yellow', sys.stderr)} {text}")


def error(message: str, hint: str = "") -> None:
    """What went wrong and the next step, on stderr."""
    note(f"{paint('error:', 'red', sys.stderr)} {message}")
    if hint:
        note(f"{paint(' hint:', 'blue', sys.stderr)} {hint}")


def counted(number: int, word: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def paint(text: str, colour: str, stream: Any = None) -> str:
    """`text` in a colour when the stream (stdout by default) is a terminal and NO_COLOR is not set."""
    target = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or not target.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, cut: bool = False) -> None:
    """Left-aligned columns on stdout; a header line, no frame. With `cut` the last column ends at the terminal's edge."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    room = max(20, shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[:-1]))
    if cut and sys.stdout.isatty() and widths[-1] > room:
        cells = [
            [*row[:-1], row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 1]}…"]
            for row in cells
        ]
        widths[-1] = room
    for row in cells:
        result(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """Yields `step(done)`, which redraws one line on a terminal's stderr and does nothing elsewhere."""
    live = sys.stderr.isatty() and total > 0

    def step(done: int) -> None:
        if live:
            filled = int(30 * done / total)
            sys.stderr.write(
                f"\r{label} [{'#' * filled}{'.' * (30 - filled)}] {100 * done // total:3d}%"
            )
            sys.stderr.flush()

    try:
        yield step
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
