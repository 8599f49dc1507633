"""Paths into a manifest, as rules write them: `pod.containers[*].resources.limits['nvidia.com/*']`. Pure.

A path starts at `object` (the manifest), at `pod` (a Job's or Pod's pod spec), or else at the place that the rule looks at.
`[*]` is every item of a list, `['key']` a key with dots or slashes, `['prefix*']` every key that starts so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_]*)|\[(\*)\]|\['([^'*]+)(\*?)'\]")
ROOTS = ("object", "pod")


class Step(NamedTuple):
    """One step down: "field" and "key" by exact name, "keys" by the start of a name, "items" into a list."""

    kind: str
    name: str = ""


class Place(NamedTuple):
    """A value of a manifest and how to find it."""

    path: str
    value: Any


def parse(text: str) -> tuple[str, tuple[Step, ...]]:
    """(root, steps); the root is "" for a path from the rule's own place. ValueError says where it cannot be read."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(
                f'is "{text}", which cannot be read from "{text[at:]}" on (such as pod.containers[*].env[*].name)'
            )
        steps.append(_step(match))
        at = match.end()
    root = steps[0].name if steps and steps[0].kind == "field" and steps[0].name in ROOTS else ""
    return root, tuple(steps[1:] if root else steps)


def _step(match: re.Match[str]) -> Step:
    field, items, key, glob = match.groups()
    if field:
        return Step("field", field)
    return Step("items") if items else Step("keys" if glob else "key", key)


def pod_spec(manifest: Mapping[str, Any]) -> Place | None:
    """The pod spec of a Job or a Pod; None of anything else."""
    spec = manifest.get("spec") or {}
    if manifest.get("kind") == "Pod":
        return Place("spec", spec)
    template = spec.get("template", {}).get("spec") if isinstance(spec, Mapping) else None
    return None if template is None else Place("spec.template.spec", template)


def find(text: str, manifest: Mapping[str, Any], here: Place) -> list[Place]:
    """All values that the path leads to; none when a step leads nowhere."""
    root, steps = parse(text)
    start = {"object": Place("", manifest), "pod": pod_spec(manifest), "": here}[root]
    places = [start] if start is not None else []
    for step in steps:
        places = [below for place in places for below in _down(place, step)]
    return places


def _down(place: Place, step: Step) -> Iterator[Place]:
    value = place.value
    if step.kind == "items":
        if isinstance(value, list):
            yield from (Place(f"{place.path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if key == step.name or (step.kind == "keys" and str(key).startswith(step.name)):
                dotted = f"{place.path}.{key}" if place.path else str(key)
                yield Place(dotted if step.kind == "field" else f"{place.path}['{key}']", child)
