"""Every setting of the trainer, with its default: what each section of a conf takes.

Standard library and PyYAML only, so that `check` answers in a moment, without torch. `read` and `parse` take one flat
conf (the launcher resolved `extends` and `${...}` already), apply `a.b=v`, convert each scalar by its field's type,
and report all faults at once. The value is frozen and saved as `conf.yaml` in the run folder.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from trainer.conversion import convert
from trainer.errors import ConfFault, Fault, did_you_mean

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it is ten times as fast

Auto = Literal["auto"]
# of `data`: what a checkpoint must know to be asked about a new video
INFERENCE = (
    "stream",
    "flow_channels",
    "resize",
    "fps",
    "frames",
    "stride",
    "size",
    "short",
    "test_short",
    "test_crop",
    "antialias",
)


@dataclass(frozen=True, kw_only=True)
class DataConf:
    """Which videos, and how a clip is cut from one: kept (resize), chosen (frames, stride, start), cropped (crop), fed (normalise)."""

    name: str = "tinyvirat"  # dataset: a module of trainer/data/datasets
    root: str = ""  # the dataset's folder; required
    classes: str = ""  # file of class names in index order; "" = the dataset's usual one
    # annotation file, or folder of split lists; "" = the dataset's usual place under root
    annotation: str = ""
    # which of the dataset's layouts lies under root: video files, or folders of jpg
    layout: Literal["videos", "frames"] = "videos"
    # number of the official split, where a dataset has several (UCF101, HMDB51: 1 to 3)
    fold: int = 1
    stream: Literal["rgb", "flow"] = "rgb"  # flow: the images that prepare.flow_to wrote
    # folder of flow images, laid out as `layout: frames`; stream: flow reads it
    flow_root: str = ""
    flow_channels: Literal[2, 3] = 3  # u, v; or u, v and magnitude
    # training reads clips from the packed uint8 cache, or decodes the files each time
    source: Literal["cache", "files"] = "cache"
    # how frames are kept: "" = size x size; "128x171" (height x width); "short:240"; "original"
    resize: str = ""
    # frames that are made smaller are smoothed, as PIL does; false: as cv2.INTER_LINEAR does
    antialias: bool = False
    # frames a second after resampling by time stamps; 0 = every frame of the file as it comes
    fps: float = 0.0
    frames: int = 32  # frames in a clip
    stride: int = 1  # from one frame of a clip to the next
    size: int = 28  # px, side of the square frames that the model is fed
    # where training clips start; every: one at each `step` frames
    start: Literal["first", "random", "center", "every"] = "first"
    # frames between the starts of start: every; 0 = a clip's length, so that clips do not overlap
    step: int = 0
    # the same for test, eval and validation; uniform: test_clips
    test_start: Literal["first", "center", "random", "uniform", "every"] = "first"
    test_clips: int = 1  # clips a video, evenly spread, of test_start: uniform
    test_step: int = 0  # as step, of test_start: every
    val_clips: int = 0  # test_clips of the validations during training; 0 = test_clips
    val_step: int = 0  # test_step of the validations during training; 0 = test_step
    # a video shorter than a clip: repeat its last frame, start over, or leave it out
    short: Literal["repeat", "loop", "drop"] = "repeat"
    # of training frames; none: squeezed into size
    crop: Literal["none", "center", "random", "corners", "multi_scale", "rectangle"] = "none"
    # of the short side, which corners and multi_scale draw from
    scales: tuple[float, ...] = (1.0, 0.8409, 0.7071, 0.5946, 0.5)
    # [least, most] px that the short side of a training clip is resized to before the crop
    jitter: tuple[int, ...] = ()
    # without training
    test_crop: Literal["none", "center", "top_left", "top_right", "bottom_left", "bottom_right"] = (
        "none"
    )
    test_short: int = 0  # px that the short side is resized to before test_crop; 0 = as kept
    # probability that a training clip is mirrored, all its frames together; flow's u changes its
    # sign
    flip: float = 0.5
    # preset of trainer/data/normalise.py; `mean` and `std` win over it
    normalise: str = "minus_one_one"
    mean: tuple[float, ...] = ()  # of each channel, on 0..255
    std: tuple[float, ...] = ()  # of each channel, on 0..255
    # order in which the model is fed colours; auto: the preset's
    channels: Literal["auto", "rgb", "bgr"] = "auto"
    # files of which nothing can be read: stop, or train without them (prepare names them)
    broken: Literal["fail", "exclude"] = "fail"
    # where validation comes from in a dataset without a split of its own for it
    val_from: Literal["train", "test"] = "train"
    val_fraction: float = 0.1  # of each class's training clips, held out for validation
    split_seed: int = 22  # of the validation split
    # folder of decoded uint8 frames; "" = <runs>/.cache/<hash of the data settings>
    cache: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelConf:
    """Which network. Its own options stand beside `name` and are checked against the model's signature."""

    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # in the file: the other keys of `model:`
    # weights to start from: path, https://..., imagenet, published:NAME, torchvision:NAME; or one a
    # part
    init: str | dict[str, str] = ""
    # a checkpoint with other classes needs "replace": a fresh last layer
    init_head: Literal["keep", "replace"] = "keep"
    # parts whose weights and BatchNorm statistics stay; a network by its name is all but its last
    # layer
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainConf:
    """The recipe."""

    epochs: int = 30
    max_steps: int = 0  # optimizer steps; 0 = as many as `epochs` has
    # clips in an epoch, drawn from the training clips as often as needed; 0 = each clip once
    epoch_size: int = 0
    batch: int = 32  # clips in a micro-batch, over all processes
    # micro-batches in one optimizer step; an incomplete last window still counts
    accumulate: int = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    lr_scaling: Literal["none", "linear"] = "none"  # linear: lr times the number of processes
    # lr multiplier by a start of parameters' names: {fc8: 10}; longest wins, 0 stays
    lr_of: dict[str, float] = field(default_factory=dict)
    bias_lr: float = 1.0  # lr multiplier of biases
    bias_decay: bool = True  # weight decay of biases, too
    weight_decay: float = 0.0
    momentum: float = 0.9  # sgd only
    dampening: float = 0.0  # sgd only
    nesterov: bool = False  # sgd only
    schedule: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()  # where `step` multiplies lr by gamma
    milestone_unit: Literal["epochs", "steps"] = "epochs"
    gamma: float = 0.1
    warmup_steps: int = 0  # optimizer steps of linear warm-up
    warmup_epochs: float = 0.0  # the same in epochs; the longer of both holds
    warmup_lr: float = 0.0  # where the warm-up starts; 0 = at one of its equal steps
    clip_grad: float = 0.0  # greatest L2 norm of all gradients together; 0 = no limit
    freeze_norm: bool = False  # BatchNorm statistics stay as they were loaded
    seed: int = 1
    validate_every: int = 1  # epochs
    # validation metric that names the best checkpoint; "loss" = lowest; auto: f1_macro, or top1 with
    # one label a video
    select: str = "auto"
    checkpoint_steps: int = 0  # optimizer steps between states inside an epoch; 0 = only at its end
    # which epochs' weights stay: "all", "last:N" or "best"; best and last always stay
    keep_weights: str = "all"
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
    """`eval`: everything about one checkpoint (`model.init`). How a video's clips make one answer holds for `test`, too."""

    split: Literal["test", "val", "train"] = "test"
    threshold: float = 0.5
    # clips whose resizer frames are written as PNG beside their inputs
    samples: tuple[int, ...] = (0, 1, 2, 3)
    combine: Literal["mean", "max"] = "mean"  # the softmax of a video's clips into its scores
    # K: each class's mean over its K highest-scoring frames; [10, 20, 30, 50] in the two-stream
    # system
    best_frames: tuple[int, ...] = ()
    labels: int = 10  # classes a video in val.json
    formats: tuple[
        Literal["two_stream"], ...
    ] = ()  # more files as older systems wrote them: two_stream: output_val_*.pkl and -clstk-*.json


@dataclass(frozen=True, kw_only=True)
class FuseConf:
    """`fuse`: late fusion of the scores of two or more eval runs, as RGB and flow."""

    streams: dict[str, str] = field(
        default_factory=dict
    )  # name -> eval run beside this one, or a folder of predictions: {rgb: ..., flow: ...}
    # share of each stream; empty: equal, or the best of search_on
    weights: dict[str, float] = field(default_factory=dict)
    # name -> eval run of the validation split, on which weights are searched
    search_on: dict[str, str] = field(default_factory=dict)
    search_steps: int = 20  # weights tried: 0, 1/20, ... 1


@dataclass(frozen=True, kw_only=True)
class InferConf:
    """`infer`: what a checkpoint (`model.init`) says about videos."""

    # files, folders, globs, a webcam's number, or "-" for raw RGB24 frames on stdin
    input: tuple[str, ...] = ()
    stdin_size: str = ""  # "340x256" (width x height) of the frames on stdin
    stdin_fps: float = 30.0
    # frames a second that are looked at; 0 = data.fps of the checkpoint's training. For frames
    # extracted at a rate: that
    fps: float = 0.0
    # px that frames are resized to before flow is computed, as those of prepare were; 0 = as they
    # are
    short_side: int = 0
    step: int = 0  # frames from one window to the next; 0 = a window's length
    top: int = 5  # classes in an answer
    overlay: bool = True  # also write <name>-labelled.mp4
    window: bool = False  # also show it live, where there is a display
    max_windows: int = 0  # of each input, as of a webcam that never ends; 0 = all
    allow_random_head: bool = False  # answer although the last layer was never trained


@dataclass(frozen=True, kw_only=True)
class PrepareConf:
    """`prepare`: what to make of the download before the dataset is read and reported on. A step is left out unless asked for."""

    # flat folder of v_<Class>_gXX_cYY.avi to sort into class folders under data.root
    organise: str = ""
    annotate: bool = False  # build the dataset's annotation file from the official lists
    # folder for videos with a short distance between key frames, laid out as data.root
    videos_to: str = ""
    gop: int = 16  # frames from key frame to key frame in videos_to
    short_side: int = 0  # px, of videos_to and frames_to; 0 = as they are
    frames_to: str = ""  # folder for frames as jpg, laid out as `layout: frames`
    # ffmpeg's settings of the two-stream, the compressed and the C3D system
    frames_rule: Literal["kinetics", "ucf101", "c3d"] = "ucf101"
    flow_to: str = ""  # folder for optical flow, laid out as `layout: frames`
    # never two in one dataset
    flow_method: Literal["farneback", "dis-fast", "dis-medium"] = "farneback"
    flow_bound: int = 8  # px of displacement at which a flow image is full
    flow_gap: int = 1  # frames from one frame to the one that its flow leads to
    stats: bool = False  # mean and standard deviation of the training frames, into the report
    shards: int = 1  # pods that share the work; shard `shard` does every shards-th video
    shard: int = -1  # this one's number; -1: the environment's JOB_COMPLETION_INDEX, or 0


@dataclass(frozen=True, kw_only=True)
class ComputeConf:
    """How to compute it. "auto" is fast where that costs no exactness: on the CPU a resumed run stays bit for bit the same."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto: bf16 autocast on GPUs that have it, else fp32
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool | Auto = "auto"  # auto: on for CUDA
    compile: bool | Auto = "auto"  # auto: on for CUDA where a C compiler is found, off in infer
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
    fuse: FuseConf = field(default_factory=FuseConf)
    infer: InferConf = field(default_factory=InferConf)
    prepare: PrepareConf = field(default_factory=PrepareConf)
    compute: ComputeConf = field(default_factory=ComputeConf)


def read(
    path: Path, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[Fault]]:
    """The conf file's mapping with `changes` (key path -> value) and then `a.b=v` applied, and what of these could not be.

    Raises ConfFault for an unreadable file.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfFault(
            [Fault(path="", message=f"cannot read the conf {path}: {error}")]
        ) from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfFault(
            [
                Fault(
                    path="",
                    message=f"the conf {path} is a {type(raw).__name__}, not a mapping of sections",
                )
            ]
        )
    faults = [fault for key, value in (changes or {}).items() for fault in put(raw, key, value)]
    return raw, faults + [fault for override in overrides for fault in _apply(raw, override)]


def put(raw: dict[str, Any], path: str, value: Any) -> list[Fault]:
    """Set one key of a conf's mapping in place; faults where it cannot be."""
    *above, last = path.split(".")
    node = raw
    for key in above:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            return [Fault(path=path, message=f"{key} is {child!r}, not a mapping")]
        node = child
    node[last] = value
    return []


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
            kind = _hints(Config)[name]
            values[name], more = _section(
                kind, _fold_options(section) if kind is ModelConf else section, name
            )
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


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Field -> type. Kept: a sweep's trials are all parsed in one process."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _fold_options(section: Mapping[str, Any]) -> dict[str, Any]:
    own = {f.name for f in dataclasses.fields(ModelConf)} - {"options"}
    folded = {key: value for key, value in section.items() if key in own}
    folded["options"] = {key: value for key, value in section.items() if key not in own}
    return folded


def _section(kind: type, raw: Mapping[str, Any], prefix: str) -> tuple[Any, list[Fault]]:
    hints = _hints(kind)
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


def _apply(raw: dict[str, Any], override: str) -> list[Fault]:
    path, separator, text = override.partition("=")
    if not separator or not all(path.split(".")):
        return [Fault(path=path, message=f"{override!r} is not of the form section.key=value")]
    try:
        # a dash is stdin; to YAML it is a list of nothing
        value = yaml.safe_load(text) if text not in ("", "-") else text
    except yaml.YAMLError as error:
        return [Fault(path=path, message=f"cannot read the value {text!r}: {error}")]
    return put(raw, path, value)


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
        return [
            fault
            for index, child in enumerate(node)
            for fault in _unresolved(child, f"{path}[{index}]")
        ]
    if isinstance(node, str) and "${" in node:
        return [Fault(path=path, message=f"{node!r} is not resolved", hint=hint)]
    return []


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(child) for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(child) for child in node]
    return node
