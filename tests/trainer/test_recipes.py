"""What `check` says of a recipe that cannot be trained: each key with its value, before anything is started."""

from __future__ import annotations

import pytest

from trainer import config as conf
from trainer.check import check

SOUND = "data.root=/data", "data.size=112", "model.name=i3d"


def _faults(*overrides: str) -> dict[str, str]:
    """key path -> message."""
    raw: dict[str, dict[str, object]] = {}
    unread = [fault for override in (*SOUND, *overrides) for fault in conf._apply(raw, override)]
    config, faults = conf.parse(raw)
    return {fault.path: fault.message for fault in (*unread, *faults, *check(config))}


@pytest.mark.parametrize(
    ("overrides", "path", "says"),
    [
        (["train.schedule=step"], "train.milestones", "is empty"),
        (
            ["train.schedule=step", "train.milestones=[400000, 250000]"],
            "train.milestones",
            "is [400000, 250000], not whole numbers",
        ),
        (["train.schedule=step", "train.milestones=[0, 2]"], "train.milestones", "is [0, 2]"),
        (["train.schedule=step", "train.milestones=[5]", "train.gamma=0"], "train.gamma", "is 0.0"),
        (
            ["train.warmup_lr=0.1", "train.lr=0.01"],
            "train.warmup_lr",
            "is 0.1, not between 0 and lr 0.01",
        ),
        (["train.warmup_epochs=-1"], "train.warmup_epochs", "is -1.0, less than 0"),
        (["train.clip_grad=-1"], "train.clip_grad", "is -1.0, less than 0"),
        (["train.epoch_size=-1"], "train.epoch_size", "is -1, less than 0"),
        (["train.bias_lr=-2"], "train.bias_lr", "is -2.0, less than 0"),
        (["train.lr_of.logits=-2"], "train.lr_of.logits", "is -2.0"),
        (["train.lr_of.logits=many"], "train.lr_of", "many"),
        (
            ["train.optimizer=sgd", "train.nesterov=true", "train.dampening=0.9"],
            "train.nesterov",
            "they are 0.9 and 0.9",
        ),
        (
            ["train.optimizer=sgd", "train.nesterov=true", "train.momentum=0"],
            "train.nesterov",
            "they are 0.0 and 0.0",
        ),
        (["train.nesterov=true"], "train.nesterov", "is True, and adam has no such setting"),
        (["train.clip_grad=.nan"], "train.clip_grad", "is nan, not a number"),
        (["train.weight_decay=.inf"], "train.weight_decay", "is inf, not a number"),
        (["train.momentum=1.5"], "train.momentum", "is 1.5, not between 0 and 1"),
        (["train.keep_weights=last"], "train.keep_weights", 'is "last"'),
        (["train.lr_scaling=square"], "train.lr_scaling", "square"),
        (["test.epochs=1,5-3"], "test.epochs", 'is "1,5-3"'),
        (["test.epochs=1-99999999"], "test.epochs", 'is "1-99999999"'),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_told_with_its_value(
    overrides: list[str], path: str, says: str
) -> None:
    found = _faults(*overrides)
    assert list(found) == [path]
    assert says in found[path]


def test_every_key_of_a_recipe_at_once_is_no_fault() -> None:
    assert not _faults(
        *(
            "train.optimizer=sgd",
            "train.schedule=step",
            "train.milestones=[20,30,40]",
            "train.gamma=0.2",
            "train.milestone_unit=steps",
        ),
        *(
            "train.nesterov=true",
            "train.lr_scaling=linear",
            "train.warmup_epochs=10",
            "train.warmup_lr=1e-5",
            "train.epoch_size=1000000",
        ),
        *(
            "train.lr_of={logits: 10, Conv3d_1a_7x7: 0}",
            "train.bias_lr=2",
            "train.bias_decay=false",
            "train.clip_grad=40",
        ),
        *("train.freeze_norm=true", "train.keep_weights=last:3"),
    )


def test_only_prepare_needs_no_network() -> None:
    config, _ = conf.parse({"data": {"root": "/data"}})
    assert check(config, "prepare") == []
    assert [fault.path for fault in check(config, "train")] == ["model.name"]
