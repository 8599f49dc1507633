"""What was seen of a run's log, kept on this machine, so that the log outlives its pods and the cluster's rotation.

    <state>/logs/<run>/<pod uid>.<container>.log
    \\0log {"pod": ..., "container": ..., "created": ..., "index": ...}     first line
    2026-11-21T16:20:01.123456789Z text                                    lines exactly as the API server sent them
    \\0gap pod p was deleted before its log was read to the end            marks begin with a byte that no stamped line begins with
    \\0end                                                                  the container has ended and was read to its end
    \\0open 2026-11-21T16:20:07.123456789Z text                            the same; this last line had no newline, and after it comes
    \\0end open                                                             its own end mark

One process writes a file (flock); others that follow the same run read what is there. A file that cannot be written, or
that has reached its share, ends early: it lacks its end mark, and its reader says so. Nothing here contacts a cluster.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from launcher.records import state_dir

FILE_LIMIT = 256 << 20  # bytes of one container's log that are kept
# bytes of all runs; the logs of the runs that were followed longest ago go first
TOTAL_LIMIT = 2 << 30
_BLOCK = 1 << 18
_MARK = b"\0"
_OPEN, _END, _END_OPEN = _MARK + b"open ", _MARK + b"end\n", _MARK + b"end open\n"
_TAIL = 64  # bytes; the end mark is shorter


@dataclass(frozen=True, kw_only=True)
class Header:
    """Whose log it is."""

    pod: str
    container: str
    created: str = ""  # the pod's creationTimestamp
    index: int = 0


class SpooledLog:
    """One container's log. `open` before `append`; `replay` at any time."""

    def __init__(self, path: Path, header: Header, *, limit: int = FILE_LIMIT) -> None:
        self.path = path
        self.header = header
        self._limit = limit
        self._file: IO[bytes] | None = None

    @property
    def ended(self) -> bool:
        """It holds the container's last line."""
        return self._ending() != b""

    @property
    def open_end(self) -> bool:
        """The last line had no newline."""
        return self._ending() == b"end open"

    def open(self) -> None:
        """Make ready to append. Does nothing when another process writes it, when it has ended, or where it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self.path.open("ab+")
        except OSError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.ended or not self._repaired(file):
                file.close()
                return
        except OSError:
            file.close()
            return
        self._file = file

    def append(self, lines: Sequence[bytes], *, gap: str = "") -> None:
        """Whole lines without their newlines, then perhaps a mark that lines may be missing."""
        block = b"".join(line.lstrip(_MARK) + b"\n" for line in lines)
        if gap:
            block += _MARK + b"gap " + gap.replace("\n", " ").encode() + b"\n"
        self._write(block)

    def append_block(self, block: bytes) -> None:
        """Whole lines with their newlines, none of which begins with a zero byte."""
        self._write(block)

    def end(self, *, last: bytes | None = None) -> None:
        """The container's log holds no more than what was appended, and a last line without a newline if there is one."""
        self._write(_END if last is None else _OPEN + last.lstrip(_MARK) + b"\n" + _END_OPEN)
        self.close()

    def close(self) -> None:
        """Let other processes write it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def replay(self) -> Iterator[bytes | str]:
        """What is kept, from the start: blocks of whole lines as they were sent, and as text what a gap says."""
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            kept: list[bytes] = []
            size = 0
            for line in file:
                if not line.startswith(_MARK) or line.startswith(_OPEN):
                    kept.append(line.removeprefix(_OPEN))
                    size += len(line)
                    if size < _BLOCK:
                        continue
                yield b"".join(kept)
                kept, size = [], 0
                if line.startswith(_MARK + b"gap "):
                    yield line[5:].rstrip(b"\n").decode("utf-8", "replace")
            yield b"".join(kept)

    def _write(self, block: bytes) -> None:
        if self._file is None or not block:
            return
        try:
            if self._file.tell() + len(block) > self._limit:
                self.close()
                return
            self._file.write(block)
            self._file.flush()
        except OSError:
            with suppress(OSError):
                self.close()
            self._file = None

    def _repaired(self, file: IO[bytes]) -> bool:
        """A line that a killed process left unfinished goes; a new file gets its first line. Whether there is room for more."""
        end = _line_begin(file, file.seek(0, 2))
        file.truncate(end)
        file.seek(_line_begin(file, max(end - 1, 0)))
        if file.read(len(_OPEN)) == _OPEN:
            file.seek(0, 2)
            file.write(_END_OPEN)
            return False
        file.seek(0, 2)
        if not end:
            file.write(_MARK + b"log " + json.dumps(asdict(self.header)).encode() + b"\n")
            file.flush()
        return end < self._limit

    def _ending(self) -> bytes:
        """The end mark, or nothing."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                last = file.read().split(b"\n")[-2:]
        except OSError:
            return b""
        mark = last[0] if len(last) == 2 and not last[1] else b""
        return mark[1:] if mark + b"\n" in (_END, _END_OPEN) else b""


class RunSpool:
    """All that is kept of one run."""

    def __init__(self, run: str) -> None:
        self._folder = _all_logs() / quote(run, safe="")

    def log(self, uid: str, header: Header) -> SpooledLog:
        """Of one container of the pod with that UID."""
        return SpooledLog(
            self._folder / f"{quote(uid, safe='')}.{quote(header.container, safe='')}.log", header
        )

    def logs_without(self, uids: set[str]) -> list[SpooledLog]:
        """Of pods that are not among these, oldest first; an init container's before its trainer's."""
        named = {quote(uid, safe="") for uid in uids}
        paths = sorted(
            path for path in self._folder.glob("*.log") if path.name.partition(".")[0] not in named
        )
        logs = [SpooledLog(path, header) for path in paths if (header := _header(path))]
        return sorted(
            logs,
            key=lambda log: (
                log.header.created,
                -log.header.index,
                log.header.pod,
                log.header.container == "trainer",
            ),
        )


class FolderLog:
    """The lines of the run folder's train.log that were not seen in the pods' own logs."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._unseen = Counter(lines)

    def seen(self, text: str) -> None:
        """A pod's log has this line."""
        if text in self._unseen:
            self._unseen[text] -= 1

    def rest(self) -> Iterator[str]:
        """What is left, in the file's order: of equal lines the last ones."""
        skip = Counter(self._lines)
        skip.subtract({text: max(count, 0) for text, count in self._unseen.items()})
        for text in self._lines:
            if skip[text] > 0:
                skip[text] -= 1
            else:
                yield text


def _line_begin(file: IO[bytes], end: int) -> int:
    """Where the line begins that has no newline before `end`."""
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def forget(run: str) -> None:
    """Remove what is kept of a run's log."""
    shutil.rmtree(_all_logs() / quote(run, safe=""), ignore_errors=True)


def make_room(limit: int = TOTAL_LIMIT) -> None:
    """Remove the logs of the runs that were followed longest ago until all together are within the limit."""
    sizes: list[tuple[float, int, Path]] = []
    with suppress(OSError):
        for folder in _all_logs().iterdir():
            stats = [path.stat() for path in folder.glob("*.log")]
            sizes.append(
                (
                    max((stat.st_mtime for stat in stats), default=0.0),
                    sum(stat.st_size for stat in stats),
                    folder,
                )
            )
    total = sum(size for _, size, _ in sizes)
    for _, size, folder in sorted(sizes)[:-1]:  # never the newest
        if total <= limit:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _all_logs() -> Path:
    return state_dir() / "logs"


def _header(path: Path) -> Header | None:
    """None when the file is not one of these, or was left before its first line was written."""
    try:
        with path.open("rb") as file:
            first = file.readline(4096)
        fields = json.loads(first.removeprefix(_MARK + b"log "))
        return Header(
            pod=str(fields["pod"]),
            container=str(fields["container"]),
            created=str(fields["created"]),
            index=int(fields["index"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
