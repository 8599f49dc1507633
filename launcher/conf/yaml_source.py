"""YAML text to nodes with lines. Only plain data: no tags, no duplicate keys, no documents after the first.

Scalars follow YAML 1.2's core schema, so `1e-3` is a number, and `on`, `012`, `1:30` and dates are text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from launcher.conf.nodes import Node, Origin, shown
from launcher.errors import Fault, did_you_mean

# Base: every scalar stays text, tags are only those written
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_WORDS |= {
    f"{sign}.{word}": float(f"{sign}inf")
    for sign in ("", "+", "-")
    for word in ("inf", "Inf", "INF")
}
_WORDS |= {f".{word}": float("nan") for word in ("nan", "NaN", "NAN")}
_MOST_NODES = 100_000  # aliases of aliases can name more values than there is memory


class _Refused(Exception):
    """A value that a conf may not hold; becomes a fault at the mark."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_file(path: Path, layer: str) -> tuple[Node | None, list[Fault]]:
    """The mapping in a file; None with the faults when it cannot be read. An empty file is an empty mapping."""
    name = shown(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        beside = sorted(file.name for file in path.parent.glob("*.y*ml"))
        return None, [
            Fault(
                path="",
                message=f"cannot read it: {error.strerror or error}",
                hint=did_you_mean(path.name, beside),
                file=name,
            )
        ]
    except UnicodeDecodeError as error:
        return None, [Fault(path="", message=f"it is not UTF-8 text: {error}", file=name)]
    node, faults = read_text(text, Origin(layer, name))
    if node is not None and not isinstance(node.value, dict):
        if node.value is not None:
            return None, [
                Fault(
                    path="",
                    message="it is not a mapping of sections",
                    file=name,
                    line=node.origin.line,
                )
            ]
        node = Node({}, node.origin)
    return node, faults


def read_text(text: str, origin: Origin, *, lines: bool = True) -> tuple[Node | None, list[Fault]]:
    """The value in a YAML text. With `lines` each value's origin gets its line."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
        builder = _Builder(origin, lines)
        node = Node(None, origin) if root is None else builder.build(root, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark and lines else origin.line
        return None, [Fault(path="", message=_syntax(error, text), file=origin.file, line=line)]
    except yaml.YAMLError as error:
        return None, [
            Fault(
                path="", message=f"it is not YAML: {' '.join(str(error).split())}", file=origin.file
            )
        ]
    except RecursionError:
        return None, [Fault(path="", message="its values are nested too deeply", file=origin.file)]
    except _Refused as error:
        return None, [
            Fault(
                path="",
                message=str(error),
                file=origin.file,
                line=error.line if lines else origin.line,
            )
        ]
    return node, builder.faults


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    lines = text.split("\n")
    at = error.problem_mark.line if error.problem_mark else len(lines)
    tabs = (
        "; YAML is indented with spaces, never tabs"
        if lines[at : at + 1] and lines[at].lstrip(" ").startswith("\t")
        else ""
    )
    return f"it is not YAML: {', '.join(part for part in (error.context, error.problem) if part)}{tabs}"


class _Builder:
    """Turns composed YAML nodes into ours."""

    def __init__(self, origin: Origin, lines: bool) -> None:
        self.origin = origin
        self.lines = lines
        self.faults: list[Fault] = []
        self.count = 0

    def build(self, node: yaml.Node, above: tuple[int, ...]) -> Node:
        self.count += 1
        if self.count > _MOST_NODES:
            raise _Refused(
                f"it has more than {_MOST_NODES} values (aliases count each time)",
                node.start_mark.line + 1,
            )
        if id(node) in above:
            raise _Refused("a value contains itself through an alias", node.start_mark.line + 1)
        if node.tag not in _PLAIN_TAGS:
            raise _Refused(
                f'the tag "{node.tag}" is not allowed: a conf holds plain values only',
                node.start_mark.line + 1,
            )
        origin = self._at(node)
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, (*above, id(node))), origin)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.build(child, (*above, id(node))) for child in node.value], origin)
        return Node(_scalar(node), origin, node.value)

    def _mapping(self, node: yaml.MappingNode, above: tuple[int, ...]) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("a key is not a word", key.start_mark.line + 1)
            if key.value == "<<" and not key.style:
                merged |= self._merged(value, above)
            elif key.value in own:
                first = f" (first on line {own[key.value].origin.line})" if self.lines else ""
                self.faults.append(
                    Fault(
                        path=key.value,
                        message=f"the key is there twice{first}",
                        file=self.origin.file,
                        line=self._at(key).line,
                    )
                )
            else:
                own[key.value] = self._keyed(key, self.build(value, above))
        return {key: value for key, value in merged.items() if key not in own} | own

    def _keyed(self, key: yaml.Node, value: Node) -> Node:
        """A value on a later line than its key is looked for at its key."""
        return Node(value.value, self._at(key), value.text)

    def _merged(self, node: yaml.Node, above: tuple[int, ...]) -> dict[str, Node]:
        """`<<: *defaults` or a list of such; the first in a list wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Node] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise _Refused("`<<` wants a mapping", node.start_mark.line + 1)
            found = self._mapping(source, (*above, id(source))) | found
        return found

    def _at(self, node: yaml.Node) -> Origin:
        line = node.start_mark.line + 1 if self.lines else self.origin.line
        return Origin(self.origin.layer, self.origin.file, line)


def _scalar(node: Any) -> Any:
    text: str = node.value
    if any(0xD800 <= ord(letter) <= 0xDFFF or letter == "\0" for letter in text):
        raise _Refused("a text holds NUL or half a surrogate pair", node.start_mark.line + 1)
    if node.style:  # quoted or block text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 4000:
        return text if len(text.lstrip("+-")) > 1 and text.lstrip("+-")[0] == "0" else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
