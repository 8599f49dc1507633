"""Validation clips, carved out of the training clips class by class, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.sampling import Indices, permutation


def split_validation(
    labels: Sequence[Sequence[int]],
    classes: int,
    *,
    fraction: float,
    seed: int,
    groups: Sequence[str] = (),
) -> tuple[Indices, Indices]:
    """(training, validation) clip numbers, both ascending; the scheme of data-and-recipes 1.4.

    Of each class's clips, max(int(fraction * count), 1) are drawn for validation, and validation is their union. One random order of
    all clips serves every class, so clips with several labels are drawn for all of them together and the union stays close to
    `fraction`. A class with a single clip keeps it for training. `fraction` 0 holds nothing out.
    Clips of the same group (of each clip; "" = none) are never parted: a group is drawn as a whole, unless that would overshoot the
    class's number by more than it lacks (HMDB51 has some of 41 clips); a class whose clips are all of one group keeps it for training.
    """
    units = [groups[clip] if groups and groups[clip] else clip for clip in range(len(labels))]
    chosen: set[str | int] = set()
    # of each class: unit -> its clips, in the order drawn
    members: list[dict[str | int, int]] = [{} for _ in range(classes)]
    for clip in permutation(len(labels), seed).tolist():
        for label in labels[clip]:
            members[label][units[clip]] = members[label].get(units[clip], 0) + 1
    for sizes in members if fraction > 0 else ():
        chosen.update(_drawn(list(sizes.items())[:-1], max(int(fraction * sum(sizes.values())), 1)))
    held = np.array([unit in chosen for unit in units], dtype=bool)
    everything = np.arange(len(labels), dtype=np.int64)
    return everything[~held], everything[held]


def _drawn(units: Sequence[tuple[str | int, int]], wanted: int) -> list[str | int]:
    """Of (unit, its clips), in the order drawn, those that come nearest to `wanted` clips; at least one. [5, 41, 6, 1], 10 -> 5, 6"""
    taken, left = list[str | int](), wanted
    for unit, size in units:
        if left > 0 and size <= 2 * left:
            taken.append(unit)
            left -= size
    return taken or [unit for unit, _ in sorted(units, key=lambda each: each[1])[:1]]
