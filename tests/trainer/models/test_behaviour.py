"""What every network does: names, shapes, gradients, identity, frozen parts, tracing, and options that are refused."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer import models, signatures
from trainer.errors import ConfFault
from trainer.models.layers import to_images, to_video
from trainer.models.registry import register_model
from trainer.models.rules import parse_mode
from trainer.models.weights import apply_freeze

TINY = {"num_classes": 5, "mode": "16x16"}
COMPOSITES: dict[str, dict[str, Any]] = {
    "resizer_i3d": {**TINY, "resizer": "3d"},
    "stn_resizer_i3d": {**TINY, "in_size": 8},
    "transformer_resizer_i3d": {**TINY, "in_size": 8, "read_at": 1, "apply_at": 4},
}
COMBINATIONS = [(read, apply) for read in range(9) for apply in range(read, 9)]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_names() -> None:
    """In alphabetical order; each name is a function's, read from its module."""
    assert models.names() == sorted(models.names())
    assert {
        "i3d",
        "resizer2d",
        "resizer3d",
        "spatial_transformer",
        "transformer_resizer",
        *COMPOSITES,
    } <= set(models.names())


def test_names_and_options_are_read_without_torch(project: Path) -> None:
    """`check` and `models` answer in a moment: neither the registry nor the rules import torch, numpy or scikit-learn."""
    code = (
        "import sys, trainer.models, trainer.model_rules, trainer.models_list\n"
        "trainer.models.names()\n"
        "sys.exit(bool({'torch', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=project).returncode == 0


def test_models_as_json(project: Path) -> None:
    """`python -m trainer models --json` lists name, kind, summary, and every option with its default."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "models", "--json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=project,
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == models.names()
    assert rows["resizer2d"]["kind"] == "resizer"
    assert (
        rows["resizer2d"]["options"].items()
        >= {"frames": 32, "size": 112, "residual_blocks": 1}.items()
    )
    assert rows["i3d"]["kind"] == "classifier"
    assert (
        rows["i3d"]["options"].items()
        >= {"num_classes": None, "mode": "32x112", "in_channels": 3, "head": "pooled"}.items()
    )
    expected = {
        "frames": 32,
        "size": 112,
        "in_size": 28,
        "residual_blocks": 3,
        "read_at": 0,
        "apply_at": 0,
        "legacy_frame_view": False,
    }
    assert rows["transformer_resizer"]["options"].items() >= expected.items()
    assert (
        rows["stn_resizer_i3d"]["options"].items()
        >= {"resizer": "2d", "freeze_i3d": False, "legacy_frame_view": False}.items()
    )
    assert all(row["summary"] for row in rows.values())


def test_signatures_are_those_of_the_builders() -> None:
    """What `ast` reads is what Python would say of the imported functions."""
    source = '''
@register_model(parts=("a", "b"))
def net(num_classes: int, *, depth: int = -1, size: int | None = None, form: Literal["x", "y"] = "x"):
    """Title of it

    More."""
def helper(a): ...
'''
    (found,) = signatures.read_source(source, "file")
    assert (found.name, found.kind, found.summary, found.parts, found.module) == (
        "net",
        "classifier",
        "Title of it",
        ("a", "b"),
        "file",
    )
    assert {key: option.default for key, option in found.options.items()} == {
        "num_classes": None,
        "depth": -1,
        "size": None,
        "form": "x",
    }
    assert [key for key, option in found.options.items() if option.required] == ["num_classes"]
    assert found.options["form"].choices == ("x", "y")


def test_a_second_model_of_a_name_is_refused() -> None:
    """Two families cannot take one name silently."""

    def i3d() -> nn.Module:
        return nn.Identity()

    models.create("i3d", num_classes=2, mode="16x16")
    with pytest.raises(ValueError, match=r"'i3d' is registered by trainer.models.i3d already"):
        register_model(i3d)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("i4d", {}, 'did you mean "i3d"'),
        ("i3d", {}, "i3d needs num_classes"),
        ("i3d", {"num_classes": 5, "mod": "32x112"}, 'did you mean "mode"'),
        ("i3d", {"num_classes": 5, "mode": "30x112"}, "multiple of 8"),
        ("i3d", {"num_classes": 5, "mode": "32x100"}, "multiple of 16"),
        ("i3d", {"num_classes": 5, "mode": "8x16"}, "too small"),
        ("i3d", {"num_classes": 5, "mode": 32}, "not text"),
        ("i3d", {"num_classes": 0}, "less than 1"),
        ("i3d", {"num_classes": 5, "head": "frames"}, "not one of pooled, per_frame"),
        ("i3d", {"num_classes": 5, "dropout": 1.0}, "not from 0 up to 1"),
        ("resizer2d", {"num_classes": 5}, "has no classes"),
        ("resizer2d", {"residual_blocks": "two"}, "not a whole number"),
        ("resizer3d", {"residual_blocks": -1}, "less than 0"),
        ("spatial_transformer", {}, "needs in_size"),
        ("transformer_resizer", {"read_at": 3, "apply_at": 2}, "read before it is applied"),
        ("transformer_resizer", {"read_at": 9, "apply_at": 9}, "points 0 to 8"),
        ("resizer_i3d", {"num_classes": 5, "resizer": "4d"}, "not one of 2d, 3d"),
        ("transformer_resizer_i3d", {"num_classes": 5, "resizer": "3d"}, "not one of 2d"),
        ("resizer_i3d", {"num_classes": 5, "mode": "16x112", "frames": 32}, "mode 16x112 has 16"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    """With the value, the reason and, where there is one, the likely name."""
    with pytest.raises(ConfFault, match=said):
        models.create(name, **options)


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [("16x112", (16, 112)), ("64x224", (64, 224)), ("16x16", (16, 16)), ("8x32", (8, 32))],
)
def test_modes(mode: str, sizes: tuple[int, int]) -> None:
    assert parse_mode(mode) == sizes


@pytest.mark.parametrize("mode", ["16x16", "8x32"])
def test_small_modes_train(mode: str) -> None:
    """A laptop trains a small mode, even with a batch of one: the last map has more than one cell."""
    frames, size = parse_mode(mode)
    model = models.create("i3d", num_classes=5, mode=mode)
    model(noise(1, 3, frames, size, size)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("frames", [16, 35])
def test_the_per_frame_head_answers_for_each_frame(frames: int) -> None:
    """B,classes,T for clips of any length, by linear interpolation of T' = ceil(T / 8) - 1 answers."""
    model = models.create("i3d", num_classes=5, mode="16x16", head="per_frame").eval()
    video = noise(2, 3, frames, 16, 16)
    with torch.no_grad():
        answers = model(video)
        features = model.get_submodule("logits")(model.extract_features(video))  # type: ignore[operator]
    assert answers.shape == (2, 5, frames)
    assert features.shape == (2, 5, -(-frames // 8) - 1, 1, 1)
    expected = nn.functional.interpolate(
        features[..., 0, 0], frames, mode="linear", align_corners=False
    )
    assert torch.equal(answers, expected)


@pytest.mark.parametrize("shape", [(1, 3, 32, 16, 16), (1, 3, 16, 32, 32), (1, 2, 16, 16, 16)])
def test_the_pooled_head_refuses_other_clips(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes clips of B,3,16,16,16"):
        models.create("i3d", **TINY)(noise(*shape))


@pytest.mark.parametrize(("read", "apply"), COMBINATIONS)
def test_every_place_of_the_transform_runs_and_learns(read: int, apply: int) -> None:
    """All 45 pairs: output shape, a gradient in every weight but the identity's input, and the same under both frame views' shapes."""
    for legacy in (False, True):
        model = models.create(
            "transformer_resizer",
            frames=4,
            size=16,
            in_size=8,
            residual_blocks=1,
            read_at=read,
            apply_at=apply,
            legacy_frame_view=legacy,
        )
        out = model(noise(2, 3, 4, 8, 8))
        assert out.shape == (2, 3, 4, 16, 16)
        out.square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        assert model.get_parameter("fc_loc.2.bias").grad is not None
        assert float(model.get_parameter("fc_loc.2.bias").grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_a_new_combined_model_zooms() -> None:
    """1 + sigmoid lies between 1 and 2: at first the transform is the identity times about 1.5, not the identity."""
    model = models.create("transformer_resizer", in_size=8, frames=4, size=16).eval()
    with torch.no_grad():
        theta = model._theta(noise(4, 3, 8, 8))  # type: ignore[operator]
    assert theta.shape == (4, 2, 3)
    assert torch.all(theta[:, [0, 1], [1, 0]] == 0)
    assert torch.all((theta[:, [0, 1], [0, 1]] > 1.2) & (theta[:, [0, 1], [0, 1]] < 1.8))


def test_a_clip_of_another_length_cannot_be_transformed_after_the_resize() -> None:
    model = models.create(
        "transformer_resizer", frames=8, size=16, in_size=8, read_at=0, apply_at=3
    )
    with pytest.raises(ValueError, match="4 transforms for 8 frames"):
        model(noise(1, 3, 4, 8, 8))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("size", [28, 56, 15, 10])
def test_a_new_spatial_transformer_is_the_identity(size: int, legacy: bool) -> None:
    model = models.create("spatial_transformer", in_size=size, legacy_frame_view=legacy).eval()
    video = noise(2, 3, 5, size, size)
    with torch.no_grad():
        assert (model(video) - video).abs().max() < 6e-5


def test_transforms_are_exact_under_autocast() -> None:
    """A shift of a quarter of bfloat16's step at 1 still moves the frames of a video."""
    model = models.create("spatial_transformer", in_size=28).eval()
    video = noise(1, 3, 2, 28, 28)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(video)
        model.get_parameter("fc_loc.2.bias")[0] += 0.002
        assert before.dtype == torch.float32
        assert (model(video) - before).abs().max() > 0.01


def test_frames_are_images_of_one_moment() -> None:
    """The correct view gives the RGB frame of (clip, time); the legacy one gives C consecutive moments of one channel."""
    video = torch.arange(2 * 3 * 4 * 2 * 2).reshape(2, 3, 4, 2, 2).float()
    images = to_images(video, legacy=False)
    assert torch.equal(images[1 * 4 + 2], video[1, :, 2])
    old = to_images(video, legacy=True)
    assert torch.equal(old[0], video[0, 0, :3])
    for legacy in (False, True):
        assert torch.equal(to_video(to_images(video, legacy=legacy), 4, legacy=legacy), video)


@pytest.mark.parametrize(("name", "options"), COMPOSITES.items())
def test_composites_train_every_part(name: str, options: dict[str, Any]) -> None:
    """Small video to logits; every part, named as `init` and `freeze` name it, gets gradients."""
    model = models.create(name, **options)
    logits = model(noise(2, 3, 16, 8, 8))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    parts = [child for child, _ in model.named_children()]
    assert parts == list(signatures.read()[name].parts)


@pytest.mark.parametrize("way", ["option", "conf"])
def test_a_frozen_i3d_keeps_weights_and_statistics(way: str) -> None:
    """No gradient but in `logits`, and training mode moves no BatchNorm statistic, also in a copy."""
    model = models.create("resizer_i3d", **TINY, freeze_i3d=way == "option")
    if way == "conf":
        apply_freeze(model, ["i3d"])
    model = copy.deepcopy(model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(noise(2, 3, 16, 8, 8)).sum().backward()
    with_grad = {key for key, p in model.named_parameters() if p.grad is not None}
    assert {key for key in with_grad if key.startswith("i3d.")} == {
        "i3d.logits.conv3d.weight",
        "i3d.logits.conv3d.bias",
    }
    assert {key for key, p in model.named_parameters() if key.startswith("resizer.")} <= with_grad
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved
    assert all(key.startswith("resizer.") for key in moved)
    assert model.get_submodule("i3d.dropout").training


def test_a_frozen_resizer_keeps_weights_and_statistics() -> None:
    model = models.create("stn_resizer_i3d", **TINY, in_size=8)
    apply_freeze(model, ["transformer", "resizer"])
    model.eval()
    model.train()
    model(noise(2, 3, 16, 8, 8)).sum().backward()
    assert all(key.startswith("i3d.") for key, p in model.named_parameters() if p.grad is not None)
    assert int(model.get_buffer("resizer.c2.bn.num_batches_tracked")) == 0
    assert int(model.get_buffer("i3d.Mixed_5c.b0.bn.num_batches_tracked")) == 1


def test_freezing_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfFault, match="no part 'transformer'"):
        apply_freeze(models.create("resizer_i3d", **TINY), ["transformer"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("i3d", TINY), *COMPOSITES.items()])
def test_networks_can_be_traced_and_exported(name: str, options: dict[str, Any]) -> None:
    """Static shapes only: torch.fx and torch.export both take the network whole, in channels_last_3d too, and answer the same."""
    model = models.create(name, **options).eval()
    size = 16 if name == "i3d" else 8
    video = noise(2, 3, 16, size, size)
    with torch.no_grad():
        expected = model(video)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(video), expected)
        torch.testing.assert_close(torch.export.export(model, (video,)).module()(video), expected)
        for module in model.modules():
            for p in module.parameters(recurse=False):
                if p.dim() == 5:
                    p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(
            model(video.contiguous(memory_format=torch.channels_last_3d)),
            expected,
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_new_head_leaves_the_rest() -> None:
    model = models.create("i3d", **TINY)
    before = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if not key.startswith("logits.")
    }
    model.replace_logits(7)  # type: ignore[operator]
    assert model.get_parameter("logits.conv3d.weight").shape == (7, 1024, 1, 1, 1)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
