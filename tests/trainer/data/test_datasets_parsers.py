"""The datasets' parsers: what was written is read back, and anything else is a DataError that names file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import dataset_files as files
from trainer.data.database_json import parse_database
from trainer.data.datasets import hmdb51, jester, kinetics, ucf101, video_list
from trainer.errors import DataError

CLASSES = ("Archery", "Biking", "HandstandPushups")
JUNK = st.text(
    alphabet=st.sampled_from("Archery/v_.avi 0123;,\"'\\\t\r\n\x00\x85\ufeffé|{}[]-"), max_size=60
) | st.text(max_size=60)
NAMES = st.text(alphabet=st.sampled_from("abXY019_-()[]!&'+."), min_size=1, max_size=20).filter(
    lambda name: name.strip(".") == name
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from(["train", "training", "Archery", "..", "v"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "labels",
                    "database",
                    "classes",
                    "subset",
                    "annotations",
                    "label",
                    "cls",
                    "numf",
                    "v",
                    "training",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def _group(_label: str, _name: str) -> str:
    return ""


@contextmanager
def suppress_naming(source: str) -> Iterator[None]:
    """Lets a DataError pass whose text has the source's name; any other error fails the test."""
    message = source
    try:
        yield
    except DataError as error:
        message = str(error)
    assert source in message


PARSERS: dict[str, Callable[[str], object]] = {
    "ucf101": lambda text: ucf101.parse_list(text, CLASSES, source="list"),
    "hmdb51 official": lambda text: hmdb51.parse_official({"Archery": text}, (), source="list"),
    "hmdb51": lambda text: hmdb51.parse_lists({"train": ("list", text)}, ()),
    "jester": lambda text: jester.parse_list(text, CLASSES, source="list"),
    "rows": lambda text: video_list.parse_rows(text, "list"),
    "rows under a header": lambda text: video_list.parse_rows(
        f"org_video,label,start_frm\n{text}", "list"
    ),
    "kinetics": lambda text: kinetics.parse_csvs({"val": ("list", text)}, ()),
    "kinetics under a header": lambda text: kinetics.parse_csvs(
        {"val": ("list", f"label,youtube_id,time_start,time_end\n{text}")}, ()
    ),
    "classes": lambda text: files.class_names(text, "list"),
}


@pytest.mark.parametrize("name", PARSERS)
@given(text=JUNK)
def test_junk_is_read_or_refused_by_name(name: str, text: str) -> None:
    """Never another error."""
    with suppress_naming("list"):
        PARSERS[name](text)


@given(raw=VALUES)
def test_json_of_any_shape_is_read_or_refused_by_name(raw: Any) -> None:
    """Both JSON annotations."""
    with suppress_naming("file.json"):
        parse_database(raw, "file.json", splits={"training": "train"}, group=_group)
    if isinstance(raw, dict):
        with suppress_naming("file.json"):
            kinetics.parse_final(raw, "file.json", ())


@given(names=st.lists(NAMES, min_size=1, max_size=8, unique=True), data=st.data())
def test_lists_are_read_as_they_were_written(names: list[str], data: st.DataObject) -> None:
    """Names with dots, brackets and quotes included; with any line ends."""
    labels = [data.draw(st.integers(0, 2)) for _ in names]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    chosen = [(name, CLASSES[label], label) for name, label in zip(names, labels, strict=True)]

    ucf = ucf101.parse_list(
        end.join(f"{folder}/{name}.avi {label + 1}" for name, folder, label in chosen),
        CLASSES,
        source="list",
    )
    assert [(entry.id, entry.folder, entry.label) for entry in ucf] == chosen
    _, hmdb = hmdb51.parse_lists(
        {
            "train": (
                "list",
                end.join(f"{folder}/{name}.avi 90 {label}" for name, folder, label in chosen),
            )
        },
        CLASSES,
    )
    assert [(entry.id, entry.folder, entry.label) for entry in hmdb["train"]] == chosen
    assert {entry.frames for entry in hmdb["train"]} == {90}
    own = jester.parse_list(
        end.join(f"{name};{folder}" for name, folder, _ in chosen), CLASSES, source="list"
    )
    assert [(entry.name, entry.label) for entry in own] == [
        (name, label) for name, _, label in chosen
    ]
    raw = {
        "labels": list(CLASSES),
        "database": {n: {"subset": "training", "annotations": {"label": f}} for n, f, _ in chosen},
    }
    _, database = parse_database(
        json.loads(json.dumps(raw)), "file.json", splits={"training": "train"}, group=_group
    )
    assert [(entry.name, entry.label) for entry in database["train"]] == [
        (name, label) for name, _, label in chosen
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Archery/v_a.avi 2", "by the class names it is 1"),
        ("Archery/v_a.avi one", "has the number 'one'"),
        ("Archry/v_a.avi 1", 'did you mean "Archery"'),
        ("../v_a.avi 1", "'..' is not the name"),
        ("Archery/../v_a.avi 1", "not a video in a class folder"),
        ("/etc/passwd", "not a video in a class folder"),
        ("/passwd", "'' is not the name"),
        ("Archery/a\\b.avi 1", "is not the name"),
    ],
)
def test_a_damaged_line_is_named(text: str, words: str) -> None:
    """File, line number and value; a path never leaves the dataset's folder."""
    with pytest.raises(DataError, match=words) as caught:
        ucf101.parse_list(f"Archery/v_x.avi 1\n\n{text}\n", CLASSES, source="trainlist01.txt")
    assert "trainlist01.txt, line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"train": ["a", "b", "a"]}, "a twice in train"),
        ({"train": ["a", "b"], "test": ["b"]}, "b in train and in test"),
    ],
)
def test_a_video_belongs_to_one_split_once(listed: dict[str, list[str]], words: str) -> None:
    """A double would count twice, one in two splits would leak."""
    with pytest.raises(DataError, match=words):
        files.refuse_doubles(
            {
                split: [files.Listed(name=f"{n}.avi", label=0) for n in names]
                for split, names in listed.items()
            },
            "lists",
        )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("../a.mp4,0", "not a video inside"),
        ("a/x.mp4,-1", "label is '-1'"),
        ("a/x.mp4,1.5", "label is '1.5'"),
        ("a/x.mp4", "not as many values"),
        ("a/x.mp4,0,7,c,more", "not as many values"),
        ("a/x.mp4,0,first", "start_frm is 'first'"),
    ],
)
def test_a_damaged_row_is_named(rows: str, words: str) -> None:
    """File and line."""
    with pytest.raises(DataError, match=words) as caught:
        video_list.parse_rows(f"org_video,label,start_frm\na/w.mp4,0,0\n{rows}\n", "train.csv")
    assert "train.csv, line 3" in str(caught.value)


def test_orders_of_classes_that_do_not_belong_together_are_refused() -> None:
    """A list's numbers are compared with one another, over its splits."""
    with pytest.raises(DataError, match=r"class b has the number 0, but a has it too"):
        hmdb51.parse_lists(
            {"train": ("train.txt", "a/x.avi 0"), "test": ("test.txt", "b/y.avi 0")}, ()
        )
    with pytest.raises(DataError, match="does not name every label once"):
        jester.ordered(
            ("Swiping Left", "Swiping Right"), ("Swiping_Left",), source="categories.txt"
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls": 1}, "zumba has the number 2"),
        ({"label": "samba"}, "unknown class 'samba'"),
        ({"numf": "160"}, "numf is '160'"),
        ({"subset": "training"}, "subset train, val or test"),
    ],
)
def test_a_damaged_kinetics_annotation_is_named(change: dict[str, object], words: str) -> None:
    """Video and value."""
    video = {"label": "zumba", "cls": 2, "subset": "train", "isthere": True, "numf": 160, **change}
    with pytest.raises(DataError, match=words) as caught:
        kinetics.parse_final(
            {"classes": {"yoga": 1, "zumba": 2}, "database": {"v": video}}, "finalannots.json", ()
        )
    assert "finalannots.json, v" in str(caught.value)


def test_a_json_that_names_a_video_twice_is_refused(tmp_path: Path) -> None:
    """JSON itself would silently keep the last."""
    path = tmp_path / "twice.json"
    path.write_text('{"database": {"v": 1, "v": 2}}')
    with pytest.raises(DataError, match=r"\['v'\] stand in it twice"):
        files.read_json(path)
