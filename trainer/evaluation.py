"""What a network says about every clip of a split: once each, in order, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import losses, metrics
from trainer.compute import Compute
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import TryAgain

METRICS = ("auto", "loss", "f1_macro", "f1_micro", "f1_samples", "accuracy")  # what `train.select` may name


def selected(select: str, *, multi_label: bool) -> str:
    """The metric that `train.select` means."""
    return ("f1_macro" if multi_label else "top1") if select == "auto" else select


class Batch(Protocol):
    """This process's share of one global micro-batch (trainer/data/loader.py)."""

    @property
    def clips_BTHWC(self) -> Tensor: ...  # noqa: N802  uint8
    @property
    def targets_BC(self) -> Tensor: ...  # noqa: N802  float32
    @property
    def indices_B(self) -> Tensor: ...  # noqa: N802  int64
    @property
    def total(self) -> int: ...  # clips of the global micro-batch


@dataclass(frozen=True, eq=False)
class Predictions:
    """Row i is clip `indices[i]`; indices ascend."""

    logits: NDArray[np.float32]  # (N, C)
    targets: NDArray[np.float32]  # (N, C)
    indices: NDArray[np.int64]  # (N,)
    loss: float  # mean over the clips

    def probabilities(self, *, multi_label: bool = True) -> NDArray[np.float32]:
        """Sigmoid of each logit, or their softmax where a clip has one class. (N, C)"""
        logits = torch.from_numpy(self.logits)
        return (logits.sigmoid() if multi_label else logits.softmax(dim=1)).numpy()

    def scores(self, threshold: float, *, multi_label: bool = True) -> dict[str, float]:
        """f1_macro, f1_micro, f1_samples and accuracy (exact match). With one class a clip the greatest logit decides."""
        chosen = self.probabilities() if multi_label else np.eye(self.logits.shape[1], dtype=np.float32)[self.logits.argmax(axis=1)]
        return metrics.multi_label(chosen, self.targets, threshold if multi_label else 0.5)


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    *,
    inputs: ModelInput,
    loss: losses.Loss = losses.multi_label,
    rank: int = 0,
    world: int = 1,
    stop: Callable[[], bool] | None = None,
) -> Predictions:
    """Run the model in eval mode over this process's batches and gather everybody's answers, on every process.

    The shares are unpadded and may be empty. Raises TryAgain as soon as `stop` says so on any process.
    """
    peers = World(rank=rank, size=world)
    training = model.training
    model.eval()
    rows: list[tuple[NDArray[Any], ...]] = []
    try:
        with torch.no_grad():
            for batch in batches:
                if stop is not None and peers.any(stop()):
                    raise TryAgain("stopped during evaluation")
                if len(batch.indices_B):
                    rows.append(_answer(model, batch, compute, inputs=inputs, loss=loss))
    finally:
        model.train(training)
    return _collect(peers, rows)


def _answer(model: nn.Module, batch: Batch, compute: Compute, *, inputs: ModelInput, loss: losses.Loss) -> tuple[NDArray[Any], ...]:
    targets = compute.place(batch.targets_BC)
    logits = compute.run(model, inputs(compute.place(batch.clips_BTHWC)))
    losses.require_match(logits, targets)
    each = loss(logits, targets)
    return logits.cpu().numpy(), batch.targets_BC.numpy(), batch.indices_B.numpy(), each.cpu().numpy()


def _collect(peers: World, rows: list[tuple[NDArray[Any], ...]]) -> Predictions:
    everybody = [row for share in peers.gather(rows) for row in share]
    if not everybody:
        raise ValueError("there is no clip to evaluate")
    logits, targets, indices, each = (np.concatenate(column) for column in zip(*everybody, strict=True))
    order = np.argsort(indices, kind="stable")
    indices = indices[order]
    assert len(np.unique(indices)) == len(indices), "a clip was evaluated twice"
    mean = float(each[order].mean(dtype=np.float64))
    return Predictions(logits=logits[order].astype(np.float32), targets=targets[order], indices=indices.astype(np.int64), loss=mean)
