"""The published numbers: fixture outputs, parameter counts, multiply-adds, sizes of maps and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer import models
from trainer.models.i3d import ENDPOINTS, I3D
from trainer.models.layers import SameMaxPool3d, pad_same, same_pad

Rule = tuple[Callable[[nn.Module], nn.Module], Callable[[Any], Tensor]]
SMALL, LARGE = (1, 3, 32, 28, 28), (1, 3, 32, 112, 112)
COMBINED = {"in_size": 28, "residual_blocks": 1, "legacy_frame_view": True}

FIXTURES: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], list[float], float, float]] = [
    ("i3d", {"num_classes": 26, "mode": "32x112"}, LARGE, (1, 26), [-2.28646, -4.88299, 0.0263285, -0.852559], 9.64839, 13.9666),
    ("resizer3d", {"residual_blocks": 1}, SMALL, LARGE, [-1.012, -0.137222, 0.051474, 0.395556], -93332.6, 1340.29),
    ("resizer2d", {"residual_blocks": 3}, SMALL, LARGE, [-1.93757, -1.76955, -1.15921, -0.374501], 1.8081e06, 4956.94),
    ("transformer_resizer", COMBINED, SMALL, LARGE, [-0.774557, -0.488459, -0.0841693, 0.270352], -213526, 947.63),
    (
        "transformer_resizer", {**COMBINED, "read_at": 3, "apply_at": 5},
        SMALL, LARGE, [-0.669558, 0.0756183, 0.273317, 0.960551], 149434, 981.093,
    ),
    ("spatial_transformer", {"in_size": 28, "legacy_frame_view": True}, SMALL, SMALL, [0, 0, 0, 0], -3.92341, 39.7354),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "given", "shape", "first", "total", "norm"), FIXTURES)
def test_gives_the_published_numbers(
    name: str, options: dict[str, Any], given: tuple[int, ...], shape: tuple[int, ...], first: list[float], total: float, norm: float,
    fill_rule: Rule,
) -> None:  # fmt: skip
    """Filled by the spec's rule, each network gives the spec's outputs, within a thousandth of the norm's scale."""
    fill, filled_input = fill_rule
    with torch.no_grad():
        out = fill(models.create(name, **options))(filled_input(given))
    assert out.shape == shape
    values = out.flatten().double()
    scale = norm / values.numel() ** 0.5  # of one value
    torch.testing.assert_close(
        values[:4], torch.tensor(first, dtype=torch.float64), rtol=1e-4, atol=1e-3 * scale
    )
    assert values.norm().item() == pytest.approx(norm, rel=2e-5)
    assert values.sum().item() == pytest.approx(total, abs=1e-3 * norm)


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(
            p.numel() for p in models.create(name, **options).parameters() if p.requires_grad
        )


@pytest.mark.parametrize(
    ("classes", "channels", "count"),
    [(400, 3, 12_697_264), (157, 3, 12_448_189), (26, 3, 12_313_914), (26, 2, 12_291_962)],
)
def test_i3d_has_the_published_parameters(classes: int, channels: int, count: int) -> None:
    assert parameters("i3d", num_classes=classes, in_channels=channels) == count


@pytest.mark.parametrize(
    ("name", "counts"),
    [("resizer2d", [12_032, 16_736, 21_440]), ("resizer3d", [38_912, 52_832, 66_752])],
)
def test_resizers_have_the_published_parameters(name: str, counts: list[int]) -> None:
    assert [parameters(name, residual_blocks=blocks) for blocks in (1, 2, 3)] == counts


@pytest.mark.parametrize(("size", "count"), [(28, 18_350), (56, 55_982), (112, 206_510)])
def test_spatial_transformer_has_the_published_parameters(size: int, count: int) -> None:
    assert parameters("spatial_transformer", in_size=size) == count


@pytest.mark.parametrize(
    ("size", "early"),
    [
        (28, [51_855, 63_455, 57_055]),
        (56, [127_119, 138_719, 132_319]),
        (112, [428_175, 439_775, 433_375]),
    ],
)
def test_transformer_resizer_has_the_published_parameters(size: int, early: list[int]) -> None:
    """By where it reads: before the resize its localization sees frames of in_size, after it frames of 112."""
    counts = [
        parameters("transformer_resizer", in_size=size, read_at=read, apply_at=8)
        for read in range(9)
    ]
    assert counts == [*early, 433_375, 433_375, 433_375, 433_375, 428_175, 428_175]


def test_transformer_resizer_with_one_block_has_the_published_parameters() -> None:
    assert parameters("transformer_resizer", in_size=56, residual_blocks=1) == 117_711


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> float:
    """Billions, of convolutions and linear layers."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("mode", "count"), [("32x112", 45.66), ("16x112", 22.83), ("64x224", 111.15), ("32x224", 55.58)]
)
def test_i3d_costs_the_published_multiply_adds(mode: str, count: float) -> None:
    with torch.device("meta"):
        model = models.create("i3d", num_classes=400, mode=mode)
    frames, size = map(int, mode.split("x"))
    assert multiply_adds(model, (1, 3, frames, size, size)) == pytest.approx(count, abs=0.01)


@pytest.mark.parametrize(
    ("name", "counts"), [("resizer2d", [3.98, 5.83, 7.68]), ("resizer3d", [10.52, 16.07, 21.62])]
)
def test_resizers_cost_the_published_multiply_adds(name: str, counts: list[float]) -> None:
    for blocks, count in zip((1, 2, 3), counts, strict=True):
        with torch.device("meta"):
            model = models.create(name, residual_blocks=blocks)
        assert multiply_adds(model, (1, 3, 32, 56, 56)) == pytest.approx(count, abs=0.01)


@pytest.mark.parametrize(
    ("mode", "maps"),
    [
        (
            "32x112",
            {
                "Conv3d_1a_7x7": (16, 56),
                "Conv3d_2c_3x3": (16, 56),
                "Mixed_3c": (16, 28),
                "Mixed_4f": (8, 14),
                "Mixed_5c": (4, 7),
            },
        ),
        (
            "64x224",
            {
                "Conv3d_1a_7x7": (32, 112),
                "MaxPool3d_2a_3x3": (32, 56),
                "Mixed_4f": (16, 14),
                "Mixed_5c": (8, 7),
            },
        ),
        (
            "16x16",
            {"Conv3d_1a_7x7": (8, 8), "Mixed_3c": (8, 4), "Mixed_4f": (4, 2), "Mixed_5c": (2, 1)},
        ),
        (
            "8x144",
            {
                "Conv3d_1a_7x7": (4, 72),
                "MaxPool3d_2a_3x3": (4, 36),
                "Mixed_4f": (2, 9),
                "Mixed_5c": (1, 5),
            },
        ),
    ],
)
def test_i3d_endpoints_have_the_published_maps(mode: str, maps: dict[str, tuple[int, int]]) -> None:
    """(frames, side) after each endpoint; a mode of side 112 or less has no MaxPool3d_2a_3x3."""
    with torch.device("meta"):
        model = models.create("i3d", num_classes=4, mode=mode)
    assert isinstance(model, I3D)
    x = torch.empty(1, 3, model.frames, model.size, model.size, device="meta")
    found = {}
    for name in ENDPOINTS:
        if hasattr(model, name):
            x = getattr(model, name)(x)
            found[name] = (x.shape[2], x.shape[3])
    assert {name: found[name] for name in maps} == maps
    assert ("MaxPool3d_2a_3x3" in found) == (model.size > 112)
    assert model.avg_pool(x).shape == (1, 1024, 1, 1, 1)


@pytest.mark.parametrize(("size", "pads"), [(112, (2, 3)), (111, (3, 3)), (8, (2, 3)), (7, (3, 3))])
def test_same_padding_of_the_stem(size: int, pads: tuple[int, int]) -> None:
    assert same_pad(size, 7, 2) == pads


@pytest.mark.parametrize("size", range(1, 24))
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
def test_same_padding_gives_ceil_of_the_size_by_the_stride(
    size: int, kernel: int, stride: int
) -> None:
    front, back = same_pad(size, kernel, stride)
    assert 0 <= back - front <= 1
    assert (size + front + back - kernel) // stride + 1 == -(-size // stride)


@pytest.mark.parametrize("shape", [(16, 14, 14), (5, 7, 9), (4, 7, 6), (1, 1, 1), (3, 2, 5)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
    ],
)
def test_pooling_is_zero_padding_then_pooling(
    shape: tuple[int, ...], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    """For values >= 0 the pool without copies is bit for bit the published one, at every parity of the sizes."""
    x = torch.rand(2, 4, *shape, generator=torch.Generator().manual_seed(1))
    expected = F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)
    assert torch.equal(SameMaxPool3d(kernel, stride)(x), expected)
