"""The log of a run whose pods are gone: what was seen of it on this machine, then what only the run folder's train.log has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from launcher.backend_base import Files, LogLine
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.container_log import replayed
from launcher.backends.kube.log_cursor import LogCursor
from launcher.errors import ClusterError, UserError
from launcher.fetch_choice import INSIDE
from launcher.log_spool import FolderLog, Header, RunSpool, SpooledLog, make_room

_FOLDER_LIMIT = 64 << 20  # bytes of train.log that are read, its last ones


@dataclass(kw_only=True)
class KeptLogs:
    """Of one run, or of one of its indexes. `folder` gives the lines of its train.log; it may take a helper pod."""

    run: str
    index: int | None = None
    folder: Callable[[], Sequence[str]] = tuple

    def __post_init__(self) -> None:
        self._spool = RunSpool(self.run)
        make_room()

    def of(self, pod: pod_of.Object, container: str) -> SpooledLog:
        """Where the log of this container is kept."""
        created = str(pod["metadata"].get("creationTimestamp", ""))
        header = Header(
            pod=pod_of.name(pod), container=container, created=created, index=pod_of.index(pod)
        )
        return self._spool.log(pod_of.uid(pod), header)

    def gone(self, there: Sequence[pod_of.Object], *, all_pods: bool) -> list[SpooledLog]:
        """The logs of pods that are not there any more, oldest first: of all, or of the newest one."""
        logs = self._spool.logs_without({pod_of.uid(pod) for pod in there})
        logs = [log for log in logs if self.index in (None, log.header.index)]
        return logs if all_pods else [log for log in logs if log.header.pod == logs[-1].header.pod]

    def seen(
        self, there: Sequence[pod_of.Object], *, all_pods: bool, since: int | None, tail: int | None
    ) -> Iterator[LogLine]:
        """What was seen on this machine of pods that are not there any more; see `gone`. `since`: epoch second."""
        yield from _part(self._seen(there, all_pods=all_pods), since=since, tail=tail)

    def _seen(self, there: Sequence[pod_of.Object], *, all_pods: bool) -> Iterator[LogLine]:
        for log in self.gone(there, all_pods=all_pods):
            yield from replayed(log, LogCursor())
            if not log.ended:
                pod = log.header.pod
                yield LogLine(
                    pod=pod,
                    text=f"pod {pod} is gone, and was not followed to its end on this machine",
                    kind="gap",
                )

    def lines(self, *, all_pods: bool, since: int | None, tail: int | None) -> Iterator[LogLine]:
        """The whole log of a run that has no pod left. `since`: epoch second."""
        yield from _part(self._lines(all_pods=all_pods), since=since, tail=tail)

    def _lines(self, *, all_pods: bool) -> Iterator[LogLine]:
        logs = self.gone((), all_pods=all_pods)
        if logs and all(log.ended for log in logs):
            for log in logs:
                yield from replayed(log, LogCursor())
            return
        folder, fault = self._folder_log()
        last = LogLine(pod="", text="")
        for log in logs:
            for last in replayed(log, LogCursor()):
                folder.seen(last.text)
                yield last
        for text in folder.rest():
            yield LogLine(pod=last.pod, text=text)
        if logs or fault:
            said = (
                fault
                or "not all of it was followed on this machine, and train.log has what the trainer itself says"
            )
            yield LogLine(pod=last.pod, text=f"the pods of {self.run} are gone: {said}", kind="gap")

    def _folder_log(self) -> tuple[FolderLog, str]:
        """And why it could not be read, if so."""
        try:
            return FolderLog(self.folder()), ""
        except (ClusterError, UserError) as error:
            return FolderLog(()), f"its folder could not be read: {error.message}"


def folder_lines(files: Files, index: int | None) -> list[str]:
    """The lines of train.log in a run's folder, or in that of one trial; none when there is no such file."""
    wanted = str(INSIDE.log) if index is None else f"trials/{index:04d}/{INSIDE.log}"
    for file in files.list():
        if file.path == wanted:
            start = max(0, file.size - _FOLDER_LIMIT)
            return (
                b"".join(files.read(wanted, start, file.size - start))
                .decode("utf-8", "replace")
                .splitlines()
            )
    return []


def _part(lines: Iterator[LogLine], *, since: int | None, tail: int | None) -> Iterator[LogLine]:
    if since is not None:
        lines = _since(lines, since)
    yield from lines if tail is None else _last(lines, tail)


def _last(lines: Iterator[LogLine], count: int) -> deque[LogLine]:
    """So many lines, and the marks among and after them."""
    kept: deque[LogLine] = deque()
    for line in lines:
        kept.append(line)
        count -= line.kind != "gap"
        while count < 0:
            count += kept.popleft().kind != "gap"
    return kept


def _since(lines: Iterator[LogLine], since: int) -> Iterator[LogLine]:
    """From the first line that is not older; lines without a time go with the line before them."""
    begin = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    shown = False
    for line in lines:
        shown = line.time >= begin if line.time else shown
        if shown:
            yield line
