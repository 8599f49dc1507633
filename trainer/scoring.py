"""What `test` and `eval` share: the clips of a split without augmentation, a network with a checkpoint's weights, its answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainer import config as conf
from trainer import losses, metrics, provenance, ranking
from trainer.checkpoints import FORMAT, require_as_written
from trainer.compute import Compute
from trainer.config import Config
from trainer.data.loader import ClipSet, batches, cache_folder, open_split
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import ConfFault, DataError, Fault
from trainer.evaluation import Predictions, predict, selected
from trainer.lock import hold_for
from trainer.meeting import Place
from trainer.model_rules import weights_faults
from trainer.models import checkpoint_files
from trainer.models.checkpoint_files import CheckpointFile
from trainer.models.weights import create_for, load_init, local_path, notes, other_flow
from trainer.preflight import fit_workers
from trainer.prepare import ensure_cache
from trainer.rendezvous import Group, joined
from trainer.run_folder import RunFolder


@contextmanager
def prepared(config: Config, folder: RunFolder) -> Iterator[Group]:
    """The nodes, once they are here and node 0, which holds the run's lock, has prepared. Raises DataError, CannotWrite, TryAgain."""
    place = Place.of(os.environ)
    with joined(place, _say) as nodes, hold_for(place, folder, say=_say):
        nodes.first(
            lambda: _begin(config, folder, _say),
            then=lambda: ensure_cache(config, cache_folder(config, folder.whole), nodes.say),
        )
        yield nodes


def _say(message: str) -> None:
    print(message, flush=True)


def _begin(config: Config, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Before the processes start: the run's conf and provenance, and the cache. Raises DataError, CannotWrite."""
    folder.require_writable()
    if not _of_training(folder):
        folder.write_text(folder.conf, conf.dump(config))
        provenance.write(folder, config)
    ensure_cache(config, cache_folder(config, folder.whole), say)


def finish(folder: RunFolder, verb: str, facts: Mapping[str, Any]) -> None:
    """DONE.json, unless the folder is a training's, whose own end it tells."""
    if not _of_training(folder):
        done = {
            "verb": verb,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_code": 0,
            **facts,
        }
        folder.write_text(folder.done, json.dumps(done, indent=1) + "\n")


def _of_training(folder: RunFolder) -> bool:
    return folder.manifest.exists()


@dataclass(frozen=True, eq=False)
class Outcome:
    """Rows are videos, in the order of `videos`."""

    classes: tuple[str, ...]
    videos: list[str]
    scores: NDArray[np.float32]  # (V, C)
    # (V, C) of 0 and 1: every class from the threshold on, or the likeliest where a video has one
    # class
    decided: NDArray[np.int64]
    actual: NDArray[np.int64]  # (V, C) of 0 and 1
    confusion: NDArray[np.int64]  # (C, 2, 2), or (C, C) where a video has one class


@dataclass(frozen=True)
class Scorer:
    """One process that scores checkpoints on the clips of one split."""

    config: Config
    world: World
    compute: Compute
    clips: ClipSet
    cache: Path

    @classmethod
    def open(cls, config: Config, world: World, folder: RunFolder, split: Any) -> Scorer:
        """Raises DataError when the split has no clip."""
        cache = cache_folder(config, folder.whole)
        # those are for the validations during training
        plain = replace(config, data=replace(config.data, val_clips=0, val_step=0))
        # a train split is scored as it is, not augmented
        clips = open_split(plain, split, cache, training=False)
        if not len(clips):
            raise DataError(
                f'the split "{split}" has no clip',
                hint="see data.val_fraction, data.short and data.broken",
            )
        share = -(-config.train.batch // world.size)
        compute = Compute.from_conf(
            config.compute, world.local_rank, processes=world.local_size, clips=share
        )
        return cls(
            config, world, fit_workers(compute, config, processes=world.local_size), clips, cache
        )

    @property
    def select(self) -> str:
        """The metric that names the best checkpoint."""
        return selected(self.config.train.select, multi_label=self.clips.multi_label)

    def load(self, init: str | Mapping[str, str]) -> tuple[nn.Module, dict[str, Any]]:
        """The network with these weights, on its device, and what one of our own checkpoints says beside them.

        Raises ConfFault when the conf is not what the checkpoint was trained as, DataError when it cannot be read or does not fit.
        """
        model = create_for(self.config, self.clips.classes)
        file = (
            read_as_written(local_path(init, self.config.model.name, say=_say)[0])
            if isinstance(init, str)
            else None
        )
        fields = file.fields if file else {}
        own = fields.get("format") == FORMAT
        faults = (
            [
                *weights_faults(self.config, fields, self.clips.classes),
                *other_flow(self.config, fields),
            ]
            if own
            else []
        )
        if faults:
            raise ConfFault(faults)
        try:
            report = load_init(model, init, head="keep", file=file, say=_say)
        except ConfFault as fault:
            raise ConfFault(
                [
                    _of_a_run(each) if each.path == "model.init_head" else each
                    for each in fault.faults
                ]
            ) from fault
        if self.world.rank == 0:
            print("".join(f"{note}\n" for note in notes(self.config, report)), end="", flush=True)
        return self.compute.prepare(model.eval()), fields

    def predict(self, model: nn.Module, stop: Callable[[], bool] | None = None) -> Predictions:
        """The answers for every clip, in order, the same on every process."""
        share = batches(
            self.clips, epoch=0, batch=self.config.train.batch, seed=self.config.train.seed, shuffle=False,
            rank=self.world.rank, world=self.world.size, workers=self.compute.workers, pin=self.compute.device.type == "cuda",
        )  # fmt: skip
        loss = losses.BY_MULTI_LABEL[self.clips.multi_label]
        return predict(
            model, share, self.compute, inputs=ModelInput.of(self.config), loss=loss, videos=self.clips.video_of,
            rank=self.world.rank, world=self.world.size, stop=stop,
        )  # fmt: skip

    def scores(self, predictions: Predictions, threshold: float) -> dict[str, float]:
        """All metrics of this kind of dataset (Predictions.scores), a video's clips combined as the conf says."""
        how = self.config.eval
        return predictions.scores(
            threshold,
            multi_label=self.clips.multi_label,
            combine=how.combine,
            best_frames=how.best_frames,
        )

    def outcome(self, predictions: Predictions, threshold: float) -> Outcome:
        """What was decided of every video, and how that compares with the truth."""
        multi_label, classes = self.clips.multi_label, len(self.clips.classes)
        scores = predictions.video_scores(self.config.eval.combine, multi_label=multi_label)
        actual = metrics.decide(predictions.video_targets, 0.5)
        videos = [self.clips.video_ids[place] for place in predictions.video_places.tolist()]
        if multi_label:
            decided = metrics.decide(scores, threshold)
            return Outcome(
                self.clips.classes,
                videos,
                scores,
                decided,
                actual,
                metrics.confusion(decided, predictions.video_targets),
            )
        likeliest = ranking.order(scores, 1)[:, 0]
        decided = np.eye(classes, dtype=np.int64)[likeliest]
        return Outcome(
            self.clips.classes,
            videos,
            scores,
            decided,
            actual,
            ranking.confusion(likeliest, actual.argmax(axis=1), classes),
        )

    @property
    def missing(self) -> dict[str, int]:
        """Videos of the split that were left out, because nothing could be read or they are too short, with a class of theirs."""
        return self.clips.left_out

    @property
    def train_counts(self) -> list[int] | None:
        """Training videos of each class; None when this dataset has none here."""
        try:
            train = open_split(self.config, "train", self.cache)
        except DataError:
            return None
        return train.class_counts


def _of_a_run(fault: Fault) -> Fault:
    """The fault of a last layer for other classes: what trains takes a fresh one, what scores wants a trained one."""
    return replace(
        fault,
        path="model.init",
        hint="`vidjobs submit eval CONF --from RUN@best` takes the checkpoint of a run of yours",
    )


def accuracy_line(scores: Mapping[str, Any]) -> str:
    """The line that VMZ's test program ended with."""
    return f"Test accuracy: clip: {scores['clip_top1']}, top 1: {scores['top1']}, top5: {scores['top5']}"


def require_init(config: Config, parts: tuple[str, ...]) -> str | dict[str, str]:
    """`model.init`, with a file for every part. Raises ConfFault that says how to name one."""
    init = config.model.init
    hint = "`vidjobs submit eval CONF --from RUN@best`, or model.init: a checkpoint's path"
    if not init:
        raise ConfFault([Fault(path="model.init", message="eval needs a checkpoint", hint=hint)])
    if isinstance(init, str):
        return init
    lacking = [part for part in parts if part not in init]
    if lacking:
        message = (
            f"has no checkpoint for {', '.join(lacking)}; it would be evaluated with random weights"
        )
        raise ConfFault([Fault(path="model.init", message=message, hint=hint)])
    return dict(init)


def read_as_written(path: str) -> CheckpointFile:
    """A checkpoint, after its sha256 was compared with the manifest that names it. Raises DataError, also for a training's state."""
    require_as_written(Path(path))
    file = checkpoint_files.read(path)
    if file.fields.get("format") == FORMAT and "optimizer" in file.fields:
        hint = "take an epoch-*.pt beside it: they say which network, classes and clips their weights are for"
        raise DataError(f"{path} is the state that a training resumes from", hint=hint)
    return file
