"""The clips of one split: which samples there are, and the frames of each; stateless, randomness from (seed, epoch, sample) only.

video 0           video 1                        videos, as the index has them
s0  s1  s2        s3  s4                         samples: fixed starts (uniform, every), or one a video (first, center, random)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
Key = tuple[int, int]  # (epoch, number of the sample + samples * how often it came before in this epoch)
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
            return cls(mode=data.test_start, clips=data.val_clips or data.test_clips, step=data.val_step or data.test_step)
        return cls(mode=data.test_start, clips=data.test_clips, step=data.test_step)

    def table(self, lengths: Indices, listed: npt.NDArray[np.bool_], data: DataConf) -> tuple[Indices, Indices]:
        """(video, start) of each sample, for videos of these many kept frames; `short: drop` leaves out windows that are not whole.

        `listed` clips were cut out by a list, so each is one sample, from its first frame on.
        """
        span = sampling.span_of(data.frames, data.stride)
        kept = np.flatnonzero(lengths >= (span if data.short == "drop" else 1))
        starts = [np.zeros(1, np.int64) if listed[video] else self._of(int(lengths[video]), span) for video in kept.tolist()]
        if data.short == "drop":
            starts = [own[own <= total - span] for own, total in zip(starts, lengths[kept], strict=True)]
        videos = np.repeat(kept, np.array([len(own) for own in starts], dtype=np.int64))
        return videos.astype(np.int64), np.concatenate([np.empty(0, np.int64), *starts])

    def _of(self, total: int, span: int) -> Indices:
        if self.mode == "uniform":
            return sampling.uniform_starts(total, span, self.clips)
        if self.mode == "every":
            return sampling.every_start(total, span, self.step)
        start = {"first": 0, "random": DRAWN, "center": sampling.center_start(total, span)}[self.mode]
        return np.array([start], dtype=np.int64)


class ClipSet(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """The samples of one split. `clips[epoch, index]` depends on nothing else than seed, epoch and index."""

    def __init__(
        self, index: Index, entries: Sequence[Entry], source: FrameSource, data: DataConf, *, seed: int, training: bool, starts: Starts
    ) -> None:
        """`entries` are the videos of the split and of `source`, in the same order; those without a frame have no sample."""
        self.classes = index.classes
        self.multi_label = index.multi_label
        self.fps = index.fps
        self._lengths = np.array([entry.frames for entry in entries], dtype=np.int64)
        self._videos = _Videos.of(entries)
        self._entry_of, self._starts = starts.table(self._lengths, self._videos.listed, data)
        self._entry_targets = _multi_hot(entries, len(index.classes))
        self._source, self._data, self._seed, self._training = source, data, seed, training
        self._channels = index.kept.channels

    @functools.cached_property
    def video_ids(self) -> list[str]:
        """The videos, in the annotation's order."""
        return list(dict.fromkeys(self._videos.ids[entry] for entry in self._entry_of.tolist()))

    @functools.cached_property
    def video_of(self) -> Indices:
        """(samples,) place in video_ids."""
        place = {name: number for number, name in enumerate(self.video_ids)}
        return np.array([place[self._videos.ids[entry]] for entry in self._entry_of.tolist()], dtype=np.int64)

    @functools.cached_property
    def ids(self) -> list[str]:
        """One a sample; "<video id>@<first frame>" where a video gives several."""
        several = np.bincount(self._entry_of, minlength=len(self._lengths)) > 1
        entries = self._entry_of.tolist()
        names = [self._videos.names[entry] for entry in entries]
        rows = zip(names, self._starts.tolist(), entries, strict=True)
        return [f"{name}@{start}" if several[entry] else name for name, start, entry in rows]

    @property
    def left_out(self) -> dict[str, int]:
        """Videos without a sample, because nothing could be read or they are too short, and a class of each (the first; -1 = none)."""
        entries = np.setdiff1d(np.arange(len(self._lengths)), self._entry_of).tolist()
        classes = np.where(self._entry_targets.any(axis=1), self._entry_targets.argmax(axis=1), -1)
        here = set(self.video_ids)
        return {self._videos.ids[entry]: int(classes[entry]) for entry in entries if self._videos.ids[entry] not in here}

    @property
    def starts(self) -> Indices:
        """(samples,) first frame of each sample, after resampling; -1 where it is drawn. Of a clip that a list cut out: in its file."""
        return self._starts + self._videos.firsts[self._entry_of]

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """(samples, C), multi-hot."""
        return self._entry_targets[self._entry_of]

    def __len__(self) -> int:
        return len(self._entry_of)

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
        targets = self._entry_targets[self._entry_of[indices]]
        return torch.from_numpy(clips), torch.from_numpy(targets), torch.from_numpy(indices)

    def __getstate__(self) -> dict[str, object]:
        names = ("ids", "video_ids", "video_of")  # workers need none of them, and they may be long
        return {name: value for name, value in self.__dict__.items() if name not in names}

    def _copy_clip(self, clip_THWC: Frames, epoch: int, number: int) -> None:
        data, sample = self._data, number % len(self)
        entry, start = int(self._entry_of[sample]), int(self._starts[sample])
        total, drawn = int(self._lengths[entry]), None
        if self._training or start == DRAWN:
            drawn = sampling.draw(
                total,
                sampling.span_of(data.frames, data.stride),
                seed=self._seed,
                epoch=epoch if self._training else 0,  # without training a sample is the same in every epoch
                sample=number,
                random_start=start == DRAWN,
                flip=data.flip if self._training else 0.0,
                crop=self._training and data.crop != "none",
            )
            start = drawn.start if start == DRAWN else start
        wanted = sampling.clip_indices(total, data.frames, start, stride=data.stride, loop=data.short == "loop")
        frames = self._source.read(entry, wanted)
        height, width = frames.shape[1:3]
        training = self._training and drawn is not None
        box = crops.training_box(height, width, data, drawn.crop) if drawn and training else crops.test_box(height, width, data)
        crops.cut(frames, box, clip_THWC)
        if drawn and drawn.flip:
            crops.mirror(clip_THWC, flow=data.stream == "flow")


@dataclass(frozen=True)
class _Videos:
    """How the entries of an index are called."""

    names: list[str]  # of each entry
    ids: list[str]  # the video that it is of: its own name, unless a list cut it out ("<video id>@<first frame>")
    listed: npt.NDArray[np.bool_]  # whether a list cut it out
    firsts: Indices  # its first frame then, else 0

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> _Videos:
        matches = [LISTED.fullmatch(entry.id) for entry in entries]
        cuts = [match if match and int(match[2]) == entry.first else None for match, entry in zip(matches, entries, strict=True)]
        return cls(
            names=[entry.id for entry in entries],
            ids=[match[1] if match else entry.id for match, entry in zip(cuts, entries, strict=True)],
            listed=np.array([match is not None for match in cuts], dtype=bool),
            firsts=np.array([int(match[2]) if match else 0 for match in cuts], dtype=np.int64),
        )


def _multi_hot(entries: Sequence[Entry], classes: int) -> npt.NDArray[np.float32]:
    targets = np.zeros((len(entries), classes), np.float32)
    for row, entry in enumerate(entries):
        targets[row, list(entry.labels)] = 1
    return targets
