"""Predictions: in order, without gradients, without touching the network; scores for both kinds of labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from torch import nn

from trainer import losses
from trainer.compute import Compute
from trainer.data.loader import Batch
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.errors import TryAgain
from trainer.evaluation import METRICS_OF, Predictions, predict, selected

CPU = Compute(device=torch.device("cpu"))
INPUTS = ModelInput(PRESETS["minus_one_one"])


class Net(nn.Module):
    """BatchNorm and dropout: both must stay as in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        features = nn.Sequential(
            nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool3d(1)
        )
        self.layers = nn.Sequential(features, nn.Flatten(), nn.Linear(4, 2))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        answer: torch.Tensor = self.layers(video)
        return answer


def _batches(order: list[int]) -> Iterator[Batch]:
    clips = torch.randint(
        0,
        256,
        (len(order), 3, 4, 4, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )
    for begin in range(0, len(order), 2):
        part = torch.tensor(order[begin : begin + 2])
        yield Batch(clips[part], (part % 2)[:, None].float().expand(-1, 2), part, len(part))


def test_rows_are_clips_in_order_and_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = Net().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = predict(net, _batches([4, 2, 0, 1, 3]), CPU, inputs=INPUTS, videos=[5, 5, 6, 7, 7])
    again = predict(net, _batches([0, 1, 2, 3, 4]), CPU, inputs=INPUTS)
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert found.video_of.tolist() == [5, 5, 6, 7, 7]
    assert again.video_of.tolist() == [0, 1, 2, 3, 4]
    assert found.targets[:, 0].tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_allclose(found.logits, again.logits, atol=1e-6)
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    expected = nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(found.logits), torch.from_numpy(found.targets)
    )
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_a_clip_that_comes_twice_is_a_bug_and_said_so() -> None:
    with pytest.raises(AssertionError, match="evaluated twice"):
        predict(Net(), [*_batches([0, 1]), *_batches([0])], CPU, inputs=INPUTS)


def test_it_stops_when_asked() -> None:
    with pytest.raises(TryAgain):
        predict(Net(), _batches([0, 1]), CPU, inputs=INPUTS, stop=lambda: True)


def test_scores_of_several_labels_and_of_one() -> None:
    logits = np.array([[4.0, -4.0, 0.1], [-4.0, 4.0, 0.2]], dtype=np.float32)
    targets = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    found = Predictions(logits=logits, targets=targets, indices=np.arange(2), loss=0.0)
    assert found.scores(0.5)["accuracy"] == 0.0  # the third class is found in both
    assert found.scores(0.6)["accuracy"] == 1.0
    assert found.scores(0.6)["map"] == 1.0  # of the two classes that occur
    assert found.scores(0.5, multi_label=False)["top1"] == 1.0
    np.testing.assert_allclose(found.probabilities(multi_label=False).sum(axis=1), 1, rtol=1e-6)
    loss = losses.BY_MULTI_LABEL[True](torch.from_numpy(logits), torch.from_numpy(targets))
    assert loss.shape == (2,)


def test_a_video_is_judged_by_all_its_clips() -> None:
    """Two clips of the first video and one of the second: wrong in one clip each, and the first video right altogether."""
    logits = np.log(np.array([[0.4, 0.5, 0.1], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]], dtype=np.float32))
    targets = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    found = Predictions(
        logits=logits, targets=targets, indices=np.arange(3), loss=0.0, videos=np.array([4, 4, 7])
    )
    assert found.video_places.tolist() == [4, 7]
    np.testing.assert_allclose(found.video_scores(), [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(
        found.video_scores("max"), [[0.8, 0.5, 0.1], [0.2, 0.3, 0.5]], rtol=1e-6
    )
    scores = found.scores(0.5, multi_label=False, best_frames=[1])
    assert scores == pytest.approx(
        {
            "clip_top1": 1 / 3, "clip_top3": 1, "clip_top5": 1, "top1": 0.5, "top3": 1, "top5": 1, "mean_error": 0.25,
            "mean_class_accuracy": 0.5, "map": 0.75, "best1_top1": 0.5, "best1_top5": 1, "best1_map": 0.75,
        }
    )  # fmt: skip


@settings(max_examples=20)
@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_several_labels_are_scored_by_video_too(
    data: st.DataObject, clips: int, classes: int
) -> None:
    """With one clip a video nothing is different; with several the mean of their probabilities decides."""
    logits = data.draw(
        nps.arrays(np.float32, (clips, classes), elements=st.floats(-4, 4, width=32))
    )
    targets = data.draw(
        nps.arrays(np.float32, (clips, classes), elements=st.sampled_from([0.0, 1.0]))
    )
    each = Predictions(logits=logits, targets=targets, indices=np.arange(clips), loss=0.0)
    assert each.video_scores(multi_label=True).tolist() == each.probabilities().tolist()
    twice = np.repeat(np.arange(clips), 2)
    doubled = Predictions(
        logits=logits[twice],
        targets=targets[twice],
        indices=np.arange(2 * clips),
        loss=0.0,
        videos=twice,
    )
    assert doubled.scores(0.5) == pytest.approx(each.scores(0.5))


def test_what_is_selected_by_exists() -> None:
    """Every metric that train.select may name is one that validation tells."""
    targets = np.eye(3, dtype=np.float32)
    found = Predictions(logits=targets, targets=targets, indices=np.arange(3), loss=0.0)
    for multi_label, names in METRICS_OF.items():
        assert set(names) <= found.scores(0.5, multi_label=multi_label).keys()
        assert selected("auto", multi_label=multi_label) in names
