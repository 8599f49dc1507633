"""`check_model`: what is wrong between the model section, the data and the checkpoint, all at once and without torch."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trainer.config import Config, parse
from trainer.model_rules import check_model, model_options, weights_faults


def conf(model: dict[str, Any], **data: Any) -> Config:
    config, faults = parse({"model": model, "data": data})
    assert not faults
    return config


GOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "i3d", "mode": "32x112"}, {"frames": 32, "size": 112}),
    (
        {"name": "i3d", "mode": "32x112", "init": "rgb_charades.pt", "init_head": "replace"},
        {"frames": 32, "size": 112},
    ),
    (
        {"name": "resizer_i3d", "resizer": "3d", "residual_blocks": 3, "freeze_i3d": True},
        {"frames": 32, "size": 56},
    ),
    (
        {
            "name": "stn_resizer_i3d",
            "mode": "16x112",
            "init": {"transformer": "a", "resizer": "a", "i3d": "b"},
        },
        {"frames": 16, "size": 28},
    ),
    (
        {"name": "transformer_resizer_i3d", "read_at": 2, "apply_at": 5, "freeze": ["i3d"]},
        {"frames": 32, "size": 14},
    ),
    ({"name": "resizer_i3d", "num_classes": 26, "frames": 32, "size": 112}, {}),
    ({"name": "resnet3d", "depth": 18}, {"frames": 8, "size": 32}),
    ({"name": "shufflenetv2_3d", "width": 2}, {}),
    ({"name": "c3d"}, {"frames": 16, "size": 112}),
    ({"name": "vgg16"}, {"frames": 5, "size": 300}),
    ({"name": "inception_v3"}, {"frames": 5, "size": 75}),
    ({"name": "r2plus1d", "depth": 34, "bn_eps": None}, {"frames": 32, "size": 112}),
]


@pytest.mark.parametrize(("model", "data"), GOOD)
def test_what_is_right_has_no_fault(model: dict[str, Any], data: dict[str, Any]) -> None:
    """Whether the number of classes is known or not."""
    assert check_model(conf(model, **data), None) == []
    assert check_model(conf(model, **data), 26) == []


BAD: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    ({"name": ""}, {}, {"model.name": "is missing"}),
    ({"name": "resizer_i4d"}, {}, {"model.name": 'did you mean "resizer_i3d"'}),
    ({"name": "resizer2d"}, {}, {"model.name": "maps video to video.*resizer_i3d"}),
    ({"name": "i3d", "mod": "32x112"}, {}, {"model.mod": 'did you mean "mode"'}),
    ({"name": "resnet3d"}, {}, {"model.depth": "resnet3d needs depth.*10, 18, 34"}),
    ({"name": "c3d"}, {"frames": 32, "size": 112}, {"data.frames": "is 32, not 16.*c3d takes clips of 16x112"}),
    ({"name": "vgg16"}, {"frames": 5, "size": 224}, {"data.size": "is 224, not 300.*vgg16 takes frames of 300x300 pixels"}),
    ({"name": "inception_v3"}, {"frames": 5, "size": 64}, {"data.size": "is 64, less than 75.*75x75 pixels and more"}),
    ({"name": "r2plus1d", "depth": 20}, {}, {"model.depth": "not one of 10, 16, 18"}),
    ({"name": "shufflenetv2_3d", "width": 0.75}, {}, {"model.width": "not one of 0.25, 0.5, 1.0"}),
    ({"name": "i3d", "dropout": "much"}, {}, {"model.dropout": "not a number"}),
    ({"name": "resizer_i3d", "resizer": "2D"}, {}, {"model.resizer": "not one of 2d, 3d"}),
    ({"name": "i3d", "mode": "32x112"}, {"frames": 16, "size": 56}, {"model.mode": "data.frames: 32.*data.size: 112"}),
    ({"name": "resizer_i3d", "mode": "32x112"}, {"frames": 16}, {"model.mode": "model.mode: 16x112"}),
    ({"name": "resizer_i3d", "frames": 16}, {}, {"model.frames": "mode 32x112 has 32"}),
    ({"name": "resizer_i3d", "num_classes": 5}, {}, {"model.num_classes": "number of classes is 26.*leave it out"}),
    ({"name": "transformer_resizer_i3d", "in_size": 56}, {"size": 28}, {"model.in_size": "data.size is 28"}),
    ({"name": "transformer_resizer_i3d", "read_at": 5, "apply_at": 2}, {}, {"model.read_at": "read_at <= apply_at"}),
    (
        {"name": "transformer_resizer_i3d", "read_at": -1, "apply_at": 9}, {},
        {"model.read_at": "points 0 to 8", "model.apply_at": "points 0 to 8"},
    ),
    ({"name": "i3d", "head": "per_frame"}, {"size": 112}, {"model.head": "labels for clips"}),
    ({"name": "resizer_i3d", "in_channels": 2}, {}, {"model.in_channels": "data.stream is 3"}),
    ({"name": "resizer_i3d", "bn_momentum": 1}, {}, {"model.bn_momentum": "not from 0 up to 1"}),
    (
        {"name": "resizer_i3d", "init": {"resiser": "a", "i3d": ""}, "freeze": ["stn"]}, {},
        {"model.init.resiser": 'did you mean "resizer"', "model.init.i3d": "is empty", "model.freeze": "its parts: resizer, i3d"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "data", "said"), BAD)
def test_each_fault_is_named_where_it_is(
    model: dict[str, Any], data: dict[str, Any], said: dict[str, str]
) -> None:
    faults = check_model(conf(model, **data), 26)
    assert {fault.path for fault in faults} == set(said)
    for path, pattern in said.items():
        text = " ".join(str(fault) for fault in faults if fault.path == path)
        assert re.search(pattern, text), text


def test_the_data_gives_what_the_conf_leaves_out() -> None:
    config = conf({"name": "transformer_resizer_i3d", "mode": "16x112"}, frames=16, size=14)
    assert model_options(config, 5) == {
        "mode": "16x112",
        "num_classes": 5,
        "frames": 16,
        "in_size": 14,
        "in_channels": 3,
    }


def test_a_checkpoint_of_another_network_is_refused() -> None:
    """Where a transform is applied changes no tensor's shape, so only the options tell."""
    config = conf({"name": "transformer_resizer_i3d", "read_at": 2, "apply_at": 5, "dropout": 0.1})
    options = {
        "name": "transformer_resizer_i3d",
        "read_at": 2,
        "apply_at": 5,
        "residual_blocks": 3,
        "frames": 32,
    }
    assert weights_faults(config, {"model": options, "classes": ["a", "b"]}, ("a", "b")) == []
    moved = weights_faults(
        config, {"model": {**options, "apply_at": 2}, "classes": ["b", "a"]}, ("a", "b")
    )
    assert [fault.path for fault in moved] == ["model.apply_at", "data.classes"]
    (other,) = weights_faults(config, {"model": {"name": "i3d"}, "classes": ["a", "b"]}, ("a", "b"))
    assert "holds a 'i3d'" in other.message
