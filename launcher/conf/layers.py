"""The layers of a conf, lowest first: defaults, cluster profile, `extends`, the file, VIDJOBS_A__B, --set, --name and --from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.conf.nodes import KeyPath, Node, Origin, from_plain, merge, nested
from launcher.conf.yaml_source import read_file, read_text
from launcher.errors import Fault, did_you_mean

_VARIABLE = re.compile(r"VIDJOBS_[A-Z][A-Z0-9_]*__[A-Z0-9_]+")


def file_layer(path: Path) -> tuple[Node, list[Fault]]:
    """The conf file over what it extends."""
    return _with_extends(path, "file", ())


def _with_extends(path: Path, layer: str, above: tuple[Path, ...]) -> tuple[Node, list[Fault]]:
    node, faults = read_file(path, layer)
    if node is None:
        return Node({}, Origin(layer, str(path))), faults
    named = node.value.pop("extends", None)
    lower = Node({}, node.origin)
    for base in _bases(named, faults):
        target = (path.parent / base.text).resolve()
        if target in (*above, path.resolve()):
            chain = " -> ".join(step.name for step in (*above, path, target))
            faults.append(_fault(base, f"the files extend each other in a circle: {chain}"))
        elif not target.is_file():
            near = did_you_mean(
                target.name, sorted(file.name for file in target.parent.glob("*.y*ml"))
            )
            faults.append(
                _fault(
                    base,
                    f'there is no file "{base.text}" beside {path.name}',
                    near or f"looked for {target}",
                )
            )
        else:
            below, more = _with_extends(target, "extends", (*above, path.resolve()))
            lower, faults = merge(lower, below), faults + more
    return merge(lower, node), faults


def _bases(named: Node | None, faults: list[Fault]) -> list[Node]:
    """`extends` as a list of file names; a name alone is a list of one."""
    if named is None or named.value is None:
        return []
    listed = named.value if isinstance(named.value, list) else [named]
    wrong = [item for item in listed if not isinstance(item.value, str)]
    faults.extend(_fault(item, "wants a file name, or a list of file names") for item in wrong)
    return [item for item in listed if item not in wrong]


def _fault(node: Node, message: str, hint: str = "") -> Fault:
    return Fault(
        path="extends", message=message, hint=hint, file=node.origin.file, line=node.origin.line
    )


def environment_layer(environ: Mapping[str, str]) -> tuple[Node, list[Fault]]:
    """VIDJOBS_TRAIN__LR=1e-3 sets train.lr. Keys are lower case here; variables without a double underscore are not conf."""
    words = []
    for name in sorted(environ):
        if _VARIABLE.fullmatch(name):
            keys = tuple(name.removeprefix("VIDJOBS_").lower().split("__"))
            words.append((keys, environ[name], Origin("environment", f"environment {name}")))
    return _from_words(words)


def set_layer(sets: Sequence[str]) -> tuple[Node, list[Fault]]:
    """`a.b=v` from the command line; v is YAML."""
    words: list[tuple[KeyPath, str, Origin]] = []
    faults = []
    for item in sets:
        path, separator, text = item.partition("=")
        keys = tuple(path.strip().split("."))
        if not separator or not all(keys):
            faults.append(
                Fault(
                    path="", message=f'"{item}" is not of the form section.key=value', file="--set"
                )
            )
        else:
            words.append((keys, text, Origin("--set", f"--set {path.strip()}")))
    layer, more = _from_words(words)
    return layer, faults + more


def given_layer(values: Mapping[str, Any], origin: Origin) -> Node:
    """Values at dotted paths that the command line gave in another way (--name, --from)."""
    layer = Node({}, origin)
    for path, value in values.items():
        layer = merge(layer, nested(tuple(path.split(".")), from_plain(value, origin)))
    return layer


def _from_words(words: Iterable[tuple[KeyPath, str, Origin]]) -> tuple[Node, list[Fault]]:
    layer = Node({}, Origin(""))
    faults = []
    for keys, text, origin in words:
        value, more = read_text(text, origin, lines=False)
        faults += more
        if text in ("", "-"):  # a dash is stdin; to YAML it is a list of nothing
            value = Node(text, origin, text)
        if value is not None:
            layer = _put(layer, nested(keys, value))
    return layer, faults


def _put(layer: Node, above: Node) -> Node:
    """Like merge, but keeps nulls: they unset keys of lower layers later."""
    merged = dict(layer.value)
    for key, child in above.value.items():
        both = (
            key in merged and isinstance(merged[key].value, dict) and isinstance(child.value, dict)
        )
        merged[key] = _put(merged[key], child) if both else child
    return replace(above, value=merged)
