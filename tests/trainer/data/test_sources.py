"""Where frames come from makes no difference: cache or files, torchcodec or PyAV, a video or a folder; on real recordings."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer import prepare
from trainer.config import Config, DataConf, TrainConf
from trainer.data.cache import CacheWriter, Entry, Index, describe, read_index
from trainer.data.clip_set import ClipSet
from trainer.data.dataset_base import Clip
from trainer.data.decode import read_video
from trainer.data.image_folder import frame_paths, read_frames
from trainer.data.kept import Kept
from trainer.data.loader import batches, open_split
from trainer.data.report import make_report
from trainer.errors import DataError

SHORT = 24  # px; recordings of 1920 x 1080 are left to the slow test
RECORDINGS = (
    "demo.mp4",
    "part_0.mp4",
    "demo_spatiotemporal_det.mp4",
    "test.avi",
    "ucf101_demo2.gif",
)


@dataclass(frozen=True)
class Recordings:
    """Any files as a dataset of one split or more."""

    named: dict[str, tuple[Clip, ...]]
    classes: tuple[str, ...] = ("a", "b")
    multi_label: bool = False
    fps: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Those given."""
        return tuple(self.named)

    def clips(self, split: str) -> list[Clip]:
        """Those given."""
        return list(self.named[split])


def make(dataset: Recordings, data: DataConf, cache: Path) -> dict[str, Index]:
    """The cache of a dataset, clip by clip, as `prepare` makes it."""
    cache.mkdir(parents=True, exist_ok=True)
    how = prepare.Reading.of(data, dataset.fps)
    for split in dataset.splits:
        wanted = describe(dataset, dataset.clips(split), data)
        writer = CacheWriter(cache, wanted, split, unchanged=lambda _: True, data=not how.counted)
        for clip in dataset.clips(split):
            writer.append(*prepare.repair(clip, *prepare.read_clip(clip, how), source="", how=how))
        writer.finish()
    return {split: index for split in dataset.splits if (index := read_index(cache, split))}


def clip_of(path: Path, frames: int = 0, **own: object) -> Clip:
    """A clip of class 0."""
    return Clip(id=path.name, path=path, labels=(0,), frames=frames, **own)  # type: ignore[arg-type]  # the test names the fields


def read_all(clips: ClipSet) -> list[np.ndarray]:
    """Every sample."""
    return [clips[0, place][0].numpy() for place in range(len(clips))]


def both(
    dataset: Recordings, data: DataConf, folder: Path, split: str = "test"
) -> tuple[ClipSet, ClipSet, Index]:
    """The samples from the cache, and from the files."""
    sets = []
    for source in ("cache", "files"):
        conf = Config(data=replace(data, source=source), train=TrainConf(seed=3))  # type: ignore[arg-type]
        indices = make(dataset, conf.data, folder / source)
        sets.append(open_split(conf, split, folder / source))  # type: ignore[arg-type]
    return sets[0], sets[1], indices[split]


@pytest.mark.slow
@pytest.mark.parametrize("fps", [10.0, 0.0])
def test_files_and_cache_give_the_same_frames(shared: Path, tmp_path: Path, fps: float) -> None:
    """MP4, AVI with reordered frames, GIF; a variable rate, odd sizes; every third frame, from the middle, repeated and looped ends."""
    root = shared / "real" / "videos"
    own = tuple(clip_of(root / name) for name in RECORDINGS)
    cut = (clip_of(root / "demo.mp4", 40, first=100), clip_of(root / "part_0.mp4", 40))
    cut = (replace(cut[0], id="demo.mp4@100"), replace(cut[1], id="long"))
    data = DataConf(
        name="x",
        root=str(root),
        resize=f"short:{SHORT}",
        size=20,
        frames=6,
        stride=3,
        fps=fps,
        broken="exclude",
    )
    data = replace(data, test_start="uniform", test_clips=3, test_crop="center", short="loop")
    cached, filed, index = both(Recordings({"test": own + cut}), data, tmp_path)
    assert cached.ids == filed.ids
    assert len(cached) == 3 * (len(own) + 1) + 1
    for place, (one, other) in enumerate(zip(read_all(cached), read_all(filed), strict=True)):
        assert np.array_equal(one, other), cached.ids[place]
        assert one.std() > 5
    entries = {entry.id: entry for entry in index.entries}
    assert index.data == ""
    assert [entries[name].seekable for name in ("demo.mp4", "part_0.mp4", "test.avi")] == [
        True,
        True,
        False,
    ]
    assert (entries["demo.mp4"].kept_height, entries["demo.mp4"].kept_width) == (
        SHORT,
        round(SHORT * 340 / 256),
    )
    assert "32 of 40 frames" in entries["long"].repaired
    if fps:
        # 280/28, 32/29.06, 164/25 s
        assert [entries[name].frames for name in ("demo.mp4", "part_0.mp4", "test.avi")] == [
            100,
            11,
            66,
        ]
        assert entries["part_0.mp4"].taken
        assert entries["demo_spatiotemporal_det.mp4"].note == "resampled from 6 to 10 fps"
        assert index.fps == 10


def test_resampled_frames_are_those_shown_at_their_time(shared: Path) -> None:
    """By both decoders, at a rate that varies and one that does not; a rate that is not resampled keeps every frame."""
    for name in ("part_0.mp4", "ucf101_demo1.gif"):
        path = shared / "real" / "videos" / name
        whole = read_video(path, Kept(resize="16x16"), decoder="pyav")
        for decoder in ("torchcodec", "pyav"):
            video = read_video(path, Kept(resize="16x16", fps=4), decoder=decoder)  # type: ignore[arg-type]
            assert (
                len(video.frames) == len(video.taken) == round(whole.found / whole.source_fps * 4)
            )
            assert np.abs(video.frames.astype(int) - whole.frames[video.taken]).max() <= 2


@pytest.mark.parametrize(
    ("fps", "said"),
    [(0.0, "they are used one after the other"), (10.0, "which of them are kept goes by these")],
)
def test_the_report_says_what_becomes_of_uneven_times(
    shared: Path, tmp_path: Path, fps: float, said: str
) -> None:
    data = DataConf(
        name="x", root=str(shared / "real" / "videos"), resize="16x16", size=16, frames=4, fps=fps
    )
    indices = make(
        Recordings({"test": (clip_of(shared / "real" / "videos" / "part_0.mp4"),)}), data, tmp_path
    )
    told = make_report(indices, tmp_path, data, notes=(), seconds=0).splits["test"].variable_rate
    assert told == [{"id": "part_0.mp4", "problem": f"its frames come at uneven times; {said}"}]


def write(folder: Path, names: list[str], *, sides: tuple[int, int] = (30, 40)) -> Path:
    """Image files, each one's grey is 8 for each one up to it."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*sides, 3), 8 * place + 8, np.uint8))
    return folder


def test_smoothed_frames_are_the_same_from_cache_and_files(shared: Path, tmp_path: Path) -> None:
    """Of a video and of images; they are others than those of OpenCV, and a cache of those is refused."""
    root = shared / "real" / "videos"
    images = write(tmp_path / "images", [f"{n}.jpg" for n in range(1, 9)], sides=(90, 120))
    dataset = Recordings({"test": (clip_of(root / "ucf101_demo2.gif"), clip_of(images))})
    data = DataConf(
        name="x",
        root=str(root),
        resize="short:40",
        size=32,
        frames=4,
        test_crop="center",
        test_short=36,
        antialias=True,
    )
    cached, filed, _ = both(dataset, data, tmp_path / "smooth")
    plain, _, _ = both(dataset, replace(data, antialias=False), tmp_path / "plain")
    for one, other in zip(read_all(cached), read_all(filed), strict=True):
        assert np.array_equal(one, other)
    assert np.abs(read_all(cached)[0].astype(int) - read_all(plain)[0]).mean() > 1
    with pytest.raises(
        DataError,
        match=r"the cache .* holds x at 40 px on the short side, the conf wants x at 40 px .*, smoothed",
    ):
        open_split(Config(data=data), "test", tmp_path / "plain" / "cache")


def test_caches_from_before_frames_could_be_smoothed_still_hold() -> None:
    """Their fingerprints and folders are hashes of what tells two caches apart."""
    assert Kept.of(DataConf(resize="short:40")).facts() == {
        "resize": "short:40",
        "fps": 0.0,
        "stream": "rgb",
        "channels": 3,
    }
    assert Kept.of(DataConf(resize="short:40", antialias=True)).facts()["antialias"] is True
    assert (
        Kept.of(DataConf(resize="original", antialias=True)).facts()
        == Kept.of(DataConf(resize="original")).facts()
    )


@pytest.mark.parametrize(
    ("names", "promised"),
    [
        ([f"image_{n:05d}.jpg" for n in range(1, 13)], 12),  # the compressed system, from 1
        ([f"{n:05d}.jpeg" for n in range(1, 13)], 12),  # the two-stream system, Jester
        ([f"0000{n}.jpg" for n in range(12)], 12),  # C3D: 00009 is followed by 000010
        ([f"v_1_c2-{n:06d}.PNG" for n in range(12)], 12),
    ],
)
def test_folders_of_any_naming_are_read_by_number(
    tmp_path: Path, names: list[str], promised: int
) -> None:
    """0- or 1-based, padded or not; other files are no frames."""
    folder = write(tmp_path / "f", names)
    (folder / "n_frames").write_text("12")
    video = read_frames(folder, Kept(resize="original"))
    assert video.frames.shape == (12, 30, 40, 3)
    assert np.abs(video.frames.mean(axis=(1, 2, 3)) - 8 * np.arange(1, 13)).max() < 2
    assert (video.promised, video.fault, video.note) == (promised, "", "")


def test_the_largest_group_of_names_is_taken_and_said(tmp_path: Path) -> None:
    """Thumbnails beside the frames."""
    folder = write(tmp_path / "f", ["a1.jpg", "a2.jpg", "a3.jpg", "thumb1.jpg"])
    paths, note = frame_paths(folder)
    assert list(paths) == [1, 2, 3]
    assert note == "the frames are a<number>; left out: thumb<number> (1)"


def test_folders_from_the_files_are_repaired_as_in_the_cache(tmp_path: Path) -> None:
    """Gaps, damage at the start, an annotation that is longer, flow of two channels, a rate of the dataset's; the same frames."""
    folder = write(tmp_path / "root" / "v", [f"image_{n:05d}.jpg" for n in range(1, 31)])
    for number in (1, 2, 9, 10):
        (folder / f"image_{number:05d}.jpg").unlink()
    (folder / "image_00020.jpg").write_bytes(b"x")
    data = DataConf(
        name="x",
        stream="flow",
        flow_root=str(tmp_path / "root"),
        flow_channels=2,
        fps=15,
        size=16,
        frames=20,
    )
    dataset = Recordings({"test": (clip_of(folder, 34),)}, fps=30)
    cached, filed, index = both(dataset, data, tmp_path)
    clip = read_all(cached)[0]
    assert clip.shape == (20, 16, 16, 2)
    assert np.array_equal(clip, read_all(filed)[0])
    assert index.entries[0].repaired.endswith("(frames 1-2, 9-10, 20 are missing or damaged)")
    assert abs(int(clip[4, 0, 0, 0]) - 8 * 8) < 3  # frame 10 is missing: the 8th is shown
    with pytest.raises(DataError, match="no time stamps to resample by"):
        describe(Recordings({"test": ()}), [], data)


def test_a_file_that_breaks_while_training_is_named(shared: Path, tmp_path: Path) -> None:
    """DataError, from a data worker too; never another sample in its place."""
    shutil.copy(shared / "real" / "videos" / "part_0.mp4", tmp_path / "a.mp4")
    folder = write(tmp_path / "f", [f"{n}.jpg" for n in range(1, 9)])
    data = DataConf(
        name="x", root=str(tmp_path), source="files", size=16, frames=8, val_from="test"
    )
    dataset = Recordings({"train": (clip_of(tmp_path / "a.mp4"), clip_of(folder)), "test": ()})
    make(dataset, data, tmp_path / "cache")
    clips = open_split(Config(data=data), "train", tmp_path / "cache")
    assert clips[1, 0][0].shape == clips[1, 1][0].shape
    (tmp_path / "a.mp4").write_bytes(b"gone")
    (folder / "5.jpg").write_bytes(b"gone")
    with pytest.raises(
        DataError, match=r"cannot read frames 0 to 7 of .*a\.mp4.* run `prepare` again"
    ):
        clips[1, 0]
    with pytest.raises(DataError, match=r"frame 5 in .*f is missing or damaged"):
        clips[1, 1]
    with pytest.raises(DataError, match=r"a\.mp4") as caught:
        list(batches(clips, epoch=1, batch=1, seed=1, shuffle=False, workers=1))
    assert "Traceback" not in str(caught.value)


def _cached(tmp_path: Path, data: DataConf, **splits: list[Entry]) -> Config:
    """A conf whose cache of 4 x 4 px frames was written by hand; each frame is filled with its number."""
    tmp_path.mkdir(exist_ok=True)
    dataset = Recordings(dict.fromkeys(splits, ()))
    for split, entries in splits.items():
        index = replace(describe(dataset, [], data), entries=tuple(entries))
        writer = CacheWriter(tmp_path, index, split, unchanged=lambda _: True)
        for entry in entries:
            numbers = np.arange(entry.frames, dtype=np.uint8)[:, None, None, None]
            writer.append(
                replace(entry, kept_height=4, kept_width=4),
                np.broadcast_to(numbers, (entry.frames, 4, 4, 3)),
            )
        writer.finish()
    return Config(data=data)


def _entry(name: str, frames: int, label: int = 0, **own: object) -> Entry:
    return Entry(id=name, labels=(label,), annotated=0, source="", frames=frames, **own)  # type: ignore[arg-type]


DATA = DataConf(name="x", root="/", size=4, resize="original", frames=8, flip=0.0)


def numbers(clips: ClipSet, place: int, epoch: int = 0) -> list[int]:
    """The frames that a sample shows."""
    return clips[epoch, place][0][:, 0, 0, 0].tolist()


def test_a_video_gives_several_samples(tmp_path: Path) -> None:
    """Windows side by side, the rest of the video in one of its own that repeats or loops inside itself; a broken one is left out."""
    entries = [
        _entry("a", 20, 1),
        _entry("broken", 0, 1),
        _entry("b", 5),
        _entry("c@7", 30, first=7),
        _entry("c@9", 8, first=9),
    ]
    data = replace(DATA, test_start="every", broken="exclude")
    clips = open_split(_cached(tmp_path, data, test=entries), "test", tmp_path)
    assert clips.ids == ["a@0", "a@8", "a@16", "b", "c@7", "c@9"]
    assert (clips.video_ids, clips.video_of.tolist()) == (["a", "b", "c"], [0, 0, 0, 1, 2, 2])
    assert clips.starts.tolist() == [0, 8, 16, 0, 7, 9]
    assert clips.targets.tolist() == [[0, 1]] * 3 + [[1, 0]] * 3
    assert clips.left_out == {"broken": 1}
    assert numbers(clips, 2) == [16, 17, 18, 19, 19, 19, 19, 19]
    assert numbers(open_split(Config(data=replace(data, short="loop")), "test", tmp_path), 2) == [
        16,
        17,
        18,
        19,
        16,
        17,
        18,
        19,
    ]
    dropped = open_split(Config(data=replace(data, short="drop")), "test", tmp_path)
    assert dropped.ids == ["a@0", "a@8", "c@7", "c@9"]
    assert dropped.left_out == {"broken": 1, "b": 0}
    assert np.array_equal(pickle.loads(pickle.dumps(clips))[0, 2][0], clips[0, 2][0])


def test_samples_cost_no_memory_of_their_own(tmp_path: Path) -> None:
    """What a worker gets is of videos; each sample is found all the same, and other samples have another fingerprint."""
    data = replace(DATA, frames=1, test_start="every", test_step=1)
    entries = [_entry("a", 200), _entry("b", 100, 1), _entry("c", 150)]
    clips = open_split(_cached(tmp_path, data, test=entries), "test", tmp_path)
    fewer = open_split(Config(data=replace(data, test_step=50)), "test", tmp_path)
    assert (len(clips), len(fewer)) == (450, 9)
    assert abs(len(pickle.dumps(clips)) - len(pickle.dumps(fewer))) < 100
    assert [numbers(clips, place)[0] for place in (0, 199, 200, 299, 300, 449)] == [
        0,
        199,
        0,
        99,
        0,
        149,
    ]
    assert [clips.name_of(place) for place in (199, 200)] == ["a@199", "b@0"]
    assert (clips.labels_of(250), clips.class_counts) == ((1,), [2, 1])
    assert clips.fingerprint != fewer.fingerprint
    assert clips.fingerprint == open_split(Config(data=data), "test", tmp_path).fingerprint
    with pytest.raises(IndexError):
        clips.name_of(450)


def test_random_test_clips_and_repeats_are_drawn_once(tmp_path: Path) -> None:
    """Without training a drawn start depends on seed and sample only; in an epoch of a size each repeat draws its own."""
    data = replace(DATA, test_start="random", start="random", stride=2, val_from="test")
    config = _cached(
        tmp_path, data, train=[_entry("a", 200)], test=[_entry(name, 200) for name in "abcdef"]
    )
    clips = open_split(config, "test", tmp_path)
    assert clips.starts.tolist() == [-1] * 6
    assert [numbers(clips, place, 1) for place in range(6)] == [
        numbers(clips, place, 2) for place in range(6)
    ]
    assert len({numbers(clips, place)[0] for place in range(6)}) > 3
    train = open_split(config, "train", tmp_path)
    taken = list(batches(train, epoch=1, batch=4, seed=1, shuffle=True, size=10))
    assert [batch.total for batch in taken] == [4, 4, 2]
    assert {index for batch in taken for index in batch.indices_B.tolist()} == {0}
    starts = [int(start) for batch in taken for start in batch.clips_BTHWC[:, 0, 0, 0, 0]]
    assert len(set(starts)) > 6
    assert max(starts) <= 200 - 15
    again = list(
        batches(train, epoch=1, batch=4, seed=1, shuffle=True, size=10, start=4, workers=1)
    )
    assert [int(start) for batch in again for start in batch.clips_BTHWC[:, 0, 0, 0, 0]] == starts[
        4:
    ]


def test_where_validation_comes_from(tmp_path: Path) -> None:
    """The dataset's own split, else the test clips or a part of training that parts no group; with its own number of clips."""
    entries = [
        _entry(f"{group}{n}", 20, n % 2, group=group) for group in "abcdefgh" for n in range(4)
    ]
    data = replace(DATA, test_start="uniform", test_clips=4, val_clips=2, val_fraction=0.25)
    own = _cached(
        tmp_path / "own", data, train=entries, val=[_entry("v", 20)], test=[_entry("t", 20)]
    )
    assert open_split(own, "val", tmp_path / "own").ids == ["v@0", "v@12"]
    assert len(open_split(own, "train", tmp_path / "own")) == len(entries)
    none = _cached(tmp_path / "none", data, train=entries, test=[_entry("t", 20)])
    train, val = (
        open_split(none, split, tmp_path / "none").video_ids for split in ("train", "val")
    )  # type: ignore[arg-type]
    assert sorted(train + val) == sorted(entry.id for entry in entries)
    assert val
    assert not {name[0] for name in train} & {name[0] for name in val}
    test = Config(data=replace(data, val_from="test"))
    assert open_split(test, "val", tmp_path / "none").ids == ["t@0", "t@12"]
    assert open_split(test, "test", tmp_path / "none").ids == ["t@0", "t@4", "t@8", "t@12"]
    assert len(open_split(test, "train", tmp_path / "none")) == len(entries)
    assert open_split(test, "train", tmp_path / "none", training=False).ids[:4] == [
        "a0@0",
        "a0@4",
        "a0@8",
        "a0@12",
    ]
