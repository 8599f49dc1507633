"""`test`: the metrics of a range of epochs. Writes predictions/test.json, and of the best epoch confusion.npy and the table of classes.

A retried test goes on after the epochs that test.json already has under the same conf and with the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import class_files, scoring
from trainer import config as conf
from trainer.checkpoints import list_weights
from trainer.compute import process_count
from trainer.config import Config
from trainer.distributed import World, launch
from trainer.errors import ConfFault, Fault
from trainer.evaluation import Predictions
from trainer.records import Recorder
from trainer.run_folder import RunFolder
from trainer.scoring import Scorer
from trainer.stopping import Stop

Row = dict[str, Any]


def find_checkpoints(config: Config, folder: RunFolder) -> dict[int, Path]:
    """epoch -> file of the epochs that `test.epochs` names. Raises ConfFault naming those that are not there."""
    root = Path(config.test.checkpoints) if config.test.checkpoints else folder.root
    place = root / "checkpoints" if (root / "checkpoints").is_dir() else root
    found = list_weights(place)
    if not found:
        hint = "`vidjobs submit test CONF --from RUN`, or test.checkpoints: a folder of epoch-*.pt"
        raise ConfFault(
            [Fault(path="test.checkpoints", message=f"{place} has no epoch-*.pt", hint=hint)]
        )
    wanted = list(found) if config.test.epochs == "all" else parse_epochs(config.test.epochs)
    lacking = [epoch for epoch in wanted if epoch not in found]
    if lacking:
        raise ConfFault(
            [
                Fault(
                    path="test.epochs",
                    message=f"{place} has no epoch {_some(lacking)}",
                    hint=f"it has {_some(list(found))}",
                )
            ]
        )
    return {epoch: found[epoch] for epoch in wanted}


def _some(epochs: list[int], most: int = 10) -> str:
    rest = f" and {len(epochs) - most} more" if len(epochs) > most else ""
    return ", ".join(map(str, epochs[:most])) + rest


def parse_epochs(text: str) -> list[int]:
    """ "3,10-12" is [3, 10, 11, 12], ascending and each once. For text that `check` accepted."""
    epochs: set[int] = set()
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        epochs.update(range(int(first), int(last or first) + 1))
    return sorted(epochs)


def classic_line(row: Row) -> str:
    """The line that an older system printed for each checkpoint: TinyVIRAT's first one where videos have several labels, else VMZ."""
    if "f1_macro" not in row:
        return scoring.accuracy_line(row)
    return (
        f"{row['checkpoint']} , f1_macro : {row['f1_macro']}, f1_micro {row['f1_micro']}, "
        f"f1_samples {row['f1_samples']},  Accuracy {row['accuracy']}"
    )


def best_of(rows: list[Row], select: str) -> Row:
    """The row that `train.select` prefers; the earliest of equals. "loss" prefers the lowest."""
    return max(rows, key=lambda row: -row["loss"] if select == "loss" else row[select])


def _score_all(world: World, config: Config, folder: RunFolder) -> None:
    files = find_checkpoints(config, folder)
    with Stop().listening() as stop:
        scorer = Scorer.open(config, world, folder, config.test.split)
        recorder = Recorder(folder, enabled=world.rank == 0)
        known = _known(folder, config)
        rows: list[Row] = []
        for epoch, path in files.items():
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            row = known.get(path.name)
            if row is None or row["sha256"] != sha256:
                row, predictions = _score(scorer, path, {"epoch": epoch, "sha256": sha256}, stop)
                rows.append(row)
                if world.rank == 0:
                    _tell(recorder, row)
                    _keep(folder, scorer, rows, predictions)
            else:
                rows.append(row)
                recorder.say(f"{path.name} is in test.json already")
        world.wait()
        recorder.say(f"best: {best_of(rows, scorer.select)['checkpoint']} by {scorer.select}")
        recorder.close()


def _score(scorer: Scorer, path: Path, row: Row, stop: Stop) -> tuple[Row, Predictions]:
    model, fields = scorer.load(str(path))
    with stop.patient():
        predictions = scorer.predict(model, lambda: stop.requested)
    scores = scorer.scores(predictions, scorer.config.test.threshold)
    step = {"step": int(fields["step"])} if "step" in fields else {}
    return {"checkpoint": path.name, **row, **step, "loss": predictions.loss, **scores}, predictions


def _tell(recorder: Recorder, row: Row) -> None:
    scores = {
        key: value
        for key, value in row.items()
        if key not in ("checkpoint", "sha256", "loss", "epoch", "step")
    }
    recorder.record("test", row["loss"], epoch=row["epoch"], step=row.get("step"), **scores)
    recorder.say(classic_line(row))


def _keep(folder: RunFolder, scorer: Scorer, rows: list[Row], predictions: Predictions) -> None:
    """After each checkpoint: the confusion first, then test.json, which names it as the best's."""
    config = scorer.config
    best = best_of(rows, scorer.select)
    if best is rows[-1]:
        outcome = scorer.outcome(predictions, config.test.threshold)
        class_files.write(folder, outcome.classes, outcome.confusion, scorer.train_counts)
    report = {
        "checkpoints": rows, "best": best["checkpoint"], "select": scorer.select, "split": config.test.split,
        "threshold": config.test.threshold, "combine": config.eval.combine, "missing": list(scorer.missing), "conf": _fingerprint(config),
    }  # fmt: skip
    folder.write_text(folder.predictions / "test.json", json.dumps(report, indent=1) + "\n")


def _known(folder: RunFolder, config: Config) -> dict[str, Row]:
    """Rows by checkpoint of a test.json that was made under the same conf."""
    try:
        report = json.loads((folder.predictions / "test.json").read_text(encoding="utf-8"))
        return (
            {row["checkpoint"]: row for row in report["checkpoints"]}
            if report["conf"] == _fingerprint(config)
            else {}
        )
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _fingerprint(config: Config) -> str:
    """Of the settings that change what a checkpoint scores; which epochs, and on what machine, do not."""
    flat = conf.flat(config)
    matters: Mapping[str, Any] = {
        "data": flat["data"], "model": flat["model"], "split": config.test.split, "threshold": config.test.threshold,
        "select": config.train.select, "precision": config.compute.precision, "combine": config.eval.combine,
        "best_frames": config.eval.best_frames,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()


def run(config: Config, folder: RunFolder) -> None:
    """Score every wanted epoch. Raises ConfFault, DataError, CannotWrite, and TryAgain on SIGTERM."""
    files = find_checkpoints(config, folder)
    with Stop().listening(), scoring.prepared(config, folder) as nodes:
        launch(nodes, process_count(config.compute), _score_all, config, folder)
        if nodes.place.leads:
            scoring.finish(folder, "test", {"checkpoints": len(files)})
