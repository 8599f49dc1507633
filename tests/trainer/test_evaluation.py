"""Predictions: in order, without gradients, without touching the network; scores for both kinds of labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from trainer import losses
from trainer.compute import Compute
from trainer.data.loader import Batch
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.errors import TryAgain
from trainer.evaluation import Predictions, predict

CPU = Compute(device=torch.device("cpu"))
INPUTS = ModelInput(PRESETS["minus_one_one"])


class Net(nn.Module):
    """BatchNorm and dropout: both must stay as in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        features = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool3d(1))
        self.layers = nn.Sequential(features, nn.Flatten(), nn.Linear(4, 2))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        answer: torch.Tensor = self.layers(video)
        return answer


def _batches(order: list[int]) -> Iterator[Batch]:
    clips = torch.randint(0, 256, (len(order), 3, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for begin in range(0, len(order), 2):
        part = torch.tensor(order[begin : begin + 2])
        yield Batch(clips[part], (part % 2)[:, None].float().expand(-1, 2), part, len(part))


def test_rows_are_clips_in_order_and_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = Net().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = predict(net, _batches([4, 2, 0, 1, 3]), CPU, inputs=INPUTS)
    again = predict(net, _batches([0, 1, 2, 3, 4]), CPU, inputs=INPUTS)
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert found.targets[:, 0].tolist() == [0, 1, 0, 1, 0]
    np.testing.assert_allclose(found.logits, again.logits, atol=1e-6)
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    expected = nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(found.logits), torch.from_numpy(found.targets))
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
    assert found.scores(0.5, multi_label=False)["accuracy"] == 1.0
    np.testing.assert_allclose(found.probabilities(multi_label=False).sum(axis=1), 1, rtol=1e-6)
    loss = losses.BY_MULTI_LABEL[True](torch.from_numpy(logits), torch.from_numpy(targets))
    assert loss.shape == (2,)
