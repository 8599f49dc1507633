"""TinyVIRAT: low-resolution surveillance tubes, 26 classes, several labels a tube, 30 frames a second.

<root>/classes.txt  tiny_train.json  tiny_test.json
<root>/videos/{train,test}/<clip>/<id>.mp4   and/or   <id>_frames/frame_<n>.jpg
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.dataset_base import Clip
from trainer.data.extract import folder_name
from trainer.errors import DataError, did_you_mean

SPLITS = ("train", "test")
LAYOUT = (
    "data.root is the folder that holds classes.txt, tiny_train.json, tiny_test.json and videos/"
)


@dataclass(frozen=True)
class TinyVirat:
    """The dataset under `conf.root`; annotations are read when a split is asked for."""

    conf: DataConf
    classes: tuple[str, ...]
    multi_label: bool = True
    fps: float = 30.0
    splits: tuple[str, ...] = SPLITS
    notes: tuple[str, ...] = ()

    def clips(self, split: str) -> list[Clip]:
        """Clips of "train" or "test", in the annotation's order. Raises DataError that names file, tube and fault."""
        if split not in SPLITS:
            raise DataError(
                f'TinyVIRAT has no split "{split}"', hint=f"it has {' and '.join(SPLITS)}"
            )
        root = Path(self.conf.root)
        annotation = root / f"tiny_{split}.json"
        clips = parse_tubes(
            files.read_json(annotation, LAYOUT),
            self.classes,
            root / "videos" / split,
            source=str(annotation),
        )
        return clips if self.conf.stream == "rgb" else [self._flow(clip) for clip in clips]

    def _flow(self, clip: Clip) -> Clip:
        """Its folder of flow images, which may hold one fewer than the video has frames."""
        folder = Path(self.conf.flow_root) / folder_name(clip.path, Path(self.conf.root), "")
        return replace(clip, path=folder, frames=files.frame_count(folder))


def open_dataset(conf: DataConf) -> TinyVirat:
    """TinyVIRAT at `conf.root`. Raises DataError when the folder or the class list is missing."""
    root = Path(conf.root)
    if not root.is_dir():
        raise DataError(f"the dataset's folder {root} is not there", hint=LAYOUT)
    return TinyVirat(
        conf=conf,
        classes=read_classes(Path(conf.classes) if conf.classes else root / "classes.txt"),
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in index order, one a line; the last line may lack its newline. Raises DataError."""
    return files.class_names(files.read_text(path, LAYOUT), str(path))


def parse_tubes(raw: Any, classes: Sequence[str], videos: Path, *, source: str) -> list[Clip]:
    """Clips of an annotation `{"tubes": [{"path", "dim": [T, H, W], "label": [...]}]}`; paths stay inside `videos`."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("tubes"), list):
        raise DataError(
            f'{source} has no list "tubes"',
            hint="the official tiny_train.json and tiny_test.json have",
        )
    index = {name: number for number, name in enumerate(classes)}
    return [
        _parse_tube(tube, index, videos, source=f"{source}, tube {number}")
        for number, tube in enumerate(raw["tubes"])
    ]


def _parse_tube(tube: Any, index: Mapping[str, int], videos: Path, *, source: str) -> Clip:
    if not isinstance(tube, Mapping):
        raise DataError(f"{source} is {tube!r}, not a mapping with path, dim and label")
    path, dim, labels = tube.get("path"), tube.get("dim"), tube.get("label")
    if (
        not isinstance(path, str)
        or not path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
    ):
        raise DataError(f"{source}: path is {path!r}, not a file inside {videos}")
    if (
        not isinstance(dim, list)
        or len(dim) != 3
        or not all(type(side) is int and side > 0 for side in dim)
    ):
        raise DataError(f"{source} ({path}): dim is {dim!r}, not [frames, height, width]")
    if not isinstance(labels, list):
        raise DataError(f"{source} ({path}): label is {labels!r}, not a list of class names")
    for label in labels:
        if label not in index:
            hint = (
                did_you_mean(str(label), list(index))
                or "classes.txt and the annotation do not belong together"
            )
            raise DataError(f"{source} ({path}): unknown class {label!r}", hint=hint)
    return Clip(
        id=path,
        path=videos / path,
        labels=tuple(sorted({index[label] for label in labels})),
        frames=dim[0],
    )
