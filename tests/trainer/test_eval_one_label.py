"""`test`, `eval` and `fuse` of videos with one class each, several clips a video, on real files: every number again by hand."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import activitynet, checkpoints, eval, fuse, models, synthetic, test
from trainer.config import Config, FuseConf, parse
from trainer.data.normalise import PRESETS
from trainer.errors import DataError
from trainer.run_folder import RunFolder

CLASSES = ["run", "sit", "walk"]
VIDEOS = {"run": (20, 16), "sit": (40, 17), "walk": (16, 33)}  # frames of each test video
STEP = 8
BROKEN = "walk/broken"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, split already: one video a class for training, two for testing, and one that cannot be read."""
    root, random = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for split, lengths in (("train", dict.fromkeys(CLASSES, (16,))), ("test", VIDEOS)):
        for name, frames in lengths.items():
            (root / split / name).mkdir(parents=True)
            for number, count in enumerate(frames):
                images = list(random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
                synthetic.encode(root / split / name / f"{number}.mp4", images, fps=15)
    (root / "test" / f"{BROKEN}.mp4").write_bytes(b"not a video")
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with two checkpoints of one."""
    runs = tmp_path_factory.mktemp("runs")
    folder = RunFolder(runs / "trained")
    torch.manual_seed(0)
    model = models.create("mobilenetv2_3d", num_classes=len(CLASSES), width=0.2).eval()
    for epoch in (1, 2):
        torch.nn.init.normal_(model.get_parameter("classifier.1.weight"), std=2.0)
        content = {
            "format": 1, "model": {"name": "mobilenetv2_3d", "width": 0.2, "num_classes": len(CLASSES)}, "classes": CLASSES, "frames": 16,
            "size": 16, "normalisation": PRESETS["minus_one_one"].to_json(), "fps": 0.0, "epoch": epoch, "step": 7 * epoch,
            "metrics": {}, "state_dict": model.state_dict(),
        }  # fmt: skip
        checkpoints.save(folder.weights(epoch), content, kind="weights")
    return runs


def conf(data: Path, runs: Path, **evaluation: Any) -> Config:
    raw = {
        "data": {
            "name": "folders", "root": str(data), "frames": 16, "size": 16, "test_start": "every", "test_step": STEP, "broken": "exclude",
        },
        "model": {"name": "mobilenetv2_3d", "width": 0.2, "init": str(RunFolder(runs / "trained").weights(2))}, "train": {"batch": 4},
        "test": {"checkpoints": str(runs / "trained")}, "eval": {"samples": [], **evaluation},
        "compute": {"workers": 0, "threads": 1, "device": "cpu", "processes": 1},
    }  # fmt: skip
    config, faults = parse(raw)
    assert not faults
    return config


@pytest.fixture(scope="module")
def evaluated(data: Path, runs: Path) -> RunFolder:
    folder = RunFolder(runs / "evaluated")
    eval.run(conf(data, runs, best_frames=[1, 10], formats=["two_stream"], labels=2), folder)
    return folder


def read(folder: RunFolder, name: str) -> Any:
    path = folder.predictions / name
    return np.load(path) if name.endswith(".npy") else json.loads(path.read_text())


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_the_videos_scores_are_the_mean_of_their_clips(evaluated: RunFolder) -> None:
    """Every clip of every video, the last video's too; one that could not be read is named and not scored."""
    clips, videos = read(evaluated, "clips.json"), read(evaluated, "videos.json")
    assert videos == [f"{name}/{number}" for name in CLASSES for number in (0, 1)]
    assert {clip.split("@")[0] for clip in clips} == set(videos)
    assert "sit/0@16" in clips
    probabilities = softmax(read(evaluated, "logits.npy"))
    np.testing.assert_allclose(read(evaluated, "probabilities.npy"), probabilities, rtol=1e-5)
    by_hand = [
        np.mean(
            [
                row
                for clip, row in zip(clips, probabilities, strict=True)
                if clip.split("@")[0] == video
            ],
            axis=0,
        )
        for video in videos
    ]
    np.testing.assert_allclose(read(evaluated, "video_scores.npy"), by_hand, rtol=1e-5)
    assert read(evaluated, "metrics.json")["missing"] == [BROKEN]
    assert "1 videos of the split could not be scored" in evaluated.log.read_text()


def test_the_state_of_a_training_is_not_taken_for_its_weights(
    data: Path, runs: Path, tmp_path: Path
) -> None:
    """It does not say which network it is of."""
    state = tmp_path / "state-000002.pt"
    torch.save(
        {"format": 1, "epoch": 2, "step": 14, "model": {"w": torch.zeros(1)}, "optimizer": {}},
        state,
    )
    config = conf(data, runs)
    with pytest.raises(DataError, match="is the state that a training resumes from"):
        eval.run(
            replace(config, model=replace(config.model, init=str(state))),
            RunFolder(tmp_path / "run"),
        )


def test_the_metrics_are_those_of_the_files(evaluated: RunFolder) -> None:
    scores, table, clips = (
        read(evaluated, name) for name in ("metrics.json", "video_scores.npy", "clips.json")
    )
    labels = np.repeat(np.arange(3), 2)
    assert scores["top1"] == pytest.approx(np.mean(table.argmax(axis=1) == labels))
    assert (scores["top3"], scores["top5"], scores["clip_top5"]) == (1, 1, 1)  # of three classes
    assert scores["mean_error"] == pytest.approx((1 - scores["top1"]) / 2)
    clip_labels = [CLASSES.index(clip.split("/")[0]) for clip in clips]
    assert scores["clip_top1"] == pytest.approx(
        np.mean(read(evaluated, "logits.npy").argmax(axis=1) == clip_labels)
    )
    # no video has more than ten clips
    assert scores["best10_top1"] == pytest.approx(scores["top1"])
    assert "best1_top1" in scores
    assert (scores["clips"], scores["videos"], scores["epoch"], scores["step"]) == (
        len(clips),
        6,
        2,
        14,
    )
    line = f"Test accuracy: clip: {scores['clip_top1']}, top 1: {scores['top1']}, top5: {scores['top5']}"
    log = evaluated.log.read_text()
    assert line in log
    told = next(text for text in log.splitlines() if text.startswith("test Loss:"))
    assert [word.split("=")[0] for word in told.split()[3:]] == [
        "epoch",
        "step",
        "clip_top1",
        "top1",
        "top5",
    ]
    assert json.loads(evaluated.metrics.read_text())["map"] == scores["map"]


def test_other_programs_read_the_answers(evaluated: RunFolder) -> None:
    """ActivityNet's form: the best two classes of every video, and a wrong one for the video that is missing, which counts."""
    answers, raw = (
        activitynet.answers_of(read(evaluated, "val.json")),
        read(evaluated, "ground_truth.json"),
    )
    truth = activitynet.truth_of(raw, "validation")
    assert raw["labels"] == CLASSES == read(evaluated, "classes.json")
    assert len(truth) == 7
    assert truth[BROKEN] == ("walk",)
    assert answers[BROKEN] == [("run", 1e-7)]
    assert all(len(rows) == 2 for video, rows in answers.items() if video != BROKEN)
    scores = read(evaluated, "metrics.json")
    assert scores["hit1"] == pytest.approx(scores["top1"] * 6 / 7)
    assert {key: scores[key] for key in ("hit1", "hit5", "anet_map")} == pytest.approx(
        activitynet.scores(truth, answers)
    )
    accuracy = (evaluated.predictions / "accuracy.txt").read_text()
    assert accuracy == f"Top-1 Accuracy: {scores['hit1']}\nTop-5 Accuracy: {scores['hit5']}\n"


def test_the_two_stream_files(evaluated: RunFolder) -> None:
    """Scores by frame, named by the middle of their clip; the best frames' mean, its best five classes summing up to 1."""
    content = pickle.loads((evaluated.predictions / "output_val_000014.pkl").read_bytes())
    assert (
        content["sit/0"]["fids"].tolist()
        == [start + 8 for start in (0, 8, 16, 24)][: len(content["sit/0"]["fids"])]
    )
    np.testing.assert_allclose(content["sit/0"]["scores"].sum(axis=1), 1, rtol=1e-5)
    best = read(evaluated, "output_val_000014-clstk-001.json")
    assert best["version"] == "KINETICS VERSION 1.0"
    highest = content["sit/0"]["scores"].max(axis=0)
    rows = {row["label"]: row["score"] for row in best["results"]["sit/0"]}
    assert [rows[name] for name in CLASSES] == pytest.approx((highest / highest.sum()).tolist())


def test_confusion_and_classes(evaluated: RunFolder) -> None:
    counts, table = read(evaluated, "confusion.npy"), read(evaluated, "video_scores.npy")
    assert counts.shape == (3, 3)
    assert counts.sum(axis=1).tolist() == [2, 2, 2]
    assert all(
        counts[label, place] > 0
        for label, place in zip(np.repeat(np.arange(3), 2), table.argmax(axis=1), strict=True)
    )
    rows = list(
        csv.DictReader((evaluated.predictions / "class_accuracy.csv").read_text().splitlines())
    )
    assert [(row["class"], row["train_count"], row["support"]) for row in rows] == [
        (name, "1", "2") for name in CLASSES
    ]
    assert [float(row["accuracy"]) for row in rows] == (np.diag(counts) / 2).tolist()
    for name in ("confusion.png", "class_accuracy.png"):
        assert (evaluated.figures / name).read_bytes().startswith(b"\x89PNG")


def test_test_has_the_same_numbers_and_keeps_the_best_by_top1(
    data: Path, runs: Path, evaluated: RunFolder, capsys: Any
) -> None:
    folder = RunFolder(runs / "tested")
    test.run(conf(data, runs), folder)
    report = read(folder, "test.json")
    rows = report["checkpoints"]
    scores = read(evaluated, "metrics.json")
    assert {key: rows[1][key] for key in ("loss", "clip_top1", "top1", "map")} == pytest.approx(
        {key: scores[key] for key in ("loss", "clip_top1", "top1", "map")}
    )
    assert (report["select"], report["missing"]) == ("top1", [BROKEN])
    best = max(rows, key=lambda row: row["top1"])
    assert report["best"] == best["checkpoint"]
    assert np.trace(read(folder, "confusion.npy")) == round(best["top1"] * 6)
    assert (folder.predictions / "class_accuracy.csv").exists()
    assert read(folder, "classes.json") == CLASSES
    assert f"Test accuracy: clip: {rows[0]['clip_top1']}, top 1:" in capsys.readouterr().out


def test_fusing_a_run_with_itself_changes_nothing(
    data: Path, runs: Path, evaluated: RunFolder
) -> None:
    folder = RunFolder(runs / "fused")
    config = replace(
        conf(data, runs), fuse=FuseConf(streams={"one": "evaluated", "two": str(evaluated.root)})
    )
    fuse.run(config, folder)
    np.testing.assert_allclose(
        read(folder, "video_scores.npy"), read(evaluated, "video_scores.npy"), rtol=1e-6
    )
    one, two = read(folder, "metrics.json"), read(evaluated, "metrics.json")
    assert {key: one[key] for key in ("top1", "map", "hit1", "missing")} == {
        key: two[key] for key in ("top1", "map", "hit1", "missing")
    }


@pytest.mark.slow
def test_two_processes_judge_videos_alike(data: Path, runs: Path, evaluated: RunFolder) -> None:
    """Clips of one video on different processes, and a last batch that one of them has nothing of."""
    config = conf(data, runs)
    both = replace(
        config, compute=replace(config.compute, processes=2), train=replace(config.train, batch=3)
    )
    eval.run(both, RunFolder(runs / "two"))
    np.testing.assert_allclose(
        read(RunFolder(runs / "two"), "video_scores.npy"),
        read(evaluated, "video_scores.npy"),
        rtol=1e-4,
    )
