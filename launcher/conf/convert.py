"""Nodes to the dataclasses of schema.py: each scalar by its field's type, every fault with its place."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from launcher.conf.nodes import KeyPath, Node, path_text, plain
from launcher.conf.units import Bytes, Cores, Seconds
from launcher.errors import Fault, did_you_mean

T = TypeVar("T")
_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


class _Wrong(ValueError):
    """A value that does not fit its field."""


def convert(node: Node, kind: type[T], path: KeyPath) -> tuple[T | None, list[Fault]]:
    """The node as a dataclass; fields with faults hold their defaults. None when a required field cannot be had."""
    faults: list[Fault] = []
    value = _dataclass(node, kind, path, faults)
    return typing.cast("T | None", value), faults


def key_of(field: dataclasses.Field[Any]) -> str:
    """A field's name in a conf; `as` is a word of Python."""
    return str(field.metadata.get("key", field.name))


def fault_at(node: Node, path: KeyPath, message: str, hint: str = "") -> Fault:
    """A fault where the node was written."""
    return Fault(
        path=path_text(path),
        message=message,
        hint=hint,
        file=node.origin.file,
        line=node.origin.line,
    )


def unknown_key(node: Node, path: KeyPath, known: Sequence[str]) -> Fault:
    """The fault of a key that nothing reads."""
    return fault_at(
        node,
        path,
        "unknown key",
        did_you_mean(str(path[-1]), known) or f"known: {', '.join(known)}",
    )


def _dataclass(node: Node, kind: type, path: KeyPath, faults: list[Fault]) -> Any:
    fields = {key_of(field): field for field in dataclasses.fields(kind)}
    if not isinstance(node.value, dict):
        faults.append(
            fault_at(
                node, path, f"is {_said(node)}, not a mapping", f"its keys: {', '.join(fields)}"
            )
        )
        return None
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, child in node.value.items():
        if key not in fields:
            faults.append(unknown_key(child, (*path, key), list(fields)))
        elif child.value is not None:
            before = len(faults)
            value = _value(child, hints[fields[key].name], (*path, key), faults)
            if len(faults) == before or value is not None:
                values[fields[key].name] = value
    missing = [
        key for key, field in fields.items() if _required(field) and field.name not in values
    ]
    faults += [
        fault_at(node, path, f'"{key}" is missing') for key in missing if key not in node.value
    ]
    return None if missing else kind(**values)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(node: Node, kind: Any, path: KeyPath, faults: list[Fault]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # only `X | None` here: null never comes this far
        return _value(
            node, next(each for each in arguments if each is not type(None)), path, faults
        )
    if dataclasses.is_dataclass(kind):
        return _dataclass(node, typing.cast(type, kind), path, faults)
    if origin is tuple:
        items = node.value if isinstance(node.value, list) else [node]
        found = [
            _value(item, arguments[0], (*path, index), faults) for index, item in enumerate(items)
        ]
        return tuple(item for item in found if item is not None)
    if origin is dict:
        return _mapping(node, arguments[1], path, faults)
    try:
        return plain(node) if kind is Any else _scalar(node, kind)
    except ValueError as error:
        faults.append(fault_at(node, path, str(error)))
        return None


def _mapping(node: Node, kind: Any, path: KeyPath, faults: list[Fault]) -> dict[str, Any] | None:
    if not isinstance(node.value, dict):
        faults.append(fault_at(node, path, f"is {_said(node)}, not a mapping"))
        return None
    found = {key: _value(child, kind, (*path, key), faults) for key, child in node.value.items()}
    return {key: value for key, value in found.items() if value is not None or kind is Any}


def _scalar(node: Node, kind: Any) -> Any:
    if isinstance(node.value, (dict, list)):
        raise _Wrong(f"is {_said(node)}, not one value")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if node.text in choices:
            return node.text
        near = did_you_mean(node.text, choices)
        raise _Wrong(
            f'is "{node.text}", not one of {", ".join(choice for choice in choices if choice)}{near and f"; {near}"}'
        )
    if kind in (Seconds, Bytes, Cores):
        return kind.parse(node.text)
    if kind is str:
        return node.text
    if kind is bool:
        if node.text.lower() not in _WORDS:
            raise _Wrong(f"is {_said(node)}, not true or false")
        return _WORDS[node.text.lower()]
    return _whole_number(node)


def _whole_number(node: Node) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, (int, float, str)):
        raise _Wrong(f"is {_said(node)}, not a whole number")
    try:
        number = float(node.value)
    except ValueError:
        raise _Wrong(f"is {_said(node)}, not a whole number") from None
    if not number.is_integer() or not 0 <= number < 2**31:
        raise _Wrong(f"is {_said(node)}, not a whole number from 0 to {2**31 - 1}")
    return int(number)


def _said(node: Node) -> str:
    """A value as a message shows it."""
    if isinstance(node.value, dict):
        return "a mapping"
    return "a list" if isinstance(node.value, list) else f'"{node.text}"'
