"""ActivityNet's scores against their definitions, written out video by video."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import activitynet
from trainer.activitynet import (
    answers_json,
    answers_of,
    hit_at,
    mean_average_precision,
    scores,
    truth_json,
    truth_of,
)
from trainer.errors import DataError

LABELS = ["run", "walk", "open, close", "sit"]
VIDEOS = [f"v{number}" for number in range(6)]
ROWS = st.lists(
    st.tuples(st.sampled_from(LABELS), st.floats(0, 1)),
    max_size=4,
    unique_by=(lambda row: row[0], lambda row: row[1]),
)
TRUTH = st.dictionaries(
    st.sampled_from(VIDEOS),
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=2, unique=True).map(tuple),
    min_size=1,
)
ANSWERS = st.dictionaries(st.sampled_from(VIDEOS), ROWS)


def by_hand(truth: activitynet.Truth, answers: activitynet.Answers, label: str) -> float:
    """For each video that has the label, in the order found: the best precision at that recall or later."""
    positives = [video for video, labels in truth.items() if label in labels]
    said = sorted(
        (
            (score, video)
            for video, rows in answers.items()
            for name, score in rows
            if name == label
        ),
        key=lambda row: -row[0],
    )
    right = [video in positives for _, video in said]
    precision = [sum(right[: place + 1]) / (place + 1) for place in range(len(right))]
    return sum(max(precision[place:]) for place, hit in enumerate(right) if hit) / len(positives)


@given(TRUTH, ANSWERS)
def test_map_is_the_interpolated_precision_at_each_hit(
    truth: activitynet.Truth, answers: activitynet.Answers
) -> None:
    """Scores of one class may tie between videos: then any order of theirs is allowed, and the listed one is taken."""
    occurring = {label for labels in truth.values() for label in labels}
    expected = sum(by_hand(truth, answers, label) for label in occurring) / len(occurring)
    assert mean_average_precision(truth, answers) == pytest.approx(expected)


@given(TRUTH, ANSWERS, st.integers(1, 5))
def test_hits(truth: activitynet.Truth, answers: activitynet.Answers, k: int) -> None:
    """Any label among the first k; a video without an answer is wrong; nothing is divided by what was answered."""
    hits, shares = [], []
    for video, labels in truth.items():
        best = [label for label, _ in sorted(answers.get(video, []), key=lambda row: -row[1])][:k]
        hits.append(bool(set(best) & set(labels)))
        shares.append(len(set(best) & set(labels)) / len(labels))
    assert hit_at(truth, answers, k) == pytest.approx(sum(hits) / len(truth))
    assert hit_at(truth, answers, k, average=True) == pytest.approx(math.fsum(shares) / len(truth))


def test_what_is_written_is_read_again() -> None:
    """Through JSON text; a missing video has one wrong answer, whatever its class is."""
    best = {"v0": [(0, 0.75), (1, 0.25)], "v1": [(2, 0.5), (0, 0.4)]}
    labels = {"v0": 1, "v1": 2, "v2": 0, "v3": 3}
    answers = answers_of(json.loads(json.dumps(answers_json(LABELS, best, {"v2": 0, "v3": 3}))))
    truth = truth_of(json.loads(json.dumps(truth_json(LABELS, labels))), "validation")
    assert truth == {"v0": ("walk",), "v1": ("open, close",), "v2": ("run",), "v3": ("sit",)}
    assert answers["v0"] == [("run", 0.75), ("walk", 0.25)]
    assert answers["v2"] == [("walk", 1e-7)]
    assert scores(truth, answers) == pytest.approx(
        {"anet_map": 2 / 4, "hit1": 1 / 4, "hit5": 2 / 4}
    )


def test_annotations_of_other_programs_are_read() -> None:
    """ActivityNet lists several annotations a video; another subset is not scored."""
    raw = {
        "database": {
            "a": {
                "subset": "validation",
                "annotations": [{"label": "x"}, {"label": "y"}, {"label": "x"}],
            }
        }
    }
    raw["database"]["b"] = {"subset": "training", "annotations": {"label": "x"}}  # type: ignore[dict-item]  # both forms on purpose
    assert truth_of(raw, "validation") == {"a": ("x", "y")}
    assert set(truth_of(raw)) == {"a", "b"}
    assert hit_at({"a": ("x", "y")}, {"a": [("y", 0.5)]}, 1, average=True) == 0.5


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"database": {"a": {}}, "results": {"a": 3}},
        {"database": 1, "results": {"a": [{"label": "x"}]}},
    ],
)
def test_another_form_is_refused(raw: object) -> None:
    with pytest.raises(DataError, match="ActivityNet's form"):
        truth_of(raw, "validation")
    with pytest.raises(DataError, match="ActivityNet's form"):
        answers_of(raw)
