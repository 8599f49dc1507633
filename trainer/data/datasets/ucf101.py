"""UCF101: 13,320 videos of 101 actions, 25 frames a second, three official splits that keep a group's videos together.

<root>/<Class>/v_<Class>_g01_c01.avi   (or the folder above, that holds UCF-101/; flat, or with another suffix)
<root>/<Class>/v_<Class>_g01_c01/image_00001.jpg ... n_frames   layout: frames
classInd.txt trainlist01.txt testlist01.txt ...   in data.annotation, or under root in ucfTrainTestlist/
ucf101_01.json   instead of the lists, as `prepare.annotate` builds it; its "validation" is the test split

The class HandstandPushups holds files named v_HandStandPushups_*: names are found in either spelling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.database_json import parse_database
from trainer.data.dataset_files import Listed, ListedDataset
from trainer.errors import DataError

OFFICIAL = {
    1: {"train": 9537, "test": 3783},
    2: {"train": 9586, "test": 3734},
    3: {"train": 9624, "test": 3696},
}  # videos of each split
PLACES = ("", "ucfTrainTestlist", "annotation", "annotations", "../ucfTrainTestlist")
GROUP = re.compile(r"_(g\d+)_c\d+$")
FPS = 25.0


def open_dataset(conf: DataConf) -> ListedDataset:
    """UCF101 at `conf.root`, split `conf.fold`. Raises DataError that names file, line and fault."""
    place = files.annotation_place(
        conf, PLACES, rf"trainlist0?{conf.fold}\.txt|ucf101_0?{conf.fold}\.json"
    )
    classes, listed = read_lists(
        place, conf.fold, classes=Path(conf.classes) if conf.classes else None
    )
    files.refuse_doubles(listed, str(place))
    counts = {split: len(members) for split, members in listed.items()}
    return ListedDataset(
        name="UCF101",
        classes=classes,
        splits=("train", "test"),
        read=lambda split: files.shelf(conf, classes, below=("UCF-101",)).clips(
            listed[split], source=str(place), counts=conf.stream == "rgb"
        ),
        fps=FPS,
        notes=files.count_note(f"UCF101 split {conf.fold}", counts, OFFICIAL.get(conf.fold, {})),
    )


def read_lists(
    place: Path, fold: int, *, classes: Path | None = None
) -> tuple[tuple[str, ...], dict[str, list[Listed]]]:
    """(classes, split -> videos) of the folder of lists, or of the JSON file (or the folder that holds it). Raises DataError."""
    names = files.class_names(files.read_text(classes), str(classes)) if classes else ()
    path = _json_file(place, fold)
    if path:
        subsets = {"training": "train", "validation": "test", "testing": "test"}
        return parse_database(
            files.read_json(path), str(path), splits=subsets, classes=names, group=_group
        )
    if not place.is_dir():
        raise DataError(
            f"{place} is neither the folder of UCF101's lists nor its JSON",
            hint="data.annotation names one of them",
        )
    return read_official(place, fold, names)


def read_official(
    place: Path, fold: int, classes: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, list[Listed]]]:
    """(classes, split -> videos) of the folder of the official lists. Raises DataError."""
    class_list = place / "classInd.txt"
    names = tuple(classes) or files.class_names(files.read_text(class_list), str(class_list))
    train, test = (_list_file(place, split, fold) for split in ("train", "test"))
    return names, {
        "train": parse_list(files.read_text(train), names, source=str(train), numbered=not classes),
        "test": parse_list(files.read_text(test), names, source=str(test), numbered=not classes),
    }


def parse_list(
    text: str, classes: Sequence[str], *, source: str, numbered: bool = True
) -> list[Listed]:
    """Videos of an official list: "<Class>/<v>.avi", in training lists with the class's number from 1. Raises DataError.

    `numbered`: the classes stand in classInd.txt's order, so that the numbers can be compared with it.
    """
    index = files.ClassIndex(classes)
    return [
        _parse_line(line, index, source=f"{source}, line {line_number}", numbered=numbered)
        for line_number, line in files.lines(text)
    ]


def _parse_line(line: str, index: files.ClassIndex, *, source: str, numbered: bool) -> Listed:
    path, _, number = line.partition(" ")
    folder, name = files.inside(path, source)
    label = index(folder, source)
    if numbered and number and number.strip() != str(label + 1):
        hint = "classInd.txt and this list do not belong together"
        raise DataError(
            f"{source}: class {folder} has the number {number.strip()!r}, by the class names it is {label + 1}",
            hint=hint,
        )
    return Listed(
        name=name, label=label, folder=folder, group=_group(folder, files.video_stem(name))
    )


def _group(folder: str, name: str) -> str:
    """g01 to g25 number a class's recordings anew in each class."""
    match = GROUP.search(name)
    return f"{folder}/{match[1]}" if match else ""


def _json_file(place: Path, fold: int) -> Path | None:
    if place.suffix == ".json":
        return place
    if find_list(place, "train", fold):
        return None
    return _exists(place, f"ucf101_{fold:02}.json", f"ucf101_{fold}.json")


def _list_file(place: Path, split: str, fold: int) -> Path:
    found = find_list(place, split, fold)
    if not found:
        there = ", ".join(sorted(path.name for path in place.glob(f"{split}list*.txt"))) or "none"
        raise DataError(
            f"{place} has no {split}list{fold:02}.txt", hint=f"data.fold is {fold}; there: {there}"
        )
    return found


def find_list(place: Path, split: str, fold: int) -> Path | None:
    """trainlist01.txt or testlist01.txt of a split, where it is there."""
    return _exists(place, f"{split}list{fold:02}.txt", f"{split}list{fold}.txt")


def _exists(place: Path, *names: str) -> Path | None:
    return next((place / name for name in names if (place / name).is_file()), None)


def official_name(folder: str) -> str:
    """The class folder's official spelling: the videos of HandstandPushups are named v_HandStandPushups_*."""
    return SPELLINGS.get(folder, folder)


SPELLINGS: Mapping[str, str] = {"HandStandPushups": "HandstandPushups"}
