"""Each public family of checkpoints into its network, from files with the public names: every tensor used once, none left out.

Files hold one number a tensor, so that they are small and every tensor's place can be told; networks are built without being initialised.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from trainer import models
from trainer.errors import ConfFault, DataError
from trainer.models.weights import LoadReport, load_init

NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
Shapes = dict[str, torch.Size]


def hollow(name: str, classes: int, **options: Any) -> nn.Module:
    """The network with memory that nothing was written to yet."""
    with torch.device("meta"):
        network = models.create(name, num_classes=classes, **options)
    return network.to_empty(device="cpu")


def shapes(network: nn.Module) -> Shapes:
    return {
        key: tensor.shape
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def numbered(names: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A tensor of each shape, filled with its place in the list. Expanded, so that a file has one number of each."""
    return {
        name: torch.tensor(float(place)).expand(shape)
        for place, (name, shape) in enumerate(names.items(), 1)
    }


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def filled(network: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> bool:
    """Whether each of the file's tensors is where `names` says (public name -> ours)."""
    state = network.state_dict()
    return all(
        bool((state[names[public]] == tensor.flatten()[0]).all())
        for public, tensor in tensors.items()
    )


def whole(report: LoadReport) -> bool:
    return (
        not report.unused
        and not report.replaced
        and all(key.endswith("num_batches_tracked") for key in report.missing)
    )


def vmz_blobs(depth: int, kind: str) -> Iterator[tuple[str, str]]:
    """(blob, ours without the ending) of convolutions `_w` and BatchNorms, as VMZ numbers them. kind: 2plus1d, 3d, ir, ip."""
    stem = [("conv1_middle", 0), ("conv1", 3)] if kind == "2plus1d" else [("conv1", 0)]
    yield from (
        (f"{blob}|{blob}_spatbn_relu", f"stem.{place}|stem.{place + 1}") for blob, place in stem
    )
    index, convs = 0, 3 if depth == 50 else 2
    for group, blocks in enumerate(BLOCKS[depth], 1):
        for block in range(blocks):
            ours = f"layer{group}.{block}"
            for conv in range(1, convs + 1):
                number = conv + 1 if kind == "ir" and conv > 1 else conv
                blob, norm, place = (
                    f"comp_{index}_conv_{number}",
                    f"comp_{index}_spatbn_{number}",
                    f"{ours}.conv{conv}.0",
                )
                if kind == "2plus1d" or (kind == "ip" and conv == 2):
                    yield f"{blob}_middle|{norm}_middle", f"{place}.0|{place}.1"
                    place += ".3" if kind == "2plus1d" else ".2"
                yield f"{blob}|{norm}", f"{place}|{ours}.conv{conv}.1"
            if block == 0 and (group > 1 or convs == 3):
                yield (
                    f"shortcut_projection_{index}|shortcut_projection_{index}_spatbn",
                    f"{ours}.downsample.0|{ours}.downsample.1",
                )
            index += 1


def vmz_names(depth: int, kind: str, classes: int) -> dict[str, str]:
    """Blob -> our tensor."""
    names = {f"last_out_L{classes}_w": "fc.weight", f"last_out_L{classes}_b": "fc.bias"}
    for blobs, ours in vmz_blobs(depth, kind):
        (conv, norm), (conv_place, norm_place) = blobs.split("|"), ours.split("|")
        names[f"{conv}_w"] = f"{conv_place}.weight"
        names |= {f"{norm}_{ending}": f"{norm_place}.{name}" for ending, name in NORM.items()}
    return names


def vmz_file(path: Path, names: Mapping[str, str], sizes: Shapes) -> tuple[str, dict[str, Tensor]]:
    """A .pkl as VMZ publishes them, of 16-bit numbers to be small, with the state of its training."""
    blobs = {
        blob: np.full(tuple(sizes[ours]), place, "f2")
        for place, (blob, ours) in enumerate(names.items(), 1)
    }
    training = {
        "lr": np.float32(0.01),
        "optimizer_iteration": np.array([9], "i8"),
        "conv1_w_momentum": np.ones(3, "f4"),
    }
    path.write_bytes(pickle.dumps({"blobs": {**blobs, **training}}, protocol=2, fix_imports=True))
    return str(path), {blob: torch.from_numpy(array).float() for blob, array in blobs.items()}


@pytest.mark.parametrize(
    ("name", "depth", "kind", "options"),
    [
        ("r2plus1d", 10, "2plus1d", {}),
        ("r3d", 10, "3d", {}),
        ("csn", 50, "ir", {"flavour": "vmz", "bottleneck": "ir", "pool1": True}),
        ("csn", 50, "ip", {"flavour": "vmz", "bottleneck": "ip", "pool1": True}),
        pytest.param("r2plus1d", 18, "2plus1d", {}, marks=pytest.mark.slow),
        pytest.param("r2plus1d", 34, "2plus1d", {"frames": 32}, marks=pytest.mark.slow),
        pytest.param("mc3", 18, "3d", {}, marks=pytest.mark.slow),
    ],
)
def test_vmz_blobs(
    name: str, depth: int, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """By the table of blobs: each used once, every tensor filled, the training's own state named as ignored."""
    network, names = hollow(name, 7, depth=depth, **options), vmz_names(depth, kind, 7)
    assert set(names.values()) == set(shapes(network))
    path, blobs = vmz_file(tmp_path / "r2.5d.pkl", names, shapes(network))
    report = load_init(network, path)
    assert filled(network, blobs, names)
    assert whole(report)
    assert len(report.loaded) == len(names)
    assert set(report.ignored) == {"lr", "optimizer_iteration", "conv1_w_momentum"}
    assert report.head_trained


def test_a_blob_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    network, names = hollow("r3d", 3, depth=10), vmz_names(10, "3d", 3)
    path, _ = vmz_file(
        tmp_path / "a.pkl", {**names, "comp_9_conv_1_w": "fc.weight"}, shapes(network)
    )
    with pytest.raises(DataError, match=r"has comp_9_conv_1_w, which the model does not"):
        load_init(network, path)
    path, _ = vmz_file(tmp_path / "c.pkl", {**names, "last_out_L9_w": "fc.weight"}, shapes(network))
    with pytest.raises(
        DataError, match=r"holds fc\.weight twice, as last_out_L3_w and as last_out_L9_w"
    ):
        load_init(network, path)
    del names["comp_2_spatbn_2_riv"]
    path, _ = vmz_file(tmp_path / "b.pkl", names, shapes(network))
    with pytest.raises(DataError, match=r"lacks layer3\.0\.conv2\.1\.running_var"):
        load_init(network, path)


def test_c3d_of_vmz(tmp_path: Path) -> None:
    """Convolutions with bias and BatchNorm, fc6 and fc7, and a last layer named after its classes."""
    network = hollow("c3d_vmz", 400)
    layers = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
    ours = {layer: layer[:-1] if layer in ("conv1a", "conv2a") else layer for layer in layers}
    names = {
        f"{layer}_{kind}": f"{ours[layer]}.{name}"
        for layer in layers
        for kind, name in (("w", "weight"), ("b", "bias"))
    }
    names |= {
        f"{layer}_bn_{kind}": f"{ours[layer]}_bn.{name}"
        for layer in layers
        for kind, name in NORM.items()
    }
    ends = {"fc6": "fc6", "fc7": "fc7", "last_out_L400": "fc8"}
    names |= {
        f"{blob}_{kind}": f"{place}.{name}"
        for blob, place in ends.items()
        for kind, name in (("w", "weight"), ("b", "bias"))
    }
    tensors = numbered({blob: shapes(network)[place] for blob, place in names.items()})
    assert whole(load_init(network, saved(tmp_path / "c3d.pth", tensors)))
    assert filled(network, tensors, names)


@pytest.mark.parametrize(
    ("name", "build", "frames"),
    [("r2plus1d", "r2plus1d_18", 16), ("r3d", "r3d_18", 16), ("mc3", "mc3_18", 16)],
)
def test_torchvision_video_networks(name: str, build: str, frames: int, tmp_path: Path) -> None:
    """torchvision's own names and sizes; VMZ's middle channels are refused with the option that fits."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models.video, build)(num_classes=400)
    tensors = numbered(shapes(theirs))
    path = saved(tmp_path / "net.pth", tensors)
    network = hollow(name, 400, depth=18, frames=frames, midplanes="torchvision")
    assert whole(load_init(network, path))
    assert filled(network, tensors, {key: key for key in tensors})
    if name == "r2plus1d":
        with pytest.raises(DataError, match="midplanes: torchvision"):
            load_init(hollow(name, 400, depth=18, frames=frames), path)


def test_another_r2plus1d_is_named(tmp_path: Path) -> None:
    """Of the same name in other hands, with a kernel of seven frames in its stem: not a list of tensors that are missing."""
    torch.save(
        {"arch": "resnet2p1d-18", "state_dict": {"layer1.0.conv1_s.weight": torch.zeros(2)}},
        tmp_path / "r2p1d18_K_200ep.pth",
    )
    with pytest.raises(
        DataError, match=r"of the R\(2\+1\)D of 3D-ResNets-PyTorch .*resnet3d takes"
    ):
        load_init(hollow("r2plus1d", 400, depth=18), str(tmp_path / "r2p1d18_K_200ep.pth"))


def test_the_hub_files_of_ig65m(tmp_path: Path) -> None:
    """torchvision's names with VMZ's sizes; 487 or 359 hashtags need a new last layer for other classes."""
    network = hollow("r2plus1d", 51, depth=34, frames=8)
    for classes in (487, 359):
        tensors = numbered(
            shapes(network)
            | {"fc.weight": torch.Size([classes, 512]), "fc.bias": torch.Size([classes])}
        )
        path = saved(tmp_path / "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth", tensors)
        with pytest.raises(
            ConfFault, match=rf"has {classes} classes, the model 51.*init_head: replace"
        ):
            load_init(network, path)
        report = load_init(network, path, head="replace")
        assert report.replaced == ("fc.weight", "fc.bias")
        assert not report.head_trained
        assert [record["name"] for record in report.records] == ["ig65m-34-8f"]
        trunk = {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}
        assert filled(network, trunk, {key: key for key in trunk})


def hara_keys(depth: int) -> list[str]:
    """Of a 3D ResNet of basic blocks with shortcuts B, by the spec."""
    norm = [*NORM.values(), "num_batches_tracked"]
    keys = ["conv1.weight", *(f"bn1.{name}" for name in norm), "fc.weight", "fc.bias"]
    for layer, blocks in enumerate(BLOCKS[depth], 1):
        for block in range(blocks):
            place = f"layer{layer}.{block}"
            for number in (1, 2):
                keys += [
                    f"{place}.conv{number}.weight",
                    *(f"{place}.bn{number}.{name}" for name in norm),
                ]
            if block == 0 and layer > 1:
                keys += [
                    f"{place}.downsample.0.weight",
                    *(f"{place}.downsample.1.{name}" for name in norm),
                ]
    return keys


@pytest.mark.parametrize("prefix", ["module.", ""], ids=["2018", "2020"])
def test_the_3d_resnets_of_hara(prefix: str, tmp_path: Path) -> None:
    """{epoch, arch, state_dict, optimizer, scheduler}: in 2018 with `module.`, in 2020 without."""
    network = hollow("resnet3d", 700, depth=18, shortcut="B")
    sizes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert set(hara_keys(18)) == set(sizes)
    tensors = numbered({key: sizes[key] for key in hara_keys(18)})
    state = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    more = {
        "epoch": 200,
        "arch": "resnet-18",
        "optimizer": {"param_groups": [{"lr": 0.1}]},
        "scheduler": {"milestones": {100: 1}},
    }
    report = load_init(
        network, saved(tmp_path / "r3d18_K_200ep.pth", {**more, "state_dict": state})
    )
    assert set(report.loaded) == set(sizes)
    assert filled(network, tensors, {key: key for key in tensors})
    assert report.fields["arch"] == "resnet-18"
    assert report.records[0]["classes"] == 700


@pytest.mark.parametrize(
    ("name", "options", "some"),
    [
        ("mobilenetv2_3d", {"width": 0.2}, {"features.0.0.weight", "features.18.0.weight", "classifier.1.weight"}),
        ("mobilenet_3d", {"width": 0.5}, {"features.0.0.weight", "classifier.1.bias"}),
        ("shufflenet_3d", {"width": 0.5}, {"conv1.0.weight", "classifier.1.weight"}),
        ("shufflenetv2_3d", {"width": 0.25}, {"features.0.banch2.0.weight", "classifier.1.bias"}),
        ("squeezenet_3d", {}, {"features.0.bias", "classifier.1.weight"}),
    ],
)  # fmt: skip
def test_the_efficient_3d_networks(
    name: str, options: dict[str, Any], some: set[str], tmp_path: Path
) -> None:
    """{epoch, arch, state_dict with `module.`, optimizer, best_prec1}; 27 gestures after 600 actions need a new head."""
    network = hollow(name, 600, **options)
    assert some <= set(shapes(network))
    tensors = numbered(shapes(network))
    content = {
        "epoch": 57, "arch": name, "optimizer": {"state": {}, "param_groups": []}, "best_prec1": np.float64(50.65),
        "state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()},
    }  # fmt: skip
    path = saved(tmp_path / f"kinetics_{name}_RGB_16_best.pth", content)
    assert whole(load_init(network, path))
    assert filled(network, tensors, {key: key for key in tensors})
    gestures = hollow(name, 27, **options)
    with pytest.raises(ConfFault, match="has 600 classes, the model 27"):
        load_init(gestures, path)
    report = load_init(gestures, path, head="replace")
    assert {key.rpartition(".")[0] for key in report.replaced} == {"classifier.1"}
    assert not report.head_trained


SPORTS1M = {
    "features.0": "conv1", "features.3": "conv2", "features.6": "conv3a", "features.8": "conv3b", "features.11": "conv4a",
    "features.13": "conv4b", "features.16": "conv5a", "features.18": "conv5b", "classifier.0": "fc6", "classifier.3": "fc7",
}  # fmt: skip


def test_c3d_of_sports1m(tmp_path: Path) -> None:
    """`features.N` without a last layer, which has to be asked for; and `c3d.pickle`, whose names are ours and whose classes are 487."""
    network = hollow("c3d", 101)
    names = {
        f"{public}.{kind}": f"{own}.{kind}"
        for public, own in SPORTS1M.items()
        for kind in ("weight", "bias")
    }
    tensors = numbered({public: shapes(network)[own] for public, own in names.items()})
    path = saved(tmp_path / "c3d-pretrained.pth", tensors)
    with pytest.raises(ConfFault, match=r"has no last layer.*init_head: replace"):
        load_init(network, path)
    report = load_init(network, path, head="replace")
    assert filled(network, tensors, names)
    assert (report.replaced, report.head_trained) == (("fc8.weight", "fc8.bias"), False)

    own = {key.replace("module.", ""): size for key, size in shapes(network).items()}
    own |= {"fc8.weight": torch.Size([487, 4096]), "fc8.bias": torch.Size([487])}
    torch.save(numbered(own), tmp_path / "c3d.pickle", _use_new_zipfile_serialization=False)
    with pytest.raises(ConfFault, match="has 487 classes, the model 101"):
        load_init(network, str(tmp_path / "c3d.pickle"))
    assert (
        load_init(network, str(tmp_path / "c3d.pickle"), head="replace").records[0]["name"]
        == "sports1m-487"
    )


def test_inception_of_torchvision(tmp_path: Path) -> None:
    """Without its auxiliary head, with a last layer that is another's; a stack of frames shares out the first convolution."""
    with torch.device("meta"):
        theirs = torchvision.models.inception_v3(init_weights=False)
    tensors = numbered(shapes(theirs))
    path = saved(tmp_path / "inception_v3_google-0cc3c7bd.pth", tensors)
    network = hollow("inception_v3", 400, seq_len=5)
    with pytest.raises(ConfFault, match="has 1000 classes, the model 400"):
        load_init(network, path)
    report = load_init(network, path, head="replace")
    assert report.replaced == ("fc_kin.weight", "fc_kin.bias")
    first = network.get_parameter("Conv2d_1a_3x3.conv.weight")
    assert first.shape[1] == 15
    assert torch.allclose(first, tensors["Conv2d_1a_3x3.conv.weight"].flatten()[0] / 5)
    trunk = {
        key: value
        for key, value in tensors.items()
        if not key.startswith(("AuxLogits.", "fc.", "Conv2d_1a_3x3.conv"))
    }
    assert filled(network, trunk, {key: key for key in trunk})
    assert [record["name"] for record in report.records] == ["imagenet"]


def test_vgg_with_reduced_fc(tmp_path: Path) -> None:
    """`vgg16_reducedfc.pth` names its layers by number and ends with conv7; what comes after starts fresh with the last layer."""
    network = hollow("vgg16", 400, hidden=64)
    base = {
        key.removeprefix("conv_base."): size
        for key, size in shapes(network).items()
        if key.startswith("conv_base.")
    }
    assert {"0.weight", "28.bias"} <= set(base)
    tensors = numbered(base)
    path = saved(tmp_path / "vgg16_reducedfc.pth", tensors)
    with pytest.raises(ConfFault, match="init_head: replace"):
        load_init(network, path)
    report = load_init(network, path, head="replace")
    assert filled(network, tensors, {key: f"conv_base.{key}" for key in tensors})
    assert set(report.replaced) == {
        key for key in shapes(network) if not key.startswith("conv_base.")
    }
    assert not report.head_trained


@pytest.mark.parametrize("form", ["r2plus1d", "r3d"])
def test_the_residual_networks_of_the_c3d_system(form: str, tmp_path: Path) -> None:
    """`.pth.tar`: {epoch, state_dict, opt_dict}, the trunk under its own name."""
    network = hollow(f"leafdp_{form}", 101)
    tensors = numbered(shapes(network))
    trunk = (
        "res2plus1d.conv1.temporal_conv.weight"
        if form == "r2plus1d"
        else "res3d.conv1.temporal_spatial_conv.weight"
    )
    assert {trunk, "linear.weight"} <= set(tensors)
    path = saved(
        tmp_path / "R2Plus1D-ucf101_epoch-99.pth.tar",
        {"epoch": 100, "state_dict": tensors, "opt_dict": {"state": {}}},
    )
    assert whole(load_init(network, path))
    assert filled(network, tensors, {key: key for key in tensors})
