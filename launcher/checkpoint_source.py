"""`--from RUN@best`, `--from SWEEP/7@best`: a checkpoint of an earlier run, as values of the new run's conf."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from launcher import output
from launcher.backend_base import Backend
from launcher.conf.schema import VolumeConf
from launcher.errors import ClusterError, UserError, did_you_mean
from launcher.records import RunRecord, find
from launcher.sweep import Trials, shown
from launcher.sweep_view import TrialFiles, folder_of, look, require_trial, trials_of

MANIFEST = "checkpoints/manifest.json"


def values_from(
    source: str, verb: str, *, runs: VolumeConf, backend: Backend, sets: Sequence[str] = ()
) -> dict[str, Any]:
    """The conf values that RUN, RUN@best, RUN@last or RUN@N stand for. The run must lie on the new run's own runs volume.

    `test` reads a folder of checkpoints and a range of epochs; every other verb starts from one file, by default the best.
    Of a sweep, SWEEP/7 is its trial 7, and SWEEP@best (or @last) the trial that `sweep results` calls the best; what that trial changed
    of the network and its data comes along, unless `sets` (of --set) says otherwise: its weights fit no other network.
    """
    name, at, which = source.partition("@")
    name, _, number = name.partition("/")
    record = find(name)
    if record.backend != backend.name or record.runs_claim != runs.claim:
        where = f'claim "{record.runs_claim}" of the {record.backend} backend'
        raise UserError(
            f'{record.run} lies on {where}, the new run writes to "{runs.claim}" ({backend.name})',
            hint="fetch the checkpoint and push it",
        )
    trial = _trial(record, number, which)
    folder = f"${{runs}}/{record.run}{'' if trial is None else f'/{folder_of(trial)}'}/checkpoints"
    own = {} if trial is None else _network(record, trial, sets)
    if verb == "test" and not at:
        return {**own, "test.checkpoints": folder}
    file, epoch = _chosen(_manifest(record, trial, backend), which or "best", _named(record, trial))
    if verb == "test":
        return {**own, "test.checkpoints": folder, "test.epochs": str(epoch)}
    return {**own, "model.init": f"{folder}/{file}"}


def _network(record: RunRecord, trial: int, sets: Sequence[str]) -> dict[str, Any]:
    trials = trials_of(record)
    said = {each.partition("=")[0] for each in sets}
    changes = trials.changes(trial) if trials else {}
    return {
        key: value
        for key, value in changes.items()
        if key.partition(".")[0] in ("model", "data")
        and not key.startswith("model.init")
        and key not in said
    }


def _trial(record: RunRecord, number: str, which: str) -> int | None:
    """The trial that is meant; None for a run that is no sweep. UserError when it is not clear."""
    trials = trials_of(record)
    if trials is None:
        if number:
            raise UserError(
                f'{record.run} is one run, not a sweep: it has no trial "{number}"',
                hint=f"--from {record.run}@best",
            )
        return None
    if number.isdecimal():
        require_trial(record, int(number))
        return int(number)
    if number or which not in ("best", "last"):
        hint = f"--from {record.run}@best takes the best trial's, --from {record.run}/7@best that of trial 7 (also @last, or an epoch: @12)"
        raise UserError(
            f"{record.run} is a sweep of {len(trials)} trials: which one's checkpoint?", hint=hint
        )
    return _best_trial(record, trials)


def _best_trial(record: RunRecord, trials: Trials) -> int:
    """The one that `sweep results` names, told to the person."""
    view = look(record)
    if view.unread:
        hint = f"name the trial: `vidjobs sweep status {record.run}` lists them, --from {record.run}/7@best takes trial 7's"
        raise ClusterError(
            f"which trial of {record.run} is the best cannot be read now: {view.unread}", hint=hint
        )
    metric = next((name for name in view.metrics if name != "train_loss"), "")
    ranked = [trial for trial in view.ranked(metric) if trial.checkpoint] if metric else []
    if not ranked:
        hint = f"`vidjobs sweep status {record.run}` says how far they are"
        raise UserError(f"no trial of {record.run} has a checkpoint with a score yet", hint=hint)
    best = ranked[0]
    others = len(trials) - view.counts().get("succeeded", 0)
    open_ = f"; {others} of {len(trials)} trials have not succeeded" if others else ""
    output.note(
        f"from trial {best.number} of {record.run} ({shown(best.changes)}): best {metric}, {best.score(metric):.4g}{open_}"
    )
    return best.number


def _named(record: RunRecord, trial: int | None) -> str:
    return record.run if trial is None else f"trial {trial} of {record.run}"


def _manifest(record: RunRecord, trial: int | None, backend: Backend) -> dict[str, Any]:
    with backend.files(record) as folder:
        files = folder if trial is None else TrialFiles(folder, trial)
        sizes = {file.path: file.size for file in files.list()}
        if MANIFEST not in sizes:
            hint = f"`vidjobs {'status' if trial is None else 'sweep status'} {record.run}` says how far it is"
            raise UserError(f"{_named(record, trial)} has no checkpoint yet", hint=hint)
        text = b"".join(files.read(MANIFEST, 0, sizes[MANIFEST]))
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _chosen(manifest: dict[str, Any], which: str, run: str) -> tuple[str, int]:
    """File name and epoch of "best", "last" or an epoch's number."""
    weights = {
        name: entry for name, entry in manifest["files"].items() if entry["kind"] == "weights"
    }
    name = str(manifest.get(which)) if which in ("best", "last") else f"epoch-{which:0>6}.pt"
    if name not in weights:
        epochs = sorted(entry["epoch"] for entry in weights.values())
        span = f"epochs {epochs[0]} to {epochs[-1]}" if epochs else "no checkpoint"
        raise UserError(
            f'{run} has no checkpoint "{which}"',
            hint=did_you_mean(which, ["best", "last"]) or f"it has best, last and {span}",
        )
    return name, int(weights[name]["epoch"])
