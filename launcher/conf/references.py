"""`${runs}`, `${data}` and `${section.key}`, substituted once, when all layers are merged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from launcher.conf.nodes import KeyPath, Node, find, leaves, path_text
from launcher.errors import Fault, did_you_mean

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def substitute(root: Node, places: Mapping[str, str]) -> tuple[Node, list[Fault]]:
    """The tree with every reference replaced. What a reference brings in is final: it is never read for references again.

    `places` are the paths of the volumes that say `as:`. A text that is one reference alone keeps the type of its value.
    """
    work = _Substitution(root, places)
    return work.tree(root, ()), work.faults


class _Substitution:
    def __init__(self, root: Node, places: Mapping[str, str]) -> None:
        self.root = root
        self.places = places
        self.faults: list[Fault] = []

    def tree(self, node: Node, path: KeyPath) -> Node:
        if isinstance(node.value, dict):
            return replace(
                node,
                value={key: self.tree(child, (*path, key)) for key, child in node.value.items()},
            )
        if isinstance(node.value, list):
            return replace(
                node,
                value=[self.tree(child, (*path, index)) for index, child in enumerate(node.value)],
            )
        try:
            return self._scalar(node, (path,))
        except _BadReference as error:
            self.faults.append(
                Fault(
                    path=path_text(path),
                    message=str(error),
                    hint=error.hint,
                    file=node.origin.file,
                    line=node.origin.line,
                )
            )
            return node

    def _scalar(self, node: Node, chain: tuple[KeyPath, ...]) -> Node:
        """`chain`: the key paths being resolved, the outermost first."""
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        if alone := _REFERENCE.fullmatch(node.value):
            found = self._look_up(alone[1], chain)
            return Node(found.value, node.origin, found.text)
        text = _REFERENCE.sub(lambda match: self._look_up(match[1], chain).text, node.value)
        if "${" in _REFERENCE.sub("", node.value):
            raise _BadReference(
                f'"{node.value}" has a "${{" without its end',
                "write ${runs}, ${data} or ${section.key}",
            )
        return Node(text, node.origin, text)

    def _look_up(self, name: str, chain: tuple[KeyPath, ...]) -> Node:
        if name in self.places:
            return Node(self.places[name], self.root.origin, self.places[name])
        path: KeyPath = tuple(name.split("."))
        target = find(self.root, path)
        if name in ("runs", "data"):
            raise _BadReference(
                f"${{{name}}} has no volume", f"give one of job.volumes `as: {name}`"
            )
        if target is None:
            raise _BadReference(f"${{{name}}} is not set", self._near(name))
        if isinstance(target.value, (dict, list)):
            raise _BadReference(
                f"${{{name}}} is a {'mapping' if isinstance(target.value, dict) else 'list'}, not one value"
            )
        if path in chain:
            raise _BadReference(
                "the references go in a circle: "
                + " -> ".join(path_text(step) for step in (*chain, path))
            )
        return self._scalar(target, (*chain, path))

    def _near(self, name: str) -> str:
        known = [*self.places, *(path_text(path) for path, _ in leaves(self.root))]
        return (
            did_you_mean(name, known)
            or "known are ${runs}, ${data} and ${section.key} of keys that this conf sets"
        )


class _BadReference(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
