"""VMZ's residual networks and the channel-separated ones: published outputs, parameters and operations, and whose weights fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer import models
from trainer.errors import ConfFault, DataError
from trainer.models import counting
from trainer.models.layers import Part
from trainer.models.video_resnet import VideoResNet
from trainer.models.weights import load_init

SHORT, CLIP = (1, 3, 8, 112, 112), (1, 3, 16, 112, 112)
IR = {"bottleneck": "ir", "flavour": "vmz"}
IP = {"bottleneck": "ip", "flavour": "vmz"}


def on_meta(name: str, classes: int = 400, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, num_classes=classes, **options)


def vmz(name: str, classes: int = 400, **options: Any) -> VideoResNet:
    model = on_meta(name, classes, **options)
    assert isinstance(model, VideoResNet)
    return model


@pytest.mark.parametrize(
    ("name", "options", "shape", "published"),
    [
        pytest.param(
            "mc3", {"num_classes": 400}, SHORT, ([5.2206, -46.1194, -7.77103, -11.5887], -13.0875, 230.833), marks=pytest.mark.slow
        ),
        ("csn", {"num_classes": 101}, CLIP, ([-28527.2, 44763.5, -20181.9, 45527.1], 202369, 389401)),
        pytest.param(
            "csn", {"num_classes": 400, "depth": 152, "pool1": True, **IR}, SHORT,
            ([-2.01884e10, 1.30106e10, 5.40268e10, -2.45773e10], -6.83851e10, 8.60642e11), marks=pytest.mark.slow,
        ),
        pytest.param(
            "r2plus1d", {"num_classes": 400}, SHORT, ([0.133369, -26.9398, -3.07637, -4.29586], -246.256, 210.263), marks=pytest.mark.slow
        ),
        pytest.param(
            "r3d", {"num_classes": 400}, SHORT, ([-0.00359331, -3.49839, 3.29496, -1.15285], 47.6619, 79.7058), marks=pytest.mark.slow
        ),
        pytest.param(
            "r2plus1d", {"num_classes": 400, "depth": 152}, SHORT,
            ([-2.38891e11, 3.59921e11, 7.34987e10, 7.5858e10], 4.58083e12, 4.42538e12), marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_gives_the_published_numbers(
    gives: Callable[..., None],
    name: str,
    options: dict[str, Any],
    shape: tuple[int, ...],
    published: tuple[list[float], float, float],
) -> None:
    gives(name, options, shape, published)


# name, options, parameters, thousands of those without biases and BatchNorm (0: not published),
# clip, billions of operations
VMZ_NUMBERS: list[Any] = [
    ("r2plus1d", {}, 33_370_839, 33_344, (8, 112), 20.75),
    ("r2plus1d", {"frames": 16}, 33_370_839, 33_344, (16, 112), 41.5),
    ("r3d", {}, 33_371_472, 33_361, (8, 112), 20.35),
    ("r2d", {}, 11_447_568, 11_438, (8, 112), 1.93),
    ("r2d", {"frames": 16}, 11_522_832, 11_513, (16, 112), 2.17),
    ("fr2d", {}, 11_381_712, 11_372, (8, 112), 13.80),
    ("mc2", {}, 11_400_528, 0, (8, 112), 14.27),
    ("mc3", {}, 11_695_440, 0, (8, 112), 21.67),
    ("mc4", {}, 12_727_632, 0, (8, 112), 19.98),
    ("mc5", {}, 16_856_400, 0, (8, 112), 19.95),
    ("rmc2", {}, 33_352_656, 0, (8, 112), 19.88),
    ("rmc3", {}, 33_057_744, 0, (8, 112), 12.48),
    ("rmc4", {}, 32_025_552, 0, (8, 112), 14.55),
    ("rmc5", {}, 27_896_784, 0, (8, 112), 15.39),
    ("r2plus1d", {"depth": 34, "frames": 32}, 63_697_175, 63_646, (32, 112), 152.36),
    pytest.param(
        *("r2plus1d", {"depth": 152, "frames": 32}, 118_226_785, 118_021, (32, 112), 252.0),
        marks=pytest.mark.slow,
    ),
    ("csn", {"depth": 152, "pool1": True, **IR}, 29_703_568, 29_552, (32, 224), 74.05),
    pytest.param(
        *("csn", {"depth": 152, "pool1": True, **IP}, 33_016_592, 32_841, (32, 224), 83.29),
        marks=pytest.mark.slow,
    ),
    ("csn", {"depth": 50, "pool1": True, **IR}, 13_131_152, 0, (32, 224), 42.3),
    pytest.param(
        *("csn", {"depth": 101, "pool1": True, **IR}, 22_213_776, 0, (32, 224), 56.5),
        marks=pytest.mark.slow,
    ),
    ("csn", {"depth": 50, "pool1": True, **IP}, 14_396_176, 0, (32, 224), 47.7),
    pytest.param(
        *("csn", {"depth": 101, "pool1": True, **IP}, 24_601_616, 0, (32, 224), 63.6),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "options", "count", "weights", "clip", "operations"), VMZ_NUMBERS)
def test_has_the_published_parameters_and_operations(
    name: str,
    options: dict[str, Any],
    count: int,
    weights: int,
    clip: tuple[int, int],
    operations: float,
) -> None:
    model = on_meta(name, **options)
    frames, size = clip
    assert counting.parameters(model) == count
    if weights:
        own = sum(
            m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv3d, nn.Linear))
        )
        assert round(own / 1000) == weights
    assert counting.gmacs(model, (1, 3, frames, size, size)) == pytest.approx(
        operations, abs=0.051 if operations * 10 % 1 == 0 else 0.006
    )


@pytest.mark.parametrize(
    ("classes", "count"), [(51, 63_518_138), (487, 63_741_806), (359, 63_676_142)]
)
def test_r2plus1d_34_has_the_published_parameters_for_other_classes(
    classes: int, count: int
) -> None:
    assert counting.parameters(on_meta("r2plus1d", classes, depth=34)) == count


def test_torchvisions_midplanes_make_another_network() -> None:
    assert counting.parameters(on_meta("r2plus1d", midplanes="torchvision")) == 31_505_325


@pytest.mark.parametrize(
    ("depth", "bottleneck", "count", "operations"),
    [
        (26, "ip", 8_046_864, 4.19),
        (26, "ir", 7_485_712, 3.71),
        (50, "ip", 14_388_624, 6.016),
        (50, "ir", 13_131_152, 5.344),
        pytest.param(*(101, "ip", 24_585_360, 8.00), marks=pytest.mark.slow),
        pytest.param(*(152, "ip", 32_992_656, 10.47), marks=pytest.mark.slow),
    ],
)
def test_csn_of_the_compressed_networks_has_the_published_parameters_and_operations(
    depth: int, bottleneck: str, count: int, operations: float
) -> None:
    """Its operations are those of the convolutions alone."""
    model = on_meta("csn", depth=depth, bottleneck=bottleneck)
    assert counting.parameters(model) == count
    assert (
        counting.parameters(on_meta("csn", 101, depth=depth, bottleneck=bottleneck))
        == count - 299 * 2049
    )
    assert counting.gmacs(model, CLIP) - 400 * 2048 / 1e9 == pytest.approx(operations, abs=0.006)


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("mc2", 8),
        ("mc3", 8),
        ("mc4", 4),
        ("mc5", 2),
        ("rmc2", 1),
        ("rmc3", 1),
        ("rmc4", 2),
        ("rmc5", 4),
        ("fr2d", 8),
        ("r2d", 1),
        ("r3d", 1),
    ],
)
def test_a_clip_keeps_the_published_frames(name: str, frames: int) -> None:
    """Frames of the last map for a clip of 8: 2D groups do not halve time."""
    seen: list[int] = []
    model = vmz(name)
    model.layer4.register_forward_hook(lambda _, __, out: seen.append(out.shape[2]))
    model(torch.empty(SHORT, device="meta"))
    assert seen == [frames]


@pytest.mark.parametrize(
    ("frames", "strides"), [(2, [1, 2, 1, 1]), (4, [1, 2, 2, 1]), (8, [1, 2, 2, 2])]
)
def test_short_clips_are_not_halved_to_nothing(frames: int, strides: list[int]) -> None:
    design = vmz("r2plus1d", frames=frames).design
    assert [design.stride(group)[0] for group in range(4)] == strides


def test_r2d_takes_clips_of_its_own_length_only() -> None:
    with pytest.raises(ValueError, match="batches of B,3,8,H,W, not 1,3,16,112,112"):
        on_meta("r2d")(torch.empty(CLIP, device="meta"))


@pytest.mark.parametrize(
    ("options", "eps"), [({}, 1e-3), ({"midplanes": "torchvision"}, 1e-5), ({"bn_eps": 1e-4}, 1e-4)]
)
def test_batchnorm_is_as_whose_weights_fit(options: dict[str, Any], eps: float) -> None:
    norms = [m for m in on_meta("r2plus1d", **options).modules() if isinstance(m, _BatchNorm)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(eps, 0.1)}


def test_an_epsilon_of_zero_is_refused() -> None:
    with pytest.raises(ConfFault, match=r"model\.bn_eps: is 0\.0, not above 0"):
        models.create("r3d", 4, bn_eps=0.0)


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("r2d", {"depth": 10}),
    ("rmc4", {"depth": 10}),
    ("r2plus1d", {"depth": 26, "pool1": True}),
    ("csn", {"depth": 26}),
    ("csn", {"depth": 26, **IR}),
    ("csn", {"depth": 26, "pool1": True, **IP}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_all_of_a_network_learns_from_flow_too(name: str, options: dict[str, Any]) -> None:
    model = on_meta(name, 5, in_channels=2, **options)
    assert isinstance(model, Part)
    model(torch.empty(2, 2, 8, 48, 48, device="meta")).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.freeze()
    assert [key for key, parameter in model.named_parameters() if parameter.requires_grad] == [
        "fc.weight",
        "fc.bias",
    ]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_networks_can_be_traced(name: str, options: dict[str, Any]) -> None:
    traced = torch.fx.symbolic_trace(on_meta(name, 5, **options))
    assert traced(torch.empty(2, 3, 8, 48, 48, device="meta")).shape == (2, 5)


def test_depth_26_has_narrow_bottlenecks() -> None:
    """VMZ's bottlenecks of 26 layers are as wide outside as inside, so the last map has 512 channels."""
    model = vmz("r2plus1d", depth=26)
    assert model.fc.in_features == 512
    assert model.get_submodule("layer1.0").downsample is None


def blob_of(key: str, name: str, options: dict[str, Any], blocks: list[int]) -> str:
    """VMZ's blob for one of our tensors, by the published table."""
    module, _, kind = key.rpartition(".")
    suffix = {"running_mean": "_rm", "running_var": "_riv", "bias": "_b"}.get(kind)
    if module == "fc":
        return f"last_out_L400{suffix or '_w'}"
    if module.startswith("stem"):
        number = int(module[-1])
        middle = "_middle" if name == "r2plus1d" and number < 3 else ""
        return (
            f"conv1{middle}_w" if number in (0, 3) else f"conv1{middle}_spatbn_relu{suffix or '_s'}"
        )
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:conv(\d)|downsample)\.(\d)(?:\.(\d))?", module)
    assert found, key
    index = sum(blocks[: int(found[1]) - 1]) + int(found[2])
    if not found[3]:
        return (
            f"shortcut_projection_{index}_w"
            if found[4] == "0"
            else f"shortcut_projection_{index}_spatbn{suffix or '_s'}"
        )
    conv = int(found[3])
    if options.get("bottleneck") == "ir" and conv > 1:
        conv += 1
    if found[4] == "1":
        return f"comp_{index}_spatbn_{conv}{suffix or '_s'}"
    if found[5] == "1":
        return f"comp_{index}_spatbn_{conv}_middle{suffix or '_s'}"
    return (
        f"comp_{index}_conv_{conv}_middle_w" if found[5] == "0" else f"comp_{index}_conv_{conv}_w"
    )


@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [
        ("r2plus1d", {"depth": 18}, [2, 2, 2, 2]),
        ("r2plus1d", {"depth": 34}, [3, 4, 6, 3]),
        ("r2plus1d", {"depth": 50}, [3, 4, 6, 3]),
        ("r3d", {"depth": 18}, [2, 2, 2, 2]),
        ("r2d", {"depth": 10}, [1, 1, 1, 1]),
        ("mc3", {"depth": 18}, [2, 2, 2, 2]),
        ("rmc4", {"depth": 16}, [2, 2, 2, 1]),
        ("csn", {"depth": 50, "pool1": True, **IR}, [3, 4, 6, 3]),
        ("csn", {"depth": 50, "pool1": True, **IP}, [3, 4, 6, 3]),
    ],
)
def test_every_blob_has_its_place(name: str, options: dict[str, Any], blocks: list[int]) -> None:
    model = vmz(name, **options)
    state = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    blobs = {blob_of(key, name, options, blocks): tensor for key, tensor in state.items()}
    assert len(blobs) == len(state)
    adapted = model.adapt_checkpoint({**blobs, "lr_unknown": torch.empty(1)})
    # what has no place keeps its name, and is reported
    assert set(adapted) == {*state, "lr_unknown"}
    assert all(adapted[key] is tensor for key, tensor in state.items())


def test_a_pickle_of_vmz_fills_the_network(tmp_path: Path) -> None:
    file, options = tmp_path / "mc2.pkl", {"depth": 10, "frames": 8}
    source, model = models.create("mc2", 400, **options), models.create("mc2", 400, **options)
    state = {
        key: tensor
        for key, tensor in source.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    blobs = {
        blob_of(key, "mc2", options, [1, 1, 1, 1]): tensor.numpy() for key, tensor in state.items()
    }
    file.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    load_init(model, str(file))
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(("ours", "theirs"), [("vmz", "torchvision"), ("torchvision", "vmz")])
def test_the_other_midplanes_are_recognised(ours: str, theirs: str) -> None:
    with pytest.raises(DataError, match=r"230 channels|288 channels") as caught:
        vmz("r2plus1d", midplanes=ours).adapt_checkpoint(
            on_meta("r2plus1d", midplanes=theirs).state_dict()
        )
    assert f"model.midplanes: {theirs}" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("r2plus1d", "r2plus1d_18"),
        pytest.param("r3d", "r3d_18", marks=pytest.mark.slow),
        ("mc3", "mc3_18"),
    ],
)
def test_torchvisions_weights_give_torchvisions_answers(name: str, builder: str) -> None:
    torch.manual_seed(1)
    theirs = getattr(torchvision.models.video, builder)(num_classes=7).eval()
    shake(theirs)
    ours = vmz(name, 7, midplanes="torchvision", frames=16).eval()
    ours.load_state_dict(ours.adapt_checkpoint(theirs.state_dict()), assign=True)
    clip = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip))


def shake(model: nn.Module) -> None:
    """BatchNorms as after training, so that none can stand for another."""
    tensors: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            tensors += [
                module.weight.data,
                module.running_var,
                module.bias.data,
                module.running_mean,
            ]
    for tensor in tensors:
        tensor.add_(torch.rand_like(tensor) * 0.5)


def test_an_unknown_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="batches of B,3,T,H,W, not 1,2,8,32,32"):
        on_meta("csn")(torch.empty(1, 2, 8, 32, 32, device="meta"))
