"""`--from RUN@best`: a checkpoint of an earlier run, as values of the new run's conf."""

from __future__ import annotations

import json
from typing import Any

from launcher.backend_base import Backend
from launcher.conf.schema import VolumeConf
from launcher.errors import UserError, did_you_mean
from launcher.records import RunRecord, find

MANIFEST = "checkpoints/manifest.json"


def values_from(source: str, verb: str, *, runs: VolumeConf, backend: Backend) -> dict[str, str]:
    """The conf values that RUN, RUN@best, RUN@last or RUN@N stand for. The run must lie on the new run's own runs volume.

    `test` reads a folder of checkpoints and a range of epochs; every other verb starts from one file, by default the best.
    """
    name, at, which = source.partition("@")
    record = find(name)
    if record.backend != backend.name or record.runs_claim != runs.claim:
        where = f'claim "{record.runs_claim}" of the {record.backend} backend'
        raise UserError(
            f'{record.run} lies on {where}, the new run writes to "{runs.claim}" ({backend.name})', hint="fetch the checkpoint and push it"
        )
    folder = f"${{runs}}/{record.run}/checkpoints"
    if verb == "test" and not at:
        return {"test.checkpoints": folder}
    file, epoch = _chosen(_manifest(record, backend), which or "best", record.run)
    if verb == "test":
        return {"test.checkpoints": folder, "test.epochs": str(epoch)}
    return {"model.init": f"{folder}/{file}"}


def _manifest(record: RunRecord, backend: Backend) -> dict[str, Any]:
    with backend.files(record) as files:
        sizes = {file.path: file.size for file in files.list()}
        if MANIFEST not in sizes:
            raise UserError(f"{record.run} has no checkpoint yet", hint=f"`vidjobs status {record.run}` says how far it is")
        text = b"".join(files.read(MANIFEST, 0, sizes[MANIFEST]))
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _chosen(manifest: dict[str, Any], which: str, run: str) -> tuple[str, int]:
    """File name and epoch of "best", "last" or an epoch's number."""
    weights = {name: entry for name, entry in manifest["files"].items() if entry["kind"] == "weights"}
    name = str(manifest.get(which)) if which in ("best", "last") else f"epoch-{which:0>6}.pt"
    if name not in weights:
        epochs = sorted(entry["epoch"] for entry in weights.values())
        span = f"epochs {epochs[0]} to {epochs[-1]}" if epochs else "no checkpoint"
        raise UserError(f'{run} has no checkpoint "{which}"', hint=did_you_mean(which, ["best", "last"]) or f"it has best, last and {span}")
    return name, int(weights[name]["epoch"])
