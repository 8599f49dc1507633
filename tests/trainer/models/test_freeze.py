"""`model.freeze: [NAME]` leaves the last layer of every network to train: linear probing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer import models, signatures
from trainer.models.weights import apply_freeze

OPTIONS = {"resnet3d": {"depth": 10}, "resnext3d": {"depth": 50}}
# what its ImageNet weights do not fill
MORE = {"vgg16": ("conv_base.31.", "conv_base.33.", "extra_layers.", "classifier.")}
PLAIN = [
    name
    for name, signature in signatures.read().items()
    if signature.kind == "classifier" and len(signature.parts) == 1
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_frozen_network_trains_its_last_layer_alone(name: str) -> None:
    with torch.device("meta"):
        model: nn.Module = models.create(name, num_classes=7, **OPTIONS.get(name, {}))
    apply_freeze(model, [name])
    model.train()
    trainable = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(key.startswith(MORE.get(name, (f"{model.head_module}.",))) for key in trainable)
    assert not any(module.training for module in model.modules() if isinstance(module, _BatchNorm))
