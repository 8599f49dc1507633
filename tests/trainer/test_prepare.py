"""`prepare`: every kind of damage is repaired or named, and the cache is whole, resumable and never half seen."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer import prepare
from trainer.config import Config, dump
from trainer.data import decode
from trainer.data.all_datasets import open_dataset
from trainer.data.cache import CacheWriter, Entry, Index, describe, frames_of, map_bytes, read_index
from trainer.data.dataset_base import Clip
from trainer.data.decode import Frames, Span
from trainer.data.image_folder import read_frames
from trainer.data.kept import Kept
from trainer.data.loader import batches, cache_folder, open_split
from trainer.data.report import PrepareReport
from trainer.data.shards import locked
from trainer.errors import CannotWrite, DataError
from trainer.prepare import build, ensure_cache
from trainer.run_folder import RunFolder

ConfOf = Callable[..., Config]


def tubes(root: Path, split: str = "train") -> list[dict[str, object]]:
    """The annotation."""
    return list(json.loads((root / f"tiny_{split}.json").read_text())["tubes"])


def rewrite(root: Path, own: list[dict[str, object]], split: str = "train") -> None:
    """Replace the annotation."""
    (root / f"tiny_{split}.json").write_text(json.dumps({"tubes": own}))


def files(root: Path) -> list[Path]:
    """The training tubes' files in the annotation's order."""
    return [root / "videos" / "train" / str(tube["path"]) for tube in tubes(root)]


def problems(report: PrepareReport, kind: str) -> dict[str, str]:
    """Training clips of one kind in the report: id -> problem."""
    return {item["id"]: item["problem"] for item in getattr(report.splits["train"], kind)}


def quiet(_: str) -> None:
    """Say nothing."""


def test_a_good_set_is_cached_frame_by_frame(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """The cache holds every frame of every clip at the wanted size, as decoding gives it; sizes, rates and lengths are counted."""
    report = ensure_cache(conf_of(made_set), tmp_path, quiet)
    index = read_index(tmp_path, "train")
    assert index is not None
    mapped = map_bytes(tmp_path / index.data, index.bytes)
    for entry, file, tube in zip(index.entries, files(made_set), tubes(made_set), strict=True):
        expected = decode.read_video(file, Kept(resize="16x16")).frames
        assert np.array_equal(frames_of(mapped, entry), expected)
        assert (entry.id, [entry.frames, entry.height, entry.width]) == (tube["path"], tube["dim"])
    split = report.splits["train"]
    assert (split.clips, split.cached, split.fps, sum(split.sizes.values())) == (
        16,
        16,
        {"30": 16},
        16,
    )
    assert [split.broken, split.repaired, split.longer, split.variable_rate, split.other_rate] == [
        []
    ] * 5
    assert split.bytes == (tmp_path / index.data).stat().st_size == split.frames * 16 * 16 * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".lock", "train.json", "test.json", index.data, *_data(tmp_path, "test")]
    )


def _data(cache: Path, split: str) -> list[str]:
    return [path.name for path in cache.glob(f"{split}-*.u8")]


def test_the_real_set_becomes_batches(real_set: Path, conf_of: ConfOf, tmp_path: Path) -> None:
    """Crops of real recordings at 6 to 30 fps, tubes and folders of frames: prepared, cached, loaded."""
    config = conf_of(real_set, frames=32, size=28)
    report = ensure_cache(config, tmp_path, quiet)
    split = report.splits["train"]
    assert (split.cached, split.broken, split.repaired, split.longer) == (10, [], [], [])
    assert split.decoders["jpg"] == 1
    assert split.fps["unknown"] == 1
    assert {item["problem"] for item in split.other_rate} >= {
        "6 fps, not 30",
        "25 fps, not 30",
        "28.0519 fps, not 30",
    }
    assert problems(report, "short") == {
        "demo_skeleton/4.mp4": "20 of 32 frames; its last frame is repeated",
        "ucf101_demo2/8.mp4": "31 of 32 frames; its last frame is repeated",
    }
    clips = open_split(config, "test", tmp_path)
    batch = next(batches(clips, epoch=1, batch=10, seed=1, shuffle=False))
    assert batch.clips_BTHWC.shape == (10, 32, 28, 28, 3)
    assert batch.clips_BTHWC.float().std(dim=(1, 2, 3, 4)).min() > 5  # pictures, not grey
    assert batch.targets_BC.sum(dim=1).tolist() == [1] + [2] * 9


def test_both_forms_of_a_clip_look_the_same(
    real_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """A folder of frames gives what its tube gives, but for JPEG's losses."""
    clip = open_dataset(conf_of(real_set).data).clips("train")[0]
    kept, span = Kept(resize="28x28"), Span(limit=clip.frames)
    video = decode.read_video(clip.path, kept, span).frames.astype(int)
    folder = read_frames(prepare.frames_folder(clip.path), kept, span).frames
    assert np.abs(video - folder).mean() < 4


def test_every_kind_of_damage_is_named(damaged_set: Path, conf_of: ConfOf, tmp_path: Path) -> None:
    """Repaired clips repeat their last good frame up to their annotated length; broken ones are listed with the reason."""
    own, paths = tubes(damaged_set), files(damaged_set)
    names = [str(tube["path"]) for tube in own]
    own[0]["dim"] = [int(own[0]["dim"][0]) + 5, *own[0]["dim"][1:]]  # type: ignore[index]  # five frames more than the file has
    own[1]["dim"] = [7, *own[1]["dim"][1:]]  # type: ignore[index]  # fewer
    paths[2].write_bytes(b"")
    paths[3].unlink()
    paths[4].write_text("not a video")
    cut = subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            paths[5],
            "-c",
            "copy",
            "-movflags",
            "+faststart+empty_moov+frag_keyframe",
            "-f",
            "mp4",
            "-",
        ],
        check=True,
        capture_output=True,
    ).stdout
    paths[5].write_bytes(cut[: int(0.8 * len(cut))])
    rewrite(damaged_set, own)
    said: list[str] = []
    report = build(conf_of(damaged_set), tmp_path, said.append, recheck=True)
    assert set(problems(report, "broken")) == set(names[2:5]) == set(report.broken)
    assert problems(report, "broken")[names[2]] == "the file is empty"
    assert problems(report, "broken")[names[3]] == "No such file or directory"
    assert set(problems(report, "repaired")) == {names[0], names[5]}
    assert "the last is repeated (the file ends after" in problems(report, "repaired")[names[0]]
    assert set(problems(report, "longer")) == {names[1]}
    index = read_index(tmp_path, "train")
    assert index is not None
    clip = frames_of(map_bytes(tmp_path / index.data, index.bytes), index.entries[0])
    assert len(clip) == int(own[0]["dim"][0])  # type: ignore[index]
    assert all(np.array_equal(frame, clip[-6]) for frame in clip[-5:])
    assert not np.array_equal(clip[-6], clip[-7])
    assert index.entries[1].frames == 7


def test_unreadable_clips_stop_unless_the_conf_leaves_them_out(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """Never swapped, never dropped silently: DataError with their names, or out by decision, in the report either way."""
    broken = files(damaged_set)[3]
    broken.write_bytes(b"")
    name = str(tubes(damaged_set)[3]["path"])
    with pytest.raises(DataError, match=f"1 of 16 clips .*{name}: the file is empty"):
        ensure_cache(conf_of(damaged_set), tmp_path, quiet)
    with pytest.raises(DataError, match="cannot be read"):
        open_split(conf_of(damaged_set), "train", tmp_path)
    lenient = conf_of(damaged_set, broken="exclude")
    assert ensure_cache(lenient, tmp_path, quiet).broken == [name]
    left = {*open_split(lenient, "train", tmp_path).ids, *open_split(lenient, "val", tmp_path).ids}
    assert left == {str(tube["path"]) for tube in tubes(damaged_set)} - {name}


def test_a_replaced_file_is_read_again_and_only_that(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was broken is looked at each time; `prepare` (not `train`) also notices good files that changed."""
    config, paths, read = conf_of(damaged_set), files(damaged_set), list[Path]()
    whole = paths[3].read_bytes()
    paths[3].write_bytes(b"")
    with pytest.raises(DataError):
        ensure_cache(config, tmp_path, quiet)
    original = prepare.read_clip
    monkeypatch.setattr(
        prepare, "read_clip", lambda clip, how: (read.append(clip.path), original(clip, how))[1]
    )
    paths[3].write_bytes(whole)
    assert ensure_cache(config, tmp_path, quiet).broken == []
    assert read == [paths[3]]
    paths[4].write_bytes(b"")
    assert ensure_cache(config, tmp_path, quiet).broken == []
    assert len(build(config, tmp_path, quiet, recheck=True).broken) == 1
    assert read == [paths[3], paths[4]]


def test_a_run_keeps_its_frames_while_the_cache_is_made_again(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """`prepare` writes a new file and never touches the one that is mapped."""
    config = conf_of(damaged_set)
    ensure_cache(config, tmp_path, quiet)
    clips = open_split(config, "train", tmp_path)
    before = clips[0, 0][0].clone()
    for path in files(damaged_set):
        path.write_bytes(files(damaged_set)[0].read_bytes())
    build(config, tmp_path, quiet, recheck=True)
    assert np.array_equal(clips[0, 0][0], before)
    assert len(_data(tmp_path, "train")) == 1


def test_a_broken_tube_is_read_from_its_folder_of_frames(
    real_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """The folder beside it holds more of the clip."""
    root = Path(shutil.copytree(real_set, tmp_path / "set"))
    files(root)[0].write_bytes(b"")
    report = ensure_cache(conf_of(root), tmp_path / "cache", quiet)
    assert report.broken == []
    assert report.splits["train"].decoders["jpg"] == 2


def test_missing_frames_at_the_end_of_a_folder_are_repeated(
    real_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """The general form of the original's five repaired tubes (frames 113 to 115 of test 2165, and so on)."""
    root = Path(shutil.copytree(real_set, tmp_path / "set"))
    folder = root / "videos" / "train" / "part_0" / "2_frames"
    for number in (29, 30, 31):
        (folder / f"frame_{number}.jpg").unlink()
    report = ensure_cache(conf_of(root), tmp_path / "cache", quiet)
    (problem,) = problems(report, "repaired").values()
    assert problem == "29 of 32 frames; the last is repeated (the file ends after 29)"


def test_an_interrupted_prepare_goes_on_where_it_was(
    made_set: Path, conf_of: ConfOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written line and frames without a line are dropped; the result is the same file as without the interruption."""
    config = conf_of(made_set)
    ensure_cache(config, tmp_path / "whole", quiet)
    cache = tmp_path / "cut"
    cache.mkdir()
    wanted = _wanted(config)
    clips = open_dataset(config.data).clips("train")
    writer = CacheWriter(cache, wanted, "train", unchanged=lambda _: True)
    for clip in clips[:5]:
        writer.append(*_read(config, clip))
    writer.sync()
    writer.append(*_read(config, clips[5]))
    writer.close()  # frames of the sixth clip, no line
    (journal,) = cache.glob(".train-*.jsonl.part")
    with journal.open("a") as file:
        file.write('{"id": "half a li')
    read: list[str] = []
    original = prepare.read_clip
    monkeypatch.setattr(
        prepare, "read_clip", lambda clip, how: (read.append(clip.id), original(clip, how))[1]
    )
    said: list[str] = []
    ensure_cache(config, cache, said.append)
    assert any("going on after 5 of 16 clips" in line for line in said)
    assert set(read) >= {clip.id for clip in clips[5:]}
    assert not set(read) & {clip.id for clip in clips[:5]}
    assert _same_cache(cache, tmp_path / "whole")
    assert not list(cache.glob(".*.part"))


def _wanted(config: Config) -> Index:
    dataset = open_dataset(config.data)
    return describe(dataset, dataset.clips("train"), config.data)


def _read(config: Config, clip: Clip) -> tuple[Entry, Frames | None]:
    how = prepare.Reading.of(config.data, 30.0)
    return prepare.repair(
        clip, *prepare.read_clip(clip, how), source=prepare._signature(clip), how=how
    )


def test_a_file_replaced_during_an_interruption_is_read_again(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """What the interrupted `prepare` had said about it does not count any more."""
    config = conf_of(damaged_set)
    third = files(damaged_set)[2]
    whole = third.read_bytes()
    third.write_bytes(b"")
    wanted = _wanted(config)
    writer = CacheWriter(tmp_path, wanted, "train", unchanged=lambda _: True)
    for clip in open_dataset(config.data).clips("train")[:5]:
        writer.append(*_read(config, clip))
    writer.sync()
    writer.close()
    third.write_bytes(whole)
    said: list[str] = []
    assert ensure_cache(config, tmp_path, said.append).broken == []
    assert any("going on after 2 of 16 clips" in line for line in said)


def _same_cache(one: Path, other: Path) -> bool:
    names = {path.name for folder in (one, other) for path in folder.iterdir()}
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_kill_between_the_two_last_renames_is_survived(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """The data has its name, the index does not: it is not decoded again into a second file."""
    config = conf_of(made_set)
    ensure_cache(config, tmp_path, quiet)
    (tmp_path / "train.json").unlink()
    with pytest.raises(DataError, match="no cache"):
        open_split(config, "train", tmp_path)
    ensure_cache(config, tmp_path, quiet)
    assert len(open_split(config, "train", tmp_path)) > 0
    assert len(_data(tmp_path, "train")) == 1


def test_a_cache_whose_data_is_cut_is_made_again(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """Its size is checked whenever it is opened."""
    config = conf_of(made_set)
    ensure_cache(config, tmp_path, quiet)
    data = tmp_path / _data(tmp_path, "train")[0]
    whole = data.read_bytes()
    data.write_bytes(whole[:-1000])
    with pytest.raises(DataError, match="no cache"):
        open_split(config, "train", tmp_path)
    ensure_cache(config, tmp_path, quiet)
    assert (tmp_path / _data(tmp_path, "train")[0]).read_bytes() == whole


def test_two_processes_at_once_write_one_cache(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """The second waits, says so, and finds it done."""
    config = conf_of(made_set)
    said: list[str] = []
    with locked(tmp_path / ".lock", quiet):
        other = threading.Thread(target=ensure_cache, args=(config, tmp_path, said.append))
        other.start()
        while not said:
            time.sleep(0.01)
    other.join(timeout=30)
    assert "another process is writing" in said[0]
    before = read_index(tmp_path, "train")
    assert before is not None
    ensure_cache(config, tmp_path, quiet)
    assert read_index(tmp_path, "train") == before


@pytest.mark.slow
def test_without_flock_one_process_at_a_time_writes_all_the_same(tmp_path: Path) -> None:
    """The trials of a sweep begin together, and some volumes know no flock. Each writes down when it went in and out."""
    program = (
        "import errno, fcntl, sys, time; from pathlib import Path; from trainer.data.shards import locked\n"
        "def refused(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock, log = refused, Path(sys.argv[1]) / 'log'\n"
        "with locked(Path(sys.argv[1]) / '.lock', lambda line: None):\n"
        "    for word in ('in', 'out'):\n"
        "        with log.open('a') as file: file.write(word + '\\n')\n"
        "        time.sleep(0.5)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3


def test_a_cache_of_other_settings_is_not_overwritten(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """data.cache may be shared by mistake; another run may be reading it."""
    ensure_cache(conf_of(made_set), tmp_path, quiet)
    with pytest.raises(DataError, match="holds tinyvirat at 16x16 px, not tinyvirat at 20x20 px"):
        ensure_cache(conf_of(made_set, size=20), tmp_path, quiet)


def test_other_labels_need_no_decoding(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of files that did not change are copied from the cache that is replaced."""
    config = conf_of(damaged_set)
    ensure_cache(config, tmp_path, quiet)
    own = tubes(damaged_set)
    rewrite(damaged_set, [{**tube, "label": ["Riding"]} for tube in reversed(own)])
    monkeypatch.setattr(
        prepare, "read_clip", lambda clip, _: pytest.fail(f"{clip.id} was decoded again")
    )
    ensure_cache(config, tmp_path, quiet)
    clips = open_split(config, "train", tmp_path)
    assert set(np.flatnonzero(clips.targets.any(axis=0))) == {clips.classes.index("Riding")}
    assert len(_data(tmp_path, "train")) == 1


def test_a_cache_that_cannot_fit_is_refused_before_writing(
    made_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """With how much is missing. (An annotation that promises more frames than any disk holds.)"""
    root = Path(shutil.copytree(made_set, tmp_path / "set"))
    own = tubes(root)
    own[0]["dim"] = [10**14, 10, 10]
    rewrite(root, own)
    with pytest.raises(CannotWrite, match=r"does not fit .* missing of "):
        ensure_cache(conf_of(root), tmp_path / "cache", quiet)
    assert not list((tmp_path / "cache").glob("*.u8"))


def test_a_full_volume_while_writing_is_said(
    made_set: Path, conf_of: ConfOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC and EDQUOT in the middle end with CannotWrite (this machine has no small volume to fill: the write is made to fail)."""

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(CacheWriter, "sync", full)
    with pytest.raises(CannotWrite, match="full"):
        ensure_cache(conf_of(made_set), tmp_path, quiet)


def _verb(config: Config, run: Path) -> subprocess.Popen[str]:
    run.parent.mkdir(parents=True, exist_ok=True)
    conf = run.parent / "conf.yaml"
    conf.write_text(dump(config))
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "trainer",
        "prepare",
        "--conf",
        str(conf),
        "--run",
        str(run),
        "model.name=resizer_i3d",
    ]
    command += ["model.mode=8x112"]
    environment = {**os.environ, "VIDJOBS_TERMINATION_LOG": str(run.parent / "termination.json")}
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def test_the_verb_reports_and_ends_with_65(
    damaged_set: Path, conf_of: ConfOf, tmp_path: Path
) -> None:
    """Report and summary come first, then the error that names the clip; the cache is beside the runs."""
    files(damaged_set)[3].write_bytes(b"")
    config, run = conf_of(damaged_set), tmp_path / "runs" / "p"
    process = _verb(config, run)
    output, errors = process.communicate(timeout=60)
    name = str(tubes(damaged_set)[3]["path"])
    assert process.returncode == 65, errors
    assert f"train: 1 cannot be read: {name} (the file is empty)" in output
    assert "train: 15 of 16 clips" in output
    assert errors.startswith("error: 1 of 16 clips")
    report = json.loads((run / "prepare.json").read_text())
    assert report["splits"]["train"]["broken"] == [{"id": name, "problem": "the file is empty"}]
    assert Path(report["cache"]) == cache_folder(config, RunFolder(run).root)


@pytest.mark.slow
def test_sigterm_ends_prepare_with_75_and_a_retry_finishes(conf_of: ConfOf, tmp_path: Path) -> None:
    """As in a pod that is evicted."""
    from trainer.synthetic import make_tinyvirat

    root, run = tmp_path / "TinyVIRAT", tmp_path / "runs" / "p"
    make_tinyvirat(root, train=400, test=7, seed=1, frames=(30, 60), sizes=(64, 128))
    config = conf_of(root, size=112)
    process = _verb(config, run)
    cache = cache_folder(config, run)
    while not list(cache.glob(".train-*.u8.part")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert not (cache / "train.json").exists()
    again = _verb(config, run)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert json.loads((run / "prepare.json").read_text())["splits"]["train"]["cached"] == 400
