"""Which frames make a clip, and in which order clips come: pure functions of (seed, epoch, sample).

Only raw Philox bits and SeedSequence words are used: numpy keeps those the same in every version, so a resumed run
draws what the first one drew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ORDER, SAMPLE = 1, 2  # keep the streams apart
WORD = float(2**64)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What chance decided about one sample."""

    start: int  # first frame of the clip
    flip: bool


def clip_indices(total: int, frames: int, start: int = 0) -> Indices:
    """Frame numbers of the clip `[start, start + frames)` of a video of `total` frames; past the end the last one repeats.

    total=5, frames=4, start=0 -> 0 1 2 3        total=3, frames=5, start=0 -> 0 1 2 2 2
    """
    if total < 1 or frames < 1 or start < 0:
        raise ValueError(f"{total = }, {frames = }, {start = }: a clip needs frames, and starts at one")
    return np.minimum(np.arange(start, start + frames, dtype=np.int64), total - 1)


def last_start(total: int, frames: int) -> int:
    """The last frame at which a whole clip can start; 0 for a video that is just long enough, or too short."""
    return max(total - frames, 0)


def draw(total: int, frames: int, *, seed: int, epoch: int, sample: int, random_start: bool, flip: float) -> Draw:
    """Start and mirroring of one sample of one epoch: uniform over all whole clips; `flip` is the probability of mirroring."""
    words = np.random.SeedSequence((SAMPLE, seed, epoch, sample)).generate_state(2, np.uint64)
    start = int(float(words[0]) / WORD * (last_start(total, frames) + 1)) if random_start else 0
    return Draw(start=min(start, last_start(total, frames)), flip=float(words[1]) / WORD < flip)


def permutation(n: int, *key: int) -> Indices:
    """A permutation of 0..n-1 that depends on `key` alone."""
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def order(n: int, *, seed: int, epoch: int, shuffle: bool) -> Indices:
    """The order of an epoch over `n` clips: a permutation of its own for each (seed, epoch), or 0..n-1."""
    return permutation(n, ORDER, seed, epoch) if shuffle else np.arange(n, dtype=np.int64)


def share(total: int, rank: int, world: int) -> slice:
    """The contiguous part of `total` clips that `rank` of `world` processes takes; sizes differ by at most one.

    total=7, world=3 -> [0:3] [3:5] [5:7]        total=1, world=2 -> [0:1] [1:1]
    """
    size, extra = divmod(total, world)
    start = rank * size + min(rank, extra)
    return slice(start, start + size + (rank < extra))
