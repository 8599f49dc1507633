"""`eval`: everything about one checkpoint. Arrays, scores and a table under predictions/, pictures under figures/."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer import class_files, figures, metrics, scoring, signatures, two_stream_files
from trainer.answers import Answers, save_array
from trainer.compute import process_count
from trainer.config import Config
from trainer.data.loader import ClipSet
from trainer.data.transforms import ModelInput
from trainer.distributed import World, launch
from trainer.evaluation import Predictions
from trainer.models.composites import ResizedI3D
from trainer.records import Recorder, read_metrics
from trainer.run_folder import RunFolder
from trainer.scoring import Outcome, Scorer, accuracy_line
from trainer.stopping import Stop


def source_run(init: str | dict[str, str]) -> RunFolder | None:
    """The run whose checkpoint is evaluated, when it lies in `<run>/checkpoints/` and the run has records."""
    if isinstance(init, str) and Path(init).absolute().parent.name == "checkpoints":
        run = RunFolder(Path(init).absolute().parent.parent)
        return run if run.metrics.exists() else None
    return None


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


def _write_predictions(
    folder: RunFolder,
    scorer: Scorer,
    predictions: Predictions,
    fields: dict[str, Any],
    *,
    recorder: Recorder,
) -> None:
    config, clips, place = scorer.config, scorer.clips, folder.predictions
    threshold = config.eval.threshold
    outcome, scores = scorer.outcome(predictions, threshold), scorer.scores(predictions, threshold)
    _write_arrays(folder, scorer, predictions, outcome)
    class_files.write(folder, outcome.classes, outcome.confusion, scorer.train_counts)
    position: dict[str, int] = {key: int(fields[key]) for key in ("epoch", "step") if key in fields}
    report: dict[str, Any] = {
        "checkpoint": config.model.init, "split": config.eval.split, "threshold": threshold, "combine": config.eval.combine,
        "clips": len(predictions.indices), "videos": len(outcome.videos), "missing": list(scorer.missing),
        "exact": int(np.all(outcome.decided == outcome.actual, axis=1).sum()), **position, "loss": predictions.loss, **scores,
    }  # fmt: skip
    if not clips.multi_label:
        answers = _answers(outcome, scorer.missing)
        answers.write(folder, config.eval.labels)
        report |= answers.hits(config.eval.labels)
        if "two_stream" in config.eval.formats:
            _write_two_stream(folder, scorer, predictions, answers, step=position.get("step", 0))
    folder.write_text(place / "metrics.json", json.dumps(report, indent=1) + "\n")
    recorder.record(
        "test",
        predictions.loss,
        epoch=position.get("epoch", 0),
        step=position.get("step"),
        **scores,
    )
    for line in _remarks(scorer, report):
        recorder.say(line)
    _draw(folder, outcome)
    source = source_run(config.model.init)
    if source:
        folder.write_bytes(
            folder.figures / "loss.png", figures.loss_curves(read_metrics(source.metrics))
        )


def _write_arrays(
    folder: RunFolder, scorer: Scorer, predictions: Predictions, outcome: Outcome
) -> None:
    """Rows of logits and probabilities are the samples of clips.json, those of the others the videos of videos.json."""
    place, probabilities = (
        folder.predictions,
        predictions.probabilities(multi_label=scorer.clips.multi_label),
    )
    arrays: dict[str, NDArray[Any]] = {
        "logits": predictions.logits, "probabilities": probabilities,
        "predictions": outcome.decided, "actuals": outcome.actual, "video_scores": outcome.scores,
    }  # fmt: skip
    for name, array in arrays.items():
        save_array(place / f"{name}.npy", array)
    ids = [scorer.clips.name_of(index) for index in predictions.indices.tolist()]
    for name, names in (("clips", ids), ("videos", outcome.videos)):
        folder.write_text(place / f"{name}.json", json.dumps(names, indent=0) + "\n")


def _answers(outcome: Outcome, missing: dict[str, int]) -> Answers:
    return Answers(
        outcome.classes,
        tuple(outcome.videos),
        outcome.scores,
        outcome.actual.argmax(axis=1),
        missing,
    )


def _write_two_stream(
    folder: RunFolder, scorer: Scorer, predictions: Predictions, answers: Answers, *, step: int
) -> None:
    data = scorer.config.data
    # a frame is named by the middle of the stack that is about it
    middle = (data.frames - 1) * data.stride // 2
    fids = scorer.clips.starts[predictions.indices] + middle + 1
    _, video_of = np.unique(predictions.video_of, return_inverse=True)
    probabilities = predictions.probabilities(multi_label=False)
    two_stream_files.write_frames(
        folder, step, answers.videos, probabilities, video_of=video_of, fids=fids
    )
    best = predictions.best_frames(scorer.config.eval.best_frames or two_stream_files.KEPT)
    two_stream_files.write_best(folder, step, answers, best)


def _remarks(scorer: Scorer, report: dict[str, Any]) -> list[str]:
    """What a person should know beside the numbers."""
    lines, config = [], scorer.config.eval
    if not scorer.clips.multi_label:
        lines.append(accuracy_line(report))
    if report["missing"]:
        counted = (
            "" if scorer.clips.multi_label else "; hit1, hit5 and anet_map count them as wrong"
        )
        lines.append(
            f"note: {len(report['missing'])} videos of the split could not be scored, see predictions/metrics.json{counted}"
        )
    if scorer.clips.multi_label and (config.best_frames or config.formats):
        lines.append(
            "note: eval.best_frames and eval.formats are for videos with one label each; left out"
        )
    return lines


def _draw(folder: RunFolder, outcome: Outcome) -> None:
    support = outcome.actual.sum(axis=0)
    if outcome.confusion.ndim == 3:
        f1 = metrics.f1_by_class(outcome.confusion)
        folder.write_bytes(
            folder.figures / "f1_by_class.png", figures.class_scores(outcome.classes, f1, support)
        )
        return
    accuracy = np.diag(outcome.confusion) / np.maximum(support, 1)
    folder.write_bytes(
        folder.figures / "class_accuracy.png",
        figures.class_scores(outcome.classes, accuracy, support, what="accuracy"),
    )
    folder.write_bytes(
        folder.figures / "confusion.png", figures.confusion(outcome.classes, outcome.confusion)
    )


def _write_frames(folder: RunFolder, scorer: Scorer, model: ResizedI3D, recorder: Recorder) -> None:
    """Every frame of the chosen clips, before and after the resizer, and a sheet of each clip."""
    clips, wanted = scorer.clips, scorer.config.eval.samples
    for index in wanted:
        if not 0 <= index < len(clips):
            recorder.say(
                f"note: eval.samples has {index}, but there are clips 0 to {len(clips) - 1} only; left out"
            )
            continue
        name = sample_name(index, _labels(clips, index))
        inputs_THWC, _, _ = clips[0, index]
        with torch.no_grad():
            resized = model.resize(
                scorer.compute.lay_out(
                    ModelInput.of(scorer.config)(scorer.compute.place(inputs_THWC[None]))
                )
            )
        outputs = to_pixels(resized[0])
        place = folder.figures / "resizer" / name
        for kind, frames in (("input", inputs_THWC.numpy()), ("output", outputs)):
            for number, frame in enumerate(frames):
                folder.write_bytes(place / f"{kind}-{number:03d}.png", figures.frame_png(frame))
        folder.write_bytes(
            place.with_name(f"{name}.png"), figures.contact_sheet(inputs_THWC.numpy(), outputs)
        )


def _labels(clips: ClipSet, index: int) -> list[str]:
    return [clips.classes[label] for label in clips.labels_of(index)]


def run(config: Config, folder: RunFolder) -> None:
    """Evaluate `model.init`. Raises ConfFault, DataError, CannotWrite, and TryAgain on SIGTERM."""
    scoring.require_init(config, signatures.read()[config.model.name].parts)
    with Stop().listening(), scoring.prepared(config, folder) as nodes:
        launch(nodes, process_count(config.compute), _evaluate, config, folder)
        if nodes.place.leads:
            scoring.finish(folder, "eval", {"checkpoint": config.model.init})
