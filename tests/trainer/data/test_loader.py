"""Batches: every clip exactly once an epoch, the same for any number of workers and processes, from any point on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import Config
from trainer.data.cache import FORMAT, Entry, Index
from trainer.data.clip_set import Starts
from trainer.data.frame_source import CacheSource
from trainer.data.kept import Kept
from trainer.data.loader import Batch, ClipSet, _plan, batches, cache_folder, open_split, order
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.errors import DataError
from trainer.prepare import ensure_cache

FRAMES, SIZE = 8, 16


@pytest.fixture(scope="module")
def cache(made_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made set's cache. Do not change it."""
    folder = tmp_path_factory.mktemp("cache")
    ensure_cache(_conf(made_set), folder, print)
    return folder


def _conf(root: Path, **data: object) -> Config:
    from trainer.config import DataConf

    return Config(
        data=DataConf(root=str(root), **{"frames": FRAMES, "size": SIZE, "start": "random", **data})
    )  # type: ignore[arg-type]


def same(one: list[Batch], other: list[Batch]) -> bool:
    """Bitwise."""
    return len(one) == len(other) and all(
        a.total == b.total and all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        for a, b in zip(one, other, strict=True)
    )


@given(
    n=st.integers(0, 60),
    batch=st.integers(1, 20),
    world=st.integers(1, 5),
    seed=st.integers(0, 99),
    epoch=st.integers(1, 9),
    start=st.integers(0, 60),
)
def test_every_clip_comes_once_over_all_ranks(
    n: int, batch: int, world: int, seed: int, epoch: int, start: int
) -> None:
    """Whatever the world size, the ranks' shares joined are the global micro-batches of the order, from `start` on."""
    whole = order(n, seed=seed, epoch=epoch, shuffle=True)[start:]
    plans = [_plan(whole, batch, rank=rank, world=world) for rank in range(world)]
    joined: list[int] = []
    for number, parts in enumerate(zip(*plans, strict=True)):
        micro = [index for _, part in parts for index in part.tolist()]
        assert {total for total, _ in parts} == {len(micro)}
        assert micro == whole[number * batch : (number + 1) * batch].tolist()
        joined += micro
    assert joined == whole.tolist()


@given(micro=st.integers(0, 10), batch=st.integers(1, 7), rank=st.integers(0, 1))
def test_going_on_inside_an_epoch_gives_the_same_rest(micro: int, batch: int, rank: int) -> None:
    """The tail after k global micro-batches is what the uninterrupted epoch had after them."""
    whole = order(40, seed=3, epoch=2, shuffle=True)
    tail = _plan(whole[micro * batch :], batch, rank=rank, world=2)
    uninterrupted = _plan(whole, batch, rank=rank, world=2)[micro:]
    assert [(total, part.tolist()) for total, part in tail] == [
        (total, part.tolist()) for total, part in uninterrupted
    ]


def test_workers_processes_and_resuming_change_nothing(made_set: Path, cache: Path) -> None:
    """Clips, targets and indices are bitwise the same; torch's own random state is left alone."""
    clips = open_split(_conf(made_set), "train", cache)
    state = torch.get_rng_state()
    alone = list(batches(clips, epoch=3, batch=4, seed=1, shuffle=True))
    assert same(alone, list(batches(clips, epoch=3, batch=4, seed=1, shuffle=True, workers=2)))
    assert same(
        alone[2:], list(batches(clips, epoch=3, batch=4, seed=1, shuffle=True, start=8, workers=1))
    )
    shares = [
        list(batches(clips, epoch=3, batch=4, seed=1, shuffle=True, rank=rank, world=3))
        for rank in range(3)
    ]
    joined = [
        torch.cat(parts)
        for parts in zip(*[[batch.clips_BTHWC for batch in share] for share in shares], strict=True)
    ]
    assert all(
        torch.equal(part, batch.clips_BTHWC) for part, batch in zip(joined, alone, strict=True)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert not same(alone, list(batches(clips, epoch=4, batch=4, seed=1, shuffle=True)))


def test_a_rank_without_clips_gets_an_empty_batch(made_set: Path, cache: Path) -> None:
    """So that every process takes part in every step; from workers too."""
    clips = open_split(_conf(made_set), "train", cache)
    for workers in (0, 1):
        shares = list(
            batches(
                clips, epoch=1, batch=1, seed=1, shuffle=False, rank=1, world=2, workers=workers
            )
        )
        assert len(shares) == len(clips)
        assert {tuple(batch.clips_BTHWC.shape) for batch in shares} == {(0, FRAMES, SIZE, SIZE, 3)}
        assert {(tuple(batch.targets_BC.shape), batch.total) for batch in shares} == {((0, 26), 1)}


@pytest.mark.parametrize("bad", [{"batch": 0}, {"rank": 2, "world": 2}, {"start": -1}])
def test_impossible_batches_are_refused(made_set: Path, cache: Path, bad: dict[str, int]) -> None:
    """At the first use."""
    with pytest.raises(ValueError, match="make no batches"):
        next(
            batches(
                open_split(_conf(made_set), "train", cache),
                **{"epoch": 1, "batch": 4, "seed": 1, "shuffle": True, **bad},
            )
        )


def test_a_batch_has_the_promised_types(made_set: Path, cache: Path) -> None:
    """uint8 frames, multi-hot float32 targets, int64 places."""
    clips = open_split(_conf(made_set), "train", cache)
    batch = next(batches(clips, epoch=1, batch=4, seed=1, shuffle=True))
    assert (batch.clips_BTHWC.dtype, batch.targets_BC.dtype, batch.indices_B.dtype) == (
        torch.uint8,
        torch.float32,
        torch.int64,
    )
    assert batch.clips_BTHWC.shape == (4, FRAMES, SIZE, SIZE, 3)
    assert torch.equal(batch.targets_BC, torch.from_numpy(clips.targets[batch.indices_B.numpy()]))
    clip, target, index = clips[1, int(batch.indices_B[2])]
    assert torch.equal(clip, batch.clips_BTHWC[2])
    assert torch.equal(target, batch.targets_BC[2])
    assert index == batch.indices_B[2]


def _numbered(tmp_path: Path, lengths: list[int]) -> tuple[Path, Index]:
    """A cache in which every frame is filled with its number in its clip, its left half 100 brighter."""
    frames = [
        np.full((SIZE, SIZE, 3), number, np.uint8) for length in lengths for number in range(length)
    ]
    for frame in frames:
        frame[:, : SIZE // 2] += 100
    (tmp_path / "x.u8").write_bytes(np.stack(frames).tobytes())
    offsets = np.cumsum([0, *lengths])
    entries = [
        Entry(
            id=str(place),
            labels=(place % 2,),
            annotated=length,
            source="",
            offset=int(offsets[place]) * SIZE * SIZE * 3,
            frames=length,
            kept_height=SIZE,
            kept_width=SIZE,
        )
        for place, length in enumerate(lengths)
    ]
    facts = {
        "format": FORMAT,
        "fingerprint": "",
        "dataset": "x",
        "classes": ("a", "b"),
        "multi_label": True,
        "fps": 30.0,
    }
    kept = Kept(resize=f"{SIZE}x{SIZE}")
    return tmp_path, Index(
        **facts, kept=kept, splits=("train", "test"), data="x.u8", entries=tuple(entries)
    )


def _clip_set(made: tuple[Path, Index], config: Config, *, training: bool) -> ClipSet:
    """All clips of a cache that was made by hand."""
    folder, index = made
    starts = Starts.of(config.data, "train" if training else "test", training=training)
    source = CacheSource(folder, index, index.entries)
    return ClipSet(
        index, index.entries, source, config.data, seed=1, training=training, starts=starts
    )


def test_training_clips_move_and_mirror_as_a_whole(tmp_path: Path) -> None:
    """Consecutive frames from a start that depends on the epoch; all frames of a clip are mirrored, or none."""
    clips = _clip_set(_numbered(tmp_path, [20, 20]), _conf(tmp_path), training=True)
    seen = set()
    for epoch in range(200):
        clip = clips[epoch, 0][0].numpy()
        mirrored = bool(clip[0, 0, -1, 0] > clip[0, 0, 0, 0])
        numbers = clip[:, 0, 0 if mirrored else -1, 0].astype(int)
        assert np.array_equal(np.diff(numbers), np.ones(FRAMES - 1))
        bright = clip[:, :, SIZE // 2 :] if mirrored else clip[:, :, : SIZE // 2]
        assert bool((bright >= 100).all())
        seen.add((int(numbers[0]), mirrored))
    assert {start for start, _ in seen} == set(range(20 - FRAMES + 1))
    assert {mirrored for _, mirrored in seen} == {True, False}


def test_evaluation_clips_are_the_first_frames_as_they_are(tmp_path: Path) -> None:
    """No augmentation, in any epoch (the original mirrored its validation clips)."""
    clips = _clip_set(_numbered(tmp_path, [20]), _conf(tmp_path, flip=1.0), training=False)
    for epoch in range(20):
        assert clips[epoch, 0][0][:, 0, -1, 0].tolist() == list(range(FRAMES))


@pytest.mark.parametrize(
    ("length", "numbers"),
    [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (5, [0, 1, 2, 3, 4, 4, 4, 4]), (1, [0] * 8)],
)
def test_a_short_video_repeats_its_last_frame(
    tmp_path: Path, length: int, numbers: list[int]
) -> None:
    """Its own last frame, not the next clip's first; a video of exactly the clip's length is used whole."""
    made = _numbered(tmp_path, [length, 20])
    for training in (True, False):
        clips = _clip_set(made, _conf(tmp_path, flip=0.0), training=training)
        assert clips[1, 0][0][:, 0, -1, 0].tolist() == numbers


def test_splits_are_disjoint_and_validation_does_not_depend_on_the_clip_length(
    made_set: Path, cache: Path
) -> None:
    """Training and validation share nothing; `short: drop` takes clips out of both, and moves none."""
    train, val = (set(open_split(_conf(made_set), split, cache).ids) for split in ("train", "val"))
    assert not train & val
    assert len(train | val) == 16
    long = _conf(made_set, short="drop", frames=32)
    assert set(open_split(long, "train", cache).ids) < train
    assert set(open_split(long, "val", cache).ids) <= val
    assert len(open_split(_conf(made_set, val_fraction=0.0), "train", cache)) == 16
    assert len(open_split(_conf(made_set, val_fraction=0.0), "val", cache)) == 0
    assert len(open_split(_conf(made_set), "test", cache)) == 8


def test_a_missing_or_other_cache_is_refused(made_set: Path, cache: Path, tmp_path: Path) -> None:
    """With the verb that makes it."""
    with pytest.raises(DataError, match=r"no cache of split .*prepare"):
        open_split(_conf(made_set), "train", tmp_path)
    with pytest.raises(
        DataError, match="holds tinyvirat at 16x16 px, the conf wants tinyvirat at 28x28 px"
    ):
        open_split(_conf(made_set, size=28), "train", cache)


def test_the_default_cache_folder_depends_on_what_changes_the_frames(
    made_set: Path, tmp_path: Path
) -> None:
    """Runs that differ in the clip only share it; data.cache wins."""
    run = tmp_path / "runs" / "a-train-x"
    base = cache_folder(_conf(made_set), run)
    assert base.parent == tmp_path / "runs" / ".cache"
    assert (
        cache_folder(_conf(made_set, frames=32, val_fraction=0.2, flip=0.0), run.with_name("b"))
        == base
    )
    assert cache_folder(_conf(made_set, size=28), run) != base
    assert cache_folder(_conf(made_set, cache="/somewhere"), run) == Path("/somewhere")


def test_normalisation_is_the_published_one() -> None:
    """x / 255 * 2 - 1, channels first: -1 for black, 1 for white."""
    clips = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8, 1).repeat(1, 1, 1, 1, 3)
    to_input = ModelInput(PRESETS["minus_one_one"])
    video = to_input(clips)
    assert video.shape == (1, 3, 4, 8, 8)
    assert video.dtype == torch.float32
    expected = clips[..., 0].numpy().astype(np.float32) / 255 * 2 - 1
    assert np.abs(video[:, 1].numpy() - expected).max() < 1e-6
    assert (video.min(), video.max()) == (-1, 1)
    with pytest.raises(ValueError, match="not uint8"):
        to_input(video)


PROGRAM = """
    import os, signal, sys, threading, time
    from multiprocessing import resource_tracker
    from multiprocessing.queues import Queue
    from pathlib import Path
    from trainer.config import Config, DataConf
    from trainer.data.loader import batches, open_split

    feed, forget = Queue._feed, resource_tracker.unregister

    def feed_slowly(*what):
        feed(*what)
        time.sleep(0.05)

    def forget_slowly(*what):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        forget(*what)

    if __name__ == "__main__":
        # a busy machine: the threads that feed torch's queues are late to end, and to free the last semaphores
        Queue._feed, resource_tracker.unregister = staticmethod(feed_slowly), forget_slowly
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        config = Config(data=DataConf(root=sys.argv[1], frames=8, size=16))
        clips = open_split(config, "train", Path(sys.argv[2]))
        source = batches(clips, epoch=1, batch=1, seed=1, shuffle=True, workers=2)
        next(source)
        print("ready", flush=True)
        while not asked and sys.argv[3] == "wait":
            time.sleep(0.01)
        print("rest", len(list(source)) if sys.argv[3] == "wait" else "left", flush=True)
        del source
        time.sleep(0.2)  # so that those threads are in the middle of it when the trainer ends
        {ending}
"""


def _start(
    made_set: Path, cache: Path, tmp_path: Path, mode: str, ending: str = "pass"
) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(ending=ending)))
    command = [sys.executable, "-W", "error", str(program), str(made_set), str(cache), mode]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )


def _end(trainer: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return trainer.communicate(timeout=30)
    finally:
        trainer.kill()
        trainer.communicate()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_workers_working(
    made_set: Path, cache: Path, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM reach the trainer only: it still gets every batch it waits for, and ends at once, without a warning."""
    trainer = _start(made_set, cache, tmp_path, "wait")
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "ready\n"
    os.killpg(trainer.pid, signal.SIGTERM)
    output, errors = _end(trainer)
    assert (trainer.returncode, errors) == (0, "")
    assert output == f"rest {len(open_split(_conf(made_set), 'train', cache)) - 1}\n"


@pytest.mark.slow
def test_a_trainer_that_stops_in_the_middle_leaves_nothing_behind(
    made_set: Path, cache: Path, tmp_path: Path
) -> None:
    """It ends with its own exit code, soon, although its workers have batches ready."""
    trainer = _start(made_set, cache, tmp_path, "leave", ending="sys.exit(75)")
    output, errors = _end(trainer)
    assert (trainer.returncode, output, errors) == (75, "ready\nrest left\n", "")


@pytest.mark.slow
def test_a_trainer_that_is_killed_takes_its_workers_with_it(
    made_set: Path, cache: Path, tmp_path: Path
) -> None:
    """Out of memory, for example: no process that it started is left."""
    trainer = _start(made_set, cache, tmp_path, "wait")
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "ready\n"
    assert len(_processes(tmp_path)) >= 3  # the server and its workers
    trainer.kill()
    trainer.communicate()
    deadline = time.monotonic() + 20
    while _processes(tmp_path):
        assert time.monotonic() < deadline, _processes(tmp_path)
        time.sleep(0.05)


def _processes(folder: Path) -> list[str]:
    """Ids of running processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue  # it ended meanwhile
    return found
