"""The small expression of `sweep.where`, as `model.read_at <= model.apply_at and train.lr < 0.01`: read, never run as Python.

Allowed: key paths, numbers, texts, true and false, lists; + - * / %; == != < <= > >= in, not in; and, or, not. Nothing else has a meaning,
so nothing else can be done with it: `ast` only reads it, and `eval` is never called.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 1000  # characters
_WORDS = {"true": True, "false": False}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
_KNOWN = "known: key paths, numbers, texts, true, false, [lists], + - * / %, == != < <= > >= in, and, or, not, ( )"


class Refused(ValueError):
    """An expression that has no meaning here, or none for these values. `hint` is what would have."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Where:
    """An expression whose form is right."""

    text: str
    _root: ast.expr

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key path in it, once, in order."""
        return tuple(dict.fromkeys(_keys(self._root)))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true of these values, by key path. Raises Refused when it cannot be said, as for `1 < "a"` or x / 0."""
        try:
            return _truth(_value(self._root, values))
        except Refused:
            raise
        except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
            raise Refused(f"cannot be worked out: {error}") from error


def parse(text: str) -> Where:
    """Raises Refused for what is no expression, or holds what is not allowed."""
    if len(text) > LONGEST:
        raise Refused(f"has {len(text)} characters, of {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own advice on code, which this is not
            root = ast.parse(text.replace("\n", " ").strip(), mode="eval").body
        _check(root)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, Refused):
            raise
        said = (
            error.msg
            if isinstance(error, SyntaxError)
            else "it is nested too deeply or holds characters that no key has"
        )
        raise Refused(f'"{text}" is no expression: {said}', _KNOWN) from error
    return Where(text, root)


def _check(node: ast.expr) -> None:
    """Raise Refused at the first part that is not allowed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        return
    if isinstance(node, (ast.Name, ast.Attribute)) and _key(node):
        return
    operators: list[ast.AST] = []
    if isinstance(node, ast.BinOp):
        operators = [] if type(node.op) in _ARITHMETIC else [node.op]
    elif isinstance(node, ast.Compare):
        operators = [each for each in node.ops if type(each) not in _COMPARISONS]
    elif isinstance(node, ast.UnaryOp):
        operators = [node.op] if isinstance(node.op, ast.Invert) else []
    elif not isinstance(node, (ast.BoolOp, ast.List, ast.Tuple)):
        raise Refused(f'"{ast.unparse(node)}" is not allowed here', _KNOWN)
    if operators:
        raise Refused(f"the operator {type(operators[0]).__name__} is not allowed here", _KNOWN)
    for child in _children(node):
        _check(child)


def _children(node: ast.expr) -> Iterator[ast.expr]:
    return (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def _key(node: ast.expr) -> str:
    """The key path that `model.read_at` stands for; "" for what is none."""
    if isinstance(node, ast.Name):
        return node.id
    above = _key(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{above}.{node.attr}" if above and isinstance(node, ast.Attribute) else ""


def _keys(node: ast.expr) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        if _key(node) not in _WORDS:
            yield _key(node)
        return
    for child in _children(node):
        yield from _keys(child)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            return _look_up(_key(node), values)
        case ast.List() | ast.Tuple():
            return [_value(item, values) for item in node.elts]
        case ast.BoolOp():
            found = (_truth(_value(child, values)) for child in node.values)
            return all(found) if isinstance(node.op, ast.And) else any(found)
        case ast.UnaryOp():
            return _unary(node.op, _value(node.operand, values))
        case ast.BinOp():
            return _ARITHMETIC[type(node.op)](
                _number(_value(node.left, values)), _number(_value(node.right, values))
            )
        case ast.Compare():
            return _compare(node, values)
    raise AssertionError(f"{node} passed the check")


def _look_up(key: str, values: Mapping[str, Any]) -> Any:
    if key in _WORDS:
        return _WORDS[key]
    if key not in values:
        raise Refused(
            f'"{key}" has no value',
            "write it in the conf: the trainer's defaults are not known here",
        )
    return values[key]


def _unary(sign: ast.unaryop, value: Any) -> Any:
    if isinstance(sign, ast.Not):
        return not _truth(value)
    return -_number(value) if isinstance(sign, ast.USub) else _number(value)


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _value(node.left, values)
    for sign, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, values)
        if isinstance(sign, (ast.In, ast.NotIn)) and not isinstance(right, (list, str)):
            raise Refused(f'"in" wants a list or a text on its right, and found {right!r}')
        if not _COMPARISONS[type(sign)](left, right):
            return False
        left = right
    return True


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(f"arithmetic wants numbers, and found {value!r}")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused(
            f"gives {value!r}, which is neither true nor false",
            "compare it, as in `model.read_at <= model.apply_at`",
        )
    return value
