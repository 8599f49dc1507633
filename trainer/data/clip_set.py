"""The clips of one split: which samples there are, and the frames of each; stateless, randomness from (seed, epoch, sample) only.

video 0           video 1                        videos, as the index has them
s0  s1  s2        s3  s4                         samples: fixed starts (uniform, every), or one a video (first, center, random)
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from trainer.config import DataConf
from trainer.data import crops, sampling
from trainer.data.cache import Entry, Index
from trainer.data.decode import Frames
from trainer.data.frame_source import FrameSource
from trainer.data.sampling import Indices

Split = Literal["train", "val", "test"]
# (epoch, number of the sample + samples * how often it came before in this epoch)
Key = tuple[int, int]
DRAWN = -1  # start of a sample whose start is drawn
LISTED = re.compile(r"(.+)@(\d+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where clips of a video start."""

    mode: Literal["first", "center", "random", "uniform", "every"]
    clips: int = 1
    step: int = 0

    @classmethod
    def of(cls, data: DataConf, split: Split, *, training: bool) -> Starts:
        """What the conf says for a split; validation during training may have its own number of clips and its own step."""
        if training:
            return cls(mode=data.start, step=data.step)
        if split == "val":
            return cls(
                mode=data.test_start,
                clips=data.val_clips or data.test_clips,
                step=data.val_step or data.test_step,
            )
        return cls(mode=data.test_start, clips=data.test_clips, step=data.test_step)

    def within(self, total: int, data: DataConf) -> Indices:
        """The first frames of a video's samples, of `total` kept frames; `short: drop` leaves out windows that are not whole."""
        span = sampling.span_of(data.frames, data.stride)
        if total < (span if data.short == "drop" else 1):
            return np.empty(0, np.int64)
        starts = self._of(total, span)
        return starts[starts <= total - span] if data.short == "drop" else starts

    def counts(self, lengths: Indices, data: DataConf) -> Indices:
        """(videos,) how many samples each video gives, for videos of these many kept frames."""
        different, which = np.unique(lengths, return_inverse=True)
        return np.array(
            [len(self.within(total, data)) for total in different.tolist()], dtype=np.int64
        )[which]

    def _of(self, total: int, span: int) -> Indices:
        if self.mode == "uniform":
            return sampling.uniform_starts(total, span, self.clips)
        if self.mode == "every":
            return sampling.every_start(total, span, self.step)
        start = {"first": 0, "random": DRAWN, "center": sampling.center_start(total, span)}[
            self.mode
        ]
        return np.array([start], dtype=np.int64)


class ClipSet(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """The samples of one split. `clips[epoch, index]` depends on nothing else than seed, epoch and index.

    What is held is of a video, not of a sample: Kinetics at every third frame has twenty million samples, and workers get a copy.
    """

    def __init__(
        self,
        index: Index,
        entries: Sequence[Entry],
        source: FrameSource,
        data: DataConf,
        *,
        seed: int,
        training: bool,
        starts: Starts,
    ) -> None:
        """`entries` are the videos of the split and of `source`, in the same order; those without a frame have no sample."""
        self.classes = index.classes
        self.multi_label = index.multi_label
        self.fps = index.fps
        self._lengths = np.array([entry.frames for entry in entries], dtype=np.int64)
        self._labels = [entry.labels for entry in entries]
        self._names = _Names.of(entries)
        self._listed = self._names.listed
        counts = starts.counts(self._lengths, data)
        # samples of each entry, side by side
        self._counts = np.where(self._listed, np.minimum(counts, 1), counts)
        self._ends = np.cumsum(self._counts)
        self._rule, self._data, self._seed, self._training = starts, data, seed, training
        self._source, self._channels = source, index.kept.channels

    @property
    def video_ids(self) -> list[str]:
        """The videos, in the annotation's order."""
        return self._videos[0]

    @property
    def video_of(self) -> Indices:
        """(samples,) place in video_ids."""
        return self._videos[1][self._entry_of]

    @property
    def ids(self) -> list[str]:
        """`name_of` every sample."""
        return [self.name_of(sample) for sample in range(len(self))]

    def name_of(self, sample: int) -> str:
        """The video's id; "<video id>@<first frame>" where a video gives several samples."""
        entry, start = self._find(sample)
        return (
            f"{self._names.names[entry]}@{start}"
            if self._counts[entry] > 1
            else self._names.names[entry]
        )

    def labels_of(self, sample: int) -> tuple[int, ...]:
        """Places in `classes`, ascending."""
        return self._labels[self._find(sample)[0]]

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Two sets of the same samples have the same: {"count", "sha256"}."""
        here = np.flatnonzero(self._counts)
        sha = hashlib.sha256(
            "\n".join(self._names.names[entry] for entry in here.tolist()).encode()
        )
        if len(here) != len(self):
            sha.update(self._counts[here].tobytes() + self._lengths[here].tobytes())
        return {"count": len(self), "sha256": sha.hexdigest()}

    @property
    def left_out(self) -> dict[str, int]:
        """Videos without a sample, because nothing could be read or they are too short, and a class of each (the first; -1 = none)."""
        here, names = set(self.video_ids), self._names.ids
        entries = [
            entry
            for entry in np.flatnonzero(self._counts == 0).tolist()
            if names[entry] not in here
        ]
        return {
            names[entry]: self._labels[entry][0] if self._labels[entry] else -1 for entry in entries
        }

    @property
    def class_counts(self) -> list[int]:
        """Videos with a sample that show each class."""
        _, first = np.unique(self._videos[1], return_index=True)
        labels = [
            label
            for entry in first.tolist()
            if self._counts[entry]
            for label in self._labels[entry]
        ]
        return [
            int(count)
            for count in np.bincount(np.array(labels, dtype=np.int64), minlength=len(self.classes))
        ]

    @property
    def starts(self) -> Indices:
        """(samples,) first frame of each sample, after resampling; -1 where it is drawn. Of a clip that a list cut out: in its file."""
        return np.concatenate(
            [
                np.empty(0, np.int64),
                *(self._starts_in(e) + self._names.firsts[e] for e in range(len(self._lengths))),
            ]
        )

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """(samples, C), multi-hot."""
        return self._multi_hot(np.arange(len(self._labels)))[self._entry_of]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(clip (T, H, W, C) uint8, target (C,) float32, index) for key (epoch, index)."""
        clips, targets, indices = self.__getitems__([key])
        return clips[0], targets[0], int(indices[0])

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same for several keys at once, stacked: what batches are made of. Raises DataError for a file that broke."""
        size = self._data.size
        clips = np.empty((len(keys), self._data.frames, size, size, self._channels), np.uint8)
        for place, (epoch, number) in enumerate(keys):
            self._copy_clip(clips[place], epoch, number)
        indices = np.array([number for _, number in keys], dtype=np.int64) % max(len(self), 1)
        targets = self._multi_hot(np.searchsorted(self._ends, indices, side="right"))
        return torch.from_numpy(clips), torch.from_numpy(targets), torch.from_numpy(indices)

    def __getstate__(self) -> dict[str, object]:
        # workers need none of them, and they may be long
        names = ("_names", "_videos", "fingerprint")
        return {name: value for name, value in self.__dict__.items() if name not in names}

    @functools.cached_property
    def _videos(self) -> tuple[list[str], Indices]:
        """The videos that have a sample, and each entry's place among them (-1: it has none)."""
        places: dict[str, int] = {}
        rows = zip(self._names.ids, self._counts.tolist(), strict=True)
        of_entry = [places.setdefault(name, len(places)) if count else -1 for name, count in rows]
        return list(places), np.array(of_entry, dtype=np.int64)

    @property
    def _entry_of(self) -> Indices:
        """(samples,)"""
        return np.repeat(np.arange(len(self._counts)), self._counts)

    def _starts_in(self, entry: int) -> Indices:
        """Of an entry's samples. A clip that a list cut out is one sample, from its first frame on."""
        starts = self._rule.within(int(self._lengths[entry]), self._data)
        return np.zeros(min(len(starts), 1), np.int64) if self._listed[entry] else starts

    def _find(self, sample: int) -> tuple[int, int]:
        """(entry, start) of a sample."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of {len(self)}")
        entry = int(np.searchsorted(self._ends, sample, side="right"))
        # counted from the entry's end
        return entry, int(self._starts_in(entry)[sample - int(self._ends[entry])])

    def _multi_hot(self, entries: Indices) -> npt.NDArray[np.float32]:
        """(entries, C)"""
        targets = np.zeros((len(entries), len(self.classes)), np.float32)
        for row, entry in enumerate(entries.tolist()):
            targets[row, list(self._labels[entry])] = 1
        return targets

    def _copy_clip(self, clip_THWC: Frames, epoch: int, number: int) -> None:
        data, sample = self._data, number % len(self)
        entry, start = self._find(sample)
        total, drawn = int(self._lengths[entry]), None
        if self._training or start == DRAWN:
            drawn = sampling.draw(
                total,
                sampling.span_of(data.frames, data.stride),
                seed=self._seed,
                # without training a sample is the same in every epoch
                epoch=epoch if self._training else 0,
                sample=number,
                random_start=start == DRAWN,
                flip=data.flip if self._training else 0.0,
                crop=self._training and data.crop != "none",
            )
            start = drawn.start if start == DRAWN else start
        wanted = sampling.clip_indices(
            total, data.frames, start, stride=data.stride, loop=data.short == "loop"
        )
        frames = self._source.read(entry, wanted)
        height, width = frames.shape[1:3]
        training = self._training and drawn is not None
        box = (
            crops.training_box(height, width, data, drawn.crop)
            if drawn and training
            else crops.test_box(height, width, data)
        )
        crops.cut(frames, box, clip_THWC, antialias=data.antialias)
        if drawn and drawn.flip:
            crops.mirror(clip_THWC, flow=data.stream == "flow")


@dataclass(frozen=True)
class _Names:
    """How the entries of an index are called."""

    names: list[str]  # of each entry
    # the video that it is of: its own name, unless a list cut it out ("<video id>@<first frame>")
    ids: list[str]
    listed: npt.NDArray[np.bool_]  # whether a list cut it out
    firsts: Indices  # its first frame then, else 0

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> _Names:
        matches = [LISTED.fullmatch(entry.id) for entry in entries]
        cuts = [
            match if match and int(match[2]) == entry.first else None
            for match, entry in zip(matches, entries, strict=True)
        ]
        return cls(
            names=[entry.id for entry in entries],
            ids=[
                match[1] if match else entry.id for match, entry in zip(cuts, entries, strict=True)
            ],
            listed=np.array([match is not None for match in cuts], dtype=bool),
            firsts=np.array([int(match[2]) if match else 0 for match in cuts], dtype=np.int64),
        )
