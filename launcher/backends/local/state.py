"""The files of one local run, `<state>/local/runs/<run>`, and the state that its supervisor keeps there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.backend_base import IndexStatus, Phase, PodStatus
from launcher.backends.local.process import Identity
from launcher.errors import UserError
from launcher.records import state_dir

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
NOBODY = Identity(pid=0, start="", boot="")


def local_dir() -> Path:
    """Where everything of the local backend lies."""
    return state_dir() / "local"


def volume_dir(claim: str) -> Path:
    """The directory that stands for a claim without one in the cluster profile."""
    _check_name("claim", claim)
    return local_dir() / "volumes" / claim


@dataclass(frozen=True)
class RunDir:
    """Every name in a local run's own folder (not the run folder on the volume)."""

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def conf(self) -> Path:
        return self.root / "conf"

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def heartbeat(self) -> Path:
        """Touched by the supervisor every few seconds."""
        return self.root / "heartbeat"

    @property
    def suspended(self) -> Path:
        """Exists when `cancel` was asked for."""
        return self.root / "suspended"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    def log(self, pod: str, container: str = "trainer") -> Path:
        return self.root / "logs" / f"{pod}.{container}.log"

    def termination(self, pod: str) -> Path:
        return self.root / "termination" / pod


def run_dir(run: str) -> RunDir:
    """The folder of a run; UserError when the name could lead elsewhere."""
    _check_name("run", run)
    return RunDir(local_dir() / "runs" / run)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise UserError(
            f'"{name}" cannot be the name of a {what}',
            hint="lower-case letters, digits, - and ., as Kubernetes wants it",
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """What the supervisor knows; replaced as a whole, so a reader never sees half of it."""

    run: str
    phase: Phase = Phase.PENDING
    cause: str = ""
    fix: str = ""
    pods: tuple[PodStatus, ...] = ()
    termination: Mapping[str, Any] = field(default_factory=dict)
    supervisor: Identity = NOBODY
    leader: Identity = NOBODY  # the trainer's process, while one runs
    lanes: tuple[Identity, ...] = ()  # processes that each run one index, while they do
    failures: int = 0  # attempts that counted against the retries
    indexes: Mapping[int, IndexStatus] = field(default_factory=dict)  # of trials and shards

    def with_pod(self, pod: PodStatus) -> State:
        """The same state with this pod updated, or added as the newest."""
        others = tuple(known for known in self.pods if known.name != pod.name)
        return replace(self, pods=(*others, pod))


def save(state: State, path: Path) -> None:
    """Write the state so that it is there whole or not at all."""
    write_whole(path, to_json(state))


def load(path: Path) -> State:
    """Read what `save` wrote; of a damaged file, as a machine that lost its power may leave, a run that failed. FileNotFoundError: none."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError):
        run = path.parent.name
        fix = f"`vidjobs resume {run}` goes on from its last checkpoint"
        return State(
            run=run,
            phase=Phase.FAILED,
            cause=f"what this machine noted of it is damaged: {path}",
            fix=fix,
        )


def to_json(state: State) -> str:
    """The state on one line."""
    return json.dumps(asdict(state))


def from_json(text: str) -> State:
    """What `to_json` gave."""
    raw = json.loads(text)
    raw["phase"] = Phase(raw["phase"])
    raw["pods"] = tuple(PodStatus(**{**pod, "phase": Phase(pod["phase"])}) for pod in raw["pods"])
    raw["supervisor"] = Identity(**raw["supervisor"])
    raw["leader"] = Identity(**raw["leader"])
    raw["lanes"] = tuple(Identity(**lane) for lane in raw.get("lanes", ()))
    statuses = raw.get("indexes", {}).items()
    raw["indexes"] = {
        int(number): IndexStatus(phase=Phase(each["phase"]), cause=each["cause"])
        for number, each in statuses
    }
    return State(**raw)


def write_whole(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def now() -> str:
    """The time as Kubernetes writes it: RFC 3339, UTC, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
