"""The datasets' lists as their authors publish them: every video, class and order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import Config, DataConf
from trainer.data import annotate, steps
from trainer.data.dataset_files import class_names
from trainer.data.datasets import hmdb51, jester, kinetics, ucf101
from trainer.errors import DataError

Touch = Callable[..., None]


@pytest.fixture
def official(shared: Path) -> Path:
    """The real annotation files."""
    return shared / "real" / "annotations"


@pytest.fixture
def touch() -> Touch:
    """`touch(root, "a/b.avi", ...)`: empty files."""

    def make(root: Path, *names: str) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    return make


def test_ucf101_split_1_is_whole(official: Path, tmp_path: Path, touch: Touch) -> None:
    """9,537 and 3,783 videos of 101 classes, no group in both splits, and the classes in the order of classInd.txt."""
    touch(tmp_path, "Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g01_c01.avi")
    dataset = ucf101.open_dataset(
        DataConf(name="ucf101", root=str(tmp_path), annotation=str(official))
    )
    train, test = dataset.clips("train"), dataset.clips("test")
    assert (len(train), len(test), len(dataset.classes), dataset.notes) == (9537, 3783, 101, ())
    assert dataset.classes[:3] == ("ApplyEyeMakeup", "ApplyLipstick", "Archery")
    groups, held = ({clip.group for clip in clips} for clips in (train, test))
    assert (len(groups), len(held), groups & held) == (101 * 18, 101 * 7, set())
    assert all(
        dataset.classes[clip.labels[0]].lower() == clip.id.split("_")[1].lower()
        for clip in train + test
    )


def test_ucf101_s_json_says_the_same_as_its_lists(official: Path) -> None:
    """The 3D CNN systems' annotation: the same videos in the same order, its "validation" is the test split."""
    classes, lists = ucf101.read_lists(official, 1)
    json_classes, database = ucf101.read_lists(official / "ucf101_01.json", 1)
    assert classes == json_classes
    for split in ("train", "test"):
        assert [(each.id, each.label, each.group) for each in lists[split]] == [
            (each.id, each.label, each.group) for each in database[split]
        ]


def test_the_json_built_from_the_lists_is_the_published_one(official: Path) -> None:
    """Content and order."""
    published = json.loads((official / "ucf101_01.json").read_text())
    built = annotate.ucf101_json(official, 1)
    assert built == published
    assert list(built["database"]) == list(published["database"])


def test_the_fold_that_is_not_there_is_named(official: Path, tmp_path: Path) -> None:
    """With those that are."""
    with pytest.raises(DataError, match=r"has no trainlist02.txt .*trainlist01.txt"):
        ucf101.open_dataset(
            DataConf(name="ucf101", root=str(tmp_path), annotation=str(official), fold=2)
        )


def test_hmdb51_split_1_is_whole_and_its_classes_alphabetical(
    official: Path, tmp_path: Path, touch: Touch
) -> None:
    """3,570 and 1,530 clips; the list numbers climb_stairs before climb, published checkpoints do not."""
    touch(
        tmp_path,
        *(
            f"wave/{name}"
            for name in (
                "winKen_wave_u_cm_np1_ba_bad_0.avi",
                "TrumanShow_wave_u_nm_np1_fr_med_0.avi",
            )
        ),
    )
    dataset = hmdb51.open_dataset(
        DataConf(name="hmdb51", root=str(tmp_path), annotation=str(official))
    )
    train, test = dataset.clips("train"), dataset.clips("test")
    assert (len(train), len(test), dataset.notes) == (3570, 1530, ())
    assert dataset.classes == tuple(sorted(dataset.classes))
    assert dataset.classes[5:7] == ("climb", "climb_stairs")
    assert all(clip.path.parent.name == dataset.classes[clip.labels[0]] for clip in train + test)
    assert set(Counter(clip.labels for clip in train).values()) == {70}
    # within a class, no recording is in both splits
    assert {clip.group for clip in train} & {clip.group for clip in test} == set()
    assert all(clip.group for clip in train)


def test_hmdb51_takes_the_order_of_classes_that_the_conf_names(
    official: Path, tmp_path: Path
) -> None:
    """The list's own order, for a checkpoint that was trained by it."""
    classes = str(official / "hmdb51_classname.txt")
    dataset = hmdb51.open_dataset(
        DataConf(name="hmdb51", root=str(tmp_path), annotation=str(official), classes=classes)
    )
    assert dataset.classes[5:7] == ("climb_stairs", "climb")


def test_kinetics_600_validation_is_whole(official: Path, tmp_path: Path, touch: Touch) -> None:
    """29,093 clips of 600 classes with spaces and parentheses; a list of test videos has no labels, so test is val."""
    touch(tmp_path, "abseiling/yq_M1PMw2hY_000038_000048.mp4")
    conf = DataConf(
        name="kinetics", root=str(tmp_path), annotation=str(official / "kinetics-600_val.csv")
    )
    dataset = kinetics.open_dataset(conf)
    clips = dataset.clips("val")
    assert (len(clips), len(dataset.classes), dataset.splits) == (29093, 600, ("val", "test"))
    assert clips[0].path == tmp_path / "abseiling" / "yq_M1PMw2hY_000038_000048.mp4"
    assert (clips[0].id, clips[0].group) == ("yq_M1PMw2hY_000038_000048", "yq_M1PMw2hY")
    assert dataset.notes == (kinetics.TEST_IS_VAL,)
    assert len({clip.id for clip in clips}) == 29093
    assert len({clip.group for clip in clips}) == 29088
    # frames go to folders named for the id; the five videos of which there are two clips keep the
    # seconds
    folders = steps.folders(Config(data=conf), [clip.path for clip in clips])
    assert len(set(folders.values())) == 29093
    assert sum(len(folder.name) > 11 for folder in folders.values()) == 10


def test_class_lists_are_read_as_published(official: Path) -> None:
    """Numbered from 1 before the name, from 0 behind it, or not numbered at all."""
    names = {
        path.name: class_names(path.read_text(), path.name)
        for path in official.glob("*.txt")
        if "list" not in path.name
    }
    assert names["classInd.txt"][100] == "YoYo"
    assert names["hmdb51_classname.txt"][6] == "climb"
    assert len(names["kinetics400_labels.txt"]) == 400
    assert names["kinetics400_labels.txt"] == tuple(sorted(names["kinetics400_labels.txt"]))
    assert names["categories.txt"][0] == "Doing_other_things"


def test_jester_s_published_categories_order_its_labels(official: Path) -> None:
    """One of the 27 is cut short in the published file ("Zooming_In_With_Ful")."""
    categories = class_names((official / "categories.txt").read_text(), "categories.txt")
    spelled = [name.replace("_", " ") for name in categories]
    labels = [
        name if name != "Zooming In With Ful" else "Zooming In With Full Hand"
        for name in reversed(spelled)
    ]
    ordered = jester.ordered(labels, categories, source="categories.txt")
    assert (len(ordered), ordered[23], ordered[0]) == (
        27,
        "Zooming In With Full Hand",
        "Doing other things",
    )
    assert list(ordered) == list(reversed(labels))
