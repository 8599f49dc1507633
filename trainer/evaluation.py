"""What a network says about every clip of a split: once each, in order, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import losses, metrics, ranking
from trainer.compute import Compute, enough_memory
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import TryAgain

# what `train.select` may name besides auto and loss, for several labels a video and for one
METRICS_OF = {
    True: ("f1_macro", "f1_micro", "f1_samples", "accuracy", "map"),
    False: (
        "top1",
        "top3",
        "top5",
        "clip_top1",
        "clip_top3",
        "clip_top5",
        "mean_class_accuracy",
        "map",
    ),
}


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
    """Row i is clip `indices[i]` of video `videos[i]`; indices ascend. Videos below are those that have a clip, in ascending order."""

    logits: NDArray[np.float32]  # (N, C)
    targets: NDArray[np.float32]  # (N, C)
    indices: NDArray[np.int64]  # (N,)
    loss: float  # mean over the clips
    videos: NDArray[np.int64] | None = None  # (N,); None: every clip is a video of its own

    @property
    def video_of(self) -> NDArray[np.int64]:
        """(N,): each clip's video."""
        return self.indices if self.videos is None else self.videos

    @property
    def video_places(self) -> NDArray[np.int64]:
        """(V,): the videos that the rows of `video_scores` and `video_targets` are about."""
        return np.unique(self.video_of)

    @property
    def video_targets(self) -> NDArray[np.float32]:
        """(V, C): the labels of a video's first clip."""
        _, first = np.unique(self.video_of, return_index=True)
        return self.targets[first]

    def probabilities(self, *, multi_label: bool = True) -> NDArray[np.float32]:
        """Sigmoid of each logit, or their softmax where a clip has one class. (N, C)"""
        logits = torch.from_numpy(self.logits)
        return (logits.sigmoid() if multi_label else logits.softmax(dim=1)).numpy()

    def video_scores(
        self, combine: ranking.Combine = "mean", *, multi_label: bool = False
    ) -> NDArray[np.float32]:
        """(V, C): mean or maximum of the probabilities of each video's clips."""
        return ranking.combine(self.probabilities(multi_label=multi_label), self.video_of, combine)

    def scores(
        self,
        threshold: float,
        *,
        multi_label: bool = True,
        combine: ranking.Combine = "mean",
        best_frames: Sequence[int] = (),
    ) -> dict[str, float]:
        """With several labels f1_macro, f1_micro, f1_samples, accuracy (exact match), map; with one clip_top1, 3, 5 and ranking.one_label.

        `best_frames`: for each K best<K>_top1, best<K>_top5 and best<K>_map of the means over a class's K highest clips.
        """
        videos = self.video_scores(combine, multi_label=multi_label)
        if multi_label:
            scores = metrics.multi_label(videos, self.video_targets, threshold)
            return scores | {"map": ranking.mean_average_precision(videos, self.video_targets)}
        clips = ranking.ranks(self.logits, self.targets.argmax(axis=1))
        found = {f"clip_top{k}": ranking.top(clips, k) for k in ranking.TOPS} | ranking.one_label(
            videos, self.video_targets
        )
        for k, best in self.best_frames(best_frames).items():
            of_best = ranking.one_label(best, self.video_targets)
            found |= {f"best{k}_{key}": of_best[key] for key in ("top1", "top5", "map")}
        return found

    def best_frames(self, kept: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """K -> (V, C): each class's mean over its min(K, clips of the video) highest softmax scores."""
        return (
            ranking.best_frames(self.probabilities(multi_label=False), self.video_of, kept)
            if kept
            else {}
        )


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    *,
    inputs: ModelInput,
    loss: losses.Loss = losses.multi_label,
    videos: Sequence[int] | NDArray[np.int64] | None = None,
    rank: int = 0,
    world: int = 1,
    stop: Callable[[], bool] | None = None,
) -> Predictions:
    """Run the model in eval mode over this process's batches and gather everybody's answers, on every process.

    The shares are unpadded and may be empty. `videos` tells the video of each clip of the split (ClipSet.video_of). Raises TryAgain
    as soon as `stop` says so on any process.
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
    return _collect(peers, rows, videos)


def _answer(
    model: nn.Module, batch: Batch, compute: Compute, *, inputs: ModelInput, loss: losses.Loss
) -> tuple[NDArray[Any], ...]:
    targets = compute.place(batch.targets_BC)
    with enough_memory(compute.device, len(batch.indices_B)):
        logits = compute.run(model, inputs(compute.place(batch.clips_BTHWC)))
    losses.require_match(logits, targets)
    each = loss(logits, targets)
    return (
        logits.cpu().numpy(),
        batch.targets_BC.numpy(),
        batch.indices_B.numpy(),
        each.cpu().numpy(),
    )


def _collect(
    peers: World,
    rows: list[tuple[NDArray[Any], ...]],
    videos: Sequence[int] | NDArray[np.int64] | None,
) -> Predictions:
    everybody = [row for share in peers.gather(rows) for row in share]
    if not everybody:
        raise ValueError("there is no clip to evaluate")
    logits, targets, indices, each = (
        np.concatenate([row[place] for row in everybody]) for place in range(4)
    )
    everybody.clear()
    # a split of millions of frames and hundreds of classes has gigabytes of answers: they are here
    # once from now on
    rows.clear()
    if (np.diff(indices) < 0).any():
        order = np.argsort(indices, kind="stable")
        logits, targets, indices, each = (
            column[order] for column in (logits, targets, indices, each)
        )
    assert len(np.unique(indices)) == len(indices), "a clip was evaluated twice"
    return Predictions(
        logits=logits.astype(np.float32, copy=False),
        targets=targets,
        indices=indices.astype(np.int64, copy=False),
        loss=float(each.mean(dtype=np.float64)),
        videos=None if videos is None else np.asarray(videos, dtype=np.int64)[indices],
    )
