"""Validation clips, carved out of the training clips class by class, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.sampling import Indices, permutation


def split_validation(labels: Sequence[Sequence[int]], classes: int, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """(training, validation) clip numbers, both ascending; the scheme of data-and-recipes 1.4.

    Of each class's clips, max(int(fraction * count), 1) are drawn for validation, and validation is their union. One random order of
    all clips serves every class, so clips with several labels are drawn for all of them together and the union stays close to
    `fraction`. A class with a single clip keeps it for training. `fraction` 0 holds nothing out.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    drawn = permutation(len(labels), seed).tolist()
    for label in range(classes if fraction > 0 else 0):
        members = [clip for clip in drawn if label in labels[clip]]
        if len(members) > 1:
            chosen[members[: max(int(fraction * len(members)), 1)]] = True
    everything = np.arange(len(labels), dtype=np.int64)
    return everything[~chosen], everything[chosen]
