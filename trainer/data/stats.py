"""`prepare.stats`: mean and standard deviation of each channel of the training frames, for `data.mean` and `data.std`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.cache import frames_of, map_bytes, read_index
from trainer.data.decode import Frames
from trainer.errors import DataError

CHUNK = 1 << 22  # values of one channel counted at once
LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Over every pixel of every kept training frame, on 0..255, in the order the frames are kept (RGB; u, v, magnitude)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int

    def snippet(self) -> str:
        """For the `data` section of a conf."""
        return f"mean: {_listed(self.mean)}\nstd: {_listed(self.std)}"


def measure(clips: Iterable[Frames]) -> Stats | None:
    """Exact: how often each of the 256 values comes is counted, and the moments follow in float64. None when there is no frame.

    Clips are (T, H, W, C), of any size and one number of channels.
    """
    counts: np.ndarray | None = None
    frames = 0
    for clip in clips:
        pixels = clip.reshape(-1, clip.shape[3])
        if counts is None:
            counts = np.zeros((clip.shape[3], LEVELS), np.int64)
        frames += len(clip)
        for begin in range(0, len(pixels), CHUNK):
            part = pixels[begin : begin + CHUNK]
            counts += np.stack(
                [
                    np.bincount(part[:, channel], minlength=LEVELS)
                    for channel in range(part.shape[1])
                ]
            )
    if counts is None or not frames:
        return None
    total = counts.sum(axis=1).astype(np.float64)
    levels = np.arange(LEVELS, dtype=np.float64)
    mean = counts @ levels / total
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)
    return Stats(mean=_rounded(mean), std=_rounded(std), frames=frames)


def of_training(cache: Path) -> Stats | None:
    """Of the clips in the cache's training split, those that validation is drawn from included. Raises DataError without a cache."""
    index = read_index(cache, "train")
    if index is None:
        raise DataError(
            f"there is no cache of the training split in {cache}",
            hint="prepare.stats needs a dataset with a training split",
        )
    if not index.data and index.total:
        raise DataError(
            "data.source: files keeps no frames to measure",
            hint="run prepare.stats with data.source: cache",
        )
    mapped = map_bytes(cache / index.data, index.bytes)
    return measure(frames_of(mapped, entry) for entry in index.entries if entry.frames)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _listed(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
