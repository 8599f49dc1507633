"""Annotation files built from the official lists, as other systems read them: `prepare.annotate`.

ucf101     ucf101_01.json ... beside the lists, for every split that has both of them (the 3D CNN systems)
kinetics   hfiles/finalannots.json from the csvs and the frames that are there (the two-stream system): beside rgb-images/
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.config import Config, DataConf
from trainer.data import dataset_files as files
from trainer.data.datasets import kinetics, ucf101, video_list
from trainer.errors import DataError
from trainer.run_folder import atomic

Say = Callable[[str], None]

FOLDS = (1, 2, 3)
FEWEST_FRAMES = 9  # images in the folder of a Kinetics video that counts as there
THREADS = 16  # that list folders: on a volume of the cluster each waits for the network


def annotate(config: Config, say: Say) -> list[Path]:
    """Write what fits data.name; the files written. Raises DataError for lists that cannot be read, CannotWrite."""
    if config.data.name == "ucf101":
        return _ucf101(config.data, say)
    if config.data.name == "kinetics":
        return [_kinetics(config, say)]
    raise DataError(
        f"{config.data.name} has no annotation file to build",
        hint="prepare.annotate knows ucf101 and kinetics",
    )


def needs_frames(config: Config) -> bool:
    """Whether what `annotate` writes tells which frames are there, so that prepare.frames_to comes first."""
    return config.data.name == "kinetics"


def ucf101_json(annotations: Path, fold: int) -> dict[str, Any]:
    """{"labels", "database"} of one split, training videos first, each list in its order. Raises DataError."""
    classes, listed = ucf101.read_official(annotations, fold)
    files.refuse_doubles(listed, str(annotations))
    subsets = {"train": "training", "test": "validation"}
    database = {
        entry.id: {"subset": subset, "annotations": {"label": classes[entry.label]}}
        for split, subset in subsets.items()
        for entry in listed[split]
    }
    return {"labels": list(classes), "database": database}


def kinetics_finalannots(csvs: Mapping[str, Path], frames_root: Path) -> dict[str, Any]:
    """{"database", "classes"}, split -> csv; classes count from 1, a test video without a label has 0. Raises DataError.

    "isthere": its folder of frames holds more than 8 images; "numf": how many. Of several clips of one YouTube video the first counts,
    as there is one folder for them.
    """
    rows = [
        (split, where, row)
        for split, path in csvs.items()
        for where, row in files.csv_rows(
            files.read_text(path), str(path), needs=("youtube_id", "time_start", "time_end")
        )
    ]
    names = sorted({row["label"] for _, _, row in rows if row.get("label")})
    classes = {name: number for number, name in enumerate(names, 1)}
    first: dict[str, tuple[str, str]] = {}
    for split, where, row in rows:
        if not row.get("label") and split != "test":
            raise DataError(
                f"{where}: {row['youtube_id']} has no label",
                hint="only the test list is published without them",
            )
        first.setdefault(files.plain_name(row["youtube_id"], where), (split, row.get("label", "")))
    with ThreadPoolExecutor(THREADS) as pool:
        counts = list(pool.map(lambda video: count_images(frames_root / video), first))
    database = {
        video: {
            "label": label or 0,
            "cls": classes.get(label, 0),
            "subset": split,
            "isthere": count >= FEWEST_FRAMES,
            "numf": count,
        }
        for (video, (split, label)), count in zip(first.items(), counts, strict=True)
    }
    return {"database": database, "classes": classes}


def count_images(folder: Path) -> int:
    """The jpg files in a folder; 0 where it is not there."""
    try:
        with os.scandir(folder) as found:
            return sum(entry.name.lower().endswith((".jpg", ".jpeg")) for entry in found)
    except OSError:
        return 0


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """The file, whole or not at all. Raises CannotWrite."""
    with atomic(path) as sink:
        sink.write(json.dumps(content).encode())
    return path


def _ucf101(conf: DataConf, say: Say) -> list[Path]:
    place = files.annotation_place(conf, ucf101.PLACES, r"trainlist0?\d\.txt")
    place = place if place.is_dir() else place.parent
    folds = [
        fold
        for fold in FOLDS
        if all(ucf101.find_list(place, split, fold) for split in ("train", "test"))
    ]
    if not folds:
        raise DataError(
            f"{place} has no trainlist and testlist of one split",
            hint="data.annotation names the folder of the official lists",
        )
    written = []
    for fold in folds:
        content = ucf101_json(place, fold)
        written.append(write_json(place / f"ucf101_{fold:02}.json", content))
        say(
            f"annotate: {written[-1]} names {len(content['database'])} videos of {len(content['labels'])} classes"
        )
    return written


def _kinetics(config: Config, say: Say) -> Path:
    conf = config.data
    place = files.annotation_place(
        conf, ("annotations", "annotation", "hfiles", ""), video_list.FILE
    )
    csvs = video_list.csv_files(place, 0)
    if not csvs:
        raise DataError(f"{place} holds no list of Kinetics", hint="*_train.csv and *_val.csv")
    root = Path(conf.root)
    frames = Path(config.prepare.frames_to) if config.prepare.frames_to else root / "rgb-images"
    frames = frames if frames.is_dir() else root
    content = kinetics_finalannots(
        {split: csvs[split] for split in kinetics.SPLITS if split in csvs}, frames
    )
    path = write_json(
        (frames.parent if frames.name == "rgb-images" else frames) / "hfiles" / "finalannots.json",
        content,
    )
    there = sum(video["isthere"] for video in content["database"].values())
    say(
        f"annotate: {path} names {len(content['database'])} videos of {len(content['classes'])} classes, {there} of them are there"
    )
    return path
