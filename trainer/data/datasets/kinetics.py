"""Kinetics-400, -600, -700 and their parts: YouTube clips of 10 s, as many as are still to be had.

layout: frames   <root>/rgb-images/<youtube_id>/00001.jpg ...   as the two-stream system keeps them, 16 frames a second
                 flow lies beside it: data.flow_root is <root>/farneback-images (or brox-images)
layout: videos   <root>/[train|val/]<label>/<youtube_id>_<start>_<end>.mp4, seconds with six digits; or without the label's folder
data.annotation, or under root (hfiles/, annotations/, or root itself), one of
    finalannots.json      the two-stream system's, classes from 1 (2017), or Annots_200.json, _400, _600, classes from 0
    *_train.csv *_val.csv the official lists: label,youtube_id,time_start,time_end
    any other .json       the 3D CNN systems': {"labels", "database"}

The official test split was published without labels. Then "test" is "val", as the field evaluates on it, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.database_json import parse_database
from trainer.data.dataset_base import Clip
from trainer.data.dataset_files import Listed, ListedDataset
from trainer.data.datasets import video_list
from trainer.errors import DataError

SPLITS = ("train", "val", "test")
PLACES = ("hfiles", "annotations", "annotation", "")
FRAMES_FPS = 16.0  # at which the two-stream system extracts frames
FINAL = r"finalannots\.json|Annots_\d+\.json"
# which annotation belongs to a layout, where both are there
FORMS = {"frames": FINAL, "videos": video_list.FILE}
SEGMENT = re.compile(r"_\d{6}_\d{6}$")
FOLDERS_OF = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
TEST_IS_VAL = "the test videos have no labels: split test is the validation split, as the field evaluates on it"

Lists = dict[str, list[Listed]]


def open_dataset(conf: DataConf) -> ListedDataset:
    """Kinetics at `conf.root`. Raises DataError that names file, video and fault."""
    place = files.annotation_place(conf, PLACES, FORMS[conf.layout], rf"{FINAL}|{video_list.FILE}")
    names = (
        files.class_names(files.read_text(Path(conf.classes)), conf.classes) if conf.classes else ()
    )
    classes, listed, notes = read_annotation(place, names, layout=conf.layout)
    if not listed.get("test") and listed.get("val"):
        listed["test"] = listed["val"]
        notes = (*notes, TEST_IS_VAL)
    splits = tuple(split for split in SPLITS if listed.get(split))
    if not splits:
        raise DataError(
            f"{place} names no video with a label",
            hint="data.annotation names the file, or the folder of the lists",
        )
    source = "val" if listed.get("test") is listed.get("val") else "test"

    def read(split: str) -> list[Clip]:
        below = (
            *(["rgb-images"] if files.is_images(conf) else []),
            *FOLDERS_OF[source if split == "test" else split],
        )
        return files.shelf(conf, classes, below=below).clips(
            listed[split], source=str(place), counts=conf.stream == "rgb"
        )

    fps = FRAMES_FPS if conf.layout == "frames" else 0.0
    return ListedDataset(
        name="Kinetics", classes=classes, splits=splits, read=read, fps=fps, notes=notes
    )


def read_annotation(
    place: Path, names: Sequence[str], *, layout: str
) -> tuple[tuple[str, ...], Lists, tuple[str, ...]]:
    """(classes, split -> videos, notes) of whichever annotation lies there. `names` win over its order of classes. Raises DataError."""
    path = _json_in(place, layout) if place.is_dir() else place
    if path is None or path.suffix != ".json":
        paths = video_list.csv_files(place, 0)
        if not paths:
            raise DataError(
                f"{place} holds no list of Kinetics",
                hint="finalannots.json, or *_train.csv and *_val.csv",
            )
        return (
            *parse_csvs(
                {split: (str(csv), files.read_text(csv)) for split, csv in paths.items()}, names
            ),
            (),
        )
    raw = files.read_json(path)
    if isinstance(raw, Mapping) and "classes" in raw:
        return parse_final(raw, str(path), names)
    subsets = {"training": "train", "validation": "val"}
    return (*parse_database(raw, str(path), splits=subsets, classes=names, group=_group), ())


def parse_csvs(
    texts: Mapping[str, tuple[str, str]], names: Sequence[str]
) -> tuple[tuple[str, ...], Lists]:
    """(classes in alphabetical order, split -> videos) of the official lists, split -> (source, text). Raises DataError."""
    rows = {
        split: list(files.csv_rows(text, source, needs=("youtube_id", "time_start", "time_end")))
        for split, (source, text) in texts.items()
    }
    labelled = {
        split: [(where, row) for where, row in listed if row.get("label")]
        for split, listed in rows.items()
    }
    for split in ("train", "val"):
        if len(labelled.get(split, ())) < len(rows.get(split, ())):
            raise DataError(
                f"{texts[split][0]} has videos without a label",
                hint="only the test list is published without them",
            )
    classes = tuple(names) or tuple(
        sorted({row["label"] for listed in labelled.values() for _, row in listed})
    )
    index = files.ClassIndex(classes)
    return classes, {
        split: [_csv_video(row, index, where) for where, row in listed]
        for split, listed in labelled.items()
    }


def _csv_video(row: Mapping[str, str], index: files.ClassIndex, where: str) -> Listed:
    video = files.plain_name(row["youtube_id"], where)
    name = f"{video}_{_seconds(row['time_start'], where):06d}_{_seconds(row['time_end'], where):06d}.mp4"
    return Listed(
        name=name,
        label=index(row["label"], where),
        folder=files.plain_name(row["label"], where),
        alias=video,
        group=video,
    )


def _seconds(text: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,6}(\.\d*)?", text, re.ASCII):
        raise DataError(f"{where}: {text!r} is not a time in seconds")
    return int(float(text))


def parse_final(
    raw: Mapping[str, Any], source: str, names: Sequence[str]
) -> tuple[tuple[str, ...], Lists, tuple[str, ...]]:
    """(classes, split -> videos that are there, notes) of the two-stream system's annotation. Raises DataError."""
    numbers = _class_numbers(raw.get("classes"), source)
    database = raw.get("database")
    if not isinstance(database, Mapping):
        raise DataError(f'{source} has no mapping "database"')
    classes = tuple(names) or tuple(sorted(numbers, key=lambda name: numbers[name]))
    index = files.ClassIndex(classes)
    listed: Lists = {split: [] for split in SPLITS}
    missing = 0
    for name, video in database.items():
        where = f"{source}, {name}"
        if not isinstance(video, Mapping) or video.get("subset") not in SPLITS:
            raise DataError(f"{where}: is {video!r}, not a mapping with subset train, val or test")
        if not video.get("isthere", True):
            missing += 1
            continue
        label = video.get("label")
        if label not in numbers and video["subset"] == "test":
            continue
        listed[video["subset"]].append(_final_video(name, video, numbers, index=index, where=where))
    return (
        classes,
        listed,
        (f"{missing} videos are left out: {source} says that they are not there",)
        if missing
        else (),
    )


def _final_video(
    name: str,
    video: Mapping[str, Any],
    numbers: Mapping[str, int],
    *,
    index: files.ClassIndex,
    where: str,
) -> Listed:
    label, frames = video.get("label"), video.get("numf", 0)
    if not isinstance(label, str) or label not in numbers:
        raise DataError(f"{where}: unknown class {label!r}", hint='"classes" names all of them')
    if video.get("cls", numbers[label]) != numbers[label]:
        raise DataError(
            f"{where}: cls is {video['cls']!r}, but {label} has the number {numbers[label]}"
        )
    if type(frames) is not int or frames < 0:
        raise DataError(f"{where}: numf is {frames!r}, not a number of frames")
    return Listed(
        name=files.plain_name(name, where),
        label=index(label, where),
        frames=frames,
        counted=True,
        group=_group(label, name),
    )


def _class_numbers(raw: Any, source: str) -> dict[str, int]:
    """Class -> number, from 1 as in 2017 or from 0 as later. Raises DataError."""
    numbers = dict(raw) if isinstance(raw, Mapping) else {}
    if not numbers or not all(
        isinstance(name, str) and type(number) is int for name, number in numbers.items()
    ):
        raise DataError(f'{source}: "classes" is not a mapping of names to numbers')
    first = min(numbers.values())
    if first not in (0, 1) or sorted(numbers.values()) != list(range(first, first + len(numbers))):
        raise DataError(f'{source}: "classes" are not numbered one by one from 0 or from 1')
    return numbers


def _json_in(place: Path, layout: str) -> Path | None:
    if layout == "videos" and video_list.csv_files(place, 0):
        return None
    found = [Path(entry.path) for entry in files.entries(place) if re.fullmatch(FINAL, entry.name)]
    if len(found) > 1 and found[-1].name != "finalannots.json":
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"{place} holds {names}", hint="data.annotation names the one that is meant"
        )
    return found[-1] if found else None


def _group(_label: str, name: str) -> str:
    return SEGMENT.sub("", files.video_stem(name))
