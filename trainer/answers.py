"""What was said of the videos of one split, one label each, as files: what `eval` and `fuse` write and `fuse` reads.

video_scores.npy (V, C), videos.json (their ids, row by row), classes.json, val.json and ground_truth.json (activitynet.py), accuracy.txt
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import activitynet, ranking
from trainer.errors import DataError
from trainer.run_folder import RunFolder, atomic

SCORES, VIDEOS, CLASSES = "video_scores.npy", "videos.json", "classes.json"
ANSWERS, TRUTH, METRICS = "val.json", "ground_truth.json", "metrics.json"


@dataclass(frozen=True, eq=False)
class Answers:
    """Row i of `scores` and `labels` is about video `videos[i]`."""

    classes: tuple[str, ...]
    videos: tuple[str, ...]
    scores: NDArray[np.float32]  # (V, C)
    labels: NDArray[np.int64]  # (V,)
    # video that could not be read -> its class
    missing: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, place: Path) -> Answers:
        """What an eval run left in `place`. Raises DataError when it is not all there, or does not fit together."""
        try:
            table = np.load(place / SCORES, allow_pickle=False)
            videos, classes, truth = (
                json.loads((place / name).read_text(encoding="utf-8"))
                for name in (VIDEOS, CLASSES, TRUTH)
            )
        except (OSError, ValueError) as error:
            hint = f"it has {SCORES}, {VIDEOS}, {CLASSES} and {TRUTH} when `eval` has scored videos with one label each"
            raise DataError(f"{place} has no predictions to read: {error}", hint=hint) from error
        labels = {
            video: classes.index(names[0])
            for video, names in activitynet.truth_of(truth).items()
            if names[0] in classes
        }
        lacking = [video for video in videos if video not in labels]
        if table.shape != (len(videos), len(classes)) or lacking:
            message = f"{place / SCORES} is {table.shape}, beside {len(videos)} videos and {len(classes)} classes"
            raise DataError(
                f"{message}; {len(lacking)} videos have no label" if lacking else message,
                hint="run `eval` again",
            )
        read = np.array([labels.pop(video) for video in videos], dtype=np.int64)
        return cls(tuple(classes), tuple(videos), table.astype(np.float32), read, labels)

    @property
    def targets(self) -> NDArray[np.float32]:
        """(V, C), one-hot."""
        return np.eye(len(self.classes), dtype=np.float32)[self.labels]

    @property
    def truth(self) -> activitynet.Truth:
        """Every video's label, of the missing ones too."""
        return activitynet.truth_of(self._truth_json())

    def hits(self, labels: int) -> dict[str, float]:
        """hit1, hit5 and anet_map of the best `labels` classes of each video; the missing videos are wrong."""
        return activitynet.scores(
            self.truth, activitynet.answers_of(self.answers_json(self.scores, labels))
        )

    def write(self, folder: RunFolder, labels: int) -> None:
        """The files; `labels`: classes a video in val.json. Raises CannotWrite."""
        place = folder.predictions
        save_array(place / SCORES, self.scores)
        for name, names in ((VIDEOS, self.videos), (CLASSES, self.classes)):
            folder.write_text(place / name, json.dumps(names, indent=0) + "\n")
        for name, content in (
            (ANSWERS, self.answers_json(self.scores, labels)),
            (TRUTH, self._truth_json()),
        ):
            folder.write_text(place / name, json.dumps(content) + "\n")
        hits = self.hits(labels)
        folder.write_text(
            place / "accuracy.txt",
            f"Top-1 Accuracy: {hits['hit1']}\nTop-5 Accuracy: {hits['hit5']}\n",
        )

    def answers_json(
        self, table_VC: NDArray[np.float32], labels: int, **options: Any
    ) -> dict[str, Any]:
        """The best `labels` classes of each video, in ActivityNet's form."""
        places = ranking.order(table_VC, labels)
        best = np.nan_to_num(np.take_along_axis(table_VC, places, axis=1))  # JSON has no NaN
        rows = {
            video: list(zip(own.tolist(), values.tolist(), strict=True))
            for video, own, values in zip(self.videos, places, best, strict=True)
        }
        return activitynet.answers_json(self.classes, rows, self.missing, **options)

    def _truth_json(self) -> dict[str, Any]:
        known = dict(zip(self.videos, self.labels.tolist(), strict=True)) | dict(self.missing)
        return activitynet.truth_json(self.classes, known)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """An .npy file, whole or not at all, without a second copy of the array in memory. Raises CannotWrite."""
    with atomic(path) as sink:
        np.lib.format.write_array(sink, array, allow_pickle=False)
