"""Which frames make a clip, and in which order clips come: pure functions of (seed, epoch, sample).

Only raw Philox bits and SeedSequence words are used: numpy keeps those the same in every version, so a resumed run
draws what the first one drew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

ORDER, SAMPLE = 1, 2  # keep the streams apart
WORD = float(2**64)
BELOW_ONE = 1 - 2.0**-53
CROP_WORDS = 6  # choices of a crop: see crops.py
# moments this much before a frame are the frame's: containers round times to milliseconds, and 30
# fps to 15 ties always
TIE_SECONDS = 6e-4

Indices = npt.NDArray[np.int64]
Number = TypeVar("Number", float, npt.NDArray[Any])


@dataclass(frozen=True)
class Draw:
    """What chance decided about one sample."""

    start: int  # first frame of the clip
    flip: bool
    crop: tuple[float, ...] = ()  # uniform in [0, 1), one for each choice of a crop


def span_of(frames: int, stride: int) -> int:
    """Frames of the video from a clip's first to its last one. frames=3, stride=2 -> 5"""
    return (frames - 1) * stride + 1


def clip_indices(
    total: int, frames: int, start: int = 0, *, stride: int = 1, loop: bool = False
) -> Indices:
    """Frame numbers of the clip that begins at `start` of a video of `total` frames; past the end the last one repeats.

    total=5, frames=4, start=0 -> 0 1 2 3        total=3, frames=5, start=0 -> 0 1 2 2 2
    total=9, frames=3, start=1, stride=2 -> 1 3 5
    `loop`: past the end it goes on from the clip's own start:        total=5, frames=5, start=2, loop -> 2 3 4 2 3
    """
    if total < 1 or frames < 1 or stride < 1 or start < 0:
        raise ValueError(
            f"{total = }, {frames = }, {start = }, {stride = }: a clip needs frames, and starts at one"
        )
    indices = np.arange(start, start + frames * stride, stride, dtype=np.int64)
    if indices[-1] < total:
        return indices
    if loop and start < total:
        return start + (indices - start) % (total - start)
    return np.minimum(indices, total - 1)


def last_start(total: int, span: int) -> int:
    """The last frame at which a whole clip can start; 0 for a video that is just long enough, or too short."""
    return max(total - span, 0)


def center_start(total: int, span: int) -> int:
    """The start of the clip in the middle of a video."""
    return max(total // 2 - span // 2, 0)


def uniform_starts(total: int, span: int, clips: int) -> Indices:
    """The starts of `clips` evenly spread clips, floor(i * (total - span) / (clips - 1)); one clip: the centre.

    total=20, span=16, clips=3 -> 0 2 4        A video that is no longer than a clip gives the same clip every time.
    """
    if clips == 1:
        return np.array([center_start(total, span)], dtype=np.int64)
    return np.arange(clips, dtype=np.int64) * last_start(total, span) // (clips - 1)


def every_start(total: int, span: int, step: int) -> Indices:
    """The starts of clips at each `step` frames: all whole ones, and one in a video that is too short for any.

    total=20, span=8, step=6 -> 0 6 12        `step` 0: a clip's length, and the rest at the end is a clip of its own -> 0 8 16
    With a two-stream system's seq_len frames `gap` apart, frames=seq_len, stride=gap and step=frame_step are its windows centred on
    the frames (seq_len // 2) * gap + 0, step, 2 step, ... (and the last whole one, which the original left out).
    """
    last = max(total - 1, 0) if step == 0 else last_start(total, span)
    return np.arange(0, last + 1, step or span, dtype=np.int64)


def draw(
    total: int,
    span: int,
    *,
    seed: int,
    epoch: int,
    sample: int,
    random_start: bool,
    flip: float,
    crop: bool = False,
) -> Draw:
    """What chance decides about one sample of one epoch: its start, uniform over all whole clips; its mirroring; with `crop`, its crop.

    `flip` is the probability of mirroring. The words come in a fixed order, new ones at the end, so that runs go on as they began.
    """
    words = np.random.SeedSequence((SAMPLE, seed, epoch, sample)).generate_state(
        2 + CROP_WORDS * crop, np.uint64
    )
    chance = tuple(min(float(word) / WORD, BELOW_ONE) for word in words[2:])
    start = int(float(words[0]) / WORD * (last_start(total, span) + 1)) if random_start else 0
    return Draw(
        start=min(start, last_start(total, span)), flip=float(words[1]) / WORD < flip, crop=chance
    )


def even_times(frames: int, fps: float) -> npt.NDArray[np.float64]:
    """Seconds at which the frames of a constant rate are shown."""
    return np.arange(frames) / fps


def resample(times: npt.NDArray[np.float64], fps: float) -> Indices:
    """Which frame is shown at (k + 1/2) / fps seconds after the first, k = 0 ... `resampled_length` - 1.

    `times` ascend, in seconds; a frame is shown until the next one comes, the last one for as long as the median one.
    30 fps to 15 -> 1 3 5 ...        25 fps to 50 -> 0 0 1 1 2 2 ...        the same rate -> 0 1 2 ...
    """
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    moments = times[0] + moment(
        np.arange(resampled_length(float(times[-1] - times[0]), usual, fps)), fps
    )
    shown: Indices = np.searchsorted(times, moments, side="right").astype(np.int64) - 1
    return shown


def moment(number: Number, fps: float) -> Number:
    """Seconds after the first frame at which the frame is looked up that becomes number k: (k + 1/2) / fps, and what decides ties."""
    return (number + 0.5) / fps + TIE_SECONDS


def resampled_length(seconds: float, usual: float, fps: float) -> int:
    """Frames after resampling of a video of `seconds` from its first to its last frame, which is shown for `usual`; at least one."""
    return max(int((seconds + usual) * fps + 0.5 + 1e-6), 1)


def permutation(n: int, *key: int) -> Indices:
    """A permutation of 0..n-1 that depends on `key` alone."""
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def order(n: int, *, seed: int, epoch: int, shuffle: bool, size: int = 0) -> Indices:
    """The order of an epoch over `n` clips: a permutation of its own for each (seed, epoch), or 0..n-1.

    `size` > 0: so many clips, all of them before any comes again, and so on; the r-th time (from 0) clip i is numbered i + n * r.
    """
    if size <= 0 or n == 0:
        return permutation(n, ORDER, seed, epoch) if shuffle else np.arange(n, dtype=np.int64)
    if not shuffle:
        return np.arange(size, dtype=np.int64)
    rounds = [
        permutation(n, ORDER, seed, epoch, *([r] if r else [])) + n * r
        for r in range(-(-size // n))
    ]
    return np.concatenate(rounds)[:size].astype(np.int64)


def share(total: int, rank: int, world: int) -> slice:
    """The contiguous part of `total` clips that `rank` of `world` processes takes; sizes differ by at most one.

    total=7, world=3 -> [0:3] [3:5] [5:7]        total=1, world=2 -> [0:1] [1:1]
    """
    size, extra = divmod(total, world)
    start = rank * size + min(rank, extra)
    return slice(start, start + size + (rank < extra))
