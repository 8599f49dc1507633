"""Any videos that lie in folders named for their classes.

<root>/<Class>/<video>                     split here: of each class a fifth for testing, then a fifth of the rest for validation
<root>/{train,val,test}/<Class>/<video>    split already, as the C3D system's preprocessing leaves it
layout: frames: <video> is a folder of images

Classes stand in alphabetical order unless data.classes says otherwise. Names as v_<Class>_g01_c02 tell which videos were cut from one
recording (UCF101's): their groups stay together, since a random split of the videos shows the test recordings in training and
measures memory (96 % where the official split gives 45). The draw is seeded apart from data.split_seed: the test split never moves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config import DataConf
from trainer.data import dataset_files as files
from trainer.data.dataset_base import Clip
from trainer.data.dataset_files import ListedDataset
from trainer.errors import DataError

SPLITS = ("train", "val", "test")
SEED = 42
SHARE = 0.2  # of a class, for testing; of the rest, for validation
GROUP = re.compile(r"_(g\d+)_c\d+$")
HINT = "data.root is a folder of class folders, or holds train/, test/ and perhaps val/ of them"
GROUPED = (
    "the split was drawn here, by groups (v_..._g01_...): no recording is in two splits; it is not "
    "an official one, so results cannot be compared with published ones"
)
RANDOM = (
    "the split was drawn here, video by video: where several videos were cut from one recording it "
    "leaks, and the test results are too good"
)
TEST_IS_VAL = "there is no folder test: split test is the validation split"

Classes = dict[str, list[Path]]  # class folder's name -> its videos, in the order of their names


def open_dataset(conf: DataConf) -> ListedDataset:
    """The class folders under `conf.root`. Raises DataError when there are none."""
    root = Path(conf.flow_root if conf.stream == "flow" else conf.root)
    files.require_folder(root, "data.root", HINT)
    images = files.is_images(conf)
    if (root / "train").is_dir():
        found = {
            split: class_folders(root / split, images=images)
            for split in SPLITS
            if (root / split).is_dir()
        }
        notes = _leaks(found)
        if "test" not in found and "val" in found:
            found, notes = {**found, "test": found["val"]}, (*notes, TEST_IS_VAL)
    else:
        videos = class_folders(root, images=images)
        found = split_classes(videos)
        notes = (
            GROUPED if any(_group(path) for paths in videos.values() for path in paths) else RANDOM,
        )
    names = (
        files.class_names(files.read_text(Path(conf.classes)), conf.classes) if conf.classes else ()
    )
    classes = names or tuple(sorted({name for split in found.values() for name in split}))
    if not any(found["train"].values()):
        kind = "folders of images" if images else f"videos ({', '.join(files.VIDEO_SUFFIXES)})"
        raise DataError(f"there are no class folders with {kind} under {root}", hint=HINT)
    index = files.ClassIndex(classes)
    return ListedDataset(
        name="the folders",
        classes=classes,
        splits=tuple(split for split in SPLITS if any(found.get(split, {}).values())),
        read=lambda split: [
            clip
            for name, paths in found[split].items()
            for clip in _clips(name, paths, index, images=images)
        ],
        notes=notes,
    )


def class_folders(root: Path, *, images: bool) -> Classes:
    """The class folders under `root` and what they hold, both in alphabetical order. Hidden ones are left alone. Raises DataError."""
    found: Classes = {}
    for folder in files.entries(root):
        if folder.is_dir() and not folder.name.startswith("."):
            inner = files.entries(Path(folder.path))
            found[folder.name] = [
                Path(entry.path) for entry in inner if files.is_video(entry, images=images)
            ]
    return {name: paths for name, paths in found.items() if paths}


def split_classes(videos: Mapping[str, Sequence[Path]]) -> dict[str, Classes]:
    """Split -> class -> videos: in each class, groups where the names tell them, else videos, drawn by scikit-learn's train_test_split."""
    found: dict[str, Classes] = {split: {} for split in SPLITS}
    for name, paths in videos.items():
        units = sorted({_group(path) or path.name for path in paths})
        rest, test = _draw(units)
        train, val = _draw(rest)
        for split, members in (("train", set(train)), ("val", set(val)), ("test", set(test))):
            found[split][name] = [path for path in paths if (_group(path) or path.name) in members]
    return found


def _draw(units: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """(rest, held out); a single one is not held out."""
    from sklearn.model_selection import train_test_split

    if len(units) < 2:
        return units, ()
    rest, held = train_test_split(units, test_size=SHARE, random_state=SEED)
    return rest, held


def _clips(
    name: str, paths: Sequence[Path], index: files.ClassIndex, *, images: bool
) -> list[Clip]:
    label = index(name, str(paths[0].parent) if paths else name)
    often = Counter(files.video_stem(path.name) for path in paths)  # v.avi and v.mp4 are two videos
    return [
        Clip(
            id=f"{name}/{path.name if often[files.video_stem(path.name)] > 1 else files.video_stem(path.name)}",
            path=path,
            labels=(label,),
            frames=files.frame_count(path) if images else 0,
            group=f"{name}/{_group(path)}" if _group(path) else "",
        )
        for path in paths
    ]


def _group(path: Path) -> str:
    match = GROUP.search(files.video_stem(path.name))
    return match[1] if match else ""


def _leaks(found: Mapping[str, Classes]) -> tuple[str, ...]:
    """A note when videos of one group are in training and in another split, as the C3D system's random split left them."""
    groups = {
        split: {(name, _group(p)) for name, paths in own.items() for p in paths if _group(p)}
        for split, own in found.items()
    }
    held = set[tuple[str, str]]().union(*(own for split, own in groups.items() if split != "train"))
    both = sorted(f"{name} {group}" for name, group in groups["train"] & held)
    if not both:
        return ()
    return (
        f"the folders leak: {len(both)} groups of videos cut from one recording are in train and in val or test ({both[0]} for one); "
        "the test results are too good",
    )
