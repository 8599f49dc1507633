"""The decoded clips of one split: every frame as uint8 RGB in one file that is memory-mapped, and an index of it.

<cache>/train.json            the index; it names the data file, so replacing it switches to a new one in one step
<cache>/train-<fingerprint>.u8        frames x size x size x 3 bytes, clip after clip
<cache>/.train-<fingerprint>.{u8,jsonl}.part   a cache in the making: frames so far, and one line for each finished clip
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data.dataset_base import Clip, Dataset
from trainer.data.decode import Frames
from trainer.errors import DataError
from trainer.run_folder import atomic

FORMAT = 1
SYNC_BYTES, SYNC_SECONDS = 64 << 20, 5.0  # at most that much work is lost when `prepare` is interrupted


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip in the cache, and what was found out about its file."""

    id: str
    labels: tuple[int, ...]
    annotated: int  # frames, by the annotation
    source: str  # signature of the file; a file that changed is read again
    offset: int = 0  # first frame in the data file
    frames: int = 0  # in the data file; 0 = nothing could be read
    height: int = 0  # px, of the source
    width: int = 0
    fps: float = 0.0  # 0 = not known
    decoder: str = ""
    variable_rate: bool = False
    longer: int = 0  # frames in the file, where that is more than annotated (the rest is not used)
    repaired: str = ""  # how many frames repeat the last good one, and why
    fault: str = ""  # why nothing could be read

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Entry:
        """The inverse of dataclasses.asdict and JSON."""
        return cls(**{**raw, "labels": tuple(raw["labels"])})


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `<split>.json` holds."""

    format: int
    fingerprint: str  # of the annotation and the settings that change the frames
    dataset: str
    size: int  # px, side of the frames
    classes: tuple[str, ...]
    multi_label: bool
    fps: float
    data: str  # file name; each making of a cache gives it a new one, so that nothing changes under a run that reads the old
    entries: tuple[Entry, ...]

    @property
    def total(self) -> int:
        """Frames in the data file."""
        return sum(entry.frames for entry in self.entries)


def describe(dataset: Dataset, clips: list[Clip], *, name: str, size: int) -> Index:
    """The index that a cache of these clips will have, its entries not filled in yet."""
    entries = tuple(Entry(id=clip.id, labels=clip.labels, annotated=clip.frames, source="") for clip in clips)
    facts = [FORMAT, name, size, dataset.classes, dataset.multi_label, dataset.fps, [(e.id, e.labels, e.annotated) for e in entries]]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return Index(
        format=FORMAT,
        fingerprint=fingerprint,
        dataset=name,
        size=size,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        fps=dataset.fps,
        data="",
        entries=entries,
    )


def read_index(cache: Path, split: str) -> Index | None:
    """The index of a whole cache, or None when there is none (or one of another format, or its data is not there)."""
    try:
        raw = json.loads((cache / f"{split}.json").read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            return None
        entries = tuple(Entry.from_json(entry) for entry in raw["entries"])
        index = Index(**{**raw, "classes": tuple(raw["classes"]), "entries": entries})
        whole = (cache / index.data).stat().st_size == index.total * frame_bytes(index.size)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if whole else None


def frame_bytes(size: int) -> int:
    """Bytes of one RGB frame."""
    return size * size * 3


def map_frames(path: Path, total: int, size: int) -> Frames:
    """All frames of a data file (total, size, size, 3), read through a memory map. Raises DataError when the file is not whole."""
    shape = (total, size, size, 3)
    if total == 0:
        return np.empty(shape, np.uint8)
    try:
        return np.memmap(path, np.uint8, "r", shape=shape)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the cache {path}: {error}", hint="run `prepare` again") from error


class CacheWriter:
    """Appends clips in order; what it wrote before an interruption is kept, and `done` says how much that is."""

    def __init__(self, cache: Path, index: Index, split: str, *, unchanged: Callable[[Entry], bool]) -> None:
        """Go on with what an interrupted writer left, as far as the clips' files are `unchanged`. Raises OSError."""
        self._cache, self._index, self._split = cache, index, split
        self._data_path = cache / f".{split}-{index.fingerprint}.u8.part"
        self._journal_path = cache / f".{split}-{index.fingerprint}.jsonl.part"
        self.done = self._recover(unchanged)
        self._frames = sum(entry.frames for entry in self.done)
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._synced = time.monotonic()
        self._data: BinaryIO = self._data_path.open("r+b")
        self._data.truncate(self._frames * frame_bytes(index.size))
        self._data.seek(0, os.SEEK_END)

    @property
    def written(self) -> int:
        """Bytes of frames in the data file."""
        return self._frames * frame_bytes(self._index.size)

    def append(self, entry: Entry, frames: Frames) -> None:
        """Write the next clip. `frames` (T, size, size, 3) may be empty."""
        assert frames.dtype == np.uint8
        self._data.write(np.ascontiguousarray(frames).data)
        self._pending.append(dataclasses.replace(entry, offset=self._frames, frames=len(frames)))
        self._frames += len(frames)
        self._pending_bytes += frames.nbytes
        if self._pending_bytes >= SYNC_BYTES or time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make everything appended so far last: first the frames, then the lines that promise them."""
        self._data.flush()
        os.fsync(self._data.fileno())
        with self._journal_path.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in self._pending)
            journal.flush()
            os.fsync(journal.fileno())
        self.done += self._pending
        self._pending, self._pending_bytes, self._synced = [], 0, time.monotonic()

    def close(self) -> None:
        """Keep what is there for a later `prepare`."""
        self._data.close()

    def finish(self) -> Index:
        """Name the cache whole: it is seen by everybody from here on. Raises CannotWrite."""
        self.sync()
        self.close()
        stem = f"{self._split}-{self._index.fingerprint}"
        name = next(name for number in count() if not (self._cache / (name := f"{stem}-{number}.u8")).exists())
        self._data_path.replace(self._cache / name)
        index = dataclasses.replace(self._index, data=name, entries=tuple(self.done))
        with atomic(self._cache / f"{self._split}.json") as sink:
            sink.write(json.dumps(dataclasses.asdict(index)).encode())
        self._journal_path.unlink(missing_ok=True)
        for old in self._cache.glob(f"{self._split}-*.u8"):
            if old.name != index.data:
                old.unlink()  # a run that still reads it keeps its memory map
        return index

    def _recover(self, unchanged: Callable[[Entry], bool]) -> list[Entry]:
        """Clips that an interrupted `prepare` finished: lines that are whole, in the expected order, and whose frames are there."""
        self._data_path.touch()
        held = self._data_path.stat().st_size // frame_bytes(self._index.size)
        done: list[Entry] = []
        lines = self._journal_path.read_bytes().splitlines(keepends=True) if self._journal_path.exists() else []
        kept = 0
        for line, expected in zip(lines, self._index.entries, strict=False):
            entry = _parse_line(line)
            if entry is None or entry.id != expected.id or entry.offset + entry.frames > held or not unchanged(entry):
                break
            done.append(entry)
            kept += len(line)
        if lines:
            os.truncate(self._journal_path, kept)
        return done


def _parse_line(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None
