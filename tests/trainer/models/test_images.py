"""The 2D networks, Inception v3 and VGG-16: published numbers, stacks of frames, and whose weights fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from trainer import models, signatures
from trainer.models import counting
from trainer.models.inception_v3 import InceptionV3
from trainer.models.layers import Part
from trainer.models.vgg16 import VGG16
from trainer.models.weights import load_init


def on_meta(name: str, classes: int = 400, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, num_classes=classes, **options)


def inception(classes: int = 400, **options: Any) -> InceptionV3:
    model = on_meta("inception_v3", classes, **options)
    assert isinstance(model, InceptionV3)
    return model


def vgg(classes: int = 400, **options: Any) -> VGG16:
    model = on_meta("vgg16", classes, **options)
    assert isinstance(model, VGG16)
    return model


def test_gives_the_published_numbers(gives: Callable[..., None]) -> None:
    published = ([-1.67258, 0.1411, 0.591667, -1.12873], -6.85259, 23.7759)
    gives("inception_v3", {"num_classes": 400}, (1, 3, 299, 299), published)


@pytest.mark.parametrize(
    ("classes", "frames", "count"),
    [
        (400, 1, 22_605_168),
        (200, 1, 22_195_368),
        (101, 1, 21_992_517),
        (400, 3, 22_606_896),
        (400, 5, 22_608_624),
    ],
)
def test_inception_has_the_published_parameters(classes: int, frames: int, count: int) -> None:
    model = inception(classes, seq_len=frames)
    assert counting.parameters(model) == count
    assert len(model.state_dict()) == 566


@pytest.mark.parametrize(("hidden", "count"), [(4096, 69_313_744), (1024, 39_770_320)])
def test_vgg_has_the_published_parameters(hidden: int, count: int) -> None:
    assert counting.parameters(vgg(hidden=hidden)) == count


def test_cost_the_published_operations() -> None:
    assert counting.gmacs(inception(), (1, 3, 299, 299)) == pytest.approx(5.71, abs=0.006)
    assert counting.gmacs(vgg(hidden=1024), (1, 3, 300, 300)) == pytest.approx(30.0, abs=0.051)


# what ImageNet weights do not fill
FRESH = {"conv_base.31", "conv_base.33", "extra_layers.1", "classifier.1", "classifier.4"}


@pytest.mark.parametrize(
    ("name", "size", "head", "thawed"),
    [("inception_v3", 107, "fc_kin", {"fc_kin"}), ("vgg16", 300, "classifier.4", FRESH)],
)
def test_all_of_a_network_learns_from_stacked_flow(
    name: str, size: int, head: str, thawed: set[str]
) -> None:
    model = on_meta(name, 5, seq_len=10, in_channels=2)
    assert isinstance(model, Part)
    assert signatures.read()[name].images
    images = torch.empty(2, 20, size, size, device="meta")
    assert model(images).shape == (2, 5)
    model(images).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.get_parameter(f"{head}.weight").shape[0] == 5
    assert torch.fx.symbolic_trace(model)(images).shape == (2, 5)
    model.freeze()
    trainable = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert {key.rpartition(".")[0] for key in trainable} == thawed


@pytest.mark.parametrize("shape", [(1, 3, 299, 300), (1, 6, 300, 300), (1, 3, 1, 300, 300)])
def test_vgg_refuses_other_sizes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batches of B,3,300,300, not"):
        vgg()(torch.empty(shape, device="meta"))


def test_inception_takes_frames_of_75_pixels_and_more() -> None:
    model = inception()
    assert model(torch.empty(2, 3, 75, 90, device="meta")).shape == (2, 400)
    with pytest.raises(ValueError, match="75 x 75 pixels and more, not 74 x 90"):
        model(torch.empty(2, 3, 74, 90, device="meta"))


def test_torchvisions_inception_gives_torchvisions_answers() -> None:
    """Its auxiliary head is left out; the rest is the same network, at any size."""
    torch.manual_seed(1)
    theirs = torchvision.models.inception_v3(
        weights=None, aux_logits=True, init_weights=False
    ).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (
                module.weight.data,
                module.bias.data,
                module.running_mean,
                module.running_var,
            ):
                assert tensor is not None
                tensor.add_(torch.rand_like(tensor) * 0.5)
    ours = inception(1000).eval()
    ours.load_state_dict(ours.adapt_checkpoint(theirs.state_dict()), assign=True)
    images = torch.rand(1, 3, 139, 107)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_the_last_layer_of_imagenet_stands_for_ours() -> None:
    adapted = inception(5).adapt_checkpoint(
        {
            "fc.weight": torch.zeros(1000, 2048),
            "AuxLogits.fc.weight": torch.zeros(1),
            "odd": torch.zeros(1),
        }
    )
    assert set(adapted) == {"fc_kin.weight", "odd"}


@pytest.mark.parametrize(
    ("name", "first"),
    [("inception_v3", "Conv2d_1a_3x3.conv.weight"), ("vgg16", "conv_base.0.weight")],
)
def test_a_stack_of_equal_frames_gives_what_the_frame_gave(name: str, first: str) -> None:
    torch.manual_seed(1)
    weight = torch.rand(4, 3, 3, 3)
    model = on_meta(name, 5, seq_len=5)
    assert isinstance(model, (InceptionV3, VGG16))
    adapted = model.adapt_checkpoint({first: weight})[first]
    assert adapted.shape == (4, 15, 3, 3)
    frame = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(
        nn.functional.conv2d(frame.repeat(1, 5, 1, 1), adapted), nn.functional.conv2d(frame, weight)
    )


def test_vgg_keeps_an_odd_last_row_as_published() -> None:
    model = vgg(5)
    assert model.conv_base(torch.empty(1, 3, 300, 300, device="meta")).shape == (1, 1024, 19, 19)


@pytest.mark.parametrize("prefix", ["", "conv_base.conv_base."])
def test_files_of_vggs_trunk_are_known(prefix: str) -> None:
    model = vgg(5)
    trunk = {
        key: tensor for key, tensor in model.state_dict().items() if key.startswith("conv_base.")
    }
    public = {prefix + key.removeprefix("conv_base."): tensor for key, tensor in trunk.items()}
    assert set(model.adapt_checkpoint(public)) == set(trunk)


@pytest.mark.slow
def test_vgg_starts_from_torchvisions_convolutions(tmp_path: Path) -> None:
    """The 13 convolutions are torchvision's; what its file has no weights for starts fresh with the last layer."""
    theirs, ours = (
        torchvision.models.vgg16(weights=None, init_weights=False),
        models.create("vgg16", 5, hidden=16, seq_len=2),
    )
    file = tmp_path / "vgg16.pth"
    torch.save(theirs.state_dict(), file)
    report = load_init(ours, str(file), head="replace")
    assert len(report.loaded) == 26
    assert len(report.replaced) == 10
    assert isinstance(ours, VGG16)
    torch.testing.assert_close(ours.conv_base[28].weight, theirs.features[28].weight)
    torch.testing.assert_close(ours.conv_base[0].weight[:, 3:] * 2, theirs.features[0].weight)
