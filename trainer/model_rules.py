"""Whether the `model` section fits its network, the data and the checkpoint it starts from. No torch, so that `check` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer import signatures
from trainer.config import Config
from trainer.data import normalise
from trainer.data.normalise import Normalisation
from trainer.errors import Fault, did_you_mean
from trainer.models import published, rules
from trainer.signatures import Signature

# a checkpoint may differ in these; classes are compared by name
_WEIGHTLESS = ("dropout", "bn_momentum", "freeze_i3d", "num_classes")


def check_model(config: Config, num_classes: int | None) -> list[Fault]:
    """Everything wrong with `config.model`; what hangs on the number of classes only when that is known."""
    unknown = rules.model_fault(config.model.name)
    if unknown:
        return [unknown]
    signature = signatures.of(config.model.name)
    values, faults = rules.option_faults(signature, config.model.options)
    if signature.kind == "resizer":
        faults.append(_bare_resizer(signature))
    elif not faults:
        faults = _against_data(config, signature, values, num_classes)
    return faults + _parts(config, signature)


def model_options(config: Config, num_classes: int) -> dict[str, Any]:
    """The options to build `config.model` with: as given, and num_classes, frames and in_size from the data. For a conf without faults."""
    signature = signatures.of(config.model.name)
    values, _ = rules.option_faults(signature, config.model.options)
    return values | _from_data(config, signature, num_classes)


def weights_faults(
    config: Config, weights: Mapping[str, Any], classes: tuple[str, ...]
) -> list[Fault]:
    """Where the conf differs from what one of our own checkpoints (`weights`: its fields) was trained as.

    For `test` and `eval`: some options, as where a transform is applied, change the network without changing any tensor's shape.
    """
    trained = dict(weights.get("model") or {})
    name = trained.pop("name", None)
    if name != config.model.name:
        hint = "evaluate with the conf that trained it"
        return [
            Fault(
                path="model.name",
                message=f"is {config.model.name!r}, but the checkpoint holds a {name!r}",
                hint=hint,
            )
        ]
    ours = model_options(config, len(classes))
    signature = signatures.of(config.model.name)
    faults = []
    for key, option in signature.options.items():
        mine, theirs = (values.get(key, option.default) for values in (ours, trained))
        if key not in _WEIGHTLESS and mine != theirs and None not in (mine, theirs):
            faults.append(
                Fault(
                    path=f"model.{key}",
                    message=f"is {mine}, but the checkpoint was trained with {theirs}",
                )
            )
    if tuple(weights.get("classes") or classes) != classes:
        faults.append(
            Fault(
                path="data.classes",
                message="the dataset's classes, or their order, are not the checkpoint's",
            )
        )
    return faults + [
        fault for fault in fed_otherwise(config, weights) if fault.path in _CHANGES_ANSWERS
    ]


def fed_otherwise(config: Config, trained: Mapping[str, Any]) -> list[Fault]:
    """Where the conf feeds other numbers than a checkpoint was trained with. `trained`: its fields, {} for what is not known.

    Only mean, std, order of the colours, stream and rate change much of what the same network answers; how frames were made smaller,
    frames and size are for people to know, since what a network fixes of them is among its options.
    """
    data, faults = config.data, []
    if trained.get("normalisation"):
        fed, learnt = normalise.of_conf(data), normalise.of_checkpoint(trained)
        if not _alike(fed, learnt):
            preset = next(
                (name for name, known in normalise.PRESETS.items() if _alike(known, learnt)), ""
            )
            hint = (
                f"data.normalise: {preset}"
                if preset
                else "set data.mean, data.std and data.channels to these"
            )
            message = f"was trained with {_described(learnt)}; the conf feeds {_described(fed)}"
            faults.append(Fault(path="data.normalise", message=message, hint=hint))
    clips = {
        "frames": trained.get("frames"),
        "size": trained.get("size"),
        **(trained.get("data") or {}),
    }
    for key in ("stream", "fps", "antialias", "frames", "size"):
        theirs, ours = clips.get(key), getattr(data, key)
        if theirs is not None and theirs != ours:
            message = f"was trained with data.{key}: {theirs}; the conf says {ours}"
            faults.append(Fault(path=f"data.{key}", message=message, hint=f"data.{key}: {theirs}"))
    return faults


_CHANGES_ANSWERS = ("data.normalise", "data.stream", "data.fps")


def _alike(one: Normalisation, other: Normalisation) -> bool:
    """The same to a hundredth of a level: presets are written with few digits."""
    numbers = [*one.mean, *one.std], [*other.mean, *other.std]
    if one.order != other.order or len(numbers[0]) != len(numbers[1]):
        return False
    return all(abs(a - b) < 0.01 for a, b in zip(*numbers, strict=True))


def _described(fed: Normalisation) -> str:
    channels = fed.order if len(fed.mean) == normalise.COLOURS else f"{len(fed.mean)}-channel"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (fed.mean, fed.std))
    return f"{channels} frames, mean {mean}, std {std}"


def _bare_resizer(signature: Signature) -> Fault:
    composites = [
        s.name for s in signatures.read().values() if s.kind == "classifier" and len(s.parts) > 1
    ]
    message = f"{signature.name} maps video to video, so it has no classes to train or test"
    return Fault(
        path="model.name", message=message, hint=f"with I3D behind it: {', '.join(composites)}"
    )


def _from_data(config: Config, signature: Signature, num_classes: int | None) -> dict[str, Any]:
    """What the data decide. A resizer's `size` is what it enlarges to, so only a plain network's is the data's."""
    data = config.data
    known = {
        "num_classes": num_classes,
        "frames": data.frames,
        "in_size": data.size,
        "seq_len": data.frames,
    }
    known["in_channels"] = normalise.channels(data)
    if len(signature.parts) == 1:
        known["size"] = data.size
    return {
        key: value for key, value in known.items() if key in signature.options and value is not None
    }


_SOURCES = {
    "num_classes": "the dataset's number of classes", "frames": "data.frames", "seq_len": "data.frames", "in_size": "data.size",
    "size": "data.size", "in_channels": "the number of channels of data.stream",
}  # fmt: skip


def _against_data(
    config: Config, signature: Signature, values: Mapping[str, Any], num_classes: int | None
) -> list[Fault]:
    faults = _fixed_clip(config, signature)
    given = _from_data(config, signature, num_classes)
    for key, option in signature.options.items():
        if option.required and key not in values and key not in given and key != "num_classes":
            known = ", ".join(map(str, option.choices))
            faults.append(
                Fault(
                    path=f"model.{key}",
                    message=f"{signature.name} needs {key}",
                    hint=f"one of {known}" if known else "",
                )
            )
    for key, expected in given.items():
        if values.get(key) not in (None, expected):
            message = f"is {values[key]}, but {_SOURCES[key]} is {expected}"
            faults.append(
                Fault(
                    path=f"model.{key}",
                    message=message,
                    hint="leave it out: it comes from the data",
                )
            )
    if (
        "in_channels" not in signature.options
        and normalise.channels(config.data) != normalise.COLOURS
    ):
        message = f"{signature.name} takes {normalise.COLOURS} channels, and the flow has {config.data.flow_channels}"
        faults.append(
            Fault(path="data.flow_channels", message=message, hint="data.flow_channels: 3")
        )
    full = {key: option.default for key, option in signature.options.items()} | dict(values)
    if "mode" in full:
        faults += _mode(config, full["mode"], resized="resizer" in signature.parts)
    if full.get("head", "pooled") != "pooled":
        message = f"is {full['head']}, but {config.data.name} has labels for clips, not for frames"
        faults.append(Fault(path="model.head", message=message, hint="leave it out"))
    return faults


def _fixed_clip(config: Config, signature: Signature) -> list[Fault]:
    if not signature.clip:
        return []
    least = signature.clip.endswith("+")
    frames, size = map(int, signature.clip.removesuffix("+").split("x"))
    wanted = {"frames": (config.data.frames, frames), "size": (config.data.size, size)}
    if signature.images:
        del wanted["frames"]
    what = f"frames of {size}x{size} pixels" if signature.images else f"clips of {frames}x{size}"
    hint = f"{signature.name} takes {what}{' and more' if least else ''}"
    bad = {
        key: pair
        for key, pair in wanted.items()
        if (pair[0] < pair[1] if least else pair[0] != pair[1])
    }
    said = "less than" if least else "not"
    return [
        Fault(path=f"data.{key}", message=f"is {have}, {said} {need}", hint=hint)
        for key, (have, need) in bad.items()
    ]


def _mode(config: Config, mode: str, *, resized: bool) -> list[Fault]:
    """I3D wants clips of exactly its mode; a resizer in front gives the size, not the frames."""
    frames, size = rules.parse_mode(mode)
    data, faults = config.data, []
    if frames != data.frames:
        hint = f"model.mode: {data.frames}x{size}, or data.frames: {frames}"
        faults.append(
            Fault(
                path="model.mode", message=f"is {mode}, but data.frames is {data.frames}", hint=hint
            )
        )
    if size != data.size and not resized:
        hint = f"data.size: {size}, or resizer_i3d, which enlarges small frames"
        faults.append(
            Fault(path="model.mode", message=f"is {mode}, but data.size is {data.size}", hint=hint)
        )
    return faults


def _parts(config: Config, signature: Signature) -> list[Fault]:
    """Faults of `model.init` and `model.freeze`: parts that the model does not have, names that nothing published has."""
    init, faults = config.model.init, []
    if isinstance(init, Mapping):
        for part, text in init.items():
            if part not in signature.parts:
                faults.append(_no_part(f"model.init.{part}", part, signature))
            elif not text:
                faults.append(
                    Fault(
                        path=f"model.init.{part}",
                        message="is empty",
                        hint="a checkpoint's path, or leave the part out",
                    )
                )
            else:
                faults += _source(
                    text,
                    part if len(signature.parts) > 1 else signature.name,
                    f"model.init.{part}",
                    {},
                )
    elif init:
        faults += _source(
            init,
            signature.name,
            "model.init",
            config.model.options | _from_data(config, signature, None),
        )
    return faults + [
        _no_part("model.freeze", part, signature)
        for part in config.model.freeze
        if part not in signature.parts
    ]


def _no_part(path: str, part: str, signature: Signature) -> Fault:
    hint = did_you_mean(part, signature.parts) or f"its parts: {', '.join(signature.parts)}"
    if path == "model.freeze" and len(signature.parts) == 1:
        hint = f"model.freeze: {signature.name} freezes all but its last layer"
    return Fault(path=path, message=f"{signature.name} has no part {part!r}", hint=hint)


def _source(init: str, model: str, path: str, options: Mapping[str, Any]) -> list[Fault]:
    """Faults of one `model.init`, and of options that published weights were not made with."""
    found = published.source(init, model, path)
    if isinstance(found, Fault):
        return [found]
    signature = signatures.find(model)
    faults = []
    for key, theirs in found.record.get("options", {}).items() if signature else ():
        option = signature.options.get(key) if signature else None
        mine = options.get(key, option.default if option else theirs)
        if key not in _WEIGHTLESS and mine not in (None, theirs):
            message = f"is {mine}, but {found.record['name']} was made with {theirs}"
            # a network's frames are the data's
            where = f"{'data' if key == 'frames' else 'model'}.{key}"
            faults.append(Fault(path=where, message=message, hint=f"{where}: {theirs}"))
    return faults
