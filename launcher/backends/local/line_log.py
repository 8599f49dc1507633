"""A pod's log file: written by the supervisor, read (and followed) by `logs`.

One record a line, as container runtimes write them: `<RFC 3339 time with nanoseconds> <tag> <text>`. Tags: `F` a full line; `P` a piece
whose line goes on in the next record (the last record of a log may be one: an unterminated line); `G` a gap, output that could not be
written.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from launcher.backend_base import LogLine

_PIECE = 1 << 20  # bytes of one line kept in memory
_GUESS = 256  # bytes of a line, where the end of a log is looked for
_FULL = re.compile(rb"(?<=\n)\S+ F [^\n]*\n")  # a record that ends a line


def stamp(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{rest:09d}Z"


class LineWriter:
    """Cuts a stream of bytes into stamped lines. A full disk costs lines (marked by a gap), never the run."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._rest = b""
        self._lost = 0
        self._torn = False  # a record could only be written in part

    def feed(self, data: bytes) -> None:
        """Take what the process wrote; whole lines go to the file at once."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        records = [(b"F", line) for line in lines]
        if len(self._rest) >= _PIECE:
            records.append((b"P", self._rest))
            self._rest = b""
        self._write(records)

    def close(self) -> None:
        """Write the unterminated last line, if there is one."""
        self._write([(b"P", self._rest)] if self._rest else [])
        os.close(self._fd)

    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        if not records:
            return
        time_ = stamp(time.time_ns()).encode()
        if self._lost:
            records = [
                (
                    b"G",
                    b"%d bytes of output are lost: they could not be written to this log"
                    % self._lost,
                ),
                *records,
            ]
        block = b"".join(b"%s %s %s\n" % (time_, tag, text) for tag, text in records)
        if self._torn:
            block = b"\n" + block
        try:
            written = os.write(self._fd, block)
        except OSError:
            written = 0
        self._torn = 0 < written < len(block) or (self._torn and not written)
        self._lost = 0 if written == len(block) else self._lost + len(block) - written


class LineReader:
    """Reads one log from its start, each line once; what is not yet terminated waits for the next call."""

    def __init__(self, path: Path, pod: str, container: str = "trainer") -> None:
        self._path = path
        self._pod = pod
        self._container = container
        self._offset = 0
        self._held: list[bytes] = []  # pieces of a line that goes on
        self._held_time = ""

    def skip_to_last(self, count: int) -> None:
        """Begin near the end, at least `count` lines before it: a long log is not read from its start for its tail."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            size = (count + 2) * _GUESS
            while size < end:
                file.seek(end - size)
                ends = [match.end() for match in _FULL.finditer(file.read(size))]
                if len(ends) > count:
                    self._offset = end - size + ends[-count - 1]
                    return
                size *= 4

    def lines(self, *, ended: bool) -> Iterator[LogLine]:
        """What was written since the last call. With `ended`, the unterminated last line too."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for raw in file:
                    if not raw.endswith(b"\n") and not ended:
                        break
                    self._offset += len(raw)
                    yield from self._line(raw.removesuffix(b"\n"))
        if ended and self._held:
            yield self._join(b"", terminated=False)

    def _line(self, record: bytes) -> Iterator[LogLine]:
        time_, _, rest = record.partition(b" ")
        tag, _, text = rest.partition(b" ")
        if tag == b"G":
            yield LogLine(
                pod=self._pod,
                text=text.decode(),
                time=time_.decode(),
                container=self._container,
                kind="gap",
            )
        elif tag in (b"P", b"F"):
            self._held_time = self._held_time or time_.decode()
            if tag == b"P":
                self._held.append(text)
            else:
                yield self._join(text)

    def _join(self, text: bytes, *, terminated: bool = True) -> LogLine:
        whole = b"".join((*self._held, text)).decode("utf-8", errors="replace")
        line = LogLine(
            pod=self._pod,
            text=whole,
            time=self._held_time,
            container=self._container,
            terminated=terminated,
        )
        self._held, self._held_time = [], ""
        return line
