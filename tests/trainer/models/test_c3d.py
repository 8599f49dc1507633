"""C3D in its three forms and the residual networks of the C3D system: published numbers, names, and clips of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer import models, signatures
from trainer.models import counting
from trainer.models.c3d import C3D
from trainer.models.layers import Part

CLIP = (1, 3, 16, 112, 112)
CONVOLUTIONS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
NAMES = ["c3d", "c3d_bn", "c3d_vmz", "leafdp_r2plus1d", "leafdp_r3d"]


def on_meta(name: str, classes: int = 101, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, num_classes=classes, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("c3d", ([0.651881, 7.17184, -1.07406, -0.400755], 9.73634, 27.5907)),
        ("leafdp_r2plus1d", ([22.6233, 2.63181, 4.38764, 0.691134], -82.1983, 383.214)),
    ],
)
def test_gives_the_published_numbers(
    gives: Callable[..., None], name: str, published: tuple[list[float], float, float]
) -> None:
    gives(name, {"num_classes": 101}, CLIP, published)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("c3d", {101: 78_409_573, 51: 78_204_723, 487: 79_991_015, 400: 79_634_576}),
        ("c3d_bn", {400: 79_640_080, 600: 80_459_480, 101: 78_415_077}),
        ("c3d_vmz", {400: 64_960_016}),
        ("leafdp_r2plus1d", {101: 33_226_750, 51: 33_201_100, 487: 33_424_768}),
        ("leafdp_r3d", {101: 33_227_557}),
    ],
)
def test_has_the_published_parameters(name: str, counts: dict[int, int]) -> None:
    assert {classes: counting.parameters(on_meta(name, classes)) for classes in counts} == counts


def test_vmz_counts_weights_only() -> None:
    own = [
        m.weight.numel()
        for m in on_meta("c3d_vmz", 400).modules()
        if isinstance(m, (nn.Conv3d, nn.Linear))
    ]
    assert sum(own) == 64_943_168


@pytest.mark.parametrize(
    ("name", "linear", "operations"),
    [
        ("c3d", False, 38.50),
        ("c3d_bn", False, 32.95),
        ("c3d_vmz", True, 38.53),
        ("leafdp_r2plus1d", True, 41.52),
    ],
)
def test_costs_the_published_operations(name: str, linear: bool, operations: float) -> None:
    """Billions; published with the linear layers, or without."""
    model = on_meta(name, 400)
    ours = counting.gmacs(model, CLIP)
    if not linear:
        ours -= sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) / 1e9
    assert ours == pytest.approx(operations, abs=0.006)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_network_learns_from_flow_too(name: str) -> None:
    model = on_meta(name, 5, in_channels=2)
    assert isinstance(model, Part)
    assert model(torch.empty(2, 2, 16, 112, 112, device="meta")).shape == (2, 5)
    model(torch.empty(2, 2, 16, 112, 112, device="meta")).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.freeze()
    # weight and bias of the last layer
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 2
    traced = torch.fx.symbolic_trace(model)
    assert traced(torch.empty(2, 2, 16, 112, 112, device="meta")).shape == (2, 5)


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize(
    "shape", [(1, 3, 32, 112, 112), (1, 3, 16, 128, 128), (1, 2, 16, 112, 112), (3, 16, 112, 112)]
)
def test_clips_of_other_sizes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    """Two clips of 8 frames are as many numbers as one of 16; none of it may pass as a batch of another size."""
    assert signatures.read()[name].clip == "16x112"
    with pytest.raises(ValueError, match="batches of B,3,16,112,112, not"):
        on_meta(name)(torch.empty(shape, device="meta"))


def test_names_of_the_published_files() -> None:
    keys = [
        f"{layer}.{kind}"
        for layer in (*CONVOLUTIONS, "fc6", "fc7", "fc8")
        for kind in ("weight", "bias")
    ]
    assert list(on_meta("c3d").state_dict()) == keys
    leaf = set(on_meta("leafdp_r2plus1d").state_dict())
    assert {
        "res2plus1d.conv1.spatial_conv.weight", "res2plus1d.conv1.bn1.weight", "res2plus1d.conv1.temporal_conv.weight",
        "res2plus1d.conv1.bn2.bias", "res2plus1d.conv3.block1.downsampleconv.spatial_conv.weight",
        "res2plus1d.conv3.block1.downsamplebn.running_var", "res2plus1d.conv5.blocks.0.conv2.bn2.weight", "linear.weight",
    } <= leaf  # fmt: skip
    assert (
        "res3d.conv4.block1.conv1.temporal_spatial_conv.weight"
        in on_meta("leafdp_r3d").state_dict()
    )


def fits(adapted: dict[str, Tensor], model: nn.Module, without: str = "-") -> bool:
    """Whether the tensors are exactly the model's, by name and shape; `without`: but for one layer."""
    wanted = {
        key: tensor.shape
        for key, tensor in model.state_dict().items()
        if not key.startswith(f"{without}.")
    }
    return {key: tensor.shape for key, tensor in adapted.items()} == {
        key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")
    }


def test_sports1m_names_are_known() -> None:
    model = on_meta("c3d", 487)
    assert isinstance(model, C3D)
    numbers = dict(zip(CONVOLUTIONS, (0, 3, 6, 8, 11, 13, 16, 18), strict=True))
    names = {
        **{layer: f"features.{n}" for layer, n in numbers.items()},
        "fc6": "classifier.0",
        "fc7": "classifier.3",
    }
    state = model.state_dict()
    public = {
        f"{names[layer]}.{kind}": state[f"{layer}.{kind}"]
        for layer in names
        for kind in ("weight", "bias")
    }
    assert fits(model.adapt_checkpoint(public), model, without="fc8")
    # a file with our names, such as c3d.pickle
    assert fits(model.adapt_checkpoint(dict(state)), model)


def test_blobs_of_vmz_are_known() -> None:
    """Named as VMZ's Caffe2 network names its layers: conv1a, conv2a, conv3a, ..., each with a BatchNorm `_bn`."""
    model = on_meta("c3d_vmz", 400)
    assert isinstance(model, C3D)
    blobs: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        layer, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        layer = (
            layer.replace("conv1", "conv1a")
            .replace("conv2", "conv2a")
            .replace("fc8", "last_out_L400")
        )
        suffix = {
            "weight": "s" if layer.endswith("_bn") else "w",
            "bias": "b",
            "running_mean": "rm",
            "running_var": "riv",
        }[kind]
        blobs[f"{layer}_{suffix}"] = tensor
    assert {
        "conv1a_w",
        "conv2a_b",
        "conv3a_bn_s",
        "conv5b_bn_riv",
        "fc6_w",
        "last_out_L400_b",
    } <= set(blobs)
    adapted = model.adapt_checkpoint({**blobs, "strange": torch.empty(1)})
    assert "strange" in adapted
    del adapted["strange"]
    assert fits(adapted, model)


@pytest.mark.slow
def test_starts_as_published() -> None:
    torch.manual_seed(1)
    vmz, plain = models.create("c3d_vmz", 4), models.create("c3d", 4)
    assert vmz.get_parameter("conv5b.weight").std().item() == pytest.approx(0.01, rel=0.02)
    assert vmz.get_parameter("fc7.weight").std().item() == pytest.approx(0.005, rel=0.02)
    assert plain.get_parameter("conv5b.weight").std().item() == pytest.approx(
        (2 / (27 * 512)) ** 0.5, rel=0.02
    )
