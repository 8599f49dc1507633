"""Which layer, file and line set each value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from launcher.conf.nodes import Node, leaves, path_text


@dataclass(frozen=True)
class Setting:
    """One value of a resolved conf."""

    path: str
    value: Any
    layer: str
    file: str
    line: int
    said: str  # the origin as a person reads it

    @property
    def text(self) -> str:
        """The value on one line."""
        if isinstance(self.value, str):
            return (
                self.value
                if self.value.isprintable() and self.value
                else json.dumps(self.value, ensure_ascii=False)
            )
        return json.dumps(self.value, ensure_ascii=False)


def settings(tree: Node) -> list[Setting]:
    """Every scalar (and every empty list or mapping) in the order of the conf."""
    found = []
    for path, node in leaves(tree):
        value = type(node.value)() if isinstance(node.value, (dict, list)) else node.value
        origin = node.origin
        found.append(
            Setting(path_text(path), value, origin.layer, origin.file, origin.line, str(origin))
        )
    return found
