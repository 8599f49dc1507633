"""Scores against their definitions, by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from trainer.metrics import confusion, decide, f1_by_class, multi_label

PROBABILITIES = np.array(
    [[0.9, 0.2, 0.5], [0.4, 0.8, 0.1], [0.7, 0.6, 0.3], [0.1, 0.1, 0.1]], np.float32
)
TARGETS = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)


def test_scores_by_hand() -> None:
    """Four clips, three classes: F1 of the classes is 1/2, 1, 1; clips 0 and 3 are exactly right."""
    scores = multi_label(PROBABILITIES, TARGETS, 0.5)
    assert scores == {
        "f1_macro": pytest.approx((0.5 + 1 + 1) / 3),
        "f1_micro": pytest.approx(2 * 4 / (2 * 4 + 1 + 1)),
        "f1_samples": pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4),
        "accuracy": 0.5,
    }


def test_confusion_is_true_negatives_first() -> None:
    assert confusion(PROBABILITIES, TARGETS, 0.5).tolist() == [
        [[1, 1], [1, 1]],
        [[2, 0], [0, 2]],
        [[3, 0], [0, 1]],
    ]


def test_the_threshold_itself_counts_as_present() -> None:
    assert decide(np.array([[0.5, 0.49]], np.float32), 0.5).tolist() == [[1, 0]]


def test_a_class_never_seen_and_never_found_scores_nothing() -> None:
    """And without a warning."""
    nothing = np.zeros((3, 2), np.float32)
    assert multi_label(nothing, nothing, 0.5) == {
        "f1_macro": 0.0,
        "f1_micro": 0.0,
        "f1_samples": 0.0,
        "accuracy": 1.0,
    }
    assert f1_by_class(confusion(nothing, nothing, 0.5)).tolist() == [0.0, 0.0]


def test_one_class_is_scored_like_many() -> None:
    """scikit-learn would read a single column as binary labels."""
    probabilities, targets = PROBABILITIES[:, :1], TARGETS[:, :1]
    assert multi_label(probabilities, targets, 0.5) == {
        "f1_macro": 0.5,
        "f1_micro": 0.5,
        "f1_samples": 0.25,
        "accuracy": 0.5,
    }
    assert confusion(probabilities, targets, 0.5).tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize(("left", "right"), [((0, 3), (0, 3)), ((2, 3), (3, 3)), ((3,), (3,))])
def test_what_has_no_clips_or_no_common_shape_is_refused(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="one shape"):
        multi_label(np.zeros(left, np.float32), np.zeros(right, np.float32), 0.5)


@given(data=st.data(), clips=st.integers(1, 12), classes=st.integers(1, 5))
def test_scores_follow_from_the_confusion(data: st.DataObject, clips: int, classes: int) -> None:
    """Macro and micro F1 and the counts agree for any answers."""
    probabilities = data.draw(
        nps.arrays(np.float32, (clips, classes), elements=st.floats(0, 1, width=32))
    )
    targets = data.draw(
        nps.arrays(np.float32, (clips, classes), elements=st.sampled_from([0.0, 1.0]))
    )
    counts = confusion(probabilities, targets, 0.5)
    scores = multi_label(probabilities, targets, 0.5)
    assert counts.shape == (classes, 2, 2)
    assert (counts.sum(axis=(1, 2)) == clips).all()
    assert scores["f1_macro"] == pytest.approx(f1_by_class(counts).mean())
    assert scores["f1_micro"] == pytest.approx(f1_by_class(counts.sum(axis=0, keepdims=True))[0])
