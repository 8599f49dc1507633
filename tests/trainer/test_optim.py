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


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
@pytest.mark.parametrize("fused", [False, True])
def test_only_what_is_trainable_is_optimized(name: str, kind: type[torch.optim.Optimizer], fused: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    conf = TrainConf(optimizer=name, lr=0.5, weight_decay=0.1)  # type: ignore[arg-type]  # parametrised over the literal
    optimizer = optim.build(model.parameters(), conf, fused=fused)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["params"] == list(model[1].parameters())
    model(torch.ones(1, 2)).sum().backward()
    before = model[1].weight.clone()
    optim.set_lr(optimizer, 0.25)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert not torch.equal(before, model[1].weight)


def test_nothing_to_train_is_a_fault_of_the_conf() -> None:
    model = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ConfFault, match=r"model\.freeze: leaves nothing to train"):
        optim.build(model.parameters(), TrainConf(), fused=False)
