"""What `status` knows about a run: its record, its backend's word, and how far its log says it is; gathered with few questions."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from launcher import nodes, output
from launcher.all_backends import ALL_BACKENDS, for_record, profile_of
from launcher.backend_base import Backend, LogLine, Phase, RunStatus
from launcher.errors import VidjobsError
from launcher.forecast import Verdict, asked, forecast, newest
from launcher.losses import LossRecord, parse_line
from launcher.profiles import ClusterProfile, load
from launcher.records import RunPaths, RunRecord, note

_TAILS = (10, 200)  # log lines looked at for the newest loss
# bytes at the end of metrics.jsonl that hold a line of usage, which comes once a minute
_USAGE_TAIL = 256 << 10
_USAGE_S = 30.0  # how long one is shown by --watch before it is read again
_NAME = re.compile(r"(?P<name>.+)-(?P<verb>[a-z]+)-[a-z0-9]{6}")
_PARTS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run. `status` is None when its cluster could not be asked; `record` when it was submitted elsewhere."""

    run: str
    record: RunRecord | None
    status: RunStatus | None
    cluster: str
    loss: LossRecord | None = None
    # the trainer's newest record of what it uses
    usage: Mapping[str, Any] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()  # of the site on that

    @property
    def eta(self) -> str:
        """What the trainer said last of the time that is left, while it runs: "1h02m"."""
        running = self.status is not None and self.status.phase is Phase.RUNNING
        return str(self.loss.values.get("eta", "")) if self.loss and running else ""

    @property
    def phase(self) -> str:
        return str(self.status.phase) if self.status else "unknown"

    @property
    def verb(self) -> str:
        match = _NAME.fullmatch(self.run)
        return self.record.verb if self.record else match["verb"] if match else ""

    @property
    def blamed(self) -> dict[str, int]:
        """Nodes that a rerun avoids, and how many attempts failed there; none of a run that runs, or has come to its end all the same."""
        wanted = self.phase in (Phase.RETRYING, Phase.FAILED, Phase.CANCELLED, Phase.GONE)
        return self.record.blamed if self.record and wanted else {}

    @property
    def created(self) -> str:
        """RFC 3339; of a run submitted elsewhere its Job's; "" when not known."""
        return self.record.created if self.record else self.status.created if self.status else ""

    @property
    def epoch(self) -> int | None:
        return self.loss.epoch if self.loss else self._said("epoch")

    @property
    def step(self) -> int | None:
        return self.loss.step if self.loss else self._said("step")

    def _said(self, key: str) -> int | None:
        value = self.status.termination.get(key) if self.status else None
        return value if isinstance(value, int) else None

    def as_json(self) -> dict[str, Any]:
        """The stable schema of `vidjobs status --json`."""
        status, record = self.status, self.record
        return {
            "run": self.run,
            "verb": self.verb,
            "phase": self.phase,
            "cause": status.cause if status else "",
            "fix": status.fix if status else "",
            "created": self.created,
            "cluster": self.cluster,
            "namespace": record.namespace if record else "",
            "directory": record.directory if record else "",
            "folder": str(record.paths.root) if record else "",
            "epoch": self.epoch,
            "step": self.step,
            "eta": self.eta,
            "usage": {**self.usage, "verdicts": [asdict(each) for each in self.verdicts]}
            if self.usage
            else None,
            "progress": self.loss.as_json() if self.loss else None,
            "pods": [asdict(pod) for pod in status.pods] if status else [],
            "blamed": self.blamed,
            "termination": dict(status.termination) if status else {},
        }


def age(created: str, now: datetime | None = None) -> str:
    """`3d4h`, `2h5m`, `12m`, `40s`; "" for a time that is not known."""
    if not created:
        return ""
    seconds = int(
        (
            (now or datetime.now(UTC)) - datetime.fromisoformat(created.replace("Z", "+00:00"))
        ).total_seconds()
    )
    words = []
    for size, unit in _PARTS:
        count, seconds = divmod(max(0, seconds), size)
        if count:
            words.append(f"{count}{unit}")
    long = bool(words) and words[0][-1] in "dh"
    return "".join(words[: 2 if long else 1]) or "0s"


def one(record: RunRecord) -> RunView:
    """A run with its newest loss."""
    backend = for_record(record)
    status = backend.status(record)
    record = remember(record, status)
    usage = _usage(backend, record, status)
    verdicts = (
        tuple(forecast(usage, asked(record.manifests), profile_of(record).bands)) if usage else ()
    )
    loss = _newest_loss(backend, record, status)
    return RunView(
        run=record.run,
        record=record,
        status=status,
        cluster=record.cluster,
        loss=loss,
        usage=usage,
        verdicts=verdicts,
    )


# run -> when its usage was read, and what it was
_seen: dict[str, tuple[float, dict[str, Any]]] = {}


def _usage(backend: Backend, record: RunRecord, status: RunStatus) -> dict[str, Any]:
    """The newest usage record of a training that runs; {} when there is none, or it may not be read."""
    if record.verb != "train" or status.phase is not Phase.RUNNING:
        return {}
    when, known = _seen.get(record.run, (-_USAGE_S, {}))
    if time.monotonic() - when < _USAGE_S:
        return known
    name = str(RunPaths(root=PurePosixPath()).metrics)
    found: dict[str, Any] = {}
    with contextlib.suppress(VidjobsError), backend.files(record) as files:
        found = newest(files.gather([name], _USAGE_TAIL).get(name, b"").decode("utf-8", "replace"))
    _seen[record.run] = (time.monotonic(), found)
    return found


def everything(
    records: Sequence[RunRecord], extra: ClusterProfile | None = None, *, ended: int | None = None
) -> list[RunView]:
    """All runs, newest first: one question to each place that a record names, and to `extra`. A place that does not answer is warned of.

    `ended`: only so many of those that have ended come with their last loss, which is in a file for each; None: all.
    """
    places: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        places.setdefault(
            (record.backend, record.cluster, record.context, record.namespace), []
        ).append(record)
    if extra and (where := _where(extra)):
        places.setdefault((extra.backend, extra.name, *where), [])
    found = [pair for place, mine in places.items() for pair in _at(place, mine)]
    found.sort(key=lambda pair: pair[0].created, reverse=True)
    past = [view.run for view, _ in found if view.status is None or view.status.phase.ended]
    bare = set() if ended is None else set(past[ended:])
    return [view if view.run in bare else _with_loss(view, backend) for view, backend in found]


def _where(profile: ClusterProfile) -> tuple[str, str] | None:
    """The context and namespace that the profile means now; None, with a warning, when that cannot be told."""
    try:
        return ALL_BACKENDS[profile.backend](profile).where()
    except VidjobsError as error:
        output.warn(f"{profile.name}: {error.message}")
        return None


def _at(
    place: tuple[str, ...], records: Sequence[RunRecord]
) -> Iterator[tuple[RunView, Backend | None]]:
    """The runs of one backend, context and namespace, and that backend if it answers."""
    name, cluster, context, namespace = place
    known = {record.run: record for record in records}
    try:
        profile = (
            profile_of(records[0])
            if records
            else load(cluster).at(context=context, namespace=namespace)
        )
        backend = ALL_BACKENDS[name](profile)
        found = {status.run: status for status in backend.list_runs()}
    except VidjobsError as error:
        output.warn(f"{cluster}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        yield from (
            (RunView(run=run, record=record, status=None, cluster=cluster), None)
            for run, record in known.items()
        )
        return
    for run in sorted(known.keys() | found.keys()):
        record = known.get(run)
        status = found.get(run) or RunStatus(run=run, phase=Phase.GONE)
        record = remember(record, status) if record else None
        yield RunView(run=run, record=record, status=status, cluster=cluster), backend


def _with_loss(view: RunView, backend: Backend | None) -> RunView:
    """With its last loss where that costs little: of what runs, and of what this machine ran."""
    if backend is None or view.record is None or view.status is None:
        return view
    if view.status.phase is not Phase.RUNNING and backend.name != "local":
        return view
    return replace(view, loss=_newest_loss(backend, view.record, view.status))


def remember(record: RunRecord, status: RunStatus) -> RunRecord:
    """Whoever looks at a run writes down what its pods ran and where they failed: `rerun` and `diff` want it when the pods have gone."""
    image = next((pod.image for pod in status.pods if pod.image), "")
    return note(record, image_id=image, blamed=nodes.blamed(record, status))


def _newest_loss(backend: Backend, record: RunRecord, status: RunStatus) -> LossRecord | None:
    """The last loss among the log's last lines; None when there is none, or no log."""
    if status.phase in (Phase.PENDING, Phase.GONE):
        return None
    try:
        for tail in _TAILS:  # most logs end with a loss, or soon after one: the long look is rare
            losses = _losses(backend.logs(record, tail=tail, quick=True))
            if losses:
                # a val line has none
                eta = next(
                    (each.values["eta"] for each in reversed(losses) if "eta" in each.values), None
                )
                return (
                    losses[-1]
                    if eta is None
                    else replace(losses[-1], values={**losses[-1].values, "eta": eta})
                )
    except VidjobsError:
        pass  # progress is a courtesy; the status itself has come
    return None


def _losses(lines: Iterable[LogLine]) -> list[LossRecord]:
    """Those after the last mark that lines are missing: an older one is not how far the run is."""
    found: list[LossRecord] = []
    for line in lines:
        if line.kind == "gap":
            found.clear()
        record = parse_line(line.text, complete=line.terminated) if line.kind == "line" else None
        if record is not None and record.loss is not None:
            found.append(record)
    return found
