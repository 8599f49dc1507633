"""HMDB51: 6,766 clips of 51 actions, 30 frames a second, three official splits of 3,570 and 1,530 clips.

<root>/<class>/<clip>.avi      or folders of images <root>/<class>/<clip>/*.jpg (layout: frames)
in data.annotation, or under root (testTrainMulti_7030_splits/, annotation/, or root itself), one of
    <class>_test_split1.txt ...              the laboratory's: "<clip>.avi 1" for training, 2 for testing, 0 for neither
    hmdb51_train.txt hmdb51_test.txt         "<class>/<clip>.avi [frames] <number>"
    hmdb51_train_01.csv hmdb51_test_01.csv   VMZ's: org_video,label[,start_frm][,video_id]
    hmdb51_1.json                            the 3D CNN systems': its "validation" is the test split

Classes stand in alphabetical order unless data.classes says otherwise; lists number them in orders of their own (hmdb51_classname.txt puts
climb_stairs before climb), so a clip's class is its folder, and the numbers are only compared with one another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.database_json import parse_database
from trainer.data.dataset_base import Clip
from trainer.data.dataset_files import Listed, ListedDataset
from trainer.data.datasets import video_list
from trainer.errors import DataError

OFFICIAL = {"train": 3570, "test": 1530}
PLACES = ("testTrainMulti_7030_splits", "annotation", "annotations", "")
FPS = 30.0
SPLIT_OF = {"0": "", "1": "train", "2": "test"}
# body parts, camera, people, view, quality, number
META = re.compile(r"_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+$")
OTHER_FORMS = r".+_test_split\d\.txt|hmdb51_?(train|test).*\.txt|hmdb51_\d+\.json"
ANY_FORM = rf"{OTHER_FORMS}|hmdb51_?(train|test).*\.csv"

Lists = dict[str, list[Listed]]


def open_dataset(conf: DataConf) -> ListedDataset:
    """HMDB51 at `conf.root`, split `conf.fold`. Raises DataError that names file, line and fault."""
    place = files.annotation_place(conf, PLACES, ANY_FORM)
    names = (
        files.class_names(files.read_text(Path(conf.classes)), conf.classes) if conf.classes else ()
    )
    if place.suffix == ".csv" or (
        place.is_dir()
        and not _has(place, OTHER_FORMS)
        and _has(place, r"hmdb51_?(train|test).*\.csv")
    ):
        return video_list.open_lists(conf, place, name="HMDB51", fps=FPS, classes=names)
    classes, listed = _read(place, conf.fold, names)
    files.refuse_doubles(listed, str(place))
    counts = {split: len(members) for split, members in listed.items()}

    def read(split: str) -> list[Clip]:
        return files.shelf(conf, classes).clips(
            listed[split], source=str(place), counts=conf.stream == "rgb"
        )

    notes = files.count_note(f"HMDB51 split {conf.fold}", counts, OFFICIAL)
    return ListedDataset(
        name="HMDB51", classes=classes, splits=("train", "test"), read=read, fps=FPS, notes=notes
    )


def _read(place: Path, fold: int, names: Sequence[str]) -> tuple[tuple[str, ...], Lists]:
    if place.suffix == ".json":
        return _json(place, names)
    if not place.is_dir():
        raise DataError(
            f"{place} is neither a folder of HMDB51's lists nor its JSON",
            hint="data.annotation names one of them",
        )
    if official := _has(place, rf".+_test_split{fold}\.txt"):
        return parse_official(
            {path.name.rpartition("_test_split")[0]: files.read_text(path) for path in official},
            names,
            source=str(place),
        )
    if found := _has(place, rf"hmdb51_0?{fold}\.json"):
        return _json(found[0], names)
    paths = {split: _list_of(place, split, fold) for split in ("train", "test")}
    return parse_lists(
        {split: (str(path), files.read_text(path)) for split, path in paths.items()}, names
    )


def parse_official(
    texts: Mapping[str, str], names: Sequence[str], *, source: str
) -> tuple[tuple[str, ...], Lists]:
    """(classes, split -> clips) of the laboratory's lists, class -> text. Raises DataError that names list, line and fault."""
    classes = tuple(names) or tuple(sorted(texts))
    listed: Lists = {"train": [], "test": []}
    for folder in sorted(texts):
        label = files.class_index(folder, classes, source)
        for number, line in files.lines(texts[folder]):
            where = f"{source}, {folder}, line {number}"
            name, _, digit = line.rpartition(" ")
            if digit not in SPLIT_OF or not name:
                raise DataError(
                    f'{where}: {line!r} is not "<clip>.avi 0", 1 (training) or 2 (testing)'
                )
            if SPLIT_OF[digit]:
                listed[SPLIT_OF[digit]].append(
                    _clip(files.plain_name(name.strip(), where), label, folder)
                )
    return classes, listed


def parse_lists(
    texts: Mapping[str, tuple[str, str]], names: Sequence[str]
) -> tuple[tuple[str, ...], Lists]:
    """(classes, split -> clips) of lists "<class>/<clip>.avi [frames] <number>", split -> (source, text). Raises DataError."""
    rows = {
        split: [_row(line, f"{source}, line {n}") for n, line in files.lines(text)]
        for split, (source, text) in texts.items()
    }
    every = [row for listed in rows.values() for row in listed]
    classes = tuple(names) or tuple(sorted({folder for _, folder, _, _, _ in every}))
    index, numbers = files.ClassIndex(classes), dict[str, str]()
    folders: dict[str, str] = {}
    for where, folder, _, _, number in every:
        index(folder, where)
        if (
            numbers.setdefault(folder, number) != number
            or folders.setdefault(number, folder) != folder
        ):
            hint = "lists of different orders of classes are mixed"
            raise DataError(
                f"{where}: class {folder} has the number {number}, but {folders.get(number, folder)} has it too",
                hint=hint,
            )
    return classes, {
        split: [
            _clip(name, index(folder, where), folder, frames=frames)
            for where, folder, name, frames, _ in listed
        ]
        for split, listed in rows.items()
    }


def _row(line: str, source: str) -> tuple[str, str, str, int, str]:
    """(source, class folder, file name, frames or 0, the class's number)."""
    match = re.fullmatch(r"(.+?)(?:\s+(\d{1,9}))?\s+(\d{1,9})", line, re.ASCII)
    if not match:
        raise DataError(
            f'{source}: {line!r} is not "<class>/<clip>.avi [frames] <number of the class>"'
        )
    folder, name = files.inside(match[1], source)
    if not folder:
        raise DataError(f"{source}: {match[1]!r} does not say its class, as class/name.avi")
    return source, folder, name, int(match[2] or 0), match[3]


def _clip(name: str, label: int, folder: str, *, frames: int = 0) -> Listed:
    return Listed(
        name=name,
        label=label,
        folder=folder,
        frames=frames,
        group=_group(folder, files.video_stem(name)),
    )


def _group(folder: str, name: str) -> str:
    """The class and the recording that a clip was cut from: its name without the annotation behind it.

    One film gives clips of several classes; the official splits keep a film's clips together within a class only.
    """
    head = META.sub("", name)
    return f"{folder}/{head}" if head != name else ""


def _json(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], Lists]:
    subsets = {"training": "train", "validation": "test"}
    return parse_database(
        files.read_json(path), str(path), splits=subsets, classes=names, group=_group
    )


def _list_of(place: Path, split: str, fold: int) -> Path:
    numbered = _has(place, rf"hmdb51_?{split}(_split)?_?0?{fold}(_.+)?\.txt")
    plain = _has(place, rf"hmdb51_?{split}\.txt")
    if numbered or (plain and fold == 1):
        return (numbered or plain)[0]
    hint = f"data.fold is {fold}; a list without a number is split 1"
    raise DataError(f"{place} has no list of split {fold} for {split}", hint=hint)


def _has(place: Path, pattern: str) -> list[Path]:
    return [Path(entry.path) for entry in files.entries(place) if re.fullmatch(pattern, entry.name)]
