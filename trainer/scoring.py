"""What `test` and `eval` share: the clips of a split without augmentation, a network with a checkpoint's weights, its answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainer import config as conf
from trainer import losses, metrics, provenance
from trainer.checkpoints import FORMAT, require_as_written
from trainer.compute import Compute
from trainer.config import Config
from trainer.data.loader import ClipSet, batches, cache_folder, open_split
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import ConfFault, DataError, Fault
from trainer.evaluation import Predictions, predict, selected
from trainer.model_rules import weights_faults
from trainer.models.weights import create_for, load_init, read_tensors
from trainer.preflight import fit_workers
from trainer.prepare import ensure_cache
from trainer.run_folder import RunFolder


def begin(config: Config, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Before the processes start: the run's conf and provenance, and the cache. Raises DataError, CannotWrite."""
    folder.require_writable()
    if not _of_training(folder):
        folder.write_text(folder.conf, conf.dump(config))
        provenance.write(folder, config)
    ensure_cache(config, cache_folder(config, folder.root), say)


def finish(folder: RunFolder, verb: str, facts: Mapping[str, Any]) -> None:
    """DONE.json, unless the folder is a training's, whose own end it tells."""
    if not _of_training(folder):
        done = {"verb": verb, "finished": datetime.now(UTC).isoformat(timespec="seconds"), "exit_code": 0, **facts}
        folder.write_text(folder.done, json.dumps(done, indent=1) + "\n")


def _of_training(folder: RunFolder) -> bool:
    return folder.manifest.exists()


@dataclass(frozen=True)
class Scorer:
    """One process that scores checkpoints on the clips of one split."""

    config: Config
    world: World
    compute: Compute
    clips: ClipSet

    @classmethod
    def open(cls, config: Config, world: World, folder: RunFolder, split: Any) -> Scorer:
        """Raises DataError when the split has no clip."""
        plain = replace(config, data=replace(config.data, flip=0.0, start="first"))  # a train split is scored as it is, not augmented
        clips = open_split(plain, split, cache_folder(config, folder.root))
        if not len(clips):
            raise DataError(f'the split "{split}" has no clip', hint="see data.val_fraction, data.short and data.broken")
        share = -(-config.train.batch // world.size)
        compute = Compute.from_conf(config.compute, world.local_rank, processes=world.size, clips=share)
        return cls(config, world, fit_workers(compute, config), clips)

    @property
    def select(self) -> str:
        """The metric that names the best checkpoint."""
        return selected(self.config.train.select, multi_label=self.clips.multi_label)

    def load(self, init: str | Mapping[str, str]) -> tuple[nn.Module, dict[str, Any]]:
        """The network with these weights, on its device, and what one of our own checkpoints says beside them.

        Raises ConfFault when the conf is not what the checkpoint was trained as, DataError when it cannot be read or does not fit.
        """
        model = create_for(self.config, self.clips.classes)
        fields = _fields(Path(init)) if isinstance(init, str) else {}
        faults = weights_faults(self.config, fields, self.clips.classes) if fields.get("format") == FORMAT else []
        if faults:
            raise ConfFault(faults)
        load_init(model, init, head="keep")
        return self.compute.prepare(model.eval()), fields

    def predict(self, model: nn.Module, stop: Callable[[], bool] | None = None) -> Predictions:
        """The answers for every clip, in order, the same on every process."""
        share = batches(
            self.clips, epoch=0, batch=self.config.train.batch, seed=self.config.train.seed, shuffle=False,
            rank=self.world.rank, world=self.world.size, workers=self.compute.workers, pin=self.compute.device.type == "cuda",
        )  # fmt: skip
        loss = losses.BY_MULTI_LABEL[self.clips.multi_label]
        return predict(
            model, share, self.compute, inputs=ModelInput.of(self.config), loss=loss, rank=self.world.rank, world=self.world.size, stop=stop
        )

    def decide(self, predictions: Predictions, threshold: float) -> NDArray[np.int64]:
        """(N, C) of 0 and 1: every class from the threshold on, or the likeliest one where a clip has one class."""
        if self.clips.multi_label:
            return metrics.decide(predictions.probabilities(), threshold)
        likeliest: NDArray[np.int64] = np.eye(len(self.clips.classes), dtype=np.int64)[predictions.logits.argmax(axis=1)]
        return likeliest


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
        message = f"has no checkpoint for {', '.join(lacking)}; it would be evaluated with random weights"
        raise ConfFault([Fault(path="model.init", message=message, hint=hint)])
    return dict(init)


def _fields(path: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors, after its sha256 was compared with the manifest that names it. Raises DataError."""
    require_as_written(path)
    return read_tensors(str(path))[1]


def save_array(folder: RunFolder, path: Path, array: NDArray[Any]) -> None:
    """An .npy file, whole or not at all. Raises CannotWrite."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    folder.write_bytes(path, buffer.getvalue())
