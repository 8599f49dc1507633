"""The optimizer and the learning rate. The rate is a function of the step alone, so a schedule has no state to resume."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer.config import TrainConf
from trainer.errors import ConfFault, Fault


def build(parameters: Iterable[nn.Parameter], conf: TrainConf, *, fused: bool) -> torch.optim.Optimizer:
    """The conf's optimizer over what is trainable. Raises ConfFault when nothing is."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfFault([Fault(path="model.freeze", message="leaves nothing to train", hint="name fewer parts")])
    decay = conf.weight_decay
    if conf.optimizer == "sgd":
        return torch.optim.SGD(trainable, lr=conf.lr, momentum=conf.momentum, weight_decay=decay, fused=fused or None)
    kind = torch.optim.Adam if conf.optimizer == "adam" else torch.optim.AdamW
    return kind(trainable, lr=conf.lr, weight_decay=decay, fused=fused or None)


def slots(conf: TrainConf) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return 2 if conf.optimizer != "sgd" else int(conf.momentum > 0)


def steps_per_epoch(clips: int, conf: TrainConf) -> int:
    """Optimizer steps in an epoch; the last one may have an incomplete window."""
    return math.ceil(clips / (conf.batch * conf.accumulate))


def total_steps(clips: int, conf: TrainConf) -> int:
    """Optimizer steps in the whole run."""
    planned = conf.epochs * steps_per_epoch(clips, conf)
    return min(planned, conf.max_steps) if conf.max_steps else planned


def lr_at(step: int, conf: TrainConf, *, per_epoch: int, total: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    warm-up: linear, reaching lr at step `warmup_steps`. step: times gamma once each milestone's epochs are done (torch's
    MultiStepLR). cosine: half a wave from lr after the warm-up down to 0 at `total` (arXiv 1608.03983, without restarts).
    """
    if step < conf.warmup_steps:
        return conf.lr * (step + 1) / (conf.warmup_steps + 1)
    if conf.schedule == "step":
        return conf.lr * conf.gamma ** sum(step // per_epoch >= milestone for milestone in conf.milestones)
    if conf.schedule == "cosine":
        done = (step - conf.warmup_steps) / max(total - conf.warmup_steps, 1)
        return conf.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return conf.lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
