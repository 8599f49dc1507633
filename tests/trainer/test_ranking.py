"""Orders of classes and what becomes of a video's clips, against the definitions, clip by clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sklearn.metrics import average_precision_score

from trainer import ranking

SCORES = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])  # few values, so that there are ties


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores (N, C), labels (N,), videos (N,) in any order)."""
    samples, classes = draw(st.integers(1, 12)), draw(st.integers(1, 7))
    scores = draw(nps.arrays(np.float32, (samples, classes), elements=SCORES))
    labels = draw(nps.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))
    return scores, labels, draw(nps.arrays(np.int64, samples, elements=st.integers(0, 4)))


@given(answers())
def test_a_rank_is_the_place_in_the_order(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Equal scores stand in the order of the classes, everywhere alike."""
    scores, labels, _ = given_
    by_hand = [
        sorted(range(len(row)), key=lambda place, row=row: (-row[place], place))
        for row in scores.tolist()
    ]
    assert ranking.order(scores, scores.shape[1]).tolist() == by_hand
    ranks = ranking.ranks(scores, labels)
    assert ranks.tolist() == [
        places.index(label) for places, label in zip(by_hand, labels.tolist(), strict=True)
    ]
    for k in (1, 3, 5):
        right = [
            label in places[:k] for places, label in zip(by_hand, labels.tolist(), strict=True)
        ]
        assert ranking.top(ranks, k) == pytest.approx(np.mean(right))
        assert scores.shape[1] > k or ranking.top(ranks, k) == 1


def test_what_is_not_a_number_is_never_right() -> None:
    scores = np.array([[np.nan, 0.2], [np.nan, np.nan]], np.float32)
    assert ranking.ranks(scores, np.array([0, 1])).tolist() == [2, 2]
    assert ranking.ranks(scores, np.array([1, 1])).tolist() == [0, 2]
    assert 0 <= ranking.mean_average_precision(scores, np.eye(2, dtype=np.float32)) <= 1


@given(answers(), st.sampled_from(["mean", "max"]))
def test_clips_of_a_video_become_one_answer(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray], how: ranking.Combine
) -> None:
    scores, _, videos = given_
    rows = [
        getattr(scores[videos == video].astype(np.float64), how)(axis=0)
        for video in sorted(set(videos.tolist()))
    ]
    np.testing.assert_allclose(ranking.combine(scores, videos, how), np.stack(rows), rtol=1e-6)


@given(answers(), st.integers(1, 6), st.integers(1, 40))
def test_best_frames_are_the_highest_of_each_class(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray], kept: int, block: int
) -> None:
    """Whatever the number of videos that are sorted at once."""
    scores, _, videos = given_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", block)
        found = ranking.best_frames(scores, videos, [kept, 100])
    for k, best in found.items():
        for row, video in zip(best, sorted(set(videos.tolist())), strict=True):
            own = scores[videos == video]
            by_hand = [
                np.mean(sorted(own[:, place].tolist(), reverse=True)[:k])
                for place in range(scores.shape[1])
            ]
            np.testing.assert_allclose(row, by_hand, rtol=1e-6)
    np.testing.assert_allclose(found[100], ranking.combine(scores, videos), rtol=1e-6)


@given(answers())
def test_map_is_scikit_learns_mean_over_the_classes_that_occur(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """With ties, and with classes that no video shows."""
    scores, labels, _ = given_
    targets = np.eye(scores.shape[1], dtype=np.float32)[labels]
    areas = [
        average_precision_score(labels == place, scores[:, place])
        for place in sorted(set(labels.tolist()))
    ]
    assert ranking.mean_average_precision(scores, targets) == pytest.approx(np.mean(areas))


@given(answers())
def test_confusion_and_class_accuracy_count_the_same(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, labels, _ = given_
    classes = scores.shape[1]
    decided = ranking.order(scores, 1)[:, 0]
    counts = ranking.confusion(decided, labels, classes)
    accuracy, support = ranking.class_accuracy(decided == labels, labels, classes)
    assert counts.sum() == len(labels)
    assert (counts.sum(axis=1) == support).all()
    np.testing.assert_allclose(np.diag(counts), accuracy * support)
