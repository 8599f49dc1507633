"""The 3D ResNets and the efficient 3D CNNs: published outputs, parameters, operations, key names, and clips of any size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer import models
from trainer.errors import ConfFault
from trainer.models import counting
from trainer.models.layers import shuffle_channels
from trainer.models.mobilenet_3d import Block
from trainer.models.shufflenet_3d import Halve

Rule = tuple[Callable[[nn.Module], nn.Module], Callable[[Any], Tensor]]
CLIP = (1, 3, 16, 112, 112)
NETS: list[tuple[str, dict[str, Any]]] = [
    ("resnet3d", {"depth": 10, "shortcut": "A"}),
    ("resnet3d", {"depth": 18, "shortcut": "B"}),
    ("resnet3d", {"depth": 50, "shortcut": "A"}),
    ("resnext3d", {"depth": 50, "shortcut": "B"}),
    ("mobilenetv2_3d", {"width": 0.2}),
    ("mobilenet_3d", {"width": 0.5}),
    ("shufflenet_3d", {"width": 0.5}),
    ("shufflenetv2_3d", {"width": 0.25}),
    ("squeezenet_3d", {}),
]
FAMILIES = sorted({name for name, _ in NETS})


def on_meta(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, num_classes=classes, **options)


@functools.cache
def _kept(name: str, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    return on_meta(name, 600, dict(options))


def of_600_classes(name: str, options: dict[str, Any]) -> nn.Module:
    """Built once for all tests that only look at it."""
    return _kept(name, tuple(sorted(options.items())))


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


FIXTURES: list[Any] = [
    ("mobilenetv2_3d", {"num_classes": 600}, [1.01803, -1.70549, 1.12961, 0.618076], -16.3091, 47.2162),
    ("shufflenet_3d", {"num_classes": 600}, [-6194.29, 11193.1, 1708.8, -13777.8], 3597.52, 139794),
    pytest.param(
        "resnet3d", {"num_classes": 101, "depth": 18, "shortcut": "A"}, [0.920787, -2.98846, -2.43833, 1.03839], 27.0232, 56.0539,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "resnet3d", {"num_classes": 101, "depth": 18, "shortcut": "B"}, [2.92863, -3.58952, 0.120173, 1.34272], 34.5391, 85.9148,
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "resnext3d", {"num_classes": 400, "depth": 101, "shortcut": "B"},
        [7.52844e+07, 7.16256e+07, -1.68746e+08, 5.19546e+07], -1.87566e+09, 3.44874e+09, marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "first", "total", "norm"), FIXTURES)
def test_gives_the_published_numbers(
    name: str,
    options: dict[str, Any],
    first: list[float],
    total: float,
    norm: float,
    fill_rule: Rule,
) -> None:
    """Filled by the spec's rule, each network gives the spec's outputs, within a thousandth of the norm's scale."""
    fill, filled_input = fill_rule
    with torch.no_grad():
        out = fill(models.create(name, **options))(filled_input(CLIP))
    assert out.shape == (1, options["num_classes"])
    values = out.flatten().double()
    scale = norm / values.numel() ** 0.5  # of one value
    torch.testing.assert_close(
        values[:4], torch.tensor(first, dtype=torch.float64), rtol=1e-4, atol=1e-3 * scale
    )
    assert values.norm().item() == pytest.approx(norm, rel=1e-4)
    assert values.sum().item() == pytest.approx(total, abs=1e-3 * norm)


# name, option, its values, then for 400, 600 and 101 classes the parameters of each
PARAMETERS: list[tuple[str, dict[str, Any], int, int, int]] = [
    ("resnet3d", {"depth": 18, "shortcut": "A"}, 33_235_280, 33_337_880, 33_081_893),
    ("resnet3d", {"depth": 18, "shortcut": "B"}, 33_409_104, 33_511_704, 33_255_717),
    ("resnet3d", {"depth": 34, "shortcut": "A"}, 63_544_912, 63_647_512, 63_391_525),
    ("resnet3d", {"depth": 34, "shortcut": "B"}, 63_718_736, 63_821_336, 63_565_349),
    ("resnet3d", {"depth": 50, "shortcut": "A"}, 44_242_000, 44_651_800, 43_629_349),
    ("resnet3d", {"depth": 50, "shortcut": "B"}, 47_018_576, 47_428_376, 46_405_925),
    ("resnet3d", {"depth": 101, "shortcut": "B"}, 86_064_720, 86_474_520, 85_452_069),
    ("resnet3d", {"depth": 152, "shortcut": "B"}, 118_223_440, 118_633_240, 117_610_789),
    ("resnet3d", {"depth": 200, "shortcut": "B"}, 127_423_056, 127_832_856, 126_810_405),
    ("resnext3d", {"depth": 50, "shortcut": "B"}, 26_685_264, 27_095_064, 26_072_613),
    ("resnext3d", {"depth": 101, "shortcut": "B"}, 48_340_816, 48_750_616, 47_728_165),
    ("resnext3d", {"depth": 152, "shortcut": "B"}, 66_178_896, 66_588_696, 65_566_245),
    ("mobilenetv2_3d", {"width": 0.2}, 707_910, 964_110, 324_891),
    ("mobilenetv2_3d", {"width": 0.45}, 1_143_634, 1_399_834, 760_615),
    ("mobilenetv2_3d", {"width": 0.7}, 1_793_742, 2_049_942, 1_410_723),
    ("mobilenetv2_3d", {"width": 1.0}, 2_866_448, 3_122_648, 2_483_429),
    ("mobilenet_3d", {"width": 0.5}, 1_069_296, 1_171_896, 915_909),
    ("mobilenet_3d", {"width": 1.0}, 3_707_984, 3_912_984, 3_401_509),
    ("mobilenet_3d", {"width": 1.5}, 7_916_464, 8_223_864, 7_456_901),
    ("mobilenet_3d", {"width": 2.0}, 13_694_736, 14_104_536, 13_082_085),
    ("shufflenet_3d", {"width": 0.5}, 449_572, 545_772, 305_753),
    ("shufflenet_3d", {"width": 1.0}, 1_329_304, 1_521_504, 1_041_965),
    ("shufflenet_3d", {"width": 1.5}, 2_636_716, 2_924_916, 2_205_857),
    ("shufflenet_3d", {"width": 2.0}, 4_374_688, 4_758_888, 3_800_309),
    ("shufflenetv2_3d", {"width": 0.25}, 624_656, 829_656, 318_181),
    ("shufflenetv2_3d", {"width": 1.0}, 1_709_180, 1_914_180, 1_402_705),
    ("shufflenetv2_3d", {"width": 1.5}, 2_956_880, 3_161_880, 2_650_405),
    ("shufflenetv2_3d", {"width": 2.0}, 6_230_016, 6_639_816, 5_617_365),
    ("squeezenet_3d", {}, 2_042_960, 2_145_560, 1_889_573),
]


@pytest.mark.parametrize(("name", "options", "at400", "at600", "at101"), PARAMETERS)
def test_has_the_published_parameters(
    name: str, options: dict[str, Any], at400: int, at600: int, at101: int
) -> None:
    """Exactly, for the classes of Kinetics-400, Kinetics-600 and UCF101."""
    model = of_600_classes(name, options)
    assert counting.parameters(model) == at600
    a_class = model.get_parameter(f"{model.head_module}.weight")[0].numel() + 1
    assert [at600 + (classes - 600) * a_class for classes in (400, 101)] == [at400, at101]


CONV_GMACS: list[tuple[str, dict[str, Any], float, float]] = [  # and the last digit's half
    ("resnet3d", {"depth": 18, "shortcut": "A"}, 8.296, 0.0006),
    ("resnet3d", {"depth": 18, "shortcut": "B"}, 8.308, 0.0006),
    ("resnet3d", {"depth": 34, "shortcut": "A"}, 12.68, 0.006),
    ("resnet3d", {"depth": 34, "shortcut": "B"}, 12.70, 0.006),
    ("resnet3d", {"depth": 50, "shortcut": "A"}, 9.778, 0.0006),
    ("resnet3d", {"depth": 50, "shortcut": "B"}, 10.068, 0.0006),
    ("resnet3d", {"depth": 101, "shortcut": "B"}, 13.890, 0.0006),
    ("resnet3d", {"depth": 152, "shortcut": "B"}, 18.61, 0.006),
    ("resnet3d", {"depth": 200, "shortcut": "B"}, 25.80, 0.006),
    ("resnext3d", {"depth": 50, "shortcut": "B"}, 7.45, 0.006),
    ("resnext3d", {"depth": 101, "shortcut": "B"}, 9.567, 0.0006),
    ("resnext3d", {"depth": 152, "shortcut": "B"}, 12.18, 0.006),
    *(
        ("mobilenetv2_3d", {"width": w}, g, 0.0006)
        for w, g in ((0.2, 0.054), (0.45, 0.157), (0.7, 0.295), (1.0, 0.518))
    ),
    *(
        ("mobilenet_3d", {"width": w}, g, 0.0006)
        for w, g in ((0.5, 0.094), (1.0, 0.232), (1.5, 0.416), (2.0, 0.645))
    ),
    *(
        ("shufflenet_3d", {"width": w}, g, 0.0006)
        for w, g in ((0.5, 0.072), (1.0, 0.187), (1.5, 0.328), (2.0, 0.513))
    ),
    *(
        ("shufflenetv2_3d", {"width": w}, g, 0.0006)
        for w, g in ((0.25, 0.110), (1.0, 0.186), (1.5, 0.280), (2.0, 0.424))
    ),
    ("squeezenet_3d", {}, 0.903, 0.0006),
]


def _slow_if_many(row: tuple[str, dict[str, Any], float, float]) -> Any:
    return (
        pytest.param(*row, marks=pytest.mark.slow)
        if row[1].get("depth", 0) > 50 or row[1].get("width") in (0.45, 0.7, 1.5, 2.0)
        else row
    )


@pytest.mark.parametrize(
    ("name", "options", "gmacs", "within"), [_slow_if_many(row) for row in CONV_GMACS]
)
def test_costs_the_published_multiply_adds(
    name: str, options: dict[str, Any], gmacs: float, within: float
) -> None:
    """The table counts convolutions; `counting.gmacs` also the linear layer of 600 classes."""
    model = of_600_classes(name, options)
    linear = (
        sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
        / 1e9
    )
    assert counting.gmacs(model, CLIP) - linear == pytest.approx(gmacs, abs=within)


@pytest.mark.parametrize(
    ("name", "options", "mflops"),
    [
        ("mobilenetv2_3d", {"width": 1.0}, 561.1),
        ("mobilenetv2_3d", {"width": 0.2}, 63.3),
        ("mobilenet_3d", {"width": 1.0}, 240.8),
        ("shufflenet_3d", {"width": 1.0}, 199.3),
        ("shufflenetv2_3d", {"width": 1.0}, 194.9),
        ("squeezenet_3d", {}, 926.0),
        ("resnet3d", {"depth": 18, "shortcut": "A"}, 8323.2),
        ("resnet3d", {"depth": 50, "shortcut": "A"}, 9835.4),
        pytest.param("resnext3d", {"depth": 101, "shortcut": "B"}, 9652.2, marks=pytest.mark.slow),
    ],
)
def test_published_operations_are_reproduced(
    name: str, options: dict[str, Any], mflops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the definition of the paper's table, to its last digit; ReLUs in MobileNet's blocks were functions there, not counted."""
    model = of_600_classes(name, options)
    for block in model.modules():
        if isinstance(block, Block):
            monkeypatch.setattr(block, "relu", nn.Identity())
    assert round(counting.published_mflops(model, CLIP), 1) == mflops


def test_counting_leaves_a_model_as_it_was() -> None:
    """Modes, hooks, weights and statistics, on the CPU as on the meta device."""
    model = models.create("mobilenet_3d", num_classes=4, width=0.25)
    model.get_submodule("features.3").eval()
    modes = [module.training for module in model.modules()]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert (
        counting.gmacs(model, (1, 3, 8, 32, 32))
        == counting.gmacs(on_meta("mobilenet_3d", 4, {"width": 0.25}), (1, 3, 8, 32, 32))
        > 0
    )
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(tensor.device.type == "cpu" for tensor in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


KEYS: list[tuple[str, dict[str, Any], int, list[str]]] = [
    (
        "resnet3d", {"depth": 18, "shortcut": "B"}, 122,
        ["conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias",
         "layer4.1.bn2.num_batches_tracked", "fc.bias"],
    ),
    ("resnet3d", {"depth": 50, "shortcut": "A"}, 296, ["layer1.2.conv3.weight", "layer4.0.bn3.weight"]),
    ("resnext3d", {"depth": 50, "shortcut": "B"}, 320, ["layer1.0.downsample.0.weight", "layer4.2.bn3.weight", "fc.weight"]),
    (
        "mobilenetv2_3d", {}, 314,
        ["features.0.0.weight", "features.0.1.weight", "features.1.conv.0.weight", "features.1.conv.4.running_mean",
         "features.17.conv.7.weight", "features.18.0.weight", "features.18.1.bias", "classifier.1.weight"],
    ),
    ("mobilenet_3d", {}, 164, ["features.0.0.weight", "features.1.conv1.weight", "features.13.bn2.bias", "classifier.1.bias"]),
    (
        "shufflenet_3d", {}, 296,
        ["conv1.0.weight", "conv1.1.bias", "layer1.0.conv1.weight", "layer2.7.bn3.bias", "layer3.3.conv3.weight", "classifier.1.bias"],
    ),
    (
        "shufflenetv2_3d", {}, 338,
        ["conv1.0.weight", "features.0.banch1.0.weight", "features.0.banch1.3.bias", "features.0.banch2.6.weight",
         "features.15.banch2.3.weight", "conv_last.0.weight", "classifier.1.weight"],
    ),
    (
        "squeezenet_3d", {}, 177,
        ["features.0.bias", "features.1.weight", "features.4.squeeze.bias", "features.5.expand3x3_bn.weight",
         "features.14.expand1x1.weight", "classifier.1.weight"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "count", "some"), KEYS)
def test_has_the_published_key_names(
    name: str, options: dict[str, Any], count: int, some: list[str]
) -> None:
    keys = of_600_classes(name, options).state_dict().keys()
    assert len(keys) == count
    assert set(some) <= keys


@pytest.mark.parametrize("shape", [(2, 3, 8, 32, 32), (1, 3, 7, 45, 61)])
@pytest.mark.parametrize(
    ("name", "options"),
    [*NETS, ("shufflenet_3d", {"width": 0.3, "groups": 8}), ("mobilenet_3d", {"width": 0.03})],
)
def test_takes_clips_of_any_size(
    name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Also of odd sides and few frames, and at widths nobody published."""
    if options.get("depth", 10) > 10:
        model = on_meta(name, 5, options).eval()
        assert model(torch.empty(shape, device="meta")).shape == (shape[0], 5)
    else:
        with torch.no_grad():
            logits = models.create(name, num_classes=5, **options).eval()(noise(*shape))
        assert logits.shape == (shape[0], 5)
        assert logits.isfinite().all()


@pytest.mark.parametrize("shape", [(16, 112), (8, 32), (17, 90), (64, 224)])
def test_the_last_map_is_what_the_published_pool_covers(shape: tuple[int, int]) -> None:
    """ceil(T / 16) x ceil(S / 32)^2: the mean over the whole map is the published average pool, whatever the clip."""
    frames, size = shape
    model = on_meta("resnet3d", 5, {"depth": 10})
    maps: list[torch.Size] = []
    model.get_submodule("avgpool").register_forward_hook(
        lambda _, given, __: maps.append(given[0].shape[2:])
    )
    model.eval()(torch.empty(1, 3, frames, size, size, device="meta"))
    assert maps == [torch.Size([-(-frames // 16), -(-size // 32), -(-size // 32)])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [net for net in NETS if net[1].get("depth", 10) == 10]
)
def test_learns_from_small_clips(name: str, options: dict[str, Any]) -> None:
    """In training mode, a gradient for every weight, from clips whose last map is a single cell."""
    model = models.create(name, num_classes=3, **options)
    logits = model(noise(2, 3, 8, 32, 32))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("legacy", [False, True])
def test_gradients_pass_shortcut_a(legacy: bool) -> None:
    """With a block's own way closed, all of the gradient comes through the shortcut; the published code had none there."""
    model = models.create(
        "resnet3d", num_classes=3, depth=10, shortcut="A", legacy_shortcut=legacy
    ).train()
    block = model.get_submodule("layer2.0")
    x = noise(2, 64, 4, 8, 8).abs().requires_grad_()
    with torch.no_grad():
        for parameter in block.get_submodule("bn2").parameters():
            parameter.zero_()
    out = block(x)
    assert torch.equal(out[:, :64], x[:, :, ::2, ::2, ::2])
    assert not out[:, 64:].any()
    out.sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == (0 if legacy else out[:, :64].numel())


def test_legacy_shortcuts_answer_the_same() -> None:
    states = models.create("resnet3d", num_classes=3, depth=10).state_dict()
    clip, answers = noise(1, 3, 8, 32, 32), []
    for legacy in (False, True):
        model = models.create("resnet3d", num_classes=3, depth=10, legacy_shortcut=legacy).eval()
        model.load_state_dict(states)
        answers.append(model(clip))
    assert torch.equal(*answers)


@pytest.mark.parametrize("shape", [(8, 12, 10), (2, 3, 3)])
def test_shufflenet_halves_as_published(shape: tuple[int, ...]) -> None:
    """For an even number of frames; an odd one keeps its last frame, and maps of one cell pass."""
    x = noise(2, 4, *shape)
    pool = nn.AvgPool3d((2, 3, 3), 2, (0, 1, 1))
    torch.testing.assert_close(Halve()(x), pool(x))
    alone = nn.AvgPool3d((1, 3, 3), 2, (0, 1, 1))(x[:, :, -2:-1])
    torch.testing.assert_close(Halve()(x[:, :, :-1])[:, :, -1:], alone)
    assert Halve()(noise(1, 4, 1, 1, 1)).shape == (1, 4, 1, 1, 1)


def test_shuffled_channels_come_from_each_group_in_turn() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1, 1)
    assert shuffle_channels(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert shuffle_channels(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(("name", "options"), NETS)
def test_the_head_is_the_last_layer(name: str, options: dict[str, Any]) -> None:
    """What `init_head: replace` leaves out depends on the number of classes, and nothing else does; freezing leaves it trainable."""
    few, many = on_meta(name, 3, options), on_meta(name, 7, options)
    shapes = {key: tensor.shape for key, tensor in many.state_dict().items()}
    differ = {key for key, tensor in few.state_dict().items() if tensor.shape != shapes[key]}
    assert differ == {f"{few.head_module}.weight", f"{few.head_module}.bias"}
    few.freeze()  # type: ignore[operator]
    assert {key for key, p in few.named_parameters() if p.requires_grad} == differ


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("res")])
def test_dropout_before_the_head(name: str) -> None:
    """0.2 to train; the published fine-tuning had 0.9, but SqueezeNet's 0.5 in both."""
    dropout = 0.5 if name == "squeezenet_3d" else 0.2
    assert on_meta(name, 3, {}).get_submodule("classifier.0").p == dropout  # type: ignore[union-attr]
    assert on_meta(name, 3, {"dropout": 0.9}).get_submodule("classifier.0").p == 0.9  # type: ignore[union-attr]


def test_starts_as_published() -> None:
    """MobileNetV2: variance 2 / (27 * outputs), its linear layer 0.01; ResNet: the same by fan out; BatchNorm 1 and 0."""
    torch.manual_seed(0)
    mobile = models.create("mobilenetv2_3d", num_classes=100)
    assert mobile.get_parameter("features.18.0.weight").std().item() == pytest.approx(
        (2 / 1280) ** 0.5, rel=0.02
    )
    assert mobile.get_parameter("classifier.1.weight").std().item() == pytest.approx(0.01, rel=0.02)
    assert not mobile.get_parameter("classifier.1.bias").any()
    res = models.create("resnet3d", num_classes=2, depth=10)
    assert res.get_parameter("layer2.0.conv2.weight").std().item() == pytest.approx(
        (2 / (27 * 128)) ** 0.5, rel=0.02
    )
    assert bool((res.get_parameter("bn1.weight") == 1).all())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet3d", {}, "resnet3d needs depth"),
        ("resnet3d", {"depth": 17}, "not one of 10, 18, 34"),
        ("resnext3d", {"depth": 18}, "not one of 50, 101, 152"),
        ("resnext3d", {"depth": 50, "cardinality": 0}, "less than 1"),
        ("resnet3d", {"depth": 18, "shortcut": "C"}, "not one of A, B"),
        ("shufflenetv2_3d", {"width": 0.75}, "not one of 0.25, 0.5, 1.0"),
        ("shufflenet_3d", {"groups": 5}, "not one of 1, 2, 3, 4, 8"),
        ("mobilenet_3d", {"width": 0}, "not above 0"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfFault, match=said):
        models.create(name, num_classes=5, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), NETS)
def test_networks_can_be_traced_and_exported(name: str, options: dict[str, Any]) -> None:
    """torch.fx and torch.export take the network whole, channels_last_3d too, and answer the same."""
    model = models.create(name, num_classes=5, **options).eval()
    clip = noise(2, 3, 8, 32, 32)
    with torch.no_grad():
        expected = model(clip)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(clip), expected)
        torch.testing.assert_close(torch.export.export(model, (clip,)).module()(clip), expected)
        model.to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(
            model(clip.contiguous(memory_format=torch.channels_last_3d)),
            expected,
            rtol=1e-3,
            atol=1e-3,
        )
