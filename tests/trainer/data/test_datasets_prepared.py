"""What `prepare` makes of a download: annotation files as other systems read them, and videos sorted into class folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.check import check
from trainer.config import Config, DataConf, PrepareConf
from trainer.data.all_datasets import open_dataset
from trainer.data.annotate import annotate
from trainer.data.organise import organise, place, plan
from trainer.errors import CannotWrite, DataError

Video = Callable[[str, str], Path]


@pytest.fixture
def video(tmp_path: Path) -> Video:
    """`video("flat/v_Archery_g01_c01.avi", "content")`."""

    def make(name: str, content: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return make


def _config(
    root: Path, name: str = "ucf101", *, data: dict[str, str] | None = None, **prepare: object
) -> Config:
    return Config(
        data=DataConf(name=name, root=str(root), **(data or {})), prepare=PrepareConf(**prepare)
    )  # type: ignore[arg-type]


def test_annotate_writes_ucf101_s_json_beside_the_lists(shared: Path, tmp_path: Path) -> None:
    """For each split that has both lists; the published file says the same."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    for name in ("classInd.txt", "trainlist01.txt", "testlist01.txt"):
        shutil.copy(shared / "real" / "annotations" / name, lists)
    told: list[str] = []
    (written,) = annotate(_config(tmp_path, annotate=True), told.append)
    assert written == lists / "ucf101_01.json"
    assert json.loads(written.read_text()) == json.loads(
        (shared / "real" / "annotations" / "ucf101_01.json").read_text()
    )
    assert "13320 videos of 101 classes" in told[0]


def test_annotate_builds_kinetics_from_the_csvs_and_the_frames_that_are_there(
    tmp_path: Path, video: Video
) -> None:
    """A folder with 9 images counts; the dataset reads what was built."""
    header = "label,youtube_id,time_start,time_end,split\n"
    video(
        "annotations/kinetics_train.csv",
        f"{header}zumba,aaa,1,11,train\nair drumming,bbb,0,10,train\n",
    )
    video("annotations/kinetics_val.csv", f'{header}"zumba",ccc,1,11,val\nyoga,ccc,20,30,val\n')
    video("annotations/kinetics_test.csv", "youtube_id,time_start,time_end,split\nddd,0,10,test\n")
    for name, count in (("aaa", 9), ("bbb", 8), ("ccc", 12)):
        for number in range(1, count + 1):
            video(f"rgb-images/{name}/{number:05}.jpg", "")
    told: list[str] = []
    (written,) = annotate(_config(tmp_path, "kinetics", annotate=True), told.append)
    built = json.loads(written.read_text())
    assert built["classes"] == {"air drumming": 1, "yoga": 2, "zumba": 3}
    assert built["database"]["aaa"] == {
        "label": "zumba",
        "cls": 3,
        "subset": "train",
        "isthere": True,
        "numf": 9,
    }
    assert built["database"]["bbb"]["isthere"] is False
    assert built["database"]["ddd"] == {
        "label": 0,
        "cls": 0,
        "subset": "test",
        "isthere": False,
        "numf": 0,
    }
    assert "4 videos of 3 classes, 2 of them are there" in told[0]
    dataset = open_dataset(DataConf(name="kinetics", root=str(tmp_path), layout="frames"))
    assert [
        (clip.id, clip.frames) for split in ("train", "test") for clip in dataset.clips(split)
    ] == [("aaa", 9), ("ccc", 12)]


def test_kinetics_is_annotated_where_its_frames_were_put(tmp_path: Path, video: Video) -> None:
    """Beside rgb-images/, as the two-stream confs read it; the videos' own folder keeps its lists, and both layouts read theirs."""
    video(
        "k400/kinetics_train.csv", "label,youtube_id,time_start,time_end\nair drumming,-a_,1,11\n"
    )
    video("k400/train/air_drumming/-a_000001_000011.mp4", "")
    video("k400/train/air_drumming/-a__000001_000011.mp4", "")
    for number in range(9):
        video(f"kinetics/rgb-images/-a_/{number:05}.jpg", "")
    config = _config(
        tmp_path / "k400",
        "kinetics",
        annotate=True,
        frames_to=str(tmp_path / "kinetics" / "rgb-images"),
    )
    assert annotate(config, print) == [tmp_path / "kinetics" / "hfiles" / "finalannots.json"]
    (clip,) = open_dataset(config.data).clips("train")
    assert clip.path == tmp_path / "k400/train/air_drumming/-a__000001_000011.mp4"
    frames = DataConf(name="kinetics", root=str(tmp_path / "kinetics"), layout="frames")
    assert [clip.path.name for clip in open_dataset(frames).clips("train")] == ["-a_"]
    (listed,) = open_dataset(
        DataConf(**{**frames.__dict__, "annotation": str(tmp_path / "k400")})
    ).clips("train")
    assert (listed.id, listed.path.name) == ("-a__000001_000011", "-a_")


def test_annotate_refuses_what_it_cannot_build(tmp_path: Path) -> None:
    """By `check`, before anything starts, and by itself."""
    config = _config(tmp_path, "tinyvirat", annotate=True, organise="/flat")
    assert {"prepare.annotate", "prepare.organise"} <= {fault.path for fault in check(config)}
    with pytest.raises(DataError, match="tinyvirat has no annotation file"):
        annotate(config, print)


def test_organise_sorts_a_flat_download_and_a_second_time_does_nothing(
    tmp_path: Path, video: Video
) -> None:
    """Linked, so that nothing is held twice; one class gets its official spelling; strangers are named and stay."""
    video("flat/v_Archery_g01_c01.avi", "one")
    video("flat/v_HandStandPushups_g01_c01.avi", "two")
    video("flat/readme.txt", "")
    video("flat/holiday.avi", "")
    told: list[str] = []
    first = organise(_config(tmp_path / "UCF", organise=str(tmp_path / "flat")), told.append)
    assert first.linked == ("v_Archery_g01_c01.avi", "v_HandStandPushups_g01_c01.avi")
    assert (tmp_path / "UCF/HandstandPushups/v_HandStandPushups_g01_c01.avi").read_text() == "two"
    assert (tmp_path / "UCF/Archery/v_Archery_g01_c01.avi").samefile(
        tmp_path / "flat/v_Archery_g01_c01.avi"
    )
    assert first.strangers == ("holiday.avi", "readme.txt")
    assert "holiday.avi, readme.txt" in told[1]
    second = organise(_config(tmp_path / "UCF", organise=str(tmp_path / "flat")), told.append)
    assert (second.linked, second.copied, second.there) == ((), (), first.linked)


def test_organise_overwrites_nothing(tmp_path: Path, video: Video) -> None:
    """Another file of the name is told and left."""
    video("flat/v_Archery_g01_c01.avi", "new")
    there = video("UCF/Archery/v_Archery_g01_c01.avi", "older")
    result = organise(_config(tmp_path / "UCF", organise=str(tmp_path / "flat")), print)
    assert result.different == ("v_Archery_g01_c01.avi",)
    assert there.read_text() == "older"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_organise_copies_to_another_volume(video: Video) -> None:
    """Where no hard link can lead; no half file stays."""
    source = video("flat/v_Archery_g01_c01.avi", "one")
    target = Path("/dev/shm") / f"organise-{os.getpid()}" / "Archery" / source.name
    try:
        assert source.stat().st_dev != Path("/dev/shm").stat().st_dev
        assert [place(source, target), place(source, target)] == ["copied", "there"]
        assert [path.name for path in target.parent.iterdir()] == [source.name]
    finally:
        shutil.rmtree(target.parents[1], ignore_errors=True)


def test_organise_says_what_is_wrong(tmp_path: Path, video: Video) -> None:
    """A folder that is not there, one without such videos, a class folder that cannot be made."""
    with pytest.raises(DataError, match="is not there"):
        organise(_config(tmp_path, organise=str(tmp_path / "nowhere")), print)
    video("flat/holiday.avi", "")
    with pytest.raises(DataError, match="no file named"):
        organise(_config(tmp_path, organise=str(tmp_path / "flat")), print)
    video("flat/v_Archery_g01_c01.avi", "")
    video("UCF/Archery", "a file")
    with pytest.raises(CannotWrite, match="Archery"):
        organise(_config(tmp_path / "UCF", organise=str(tmp_path / "flat")), print)


def test_names_that_tell_no_class_or_lead_elsewhere_are_strangers() -> None:
    """Only v_<Class>_g01_c01 with a video's suffix is placed."""
    names = [
        "v_A_g01_c01.mp4",
        "v_.._g01_c01.avi",
        "v_A_g01.avi",
        "v_A_g01_c01.txt",
        "A_g01_c01.avi",
        ".v_A_g01_c01.avi",
    ]
    placed, strangers = plan(names)
    assert placed == {"v_A_g01_c01.mp4": "A"}
    assert strangers == tuple(names[1:5])
