"""Where a clip's frames come from while training: the cache's memory map, or the files, opened and decoded each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from trainer.data.cache import Bytes, Entry, Index, map_bytes
from trainer.data.decode import Frames
from trainer.data.sampling import Indices


class FrameSource(Protocol):
    """Frames of the entries that it was made of, as kept; two sources of the same entries give the same frames."""

    def read(self, place: int, wanted: Indices) -> Frames:
        """Frames `wanted` (T, H, W, C) of entry `place`; not to be written to. Raises DataError that names the file."""
        ...


class CacheSource:
    """The data file that `prepare` wrote, mapped once in each process."""

    def __init__(self, cache: Path, index: Index, entries: Sequence[Entry]) -> None:
        self._path, self._size = cache / index.data, index.bytes
        self._offsets = np.array([entry.offset for entry in entries], dtype=np.int64)
        self._shapes = np.array([entry.shape for entry in entries], dtype=np.int64).reshape(-1, 4)
        self._mapped: Bytes | None = None

    def read(self, place: int, wanted: Indices) -> Frames:
        """As views of the map where the frames are evenly spaced, so that nothing is copied twice."""
        offset, shape = int(self._offsets[place]), tuple(self._shapes[place].tolist())
        clip = self._bytes[offset : offset + shape[0] * shape[1] * shape[2] * shape[3]].reshape(shape)
        first, last = int(wanted[0]), int(wanted[-1])
        step = int(wanted[1]) - first if len(wanted) > 1 else 1
        even = step > 0 and last == first + (len(wanted) - 1) * step  # as clip_indices makes them, unless they repeat or loop
        return clip[first : last + 1 : step] if even else clip[wanted]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # each process maps the file itself

    @property
    def _bytes(self) -> Bytes:
        if self._mapped is None:
            self._mapped = map_bytes(self._path, self._size)
        return self._mapped
