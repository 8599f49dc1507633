"""A run's log: its pods are found as they come, also before the first one exists, and each is read to its end."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from launcher.backend_base import LogLine
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Listing, Object
from launcher.backends.kube.container_log import SILENCE_S, ContainerLog, Start, replayed
from launcher.backends.kube.kept_logs import KeptLogs
from launcher.backends.kube.log_cursor import LogCursor
from launcher.backends.kube.side_by_side import SideBySide, timed
from launcher.errors import ClusterError
from launcher.indexes import parse_ranges
from launcher.wanted import Wanted

_WATCH_S = 10  # how long to wait for news of the run's pods before looking at the Job again
_PATIENCE_S = 600.0  # how long a follow survives an API server that is away
_MERGED = 32  # pods whose logs are open at once when they are merged

_T = TypeVar("_T")
_Begin = tuple[Object, Start]  # a pod, and where its log begins to be shown


@dataclass(kw_only=True)
class JobLogs:
    """All pods of one run."""

    client: KubeClient
    run: str
    since_s: int | None = None
    tail: int | None = None
    index: int | None = None  # only pods of this trial or shard
    silence_s: float = SILENCE_S
    kept: KeptLogs | None = None  # this machine's; None: nothing is kept
    wanted: Wanted | None = None  # see Backend.logs
    _stop: threading.Event = field(default_factory=threading.Event)

    def read(self, *, all_pods: bool) -> Iterator[LogLine]:
        """What is there now: of the newest pod that has a log, or of all, merged by time; of pods that are gone what is kept."""
        pods = pod_of.oldest_first(self._list().items)
        if not any(map(pod_of.begun, pods)):
            yield from self._of_gone_pods(pods, all_pods=all_pods)
            return
        gone = (
            self.kept.gone(pods, all_pods=True)
            if self.kept and all_pods and self._start() == Start()
            else []
        )
        logs = [replayed(log, LogCursor()) for log in gone]
        shown = pods if all_pods else pod_of.from_newest_begun(pods)
        logs += [self._pod_lines(pod, self._start(), follow=False) for pod in shown]
        if len(logs) <= _MERGED:
            yield from (
                line for _, line in heapq.merge(*map(timed, logs), key=lambda pair: pair[0])
            )
        else:
            for lines in logs:
                yield from lines

    def follow(self, *, all_pods: bool) -> Iterator[LogLine]:
        """Until the run has ended. Pods that replace failed ones follow on; with `all_pods` all are followed at once, merged by time."""
        batches = self._as_they_come(all_pods=all_pods)
        try:
            first = next(batches, None)
            if first is None:
                yield from self._of_gone_pods([], all_pods=all_pods)
            elif all_pods:
                yield from self._merged(first, batches)
            else:
                for pod, start in itertools.chain(first, itertools.chain.from_iterable(batches)):
                    yield from self._pod_lines(pod, start, follow=True)
        finally:
            self._stop.set()

    def _merged(self, first: list[_Begin], later: Iterator[list[_Begin]]) -> Iterator[LogLine]:
        """All at once, but for a sweep's many pods that are over already: those one after the other, as `read` shows them."""
        live = first
        if len(first) > _MERGED:
            live = [(pod, start) for pod, start in first if not pod_of.over(pod)]
            for pod, start in first:
                if pod_of.over(pod):
                    yield from self._pod_lines(pod, start, follow=False)
        begins = itertools.chain(live, itertools.chain.from_iterable(later))
        logs = (partial(self._pod_lines, pod, start, follow=True) for pod, start in begins)
        yield from SideBySide(logs, self._stop, self.client.now).lines()

    def _of_gone_pods(self, waiting: Sequence[Object], *, all_pods: bool) -> Iterator[LogLine]:
        """What is kept of earlier attempts: all of a run that has ended, and what was seen here of one whose next attempt waits."""
        if self.kept is None:
            return
        start = self._start()
        if not waiting and self._ended(self._patiently(lambda: self.client.find("Job", self.run))):
            yield from self.kept.lines(all_pods=all_pods, since=start.since, tail=start.tail)
        else:
            yield from self.kept.seen(
                waiting, all_pods=all_pods, since=start.since, tail=start.tail
            )

    def _start(self) -> Start:
        since = None if self.since_s is None else int(self.client.now()) - self.since_s
        return Start(since=since, tail=self.tail)

    def _list(self) -> Listing:
        return self.client.list("Pod", labels=self._labels)

    @property
    def _labels(self) -> str:
        return pod_of.of_job(self.run, self.index)

    def _ended(self, job: Object | None) -> bool:
        """No pod will come any more: the Job has ended, or the index that is wanted."""
        said = (job or {}).get("status", {})
        over = parse_ranges(said.get("completedIndexes", "")) + parse_ranges(
            said.get("failedIndexes", "")
        )
        return bool(pod_of.job_ended(job)) or self.index in over

    def _as_they_come(self, *, all_pods: bool) -> Iterator[list[_Begin]]:
        """Each pod once, with where to begin: those already there from the newest that has a log on (or all), then every later one.

        One that has no log yet will be shown from its start.
        """
        seen: set[str] = set()
        # the first question is asked without patience: a wrong login or server shows at once
        listing = self._list()
        start = self._start()
        while not self._stop.is_set():
            ended = self._ended(self._patiently(lambda: self.client.find("Job", self.run)))
            listing = self._patiently(self._list)  # after the Job: an ended Job gets no more pods
            fresh = [
                pod for pod in pod_of.oldest_first(listing.items) if pod_of.uid(pod) not in seen
            ]
            if fresh:
                shown = fresh if all_pods or seen else pod_of.from_newest_begun(fresh)
                yield [(pod, start if pod_of.begun(pod) else Start()) for pod in shown]
                seen |= {pod_of.uid(pod) for pod in fresh}
                start = Start()
                continue
            if ended:
                return
            self._wait(listing.version)

    def _pod_lines(self, pod: Object, start: Start, *, follow: bool) -> Iterator[LogLine]:
        """An init container that failed, with all its words, then the trainer."""
        now = self._started(pod) if follow else pod
        if now is None:
            return
        init = pod_of.failed_init(now)
        if init:
            yield from self._container(now, str(init["name"]), Start()).lines(follow=False)
        main = pod_of.main_container(now)
        if pod_of.container_state(now, main) in ("running", "terminated"):
            yield from self._container(now, main, start).lines(follow=follow)

    def _container(self, pod: Object, container: str, start: Start) -> ContainerLog:
        return ContainerLog(
            client=self.client, pod=pod_of.name(pod), uid=pod_of.uid(pod), container=container,
            start=start, silence_s=self.silence_s, stop=self._stop,
            spool=self.kept.of(pod, container) if self.kept and start == Start() else None, wanted=self.wanted,
        )  # fmt: skip

    def _started(self, pod: Object) -> Object | None:
        """The pod as soon as it has something to read; None when it went away before that."""
        while not self._stop.is_set():
            now = self._patiently(lambda: self.client.find("Pod", pod_of.name(pod)))
            if now is None or pod_of.uid(now) != pod_of.uid(pod):
                return None
            if pod_of.container_state(now, pod_of.main_container(now)) != "waiting":
                return now
            self._wait(str(now["metadata"]["resourceVersion"]))
        return None

    def _wait(self, version: str) -> None:
        """Until a pod of the run changes, or some seconds."""
        try:
            for _ in self.client.watch(
                "Pod", version=version, labels=self._labels, timeout_s=_WATCH_S
            ):
                return
        except ClusterError as error:
            if not error.transient:
                raise
            self._stop.wait(1.0)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """The answer, also of an API server that is away for some minutes."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return ask()
            except ClusterError as error:
                if not error.transient or time.monotonic() > until or self._stop.is_set():
                    raise
            self._stop.wait(2.0)
