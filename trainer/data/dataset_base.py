"""What a dataset is to the rest of the trainer: named classes, and clips with a path, labels and a length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Clip:
    """One annotated piece of video."""

    id: str  # as the annotation names it; the name in every report
    # a video file (decode.py also looks for a folder of frames beside it), or a folder of frames
    path: Path
    labels: tuple[int, ...]  # indices into the dataset's classes, ascending
    frames: int  # as annotated; 0 = not annotated, the file tells
    # clips cut from one recording share it (UCF101's g01 to g25); a split that parts them leaks
    group: str = ""
    # frame of the file that the clip begins at, where a list says so (id "<video>@<first>"): then
    # it is one sample
    first: int = 0


class Dataset(Protocol):
    """A module of trainer/data/datasets gives one by `open_dataset(conf)`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in index order."""
        ...

    @property
    def multi_label(self) -> bool:
        """True: a clip may show several classes, or none."""
        ...

    @property
    def fps(self) -> float:
        """Frames a second that the dataset's videos nominally have; 0 = they differ."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has of its own, of "train", "val", "test". Without "val", splits.py carves one out of train."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know: lists that are not the official ones, splits that leak, test = val."""
        ...

    def clips(self, split: str) -> list[Clip]:
        """Every clip of one of `splits`, in the annotation's order. Raises DataError that names file, line and fault."""
        ...
