"""One container's log: attaches to it, again after every cut, until the container has ended and was read to its end.

`log_cursor` decides which lines are new; `log_spool` keeps them, and what it holds of an earlier look is not asked for
again; this module asks the API server.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from launcher.backend_base import LogLine
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.log_cursor import STAMP, Block, Entry, LogCursor
from launcher.errors import ClusterError
from launcher.log_spool import SpooledLog
from launcher.wanted import Wanted

# a follow that brings nothing for so long is attached again; cures connections and rotations that
# stall silently
SILENCE_S = 60.0
_LAST_READ_TRIES = 4
_LONGEST_PAUSE_S = 10.0  # after a failure
# What the trainer says last. A log that ends so is whole, also when its pod was gone before that
# could be asked.
CLOSING = re.compile(
    r"finished: last .+|error: stopped by SIGTERM after step .+ a retry goes on from it"
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the first read begins: at the log's first line unless told otherwise."""

    since: int | None = None  # epoch second
    tail: int | None = None


@dataclass(kw_only=True)
class ContainerLog:
    """One container of one pod."""

    client: KubeClient
    pod: str
    uid: str
    container: str
    start: Start = Start()
    silence_s: float = SILENCE_S
    # between the beginnings of two follows; after a failure twice as long, then four times
    pace_s: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)
    spool: SpooledLog | None = None  # used by reads from the first line
    wanted: Wanted | None = None  # other lines are only counted

    def __post_init__(self) -> None:
        self._cursor = LogCursor(from_start=self.start == Start())
        self._last = ""  # text of the last line, shown or counted
        if self.start != Start():
            self.spool = None

    def lines(self, *, follow: bool) -> Iterator[LogLine]:
        """Every line once, in order, to the container's end; without `follow` to what is there now."""
        if self.spool is None:
            yield from self._lines(follow=follow)
            return
        self.spool.open()
        try:
            for line in replayed(self.spool, self._cursor):
                self._last = line.text
                yield line
            if not self.spool.ended:
                yield from self._lines(follow=follow)
        finally:
            self.spool.close()

    def _lines(self, *, follow: bool) -> Iterator[LogLine]:
        failures, began = 0, -self.pace_s
        while not self.stop.is_set():
            state = self._state()
            if state == "gone":
                yield from self._gone()
                return
            last = state != "running" or not follow
            if not last:  # a container that has ended is not waited for
                if self.stop.wait(max(0.0, began + self.pace_s - time.monotonic())):
                    return
                began = time.monotonic()
            self._cursor.attach()
            try:
                for block in self._read(follow=not last):
                    failures = 0
                    yield from self._arrived(self._cursor.feed_many(block))
            except ClusterError as error:
                failures += 1
                if error.status in (401, 403):
                    raise
                if last and (failures >= _LAST_READ_TRIES or not error.transient):
                    yield from self._shown(
                        self._cursor.lost(
                            f"the end of this log could not be read: {error.message}"
                        ),
                        keep=False,
                    )
                    return
                self.stop.wait(min(_LONGEST_PAUSE_S, self.pace_s * 2.0**failures))
            else:
                if last:
                    yield from self._finished(over=state == "over")
                    return
                failures = 0

    def _finished(self, *, over: bool) -> Iterator[LogLine]:
        """Read to the end; `over`: of the container too."""
        entries = self._cursor.finish()
        open_end = entries[-1].raw if entries and not entries[-1].terminated else None
        self._keep(entries if open_end is None else entries[:-1])
        if over and self.spool is not None:
            self.spool.end(last=open_end)
        yield from self._shown(entries, keep=False)

    def _gone(self) -> Iterator[LogLine]:
        """The pod was deleted: what cannot be read any more is marked, unless the trainer's own last words are there."""
        entries = self._cursor.lost(
            f"pod {self.pod} was deleted before its log was read to the end"
        )
        if len(entries) == 1 and CLOSING.fullmatch(self._last):
            entries = []
        self._keep(entries)
        if self.spool is not None:
            self.spool.end()
        yield from self._shown(entries, keep=False)

    def _state(self) -> str:
        """ "running", "over" or "gone"; asked before each read, so that a read begun after the end is known to be the last."""
        try:
            pod = self.client.find("Pod", self.pod)
        except ClusterError as error:
            if not error.transient:
                raise
            return "running"
        if pod is None or pod_of.uid(pod) != self.uid:
            return "gone"
        return (
            "running"
            if pod_of.container_state(pod, self.container) in ("running", "waiting")
            else "over"
        )

    def _read(self, *, follow: bool) -> Iterator[bytes]:
        query: dict[str, str | int | bool] = {"container": self.container, "timestamps": True}
        if follow:
            query["follow"] = True
        again = self._cursor.since
        since = max(
            (second for second in (again, self.start.since) if second is not None), default=None
        )
        if since is not None:
            query["sinceTime"] = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if again is None and self.start.tail is not None:
            query["tailLines"] = self.start.tail
        path = self.client.path("Pod", self.pod, "log")
        with self.client.stream(
            path, query=query, doing=f"read the log of pod {self.pod}", read_s=self.silence_s
        ) as blocks:
            yield from blocks

    def _keep(self, entries: Sequence[Entry]) -> None:
        if self.spool is None or not entries:
            return
        lines: list[bytes] = []
        for entry in entries:
            if entry.kind == "gap":
                self.spool.append(lines, gap=entry.text)
                lines = []
            else:
                lines.append(entry.raw)
        self.spool.append(lines)

    def _arrived(self, pieces: Sequence[Entry | Block]) -> Iterator[LogLine]:
        for piece in pieces:
            if isinstance(piece, Block):
                if self.spool is not None:
                    self.spool.append_block(piece.raw)
                yield from self._of_block(piece)
            else:
                yield from self._shown([piece])

    def _of_block(self, block: Block) -> Iterator[LogLine]:
        """Each line costs as little as can be: a log may bring a million of them a second."""
        raw, pod, container = block.raw, self.pod, self.container
        self._last = raw[raw.rfind(b"\n", 0, -1) + 1 + STAMP : -1].decode("utf-8", "replace")
        if self.wanted is None:
            every = raw[:-1].decode("utf-8", "replace").split("\n")
            for number, line in enumerate(every, 1):
                more = number < len(every)
                yield LogLine(
                    pod=pod,
                    text=line[STAMP:],
                    time=line[: STAMP - 1],
                    container=container,
                    more=more,
                )
            return
        # of others each line says whose it is
        if self.wanted.joined and container == pod_of.TRAINER:
            count, lines = self.wanted.join(raw, start=STAMP)
            kind = "line" if count else "skipped"
            yield LogLine(
                pod=pod,
                text=lines,
                container=container,
                kind=kind,
                skipped=block.lines - count,
                lines=count,
            )
            return
        for skipped, line in self.wanted.among(raw, start=STAMP):
            if line:
                yield LogLine(
                    pod=pod,
                    text=line[STAMP:],
                    time=line[: STAMP - 1],
                    container=container,
                    skipped=skipped,
                    more=True,
                )
            else:
                yield LogLine(
                    pod=pod, text="", container=container, kind="skipped", skipped=skipped
                )

    def _shown(self, entries: Sequence[Entry], *, keep: bool = True) -> Iterator[LogLine]:
        if keep:
            self._keep(entries)
        for entry in entries:
            if entry.kind == "line":
                self._last = entry.text
            yield _line(entry, self.pod, self.container)


def replayed(spool: SpooledLog, cursor: LogCursor) -> Iterator[LogLine]:
    """What is kept of a log; the cursor knows these lines afterwards. The last one is open where the container ended so."""
    pod, container = spool.header.pod, spool.header.container
    held: list[Entry] = []  # the last entry, which may have to be marked
    cursor.attach()
    for piece in spool.replay():
        entries = [Entry(piece, kind="gap")] if isinstance(piece, str) else cursor.feed(piece)
        for entry in (*held, *entries[:-1]) if entries else ():
            yield _line(entry, pod, container)
        held = entries[-1:] or held
    if spool.ended:
        held += cursor.finish()  # of a log that began within a line and has no whole one
    for number, entry in enumerate(held, 1):
        is_last = number == len(held)
        yield _line(entry, pod, container, terminated=not (is_last and spool.open_end))


def _line(entry: Entry, pod: str, container: str, *, terminated: bool = True) -> LogLine:
    whole = terminated and entry.terminated
    return LogLine(
        pod=pod,
        text=entry.text,
        time=entry.time,
        container=container,
        kind=entry.kind,
        terminated=whole,
    )
