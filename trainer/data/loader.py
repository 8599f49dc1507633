"""Batches for one epoch of one split, read from the cache: stateless workers, randomness from (seed, epoch, sample) only.

order of an epoch     o0 o1 o2 o3 | o4 o5 o6 o7 | o8          global micro-batches of `batch` clips; nothing dropped, nothing padded
rank 0 of 2           o0 o1       | o4 o5       | o8
rank 1 of 2                 o2 o3 |       o6 o7 |             an empty batch where there is nothing to share
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from trainer.config import Config, DataConf
from trainer.data import sampling
from trainer.data.cache import FORMAT, Entry, Index, map_frames, read_index
from trainer.data.decode import Frames
from trainer.data.sampling import Indices, order
from trainer.data.splits import split_validation
from trainer.data.workers import load
from trainer.errors import DataError

__all__ = ["Batch", "ClipSet", "batches", "cache_folder", "open_split", "order"]

Split = Literal["train", "val", "test"]
Key = tuple[int, int]  # (epoch, index)
PREPARE = "run the verb `prepare` with this conf"


class Batch(NamedTuple):
    """One process's part of a global micro-batch."""

    clips_BTHWC: torch.Tensor  # uint8, RGB  # noqa: N815  the shape is part of the name
    targets_BC: torch.Tensor  # float32, multi-hot  # noqa: N815
    indices_B: torch.Tensor  # int64, places in the ClipSet  # noqa: N815
    total: int  # clips in the global micro-batch, over all processes


def cache_folder(config: Config, run: Path) -> Path:
    """Where the cache of `config` is: `data.cache`, or beside the run under a hash of the settings that change the frames."""
    data = config.data
    if data.cache:
        return Path(data.cache)
    facts = [FORMAT, data.name, str(Path(data.root).absolute()), data.classes, data.size]
    return run.absolute().parent / ".cache" / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def open_split(config: Config, split: Split, cache: Path) -> ClipSet:
    """The clips of a split, from its cache. Raises DataError when there is no cache, or it is of other settings or damaged."""
    data = config.data
    index = read_index(cache, "test" if split == "test" else "train")
    if index is None:
        raise DataError(f'there is no cache of split "{split}" in {cache}', hint=PREPARE)
    if (index.dataset, index.size) != (data.name, data.size):
        held = f"{index.dataset} at {index.size} px"
        raise DataError(
            f"the cache {cache} holds {held}, the conf wants {data.name} at {data.size} px", hint=f"{PREPARE}, or change data.cache"
        )
    refuse_broken(data, index, cache)
    chosen = _members(index, split, data)
    usable = [place for place in chosen.tolist() if _usable(index.entries[place], data)]
    return ClipSet(cache, index, np.asarray(usable, dtype=np.int64), data, seed=config.train.seed, training=split == "train")


def refuse_broken(data: DataConf, index: Index, cache: Path) -> None:
    """Raise DataError that names the clips of which nothing could be read, unless `data.broken` says to leave them out."""
    broken = [f"{entry.id}: {entry.fault}" for entry in index.entries if entry.frames == 0]
    if broken and data.broken == "fail":
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        names = "; ".join(broken[:10]) + more
        hint = 'replace the files and run `prepare` again, or set data.broken: "exclude" to leave them out'
        raise DataError(f"{len(broken)} of {len(index.entries)} clips in {cache} cannot be read: {names}", hint=hint)


def _members(index: Index, split: Split, data: DataConf) -> Indices:
    """Places in the index. Validation is drawn before anything is left out, so that it is the same for every `frames`."""
    if split == "test":
        return np.arange(len(index.entries), dtype=np.int64)
    labels = [entry.labels for entry in index.entries]
    train, val = split_validation(labels, len(index.classes), fraction=data.val_fraction, seed=data.split_seed)
    return train if split == "train" else val


def _usable(entry: Entry, data: DataConf) -> bool:
    return entry.frames > 0 and (data.short == "repeat" or entry.annotated >= data.frames)


class ClipSet(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """The clips of one split. `clips[epoch, index]` depends on nothing else than seed, epoch and index."""

    def __init__(self, cache: Path, index: Index, places: Indices, data: DataConf, *, seed: int, training: bool) -> None:
        entries = [index.entries[place] for place in places.tolist()]
        self.classes = index.classes
        self.multi_label = index.multi_label
        self.fps = index.fps
        self.ids = [entry.id for entry in entries]
        self.targets = _multi_hot(entries, len(index.classes))
        self._offsets = np.array([entry.offset for entry in entries], dtype=np.int64)
        self._lengths = np.array([entry.frames for entry in entries], dtype=np.int64)
        self._path, self._total, self._size = cache / index.data, index.total, index.size
        self._data, self._seed, self._training = data, seed, training
        self._mapped: Frames | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(clip (T, H, W, 3) uint8, target (C,) float32, index) for key (epoch, index)."""
        clips, targets, indices = self.__getitems__([key])
        return clips[0], targets[0], int(indices[0])

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same for several keys at once, stacked: what batches are made of."""
        frames, size = self._data.frames, self._size
        clips = np.empty((len(keys), frames, size, size, 3), np.uint8)
        for place, (epoch, index) in enumerate(keys):
            self._copy_clip(clips[place], epoch, index)
        indices = np.array([index for _, index in keys], dtype=np.int64)
        return torch.from_numpy(clips), torch.from_numpy(self.targets[indices]), torch.from_numpy(indices)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}  # each process maps the file itself

    def _copy_clip(self, clip_THWC: Frames, epoch: int, index: int) -> None:
        total, offset = int(self._lengths[index]), int(self._offsets[index])
        start, flip = 0, False
        if self._training:
            random_start = self._data.start == "random"
            drawn = sampling.draw(
                total, len(clip_THWC), seed=self._seed, epoch=epoch, sample=index, random_start=random_start, flip=self._data.flip
            )
            start, flip = drawn.start, drawn.flip
        wanted = sampling.clip_indices(total, len(clip_THWC), start)
        np.take(self._frames[offset : offset + total], wanted, axis=0, out=clip_THWC, mode="clip")  # "clip": without a buffer between
        if flip:
            clip_THWC[:] = clip_THWC[:, :, ::-1]

    @property
    def _frames(self) -> Frames:
        if self._mapped is None:
            self._mapped = map_frames(self._path, self._total, self._size)
        return self._mapped


def batches(
    clips: ClipSet,
    *,
    epoch: int,
    batch: int,
    seed: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of an epoch from its clip number `start` on, this rank's share of each.

    `batch` counts clips over all processes. Every clip comes exactly once in an epoch, over all ranks. With the same arguments
    the batches are bitwise the same for any number of `workers`. `pin` puts them into page-locked memory (only with CUDA).
    """
    if batch < 1 or not 0 <= rank < world or start < 0:
        raise ValueError(f"{batch = }, {rank = }, {world = }, {start = } make no batches")
    plan = _plan(order(len(clips), seed=seed, epoch=epoch, shuffle=shuffle)[start:], batch, rank=rank, world=world)
    keys = [[(epoch, index) for index in indices.tolist()] for _, indices in plan]
    loaded = load(clips, keys, workers=workers, pin=pin) if workers else map(clips.__getitems__, keys)
    for (total, _), (clips_BTHWC, targets_BC, indices_B) in zip(plan, loaded, strict=True):
        yield Batch(clips_BTHWC, targets_BC, indices_B, total)


def _plan(rest: Indices, batch: int, *, rank: int, world: int) -> list[tuple[int, Indices]]:
    """(clips in the global micro-batch, this rank's clips of it) for each micro-batch of the order `rest`."""
    parts = [rest[begin : begin + batch] for begin in range(0, len(rest), batch)]
    return [(len(part), part[sampling.share(len(part), rank, world)]) for part in parts]


def _multi_hot(entries: list[Entry], classes: int) -> npt.NDArray[np.float32]:
    targets = np.zeros((len(entries), classes), np.float32)
    for row, entry in enumerate(entries):
        targets[row, list(entry.labels)] = 1
    return targets
