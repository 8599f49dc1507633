"""The optimizer and the learning rate. The rate is a function of the step alone, so a schedule has no state to resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConf
from trainer.errors import ConfFault, Fault, did_you_mean


def build(model: nn.Module, conf: TrainConf, *, fused: bool) -> torch.optim.Optimizer:
    """The conf's optimizer over what is trainable. Raises ConfFault when nothing is, and for a name in lr_of that no parameter has."""
    groups = _groups(model, conf)
    if not groups:
        raise ConfFault(
            [Fault(path="model.freeze", message="leaves nothing to train", hint="name fewer parts")]
        )
    if conf.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=conf.lr,
            momentum=conf.momentum,
            dampening=conf.dampening,
            nesterov=conf.nesterov,
            fused=fused or None,
        )
    kind = torch.optim.Adam if conf.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=conf.lr, fused=fused or None)


def _groups(model: nn.Module, conf: TrainConf) -> list[dict[str, Any]]:
    """The trainable parameters, together where lr and weight decay are the same: one group for a conf that treats all alike.

    `scale` is what `set_lr` multiplies the schedule's rate with.
    """
    _require_known(model, conf.lr_of)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault((_scale(name, conf), _decay(name, conf)), []).append(parameter)
    return [
        {"params": members, "lr": conf.lr * scale, "scale": scale, "weight_decay": decay}
        for (scale, decay), members in found.items()
    ]


def _scale(name: str, conf: TrainConf) -> float:
    """By the longest start of the name in lr_of, times bias_lr where it is a bias: {fc: 10}, bias_lr 2 -> fc.bias 20."""
    longest = max(
        (prefix for prefix in conf.lr_of if name.startswith(prefix)), key=len, default=None
    )
    own = 1.0 if longest is None else conf.lr_of[longest]
    return own * conf.bias_lr if _is_bias(name) else own


def _decay(name: str, conf: TrainConf) -> float:
    return conf.weight_decay if conf.bias_decay or not _is_bias(name) else 0.0


def _is_bias(name: str) -> bool:
    """Of convolutions, linear layers and BatchNorm alike, as the published recipes count them."""
    return name.rpartition(".")[2] == "bias"


def _require_known(model: nn.Module, lr_of: Mapping[str, float]) -> None:
    names = [name for name, _ in model.named_parameters()]
    first = list(dict.fromkeys(name.partition(".")[0] for name in names))
    faults = [
        Fault(
            path=f"train.lr_of.{prefix}",
            message="no parameter's name starts so",
            hint=did_you_mean(prefix, first) or f"they start with {', '.join(first)}",
        )
        for prefix in lr_of
        if not any(name.startswith(prefix) for name in names)
    ]
    if faults:
        raise ConfFault(faults)


def slots(conf: TrainConf) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return 2 if conf.optimizer != "sgd" else int(conf.momentum > 0)


def epoch_clips(clips: int, conf: TrainConf) -> int:
    """Clips in an epoch over a training split of `clips`."""
    return conf.epoch_size or clips


def steps_per_epoch(clips: int, conf: TrainConf) -> int:
    """Optimizer steps in an epoch; the last one may have an incomplete window."""
    return math.ceil(epoch_clips(clips, conf) / (conf.batch * conf.accumulate))


def total_steps(clips: int, conf: TrainConf) -> int:
    """Optimizer steps in the whole run."""
    planned = conf.epochs * steps_per_epoch(clips, conf)
    return min(planned, conf.max_steps) if conf.max_steps else planned


def lr_at(step: int, conf: TrainConf, *, per_epoch: int, total: int, world: int = 1) -> float:
    """The learning rate of optimizer step `step`, counted from 0, in a run of `world` processes.

    warm-up: linear, from warmup_lr (0: one of its equal steps) at step 0 to lr at step `warmup_steps`; nothing lowers lr meanwhile.
    step: times gamma once each milestone's epochs or steps are done (torch's MultiStepLR, stepped after each).
    cosine: half a wave from lr after the warm-up down to 0 at `total` (arXiv 1608.03983, without restarts).
    """
    lr = conf.lr * world if conf.lr_scaling == "linear" else conf.lr
    warmup = max(conf.warmup_steps, round(conf.warmup_epochs * per_epoch))
    if step < warmup:
        first = conf.warmup_lr or lr / (warmup + 1)
        return first + (lr - first) * step / warmup
    if conf.schedule == "step":
        done = step // per_epoch if conf.milestone_unit == "epochs" else step
        return lr * conf.gamma ** sum(done >= milestone for milestone in conf.milestones)
    if conf.schedule == "cosine":
        share = (step - warmup) / max(total - warmup, 1)
        return lr * (1 + math.cos(math.pi * min(share, 1.0))) / 2
    return lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step, in each group times its own scale (states of version 0.1 know one group without any)."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("scale", 1.0) * lr
