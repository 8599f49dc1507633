"""Clips, orders and splits: pure functions of their seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.sampling import (
    TIE_SECONDS,
    clip_indices,
    draw,
    even_times,
    every_start,
    last_start,
    order,
    permutation,
    resample,
    share,
    span_of,
    uniform_starts,
)
from trainer.data.splits import split_validation

SEEDS = st.integers(0, 2**31)


@given(total=st.integers(1, 200), frames=st.integers(1, 64), start=st.integers(0, 200))
def test_a_clip_is_consecutive_and_repeats_the_last_frame(
    total: int, frames: int, start: int
) -> None:
    """Never a frame outside the video, never backwards."""
    indices = clip_indices(total, frames, start)
    assert len(indices) == frames
    assert indices.tolist() == [min(start + offset, total - 1) for offset in range(frames)]


@pytest.mark.parametrize("bad", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_a_clip_of_nothing_is_refused(bad: tuple[int, int, int]) -> None:
    """A programmer's mistake, said at once."""
    with pytest.raises(ValueError, match="a clip needs frames"):
        clip_indices(*bad)


@given(
    total=st.integers(1, 100),
    frames=st.integers(1, 64),
    seed=SEEDS,
    epoch=st.integers(0, 1000),
    sample=st.integers(0, 10**6),
)
def test_a_random_start_leaves_a_whole_clip(
    total: int, frames: int, seed: int, epoch: int, sample: int
) -> None:
    """A video of exactly `frames` frames starts at 0 (the original failed there); the same key draws the same."""
    key = {"seed": seed, "epoch": epoch, "sample": sample}
    first = draw(total, frames, **key, random_start=True, flip=0.5)
    assert first == draw(total, frames, **key, random_start=True, flip=0.5)
    assert 0 <= first.start <= last_start(total, frames)
    assert draw(total, frames, **key, random_start=False, flip=0.5).start == 0


def test_starts_and_flips_are_fair() -> None:
    """Every start occurs, the last one too, and about half of the clips are mirrored."""
    draws = [
        draw(20, 16, seed=1, epoch=epoch, sample=sample, random_start=True, flip=0.5)
        for epoch in range(20)
        for sample in range(50)
    ]
    counts = np.bincount([one.start for one in draws], minlength=5)
    assert len(counts) == 5
    assert counts.min() > 140  # of 1000 over 5 starts
    assert 430 < sum(one.flip for one in draws) < 570
    assert not any(
        draw(20, 16, seed=1, epoch=1, sample=n, random_start=True, flip=0.0).flip
        for n in range(100)
    )
    assert all(
        draw(20, 16, seed=1, epoch=1, sample=n, random_start=True, flip=1.0).flip
        for n in range(100)
    )


def test_draws_are_pinned() -> None:
    """A resumed run draws what the first one drew, with any version of numpy: these numbers must never change."""
    assert order(8, seed=1, epoch=1, shuffle=True).tolist() == [5, 0, 2, 3, 6, 1, 7, 4]
    drawn = [draw(40, 16, seed=1, epoch=2, sample=n, random_start=True, flip=0.5) for n in range(5)]
    assert [(one.start, one.flip) for one in drawn] == [
        (4, True),
        (8, True),
        (8, False),
        (0, True),
        (13, True),
    ]


@given(n=st.integers(0, 300), seed=SEEDS, epoch=st.integers(0, 100))
def test_an_order_has_every_clip_once(n: int, seed: int, epoch: int) -> None:
    """Shuffled or not."""
    assert sorted(order(n, seed=seed, epoch=epoch, shuffle=True).tolist()) == list(range(n))
    assert order(n, seed=seed, epoch=epoch, shuffle=False).tolist() == list(range(n))


def test_each_epoch_and_seed_has_its_own_order() -> None:
    """Orders differ in both."""
    orders = {
        tuple(order(50, seed=seed, epoch=epoch, shuffle=True).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


@given(total=st.integers(0, 100), world=st.integers(1, 9))
def test_shares_cover_everything_once(total: int, world: int) -> None:
    """In rank order, sizes at most one apart."""
    parts = [list(range(total))[share(total, rank, world)] for rank in range(world)]
    assert [number for part in parts for number in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


LABELS = st.lists(st.lists(st.integers(0, 4), max_size=3, unique=True), max_size=60)


@given(labels=LABELS, fraction=st.floats(0.01, 0.5), seed=SEEDS)
def test_validation_has_its_part_of_every_class(
    labels: list[list[int]], fraction: float, seed: int
) -> None:
    """At least max(int(fraction * count), 1) clips of each class with two clips or more; the parts are disjoint and complete."""
    train, val = split_validation(labels, 5, fraction=fraction, seed=seed)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    for label in range(5):
        count = sum(label in own for own in labels)
        held = sum(label in labels[clip] for clip in val.tolist())
        assert held >= (max(int(fraction * count), 1) if count > 1 else 0)


def test_validation_is_seeded_and_close_to_its_fraction() -> None:
    """The same seed gives the same clips; with several labels a clip, the union is not much more than the fraction."""
    labels = [
        [int(label) for label in np.flatnonzero(permutation(26, 5, clip) < 2)]
        for clip in range(2000)
    ]
    _, val = split_validation(labels, 26, fraction=0.1, seed=22)
    assert val.tolist() == split_validation(labels, 26, fraction=0.1, seed=22)[1].tolist()
    assert val.tolist() != split_validation(labels, 26, fraction=0.1, seed=23)[1].tolist()
    assert 200 <= len(val) < 320
    assert len(split_validation(labels, 26, fraction=0.0, seed=22)[1]) == 0


@given(
    total=st.integers(1, 100),
    frames=st.integers(1, 20),
    stride=st.integers(1, 4),
    start=st.integers(0, 99),
    loop=st.booleans(),
)
def test_a_clip_stays_in_its_video(
    total: int, frames: int, stride: int, start: int, loop: bool
) -> None:
    """Every stride-th frame; past the end the last one repeats, or it goes on from the clip's own start."""
    indices = clip_indices(total, frames, min(start, total - 1), stride=stride, loop=loop).tolist()
    first = min(start, total - 1)
    whole = [first + place * stride for place in range(frames)]
    assert indices == [
        n if n < total else first + (n - first) % (total - first) if loop else total - 1
        for n in whole
    ]


@given(total=st.integers(1, 300), span=st.integers(1, 64), clips=st.integers(1, 12))
def test_uniform_starts_cover_both_ends(total: int, span: int, clips: int) -> None:
    """floor(i * (N - L) / (clips - 1)): as many as were asked for, the first and the last whole clip among them; one is the centre."""
    starts = uniform_starts(total, span, clips).tolist()
    assert len(starts) == clips
    if clips == 1:
        assert starts == [max(total // 2 - span // 2, 0)]
    else:
        assert (starts[0], starts[-1]) == (0, max(total - span, 0))
        assert starts == [i * max(total - span, 0) // (clips - 1) for i in range(clips)]
    assert all(0 <= start <= max(total - span, 0) for start in starts)


@given(total=st.integers(1, 300), span=st.integers(1, 64), step=st.integers(0, 40))
def test_every_start_leaves_no_frame_out(total: int, span: int, step: int) -> None:
    """Step 0: windows side by side, the rest at the end is one too. A step: all whole windows, as many as a video has."""
    starts = every_start(total, span, step).tolist()
    if step == 0:
        assert starts == list(range(0, total, span))
    else:
        assert starts == list(range(0, max(total - span, 0) + 1, step))


def test_windows_of_the_two_stream_system() -> None:
    """arange((seq_len // 2) * gap, n - (seq_len // 2) * gap - 1, frame_step) are centres; ours begin half a window earlier."""
    frames, seq_len, gap, frame_step = 100, 5, 2, 6
    half = seq_len // 2 * gap
    centres = np.arange(half, frames - half - 1, frame_step)
    starts = every_start(frames, span_of(seq_len, gap), frame_step)
    assert (starts + half).tolist()[: len(centres)] == centres.tolist()
    assert len(starts) <= len(centres) + 1


@given(n=st.integers(1, 40), size=st.integers(1, 150), seed=SEEDS, shuffle=st.booleans())
def test_an_epoch_of_a_size_takes_every_clip_equally_often(
    n: int, size: int, seed: int, shuffle: bool
) -> None:
    """Every clip once before any twice; repeats have numbers of their own; a small one is the beginning of the whole order."""
    numbers = order(n, seed=seed, epoch=2, shuffle=shuffle, size=size)
    assert len(set(numbers.tolist())) == len(numbers) == size
    counts = np.bincount(numbers % n, minlength=n)
    assert counts.max() - counts.min() <= 1
    assert (numbers // n).tolist() == [place // n for place in range(size)]
    assert numbers[:n].tolist() == order(n, seed=seed, epoch=2, shuffle=shuffle)[:size].tolist()


@given(rate=st.floats(1, 120), fps=st.floats(1, 120), frames=st.integers(1, 200))
def test_resampling_keeps_the_duration_and_the_order(rate: float, fps: float, frames: int) -> None:
    """Each kept frame is the one shown at (k + 1/2) / fps, never more than half a kept frame away in time; a tie is the later frame's."""
    times = even_times(frames, rate) + 3.5
    shown = resample(times, fps)
    assert len(shown) == max(
        int((frames - 1) / rate * fps + (fps / rate if frames > 1 else 0) + 0.5 + 1e-6), 1
    )
    assert (np.diff(shown) >= 0).all()
    assert shown.min() >= 0
    assert shown.max() < frames
    moments = 3.5 + (np.arange(len(shown)) + 0.5) / fps + TIE_SECONDS
    assert (times[shown] <= moments).all()
    assert all(
        last == frames - 1 or times[last + 1] > moment
        for last, moment in zip(shown.tolist(), moments.tolist(), strict=True)
    )


@pytest.mark.parametrize("rate", [12, 24, 25, 30000 / 1001, 30, 60])
def test_half_the_rate_is_every_second_frame_of_videos_of_any_length(rate: float) -> None:
    """Each moment is a tie there, and the rate is measured from time stamps: rounding must not decide which of two frames it is."""
    for frames in range(10, 400):
        # of microseconds, whose mean is not quite the rate
        stamps = np.round(np.arange(frames) / rate, 6)
        measured = (frames - 1) / float(stamps[-1])
        for times in (even_times(frames, measured), stamps, np.round(stamps, 3)):
            assert resample(times, rate / 2)[: frames // 2].tolist() == list(range(1, frames, 2))


def test_resampling_follows_time_stamps() -> None:
    """The same rate changes nothing; a frame that is shown for long comes often; halves and doubles are even."""
    for fps in (6, 25, 29.97, 30, 2160 / 77):
        assert resample(np.round(even_times(60, fps), 3), fps).tolist() == list(range(60))
    assert resample(even_times(8, 30), 15).tolist() == [1, 3, 5, 7]
    assert resample(even_times(3, 25), 50).tolist() == [0, 0, 1, 1, 2, 2]
    assert resample(np.array([0.0, 0.1, 0.6, 0.7]), 10).tolist() == [0, 1, 1, 1, 1, 1, 2, 3]


@given(
    labels=LABELS,
    fraction=st.floats(0.01, 0.5),
    seed=SEEDS,
    groups=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=60),
)
def test_validation_never_parts_a_group(
    labels: list[list[int]], fraction: float, seed: int, groups: list[str]
) -> None:
    """Clips of one recording are all in training or all in validation; no class loses all of its recordings alone."""
    _, val = split_validation(labels, 5, fraction=fraction, seed=seed, groups=groups[: len(labels)])
    held = set(val.tolist())
    for group in "abc":
        sides = {clip in held for clip in range(len(labels)) if groups[clip] == group}
        assert len(sides) <= 1
    without = split_validation(labels, 5, fraction=fraction, seed=seed)
    assert [
        part.tolist()
        for part in split_validation(
            labels, 5, fraction=fraction, seed=seed, groups=[""] * len(labels)
        )
    ] == [part.tolist() for part in without]


def test_validation_of_groups_of_any_size_is_close_to_its_fraction() -> None:
    """HMDB51's recordings give 1 to 41 clips: what is held out is off by half of the largest at most."""
    sizes = [1, 2, 3, 5, 8, 20, 41] * 6
    groups = [f"g{place}" for place, size in enumerate(sizes) for _ in range(size)]
    for seed in range(20):
        _, val = split_validation([[0]] * len(groups), 1, fraction=0.1, seed=seed, groups=groups)
        assert abs(len(val) - 0.1 * len(groups)) <= max(sizes) / 2
    _, val = split_validation([[0]] * 60, 1, fraction=0.1, seed=1, groups=["a"] * 20 + ["b"] * 40)
    assert len(val) in (20, 40)  # never none
