"""Videos that lists name, as VMZ's: one csv a split with the columns org_video,label[,start_frm][,video_id].

data.annotation: the folder with <anything>_train[_01].csv, <anything>_test[_01].csv (and val), or a file of one of them
data.classes: the class names in the order of the labels; without it, the folders that the videos lie in are the names

Paths are below data.root; absolute ones from another machine are found there by their last two parts. A row with start_frm is a clip
of its own, `<video_id>@<start>`, as lists for dense prediction have several of one video.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.dataset_base import Clip
from trainer.data.dataset_files import Listed, ListedDataset
from trainer.errors import DataError

FILE = r"(?:.*[_-])?(?P<split>train|val|valid|validation|validate|test)(?:[_-]?(?:split)?[_-]?0?(?P<fold>\d))?\.csv"
PLACES = ("", "annotation", "annotations", "lists")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a list."""

    where: str  # file and line
    path: str
    label: int
    start: int = -1  # first frame; -1 = the list does not say
    video: str = ""  # its id; "" = the list does not say

    @property
    def file(self) -> str:
        """The path's last part."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """The part before it."""
        return PurePosixPath(self.path).parent.name


def open_dataset(conf: DataConf) -> ListedDataset:
    """The videos of the lists at `conf.annotation`. Raises DataError that names file, line and fault."""
    place = files.annotation_place(conf, PLACES, FILE)
    names = (
        files.class_names(files.read_text(Path(conf.classes)), conf.classes) if conf.classes else ()
    )
    return open_lists(conf, place, name="the video list", fps=0.0, classes=names)


def open_lists(
    conf: DataConf, place: Path, *, name: str, fps: float, classes: Sequence[str]
) -> ListedDataset:
    """The dataset of a folder of such lists. Raises DataError."""
    paths = csv_files(place, conf.fold)
    if not paths:
        raise DataError(
            f"{place} holds no list of data.fold {conf.fold}",
            hint="lists are named *_train_01.csv, *_test_01.csv, or *.csv",
        )
    rows = _name_videos(
        {split: parse_rows(files.read_text(path), str(path)) for split, path in paths.items()}
    )
    names = tuple(classes) or folder_names(
        [row for listed in rows.values() for row in listed], str(place)
    )
    for row in (row for listed in rows.values() for row in listed):
        if row.label >= len(names):
            raise DataError(
                f"{row.where}: label {row.label} is none of the {len(names)} classes",
                hint="labels count from 0",
            )
    _refuse_doubles(rows)
    return ListedDataset(
        name=name,
        classes=names,
        splits=tuple(split for split in SPLITS if split in rows),
        read=lambda split: clips(conf, rows[split], str(paths[split])),
        fps=fps,
    )


def csv_files(place: Path, fold: int) -> dict[str, Path]:
    """Split -> its list. Raises DataError where two could be meant."""
    found: dict[str, Path] = {}
    for path in [Path(entry.path) for entry in files.entries(place)] if place.is_dir() else [place]:
        match = re.fullmatch(FILE, path.name)
        if not match or (match["fold"] and int(match["fold"]) != fold):
            continue
        split = "val" if match["split"].startswith("val") else match["split"]
        if split in found:
            message = f"{found[split].name} and {path.name} in {place} are both lists of {split}"
            raise DataError(
                message, hint="data.annotation names a folder with one list for each split"
            )
        found[split] = path
    return found


def parse_rows(text: str, source: str) -> list[Row]:
    """The rows of a list. Raises DataError that names file, line and fault."""
    return [
        _row(row, where)
        for where, row in files.csv_rows(text, source, needs=("org_video", "label"))
    ]


def _row(row: Mapping[str, str], where: str) -> Row:
    path = row["org_video"]
    if not PurePosixPath(path).name or "\0" in path or ".." in PurePosixPath(path).parts:
        raise DataError(f"{where}: org_video is {path!r}, not a video inside data.root")
    start = _number(row["start_frm"], "start_frm", where) if row.get("start_frm") else -1
    return Row(
        where=where,
        path=path,
        label=_number(row["label"], "label", where),
        start=start,
        video=row.get("video_id", ""),
    )


def _number(text: str, column: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise DataError(f"{where}: {column} is {text!r}, not a number from 0")
    return int(text)


def folder_names(rows: Sequence[Row], source: str) -> tuple[str, ...]:
    """Class names from the folders that the videos lie in: one for each label. Raises DataError where they do not tell."""
    by_label: dict[int, str] = {}
    for row in rows:
        if by_label.setdefault(row.label, row.folder) != row.folder or not row.folder:
            hint = "name the file of class names in data.classes"
            message = f"{row.where}: label {row.label} is the folder {row.folder!r}, before it was {by_label[row.label]!r}"
            raise DataError(message, hint=hint)
    names = tuple(by_label[label] for label in sorted(by_label))
    if not names or set(by_label) != set(range(len(names))) or len(set(names)) < len(names):
        raise DataError(
            f"the labels in {source} do not name every class once",
            hint="name the file of class names in data.classes",
        )
    return names


def clips(conf: DataConf, rows: Sequence[Row], source: str) -> list[Clip]:
    """The rows as clips. Raises DataError when no video is there."""
    shelf = files.shelf(conf, {row.folder for row in rows})
    paths = [shelf.get(row.folder, row.file) or _exact(conf, row) for row in rows]
    if not any(paths):
        # raises
        shelf.clips(
            [Listed(name=row.file, label=row.label, folder=row.folder) for row in rows],
            source=source,
        )
    return [
        Clip(
            id=f"{row.video}@{row.start}" if row.start >= 0 else row.video,
            path=path or shelf.find(row.folder, row.file),
            labels=(row.label,),
            frames=files.frame_count(path) if path and shelf.images else 0,
            group=row.video if row.start >= 0 else "",
            first=max(row.start, 0),
        )
        for row, path in zip(rows, paths, strict=True)
    ]


def _exact(conf: DataConf, row: Row) -> Path | None:
    """What lies at the path itself, inside data.root. Other folders are none of a list's business."""
    if conf.stream == "flow":
        return None
    root = Path(conf.root).absolute()
    path = root / row.path
    return (
        path
        if path.is_relative_to(root)
        and (path.is_dir() if files.is_images(conf) else path.is_file())
        else None
    )


def _name_videos(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The rows with an id for each video: the list's, else the file's name, with its folder where two folders have the name."""
    every = [row for listed in rows.values() for row in listed if not row.video]
    paths: dict[str, set[str]] = {}
    for row in every:
        paths.setdefault(files.video_stem(row.file), set()).add(row.path)
    alone = all(len(members) == 1 for members in paths.values())

    def named(row: Row) -> Row:
        stem = files.video_stem(row.file)
        return (
            row
            if row.video
            else replace(row, video=stem if alone or not row.folder else f"{row.folder}/{stem}")
        )

    return {split: [named(row) for row in listed] for split, listed in rows.items()}


def _refuse_doubles(rows: Mapping[str, Sequence[Row]]) -> None:
    seen: dict[tuple[str, int], str] = {}
    split_of: dict[str, str] = {}
    for split, listed in rows.items():
        for row in listed:
            before = seen.setdefault((row.video, row.start), row.where)
            if before != row.where:
                raise DataError(
                    f"{row.where}: {row.video} is listed before, at {before}",
                    hint="rows of one video differ in start_frm",
                )
            if split_of.setdefault(row.video, split) != split:
                raise DataError(
                    f"{row.where}: {row.video} is in {split_of[row.video]}, too",
                    hint="a video belongs to one split",
                )
