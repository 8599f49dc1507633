"""Scores of answers in ActivityNet's form, as the older systems' own programs count them.

    answers       {"version", "results": {video: [{"label", "score"}, ...]}, "external_data"}
    ground truth  {"labels", "database": {video: {"subset", "annotations": {"label"}}}}     annotations: also a list of them

ANETclassification (ActivityNet's evaluation toolkit, used by the two-stream system): mean over the classes that occur of the
average precision interpolated as in PASCAL VOC 2011, hit@k and average hit@k. UCFclassification (3D-ResNets, used by the
efficient 3D CNNs) is its hit@k over one subset. A video without an answer is wrong in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

Truth = dict[str, tuple[str, ...]]  # video -> its labels
Answers = dict[str, list[tuple[str, float]]]  # video -> (label, score)
SUBSET = "validation"  # as annotations of UCF101 name what is scored
DUMMY = 1e-7  # score of a video that could not be read


def truth_of(raw: Any, subset: str = "") -> Truth:
    """The videos of one subset, or all of them. Raises DataError for another form."""
    try:
        database = {
            str(video): entry
            for video, entry in raw["database"].items()
            if subset in ("", entry["subset"])
        }
        return {video: tuple(_labels(entry)) for video, entry in database.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"this is no ground truth in ActivityNet's form: {error!r}",
            hint='it has {"database": {video: {...}}}',
        ) from error


def answers_of(raw: Any) -> Answers:
    """Video -> labels and scores as listed. Raises DataError for another form."""
    try:
        rows = {
            str(video): [(str(row["label"]), float(row["score"])) for row in listed]
            for video, listed in raw["results"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"these are no answers in ActivityNet's form: {error!r}"
        raise DataError(
            message, hint='they have {"results": {video: [{"label": ..., "score": ...}]}}'
        ) from error
    return rows


def hit_at(truth: Truth, answers: Answers, k: int, *, average: bool = False) -> float:
    """Share of the videos with one of their labels (`average`: with what share of them) among their k best answers.

    Of equal scores the one listed first comes first. Raises ValueError without videos.
    """
    if not truth:
        raise ValueError("there is no video to score")
    shares = []
    for video, labels in truth.items():
        best = {label for label, _ in sorted(answers.get(video, ()), key=lambda row: -row[1])[:k]}
        share = sum(label in best for label in labels) / max(len(labels), 1)
        shares.append(share if average else math.ceil(share))
    return math.fsum(shares) / len(shares)


def mean_average_precision(truth: Truth, answers: Answers) -> float:
    """Mean over the classes that occur in `truth` of `interpolated`: every answer about a class counts, also about unknown videos."""
    positives: dict[str, set[str]] = {}
    for video, labels in truth.items():
        for label in labels:
            positives.setdefault(label, set()).add(video)
    said: dict[str, list[tuple[float, str]]] = {label: [] for label in positives}
    for video, rows in answers.items():
        for label, score in rows:
            if label in said:
                said[label].append((score, video))
    return math.fsum(
        _average_precision(said[label], videos) for label, videos in positives.items()
    ) / max(len(positives), 1)


def interpolated(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """Area under the falling hull of precision over recall, as PASCAL VOC 2011 defines it."""
    hull = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    steps = np.concatenate([[0.0], recall, [1.0]])
    return float(((steps[1:] - steps[:-1]) * hull[1:]).sum())


def scores(truth: Truth, answers: Answers) -> dict[str, float]:
    """anet_map, hit1 and hit5."""
    return {
        "anet_map": mean_average_precision(truth, answers),
        "hit1": hit_at(truth, answers, 1),
        "hit5": hit_at(truth, answers, 5),
    }


def answers_json(
    classes: Sequence[str],
    best: Mapping[str, Sequence[tuple[int, float]]],
    missing: Mapping[str, int],
    *,
    version: str = "VERSION 1.3",
) -> dict[str, Any]:
    """`best`: video -> (class, score), best first. `missing`: unread video -> its class; each gets one wrong answer."""
    results = {
        video: [{"label": classes[place], "score": score} for place, score in rows]
        for video, rows in best.items()
    }
    results |= {video: _dummy(classes, label) for video, label in missing.items()}
    return {"version": version, "results": results, "external_data": {"used": False, "details": ""}}


def truth_json(
    classes: Sequence[str], labels: Mapping[str, int], subset: str = SUBSET
) -> dict[str, Any]:
    """`labels`: video -> its class."""
    # twice: the two-stream system reads it beside `annotations`
    names = {video: classes[label] for video, label in labels.items()}
    database = {
        video: {"subset": subset, "label": name, "annotations": {"label": name}}
        for video, name in names.items()
    }
    return {"labels": list(classes), "database": database}


def _average_precision(said: list[tuple[float, str]], positives: set[str]) -> float:
    """Of one class; a second answer about a video is a false one."""
    found: set[str] = set()
    right = []
    for _, video in sorted(said, key=lambda row: -row[0]):
        right.append(video in positives and video not in found)
        found.add(video)
    hits = np.cumsum(right, dtype=np.float64)
    return interpolated(hits / np.arange(1, len(right) + 1), hits / len(positives))


def _labels(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry["annotations"]
    listed = annotations if isinstance(annotations, list) else [annotations]
    return list(dict.fromkeys(str(annotation["label"]) for annotation in listed))


def _dummy(classes: Sequence[str], label: int) -> list[dict[str, Any]]:
    """An answer that says nothing, and is not by chance the right one."""
    wrong = next((name for place, name in enumerate(classes) if place != label), None)
    return [] if wrong is None else [{"label": wrong, "score": DUMMY}]
