"""Clips, orders and splits: pure functions of their seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.sampling import clip_indices, draw, last_start, order, permutation, share
from trainer.data.splits import split_validation

SEEDS = st.integers(0, 2**31)


@given(total=st.integers(1, 200), frames=st.integers(1, 64), start=st.integers(0, 200))
def test_a_clip_is_consecutive_and_repeats_the_last_frame(total: int, frames: int, start: int) -> None:
    """Never a frame outside the video, never backwards."""
    indices = clip_indices(total, frames, start)
    assert len(indices) == frames
    assert indices.tolist() == [min(start + offset, total - 1) for offset in range(frames)]


@pytest.mark.parametrize("bad", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_a_clip_of_nothing_is_refused(bad: tuple[int, int, int]) -> None:
    """A programmer's mistake, said at once."""
    with pytest.raises(ValueError, match="a clip needs frames"):
        clip_indices(*bad)


@given(total=st.integers(1, 100), frames=st.integers(1, 64), seed=SEEDS, epoch=st.integers(0, 1000), sample=st.integers(0, 10**6))
def test_a_random_start_leaves_a_whole_clip(total: int, frames: int, seed: int, epoch: int, sample: int) -> None:
    """A video of exactly `frames` frames starts at 0 (the original failed there); the same key draws the same."""
    key = {"seed": seed, "epoch": epoch, "sample": sample}
    first = draw(total, frames, **key, random_start=True, flip=0.5)
    assert first == draw(total, frames, **key, random_start=True, flip=0.5)
    assert 0 <= first.start <= last_start(total, frames)
    assert draw(total, frames, **key, random_start=False, flip=0.5).start == 0


def test_starts_and_flips_are_fair() -> None:
    """Every start occurs, the last one too, and about half of the clips are mirrored."""
    draws = [draw(20, 16, seed=1, epoch=epoch, sample=sample, random_start=True, flip=0.5) for epoch in range(20) for sample in range(50)]
    counts = np.bincount([one.start for one in draws], minlength=5)
    assert len(counts) == 5
    assert counts.min() > 140  # of 1000 over 5 starts
    assert 430 < sum(one.flip for one in draws) < 570
    assert not any(draw(20, 16, seed=1, epoch=1, sample=n, random_start=True, flip=0.0).flip for n in range(100))
    assert all(draw(20, 16, seed=1, epoch=1, sample=n, random_start=True, flip=1.0).flip for n in range(100))


def test_draws_are_pinned() -> None:
    """A resumed run draws what the first one drew, with any version of numpy: these numbers must never change."""
    assert order(8, seed=1, epoch=1, shuffle=True).tolist() == [5, 0, 2, 3, 6, 1, 7, 4]
    drawn = [draw(40, 16, seed=1, epoch=2, sample=n, random_start=True, flip=0.5) for n in range(5)]
    assert [(one.start, one.flip) for one in drawn] == [(4, True), (8, True), (8, False), (0, True), (13, True)]


@given(n=st.integers(0, 300), seed=SEEDS, epoch=st.integers(0, 100))
def test_an_order_has_every_clip_once(n: int, seed: int, epoch: int) -> None:
    """Shuffled or not."""
    assert sorted(order(n, seed=seed, epoch=epoch, shuffle=True).tolist()) == list(range(n))
    assert order(n, seed=seed, epoch=epoch, shuffle=False).tolist() == list(range(n))


def test_each_epoch_and_seed_has_its_own_order() -> None:
    """Orders differ in both."""
    orders = {tuple(order(50, seed=seed, epoch=epoch, shuffle=True).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(total=st.integers(0, 100), world=st.integers(1, 9))
def test_shares_cover_everything_once(total: int, world: int) -> None:
    """In rank order, sizes at most one apart."""
    parts = [list(range(total))[share(total, rank, world)] for rank in range(world)]
    assert [number for part in parts for number in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


LABELS = st.lists(st.lists(st.integers(0, 4), max_size=3, unique=True), max_size=60)


@given(labels=LABELS, fraction=st.floats(0.01, 0.5), seed=SEEDS)
def test_validation_has_its_part_of_every_class(labels: list[list[int]], fraction: float, seed: int) -> None:
    """At least max(int(fraction * count), 1) clips of each class with two clips or more; the parts are disjoint and complete."""
    train, val = split_validation(labels, 5, fraction=fraction, seed=seed)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    for label in range(5):
        count = sum(label in own for own in labels)
        held = sum(label in labels[clip] for clip in val.tolist())
        assert held >= (max(int(fraction * count), 1) if count > 1 else 0)


def test_validation_is_seeded_and_close_to_its_fraction() -> None:
    """The same seed gives the same clips; with several labels a clip, the union is not much more than the fraction."""
    labels = [[int(label) for label in np.flatnonzero(permutation(26, 5, clip) < 2)] for clip in range(2000)]
    _, val = split_validation(labels, 26, fraction=0.1, seed=22)
    assert val.tolist() == split_validation(labels, 26, fraction=0.1, seed=22)[1].tolist()
    assert val.tolist() != split_validation(labels, 26, fraction=0.1, seed=23)[1].tolist()
    assert 200 <= len(val) < 320
    assert len(split_validation(labels, 26, fraction=0.0, seed=22)[1]) == 0
