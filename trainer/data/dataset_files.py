"""What the datasets share: lists and JSON read with the line in every fault, names kept inside a folder, and videos found under it.

A dataset of video files, `<root>/<Class>/<v>.avi`, and the same as folders of images, `<root>/<Class>/<v>/*.jpg`, are found alike;
`stream: flow` looks for folders of images under `data.flow_root`, laid out as those under `data.root`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.config import DataConf
from trainer.data.dataset_base import Clip
from trainer.errors import DataError, did_you_mean

VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v", ".wmv", ".gif", ".flv", ".ts", ".3gp", ".ogv",
)  # fmt: skip
FRAME_COUNT = "n_frames"  # file in a folder of images that says how many there are
NAMED = 10  # clips named in a message


@dataclass(frozen=True, kw_only=True)
class ListedDataset:
    """A dataset with one label a video, whose splits are read by a function."""

    name: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    read: Callable[[str], list[Clip]]
    fps: float = 0.0
    multi_label: bool = False
    notes: tuple[str, ...] = ()

    def clips(self, split: str) -> list[Clip]:
        """Clips of one of `splits`, in the annotation's order. Raises DataError."""
        if split not in self.splits:
            raise DataError(
                f'{self.name} has no split "{split}"', hint=f"it has {' and '.join(self.splits)}"
            )
        return self.read(split)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A video as a list names it, before it is looked for."""

    name: str  # file name, or the folder's; with or without a video's suffix
    label: int
    folder: str = ""  # the class folder it lies in; "" = none
    alias: str = ""  # another name it may lie under
    frames: int = 0  # images, as the list says; 0 = it does not
    # the list was made from the folders themselves: no n_frames is looked for in a quarter of a
    # million of them
    counted: bool = False
    group: str = ""

    @property
    def id(self) -> str:
        """Without folder and suffix, as predictions name a video."""
        return video_stem(self.name)


@dataclass(frozen=True)
class Shelf:
    """The videos (or folders of images) under a dataset's folder, found by name without regard to case, "_" and " "."""

    base: Path
    images: bool
    found: Mapping[str, Path]

    def get(self, folder: str, name: str) -> Path | None:
        """Where the video lies: in its class folder or beside it, with the suffix named or another."""
        name, folder, stem = _key(name), _key(folder), _key(video_stem(name))
        candidates = (f"{folder}/{name}", f"{folder}/{stem}", f"/{name}", f"/{stem}")
        return next(
            (self.found[candidate] for candidate in candidates if candidate in self.found), None
        )

    def find(self, folder: str, name: str) -> Path:
        """As `get`; for a video that is missing, where it should be."""
        return self.get(folder, name) or self._expected(folder, name)

    def _expected(self, folder: str, name: str) -> Path:
        return self.base / folder / (video_stem(name) if self.images else name)

    def clips(self, listed: Sequence[Listed], *, source: str, counts: bool = True) -> list[Clip]:
        """The listed videos as clips. Raises DataError when none of them is there: then it is the wrong folder.

        A video that is missing keeps its place; `prepare` names it, and data.broken says whether to go on. `counts`: the list's
        numbers of frames are of these images (a list counts the video's, a folder of flow may hold one fewer).
        """
        clips = [self._clip(entry, counts=counts) for entry in listed]
        there = set(self.found.values())
        if clips and not any(clip.path in there for clip in clips):
            kind = "folders of images" if self.images else "videos"
            hint = f"{clips[0].path} was looked for first; is this the folder of the {kind}?"
            raise DataError(
                f"none of the {len(clips)} videos that {source} names is under {self.base}",
                hint=hint,
            )
        return clips

    def _clip(self, entry: Listed, *, counts: bool) -> Clip:
        path = self.get(entry.folder, entry.name) or (
            self.get(entry.folder, entry.alias) if entry.alias else None
        )
        path = path or self._expected(entry.folder, entry.name)
        listed = entry.frames if counts else 0
        frames = (listed if entry.counted else frame_count(path) or listed) if self.images else 0
        return Clip(id=entry.id, path=path, labels=(entry.label,), frames=frames, group=entry.group)


def is_images(conf: DataConf) -> bool:
    """Whether clips are folders of images."""
    return conf.layout == "frames" or conf.stream == "flow"


def shelf(conf: DataConf, folders: Iterable[str], *, below: Sequence[str] = ()) -> Shelf:
    """What lies under data.root (stream: flow: data.flow_root), in its class `folders` and beside them.

    Of the folders `below` it, those that are there are searched, else the root itself.
    """
    root, images = Path(conf.flow_root if conf.stream == "flow" else conf.root), is_images(conf)
    require_folder(root, "data.flow_root" if conf.stream == "flow" else "data.root")
    bases = [root / name for name in below if (root / name).is_dir()] or [root]
    wanted = {_key(folder) for folder in folders}
    found: dict[str, Path] = {}
    for base in bases:
        for entry in entries(base):
            if _key(entry.name) in wanted and entry.is_dir():
                for inner in entries(Path(entry.path)):
                    _add(found, entry.name, inner, images=images)
            else:
                _add(found, "", entry, images=images)
    return Shelf(bases[0], images, found)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name. Raises DataError."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror or error}") from error


def is_video(entry: os.DirEntry[str], *, images: bool) -> bool:
    """Whether it is a video, or a folder of `images`; hidden ones are neither."""
    if entry.name.startswith("."):
        return False
    return entry.is_dir() if images else video_stem(entry.name) != entry.name


def _add(found: dict[str, Path], folder: str, entry: os.DirEntry[str], *, images: bool) -> None:
    if not is_video(entry, images=images):
        return
    for name in (entry.name, video_stem(entry.name)):
        found.setdefault(_key(f"{folder}/{name}"), Path(entry.path))


def _key(name: str) -> str:
    return name.casefold().replace("_", " ")


def same_name(name: str) -> str:
    """Equal for class names that differ only in case, "_" and " "."""
    return _key(name).strip()


def video_stem(name: str) -> str:
    """The name without a video's suffix; other dots belong to it."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in VIDEO_SUFFIXES else name


def frame_count(folder: Path) -> int:
    """What the folder's file n_frames says; 0 = nothing that can be read, so the images are to be counted."""
    try:
        return max(int((folder / FRAME_COUNT).read_text(encoding="ascii")), 0)
    except (OSError, ValueError):
        return 0


def require_folder(folder: Path, key: str, hint: str = "") -> Path:
    """The folder, or DataError."""
    try:
        there = folder.is_dir()
    except OSError as error:
        raise DataError(f"cannot read the dataset's folder {folder}: {error.strerror}") from error
    if not there:
        raise DataError(
            f"the dataset's folder {folder} is not there", hint=hint or f"{key} names it"
        )
    return folder


def annotation_place(conf: DataConf, usual: Sequence[str], *holds: str) -> Path:
    """data.annotation, or the first of the `usual` places with a file like the first pattern of `holds`, else like the next.

    Raises DataError.
    """
    if conf.annotation:
        place = Path(conf.annotation)
        if not place.exists():
            raise DataError(f"the annotation {place} is not there", hint="data.annotation names it")
        return place
    places = [require_folder(Path(conf.root), "data.root") / name for name in usual]
    there = [
        (place, [entry.name for entry in entries(place)]) for place in places if place.is_dir()
    ]
    for pattern in holds:
        for place, names in there:
            if any(re.fullmatch(pattern, name) for name in names):
                return place
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"no annotation was found in {looked}",
        hint="data.annotation names the file, or the folder of the lists",
    )


def read_text(path: Path, hint: str = "") -> str:
    """A text file. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the annotation {path}: {error}", hint=hint) from error


def read_json(path: Path, hint: str = "") -> Any:
    """A JSON file in which no mapping names a key twice. Raises DataError."""
    try:
        return json.loads(read_text(path, hint), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read the annotation {path}: {error}", hint=hint) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{sorted({name for name in names if names.count(name) > 1})[:NAMED]} stand in it twice"
        )
    return mapping


def lines(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without the space around it) for each line that is not empty, with any line ends."""
    return (
        (number, line.strip())
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
        if line.strip()
    )


def csv_rows(
    text: str, source: str, *, needs: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """("<source>, line n", row) for each row under a header that has the columns `needs`. Raises DataError."""
    try:
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True)
        header = [name.strip() for name in reader.fieldnames or []]
        missing = [name for name in needs if name not in header]
        if missing:
            raise DataError(
                f"{source} has no column {', '.join(missing)}",
                hint=f"its first line names the columns; it has {header[:8]}",
            )
        reader.fieldnames = header
        for row in reader:
            where = f"{source}, line {reader.line_num}"
            if None in row or any(row.get(name) is None for name in needs):
                raise DataError(f"{where}: not as many values as the header has columns")
            yield where, {name: (value or "").strip() for name, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{source}: {error}") from error


def class_names(text: str, source: str) -> tuple[str, ...]:
    """Class names in index order, one a line; numbered ones ("1 Archery", "brush_hair 0") by their numbers. Raises DataError."""
    listed = [line for _, line in lines(text)]
    names = (
        _numbered(listed, r"(?P<number>\d+)\s+(?P<name>.+)")
        or _numbered(listed, r"(?P<name>.+?)\s+(?P<number>\d+)")
        or tuple(listed)
    )
    if not names:
        raise DataError(f"{source} names no class", hint="one class name a line, in index order")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{source} names a class twice: {', '.join(repeated)}", hint="each line is one class"
        )
    return names


def _numbered(listed: Sequence[str], pattern: str) -> tuple[str, ...]:
    matches = [re.fullmatch(pattern, line, re.ASCII) for line in listed]
    by_number = {int(match["number"]): match["name"] for match in matches if match}
    first = min(by_number, default=2)
    if (
        len(by_number) != len(listed)
        or first > 1
        or set(by_number) != set(range(first, first + len(listed)))
    ):
        return ()
    return tuple(by_number[number] for number in sorted(by_number))


def class_index(label: str, classes: Sequence[str], source: str) -> int:
    """The label's place in `classes`. Raises DataError."""
    if label in classes:
        return classes.index(label)
    same = [place for place, name in enumerate(classes) if same_name(name) == same_name(label)]
    if len(same) == 1:
        return same[0]
    hint = did_you_mean(label, classes) or "the class names and this list do not belong together"
    raise DataError(f"{source}: unknown class {label!r}", hint=hint)


class ClassIndex:
    """`class_index` for long lists: each label is looked for once."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes, self._known = classes, {name: place for place, name in enumerate(classes)}

    def __call__(self, label: str, source: str) -> int:
        """As class_index. Raises DataError."""
        place = self._known.get(label)
        if place is None:
            place = self._known[label] = class_index(label, self._classes, source)
        return place


def plain_name(name: Any, source: str) -> str:
    """A name of one file or folder, not a path. Raises DataError."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or name in (".", "..")
        or "/" in name
        or "\\" in name
        or "\0" in name
    ):
        raise DataError(f"{source}: {name!r} is not the name of a video")
    return name


def inside(path: str, source: str) -> tuple[str, str]:
    """(class folder or "", file name) of a path "Class/v.avi" or "v.avi". Raises DataError for any that could leave the folder."""
    parts = path.split("/")
    if len(parts) > 2:
        raise DataError(f"{source}: {path!r} is not a video in a class folder, as Class/name.avi")
    for part in parts:
        plain_name(part, source)
    return (parts[0], parts[1]) if len(parts) == 2 else ("", parts[0])


def refuse_doubles(splits: Mapping[str, Sequence[Listed]], source: str) -> None:
    """Raise DataError for a video that a list has twice, or that is in two of the splits."""
    seen: dict[str, str] = {}
    for split, listed in splits.items():
        for entry in listed:
            name = f"{entry.folder}/{entry.id}"
            if name in seen:
                where = (
                    f"twice in {split}"
                    if seen[name] == split
                    else f"in {seen[name]} and in {split}"
                )
                raise DataError(
                    f"{source} names {name.lstrip('/')} {where}",
                    hint="a video belongs to one split, once",
                )
            seen[name] = split


def count_note(name: str, found: Mapping[str, int], official: Mapping[str, int]) -> tuple[str, ...]:
    """A note when the lists are not as long as the official ones."""
    if not official or all(found.get(split) == count for split, count in official.items()):
        return ()
    have, want = (
        ", ".join(f"{counts.get(split, 0)} {split}" for split in official)
        for counts in (found, official)
    )
    return (
        f"the lists of {name} name {have} videos, the official ones {want}: results cannot be compared with published ones",
    )
