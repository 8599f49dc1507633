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
from typing import NamedTuple

import numpy as np
import torch

from trainer.config import Config, DataConf
from trainer.data import sampling
from trainer.data.cache import FORMAT, Index, read_index
from trainer.data.clip_set import ClipSet, Key, Split, Starts
from trainer.data.frame_source import open_source
from trainer.data.kept import Kept
from trainer.data.sampling import Indices, order
from trainer.data.splits import split_validation
from trainer.data.workers import load
from trainer.errors import DataError

__all__ = ["Batch", "ClipSet", "Key", "batches", "cache_folder", "open_split", "order"]

PREPARE = "run the verb `prepare` with this conf"


class Batch(NamedTuple):
    """One process's part of a global micro-batch."""

    clips_BTHWC: torch.Tensor  # uint8, as kept  # noqa: N815  the shape is part of the name
    targets_BC: torch.Tensor  # float32, multi-hot  # noqa: N815
    indices_B: torch.Tensor  # int64, places in the ClipSet  # noqa: N815
    total: int  # clips in the global micro-batch, over all processes


def cache_folder(config: Config, run: Path) -> Path:
    """Where the cache of `config` is: `data.cache`, or beside the run under a hash of the settings that change the frames."""
    data = config.data
    if data.cache:
        return Path(data.cache)
    folders = [
        str(Path(folder).absolute()) if folder else "" for folder in (data.root, data.flow_root)
    ]
    facts = [
        FORMAT,
        data.name,
        *folders,
        data.classes,
        data.annotation,
        data.layout,
        data.fold,
        Kept.of(data).facts(),
    ]
    return (
        run.absolute().parent
        / ".cache"
        / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    )


def open_split(
    config: Config, split: Split, cache: Path, *, training: bool | None = None
) -> ClipSet:
    """The clips of a split, from its cache. Raises DataError when there is no cache, or it is of other settings or damaged.

    `training`: starts and crops are drawn as for training; None = for the training split. Else all is as in a test.
    """
    data, training = config.data, split == "train" if training is None else training
    index, places = _members(config, split, cache)
    entries = [index.entries[place] for place in places.tolist()]
    starts = Starts.of(data, split, training=training)
    source = open_source(cache, index, entries, data)
    return ClipSet(
        index, entries, source, data, seed=config.train.seed, training=training, starts=starts
    )


def refuse_broken(data: DataConf, index: Index, cache: Path) -> None:
    """Raise DataError that names the clips of which nothing could be read, unless `data.broken` says to leave them out."""
    broken = [f"{entry.id}: {entry.fault}" for entry in index.entries if entry.frames == 0]
    if broken and data.broken == "fail":
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        names = "; ".join(broken[:10]) + more
        hint = 'replace the files and run `prepare` again, or set data.broken: "exclude" to leave them out'
        raise DataError(
            f"{len(broken)} of {len(index.entries)} clips in {cache} cannot be read: {names}",
            hint=hint,
        )


def _members(config: Config, split: Split, cache: Path) -> tuple[Index, Indices]:
    """The index that a split is of, and its places in it.

    Validation is the dataset's own, or the test clips (`val_from: test`), or carved out of the training clips before anything is
    left out, so that it is the same for every `frames`.
    """
    data = config.data
    if split == "test":
        return _everything(data, "test", cache)
    train, everything = _everything(data, "train", cache)
    if "val" in train.splits or data.val_from == "test":
        own: Split = "val" if "val" in train.splits else "test"
        return (train, everything) if split == "train" else _everything(data, own, cache)
    labels, groups = (
        [entry.labels for entry in train.entries],
        [entry.group for entry in train.entries],
    )
    kept, held = split_validation(
        labels, len(train.classes), fraction=data.val_fraction, seed=data.split_seed, groups=groups
    )
    return train, kept if split == "train" else held


def _everything(data: DataConf, split: Split, cache: Path) -> tuple[Index, Indices]:
    index = read_index(cache, split)
    if index is None or (data.source == "cache" and not index.data and index.total):
        raise DataError(f'there is no cache of split "{split}" in {cache}', hint=PREPARE)
    wanted = Kept.of(data)
    if (index.dataset, index.kept) != (data.name, wanted):
        message = f"the cache {cache} holds {index}, the conf wants {data.name} at {wanted}"
        raise DataError(message, hint=f"{PREPARE}, or change data.cache")
    refuse_broken(data, index, cache)
    return index, np.arange(len(index.entries), dtype=np.int64)


def batches(
    clips: ClipSet,
    *,
    epoch: int,
    batch: int,
    seed: int,
    shuffle: bool,
    size: int = 0,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of an epoch from its clip number `start` on, this rank's share of each.

    `batch` counts clips over all processes. Every clip comes exactly once in an epoch, over all ranks; with `size`, as often as it
    takes to make so many. With the same arguments the batches are bitwise the same for any number of `workers`. `pin` puts them
    into page-locked memory (only with CUDA).
    """
    if batch < 1 or not 0 <= rank < world or start < 0:
        raise ValueError(f"{batch = }, {rank = }, {world = }, {start = } make no batches")
    plan = _plan(
        order(len(clips), seed=seed, epoch=epoch, shuffle=shuffle, size=size)[start:],
        batch,
        rank=rank,
        world=world,
    )
    # made as they are asked for: an epoch may be long
    keys = ([(epoch, index) for index in indices.tolist()] for _, indices in plan)
    loaded = (
        load(clips, keys, workers=workers, pin=pin) if workers else map(clips.__getitems__, keys)
    )
    for (total, _), (clips_BTHWC, targets_BC, indices_B) in zip(plan, loaded, strict=True):
        yield Batch(clips_BTHWC, targets_BC, indices_B, total)


def _plan(rest: Indices, batch: int, *, rank: int, world: int) -> list[tuple[int, Indices]]:
    """(clips in the global micro-batch, this rank's clips of it) for each micro-batch of the order `rest`."""
    parts = [rest[begin : begin + batch] for begin in range(0, len(rest), batch)]
    return [(len(part), part[sampling.share(len(part), rank, world)]) for part in parts]
