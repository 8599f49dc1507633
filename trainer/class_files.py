"""What `test` and `eval` write of each class: confusion.npy, classes.json, and a table that people and reports read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer import metrics
from trainer.answers import CLASSES, save_array
from trainer.run_folder import RunFolder

COUNTS = ("support", "tp", "fp", "fn", "tn")


def write(
    folder: RunFolder,
    classes: Sequence[str],
    confusion: NDArray[np.int64],
    train_counts: Sequence[int] | None,
) -> None:
    """f1_by_class.csv where videos have several labels (confusion (C, 2, 2)), class_accuracy.csv where they have one (confusion (C, C)).

    Raises CannotWrite.
    """
    place = folder.predictions
    save_array(place / "confusion.npy", confusion)
    folder.write_text(place / CLASSES, json.dumps(list(classes), indent=0) + "\n")
    if confusion.ndim == 3:
        folder.write_text(place / "f1_by_class.csv", f1_table(classes, confusion, train_counts))
    else:
        folder.write_text(
            place / "class_accuracy.csv", accuracy_table(classes, confusion, train_counts)
        )


def f1_table(
    classes: Sequence[str], confusion_C22: NDArray[np.int64], train_counts: Sequence[int] | None
) -> str:
    """CSV, a row for each class in index order; `support` counts the clips that show it, `train_count` those in training."""
    f1 = metrics.f1_by_class(confusion_C22)
    rows = [
        [name, _count(train_counts, index), *_counts(confusion_C22[index]), f"{f1[index]:.6f}"]
        for index, name in enumerate(classes)
    ]
    return _csv(["class", "train_count", *COUNTS, "precision", "recall", "f1"], rows)


def accuracy_table(
    classes: Sequence[str], confusion_CC: NDArray[np.int64], train_counts: Sequence[int] | None
) -> str:
    """The same of videos with one class: `accuracy` is the share of its videos that were answered rightly, `confused_with` the
    class that most of the others were answered with, `confused` how many."""
    each_C22 = one_against_all(confusion_CC)
    wrong = confusion_CC.copy()
    np.fill_diagonal(wrong, 0)
    rows = []
    for index, name in enumerate(classes):
        counts, other = _counts(each_C22[index]), int(wrong[index].argmax())
        most = int(wrong[index, other])
        f1 = metrics.f1_by_class(each_C22[index : index + 1])[0]
        rows.append(
            [
                name,
                _count(train_counts, index),
                *counts,
                f"{f1:.6f}",
                counts[-1],
                classes[other] if most else "",
                most,
            ]
        )
    return _csv(
        [
            "class",
            "train_count",
            *COUNTS,
            "precision",
            "recall",
            "f1",
            "accuracy",
            "confused_with",
            "confused",
        ],
        rows,
    )


def one_against_all(confusion_CC: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C, 2, 2), as metrics.confusion counts them, of videos with one class."""
    hits = np.diag(confusion_CC)
    missed, invented = confusion_CC.sum(axis=1) - hits, confusion_CC.sum(axis=0) - hits
    rest = confusion_CC.sum() - hits - missed - invented
    return np.stack([np.stack([rest, invented], axis=1), np.stack([missed, hits], axis=1)], axis=1)


def _counts(counts_22: NDArray[np.int64]) -> list[int | str]:
    (tn, fp), (fn, tp) = counts_22.tolist()
    return [tp + fn, tp, fp, fn, tn, f"{tp / max(tp + fp, 1):.6f}", f"{tp / max(tp + fn, 1):.6f}"]


def _count(train_counts: Sequence[int] | None, index: int) -> int | str:
    return "" if train_counts is None else train_counts[index]


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
