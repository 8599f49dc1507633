"""`test` and `eval` on real video: what they write, that it is right, and how they refuse what would be wrong."""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import checkpoints, eval, models, synthetic, test
from trainer.checkpoints import Manifest
from trainer.class_files import accuracy_table, f1_table
from trainer.config import Config, parse
from trainer.data.loader import cache_folder, open_split
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.errors import ConfFault, DataError
from trainer.eval import sample_name, source_run, to_pixels
from trainer.metrics import multi_label
from trainer.run_folder import RunFolder
from trainer.test import best_of, classic_line, parse_epochs

MODEL = {"name": "resizer_i3d", "mode": "16x16"}
CLASSES = 26


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 real mp4 clips."""
    root = tmp_path_factory.mktemp("data")
    synthetic.make_tinyvirat(root, train=8, test=6, seed=3)
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, with a training of two epochs that differ in their heads only."""
    runs = tmp_path_factory.mktemp("runs")
    folder = RunFolder(runs / "trained")
    folder.checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    model = models.create("resizer_i3d", num_classes=CLASSES, mode="16x16").eval()
    manifest = Manifest()
    for epoch in (1, 2):
        torch.nn.init.normal_(model.get_parameter("i3d.logits.conv3d.weight"), std=0.5)
        options = {
            "name": "resizer_i3d",
            "mode": "16x16",
            "frames": 16,
            "residual_blocks": 1,
            "resizer": "2d",
            "num_classes": CLASSES,
        }
        content = {
            "format": 1, "model": options, "classes": list(synthetic_classes(data)), "frames": 16, "size": 12,
            "normalisation": PRESETS["minus_one_one"].to_json(), "fps": 30.0, "epoch": epoch, "step": 10 * epoch,
            "metrics": {}, "state_dict": model.state_dict(),
        }  # fmt: skip
        entry = checkpoints.save(folder.weights(epoch), content, kind="weights")
        manifest = manifest.adding(
            {folder.weights(epoch).name: entry}, best="", select="f1_macro", keep="all"
        )
    manifest.save(folder)
    records = [
        {"phase": phase, "loss": 0.5 / step, "epoch": 1, "step": step, "time": "t"}
        for step in (1, 2)
        for phase in ("train", "val")
    ]
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    return runs


def synthetic_classes(data: Path) -> list[str]:
    return (data / "classes.txt").read_text().split()


def conf(data: Path, model: dict[str, Any] | None = None, **sections: Any) -> Config:
    compute = {"workers": 0, "threads": 2, "device": "cpu", "processes": 1}
    raw = {
        "data": {"name": "tinyvirat", "root": str(data), "frames": 16, "size": 12},
        "model": {**MODEL, **(model or {})}, "train": {"batch": 4}, "compute": compute, **sections,
    }  # fmt: skip
    config, faults = parse(raw)
    assert not faults
    return config


@functools.cache
def expected_logits(data: Path, runs: Path, epoch: int) -> np.ndarray[Any, Any]:
    """One clip at a time, straight through the network."""
    config = conf(data)
    weights = checkpoints.read_weights(RunFolder(runs / "trained").weights(epoch))
    model = models.create("resizer_i3d", num_classes=CLASSES, mode="16x16").eval()
    model.load_state_dict(weights["state_dict"])
    clips = open_split(config, "test", cache_folder(config, runs / "x"))
    with torch.no_grad():
        rows = [
            model(ModelInput(PRESETS["minus_one_one"])(clips[0, index][0][None]))
            for index in range(len(clips))
        ]
    return torch.cat(rows).numpy()


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def evaluated(data: Path, runs: Path) -> tuple[Config, RunFolder]:
    path = RunFolder(runs / "trained").weights(2)
    config = conf(data, {"init": str(path)}, eval={"samples": [1, 99], "threshold": 0.4})
    folder = RunFolder(runs / "evaluated")
    eval.run(config, folder)
    return config, folder


def test_eval_writes_every_array(
    evaluated: tuple[Config, RunFolder], data: Path, runs: Path
) -> None:
    """Real logits, their sigmoid, 0 and 1 from the threshold on, the truth, counts by class; rows in the order of clips.json."""
    config, folder = evaluated
    arrays = {path.stem: np.load(path) for path in folder.predictions.glob("*.npy")}
    assert {name: (array.shape, array.dtype.kind) for name, array in arrays.items()} == {
        "logits": ((6, 26), "f"), "probabilities": ((6, 26), "f"), "predictions": ((6, 26), "i"), "actuals": ((6, 26), "i"),
        "confusion": ((26, 2, 2), "i"), "video_scores": ((6, 26), "f"),
    }  # fmt: skip
    np.testing.assert_allclose(
        arrays["logits"], expected_logits(data, runs, 2), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        arrays["probabilities"], 1 / (1 + np.exp(-arrays["logits"])), rtol=1e-5
    )
    assert (arrays["predictions"] == (arrays["probabilities"] >= 0.4)).all()
    clips = open_split(config, "test", cache_folder(config, folder.root))
    assert all(
        json.loads((folder.predictions / name).read_text()) == clips.ids
        for name in ("clips.json", "videos.json")
    )
    assert json.loads((folder.predictions / "classes.json").read_text()) == synthetic_classes(data)
    assert (arrays["actuals"] == clips.targets).all()
    tp = (arrays["predictions"] & arrays["actuals"]).sum(axis=0)
    assert (arrays["confusion"][:, 1, 1] == tp).all()


def test_eval_tells_the_scores(evaluated: tuple[Config, RunFolder]) -> None:
    """metrics.json, the log line's record and the table agree with the arrays."""
    _, folder = evaluated
    scores = json.loads((folder.predictions / "metrics.json").read_text())
    again = multi_label(
        np.load(folder.predictions / "probabilities.npy"),
        np.load(folder.predictions / "actuals.npy"),
        0.4,
    )
    assert {key: scores[key] for key in again} == pytest.approx(again)
    assert (
        scores["clips"],
        scores["epoch"],
        scores["step"],
        scores["split"],
        scores["threshold"],
    ) == (6, 2, 20, "test", 0.4)
    record = json.loads(folder.metrics.read_text().splitlines()[-1])
    assert (record["phase"], record["loss"], record["f1_macro"]) == (
        "test",
        scores["loss"],
        scores["f1_macro"],
    )
    rows = list(csv.DictReader((folder.predictions / "f1_by_class.csv").read_text().splitlines()))
    assert [row["class"] for row in rows][:2] == ["Closing", "Entering"]
    assert math.fsum(float(row["f1"]) for row in rows) / 26 == pytest.approx(
        scores["f1_macro"], abs=1e-5
    )
    assert all(int(row["support"]) == int(row["tp"]) + int(row["fn"]) for row in rows)
    assert json.loads(folder.done.read_text())["verb"] == "eval"
    assert folder.conf.exists()
    assert folder.provenance.exists()


def test_eval_draws(evaluated: tuple[Config, RunFolder]) -> None:
    """F1 by class, the loss curves of the run that the checkpoint came from, and every frame of the chosen clip, in and out."""
    config, folder = evaluated
    for name in ("f1_by_class.png", "loss.png"):
        assert pixels(folder.figures / name).shape[1] > 300
    (sheet,) = (folder.figures / "resizer").glob("*.png")
    frames = sorted(path.name for path in (folder.figures / "resizer" / sheet.stem).iterdir())
    assert frames == [
        f"{kind}-{number:03d}.png" for kind in ("input", "output") for number in range(16)
    ]
    clip = open_split(config, "test", cache_folder(config, folder.root))[0, 1][0].numpy()
    for number in (0, 15):
        assert (
            pixels(folder.figures / "resizer" / sheet.stem / f"input-{number:03d}.png")
            == clip[number]
        ).all()
        assert pixels(
            folder.figures / "resizer" / sheet.stem / f"output-{number:03d}.png"
        ).shape == (16, 16, 3)
    assert pixels(sheet).shape == (2 * 16 + 4, 8 * 16 + 7 * 4, 3)
    assert "eval.samples has 99" in folder.log.read_text()


@pytest.mark.slow
def test_test_scores_every_epoch_and_keeps_the_best(
    data: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `test Loss:` line and the old line for each checkpoint; test.json; the best one's confusion. Again, nothing is computed twice."""
    config = conf(data, test={"checkpoints": str(runs / "trained")})
    folder = RunFolder(runs / "tested")
    test.run(config, folder)
    report = json.loads((folder.predictions / "test.json").read_text())
    assert [(row["checkpoint"], row["epoch"], row["step"]) for row in report["checkpoints"]] == [
        ("epoch-000001.pt", 1, 10), ("epoch-000002.pt", 2, 20),
    ]  # fmt: skip
    clips = open_split(config, "test", cache_folder(config, folder.root))
    for row in report["checkpoints"]:
        logits = expected_logits(data, runs, row["epoch"])
        scores = multi_label(1 / (1 + np.exp(-logits)), clips.targets, 0.5)
        assert {key: row[key] for key in scores} == pytest.approx(scores)
    best = best_of(report["checkpoints"], "f1_macro")
    assert report["best"] == best["checkpoint"]
    hits = ((expected_logits(data, runs, best["epoch"]) >= 0) & (clips.targets > 0)).sum(axis=0)
    assert (np.load(folder.predictions / "confusion.npy")[:, 1, 1] == hits).all()
    printed = capsys.readouterr().out
    assert [line.split(" epoch")[0][:10] for line in printed.splitlines() if "Loss" in line] == [
        "test Loss:",
        "test Loss:",
    ]
    assert classic_line(best) in printed
    test.run(config, folder)
    assert "epoch-000002.pt is in test.json already" in capsys.readouterr().out
    assert len(folder.metrics.read_text().splitlines()) == 2


def test_test_of_a_training_s_own_folder_leaves_its_records(
    data: Path, runs: Path, tmp_path: Path
) -> None:
    """Without test.checkpoints the run's own epochs are scored, and its metrics, manifest and end stay what they were."""
    shutil.copytree(runs / "trained", runs / "own")
    folder = RunFolder(runs / "own")
    folder.done.write_text('{"verb": "train"}')
    before = folder.metrics.read_text()
    test.run(conf(data, test={"epochs": "2"}), folder)
    assert folder.metrics.read_text().startswith(before)
    assert folder.done.read_text() == '{"verb": "train"}'
    assert not folder.conf.exists()
    assert [
        row["epoch"]
        for row in json.loads((folder.predictions / "test.json").read_text())["checkpoints"]
    ] == [2]


def test_epochs_that_are_not_there_are_named(data: Path, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfFault, match=r"has no epoch 3, 4 \(it has 1, 2\)"):
        test.run(
            conf(
                data, test={"checkpoints": str(runs / "trained" / "checkpoints"), "epochs": "2-4"}
            ),
            RunFolder(runs / "x"),
        )
    with pytest.raises(
        ConfFault, match=r"has no epoch 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 88 more \(it has 1, 2\)"
    ):
        test.run(
            conf(
                data, test={"checkpoints": str(runs / "trained" / "checkpoints"), "epochs": "1-100"}
            ),
            RunFolder(runs / "x"),
        )
    with pytest.raises(ConfFault, match=r"has no epoch-.*--from RUN"):
        test.run(conf(data), RunFolder(tmp_path / "empty"))


def test_eval_refuses_to_guess(data: Path, runs: Path, tmp_path: Path) -> None:
    """No checkpoint, a part without one, another network, or other classes: each would give wrong numbers silently."""
    path = str(RunFolder(runs / "trained").weights(1))
    with pytest.raises(ConfFault, match="--from RUN@best"):
        eval.run(conf(data), RunFolder(runs / "y"))
    with pytest.raises(
        ConfFault, match="no checkpoint for resizer; it would be evaluated with random weights"
    ):
        eval.run(conf(data, {"init": {"i3d": path}}), RunFolder(runs / "y"))
    with pytest.raises(ConfFault, match="was trained with 2d"):
        eval.run(conf(data, {"init": path, "resizer": "3d"}), RunFolder(runs / "y"))
    altered = runs / "altered" / "checkpoints"
    shutil.copytree(runs / "trained" / "checkpoints", altered)
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    (altered / "epoch-000001.pt").write_bytes(content)
    with pytest.raises(DataError, match="sha256"):
        eval.run(conf(data, {"init": str(altered / "epoch-000001.pt")}), RunFolder(runs / "y"))
    damaged = tmp_path / "epoch-000001.pt"
    damaged.write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged"):
        eval.run(conf(data, {"init": str(damaged)}), RunFolder(runs / "y"))


def test_eval_never_replaces_a_head(data: Path, runs: Path, tmp_path: Path) -> None:
    """A conf that says init_head: replace, for its training, is evaluated with the checkpoint's head."""
    path = str(RunFolder(runs / "trained").weights(1))
    config = conf(data, {"init": path, "init_head": "replace"}, eval={"samples": []})
    eval.run(config, RunFolder(runs / "kept"))
    logits = np.load(runs / "kept" / "predictions" / "logits.npy")
    np.testing.assert_allclose(logits, expected_logits(data, runs, 1), rtol=1e-4, atol=1e-5)


def test_weights_of_other_classes_are_no_run_of_ours(
    data: Path, runs: Path, tmp_path: Path
) -> None:
    """Who forgets --from is told so, and not to start with a fresh last layer."""
    tensors = torch.load(RunFolder(runs / "trained").weights(1), weights_only=True)["state_dict"]
    torch.save(
        {key: tensor[:2] if "logits" in key else tensor for key, tensor in tensors.items()},
        tmp_path / "public.pt",
    )
    with pytest.raises(
        ConfFault, match=r"model\.init: .* has 2 classes, the model 26 .*--from RUN@best"
    ):
        eval.run(
            conf(data, {"init": str(tmp_path / "public.pt"), "init_head": "replace"}),
            RunFolder(runs / "other"),
        )


@pytest.mark.slow
def test_two_processes_give_the_same_predictions(
    data: Path, runs: Path, evaluated: tuple[Config, RunFolder]
) -> None:
    """Unpadded and in the same order, also where the clips do not share out evenly."""
    config, folder = evaluated
    both = replace(
        config, compute=replace(config.compute, processes=2), train=replace(config.train, batch=5)
    )
    eval.run(both, RunFolder(runs / "two"))
    one, two = (
        np.load(place / "predictions" / "logits.npy") for place in (folder.root, runs / "two")
    )
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "epochs"),
    [("3", [3]), ("3,10-12", [3, 10, 11, 12]), ("5-6,1,5", [1, 5, 6]), ("4-3", [])],
)
def test_ranges_of_epochs(text: str, epochs: list[int]) -> None:
    assert parse_epochs(text) == epochs


def test_the_best_by_loss_is_the_lowest() -> None:
    rows = [
        {"checkpoint": "a", "loss": 0.2, "f1_macro": 0.5},
        {"checkpoint": "b", "loss": 0.1, "f1_macro": 0.5},
    ]
    assert best_of(rows, "loss")["checkpoint"] == "b"
    assert best_of(rows, "f1_macro")["checkpoint"] == "a"


def test_the_old_line() -> None:
    """Token for token as the first system printed it."""
    row = {
        "checkpoint": "epoch-000003.pt",
        "f1_macro": 0.25,
        "f1_micro": 0.5,
        "f1_samples": 0.75,
        "accuracy": 0.125,
    }
    assert (
        classic_line(row)
        == "epoch-000003.pt , f1_macro : 0.25, f1_micro 0.5, f1_samples 0.75,  Accuracy 0.125"
    )


def test_the_table_of_classes() -> None:
    """A name with a comma stays one field; a class without clips has zeros."""
    counts = np.array([[[5, 1], [2, 4]], [[12, 0], [0, 0]]])
    rows = list(csv.reader(f1_table(["a, b", "c"], counts, [7, 0]).splitlines()))
    assert rows == [
        ["class", "train_count", "support", "tp", "fp", "fn", "tn", "precision", "recall", "f1"],
        ["a, b", "7", "6", "4", "1", "2", "5", "0.800000", "0.666667", "0.727273"],
        ["c", "0", "0", "0", "0", "0", "12", "0.000000", "0.000000", "0.000000"],
    ]


def test_the_table_of_classes_of_which_a_video_has_one() -> None:
    """Counts of each class against all others, its accuracy, and what it is taken for."""
    counts = np.array([[3, 1, 0], [0, 0, 2], [0, 0, 4]])
    rows = list(csv.DictReader(accuracy_table(["a", "b", "c"], counts, None).splitlines()))
    told = [
        [
            row[key]
            for key in (
                "class",
                "support",
                "tp",
                "fp",
                "fn",
                "tn",
                "accuracy",
                "confused_with",
                "confused",
            )
        ]
        for row in rows
    ]
    assert told == [
        ["a", "4", "3", "0", "1", "6", "0.750000", "b", "1"],
        ["b", "2", "0", "1", "2", "7", "0.000000", "c", "2"],
        ["c", "4", "4", "2", "0", "4", "1.000000", "", "0"],
    ]


def test_names_of_samples_are_safe_file_names() -> None:
    assert sample_name(3, ["b/../x", "a a"]) == "0003-a_a-b_.._x"
    assert sample_name(12, []) == "0012"
    assert len(sample_name(1, ["x" * 300])) == 100


def test_pixels_are_cut_off_at_black_and_white() -> None:
    video = torch.tensor([-3.0, -1.0, 0.0, 1.0, 7.0]).reshape(1, 1, 1, 5).expand(3, 2, 4, 5)
    pixels = to_pixels(video)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_the_source_run_is_the_one_with_records(runs: Path, tmp_path: Path) -> None:
    assert source_run(str(RunFolder(runs / "trained").weights(1))) == RunFolder(runs / "trained")
    assert source_run(str(tmp_path / "checkpoints" / "epoch-000001.pt")) is None
    assert source_run({"i3d": "x"}) is None
