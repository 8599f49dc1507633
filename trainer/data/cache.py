"""The frames of one split as they are kept (kept.py), uint8, in one file that is memory-mapped, and an index of it.

<cache>/train.json            the index; it names the data file, so replacing it switches to a new one in one step
<cache>/train-<fingerprint>.u8        frames x height x width x channels bytes, clip after clip, each clip with its own height and width
<cache>/.train-<fingerprint>.{u8,jsonl}.part   a cache in the making: frames so far, and one line for each finished clip

One index for each split that the dataset has of its own. With `data.source: files` there is an index and no data file.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from trainer.config import DataConf
from trainer.data.dataset_base import Clip, Dataset
from trainer.data.decode import Frames
from trainer.data.kept import Kept
from trainer.errors import DataError
from trainer.run_folder import atomic

FORMAT = 2
# at most that much work is lost when `prepare` is interrupted
SYNC_BYTES, SYNC_SECONDS = 64 << 20, 5.0
ESTIMATE_SIDES = (240, 320)  # px, of a frame whose size only its file tells

Bytes = npt.NDArray[np.uint8]  # of a whole data file


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One clip in the cache, and what was found out about its file."""

    id: str
    labels: tuple[int, ...]
    annotated: int  # frames, by the annotation; 0 = it does not say
    source: str  # signature of the file; a file that changed is read again
    group: str = ""  # as in Clip
    first: int = 0  # as in Clip: first frame inside the file
    # what was read, a video or a folder of frames; relative to data.root (or data.flow_root) where
    # it is inside
    file: str = ""
    offset: int = 0  # bytes, in the data file
    frames: int = 0  # kept frames, after resampling and repair; 0 = nothing could be read
    kept_height: int = 0  # px, of a kept frame
    kept_width: int = 0
    channels: int = 3
    found: int = 0  # frames that the file gave, before resampling and repair
    height: int = 0  # px, of the source
    width: int = 0
    fps: float = 0.0  # of the kept frames; 0 = not known
    # as measured from the time stamps, by which `fps` frames a second were chosen
    source_fps: float = 0.0
    # file's frame number of each kept one, where the rate varies and was resampled
    taken: tuple[int, ...] = ()
    decoder: str = ""
    # time stamps ascend and nothing is damaged: any frame is found by seeking
    seekable: bool = False
    variable_rate: bool = False
    longer: int = 0  # frames in the file, where that is more than annotated (the rest is not used)
    repaired: str = ""  # how many frames repeat the last good one, and why
    note: str = ""  # nothing is wrong, but it should be known: resampled, other files in the folder
    fault: str = ""  # why nothing could be read

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of the kept frames."""
        return self.frames, self.kept_height, self.kept_width, self.channels

    @property
    def bytes(self) -> int:
        """Of all its kept frames."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Its fields, without those at their defaults: Kinetics has a quarter of a million entries, and each start reads them all."""
        return {
            name: value
            for name, default in _DEFAULTS.items()
            if (value := getattr(self, name)) != default
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Entry:
        """The inverse of to_json and JSON. Raises KeyError, TypeError."""
        return cls(**{**raw, "labels": tuple(raw["labels"]), "taken": tuple(raw.get("taken", ()))})


# MISSING, which equals nothing, where there is none
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Entry)}


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `<split>.json` holds."""

    format: int
    fingerprint: str  # of the annotation and the settings that change the frames
    dataset: str
    kept: Kept
    classes: tuple[str, ...]
    multi_label: bool
    fps: float  # nominal rate of the kept frames; 0 = they differ
    splits: tuple[str, ...]  # that the dataset has of its own, so each has an index
    # file name; each making of a cache gives it a new one, so that nothing changes under a run that
    # reads the old; "" = none
    data: str
    entries: tuple[Entry, ...]

    @property
    def total(self) -> int:
        """Kept frames of all clips."""
        return sum(entry.frames for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Size of the data file."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def expected_bytes(self) -> int:
        """About the size that the data file will have, by the annotated lengths; clips without one count nothing."""
        height, width = self.kept.sides(*ESTIMATE_SIDES)
        return (
            sum(entry.annotated for entry in self.entries) * height * width * self.kept.channels
            if not self.kept.fps
            else 0
        )

    def __str__(self) -> str:
        """For messages: what is in it."""
        return f"{self.dataset} at {self.kept}"

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **fields,
            "kept": self.kept.facts(),
            "entries": [entry.to_json() for entry in self.entries],
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Index:
        """The inverse of to_json and JSON. Raises KeyError, TypeError."""
        entries = tuple(Entry.from_json(entry) for entry in raw["entries"])
        names = {key: tuple(raw[key]) for key in ("classes", "splits")}
        return cls(**{**raw, **names, "kept": Kept(**raw["kept"]), "entries": entries})


def describe(dataset: Dataset, clips: list[Clip], data: DataConf) -> Index:
    """The index that a cache of these clips will have, its entries not filled in yet. Raises DataError when it cannot be made."""
    kept = Kept.of(data)
    if kept.fps and not dataset.fps and (data.layout == "frames" or data.stream == "flow"):
        hint = f"set data.fps: 0, or use the layout of videos; {data.name} has no rate of its own"
        raise DataError(
            f"data.fps is {kept.fps:g}, and a folder of frames has no time stamps to resample by",
            hint=hint,
        )
    entries = tuple(blank(clip, kept) for clip in clips)
    facts = [
        FORMAT,
        data.name,
        data.layout,
        kept.facts(),
        dataset.classes,
        dataset.multi_label,
        dataset.fps,
        dataset.splits,
    ]
    facts.append(
        [(entry.id, entry.labels, entry.annotated, entry.first, entry.group) for entry in entries]
    )
    return Index(
        format=FORMAT,
        fingerprint=hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16],
        dataset=data.name,
        kept=kept,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        fps=kept.fps or dataset.fps,
        splits=dataset.splits,
        data="",
        entries=entries,
    )


def blank(clip: Clip, kept: Kept) -> Entry:
    """A clip's entry before its file is read."""
    return Entry(
        id=clip.id,
        labels=clip.labels,
        annotated=clip.frames,
        source="",
        group=clip.group,
        first=clip.first,
        fps=kept.fps,
        channels=kept.channels,
    )


def read_index(cache: Path, split: str) -> Index | None:
    """The index of a whole cache, or None when there is none (or one of another format, or its data is not there)."""
    try:
        with _uncollected():
            raw = json.loads((cache / f"{split}.json").read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                return None
            index = Index.from_json(raw)
        whole = not index.data or (cache / index.data).stat().st_size == index.bytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if whole else None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which would go through a long index again and again while it grows."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def map_bytes(path: Path, size: int) -> Bytes:
    """A data file of `size` bytes, read through a memory map. Raises DataError when the file is not whole."""
    if size == 0:
        return np.empty(0, np.uint8)
    try:
        # a plain array over the map: slices of np.memmap cost ten times as much
        return np.memmap(path, np.uint8, "r", shape=(size,)).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the cache {path}: {error}", hint="run `prepare` again"
        ) from error


def frames_of(mapped: Bytes, entry: Entry) -> Frames:
    """The kept frames (T, H, W, C) of a clip, as a view of the data file."""
    return mapped[entry.offset : entry.offset + entry.bytes].reshape(entry.shape)


class CacheWriter:
    """Appends clips in order; what it wrote before an interruption is kept, and `done` says how much that is."""

    def __init__(
        self,
        cache: Path,
        index: Index,
        split: str,
        *,
        unchanged: Callable[[Entry], bool],
        data: bool = True,
    ) -> None:
        """Go on with what an interrupted writer left, as far as the clips' files are `unchanged`. Raises OSError.

        Without `data` only the index is written, and `append` is given no frames.
        """
        self._cache, self._index, self._split = cache, index, split
        stem = f".{split}-{index.fingerprint}"
        self._data_path = cache / f"{stem}.u8.part" if data else None
        self._journal_path = cache / (f"{stem}.jsonl.part" if data else f"{stem}.files.jsonl.part")
        self.done = self._recover(unchanged)
        # bytes of frames in the data file
        self.written = sum(entry.bytes for entry in self.done) if data else 0
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._synced = time.monotonic()
        self._data: BinaryIO | None = self._data_path.open("r+b") if self._data_path else None
        if self._data:
            self._data.truncate(self.written)
            self._data.seek(0, os.SEEK_END)

    def append(self, entry: Entry, frames: Frames | None) -> None:
        """Write the next clip. `frames` are of `entry.shape`; None without data."""
        if self._data and frames is not None:
            assert frames.dtype == np.uint8
            assert frames.size == entry.bytes, (frames.shape, entry.shape)
            self._data.write(np.ascontiguousarray(frames).data)
            entry = dataclasses.replace(entry, offset=self.written)
            self.written += frames.nbytes
            self._pending_bytes += frames.nbytes
        self._pending.append(entry)
        if self._pending_bytes >= SYNC_BYTES or time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make everything appended so far last: first the frames, then the lines that promise them."""
        if self._data:
            self._data.flush()
            os.fsync(self._data.fileno())
        with self._journal_path.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(entry.to_json()) + "\n" for entry in self._pending)
            journal.flush()
            os.fsync(journal.fileno())
        self.done += self._pending
        self._pending, self._pending_bytes, self._synced = [], 0, time.monotonic()

    def close(self) -> None:
        """Keep what is there for a later `prepare`."""
        if self._data:
            self._data.close()

    def finish(self) -> Index:
        """Name the cache whole: it is seen by everybody from here on. Raises CannotWrite."""
        self.sync()
        self.close()
        index = dataclasses.replace(self._index, data=self._name_data(), entries=tuple(self.done))
        with atomic(self._cache / f"{self._split}.json") as sink:
            sink.write(json.dumps(index.to_json()).encode())
        self._journal_path.unlink(missing_ok=True)
        for old in self._cache.glob(f"{self._split}-*.u8"):
            if old.name != index.data:
                old.unlink()  # a run that still reads it keeps its memory map
        return index

    def _name_data(self) -> str:
        if self._data_path is None:
            return ""
        stem = f"{self._split}-{self._index.fingerprint}"
        name = next(
            name
            for number in count()
            if not (self._cache / (name := f"{stem}-{number}.u8")).exists()
        )
        self._data_path.replace(self._cache / name)
        return name

    def _recover(self, unchanged: Callable[[Entry], bool]) -> list[Entry]:
        """Clips that an interrupted `prepare` finished: lines that are whole, in the expected order, and whose frames are there."""
        held: float = math.inf
        if self._data_path:
            self._data_path.touch()
            held = self._data_path.stat().st_size
        done: list[Entry] = []
        lines = (
            self._journal_path.read_bytes().splitlines(keepends=True)
            if self._journal_path.exists()
            else []
        )
        kept = 0
        for line, expected in zip(lines, self._index.entries, strict=False):
            entry = _parse_line(line)
            if (
                entry is None
                or entry.id != expected.id
                or entry.offset + entry.bytes > held
                or not unchanged(entry)
            ):
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
