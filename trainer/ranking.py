"""Scores of videos by the order of their classes: top-k, class accuracy, mAP; and how a video's clips become one answer.

Pure array functions; N samples, V videos, C classes. A sample belongs to a video by its number in `videos_N`; the rows of
what is combined are the videos in ascending order of these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Combine = Literal["mean", "max"]
TOPS = (1, 3, 5)
BLOCK = 1 << 24  # scores that best_frames sorts at once


def ranks(scores_NC: Floats, labels_N: Ints) -> Ints:
    """(N,): place of the true class when classes are sorted by falling score, 0 = first; of equal scores the lower index comes first.

    A true class whose score is not a number comes last.
    """
    own = np.take_along_axis(scores_NC, labels_N[:, None], axis=1)
    before = np.arange(scores_NC.shape[1]) < labels_N[:, None]
    places: Ints = ((scores_NC > own) | ((scores_NC == own) & before)).sum(axis=1)
    return np.where(np.isnan(own[:, 0]), scores_NC.shape[1], places)


def order(scores_NC: Floats, k: int) -> Ints:
    """(N, min(k, C)): the classes of the highest scores, best first; of equal scores the lower index comes first."""
    places: Ints = np.argsort(-scores_NC, axis=1, kind="stable")[:, :k]
    return places


def top(ranks_N: Ints, k: int) -> float:
    """Share of the samples whose true class is among the first k. With fewer than k classes that is all of them."""
    return float((ranks_N < k).mean())


def class_accuracy(
    hits_N: NDArray[np.bool_], labels_N: Ints, classes: int
) -> tuple[NDArray[np.float64], Ints]:
    """(accuracy of each class, 0 for one without samples; its samples), each (C,)."""
    support = np.bincount(labels_N, minlength=classes)
    right = np.bincount(labels_N[hits_N], minlength=classes)
    accuracy = np.divide(right, support, out=np.zeros(classes), where=support > 0)
    return accuracy, support.astype(np.int64)


def mean_average_precision(scores_NC: Floats, targets_NC: Floats) -> float:
    """Mean of `average_precision` over the classes that occur; 0 when none does."""
    actual, finite = targets_NC >= 0.5, np.where(np.isnan(scores_NC), -1.0, scores_NC)
    present = np.flatnonzero(actual.any(axis=0)).tolist()
    areas = [average_precision(finite[:, place], actual[:, place]) for place in present]
    return float(np.mean(areas)) if areas else 0.0


def average_precision(scores_N: Floats, actual_N: NDArray[np.bool_]) -> float:
    """Sum over the thresholds of precision times what recall gains there, not interpolated: scikit-learn's average_precision_score.

    Its five checks of each column cost 13 ms a class, this 2: with 400 classes that is felt in every validation.
    """
    falling = np.argsort(-scores_N, kind="stable")
    hits, ordered = np.cumsum(actual_N[falling]), scores_N[falling]
    # equal scores are one threshold
    thresholds = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    gained = np.diff(hits[thresholds], prepend=0) / hits[-1]
    return float((gained * hits[thresholds] / (thresholds + 1)).sum())


def one_label(videos_VC: Floats, targets_VC: Floats) -> dict[str, float]:
    """top1, top3 and top5 of videos, mean_error = mean of the top-1 and top-5 errors (the Kinetics challenge's), mean_class_accuracy, map.

    `mean_class_accuracy` and `map` are means over the classes that occur.
    """
    labels = targets_VC.argmax(axis=1)
    places = ranks(videos_VC, labels)
    tops = {f"top{k}": top(places, k) for k in TOPS}
    accuracy, support = class_accuracy(places == 0, labels, videos_VC.shape[1])
    return {
        **tops,
        "mean_error": 1 - (tops["top1"] + tops["top5"]) / 2,
        "mean_class_accuracy": float(accuracy[support > 0].mean()),
        "map": mean_average_precision(videos_VC, targets_VC),
    }


def confusion(decided_N: Ints, labels_N: Ints, classes: int) -> Ints:
    """(C, C): how often a class (row) was answered with a class (column)."""
    counts = np.bincount(labels_N * classes + decided_N, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def combine(scores_NC: Floats, videos_N: Ints, how: Combine = "mean") -> NDArray[np.float32]:
    """(V, C): mean, in float64, or maximum of the scores of each video's samples."""
    rows, starts, counts = _groups(videos_N)
    sorted_NC = scores_NC if rows is None else scores_NC[rows]
    if how == "max":
        return np.maximum.reduceat(sorted_NC, starts, axis=0).astype(np.float32)
    sums = np.add.reduceat(sorted_NC, starts, axis=0, dtype=np.float64)
    return (sums / counts[:, None]).astype(np.float32)


def best_frames(
    scores_NC: Floats, videos_N: Ints, kept: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """K -> (V, C): for each video and class the mean of its min(K, samples of the video) highest scores, as in the two-stream system."""
    rows, starts, counts = _groups(videos_N)
    classes = scores_NC.shape[1]
    found = {k: np.empty((len(starts), classes), np.float32) for k in kept}
    width = int(counts.max())
    chunk = max(BLOCK // (width * classes), 1)
    for begin in range(0, len(starts), chunk):
        own = counts[begin : begin + chunk]
        first, total = starts[begin], int(own.sum())
        video = np.repeat(np.arange(len(own)), own)
        place = np.arange(total) - np.repeat(starts[begin : begin + chunk] - first, own)
        padded = np.full((len(own), width, classes), -np.inf, np.float32)
        padded[video, place] = (
            scores_NC[first : first + total]
            if rows is None
            else scores_NC[rows[first : first + total]]
        )
        padded.sort(axis=1)
        sums = np.cumsum(padded[:, ::-1], axis=1, dtype=np.float64)
        for k, into in found.items():
            taken = np.minimum(k, own)
            into[begin : begin + chunk] = sums[np.arange(len(own)), taken - 1] / taken[:, None]
    return found


def _groups(videos_N: Ints) -> tuple[Ints | None, Ints, Ints]:
    """(rows that bring each video's samples together, None where they are; first row of each video; its samples)."""
    rows = None if (np.diff(videos_N) >= 0).all() else np.argsort(videos_N, kind="stable")
    _, starts, counts = np.unique(
        videos_N if rows is None else videos_N[rows], return_index=True, return_counts=True
    )
    return rows, starts, counts
