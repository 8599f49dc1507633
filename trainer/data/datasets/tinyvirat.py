"""TinyVIRAT: low-resolution surveillance tubes, 26 classes, several labels a tube, 30 frames a second.

<root>/classes.txt  tiny_train.json  tiny_test.json
<root>/videos/{train,test}/<clip>/<id>.mp4   and/or   <id>_frames/frame_<n>.jpg
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.config import DataConf
from trainer.data.dataset_base import Clip
from trainer.errors import DataError, did_you_mean

SPLITS = ("train", "test")
LAYOUT = "data.root is the folder that holds classes.txt, tiny_train.json, tiny_test.json and videos/"


@dataclass(frozen=True)
class TinyVirat:
    """The dataset under `root`; annotations are read when a split is asked for."""

    root: Path
    classes: tuple[str, ...]
    multi_label: bool = True
    fps: float = 30.0
    splits: tuple[str, ...] = SPLITS
    notes: tuple[str, ...] = ()

    def clips(self, split: str) -> list[Clip]:
        """Clips of "train" or "test", in the annotation's order. Raises DataError that names file, tube and fault."""
        if split not in SPLITS:
            raise DataError(f'TinyVIRAT has no split "{split}"', hint=f"it has {' and '.join(SPLITS)}")
        annotation = self.root / f"tiny_{split}.json"
        return parse_tubes(_read_json(annotation), self.classes, self.root / "videos" / split, source=str(annotation))


def open_dataset(conf: DataConf) -> TinyVirat:
    """TinyVIRAT at `conf.root`. Raises DataError when the folder or the class list is missing."""
    root = Path(conf.root)
    if not root.is_dir():
        raise DataError(f"the dataset's folder {root} is not there", hint=LAYOUT)
    return TinyVirat(root=root, classes=read_classes(Path(conf.classes) if conf.classes else root / "classes.txt"))


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in index order, one a line; the last line may lack its newline. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}", hint=LAYOUT) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{path} names no class", hint="one class name a line, in index order")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} names a class twice: {', '.join(repeated)}", hint="each line is one class")
    return names


def parse_tubes(raw: Any, classes: Sequence[str], videos: Path, *, source: str) -> list[Clip]:
    """Clips of an annotation `{"tubes": [{"path", "dim": [T, H, W], "label": [...]}]}`; paths stay inside `videos`."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("tubes"), list):
        raise DataError(f'{source} has no list "tubes"', hint="the official tiny_train.json and tiny_test.json have")
    index = {name: number for number, name in enumerate(classes)}
    return [_parse_tube(tube, index, videos, source=f"{source}, tube {number}") for number, tube in enumerate(raw["tubes"])]


def _parse_tube(tube: Any, index: Mapping[str, int], videos: Path, *, source: str) -> Clip:
    if not isinstance(tube, Mapping):
        raise DataError(f"{source} is {tube!r}, not a mapping with path, dim and label")
    path, dim, labels = tube.get("path"), tube.get("dim"), tube.get("label")
    if not isinstance(path, str) or not path or "\0" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(f"{source}: path is {path!r}, not a file inside {videos}")
    if not isinstance(dim, list) or len(dim) != 3 or not all(type(side) is int and side > 0 for side in dim):
        raise DataError(f"{source} ({path}): dim is {dim!r}, not [frames, height, width]")
    if not isinstance(labels, list):
        raise DataError(f"{source} ({path}): label is {labels!r}, not a list of class names")
    for label in labels:
        if label not in index:
            hint = did_you_mean(str(label), list(index)) or "classes.txt and the annotation do not belong together"
            raise DataError(f"{source} ({path}): unknown class {label!r}", hint=hint)
    return Clip(id=path, path=videos / path, labels=tuple(sorted({index[label] for label in labels})), frames=dim[0])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the annotation {path}: {error}", hint=LAYOUT) from error
