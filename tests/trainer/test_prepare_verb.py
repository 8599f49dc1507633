"""The verb `prepare` from a folder of videos to its report: steps and cache, alone and shared among shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainer import prepare
from trainer.check import check
from trainer.config import Config, DataConf, PrepareConf
from trainer.data.cache import frames_of, map_bytes, read_index
from trainer.data.image_folder import frame_paths
from trainer.data.loader import cache_folder, open_split
from trainer.data.progress import Progress
from trainer.data.shards import Share
from trainer.data.stats import measure
from trainer.errors import CannotWrite, ConfFault, DataError
from trainer.run_folder import RunFolder
from trainer.synthetic import encode

CLASSES = ("Run", "Walk")
VIDEOS = 4  # of each class


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small videos in two class folders. Do not change it."""
    root = tmp_path_factory.mktemp("videos") / "set"
    draw = np.random.default_rng(5)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for number in range(VIDEOS):
            picture = (
                draw.integers(0, 256, (6, 8, 3))
                .astype(np.uint8)
                .repeat(6, axis=0)
                .repeat(6, axis=1)
            )
            encode(
                root / label / f"{label}{number}.mp4",
                [np.roll(picture, 2 * frame, axis=1) for frame in range(5 + number)],
                fps=10,
            )
    return root


def config_of(root: Path, *, data: dict[str, object] | None = None, **prepare: object) -> Config:
    """A conf of class folders."""
    fields = {"name": "folders", "frames": 4, "size": 16, **(data or {})}
    return Config(data=DataConf(root=str(root), **fields), prepare=PrepareConf(**prepare))  # type: ignore[arg-type]


def run(config: Config, folder: Path) -> dict[str, object]:
    """Run the verb in this process; what prepare.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare.run(config, RunFolder(folder))
    return (
        dict(json.loads((folder / "prepare.json").read_text()))
        if (folder / "prepare.json").exists()
        else {}
    )


def test_one_prepare_makes_everything_and_reports_it(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Key frames, frames, flow of these frames, the cache, mean and standard deviation; what the dataset itself should warn of."""
    out = {"videos_to": "videos", "frames_to": "frames", "flow_to": "flow"}
    steps = {key: str(tmp_path / name) for key, name in out.items()}
    config = config_of(
        class_folders, **steps, flow_method="dis-fast", short_side=24, gop=4, stats=True
    )
    (tmp_path / "videos").mkdir()
    report = run(config, tmp_path / "runs" / "p")
    frames = sum(range(5, 5 + VIDEOS)) * len(CLASSES)
    made = report["steps"]
    assert isinstance(made, dict)
    assert {
        name: (step["made"], step["frames"], step["broken"]) for name, step in made.items()
    } == {
        "videos": (8, frames, []),
        "frames": (8, frames, []),
        "flow": (8, frames - 8, []),
    }
    assert (tmp_path / "frames" / "Run" / "Run3" / "n_frames").read_text() == "8"
    assert sorted(frame_paths(tmp_path / "flow" / "Run" / "Run3")[0]) == list(range(1, 8))
    assert json.loads((tmp_path / "flow" / "flow.json").read_text())["method"] == "dis-fast"
    cache = cache_folder(config, tmp_path / "runs" / "p")
    index = read_index(cache, "train")
    assert index is not None
    mapped = map_bytes(cache / index.data, index.bytes)
    pixels = np.concatenate(
        [frames_of(mapped, entry).reshape(-1, 3) for entry in index.entries]
    ).astype(np.float64)
    stats = report["stats"]
    assert isinstance(stats, dict)
    np.testing.assert_allclose(
        [stats["mean"], stats["std"]], [pixels.mean(axis=0), pixels.std(axis=0)], atol=1e-4
    )
    said = capsys.readouterr().out
    assert f"mean: [{stats['mean'][0]:g}, " in said
    assert "note: the split was drawn here" in said
    done = json.loads((tmp_path / "runs" / "p" / "DONE.json").read_text())
    assert (done["verb"], done["exit_code"], done["broken"]) == ("prepare", 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["videos", "frames", "flow"])
def test_what_was_made_is_read_as_a_dataset(
    class_folders: Path, tmp_path: Path, layout: str
) -> None:
    """Videos with key frames in place of the originals, folders of frames, flow of 2 channels: the same clips of the same classes."""
    folders = {name: str(tmp_path / name) for name in ("videos", "frames", "flow")}
    steps = {
        f"{name}_to": folder
        for name, folder in folders.items()
        if name in (layout, "frames" if layout == "flow" else layout)
    }
    run(config_of(class_folders, **steps, flow_method="dis-fast"), tmp_path / "runs" / "made")
    made: dict[str, dict[str, object]] = {
        "videos": {},
        "frames": {"layout": "frames"},
        "flow": {
            "stream": "flow",
            "flow_root": folders["flow"],
            "flow_channels": 2,
            "normalise": "none",
        },
    }
    root = class_folders if layout == "flow" else Path(folders[layout])
    config = config_of(root, data=made[layout])
    run(config, tmp_path / "runs" / "read")
    clips = open_split(config, "train", cache_folder(config, tmp_path / "runs" / "read"))
    plain = config_of(class_folders)
    run(plain, tmp_path / "runs" / "plain")
    others = open_split(plain, "train", cache_folder(plain, tmp_path / "runs" / "plain"))
    assert [Path(name).stem for name in clips.ids] == [Path(name).stem for name in others.ids]
    assert np.array_equal(clips.targets, others.targets)
    assert clips.__getitems__([(0, 0)])[0].shape[-1] == (2 if layout == "flow" else 3)


@pytest.mark.slow
def test_tinyvirat_is_read_from_its_frames_alone(made_set: Path, tmp_path: Path) -> None:
    """Frames lie where TinyVIRAT has them, the annotation beside them; the tubes are not needed any more."""
    config = config_of(
        made_set, data={"name": "tinyvirat"}, frames_to=str(tmp_path / "frames"), short_side=32
    )
    run(config, tmp_path / "runs" / "made")
    moved = config_of(tmp_path / "frames", data={"name": "tinyvirat"})
    report = run(moved, tmp_path / "runs" / "read")
    splits = report["splits"]
    assert isinstance(splits, dict)
    assert {name: (split["cached"], split["decoders"]) for name, split in splits.items()} == {
        "train": (16, {"jpg": 16}),
        "test": (8, {"jpg": 8}),
    }


def test_a_flat_download_is_sorted_before_it_is_read(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of the shards, once; the report of all says what was done."""
    (tmp_path / "flat").mkdir()
    for path in sorted(class_folders.rglob("*.mp4")):
        shutil.copy(
            path, tmp_path / "flat" / f"v_{path.parent.name}_g{int(path.stem[-1]) + 1:02}_c01.avi"
        )
    config = config_of(tmp_path / "set", organise=str(tmp_path / "flat"), shards=2)
    for number in (1, 0):
        shard(config, tmp_path / "p", number, monkeypatch)
    report = json.loads((tmp_path / "p" / "prepare.json").read_text())
    assert report["done"][0].startswith("organise: 8 linked")
    assert sum(split["cached"] for split in report["splits"].values()) == 8


def test_a_video_that_was_cut_off_is_named(
    class_folders: Path, shared: Path, tmp_path: Path
) -> None:
    """No annotation says how long it was, and no decoder stumbles: its header does."""
    root = Path(shutil.copytree(class_folders, tmp_path / "set"))
    whole = (shared / "real" / "videos" / "test.avi").read_bytes()
    (root / "Run" / "cut.avi").write_bytes(whole[:200_000])
    splits = run(config_of(root), tmp_path / "p")["splits"]
    assert isinstance(splits, dict)
    (named,) = [item for split in splits.values() for item in split["noted"]]
    assert (Path(named["id"]).stem, named["problem"]) == (
        "cut",
        "it holds 107 of the 164 frames that its header promises",
    )


def shard(config: Config, folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard, as its pod runs it."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(number))
    run(config, folder)


@pytest.mark.slow
def test_shards_together_make_what_one_process_makes(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cache to the byte and the same frames, in any order of finishing; nobody sees a cache before it is whole."""
    alone = config_of(class_folders, frames_to=str(tmp_path / "alone-frames"))
    run(alone, tmp_path / "alone" / "p")
    config = config_of(class_folders, frames_to=str(tmp_path / "frames"), shards=3, stats=True)
    folder = tmp_path / "shared" / "p"
    cache = cache_folder(config, folder)
    for number in (2, 0, 0):  # shard 0 is evicted after its work, and tried again
        shard(config, folder, number, monkeypatch)
        assert read_index(cache, "train") is None
        assert not (folder / "prepare.json").exists()
    shard(config, folder, 1, monkeypatch)
    assert json.loads((folder / "DONE.json").read_text())["exit_code"] == 0
    whole = cache_folder(alone, tmp_path / "alone" / "p")
    names = sorted(path.name for path in whole.iterdir() if path.name != ".lock")
    assert sorted(path.name for path in cache.iterdir() if path.name != ".lock") == names
    assert all((cache / name).read_bytes() == (whole / name).read_bytes() for name in names)
    jpgs = {
        path.relative_to(tmp_path / "frames"): path.read_bytes()
        for path in (tmp_path / "frames").rglob("*.jpg")
    }
    assert jpgs == {
        path.relative_to(tmp_path / "alone-frames"): path.read_bytes()
        for path in (tmp_path / "alone-frames").rglob("*.jpg")
    }
    report = json.loads((folder / "prepare.json").read_text())
    assert (report["steps"]["frames"]["videos"], report["steps"]["frames"]["made"]) == (
        8,
        5,
    )  # the second attempt of shard 0 found its three
    assert report["stats"]["frames"] == report["splits"]["train"]["frames"]
    before = (folder / "DONE.json").stat().st_mtime_ns
    shard(config, folder, 1, monkeypatch)  # its pod was evicted between its last write and its end
    assert (folder / "DONE.json").stat().st_mtime_ns == before


def test_a_retried_shard_reads_nothing_twice(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its own share, nor does the last one decode what the others have read."""
    config = config_of(class_folders, shards=2)
    folder = tmp_path / "p"
    shard(config, folder, 0, monkeypatch)
    read: list[str] = []
    plain = prepare.read_clip
    monkeypatch.setattr(
        prepare, "read_clip", lambda clip, how: (read.append(clip.id), plain(clip, how))[1]
    )
    shard(config, folder, 0, monkeypatch)
    assert read == []
    shard(config, folder, 1, monkeypatch)
    assert 0 < len(read) < 8
    assert len(set(read)) == len(read)


def test_a_cache_of_shards_that_does_not_fit_twice_is_refused_before_it_is_copied(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No annotation says how long these videos are; the parts do. What is read stays for a retry."""
    config = config_of(class_folders, shards=2)
    folder = tmp_path / "p"
    shard(config, folder, 0, monkeypatch)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CannotWrite, match=r"the cache does not fit on the volume of .* missing of"):
        shard(config, folder, 1, monkeypatch)
    cache = cache_folder(config, folder)
    assert [
        len(list(part.glob("train-*.u8"))) for part in sorted((cache / ".shards").iterdir())
    ] == [1, 1]
    assert read_index(cache, "train") is None


@pytest.mark.slow
def test_a_broken_video_of_a_shard_is_told_by_the_last_one(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others finish first: exit code 65 would end the whole Job. With `broken: exclude` nothing is refused."""
    root = Path(shutil.copytree(class_folders, tmp_path / "set"))
    (root / "Run" / "Run0.mp4").write_bytes(b"")
    config = config_of(root, frames_to=str(tmp_path / "frames"), shards=2)
    shard(config, tmp_path / "p", 0, monkeypatch)
    with pytest.raises(DataError, match="no frames could be made of 1 of 8 videos: Run"):
        shard(config, tmp_path / "p", 1, monkeypatch)
    report = json.loads((tmp_path / "p" / "prepare.json").read_text())
    assert [item["problem"] for item in report["steps"]["frames"]["broken"]] == [
        "moov atom not found"
    ]
    assert not (tmp_path / "p" / "DONE.json").exists()
    lenient = config_of(root, data={"broken": "exclude"}, frames_to=str(tmp_path / "frames"))
    run(lenient, tmp_path / "q")
    assert (tmp_path / "q" / "DONE.json").exists()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (6.0, "1 of 5001 videos, 10 videos/min, 8h20m left"),
        (80.0, "1 of 5001 videos, 0.75 videos/min, 111h06m left"),
    ],
)
def test_progress_is_told_in_hours_where_it_takes_hours(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: str
) -> None:
    said: list[str] = []
    times = iter([0.0, seconds])
    monkeypatch.setattr(
        "trainer.data.progress.time", SimpleNamespace(monotonic=lambda: next(times))
    )
    Progress("frames", 5001, said.append).step()
    assert said == [f"prepare frames: {told}"]


def test_shards_take_turns() -> None:
    """Shard k of N does k, k + N, ...; a number beyond them is refused, and the conf wins over the environment."""
    assert [Share(number, 3).take(range(8)) for number in range(3)] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5],
    ]
    assert Share.of(PrepareConf(shards=4), {"JOB_COMPLETION_INDEX": "2"}) == Share(2, 4)
    assert Share.of(PrepareConf(shards=4, shard=1), {"JOB_COMPLETION_INDEX": "2"}) == Share(1, 4)
    with pytest.raises(ConfFault, match=r"prepare\.shard: is 4"):
        Share.of(PrepareConf(shards=4), {"JOB_COMPLETION_INDEX": "4"})


def test_measured_moments_are_exact_for_clips_of_any_size() -> None:
    """As numpy computes them in float64."""
    draw = np.random.default_rng(0)
    clips = [
        draw.integers(0, 200, (3, 5, 7, 2), np.uint8),
        draw.integers(50, 256, (2, 9, 4, 2), np.uint8),
    ]
    stats = measure(clips)
    assert stats is not None
    pixels = np.concatenate([clip.reshape(-1, 2) for clip in clips]).astype(np.float64)
    np.testing.assert_allclose(
        [stats.mean, stats.std], [pixels.mean(axis=0), pixels.std(axis=0)], atol=1e-4
    )
    assert measure([]) is None


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"gop": 0}, "prepare.gop: is 0, less than 1"),
        ({"shards": 2, "shard": 2}, "prepare.shard: is 2 of 2 shards"),
        ({"frames_to": "/set"}, "prepare.frames_to: is /set, the folder of data.root"),
        (
            {"frames_to": "/a", "flow_to": "/a/"},
            "prepare.flow_to: is /a/, the folder of prepare.frames_to",
        ),
        (
            {"frames_to": "/a", "data": {"layout": "frames"}},
            "prepare.frames_to: is set, and data.layout: frames has no videos",
        ),
        (
            {"frames_to": "/a", "frames_rule": "c3d", "short_side": 64},
            "prepare.short_side: is 64, and frames of the rule c3d",
        ),
        ({"stats": True, "data": {"source": "files"}}, "prepare.stats: needs the cached frames"),
        (
            {"flow_to": "/a", "data": {"stream": "flow", "flow_root": "/b"}},
            "prepare.flow_to: is /a, and data.stream: flow would be read",
        ),
        ({"flow_bound": 200}, "prepare.flow_bound: is 200"),
    ],
)
def test_settings_that_cannot_be_are_told_before_any_work(
    settings: dict[str, object], fault: str
) -> None:
    """By `check`."""
    config = config_of(Path("/set"), **settings)  # type: ignore[arg-type]
    faults = [f"{each.path}: {each.message}" for each in check(config, "prepare")]
    assert any(each.startswith(fault) for each in faults), faults
