"""The loop: a step's gradient is the mean over its window's clips, and nothing that is not finite gets into the weights."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from trainer import losses
from trainer.compute import Compute
from trainer.config import TrainConf
from trainer.data.normalise import PRESETS
from trainer.data.transforms import ModelInput
from trainer.distributed import World
from trainer.errors import ConfFault, Diverged, TryAgain
from trainer.loop import Meter, Position, steps

INPUTS = ModelInput(PRESETS["minus_one_one"])


@pytest.fixture(scope="module")
def parts(project: Path) -> ModuleType:
    """The small network and data of ddp_program.py."""
    spec = importlib.util.spec_from_file_location(
        "ddp_program", project / "tests" / "trainer" / "ddp_program.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ddp_program"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("batch", "accumulate"), [(10, 1), (5, 2), (3, 2), (4, 3), (1, 10), (7, 1)]
)
def test_each_step_is_one_of_plain_sgd_on_the_mean_over_its_window(
    parts: ModuleType, batch: int, accumulate: int
) -> None:
    """Also for the incomplete last window, and with a partial last micro-batch inside it."""
    conf = TrainConf(batch=batch, accumulate=accumulate, optimizer="sgd", momentum=0.0, lr=0.1)
    trained = parts.session(World(), conf)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    positions = [
        step.position
        for step in steps(trained, parts.batches(World(), order, batch), Position(), Meter())
    ]

    torch.manual_seed(0)
    plain = parts.Net()
    clips, targets = parts.data()
    span = batch * accumulate
    for begin in range(0, len(order), span):
        window = order[begin : begin + span]
        plain.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(
            plain(INPUTS(clips[window])), targets[window]
        ).backward()
        with torch.no_grad():
            for weight in plain.parameters():
                if weight.grad is not None:
                    weight -= 0.1 * weight.grad
    for mine, theirs in zip(trained.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    assert [position.consumed for position in positions] == [
        min(begin + span, 10) for begin in range(0, 10, span)
    ]


def test_the_reported_loss_is_the_mean_over_clips(parts: ModuleType) -> None:
    conf = TrainConf(batch=4, accumulate=1, optimizer="sgd", lr=1e-12)
    trained, meter = parts.session(World(), conf), Meter()
    list(steps(trained, parts.batches(World(), list(range(10)), 4), Position(), meter))
    clips, targets = parts.data()
    with torch.no_grad():
        expected = nn.functional.binary_cross_entropy_with_logits(
            trained.model(INPUTS(clips)), targets
        )
    mean, speeds = meter.take()
    assert mean == pytest.approx(float(expected), rel=1e-5)
    assert speeds["clips_per_s"] > 0
    assert 0 <= speeds["data_wait"] <= 1


def test_training_from_the_middle_of_an_epoch_is_the_rest_of_it(parts: ModuleType) -> None:
    conf = TrainConf(batch=3, accumulate=1, optimizer="sgd", lr=0.1)
    whole = parts.session(World(), conf)
    list(steps(whole, parts.batches(World(), list(range(10)), 3), Position(), Meter()))
    broken = parts.session(World(), conf)
    first = steps(broken, parts.batches(World(), list(range(10)), 3), Position(), Meter())
    middle = [next(first), next(first)][-1].position
    first.close()
    assert middle == Position(epoch=1, consumed=6, step=2)
    list(steps(broken, parts.batches(World(), list(range(6, 10)), 3), middle, Meter()))
    for mine, theirs in zip(whole.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_gradients_longer_than_clip_grad_are_cut_to_its_length(parts: ModuleType) -> None:
    """All together, before the step; shorter ones stay."""
    moved = {}
    for limit in (0.0, 1e-3, 1e6):
        trained = parts.session(
            World(), TrainConf(batch=10, optimizer="sgd", momentum=0.0, lr=1.0, clip_grad=limit)
        )
        before = [weight.detach().clone() for weight in trained.model.parameters()]
        list(steps(trained, parts.batches(World(), list(range(10)), 10), Position(), Meter()))
        moved[limit] = [
            old - new.detach() for old, new in zip(before, trained.model.parameters(), strict=True)
        ]
    assert float(torch.nn.utils.get_total_norm(moved[1e-3])) == pytest.approx(1e-3, rel=1e-2)
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(moved[0.0], moved[1e6], strict=True)
    )


def test_freeze_norm_keeps_statistics_and_trains_the_rest(parts: ModuleType) -> None:
    model = nn.Sequential(nn.BatchNorm3d(3), parts.Net())
    trained = parts.session(
        World(), TrainConf(batch=5, optimizer="sgd", lr=0.1, freeze_norm=True), model
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    list(steps(trained, parts.batches(World(), list(range(10)), 5), Position(), Meter()))
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert {"0.weight", "0.bias", "1.head.weight"} <= moved
    assert not moved & {"0.running_mean", "0.running_var", "0.num_batches_tracked"}


def test_an_epoch_of_its_own_size_ends_with_its_last_clip(parts: ModuleType) -> None:
    """14 draws of 10 clips: windows of 4, 4, 4 and 2."""
    trained = parts.session(World(), TrainConf(batch=4, epoch_size=14, epochs=2))
    order = [*range(10), 3, 1, 4, 5]
    found = [
        step.position
        for step in steps(trained, parts.batches(World(), order, 4), Position(), Meter())
    ]
    assert [position.consumed for position in found] == [4, 8, 12, 14]
    assert trained.total_steps == 8


def test_max_steps_ends_inside_an_epoch(parts: ModuleType) -> None:
    trained = parts.session(World(), TrainConf(batch=3, max_steps=2))
    assert [
        step.position.step
        for step in steps(trained, parts.batches(World(), list(range(10)), 3), Position(), Meter())
    ] == [1, 2]


class _Poisoned(nn.Module):
    """Not finite for clips whose first byte is 255; then its gradients are not either."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        bad = (video[:, 0, 0, 0, 0] == 1.0).float()
        answer: torch.Tensor = (
            self.inner(video) + (bad * math.inf).nan_to_num(nan=0.0, posinf=math.inf)[:, None]
        )
        return answer


def test_a_loss_that_is_not_finite_names_step_and_clips_before_any_weight_is_spoiled(
    parts: ModuleType,
) -> None:
    trained = parts.session(
        World(), TrainConf(batch=5, optimizer="sgd", lr=0.1), _Poisoned(parts.Net())
    )
    source = parts.batches(World(), list(range(10)), 5)
    source[1].clips_BTHWC[2, 0, 0, 0, 0] = 255
    for batch in source:
        batch.clips_BTHWC[:, 0, 0, 0, 0] = batch.clips_BTHWC[:, 0, 0, 0, 0].clamp(max=254)
    source[1].clips_BTHWC[2, 0, 0, 0, 0] = 255
    walk = steps(trained, source, Position(epoch=4, step=20), Meter())
    next(walk)
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    with pytest.raises(
        Diverged, match=r"loss is not finite at step 22 of epoch 4; clips: clip-7 \("
    ) as caught:
        next(walk)
    assert caught.value.exit_code == 76
    assert all(torch.equal(before[key], value) for key, value in trained.model.state_dict().items())


def test_a_finite_loss_with_a_gradient_that_is_not_stops_too(parts: ModuleType) -> None:
    trained = parts.session(World(), TrainConf(batch=5))
    trained.model.head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(
        Diverged, match=r"gradient is not finite at step 1 .*clip-0, clip-1, clip-2, clip-3, clip-4"
    ):
        next(steps(trained, parts.batches(World(), list(range(10)), 5), Position(), Meter()))


class _Greedy(nn.Module):
    """Asks for more memory than there is, from its `last` call on."""

    def __init__(self, inner: nn.Module, last: int) -> None:
        super().__init__()
        self.inner, self.left = inner, last

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        out: torch.Tensor = self.inner(video)
        return out


def test_a_batch_that_does_not_fit_is_a_fault_of_the_conf_and_later_a_reason_to_try_again(
    parts: ModuleType,
) -> None:
    """No retry makes the first step fit; what fitted before may again."""
    for fitting, error, said in (
        (
            0,
            ConfFault,
            "train.batch: makes 4 clips at once for each process, more than fit .*halve train.batch and double",
        ),
        (2, TryAgain, "ran out after 2 steps that fitted into it"),
    ):
        trained = parts.session(World(), TrainConf(batch=4, optimizer="sgd", lr=0.1))
        greedy = replace(trained, network=_Greedy(trained.network, fitting))
        with pytest.raises(error, match=said):
            list(steps(greedy, parts.batches(World(), list(range(10)), 4), Position(), Meter()))


def test_a_network_of_another_shape_is_a_fault_of_the_conf(parts: ModuleType) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(7))
    model(torch.zeros(1, 3, 4, 6, 6))
    with pytest.raises(ConfFault, match=r"model: answers with shape \(5, 7\)"):
        next(
            steps(
                parts.session(World(), TrainConf(batch=5), model),
                parts.batches(World(), list(range(10)), 5),
                Position(),
                Meter(),
            )
        )


def test_a_last_clip_alone_is_a_fault_of_the_conf_where_batchnorm_needs_two(
    parts: ModuleType,
) -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3),
        nn.AdaptiveAvgPool3d(1),
        nn.BatchNorm3d(4),
        nn.Flatten(),
        nn.Linear(4, parts.CLASSES),
    )
    trained = parts.session(World(), TrainConf(batch=9, accumulate=1, lr=0.1), model)
    with pytest.raises(ConfFault, match=r"train\.batch: leaves 1 clip to a process"):
        list(steps(trained, parts.batches(World(), list(range(10)), 9), Position(), Meter()))
    frozen = parts.session(
        World(), TrainConf(batch=9, accumulate=1, lr=0.1, freeze_norm=True), model
    )
    assert (
        len(list(steps(frozen, parts.batches(World(), list(range(10)), 9), Position(), Meter())))
        == 2
    )


def test_one_label_datasets_train_with_cross_entropy() -> None:
    logits, targets = torch.randn(4, 3), torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    each = losses.BY_MULTI_LABEL[False](logits, targets)
    torch.testing.assert_close(
        each.mean(), nn.functional.cross_entropy(logits, targets.argmax(dim=1))
    )


def test_bf16_and_channels_last_train_to_nearly_the_same_loss(parts: ModuleType) -> None:
    found = []
    for compute in (
        Compute(device=torch.device("cpu")),
        Compute(device=torch.device("cpu"), precision="bf16", channels_last=True),
    ):
        meter = Meter()
        trained = replace(parts.session(World(), TrainConf(batch=5, lr=0.01)), compute=compute)
        compute.prepare(trained.model)
        list(steps(trained, parts.batches(World(), list(range(10)), 5), Position(), meter))
        found.append(meter.take()[0])
    assert found[0] == pytest.approx(found[1], rel=0.02)
