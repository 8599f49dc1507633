"""One container's log: attaches to it, again after every cut, until the container has ended and was read to its end.

`log_cursor` decides which lines are new; this module asks the API server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from launcher.backend_base import LogLine
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.log_cursor import Entry, LogCursor
from launcher.errors import ClusterError

SILENCE_S = 60.0  # a follow that brings nothing for so long is attached again; cures connections and rotations that stall silently
_LAST_READ_TRIES = 4


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
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._cursor = LogCursor(from_start=self.start == Start())

    def lines(self, *, follow: bool) -> Iterator[LogLine]:
        """Every line once, in order, to the container's end; without `follow` to what is there now."""
        failures = 0
        while not self.stop.is_set():
            state = self._state()
            if state == "gone":
                yield from self._shown(self._cursor.lost(f"pod {self.pod} was deleted before its log was read to the end"))
                return
            last = state != "running" or not follow
            self._cursor.attach()
            began = self.client.now()
            try:
                for block in self._read(follow=not last):
                    failures = 0
                    yield from self._shown(self._cursor.feed(block))
            except ClusterError as error:
                failures += 1
                if error.status in (401, 403):
                    raise
                if last and (failures >= _LAST_READ_TRIES or not error.transient):
                    yield from self._shown(self._cursor.lost(f"the end of this log could not be read: {error.message}"))
                    return
            else:
                if last:
                    yield from self._shown(self._cursor.finish())
                    return
                failures = 0
            self.stop.wait(self._pause(failures, self.client.now() - began))

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
        return "running" if pod_of.container_state(pod, self.container) in ("running", "waiting") else "over"

    def _read(self, *, follow: bool) -> Iterator[bytes]:
        query: dict[str, str | int | bool] = {"container": self.container, "timestamps": True}
        if follow:
            query["follow"] = True
        again = self._cursor.since
        since = max((second for second in (again, self.start.since) if second is not None), default=None)
        if since is not None:
            query["sinceTime"] = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if again is None and self.start.tail is not None:
            query["tailLines"] = self.start.tail
        path = self.client.path("Pod", self.pod, "log")
        with self.client.stream(path, query=query, doing=f"read the log of pod {self.pod}", read_s=self.silence_s) as blocks:
            yield from blocks

    def _pause(self, failures: int, lasted_s: float) -> float:
        """At most one attachment a second, fewer while they fail."""
        return min(10.0, 2.0**failures) if failures else max(0.0, 1.0 - lasted_s)

    def _shown(self, entries: Sequence[Entry]) -> Iterator[LogLine]:
        for entry in entries:
            yield LogLine(
                pod=self.pod, text=entry.text, time=entry.time, container=self.container, kind=entry.kind, terminated=entry.terminated
            )
