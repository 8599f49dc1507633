"""Jester: 148,092 recordings of 27 hand gestures as folders of images, 12 frames a second (layout: frames).

<root>/<id>/00001.jpg ...   (or root/20bn-jester-v1/<id>)
jester-v1-labels.csv  jester-v1-train.csv  jester-v1-validation.csv ("<id>;<label>")   in data.annotation, or under root
categories.txt   gives the order of the classes where it is there ("1 Doing_other_things"), as published checkpoints have it
jester.json      instead of the lists: {"labels", "database"}

The test split was published without labels: "test" is "val". Mirroring changes what some gestures are, Swiping Left for one: `check`
refuses data.flip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.database_json import parse_database
from trainer.data.dataset_base import Clip
from trainer.data.dataset_files import Listed, ListedDataset
from trainer.errors import DataError

PLACES = ("", "annotation", "annotations", "annotation_Jester", "..")
OFFICIAL = {"train": 118562, "val": 14787}
FPS = 12.0
TEST_IS_VAL = "the test videos have no labels: split test is the validation split"
LISTS = {"train": "jester-v1-train.csv", "val": "jester-v1-validation.csv"}

Lists = dict[str, list[Listed]]


def open_dataset(conf: DataConf) -> ListedDataset:
    """Jester at `conf.root`. Raises DataError that names file, line and fault."""
    if conf.layout != "frames":
        raise DataError("Jester is published as folders of images", hint="set data.layout: frames")
    place = files.annotation_place(conf, PLACES, r"jester-v1-train\.csv|jester\.json")
    names = (
        files.class_names(files.read_text(Path(conf.classes)), conf.classes) if conf.classes else ()
    )
    classes, listed = _read(place, names)
    files.refuse_doubles(listed, str(place))
    notes = files.count_note(
        "Jester", {split: len(members) for split, members in listed.items()}, OFFICIAL
    )

    def read(split: str) -> list[Clip]:
        members = listed["val" if split == "test" else split]
        return files.shelf(conf, (), below=("20bn-jester-v1",)).clips(
            members, source=str(place), counts=conf.stream == "rgb"
        )

    splits = ("train", "val", "test")
    return ListedDataset(
        name="Jester",
        classes=classes,
        splits=splits,
        read=read,
        fps=FPS,
        notes=(*notes, TEST_IS_VAL),
    )


def _read(place: Path, names: Sequence[str]) -> tuple[tuple[str, ...], Lists]:
    path = (
        place / "jester.json"
        if place.is_dir() and not (place / LISTS["train"]).is_file()
        else place
    )
    if path.suffix == ".json":
        subsets = {"training": "train", "validation": "val"}
        return parse_database(
            files.read_json(path),
            str(path),
            splits=subsets,
            classes=names,
            group=lambda _label, _name: "",
        )
    paths = {split: place / name for split, name in LISTS.items()}
    texts = {split: files.read_text(path) for split, path in paths.items()}
    classes = _classes(place, names, texts["train"])
    return classes, {
        split: parse_list(text, classes, source=str(paths[split])) for split, text in texts.items()
    }


def _classes(place: Path, names: Sequence[str], train: str) -> tuple[str, ...]:
    """As the lists spell them, in the order of data.classes, else of categories.txt, else of the list of labels."""
    labels, categories = place / "jester-v1-labels.csv", place / "categories.txt"
    if labels.is_file():
        known = files.class_names(files.read_text(labels), str(labels))
    else:
        known = tuple(sorted({line.partition(";")[2].strip() for _, line in files.lines(train)}))
    if not names and categories.is_file():
        names = files.class_names(files.read_text(categories), str(categories))
    return ordered(known, names, source="data.classes or categories.txt") if names else known


def ordered(labels: Sequence[str], categories: Sequence[str], *, source: str) -> tuple[str, ...]:
    """The labels in the order of the categories, which spell them with "_" and one shortened ("Zooming_In_With_Ful"). Raises DataError."""
    chosen = []
    for category in categories:
        wanted = files.same_name(category)
        same = [label for label in labels if files.same_name(label) == wanted]
        found = same or [label for label in labels if files.same_name(label).startswith(wanted)]
        if len(found) != 1:
            raise DataError(
                f"{source}: {category!r} is {'none' if not found else 'several'} of the labels",
                hint=f"they are {labels}",
            )
        chosen += found
    if len(set(chosen)) != len(labels):
        raise DataError(f"{source} does not name every label once", hint=f"the labels are {labels}")
    return tuple(chosen)


def parse_list(text: str, classes: Sequence[str], *, source: str) -> list[Listed]:
    """Videos of a list of "<id>;<label>" lines. Raises DataError that names line and fault."""
    index = files.ClassIndex(classes)
    listed = []
    for number, line in files.lines(text):
        where = f"{source}, line {number}"
        name, separator, label = line.partition(";")
        if not separator:
            raise DataError(f'{where}: {line!r} is not "<id>;<label>"')
        listed.append(
            Listed(name=files.plain_name(name.strip(), where), label=index(label.strip(), where))
        )
    return listed
