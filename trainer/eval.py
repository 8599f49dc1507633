"""`eval`: everything about one checkpoint. Arrays, scores and a table under predictions/, pictures under figures/."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer import figures, metrics, scoring, signatures
from trainer.compute import process_count
from trainer.config import Config
from trainer.data.loader import ClipSet, cache_folder, open_split
from trainer.data.transforms import ModelInput
from trainer.distributed import World, launch
from trainer.evaluation import Predictions
from trainer.lock import hold
from trainer.models.composites import ResizedI3D
from trainer.records import Recorder, read_metrics
from trainer.run_folder import RunFolder
from trainer.scoring import Scorer
from trainer.stopping import Stop


def source_run(init: str | dict[str, str]) -> RunFolder | None:
    """The run whose checkpoint is evaluated, when it lies in `<run>/checkpoints/` and the run has records."""
    if isinstance(init, str) and Path(init).absolute().parent.name == "checkpoints":
        run = RunFolder(Path(init).absolute().parent.parent)
        return run if run.metrics.exists() else None
    return None


def class_table(classes: Sequence[str], confusion_C22: NDArray[np.int64], train_counts: Sequence[int] | None) -> str:
    """CSV, a row for each class in index order; `support` counts the clips that show it, `train_count` those in training."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "train_count", "support", "tp", "fp", "fn", "tn", "precision", "recall", "f1"])
    scores = metrics.f1_by_class(confusion_C22)
    for index, name in enumerate(classes):
        (tn, fp), (fn, tp) = confusion_C22[index].tolist()
        precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
        count = "" if train_counts is None else train_counts[index]
        table.writerow([name, count, tp + fn, tp, fp, fn, tn, f"{precision:.6f}", f"{recall:.6f}", f"{scores[index]:.6f}"])
    return text.getvalue()


def to_pixels(video_CTHW: Tensor) -> NDArray[np.uint8]:
    """A video in [-1, 1] as (T, H, W, C) uint8; what a resizer gives outside is cut off."""
    pixels = ((video_CTHW.float() + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
    array: NDArray[np.uint8] = pixels.permute(1, 2, 3, 0).cpu().numpy()
    return array


def sample_name(index: int, labels: Sequence[str]) -> str:
    """A file name from a clip's place and its sorted labels: "0003-Opening-activity_walking"."""
    words = [re.sub(r"[^\w.-]+", "_", label).strip(".") for label in sorted(labels)]
    return "-".join([f"{index:04d}", *filter(None, words)])[:100]


def _evaluate(world: World, config: Config, folder: RunFolder) -> None:
    with Stop().listening() as stop:
        scorer = Scorer.open(config, world, folder, config.eval.split)
        model, fields = scorer.load(config.model.init)
        with stop.patient():
            predictions = scorer.predict(model, lambda: stop.requested)
        if world.rank == 0:
            recorder = Recorder(folder)
            _write_predictions(folder, scorer, predictions, fields, recorder=recorder)
            if isinstance(model, ResizedI3D):
                _write_frames(folder, scorer, model, recorder)
            recorder.close()
        world.wait()


def _write_predictions(folder: RunFolder, scorer: Scorer, predictions: Predictions, fields: dict[str, Any], *, recorder: Recorder) -> None:
    config, clips, place = scorer.config, scorer.clips, folder.predictions
    threshold = config.eval.threshold
    decided, actual = scorer.decide(predictions, threshold), metrics.decide(predictions.targets, 0.5)
    counts = metrics.confusion(decided, predictions.targets)
    scores = predictions.scores(threshold, multi_label=clips.multi_label)
    probabilities = predictions.probabilities(multi_label=clips.multi_label)
    arrays: dict[str, NDArray[Any]] = {
        "predictions": decided, "actuals": actual, "logits": predictions.logits, "probabilities": probabilities, "confusion": counts,
    }  # fmt: skip
    for name, array in arrays.items():
        scoring.save_array(folder, place / f"{name}.npy", array)
    ids = [clips.ids[index] for index in predictions.indices.tolist()]
    folder.write_text(place / "clips.json", json.dumps(ids, indent=0) + "\n")
    folder.write_text(place / "f1_by_class.csv", class_table(clips.classes, counts, _train_counts(config, folder)))
    position = {key: int(fields[key]) for key in ("epoch", "step") if key in fields}
    exact = int(np.all(decided == actual, axis=1).sum())
    report = {"checkpoint": config.model.init, "split": config.eval.split, "threshold": threshold, "clips": len(ids), "exact": exact}
    folder.write_text(place / "metrics.json", json.dumps({**report, **position, "loss": predictions.loss, **scores}, indent=1) + "\n")
    recorder.record("test", predictions.loss, epoch=position.get("epoch", 0), step=position.get("step"), **scores)
    support = counts[:, 1].sum(axis=1)
    folder.write_bytes(folder.figures / "f1_by_class.png", figures.class_scores(clips.classes, metrics.f1_by_class(counts), support))
    source = source_run(config.model.init)
    if source:
        folder.write_bytes(folder.figures / "loss.png", figures.loss_curves(read_metrics(source.metrics)))


def _train_counts(config: Config, folder: RunFolder) -> list[int]:
    train = open_split(config, "train", cache_folder(config, folder.root))
    return [int(count) for count in train.targets.sum(axis=0)]


def _write_frames(folder: RunFolder, scorer: Scorer, model: ResizedI3D, recorder: Recorder) -> None:
    """Every frame of the chosen clips, before and after the resizer, and a sheet of each clip."""
    clips, wanted = scorer.clips, scorer.config.eval.samples
    for index in wanted:
        if not 0 <= index < len(clips):
            recorder.say(f"note: eval.samples has {index}, but there are clips 0 to {len(clips) - 1} only; left out")
            continue
        name = sample_name(index, _labels(clips, index))
        inputs_THWC, _, _ = clips[0, index]
        with torch.no_grad():
            resized = model.resize(scorer.compute.lay_out(ModelInput.of(scorer.config)(scorer.compute.place(inputs_THWC[None]))))
        outputs = to_pixels(resized[0])
        place = folder.figures / "resizer" / name
        for kind, frames in (("input", inputs_THWC.numpy()), ("output", outputs)):
            for number, frame in enumerate(frames):
                folder.write_bytes(place / f"{kind}-{number:03d}.png", figures.frame_png(frame))
        folder.write_bytes(place.with_name(f"{name}.png"), figures.contact_sheet(inputs_THWC.numpy(), outputs))


def _labels(clips: ClipSet, index: int) -> list[str]:
    return [clips.classes[place] for place in np.flatnonzero(clips.targets[index])]


def run(config: Config, folder: RunFolder) -> None:
    """Evaluate `model.init`. Raises ConfFault, DataError, CannotWrite, and TryAgain on SIGTERM."""
    scoring.require_init(config, signatures.read()[config.model.name].parts)
    with Stop().listening(), hold(folder):
        scoring.begin(config, folder, lambda message: print(message, flush=True))
        launch(process_count(config.compute), _evaluate, config, folder)
        scoring.finish(folder, "eval", {"checkpoint": config.model.init})
