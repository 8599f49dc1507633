"""The made dataset: in TinyVIRAT's shape, and its labels are in the motion alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from trainer.config import Config
from trainer.data.all_datasets import open_dataset
from trainer.data.decode import read_video
from trainer.data.kept import Kept
from trainer.synthetic import CLASSES, MOTIONS, MOVING, STILL, make_tinyvirat, plan, render

OFFICIAL = (
    "Closing Entering Exiting Interacts Loading Misc Opening Pull Push Riding Talking Transport_HeavyCarry activity_carrying "
    "activity_gesturing activity_running activity_standing activity_walking specialized_miscellaneous specialized_talking_phone "
    "specialized_texting_phone specialized_using_tool vehicle_moving vehicle_starting vehicle_stopping vehicle_turning_left "
    "vehicle_turning_right"
)


def test_the_classes_are_the_official_ones(made_set: Path) -> None:
    """26 names in index order; each belongs to one motion."""
    assert " ".join(CLASSES) == OFFICIAL
    assert (made_set / "classes.txt").read_text().split() == OFFICIAL.split()
    assert sum(len(names) for names in MOTIONS.values()) == 26


def test_it_has_the_official_layout_and_tells_the_truth(
    made_set: Path, conf_of: Callable[..., Config]
) -> None:
    """Every tube is H.264 at 30 fps, square, with the frames and the size that the annotation says."""
    dataset = open_dataset(conf_of(made_set).data)
    for split, count in (("train", 16), ("test", 8)):
        annotation = json.loads((made_set / f"tiny_{split}.json").read_text())["tubes"]
        clips = dataset.clips(split)
        assert len(clips) == count == len({clip.id for clip in clips})
        for tube, clip in zip(annotation, clips, strict=True):
            video = read_video(clip.path, Kept(resize="8x8"))
            assert [len(video.frames), video.height, video.width] == tube["dim"]
            assert (round(video.fps, 6), video.fault, video.variable_rate, video.promised) == (
                30.0,
                "",
                False,
                clip.frames,
            )
            with av.open(str(clip.path)) as container:
                assert container.streams.video[0].codec_context.name == "h264"


@pytest.mark.parametrize("count", [7, 40])
def test_every_class_occurs_in_every_split(count: int) -> None:
    """From 7 clips on; with several labels a clip, and short, small and large ones among them."""
    tubes = plan(count, seed=(5, 0), frames=(24, 64), sizes=(10, 128))
    shown = {label for tube in tubes for label in tube.annotation()["label"]}  # type: ignore[attr-defined]  # a list
    assert shown == set(CLASSES)
    assert all(
        tube.size % 2 == 0 and 10 <= tube.size <= 128 and 24 <= tube.frames <= 64 for tube in tubes
    )
    if count == 40:
        assert min(tube.frames for tube in tubes) < 32 < max(tube.frames for tube in tubes)
        assert max(len(tube.motions) for tube in tubes) > 1


def test_the_same_arguments_make_the_same_files(tmp_path: Path) -> None:
    """In one process or several; another seed makes others."""
    for name, seed, processes in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        make_tinyvirat(
            tmp_path / name,
            train=7,
            test=2,
            seed=seed,
            frames=(8, 12),
            sizes=(10, 32),
            processes=processes,
        )
    contents = [
        {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}
        for root in sorted(tmp_path.iterdir())
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def _rendered(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 16, 28, 28, 3) frames of 28 px, and (N, 7) which motions they show."""
    tubes = plan(count, seed=(seed, 0), frames=(16, 16), sizes=(28, 28))
    videos = np.stack([np.stack(render(tube)) for tube in tubes])
    shown = np.array(
        [[name in tube.motions for name in MOVING] + [not tube.motions] for tube in tubes]
    )
    return videos, shown


def _scores(
    train: np.ndarray, test: np.ndarray, shown: np.ndarray, shown_test: np.ndarray
) -> list[float]:
    """Area under the ROC of a logistic regression on these features, for each motion: 0.5 is chance."""
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    scores = []
    for column in range(shown.shape[1]):
        model = LogisticRegression(C=0.01, max_iter=200).fit(
            (train - mean) / spread, shown[:, column]
        )
        scores.append(
            float(
                roc_auc_score(
                    shown_test[:, column], model.decision_function((test - mean) / spread)
                )
            )
        )
    return scores


@pytest.mark.slow
def test_labels_are_in_the_motion_and_not_in_the_frames() -> None:
    """Pixels, brightness and spread of single frames and of the mean frame say nothing; simple measures of change say much."""
    (videos, shown), (others, shown_others) = _rendered(500, seed=1), _rendered(300, seed=2)

    def frame(video_NTHWC: np.ndarray, number: int) -> np.ndarray:
        image = video_NTHWC[:, number].astype(np.float32)
        moments = [
            image.mean(axis=(1, 2, 3)),
            image.std(axis=(1, 2, 3)),
            (image > 128).mean(axis=(1, 2, 3)),
        ]
        return np.column_stack([image[:, ::2, ::2].mean(axis=3).reshape(len(image), -1), *moments])

    def mean(video_NTHWC: np.ndarray) -> np.ndarray:
        return (
            video_NTHWC.astype(np.float32)
            .mean(axis=1)[:, ::2, ::2]
            .mean(axis=3)
            .reshape(len(video_NTHWC), -1)
        )

    def change(video_NTHWC: np.ndarray) -> np.ndarray:
        bright = (video_NTHWC.astype(np.float32).mean(axis=4) > 128).astype(np.float32)
        rows, columns, area = bright.mean(axis=3), bright.mean(axis=2), bright.mean(axis=(2, 3))
        dark = np.where(
            bright[:, 1:] + bright[:, :-1] > 0,
            0,
            np.abs(np.diff(video_NTHWC.astype(np.float32).mean(axis=4), axis=1)),
        )
        parts = [
            np.abs(np.diff(part, axis=1)).reshape(len(bright), 15, -1).mean(axis=2)
            for part in (rows, columns, area[..., None])
        ]
        parts.append(dark.mean(axis=(2, 3)))
        return np.log(np.column_stack([part.mean(axis=1) for part in parts]) + 1e-4)

    for features in (lambda v: frame(v, 0), lambda v: frame(v, 9), mean):
        scores = _scores(features(videos), features(others), shown, shown_others)
        assert abs(np.mean(scores) - 0.5) < 0.06, scores
        assert max(scores) < 0.68, scores
    moving = dict(
        zip(
            [*MOVING, STILL],
            _scores(change(videos), change(others), shown, shown_others),
            strict=True,
        )
    )
    assert min(moving[name] for name in ("pan", "grow_shrink", "shake", STILL)) > 0.85, moving
    assert np.mean(list(moving.values())) > 0.8, moving


@pytest.mark.slow
def test_three_hundred_clips_take_seconds(tmp_path: Path) -> None:
    """By the command line, without a warning: less than 20 s on 2 cores."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "trainer.synthetic",
        "--out",
        str(tmp_path / "set"),
        "--train",
        "250",
        "--test",
        "50",
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "250 clips for training, 50 for testing, 26 classes" in result.stdout
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "arguments", [["--min-size", "4"], ["--max-size", "8"], ["--frames", "9", "3"]]
)
def test_impossible_sizes_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    """By the command line, before anything is written."""
    command = [
        sys.executable,
        "-m",
        "trainer.synthetic",
        "--out",
        str(tmp_path / "set"),
        *arguments,
    ]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert not (tmp_path / "set").exists()


def test_alone_gives_each_clip_one_motion_or_none() -> None:
    """All seven kinds are equally frequent, so a guess is right once in seven."""
    tubes = plan(70, seed=(3, 0), frames=(16, 16), sizes=(28, 28), alone=True)

    shown = Counter(tube.motions for tube in tubes)

    assert len(shown) == 7
    assert set(shown.values()) == {10}
