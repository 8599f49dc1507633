"""The record of runs: `<state>/runs/<run>.json`, written at submit, read by every later verb.

It holds what fetch, rerun and diff need after the cluster has forgotten the Job. `RunPaths` owns every
name inside a run's folder (the layout is a contract with the trainer, tested in tests/contract).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from launcher import output
from launcher.errors import UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One submitted run."""

    run: str
    verb: str
    name: str
    created: str  # RFC 3339, UTC
    backend: str  # "kube" | "local"
    cluster: str  # profile name
    context: str  # kubeconfig context; "" on local
    namespace: str
    directory: str  # where `submit` was typed
    runs_claim: str
    runs_mount: str  # path of the runs volume in the pod, or on this machine
    image: str = ""
    image_id: str = ""  # what a pod of the run really ran, as its status told: name@sha256:...
    commit: str = ""
    # the code pin but its diff, which the manifests hold (launcher/recorded.py)
    code: dict[str, Any] = field(default_factory=dict)
    conf_text: str = ""
    whole_conf: str = ""  # all sections resolved, as a conf file: `rerun` starts from it
    rerun_of: str = ""
    # nodes that failed its pods again and again -> how often (launcher/nodes.py)
    blamed: dict[str, int] = field(default_factory=dict)
    manifests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def paths(self) -> RunPaths:
        return RunPaths(root=PurePosixPath(self.runs_mount) / self.run)


@dataclass(frozen=True)
class RunPaths:
    """Every name in a run's folder (product spec: a run)."""

    root: PurePosixPath

    @property
    def conf(self) -> PurePosixPath:
        return self.root / "conf.yaml"

    @property
    def provenance(self) -> PurePosixPath:
        return self.root / "provenance.json"

    @property
    def metrics(self) -> PurePosixPath:
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> PurePosixPath:
        return self.root / "train.log"

    @property
    def checkpoints(self) -> PurePosixPath:
        return self.root / "checkpoints"

    @property
    def predictions(self) -> PurePosixPath:
        return self.root / "predictions"

    @property
    def figures(self) -> PurePosixPath:
        return self.root / "figures"

    @property
    def tensorboard(self) -> PurePosixPath:
        return self.root / "tensorboard"

    @property
    def report(self) -> PurePosixPath:
        return self.root / "report.html"

    @property
    def done(self) -> PurePosixPath:
        return self.root / "DONE.json"

    @property
    def manifest(self) -> PurePosixPath:
        return self.checkpoints / "manifest.json"


def state_dir() -> Path:
    """`$XDG_STATE_HOME/vidjobs`, by default `~/.local/state/vidjobs`."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "vidjobs"


def save(record: RunRecord) -> Path:
    """Write the record; a record of that name must not exist (two submits never share a name)."""
    folder = state_dir() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.run}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(record), indent=1))
    try:
        os.link(temporary, path)  # unlike rename, fails when the name is taken
    finally:
        temporary.unlink()
    return path


def note(record: RunRecord, *, image_id: str, blamed: dict[str, int]) -> RunRecord:
    """The record with what its pods told, on disk too if it is there.

    Of what was run the first word stays, since a retry may have pulled something else; of the nodes to blame the last one counts.
    """
    image_id = record.image_id or image_id
    if (image_id, blamed) == (record.image_id, record.blamed):
        return record
    path = state_dir() / "runs" / f"{record.run}.json"
    if not path.is_file():
        return record
    noted = replace(record, image_id=image_id, blamed=blamed)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(noted), indent=1))
    temporary.replace(path)
    return noted


def load_all() -> list[RunRecord]:
    """All records, newest first. One that cannot be read is warned of and left out: the others are not lost with it."""
    found = [record for path in (state_dir() / "runs").glob("*.json") if (record := _load(path))]
    return sorted(found, key=lambda record: record.created, reverse=True)


def find(name: str | None, records: Sequence[RunRecord] | None = None) -> RunRecord:
    """The run called `name`, or the only one that starts with it; None: the newest submitted from this directory.

    Raises UserError when there is none or more than one.
    """
    known = load_all() if records is None else list(records)
    if name is None:
        here = str(Path.cwd())
        mine = [record for record in known if record.directory == here]
        if not mine:
            raise UserError(
                f"no run was submitted from {here}", hint="name one: `vidjobs status` lists them"
            )
        return mine[0]
    # every name starts with it: `cancel "$RUN"` without a RUN must not mean the only one there is
    if not name:
        raise UserError("the run's name is empty", hint="`vidjobs status` lists the runs")
    hits = [record for record in known if record.run == name] or [
        record for record in known if record.run.startswith(name)
    ]
    if len(hits) == 1:
        return hits[0]
    if not hits:
        hint = (
            did_you_mean(name, [record.run for record in known])
            or "`vidjobs status` lists the runs"
        )
        raise UserError(f'no run is called "{name}"', hint=hint)
    names = ", ".join(record.run for record in hits[:5])
    raise UserError(
        f'"{name}" is the start of {len(hits)} runs: {names}', hint="type more of the name"
    )


def forget(run: str) -> None:
    """Remove the record of `run`; no error when there is none."""
    (state_dir() / "runs" / f"{run}.json").unlink(missing_ok=True)


_FIELDS = frozenset(each.name for each in fields(RunRecord))


def _load(path: Path) -> RunRecord | None:
    """None for what is no record, which is told, or has just been removed. Keys that a newer vidjobs wrote are passed over."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return RunRecord(**{key: value for key, value in found.items() if key in _FIELDS})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        output.warn(
            f"{path} is no record of a run and is left out ({error}); remove it if it stays so"
        )
        return None
