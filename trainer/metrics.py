"""Multi-label scores of a set of clips, by scikit-learn: macro, micro and samples F1, exact-match accuracy, confusion by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]] | NDArray[np.int64]
Ints = NDArray[np.int64]


def decide(probabilities: Floats, threshold: float) -> Ints:
    """(N, C) probabilities to 0 and 1: a class counts as present from the threshold on."""
    return (probabilities >= threshold).astype(np.int64)


def multi_label(probabilities: Floats, targets: Floats, threshold: float = 0.5) -> dict[str, float]:
    """f1_macro (mean over classes), f1_micro (over all decisions), f1_samples (mean over clips), accuracy (all classes of a clip right).

    Both are (N, C). An F1 without anything to find and anything found is 0. Raises ValueError without clips.
    """
    from sklearn.metrics import accuracy_score, f1_score

    predicted, actual = _pair(probabilities, targets, threshold)
    scores = {
        f"f1_{average}": f1_score(actual, predicted, average=average, zero_division=0)
        for average in ("macro", "micro", "samples")
    }
    return {key: float(value) for key, value in scores.items()} | {
        "accuracy": float(accuracy_score(actual, predicted))
    }


def confusion(probabilities: Floats, targets: Floats, threshold: float = 0.5) -> Ints:
    """(C, 2, 2): for each class [[true negatives, false positives], [false negatives, true positives]]."""
    from sklearn.metrics import multilabel_confusion_matrix

    predicted, actual = _pair(probabilities, targets, threshold)
    counts: Ints = multilabel_confusion_matrix(actual, predicted).astype(np.int64)
    return counts[: targets.shape[1]]


def f1_by_class(confusion_C22: Ints) -> NDArray[np.float64]:
    """(C,): 2 tp / (2 tp + fn + fp), 0 for a class that was neither there nor found."""
    hits = 2.0 * confusion_C22[:, 1, 1]
    total = hits + confusion_C22[:, 1, 0] + confusion_C22[:, 0, 1]
    scores: NDArray[np.float64] = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    return scores


def _pair(probabilities: Floats, targets: Floats, threshold: float) -> tuple[Ints, Ints]:
    if probabilities.shape != targets.shape or probabilities.ndim != 2 or not len(targets):
        raise ValueError(
            f"need one shape (N, C) with clips in it, not {probabilities.shape} and {targets.shape}"
        )
    predicted, actual = decide(probabilities, threshold), decide(targets, 0.5)
    # scikit-learn reads one column as binary labels; the same class twice has the same scores
    if targets.shape[1] == 1:
        predicted, actual = np.repeat(predicted, 2, axis=1), np.repeat(actual, 2, axis=1)
    return predicted, actual
