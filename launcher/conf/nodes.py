"""The tree of a conf while it is being resolved: every value remembers which layer, file and line set it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    # "default", "cluster profile", "extends", "file", "environment", "--set", "--from", "trainer
    # default"
    layer: str
    # for layers that are no files, what a person finds again: "--set train.lr", "environment
    # VIDJOBS_TRAIN__LR"
    file: str = ""
    line: int = 0  # 1-based; 0 where there are no lines

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return where if where.startswith(self.layer) else f"{self.layer} {where}".rstrip()


@dataclass(frozen=True)
class Node:
    """A scalar, a mapping or a list of nodes. `text` is a scalar as it was written: 1.10 stays "1.10" where text is wanted."""

    value: Any  # str | int | float | bool | None, dict[str, Node] or list[Node]
    origin: Origin
    text: str = ""


def from_plain(value: Any, origin: Origin) -> Node:
    """A tree from plain containers, all of one origin."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(child, origin) for key, child in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(child, origin) for child in value], origin)
    return Node(value, origin, str(value))


def plain(node: Node) -> Any:
    """The tree as plain containers."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def merge(low: Node, high: Node) -> Node:
    """`high` over `low`: mappings merge, everything else replaces; a null in `high` unsets the key."""
    if not (isinstance(low.value, dict) and isinstance(high.value, dict)):
        return high
    merged: dict[str, Node] = dict(low.value)
    for key, child in high.value.items():
        if child.value is None:
            merged.pop(key, None)
        elif key in merged:
            merged[key] = merge(merged[key], child)
        else:
            merged[key] = without_nulls(child)
    return Node(merged, high.origin)


def without_nulls(node: Node) -> Node:
    """The same mapping without the keys that were set to null."""
    if not isinstance(node.value, dict):
        return node
    return replace(
        node,
        value={
            key: without_nulls(child)
            for key, child in node.value.items()
            if child.value is not None
        },
    )


def nested(path: KeyPath, node: Node) -> Node:
    """The mappings that lead to `node` at a key path without list indices."""
    for key in reversed(path):
        node = Node({str(key): node}, node.origin)
    return node


def leaves(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Every scalar and every empty container, in order."""
    children = _children(node)
    if not children:
        yield path, node
    for key, child in children:
        yield from leaves(child, (*path, key))


def find(node: Node, path: KeyPath) -> Node | None:
    """The node at a key path."""
    for key in path:
        child = dict(_children(node)).get(key)
        if child is None:
            return None
        node = child
    return node


def path_text(path: KeyPath) -> str:
    """("job", "volumes", 0, "claim") -> "job.volumes[0].claim"."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def shown(path: Path) -> str:
    """A path as people type it: relative when it lies below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _children(node: Node) -> list[tuple[str | int, Node]]:
    if isinstance(node.value, dict):
        return list(node.value.items())
    return list(enumerate(node.value)) if isinstance(node.value, list) else []
