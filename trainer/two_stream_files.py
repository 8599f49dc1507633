"""The files that the two-stream system's test program left for its evaluation, for those who still read them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.answers import Answers
from trainer.run_folder import RunFolder

KEPT = (10, 20, 30, 50)  # K, where eval.best_frames names none
LABELS = 5  # classes a video
VERSION = "KINETICS VERSION 1.0"


def write_frames(
    folder: RunFolder,
    step: int,
    videos: Sequence[str],
    probabilities_NC: NDArray[np.float32],
    *,
    video_of: NDArray[np.int64],
    fids: NDArray[np.int64],
) -> None:
    """output_val_<step>.pkl: {video: {"scores": (n, C) by frame, "fids": (n,)}}; `fids`: each sample's frame, numbered from 1.

    The scores are softmax values: the system's own were logits, of which no mean over the best frames is a share. Raises CannotWrite.
    """
    order = np.lexsort((fids, video_of))
    places, starts = np.unique(video_of[order], return_index=True)
    groups = zip(places.tolist(), np.split(order, starts[1:]), strict=True)
    content = {
        videos[place]: {"scores": probabilities_NC[rows], "fids": fids[rows]}
        for place, rows in groups
    }
    folder.write_bytes(
        folder.predictions / f"output_val_{step:06d}.pkl", pickle.dumps(content, protocol=2)
    )


def write_best(
    folder: RunFolder, step: int, answers: Answers, best: dict[int, NDArray[np.float32]]
) -> None:
    """output_val_<step>-clstk-<K>.json: the five best classes of each video, their scores divided by their sum. Raises CannotWrite."""
    for k, table in best.items():
        content = answers.answers_json(table, LABELS, version=VERSION)
        for video in answers.videos:
            rows = content["results"][video]
            total = sum(row["score"] for row in rows) or 1.0
            content["results"][video] = [{**row, "score": row["score"] / total} for row in rows]
        folder.write_text(
            folder.predictions / f"output_val_{step:06d}-clstk-{k:03d}.json",
            json.dumps(content) + "\n",
        )
