"""Where the datasets look for their videos: official and other layouts, other spellings, flow, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.check import check
from trainer.config import Config, DataConf
from trainer.data import all_datasets, dataset_files
from trainer.data.all_datasets import open_dataset
from trainer.data.dataset_base import Clip, Dataset
from trainer.errors import DataError
from trainer.infer_inputs import expand

Write = Callable[..., None]
CLASS_IND = "1 Archery\r\n2 HandstandPushups\r\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write({"lists/a.txt": "text", "videos/b.avi": ""})` under the test's folder."""

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8", newline="")

    return make


@pytest.fixture
def ucf_lists(write: Write) -> None:
    """UCF101's official lists, cut down to two classes."""
    write(
        {
            "ucfTrainTestlist/classInd.txt": CLASS_IND,
            "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g09_c01.avi 2\r\n",
            "ucfTrainTestlist/testlist01.txt": "Archery/v_Archery_g01_c01.avi\r\n",
        }
    )


def _paths(dataset: Dataset, root: Path, split: str = "train") -> list[str]:
    return [clip.path.relative_to(root).as_posix() for clip in dataset.clips(split)]


def test_every_dataset_is_a_module(project: Path) -> None:
    """A new one is one file."""
    modules = {path.stem for path in (project / "trainer" / "data" / "datasets").glob("*.py")} - {
        "__init__"
    }
    assert set(all_datasets.names()) == modules


@pytest.mark.parametrize(
    "videos",
    [
        [
            "UCF-101/Archery/v_Archery_g08_c01.avi",
            "UCF-101/HandstandPushups/v_HandStandPushups_g09_c01.avi",
        ],
        ["Archery/v_Archery_g08_c01.avi", "HandStandPushups/v_HandStandPushups_g09_c01.avi"],
        ["Archery/v_Archery_g08_c01.mp4", "HandstandPushups/v_HandstandPushups_g09_c01.mp4"],
        ["v_Archery_g08_c01.avi", "v_HandStandPushups_g09_c01.mkv"],
    ],
)
@pytest.mark.usefixtures("ucf_lists")
def test_ucf101_s_videos_are_found_as_people_have_them(
    tmp_path: Path, write: Write, videos: list[str]
) -> None:
    """As the archive unpacks, with the C3D tutorial's spelling of one class, re-encoded, or all in one folder."""
    write(dict.fromkeys(videos, ""))
    dataset = open_dataset(DataConf(name="ucf101", root=str(tmp_path)))
    assert _paths(dataset, tmp_path) == videos
    assert [clip.labels for clip in dataset.clips("train")] == [(0,), (1,)]
    assert [clip.group for clip in dataset.clips("train")] == [
        "Archery/g08",
        "HandstandPushups/g09",
    ]
    assert "official ones 9537 train, 3783 test" in dataset.notes[0]


@pytest.mark.usefixtures("ucf_lists")
def test_ucf101_s_frames_and_flow_are_found_alike(tmp_path: Path, write: Write) -> None:
    """Folders of images, with and without the number of frames; flow counts its own."""
    videos = ["Archery/v_Archery_g08_c01", "HandstandPushups/v_HandStandPushups_g09_c01"]
    write(
        {f"jpg/{video}/image_00001.jpg": "" for video in videos}
        | {f"jpg/{videos[0]}/n_frames": "90\n", f"jpg/{videos[1]}/n_frames": "x"}
    )
    write(
        {f"flow/{video}/00001.jpg": "" for video in videos} | {f"flow/{videos[0]}/n_frames": "89"}
    )
    conf = {
        "name": "ucf101",
        "root": str(tmp_path / "jpg"),
        "annotation": str(tmp_path / "ucfTrainTestlist"),
    }
    frames = open_dataset(DataConf(**conf, layout="frames"))
    assert _paths(frames, tmp_path / "jpg") == videos
    assert [clip.frames for clip in frames.clips("train")] == [90, 0]
    flow = open_dataset(DataConf(**conf, stream="flow", flow_root=str(tmp_path / "flow")))
    assert _paths(flow, tmp_path / "flow") == videos
    assert [clip.frames for clip in flow.clips("train")] == [89, 0]


@pytest.mark.usefixtures("ucf_lists")
def test_a_missing_video_keeps_its_place(tmp_path: Path, write: Write) -> None:
    """`prepare` names it by this path, and data.broken says whether to go on."""
    write({"Archery/v_Archery_g08_c01.avi": ""})
    clips = open_dataset(DataConf(name="ucf101", root=str(tmp_path))).clips("train")
    assert clips[1].path == tmp_path / "HandstandPushups" / "v_HandStandPushups_g09_c01.avi"


@pytest.mark.usefixtures("ucf_lists")
def test_no_video_at_all_is_the_wrong_folder(tmp_path: Path) -> None:
    """Said at once, with the path that was looked for."""
    with pytest.raises(
        DataError, match=r"none of the 2 videos .*v_Archery_g08_c01.avi was looked for first"
    ):
        open_dataset(DataConf(name="ucf101", root=str(tmp_path))).clips("train")


def test_a_dataset_without_annotation_says_where_it_looked(tmp_path: Path) -> None:
    """And which key names it."""
    with pytest.raises(DataError, match=r"no annotation was found in .*data\.annotation"):
        open_dataset(DataConf(name="hmdb51", root=str(tmp_path)))
    with pytest.raises(DataError, match="is not there"):
        open_dataset(DataConf(name="kinetics", root=str(tmp_path / "nowhere")))


def test_hmdb51_s_laboratory_lists(tmp_path: Path, write: Write) -> None:
    """1 is training, 2 testing, 0 neither; the number of the split is data.fold."""
    lists = "testTrainMulti_7030_splits"
    name = "{}_{}_u_cm_np1_fr_goo_{}.avi"
    clips = {number: name.format("Film!", "climb", number) for number in range(3)}
    write(
        {
            f"{lists}/climb_test_split2.txt": "".join(f"{clips[n]} {n} \n" for n in range(3)),
            f"{lists}/wave_test_split2.txt": "w.avi 1 \n",
        }
    )
    write({f"climb/{clip}": "" for clip in clips.values()} | {"wave/w.avi": ""})
    dataset = open_dataset(DataConf(name="hmdb51", root=str(tmp_path), fold=2))
    assert dataset.classes == ("climb", "wave")
    assert _paths(dataset, tmp_path) == [f"climb/{clips[1]}", "wave/w.avi"]
    (clip,) = dataset.clips("test")
    assert (clip.id, clip.labels, clip.group) == (clips[2][:-4], (0,), "climb/Film!_climb")


def test_vmz_s_lists_of_hmdb51_and_of_anything(tmp_path: Path, write: Write) -> None:
    """Absolute paths of another machine are found under data.root; rows with a start are clips of their own."""
    write(
        {
            "hmdb51_train_01.csv": "org_video,label\n/data/users/x/hmdb/climb/a.avi,0\n/data/users/x/hmdb/wave/b.avi,1\n",
            "hmdb51_test_01.csv": "org_video,label,start_frm,video_id\nwave/c.avi,1,0,c\nwave/c.avi,1,16,c\n",
            "hmdb51_test_02.csv": "broken",
        }
    )
    write({"climb/a.avi": "", "wave/b.avi": "", "wave/c.avi": ""})
    for name in ("hmdb51", "video_list"):
        dataset = open_dataset(DataConf(name=name, root=str(tmp_path)))
        assert (dataset.classes, dataset.splits) == (("climb", "wave"), ("train", "test"))
        assert _paths(dataset, tmp_path) == ["climb/a.avi", "wave/b.avi"]
        assert [(clip.id, clip.first, clip.group) for clip in dataset.clips("test")] == [
            ("c@0", 0, "c"),
            ("c@16", 16, "c"),
        ]


def test_a_video_list_needs_class_names_where_folders_do_not_tell(
    tmp_path: Path, write: Write
) -> None:
    """And ids get their folder where two files have one name."""
    write(
        {
            "l/x_train.csv": "org_video,label\na/1.mp4,0\nb/1.mp4,0\n",
            "l/names.txt": "yes\nno\n",
            "v/a/1.mp4": "",
            "v/b/1.mp4": "",
        }
    )
    conf = {"name": "video_list", "root": str(tmp_path / "v"), "annotation": str(tmp_path / "l")}
    with pytest.raises(DataError, match=r"label 0 is the folder 'b'.*data\.classes"):
        open_dataset(DataConf(**conf))
    dataset = open_dataset(DataConf(**conf, classes=str(tmp_path / "l" / "names.txt")))
    assert [clip.id for clip in dataset.clips("train")] == ["a/1", "b/1"]


@pytest.mark.parametrize("first", [0, 1])
def test_kinetics_as_the_two_stream_system_keeps_it(
    tmp_path: Path, write: Write, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes numbered from 1 (2017) or from 0; videos that are not there are left out and counted; test is val.

    Its annotation counted the images: no file is looked for in each of a quarter of a million folders at every start.
    """
    monkeypatch.setattr(
        dataset_files, "frame_count", lambda folder: pytest.fail(f"{folder} was looked into")
    )
    video = {"label": "zumba", "cls": 1 + first, "subset": "train", "isthere": True, "numf": 160}
    annotation = {
        "classes": {"air drumming": first, "zumba": 1 + first},
        "database": {
            "-aaaaaaaaaa": video,
            "_bbbbbbbbbb": {**video, "isthere": False, "numf": 0},
            "ccccccccccc": {
                **video,
                "label": "air drumming",
                "cls": first,
                "subset": "val",
                "numf": 80,
            },
            "ddddddddddd": {"label": 0, "cls": 0, "subset": "test", "isthere": True, "numf": 160},
        },
    }
    write({"hfiles/finalannots.json": json.dumps(annotation)})
    write(
        {
            f"{kind}-images/{name}/00001.jpg": ""
            for kind in ("rgb", "farneback")
            for name in ("-aaaaaaaaaa", "ccccccccccc")
        }
    )
    dataset = open_dataset(DataConf(name="kinetics", root=str(tmp_path), layout="frames"))
    assert (dataset.classes, dataset.splits, dataset.fps) == (
        ("air drumming", "zumba"),
        ("train", "val", "test"),
        16.0,
    )
    rgb = tmp_path / "rgb-images"
    assert dataset.clips("train") == [
        Clip(
            id="-aaaaaaaaaa", path=rgb / "-aaaaaaaaaa", labels=(1,), frames=160, group="-aaaaaaaaaa"
        )
    ]
    assert dataset.clips("test") == dataset.clips("val")
    assert len(dataset.notes) == 2
    conf = DataConf(
        name="kinetics",
        root=str(tmp_path),
        layout="frames",
        stream="flow",
        flow_root=str(tmp_path / "farneback-images"),
    )
    (flow,) = open_dataset(conf).clips("train")
    assert (flow.path, flow.frames) == (tmp_path / "farneback-images" / "-aaaaaaaaaa", 0)


def test_kinetics_videos_and_the_database_of_the_3d_cnn_systems(
    tmp_path: Path, write: Write
) -> None:
    """Nested by subset, in folders of labels spelled with or without "_"."""
    one = {"subset": "training", "annotations": {"label": "air drumming"}, "n_frames": 300}
    database = {
        "training": {"aaaaaaaaaaa_000010_000020": one},
        "validation": {"b_000000_000010": {**one, "subset": "validation"}},
    }
    write({"k.json": json.dumps({"labels": ["air drumming"], "database": database})})
    write({"train/air_drumming/aaaaaaaaaaa_000010_000020.mp4": "", "val/b_000000_000010.mkv": ""})
    dataset = open_dataset(
        DataConf(name="kinetics", root=str(tmp_path), annotation=str(tmp_path / "k.json"))
    )
    assert _paths(dataset, tmp_path) == ["train/air_drumming/aaaaaaaaaaa_000010_000020.mp4"]
    assert _paths(dataset, tmp_path, "test") == ["val/b_000000_000010.mkv"]
    assert dataset.clips("train")[0].group == "aaaaaaaaaaa"


def test_jester(tmp_path: Path, write: Write) -> None:
    """Labels as the lists spell them, in the order of the categories; test is val."""
    write(
        {
            "jester-v1-labels.csv": "Swiping Left\nDoing other things\n",
            "jester-v1-train.csv": "34870;Swiping Left\n2;Doing other things\n",
            "jester-v1-validation.csv": "9223;Doing other things\n",
            "categories.txt": "1 Doing_other_things\n2 Swiping_Left\n",
        }
    )
    write({f"20bn-jester-v1/{name}/00001.jpg": "" for name in ("34870", "2", "9223")})
    dataset = open_dataset(DataConf(name="jester", root=str(tmp_path), layout="frames"))
    assert dataset.classes == ("Doing other things", "Swiping Left")
    assert [(clip.id, clip.labels) for clip in dataset.clips("train")] == [
        ("34870", (1,)),
        ("2", (0,)),
    ]
    assert _paths(dataset, tmp_path, "test") == ["20bn-jester-v1/9223"]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"name": "jester", "layout": "frames", "flip": 0.5}, "data.flip"),
        ({"name": "jester", "flip": 0}, "data.layout"),
        ({"name": "ucf101", "stream": "flow"}, "data.flow_root"),
        ({"name": "ucf101", "fold": 0}, "data.fold"),
        ({"name": "folders", "layout": "frames", "fps": 15}, "data.fps"),
        ({"name": "video_list", "stream": "flow", "flow_root": "/flow", "fps": 15}, "data.fps"),
    ],
)
def test_check_knows_what_a_dataset_cannot_be(data: dict[str, object], path: str) -> None:
    """Mirrored gestures have other names."""
    faults = check(Config(data=DataConf(root="/data", **data)))  # type: ignore[arg-type]  # the test names the fields
    assert [fault.path for fault in faults if fault.path.startswith("data.")] == [path]


def test_folders_split_by_groups_where_names_tell_them(tmp_path: Path, write: Write) -> None:
    """No recording in two splits: 25 groups are 16 for training, 4 for validation, 5 for testing; the note says whose split it is."""
    write(
        {
            f"{name}/v_{name}_g{group:02}_c0{clip}.avi": ""
            for name in ("A", "B")
            for group in range(1, 26)
            for clip in (1, 2)
        }
    )
    dataset = open_dataset(DataConf(name="folders", root=str(tmp_path)))
    groups = {split: {clip.group for clip in dataset.clips(split)} for split in dataset.splits}
    assert {split: len(own) for split, own in groups.items()} == {"train": 32, "val": 8, "test": 10}
    assert len(groups["train"] | groups["val"] | groups["test"]) == 50
    assert sum(len(dataset.clips(split)) for split in dataset.splits) == 100
    assert "by groups" in dataset.notes[0]


def test_folders_without_groups_are_drawn_as_the_c3d_system_draws_them(
    tmp_path: Path, write: Write
) -> None:
    """A fifth of each class, then a fifth of the rest, by scikit-learn with seed 42; and a note that it may leak."""
    from sklearn.model_selection import train_test_split

    names = [f"{number:02}.mp4" for number in range(21)]
    write(
        {f"A/{name}": "" for name in names}
        | {"B/only.mp4": "", "B/notes.txt": "", ".hidden/x.mp4": ""}
    )
    dataset = open_dataset(DataConf(name="folders", root=str(tmp_path)))
    rest, test = train_test_split(names, test_size=0.2, random_state=42)
    train, val = train_test_split(rest, test_size=0.2, random_state=42)
    drawn = {split: [clip.path.name for clip in dataset.clips(split)] for split in dataset.splits}
    assert drawn == {
        "train": [*sorted(train), "only.mp4"],
        "val": sorted(val),
        "test": sorted(test),
    }
    assert dataset.classes == ("A", "B")
    assert "leaks" in dataset.notes[0]


def test_folders_that_are_split_already(tmp_path: Path, write: Write) -> None:
    """As the C3D system's preprocessing leaves them: frames named 0000<n>.jpg, and groups torn apart, which a note tells."""
    videos = {"train": "v_A_g01_c01", "val": "v_A_g01_c02", "test": "v_A_g02_c01"}
    write(
        {
            f"{split}/A/{video}/0000{number}.jpg": ""
            for split, video in videos.items()
            for number in range(3)
        }
    )
    dataset = open_dataset(DataConf(name="folders", root=str(tmp_path), layout="frames"))
    assert {split: _paths(dataset, tmp_path, split) for split in videos} == {
        split: [f"{split}/A/{v}"] for split, v in videos.items()
    }
    assert "A g01" in dataset.notes[0]


def test_what_infer_takes_for_a_video_is_one_in_a_dataset_too(tmp_path: Path, write: Write) -> None:
    """Whatever recorded it; what a Mac leaves beside each is none."""
    write(
        {
            f"train/A/{name}": ""
            for name in ("1.3gp", "2.TS", "3.flv", "4.mp4", "._4.mp4", "notes.txt")
        }
    )
    names = [Path(each.name).name for each in expand([str(tmp_path)])]
    assert names == ["1.3gp", "2.TS", "3.flv", "4.mp4"]
    assert [
        Path(path).name
        for path in _paths(open_dataset(DataConf(name="folders", root=str(tmp_path))), tmp_path)
    ] == names


@pytest.mark.parametrize("files", [{}, {"A/readme.txt": ""}, {"train/A/readme.txt": ""}])
def test_folders_without_videos_are_refused(
    tmp_path: Path, write: Write, files: dict[str, str]
) -> None:
    """With what should be there."""
    write(files)
    with pytest.raises(DataError, match="no class folders"):
        open_dataset(DataConf(name="folders", root=str(tmp_path)))


def test_folders_too_few_to_hold_a_validation_split_have_none(tmp_path: Path, write: Write) -> None:
    """Then it is carved out of training, as for any dataset without one."""
    write({f"A/{number}.mp4": "" for number in range(2)})
    assert open_dataset(DataConf(name="folders", root=str(tmp_path))).splits == ("train", "test")


def test_two_videos_of_one_name_are_two(tmp_path: Path, write: Write) -> None:
    """v.avi and v.mp4 in one class: each keeps its suffix, so neither is taken for the other."""
    write(
        {
            f"{split}/A/{name}": ""
            for split in ("train", "test")
            for name in ("v.avi", "v.mp4", "w.mp4")
        }
    )
    dataset = open_dataset(DataConf(name="folders", root=str(tmp_path)))
    assert [clip.id for clip in dataset.clips("train")] == ["A/v.avi", "A/v.mp4", "A/w"]
