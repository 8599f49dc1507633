"""Every setting of the trainer, with its default: what `data`, `model`, `train`, `test`, `eval` and `compute` take.

Standard library and PyYAML only, so that `check` answers in a moment, without torch. `read` and `parse` take one flat
conf (the launcher resolved `extends` and `${...}` already), apply `a.b=v`, convert each scalar by its field's type,
and report all faults at once. The value is frozen and saved as `conf.yaml` in the run folder.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from trainer.errors import ConfFault, Fault, did_you_mean

Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class DataConf:
    """Which clips, and how a clip is cut from a video."""

    name: str = "tinyvirat"  # dataset: a module of trainer/data/datasets
    root: str = ""  # the dataset's folder; required
    classes: str = ""  # file of class names in index order; "" = <root>/classes.txt
    frames: int = 32  # frames in a clip
    size: int = 28  # px, side of the square frames that the model is fed
    start: Literal["first", "random"] = "first"  # where a training clip starts; evaluation always starts at the first frame
    flip: float = 0.5  # probability that a training clip is mirrored, all its frames together
    short: Literal["repeat", "drop"] = "repeat"  # a video shorter than `frames`: repeat its last frame, or leave it out and say so
    broken: Literal["fail", "exclude"] = "fail"  # files of which nothing can be read: stop, or train without them (prepare names them)
    val_fraction: float = 0.1  # of each class's training clips, held out for validation
    split_seed: int = 22  # of the validation split
    cache: str = ""  # folder of decoded uint8 clips; "" = <runs>/.cache/<hash of the data settings>


@dataclass(frozen=True, kw_only=True)
class ModelConf:
    """Which network. Its own options stand beside `name` and are checked against the model's signature."""

    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # in the file: the other keys of `model:`
    init: str | dict[str, str] = ""  # checkpoint to start from, or one for each part: {resizer: ..., i3d: ...}
    init_head: Literal["keep", "replace"] = "keep"  # a checkpoint with other classes needs "replace": a fresh last layer
    freeze: tuple[str, ...] = ()  # parts whose weights and BatchNorm statistics stay as they are ("i3d" keeps its logits trainable)


@dataclass(frozen=True, kw_only=True)
class TrainConf:
    """The recipe."""

    epochs: int = 30
    max_steps: int = 0  # optimizer steps; 0 = as many as `epochs` has
    batch: int = 32  # clips in a micro-batch, over all processes
    accumulate: int = 1  # micro-batches in one optimizer step; an incomplete last window still counts
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9  # sgd only
    schedule: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()  # epochs at which `step` multiplies lr by gamma
    gamma: float = 0.1
    warmup_steps: int = 0  # optimizer steps of linear warm-up
    seed: int = 1
    validate_every: int = 1  # epochs
    select: str = "f1_macro"  # validation metric that names the best checkpoint; "loss" = lowest
    checkpoint_steps: int = 0  # optimizer steps between states inside an epoch; 0 = only at its end
    keep_weights: str = "all"  # which epochs' weights stay: "all", "last:N" or "best"; best and last always stay
    log_every: int = 1  # optimizer steps in one `train Loss:` line (their mean)


@dataclass(frozen=True, kw_only=True)
class TestConf:
    """`test`: metrics of a range of epochs."""

    __test__: ClassVar[bool] = False  # pytest: not a test class

    checkpoints: str = ""  # folder of epoch-*.pt; "" = this run's own
    epochs: str = "all"  # "all" or "3,10-20"
    split: Literal["test", "val", "train"] = "test"
    threshold: float = 0.5  # probability from which a class counts as present


@dataclass(frozen=True, kw_only=True)
class EvalConf:
    """`eval`: everything about one checkpoint (`model.init`)."""

    split: Literal["test", "val", "train"] = "test"
    threshold: float = 0.5
    samples: tuple[int, ...] = (0, 1, 2, 3)  # clips whose resizer frames are written as PNG beside their inputs


@dataclass(frozen=True, kw_only=True)
class ComputeConf:
    """How to compute it. "auto" is fast where that costs no exactness: on the CPU a resumed run stays bit for bit the same."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on GPUs that have it, else fp32
    channels_last: bool | Auto = "auto"  # auto: on for CUDA
    compile: bool | Auto = "auto"  # auto: on for CUDA where a C compiler is found
    fused: bool | Auto = "auto"  # fused optimizer; auto: on for CUDA
    deterministic: bool = False  # cuDNN's deterministic kernels, no benchmark
    processes: int | Auto = "auto"  # on this node; auto: one for each GPU, else 1
    workers: int | Auto = "auto"  # data workers of each process; auto: cores / processes, at most 8
    threads: int = 0  # of torch on the CPU; 0 = torch's own choice


@dataclass(frozen=True, kw_only=True)
class Config:
    """One flat conf."""

    data: DataConf = field(default_factory=DataConf)
    model: ModelConf = field(default_factory=ModelConf)
    train: TrainConf = field(default_factory=TrainConf)
    test: TestConf = field(default_factory=TestConf)
    eval: EvalConf = field(default_factory=EvalConf)
    compute: ComputeConf = field(default_factory=ComputeConf)


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[Fault]]:
    """The conf file's mapping with `a.b=v` applied, and the overrides that could not be. Raises ConfFault for an unreadable file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfFault([Fault(path="", message=f"cannot read the conf {path}: {error}")]) from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfFault([Fault(path="", message=f"the conf {path} is a {type(raw).__name__}, not a mapping of sections")])
    return raw, [fault for override in overrides for fault in _apply(raw, override)]


def parse(raw: Mapping[str, Any]) -> tuple[Config, list[Fault]]:
    """The typed conf and all faults of form; with faults the value holds defaults in their places."""
    faults = _unresolved(raw)
    sections = {f.name: f for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {}
    for name, section in raw.items():
        if name not in sections:
            faults.append(_unknown(name, "", list(sections)))
        elif not isinstance(section, dict):
            faults.append(Fault(path=name, message=f"is {section!r}, not a mapping"))
        else:
            kind = typing.get_type_hints(Config)[name]
            values[name], more = _section(kind, _fold_options(section) if kind is ModelConf else section, name)
            faults += more
    return Config(**values), faults


def flat(config: Config) -> dict[str, Any]:
    """The conf as plain containers, every default filled in; `parse(flat(c)) == c`."""
    raw = dataclasses.asdict(config)
    model = raw["model"]
    raw["model"] = {"name": model.pop("name"), **model.pop("options"), **model}
    plain: dict[str, Any] = _plain(raw)
    return plain


def dump(config: Config) -> str:
    """YAML text of `flat`, in ASCII: PyYAML writes U+0085 as it is and reads it back as a space."""
    return yaml.safe_dump(flat(config), sort_keys=False)


def _fold_options(section: Mapping[str, Any]) -> dict[str, Any]:
    own = {f.name for f in dataclasses.fields(ModelConf)} - {"options"}
    folded = {key: value for key, value in section.items() if key in own}
    folded["options"] = {key: value for key, value in section.items() if key not in own}
    return folded


def _section(kind: type, raw: Mapping[str, Any], prefix: str) -> tuple[Any, list[Fault]]:
    hints = {f.name: typing.get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    values, faults = {}, []
    for key, value in raw.items():
        path = f"{prefix}.{key}"
        if key not in hints:
            faults.append(_unknown(str(key), prefix, list(hints)))
            continue
        try:
            values[key] = convert(value, hints[key])
        except ValueError as error:
            faults.append(Fault(path=path, message=str(error)))
    return kind(**values), faults


def convert(value: Any, kind: Any) -> Any:
    """`value` as the field's type. Strings are read as scalars ("1e-3" is a float). ValueError says what was expected."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(kind))
    if origin is Literal:
        choices = typing.get_args(kind)
        if value in choices and not isinstance(value, bool):
            return value
        hint = did_you_mean(str(value), [str(choice) for choice in choices])
        raise ValueError(f"is {value!r}, not one of {', '.join(map(str, choices))}" + (f"; {hint}" if hint else ""))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"is {value!r}, not a list")
        return tuple(convert(item, typing.get_args(kind)[0]) for item in value)
    if origin is dict or kind is dict:
        if not isinstance(value, dict):
            raise ValueError(f"is {value!r}, not a mapping")
        item_kind = typing.get_args(kind)[1] if typing.get_args(kind) else Any
        return {str(key): convert(item, item_kind) for key, item in value.items()}
    return value if kind is Any else _convert_scalar(value, kind)


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return convert(value, kind)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; or ".join(reasons))


def _convert_scalar(value: Any, kind: type) -> Any:
    if kind is str:
        if isinstance(value, (dict, list)) or value is None:
            raise ValueError(f"is {value!r}, not text")
        return str(value)
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise ValueError(f"is {value!r}, not true or false")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"is {value!r}, not {_NUMBERS[kind]}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"is {value!r}, not {_NUMBERS[kind]}") from None
    if kind is float:
        return number
    if not number.is_integer():
        raise ValueError(f"is {value!r}, not {_NUMBERS[kind]}")
    return int(value) if not isinstance(value, str) else int(number)


_NUMBERS = {int: "a whole number", float: "a number"}


def _apply(raw: dict[str, Any], override: str) -> list[Fault]:
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        return [Fault(path=path, message=f"{override!r} is not of the form section.key=value")]
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        return [Fault(path=path, message=f"cannot read the value {text!r}: {error}")]
    node = raw
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            return [Fault(path=path, message=f"{key} is {child!r}, not a mapping")]
        node = child
    node[keys[-1]] = value
    return []


def _unknown(key: str, prefix: str, known: list[str]) -> Fault:
    path = f"{prefix}.{key}" if prefix else key
    hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
    if path == "extends":
        hint = "only the launcher reads `extends`; `vidjobs conf` prints a flat conf"
    return Fault(path=path, message="unknown key", hint=hint)


def _unresolved(node: Any, path: str = "") -> list[Fault]:
    """`extends` and `${...}` belong to the launcher: a flat conf has none."""
    hint = "`vidjobs conf` prints a flat conf"
    if isinstance(node, dict):
        children = [(f"{path}.{key}" if path else str(key), child) for key, child in node.items()]
        return [fault for where, child in children for fault in _unresolved(child, where)]
    if isinstance(node, (list, tuple)):
        return [fault for index, child in enumerate(node) for fault in _unresolved(child, f"{path}[{index}]")]
    if isinstance(node, str) and "${" in node:
        return [Fault(path=path, message=f"{node!r} is not resolved", hint=hint)]
    return []


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(child) for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(child) for child in node]
    return node
