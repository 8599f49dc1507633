"""Where a clip's frames come from while training: the cache's memory map, or the files, opened and decoded each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from trainer.config import DataConf
from trainer.data import decode, image_folder
from trainer.data.cache import Bytes, Entry, Index, map_bytes
from trainer.data.decode import Decoder, Frames
from trainer.data.kept import Kept
from trainer.data.resizing import resize
from trainer.data.sampling import Indices, even_times, resample


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
        clip = self._bytes[offset : offset + shape[0] * shape[1] * shape[2] * shape[3]].reshape(
            shape
        )
        first, last = int(wanted[0]), int(wanted[-1])
        step = int(wanted[1]) - first if len(wanted) > 1 else 1
        # as clip_indices makes them, unless they repeat or loop
        even = step > 0 and last == first + (len(wanted) - 1) * step
        return clip[first : last + 1 : step] if even else clip[wanted]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # each process maps the file itself

    @property
    def _bytes(self) -> Bytes:
        if self._mapped is None:
            self._mapped = map_bytes(self._path, self._size)
        return self._mapped


class FileSource:
    """The files themselves, each opened, decoded and closed every time; the index that `prepare` wrote says what is in them."""

    def __init__(self, entries: Sequence[Entry], kept: Kept, base: Path) -> None:
        """`base` is the folder of the dataset, which `Entry.file` is relative to."""
        self._entries, self._kept, self._base = list(entries), kept, base

    def read(self, place: int, wanted: Indices) -> Frames:
        """Each frame of the file is decoded once, also where a clip repeats it."""
        entry = self._entries[place]
        numbers, inverse = np.unique(file_numbers(entry, self._kept)[wanted], return_inverse=True)
        frames = self._decode(entry, numbers + entry.first)
        return frames if np.array_equal(inverse, np.arange(len(wanted))) else frames[inverse]

    def _decode(self, entry: Entry, numbers: Indices) -> Frames:
        path, sides = self._base / entry.file, (entry.kept_height, entry.kept_width)
        antialias = self._kept.antialias
        if entry.decoder == "jpg":
            images = image_folder.read_at(
                path, numbers, first=entry.first, repair=bool(entry.repaired)
            )
            return np.concatenate(
                [
                    resize(image[None, :, :, : entry.channels], sides, antialias=antialias)
                    for image in images
                ]
            )
        frames = decode.read_at(
            path, numbers, decoder=cast(Decoder, entry.decoder), seekable=entry.seekable
        )
        return resize(frames, sides, antialias=antialias)


def file_numbers(entry: Entry, kept: Kept) -> Indices:
    """(entry.frames,) which frame of the clip's file, from its first on, each kept frame shows: resampled, the last one repeated."""
    if not kept.fps:
        taken = np.arange(entry.found, dtype=np.int64)
    elif entry.taken:
        taken = np.asarray(entry.taken, dtype=np.int64)
    else:
        taken = resample(even_times(entry.found, entry.source_fps), kept.fps)
    return taken[np.minimum(np.arange(entry.frames), len(taken) - 1)]


def open_source(cache: Path, index: Index, entries: Sequence[Entry], data: DataConf) -> FrameSource:
    """What `data.source` says, for some entries of an index."""
    if data.source == "cache":
        return CacheSource(cache, index, entries)
    return FileSource(
        entries, index.kept, Path(data.flow_root if data.stream == "flow" else data.root)
    )
