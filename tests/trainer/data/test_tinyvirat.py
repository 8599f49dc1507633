"""TinyVIRAT's annotation: what is read, and that a damaged one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import Config
from trainer.data.all_datasets import open_dataset
from trainer.data.datasets.tinyvirat import parse_tubes, read_classes
from trainer.errors import DataError

VIDEOS = Path("/data/videos/train")
GOOD = {"path": "VIRAT_S_000205/0.mp4", "dim": [90, 70, 70], "label": ["run", "walk"]}


@pytest.mark.parametrize(
    "text", ["walk\nrun\n", "walk\nrun", "walk\r\nrun\r\n", "\ufeffwalk\n\nrun  \n"]
)
def test_class_names_do_not_depend_on_line_ends(tmp_path: Path, text: str) -> None:
    """The last name is whole with and without a newline (the original lost its last letter)."""
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8", newline="")
    assert read_classes(tmp_path / "classes.txt") == ("walk", "run")


@pytest.mark.parametrize(
    ("text", "words"), [("", "names no class"), ("walk\nwalk\n", "twice: walk")]
)
def test_class_lists_that_cannot_be_meant_are_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    """An empty list or a repeated name would shift every index."""
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_classes(tmp_path / "classes.txt")


def test_a_tube_becomes_a_clip_with_label_indices() -> None:
    """Labels are indices in class order, each once; the path is below the split's folder."""
    (clip,) = parse_tubes(
        {"tubes": [{**GOOD, "label": ["run", "walk", "run"]}]},
        ("walk", "run"),
        VIDEOS,
        source="x.json",
    )
    assert (clip.id, clip.labels, clip.frames) == ("VIRAT_S_000205/0.mp4", (0, 1), 90)
    assert clip.path == VIDEOS / "VIRAT_S_000205" / "0.mp4"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "../../etc/passwd"}, "not a file inside"),
        ({"path": "/etc/passwd"}, "not a file inside"),
        ({"path": "a\0b"}, "not a file inside"),
        ({"path": 3}, "not a file inside"),
        ({"dim": [90, 70]}, "dim is"),
        ({"dim": [0, 70, 70]}, "dim is"),
        ({"dim": ["90", 70, 70]}, "dim is"),
        ({"label": "run"}, "label is"),
        ({"label": ["runn"]}, 'did you mean "run"'),
    ],
)
def test_a_damaged_tube_is_named(change: dict[str, object], words: str) -> None:
    """The message has the file, the tube's number and the value."""
    with pytest.raises(DataError, match=words) as caught:
        parse_tubes(
            {"tubes": [GOOD, {**GOOD, **change}]}, ("walk", "run"), VIDEOS, source="tiny_train.json"
        )
    assert "tiny_train.json, tube 1" in str(caught.value)


@pytest.mark.parametrize("raw", [[], {}, {"tubes": {}}, {"tubes": ["x"]}])
def test_an_annotation_of_another_shape_is_refused(raw: object) -> None:
    """Any JSON that is not the official layout."""
    with pytest.raises(DataError):
        parse_tubes(raw, ("walk",), VIDEOS, source="tiny_train.json")


def test_a_missing_dataset_is_a_data_error_with_the_layout(
    tmp_path: Path, conf_of: Callable[..., Config]
) -> None:
    """Folder, class list and annotation: each missing one is named, with what should be there."""
    with pytest.raises(DataError, match=r"is not there .*classes\.txt"):
        open_dataset(conf_of(tmp_path / "nowhere").data)
    with pytest.raises(DataError, match=r"classes\.txt"):
        open_dataset(conf_of(tmp_path).data)
    (tmp_path / "classes.txt").write_text("walk\n")
    with pytest.raises(DataError, match=r"tiny_test\.json"):
        open_dataset(conf_of(tmp_path).data).clips("test")


def test_an_unknown_dataset_or_split_is_refused(
    made_set: Path, conf_of: Callable[..., Config]
) -> None:
    """With what there is."""
    with pytest.raises(DataError, match='did you mean "tinyvirat"'):
        open_dataset(conf_of(made_set, name="tinyvirt").data)
    with pytest.raises(DataError, match="train and test"):
        open_dataset(conf_of(made_set).data).clips("val")


def test_clips_come_in_the_order_of_the_annotation(
    made_set: Path, conf_of: Callable[..., Config]
) -> None:
    """Predictions are stored in this order."""
    paths = [
        tube["path"] for tube in json.loads((made_set / "tiny_test.json").read_text())["tubes"]
    ]
    assert [clip.id for clip in open_dataset(conf_of(made_set).data).clips("test")] == paths
