"""`check`: every fault of a flat conf, and the defaults it filled in, in a moment and without torch.

The launcher runs it as a process before it submits, so that a typing error costs no GPU; every other verb runs
it first too. `--json` prints {"faults": [{path, message, hint}], "defaults": {key path: value}}; with `--trials` a fault also
names the trials that have it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer import config as conf
from trainer.config import Config
from trainer.data import all_datasets
from trainer.data.clip_rules import clip_faults
from trainer.data.prepare_rules import prepare_faults
from trainer.errors import ConfFault, Fault, did_you_mean
from trainer.model_rules import check_model, model_options
from trainer.signatures import find as find_model
from trainer.trials import Trials

EPOCHS = re.compile(r"all|\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*")
STDIN_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
# datasets that trainer/data/annotate.py and organise.py know
ANNOTATED, ORGANISED = ("ucf101", "kinetics"), ("ucf101", "folders")
WITHOUT_RATE = ("folders", "video_list")  # datasets of anybody's videos
KEEP_WEIGHTS = re.compile(r"all|best|last:[1-9]\d*")


def run(
    path: Path, overrides: Sequence[str], *, verb: str, as_json: bool, trials: Path | None = None
) -> int:
    """Print what is wrong with the conf for this verb, or with what the trials make of it; 0 when nothing is, else 64."""
    if trials is not None:
        return _run_trials(path, overrides, trials, verb=verb, as_json=as_json)
    raw, faults = conf.read(path, overrides)
    config, more = conf.parse(raw)
    faults = faults + more + check(config, verb)
    if as_json:
        rows = [
            {"path": fault.path, "message": fault.message, "hint": fault.hint} for fault in faults
        ]
        print(json.dumps({"faults": rows, "defaults": defaults(raw, config)}))
    else:
        print("\n".join(str(fault) for fault in faults) or f"{path}: no fault found")
    return ConfFault.exit_code if faults else 0


def _run_trials(
    path: Path, overrides: Sequence[str], file: Path, *, verb: str, as_json: bool
) -> int:
    # first: who sends it on stdin has written the trials before
    raw, base = conf.read(path, overrides)
    trials = Trials.read(file)
    found: dict[Fault, list[int]] = {fault: list(range(len(trials))) for fault in base}
    for number in range(len(trials)):
        changed = copy.deepcopy(raw)
        faults = [
            fault
            for key, value in trials.trial(number).changes.items()
            for fault in conf.put(changed, key, value)
        ]
        config, more = conf.parse(changed)
        for fault in dict.fromkeys(faults + more + check(config, verb)):
            found.setdefault(fault, []).append(number)
    if as_json:
        rows = [
            {"path": each.path, "message": each.message, "hint": each.hint, "trials": numbers}
            for each, numbers in found.items()
        ]
        print(json.dumps({"faults": rows, "defaults": defaults(raw, conf.parse(raw)[0])}))
    else:
        lines = [
            f"trial {', '.join(map(str, numbers))}: {fault}" for fault, numbers in found.items()
        ]
        print("\n".join(lines) or f"{path}: no fault found in {len(trials)} trials")
    return ConfFault.exit_code if found else 0


def load(
    path: Path, overrides: Sequence[str], *, verb: str, changes: Mapping[str, Any] | None = None
) -> Config:
    """The conf of the verb that is about to run, with a trial's changes. Raises ConfFault with every fault of form and of value."""
    raw, faults = conf.read(path, overrides, changes)
    config, more = conf.parse(raw)
    faults = faults + more + check(config, verb)
    if faults:
        raise ConfFault(faults)
    return config


def check(config: Config, verb: str = "train") -> list[Fault]:
    """Faults of value, in the order of the sections.

    `fuse` reads no dataset and no network, `infer` finds both in a checkpoint, and `prepare` needs no network, though a conf may have one.
    """
    if verb == "fuse":
        return _fuse(config)
    if verb == "infer":
        return _infer(config) + _compute(config)
    model = [] if verb == "prepare" and not config.model.name else check_model(config, None)
    if verb == "eval" and not config.model.init:
        model = [*model, _no_checkpoint("eval")]
    return (
        _data(config)
        + prepare_faults(config)
        + model
        + _train(config)
        + _evaluation(config)
        + _compute(config)
    )


def defaults(raw: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Key path -> value for everything that `raw` does not say."""
    given = {path for path, _ in _leaves(raw)}
    filled = dict(_leaves(conf.flat(config)))
    signature = find_model(config.model.name)
    if signature:
        # frames, size and channels are the data's
        decided = model_options(config, 0) | {"num_classes": None}
        options = {
            name: decided.get(name, option.default) for name, option in signature.options.items()
        }
        filled |= {
            f"model.{name}": value
            for name, value in options.items()
            if f"model.{name}" not in filled
        }
    inside = tuple(f"{path}." for path in given)
    return {
        path: value
        for path, value in filled.items()
        if path not in given and not path.startswith(inside)
    }


def datasets() -> list[str]:
    """Names that `data.name` takes: the modules of trainer/data/datasets (found without importing them)."""
    return all_datasets.names()


def _data(config: Config) -> list[Fault]:
    data, faults = config.data, []
    if data.name not in datasets():
        hint = did_you_mean(data.name, datasets()) or f"known: {', '.join(datasets())}"
        faults.append(
            Fault(path="data.name", message=f'no dataset is called "{data.name}"', hint=hint)
        )
    if not data.root:
        faults.append(
            Fault(
                path="data.root",
                message="is missing",
                hint="the dataset's folder, for example ${data}/TinyVIRAT",
            )
        )
    faults += _at_least({"data.frames": (data.frames, 1), "data.size": (data.size, 8)})
    faults += _between(
        {"data.flip": (data.flip, 0, 1), "data.val_fraction": (data.val_fraction, 0, 0.5)}
    )
    return faults + clip_faults(data) + _dataset(config)


def _dataset(config: Config) -> list[Fault]:
    """What one dataset cannot be, or cannot be prepared as."""
    data, prepare, faults = (
        config.data,
        config.prepare,
        _at_least({"data.fold": (config.data.fold, 1)}),
    )
    if data.name == "jester" and data.flip > 0:
        reason = "a mirrored gesture has another name, as Swiping Left and Swiping Right"
        faults.append(
            Fault(
                path="data.flip",
                message=f"is {data.flip} with jester, and {reason}",
                hint="set data.flip: 0",
            )
        )
    if data.name == "jester" and data.layout != "frames":
        hint = "jester is published as folders of images"
        faults.append(
            Fault(
                path="data.layout",
                message=f"is {data.layout}",
                hint=f"set data.layout: frames; {hint}",
            )
        )
    if data.stream == "flow" and not data.flow_root:
        hint = "the folder that prepare.flow_to wrote"
        faults.append(
            Fault(path="data.flow_root", message="is missing, and data.stream is flow", hint=hint)
        )
    if (
        data.fps > 0
        and data.name in WITHOUT_RATE
        and (data.layout == "frames" or data.stream == "flow")
    ):
        message = f"is {data.fps:g}, and folders of images have no time stamps to resample by"
        faults.append(
            Fault(
                path="data.fps",
                message=message,
                hint=f"set data.fps: 0, or read videos; {data.name} has no rate of its own",
            )
        )
    if prepare.annotate and data.name not in ANNOTATED:
        hint = f"only {' and '.join(ANNOTATED)} have an annotation file to build"
        faults.append(Fault(path="prepare.annotate", message=f"is on with {data.name}", hint=hint))
    if prepare.organise and data.name not in ORGANISED:
        hint = "only files named v_<Class>_g01_c01.avi tell their class: ucf101, or folders"
        faults.append(Fault(path="prepare.organise", message=f"is set with {data.name}", hint=hint))
    return faults


def _train(config: Config) -> list[Fault]:
    train = config.train
    faults = _at_least(
        {
            "train.epochs": (train.epochs, 1),
            "train.max_steps": (train.max_steps, 0),
            "train.epoch_size": (train.epoch_size, 0),
            "train.batch": (train.batch, 1),
            "train.accumulate": (train.accumulate, 1),
            "train.weight_decay": (train.weight_decay, 0),
            "train.warmup_steps": (train.warmup_steps, 0),
            "train.warmup_epochs": (train.warmup_epochs, 0),
            "train.clip_grad": (train.clip_grad, 0),
            "train.bias_lr": (train.bias_lr, 0),
            "train.validate_every": (train.validate_every, 1),
            "train.checkpoint_steps": (train.checkpoint_steps, 0),
            "train.log_every": (train.log_every, 1),
        }
    )
    if not 0 < train.lr < 100:
        faults.append(Fault(path="train.lr", message=f"is {train.lr}, not a learning rate above 0"))
    if not 0 <= train.warmup_lr <= train.lr:
        hint = "where the warm-up to train.lr starts; 0 takes equal steps"
        faults.append(
            Fault(
                path="train.warmup_lr",
                message=f"is {train.warmup_lr}, not between 0 and lr {train.lr}",
                hint=hint,
            )
        )
    faults += _schedule(train) + _momentum(train)
    for prefix, scale in train.lr_of.items():
        if not prefix or scale < 0:
            hint = "the start of parameters' names, and what multiplies lr for them; 0 keeps them as they are"
            faults.append(Fault(path=f"train.lr_of.{prefix}", message=f"is {scale}", hint=hint))
    if not KEEP_WEIGHTS.fullmatch(train.keep_weights):
        faults.append(
            Fault(
                path="train.keep_weights",
                message=f'is "{train.keep_weights}"',
                hint='"all", "best" or "last:5"',
            )
        )
    return faults


def _schedule(train: conf.TrainConf) -> list[Fault]:
    if train.schedule != "step":
        return []
    if not train.milestones:
        return [
            Fault(
                path="train.milestones",
                message="is empty",
                hint=f"schedule: step lowers lr at these {train.milestone_unit}",
            )
        ]
    faults = []
    if train.milestones[0] < 1 or any(
        later <= earlier for earlier, later in pairwise(train.milestones)
    ):
        message = f"is {list(train.milestones)}, not whole numbers above 0 that ascend"
        faults.append(Fault(path="train.milestones", message=message))
    if not 0 < train.gamma <= 1:
        faults.append(
            Fault(path="train.gamma", message=f"is {train.gamma}, not above 0 and at most 1")
        )
    return faults


def _momentum(train: conf.TrainConf) -> list[Fault]:
    """torch's SGD refuses some of these only when it is built, and the other optimizers know none of them."""
    faults = _between(
        {"train.momentum": (train.momentum, 0, 1), "train.dampening": (train.dampening, 0, 1)}
    )
    if (
        train.optimizer == "sgd"
        and train.nesterov
        and not (train.momentum > 0 and train.dampening == 0)
    ):
        message = f"needs momentum above 0 and no dampening, and they are {train.momentum} and {train.dampening}"
        faults.append(Fault(path="train.nesterov", message=message))
    if train.optimizer != "sgd":
        unused = {"train.dampening": train.dampening, "train.nesterov": train.nesterov}
        faults += [
            Fault(
                path=path,
                message=f"is {value}, and {train.optimizer} has no such setting",
                hint="optimizer: sgd",
            )
            for path, value in unused.items()
            if value
        ]
    return faults


def _evaluation(config: Config) -> list[Fault]:
    faults = _between(
        {
            "test.threshold": (config.test.threshold, 0, 1),
            "eval.threshold": (config.eval.threshold, 0, 1),
        }
    )
    ranges = [piece.split("-") for piece in config.test.epochs.split(",")]
    if not EPOCHS.fullmatch(config.test.epochs) or any(
        int(first) > int(last) for first, *rest in ranges for last in rest
    ):
        faults.append(
            Fault(
                path="test.epochs",
                message=f'is "{config.test.epochs}"',
                hint='"all" or a list such as "3,10-20"',
            )
        )
    return faults + _at_least(
        {
            "eval.labels": (config.eval.labels, 1),
            "eval.best_frames": (min(config.eval.best_frames, default=1), 1),
        }
    )


def _fuse(config: Config) -> list[Fault]:
    fuse, faults = config.fuse, []
    if len(fuse.streams) < 2:
        hint = "fuse.streams: {rgb: the name of an eval run, flow: another}"
        faults.append(
            Fault(
                path="fuse.streams",
                message=f"names {len(fuse.streams)} of at least two streams",
                hint=hint,
            )
        )
    for key, named in (("weights", fuse.weights), ("search_on", fuse.search_on)):
        if named and set(named) != set(fuse.streams):
            message = f"is for {', '.join(sorted(named))}, but the streams are {', '.join(sorted(fuse.streams))}"
            faults.append(Fault(path=f"fuse.{key}", message=message, hint="one for each stream"))
    if any(weight < 0 for weight in fuse.weights.values()) or (
        fuse.weights and not sum(fuse.weights.values())
    ):
        faults.append(
            Fault(
                path="fuse.weights",
                message=f"are {dict(fuse.weights)}",
                hint="shares of at least 0 that do not sum up to 0",
            )
        )
    if fuse.weights and fuse.search_on:
        faults.append(
            Fault(
                path="fuse.search_on",
                message="searches weights that fuse.weights gives already",
                hint="leave one of them out",
            )
        )
    return faults + _at_least({"fuse.search_steps": (fuse.search_steps, 1)})


def _no_checkpoint(verb: str) -> Fault:
    hint = f"`vidjobs submit {verb} CONF --from RUN@best`, or model.init: a checkpoint's path"
    return Fault(path="model.init", message=f"{verb} needs a checkpoint", hint=hint)


def _infer(config: Config) -> list[Fault]:
    infer, faults = config.infer, []
    if not infer.input:
        hint = "infer.input: [video.mp4], a folder, a glob, a webcam's number, or - for raw frames on stdin"
        faults.append(Fault(path="infer.input", message="is empty", hint=hint))
    if "-" in infer.input and not STDIN_SIZE.fullmatch(infer.stdin_size):
        message = f"is {infer.stdin_size!r}, and frames on stdin do not say how large they are"
        faults.append(
            Fault(
                path="infer.stdin_size", message=message, hint='"<width>x<height>", as in "340x256"'
            )
        )
    if not infer.stdin_fps > 0:
        faults.append(Fault(path="infer.stdin_fps", message=f"is {infer.stdin_fps}, not above 0"))
    if not config.model.init:
        faults.append(_no_checkpoint("infer"))
    limits = {
        f"infer.{key}": (getattr(infer, key), 0)
        for key in ("fps", "short_side", "step", "max_windows")
    }
    return faults + _at_least({**limits, "infer.top": (infer.top, 1)})


def _compute(config: Config) -> list[Fault]:
    compute = config.compute
    limits: dict[str, tuple[float, float]] = {"compute.threads": (compute.threads, 0)}
    if compute.processes != "auto":
        limits["compute.processes"] = (compute.processes, 1)
    if compute.workers != "auto":
        limits["compute.workers"] = (compute.workers, 0)
    return _at_least(limits)


def _at_least(values: Mapping[str, tuple[float, float]]) -> list[Fault]:
    return [
        Fault(path=path, message=f"is {value}, less than {least}")
        for path, (value, least) in values.items()
        if value < least
    ]


def _between(values: Mapping[str, tuple[float, float, float]]) -> list[Fault]:
    return [
        Fault(path=path, message=f"is {value}, not between {low} and {high}")
        for path, (value, low, high) in values.items()
        if not low <= value <= high
    ]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        path = f"{prefix}{key}"
        found += (
            _leaves(value, f"{path}.") if isinstance(value, dict) and value else [(path, value)]
        )
    return found
