"""The learning rate is a function of the step; the optimizers are those of the conf."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer import optim
from trainer.config import TrainConf
from trainer.errors import ConfFault


def _rates(conf: TrainConf, *, per_epoch: int, epochs: int) -> list[float]:
    total = per_epoch * epochs
    return [optim.lr_at(step, conf, per_epoch=per_epoch, total=total) for step in range(total)]


def test_milestones_are_epochs_done_as_in_torch() -> None:
    conf = TrainConf(lr=1.0, schedule="step", milestones=(2, 3), gamma=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.1)
    expected = []
    for _ in range(4):
        expected += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        reference.step()
    assert _rates(conf, per_epoch=5, epochs=4) == pytest.approx(expected)


def test_cosine_goes_from_lr_to_almost_nothing() -> None:
    rates = _rates(TrainConf(lr=2.0, schedule="cosine"), per_epoch=10, epochs=10)
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(1.0)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_warm_up_is_linear_and_ends_at_lr() -> None:
    rates = _rates(TrainConf(lr=1.0, warmup_steps=4), per_epoch=10, epochs=1)
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_an_incomplete_last_window_is_a_step_too() -> None:
    conf = TrainConf(batch=4, accumulate=2, epochs=3)
    assert optim.steps_per_epoch(17, conf) == 3
    assert optim.total_steps(17, conf) == 9
    assert optim.total_steps(17, TrainConf(batch=4, accumulate=2, epochs=3, max_steps=5)) == 5


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
@pytest.mark.parametrize("fused", [False, True])
def test_only_what_is_trainable_is_optimized(
    name: str, kind: type[torch.optim.Optimizer], fused: bool
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    conf = TrainConf(optimizer=name, lr=0.5, weight_decay=0.1)  # type: ignore[arg-type]  # parametrised over the literal
    optimizer = optim.build(model, conf, fused=fused)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["params"] == list(model[1].parameters())
    model(torch.ones(1, 2)).sum().backward()
    before = model[1].weight.clone()
    optim.set_lr(optimizer, 0.25)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert not torch.equal(before, model[1].weight)


def test_milestones_may_count_steps() -> None:
    conf = TrainConf(lr=1.0, schedule="step", milestones=(3, 7), milestone_unit="steps", gamma=0.2)
    assert _rates(conf, per_epoch=2, epochs=4) == pytest.approx([1, 1, 1, 0.2, 0.2, 0.2, 0.2, 0.04])


def test_a_warm_up_in_epochs_starts_at_warmup_lr_and_the_longer_one_holds() -> None:
    rates = _rates(
        TrainConf(lr=1.0, warmup_epochs=0.5, warmup_lr=0.2, warmup_steps=1), per_epoch=8, epochs=1
    )
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert _rates(TrainConf(lr=1.0, warmup_epochs=0.5, warmup_steps=7), per_epoch=8, epochs=1)[
        6:
    ] == pytest.approx([7 / 8, 1])


def test_linear_scaling_is_lr_times_the_processes() -> None:
    conf = TrainConf(lr=0.1, lr_scaling="linear", warmup_epochs=1, warmup_lr=1e-5)
    assert [
        optim.lr_at(step, conf, per_epoch=10, total=20, world=4) for step in (0, 10)
    ] == pytest.approx([1e-5, 0.4])
    assert optim.lr_at(10, TrainConf(lr=0.1), per_epoch=10, total=20, world=4) == 0.1


def test_an_epoch_may_have_a_size_of_its_own() -> None:
    conf = TrainConf(batch=4, epochs=2, epoch_size=18)
    assert [
        optim.epoch_clips(7, conf),
        optim.steps_per_epoch(7, conf),
        optim.total_steps(7, conf),
    ] == [18, 5, 10]


class _Net(nn.Module):
    """Names as C3D has them, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc7, self.bn, self.fc8 = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)


def _treatment(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, tuple[float, float]]:
    """Parameter name -> (lr, weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[each]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for each in group["params"]
    }


def test_names_and_biases_have_a_rate_and_a_decay_of_their_own() -> None:
    """The two-stream recipe's biases (twice the rate, no decay; BatchNorm's, too) and C3D's last layer (ten times the rate)."""
    model = _Net()
    conf = TrainConf(
        optimizer="sgd",
        lr=0.5,
        weight_decay=0.1,
        lr_of={"fc": 3, "fc8": 10, "bn.weight": 0},
        bias_lr=2,
        bias_decay=False,
    )
    optimizer = optim.build(model, conf, fused=False)
    optim.set_lr(optimizer, 0.01)
    assert _treatment(model, optimizer) == {
        "fc7.weight": (0.03, 0.1),
        "fc7.bias": (0.06, 0.0),
        "bn.weight": (0.0, 0.1),
        "bn.bias": (0.02, 0.0),
        "fc8.weight": (0.1, 0.1),
        "fc8.bias": (0.2, 0.0),
    }


def test_groups_and_their_scales_survive_a_state_file() -> None:
    """A state file's groups are put back with their scales; one of version 0.1 has a single group without any."""
    model, conf = _Net(), TrainConf(optimizer="sgd", lr_of={"fc8": 10})
    again = optim.build(model, conf, fused=False)
    again.load_state_dict(optim.build(model, conf, fused=False).state_dict())
    optim.set_lr(again, 0.1)
    assert sorted(group["lr"] for group in again.param_groups) == [0.1, 1.0]
    old = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    now = optim.build(model, TrainConf(optimizer="sgd"), fused=False)
    now.load_state_dict(old.state_dict())
    optim.set_lr(now, 0.1)
    assert [group["lr"] for group in now.param_groups] == [0.1]


def test_a_start_that_no_name_has_is_a_fault_that_says_which_there_are() -> None:
    with pytest.raises(
        ConfFault,
        match=r"train\.lr_of\.head: no parameter's name starts so \(they start with fc7, bn, fc8\)",
    ):
        optim.build(_Net(), TrainConf(lr_of={"head": 10}), fused=False)
    with pytest.raises(ConfFault, match="fc8"):
        optim.build(_Net(), TrainConf(lr_of={"fc_8": 10}), fused=False)


def test_sgd_has_the_conf_s_dampening_and_nesterov() -> None:
    damped = optim.build(
        nn.Linear(1, 1), TrainConf(optimizer="sgd", dampening=0.9), fused=False
    ).param_groups[0]
    assert (damped["momentum"], damped["dampening"], damped["nesterov"]) == (0.9, 0.9, False)
    ahead = optim.build(
        nn.Linear(1, 1), TrainConf(optimizer="sgd", nesterov=True), fused=False
    ).param_groups[0]
    assert (ahead["dampening"], ahead["nesterov"]) == (0, True)


def test_nothing_to_train_is_a_fault_of_the_conf() -> None:
    model = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ConfFault, match=r"model\.freeze: leaves nothing to train"):
        optim.build(model, TrainConf(), fused=False)
