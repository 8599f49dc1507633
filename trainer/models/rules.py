"""What the options of a model may be: names, types, ranges, and how they hang together. No torch, so that `check` is quick."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from trainer import signatures
from trainer.conversion import convert
from trainer.errors import Fault, did_you_mean
from trainer.signatures import Option, Signature

POINTS = 9  # where a transformer_resizer reads and applies: 0 input ... 8 after the outer skip
_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_LEAST = {
    "num_classes": 1,
    "in_channels": 1,
    "frames": 1,
    "size": 4,
    "in_size": 4,
    "residual_blocks": 0,
    "seq_len": 1,
    "hidden": 1,
    "groups": 1,
    "cardinality": 1,
}  # of whole numbers, by name
_SHARES = ("dropout", "bn_momentum")  # 0 <= value < 1
_POSITIVE = ("width", "bn_eps")


def parse_mode(mode: str) -> tuple[int, int]:
    """Frames and side of an I3D mode: "32x112" is (32, 112). Raises ValueError for a mode that I3D cannot have.

    Published: {16,32,64}x{112,224}. Any T a multiple of 8 and S a multiple of 16 works by the same rule, except 8x16,
    whose last map is a single cell, too little for BatchNorm.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", mode)
    if not match:
        raise ValueError(f'is {mode!r}, not "<frames>x<side>" as in "32x112"')
    frames, size = int(match[1]), int(match[2])
    if frames % 8 or size % 16:
        raise ValueError(
            f"is {mode!r}: frames must be a multiple of 8 and the side a multiple of 16 (published: 16, 32, 64 x 112, 224)"
        )
    if (frames, size) == (8, 16):
        raise ValueError(f"is {mode!r}: too small; the least are 16x16 and 8x32")
    return frames, size


def model_fault(name: str) -> Fault | None:
    """The fault of an unknown model name."""
    if signatures.find(name):
        return None
    known = list(signatures.read())
    hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
    if not name:
        return Fault(path="model.name", message="is missing", hint=hint)
    return Fault(path="model.name", message=f"there is no model {name!r}", hint=hint)


def option_faults(
    signature: Signature, options: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Fault]]:
    """The given options as the model's types, and everything wrong with them, defaults of the others considered."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, value in options.items():
        option = signature.options.get(key)
        if option is None:
            faults.append(_unknown(signature, key))
            continue
        try:
            values[key] = _checked(key, _converted(value, option))
        except ValueError as error:
            faults.append(Fault(path=f"model.{key}", message=str(error)))
    if not faults:
        faults = _together(
            {key: option.default for key, option in signature.options.items()} | values
        )
    return values, faults


def _unknown(signature: Signature, key: str) -> Fault:
    takes = [name for name in signature.options if name != "num_classes"]
    if key == "num_classes":
        hint = "it maps video to video and has no classes"
    else:
        hint = did_you_mean(key, takes) or f"it takes {', '.join(takes)}"
    return Fault(path=f"model.{key}", message=f"{signature.name} has no option {key!r}", hint=hint)


def _converted(value: Any, option: Option) -> Any:
    if option.choices:
        return convert(value, Literal[option.choices])
    text, optional, _ = option.annotation.partition(" | None")
    if optional and value is None:
        return None
    kind = _TYPES.get(text, Any)
    if kind is str and not isinstance(value, str):  # `mode: 32` would become the text "32"
        raise ValueError(f"is {value!r}, not text")
    return convert(value, kind)


def _checked(key: str, value: Any) -> Any:
    if key == "mode":
        parse_mode(value)
    if key in ("read_at", "apply_at") and not 0 <= value < POINTS:
        raise ValueError(f"is {value}, not one of the points 0 to {POINTS - 1}")
    if key in _LEAST and value is not None and value < _LEAST[key]:
        raise ValueError(f"is {value}, less than {_LEAST[key]}")
    if key in _POSITIVE and value is not None and value <= 0:
        raise ValueError(f"is {value}, not above 0")
    if key in _SHARES and not 0 <= value < 1:
        raise ValueError(f"is {value}, not from 0 up to 1")
    return value


def _together(values: Mapping[str, Any]) -> list[Fault]:
    faults = []
    if "read_at" in values and values["read_at"] > values["apply_at"]:
        message = f"is {values['read_at']}, after apply_at {values['apply_at']}: the transform is read before it is applied"
        faults.append(Fault(path="model.read_at", message=message, hint="read_at <= apply_at"))
    if "mode" in values:
        for key, expected in zip(("frames", "size"), parse_mode(values["mode"]), strict=True):
            if values.get(key) not in (None, expected):
                hint = f"leave {key} out: the mode gives it"
                faults.append(
                    Fault(
                        path=f"model.{key}",
                        message=f"is {values[key]}, but mode {values['mode']} has {expected}",
                        hint=hint,
                    )
                )
    return faults
