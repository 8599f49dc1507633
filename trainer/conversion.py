"""A conf's values as the types of their fields: what YAML gives, read the way the field means it. Standard library only."""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Literal

from trainer.errors import did_you_mean


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
        raise ValueError(
            f"is {value!r}, not one of {', '.join(map(str, choices))}"
            + (f"; {hint}" if hint else "")
        )
    if origin is tuple:
        if value is None or isinstance(value, dict):
            raise ValueError(f"is {value!r}, not a list")
        # one thing is a list of one: --set infer.input=talk.mp4
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(convert(item, typing.get_args(kind)[0]) for item in items)
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
        if not math.isfinite(number):  # YAML has .nan and .inf; no setting means anything by them
            raise ValueError(f"is {value!r}, not a number")
        return number
    if not number.is_integer():
        raise ValueError(f"is {value!r}, not {_NUMBERS[kind]}")
    return int(value) if not isinstance(value, str) else int(number)


_NUMBERS = {int: "a whole number", float: "a number"}
