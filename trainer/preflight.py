"""What is looked at before training starts, so that it fails in the first second and not in the night."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from trainer import config as conf
from trainer import optim
from trainer.compute import Compute
from trainer.config import Config
from trainer.data import flow, normalise
from trainer.errors import ConfFault, DataError, Fault
from trainer.evaluation import METRICS_OF
from trainer.run_folder import RunFolder, readable_size

# what a resumed run may change: where things are, how long it goes on, how it is computed and
# looked at
FREE = (
    *("data.root", "data.flow_root", "data.cache"),
    *("train.validate_every", "train.checkpoint_steps", "train.keep_weights", "train.log_every"),
    *("test.", "eval.", "fuse.", "infer.", "prepare.", "compute."),
)
LENGTH = ("train.epochs", "train.max_steps")  # free too, unless the schedule hangs on them
INEXACT = tuple(
    f"compute.{key}"
    for key in ("device", "precision", "channels_last", "compile", "fused", "processes", "threads")
)
PREFETCHED = 2  # batches that each data worker has ready
SHM = Path("/dev/shm")  # where torch's data workers hand over batches


def require_same_conf(folder: RunFolder, config: Config, say: Callable[[str], None]) -> None:
    """Refuse to go on with a run under another recipe: ConfFault naming the keys. Says what a change costs."""
    known = _known_conf(folder)
    if known is None:
        return
    changes = differences(known, conf.flat(config))
    free = FREE if config.train.schedule == "cosine" else (*FREE, *LENGTH)
    refused = {path: values for path, values in changes.items() if not path.startswith(free)}
    if refused:
        hint = "a new submit makes a new run; `--from` starts it from this one's weights"
        where = f"in the run {folder.root.name} that is resumed"
        told = {
            path: f"was {old!r} {where}, is now {new!r}" for path, (old, new) in refused.items()
        }
        raise ConfFault(
            [Fault(path=path, message=message, hint=hint) for path, message in told.items()]
        )
    inexact = [path for path in changes if path in INEXACT]
    if inexact:
        say(
            f"note: changed since the run began: {', '.join(inexact)}; it goes on, but no longer bit for bit as it would have"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """key path -> (old, new) of every setting in which two flat confs differ."""
    before, after = _leaves(old), _leaves(new)
    return {
        path: (before.get(path), after.get(path))
        for path in sorted(before | after)
        if before.get(path) != after.get(path)
    }


def require_metric(config: Config, *, validated: bool, multi_label: bool) -> None:
    """Raise ConfFault when train.select names no metric of such a dataset, or there is no validation that would tell it."""
    known = ("auto", "loss", *METRICS_OF[multi_label])
    if config.train.select not in known:
        labels = "several labels" if multi_label else "one label"
        message = f"is {config.train.select!r}, which videos with {labels} are not scored by"
        raise ConfFault(
            [Fault(path="train.select", message=message, hint=f"one of {', '.join(known)}")]
        )
    if not validated and config.data.val_fraction > 0:
        hint = "raise data.val_fraction, or set it to 0 to train without validation"
        message = f"is {config.data.val_fraction}, which leaves no clip for validation"
        raise ConfFault([Fault(path="data.val_fraction", message=message, hint=hint)])


def require_flow_levels(config: Config) -> None:
    """Raise ConfFault where data.normalise is for flow images with other levels to the pixel than data.flow_root holds."""
    data = config.data
    if data.stream != "flow" or data.normalise != "vmz_flow" or (data.mean and data.std):
        return
    bound = flow.made_as(Path(data.flow_root)).get("bound")
    levels = flow.scale_of(bound) if bound else normalise.FLOW_LEVELS
    if levels == normalise.FLOW_LEVELS:
        return
    preset, share = normalise.PRESETS[data.normalise], levels / normalise.FLOW_LEVELS
    mean = [
        round(normalise.FLOW_ZERO + (value - normalise.FLOW_ZERO) * share, 4)
        for value in preset.mean
    ]
    std = [round(value * share, 4) for value in preset.std]
    message = (
        f"is {data.normalise}, for {normalise.FLOW_LEVELS} levels to the px of flow; "
        f"{data.flow_root} has {levels} (flow_bound {bound})"
    )
    raise ConfFault(
        [
            Fault(
                path="data.normalise",
                message=message,
                hint=f"data.mean: {mean} and data.std: {std} are the same there",
            )
        ]
    )


def checkpoint_size(model: nn.Module, config: Config) -> int:
    """Bytes of one epoch's two files, at most: weights, and the state with what the optimizer keeps."""
    every = sum(
        values.numel() * values.element_size() for values in (*model.parameters(), *model.buffers())
    )
    trained = sum(
        weight.numel() * weight.element_size()
        for weight in model.parameters()
        if weight.requires_grad
    )
    return 2 * every + optim.slots(config.train) * trained + (1 << 20)


def fit_workers(
    compute: Compute, config: Config, *, processes: int = 1, shm: Path = SHM
) -> Compute:
    """Fewer data workers when their batches would not fit into the shared memory of all processes (a bus error otherwise).

    Raises ConfFault when so many were demanded.
    """
    if not compute.workers or not shm.is_dir():
        return compute
    batch = (
        max(compute.clips, 1)
        * config.data.frames
        * config.data.size**2
        * normalise.channels(config.data)
    )
    free = shutil.disk_usage(shm).free // processes
    fitting = int(free // (batch * PREFETCHED * 1.25))
    if fitting >= compute.workers:
        return compute
    wanted = readable_size(compute.workers * batch * PREFETCHED)
    lack = f"{compute.workers} workers prefetch {wanted}, and {shm} has {readable_size(free)} free for each process"
    if config.compute.workers != "auto":
        hint = f"raise job.resources.shm, or set compute.workers to {fitting} or auto"
        raise ConfFault([Fault(path="compute.workers", message=lack, hint=hint)])
    note = f"warning: {lack}; going on with {fitting} (job.resources.shm makes room)"
    return replace(compute, workers=fitting, notes=(*compute.notes, note))


def _known_conf(folder: RunFolder) -> Mapping[str, Any] | None:
    """The flat conf of the run so far; None when it has no checkpoint yet."""
    # a manifest can be made anew from them
    begun = folder.manifest.exists() or any(folder.checkpoints.glob("state-*.pt"))
    if not (begun and folder.conf.exists()):
        return None
    try:
        raw = yaml.safe_load(folder.conf.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(
            f"cannot read {folder.conf}: {error}",
            hint="restore it, or move the run folder away to start anew",
        ) from error
    # a key of another version is no change of the recipe
    known, _ = conf.parse(raw if isinstance(raw, dict) else {})
    return conf.flat(known)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        found |= _leaves(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return found
