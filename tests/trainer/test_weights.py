"""Checkpoints that networks start from: every published layout is read, every misfit is named, no file runs code."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, serialization

from trainer import models
from trainer.config import Config, parse
from trainer.errors import ConfFault, DataError
from trainer.models import checkpoint_files
from trainer.models.weights import create_for, load_init

BLOCKS = ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"]
UNITS = [
    "Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3",
    *(f"Mixed_{block}.b{unit}" for block in BLOCKS for unit in ["0", "1a", "1b", "2a", "2b", "3b"]),
]  # fmt: skip
NORM = ["weight", "bias", "running_mean", "running_var"]


def i3d_keys(*, counters: bool) -> set[str]:
    norm = [*NORM, "num_batches_tracked"] if counters else NORM
    trunk = {
        f"{unit}.{key}"
        for unit in UNITS
        for key in ("conv3d.weight", *(f"bn.{name}" for name in norm))
    }
    return trunk | {"logits.conv3d.weight", "logits.conv3d.bias"}


def resizer_keys(blocks: int) -> set[str]:
    norm = [*NORM, "num_batches_tracked"]
    units = {f"{unit}.conv3d.weight" for unit in ("c1", "c2", "c3", "c4")} | {
        f"{unit}.bn.{name}" for unit in ("c2", "c3") for name in norm
    }
    convolutions = {
        f"residual_blocks.{i}.conv{j}.{key}"
        for i in range(blocks)
        for j in (1, 2)
        for key in ("weight", "bias")
    }
    return (
        units
        | convolutions
        | {
            f"residual_blocks.{i}.bn{j}.{name}"
            for i in range(blocks)
            for j in (1, 2)
            for name in norm
        }
    )


def linear_keys(module: str, *places: int) -> set[str]:
    return {f"{module}.{place}.{key}" for place in places for key in ("weight", "bias")}


def i3d(classes: int = 3, **options: Any) -> nn.Module:
    return models.create("i3d", num_classes=classes, mode="16x16", **options)


def combined(**options: Any) -> nn.Module:
    return models.create("resizer_i3d", num_classes=3, mode="16x16", **options)


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """An I3D's state with known numbers, 7 classes, as torch 0.3 saved it: without BatchNorm counters."""
    torch.manual_seed(5)
    return {
        key: value
        for key, value in i3d(7).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def same(
    model: nn.Module, expected: Mapping[str, Tensor], *, but: str = "\n", prefix: str = ""
) -> bool:
    state = model.state_dict()
    return all(
        torch.equal(state[prefix + key], value)
        for key, value in expected.items()
        if not key.startswith(but)
    )


def test_key_names_are_the_published_ones() -> None:
    """The listing of the spec, for each family."""
    with torch.device("meta"):
        state = i3d(400).state_dict()
        assert set(state) == i3d_keys(counters=True)
        assert len(state) == 344
        assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
        assert (
            sum(
                value.numel()
                for key, value in state.items()
                if "running" in key or "tracked" in key
            )
            == 14_617
        )
        for name in ("resizer2d", "resizer3d"):
            assert set(models.create(name, residual_blocks=3).state_dict()) == resizer_keys(3)
        stn = models.create("spatial_transformer", in_size=28).state_dict()
        assert set(stn) == linear_keys("localization", 0, 3) | linear_keys("fc_loc", 0, 2)
        norms = {
            f"localization.{place}.{name}"
            for place in (2, 6)
            for name in [*NORM, "num_batches_tracked"]
        }
        heads = (
            linear_keys("localization", 0, 4)
            | linear_keys("fc_loc", 0, 2)
            | linear_keys("scalar", 0, 2)
        )
        assert (
            set(models.create("transformer_resizer").state_dict())
            == resizer_keys(3) | norms | heads
        )


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {
            key if key.startswith("logits.") else f"model.{key}": value
            for key, value in state.items()
        },
        lambda state: {
            f"module.{key}" if key.startswith("logits.") else f"module.model.{key}": value
            for key, value in state.items()
        },
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
    ],
    ids=["public", "DataParallel", "nested", "nested DataParallel", "state_dict", "model"],
)
def test_every_published_layout_of_i3d_is_read(
    layout: Any, trunk: dict[str, Tensor], tmp_path: Path
) -> None:
    """Bare, `module.`, `model.` and wrapped; BatchNorm counters may be missing, and the report says so."""
    model = i3d(7)
    report = load_init(model, saved(tmp_path / "i3d.pt", layout(trunk)))
    assert same(model, trunk)
    assert set(report.loaded) == set(trunk)
    assert len(report.missing) == 57
    assert all(key.endswith("num_batches_tracked") for key in report.missing)
    assert (report.unused, report.replaced) == ((), ())
    assert "57 BatchNorm counters not in the file" in str(report)


def write_as_torch_03(state: Mapping[str, Tensor], path: Path) -> str:
    """The byte format of torch 0.3: no zip, `_rebuild_tensor`, storages on a GPU, in the order of their keys."""
    storages: dict[str, Tensor] = {}

    class Storage:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    class Old:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor.contiguous()

        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor, (
                Storage(self.tensor),
                0,
                tuple(self.tensor.shape),
                self.tensor.stride(),
            )

    def persistent(thing: Any) -> Any:
        if not isinstance(thing, Storage):
            return None
        storages[str(id(thing.tensor))] = thing.tensor
        return (
            "storage",
            torch.FloatStorage,
            str(id(thing.tensor)),
            "cuda:0",
            thing.tensor.numel(),
            None,
        )

    objects = collections.OrderedDict((key, Old(tensor)) for key, tensor in state.items())
    with path.open("wb") as file:
        for header in (
            serialization.MAGIC_NUMBER,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
        ):
            pickle.dump(header, file, protocol=2)
        pickler = pickle.Pickler(file, protocol=2)
        pickler.persistent_id = persistent  # type: ignore[method-assign]
        pickler.dump(objects)
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].numel()) + storages[key].numpy().tobytes())
    return str(path)


def test_files_of_torch_03_are_read(trunk: dict[str, Tensor], tmp_path: Path) -> None:
    """The public files are that old, and were saved on a GPU."""
    model = i3d(7)
    load_init(model, write_as_torch_03(trunk, tmp_path / "rgb_charades.pt"))
    assert same(model, trunk)


def test_other_classes_need_a_new_head(trunk: dict[str, Tensor], tmp_path: Path) -> None:
    """7 classes into 3: refused with both numbers and the way out; with head replace the fresh head stays and is named."""
    path = saved(tmp_path / "i3d.pt", trunk)
    model = i3d(3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConfFault, match=r"has 7 classes, the model 3.*init_head: replace"):
        load_init(model, path)
    assert same(model, before)
    report = load_init(model, path, head="replace")
    assert report.replaced == ("logits.conv3d.weight", "logits.conv3d.bias")
    assert same(model, trunk, but="logits.")
    assert same(model, {key: before[key] for key in report.replaced})
    assert "head replaced by a fresh one" in str(report)


def test_a_flow_checkpoint_is_refused_by_its_channels(
    trunk: dict[str, Tensor], tmp_path: Path
) -> None:
    """2 channels do not become 3 silently, with either head."""
    flow = {**trunk, "Conv3d_1a_7x7.conv3d.weight": trunk["Conv3d_1a_7x7.conv3d.weight"][:, :2]}
    with pytest.raises(DataError, match="takes 2 channels, the model 3"):
        load_init(i3d(7), saved(tmp_path / "flow.pt", flow), head="replace")
    model = i3d(7, in_channels=2)
    load_init(model, str(tmp_path / "flow.pt"))
    assert same(model, flow)


def test_missing_and_unused_keys_are_named_and_nothing_is_copied(
    trunk: dict[str, Tensor], tmp_path: Path
) -> None:
    model = i3d(7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lacking = {key: value for key, value in trunk.items() if key != "Mixed_4c.b2b.bn.weight"}
    with pytest.raises(DataError, match=r"lacks Mixed_4c\.b2b\.bn\.weight"):
        load_init(model, saved(tmp_path / "a.pt", lacking))
    with pytest.raises(DataError, match=r"has extra\.weight, which the model does not"):
        load_init(model, saved(tmp_path / "b.pt", {**trunk, "extra.weight": torch.ones(1)}))
    with pytest.raises(DataError, match=r"Mixed_3b\.b0\.bn\.bias is \(3,\)"):
        load_init(model, saved(tmp_path / "c.pt", {**trunk, "Mixed_3b.b0.bn.bias": torch.ones(3)}))
    with pytest.raises(DataError, match="twice"):
        load_init(
            model, saved(tmp_path / "d.pt", {**trunk, "module.logits.conv3d.bias": torch.ones(7)})
        )
    assert same(model, before)


def test_published_parts(trunk: dict[str, Tensor], tmp_path: Path) -> None:
    """A resizer's file and an I3D's file, module prefix or not, into a composite; the report's names are the composite's."""
    torch.manual_seed(9)
    resizer = models.create("resizer2d", frames=16, size=16).state_dict()
    paths = {
        "resizer": saved(
            tmp_path / "000012.pt", {f"module.{key}": value for key, value in resizer.items()}
        ),
        "i3d": saved(tmp_path / "i3d000012.pt", trunk),
    }
    model = combined()
    report = load_init(model, paths, head="replace")
    assert same(model, resizer, prefix="resizer.")
    assert same(model, trunk, but="logits.", prefix="i3d.")
    assert report.replaced == ("i3d.logits.conv3d.weight", "i3d.logits.conv3d.bias")
    assert "resizer.c1.conv3d.weight" in report.loaded


def test_one_part_alone_leaves_the_others_fresh(trunk: dict[str, Tensor], tmp_path: Path) -> None:
    model = combined()
    before = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.startswith("resizer.")
    }
    load_init(model, {"i3d": saved(tmp_path / "i3d.pt", trunk)}, head="replace")
    assert same(model, before)


def test_a_part_is_taken_out_of_a_whole_model(tmp_path: Path) -> None:
    """`init: {resizer: RUN/epoch-*.pt}` of a composite takes its resizer; the rest is reported as unused."""
    torch.manual_seed(3)
    whole = combined().state_dict()
    model = combined()
    report = load_init(
        model, {"resizer": saved(tmp_path / "epoch-000001.pt", {"format": 1, "state_dict": whole})}
    )
    assert same(model, {key: value for key, value in whole.items() if key.startswith("resizer.")})
    assert not same(model, {"i3d.logits.conv3d.bias": whole["i3d.logits.conv3d.bias"]})
    assert len(report.unused) == 344


def test_the_old_sequence_of_transformer_and_resizer(tmp_path: Path) -> None:
    """The first system saved both in one nn.Sequential, `0.` and `1.`; each part finds its own."""
    torch.manual_seed(4)
    stn = models.create("spatial_transformer", in_size=8).state_dict()
    resizer = models.create("resizer2d", frames=16, size=16).state_dict()
    path = saved(
        tmp_path / "a.pt",
        {f"0.{k}": v for k, v in stn.items()} | {f"1.{k}": v for k, v in resizer.items()},
    )
    model = models.create("stn_resizer_i3d", num_classes=3, mode="16x16", in_size=8)
    load_init(model, {"transformer": path, "resizer": path})
    assert same(model, stn, prefix="transformer.")
    assert same(model, resizer, prefix="resizer.")


def test_a_part_given_as_the_whole_says_how_to_give_it(
    trunk: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path / "i3d.pt", trunk)
    with pytest.raises(DataError, match=r"looks like the part i3d: write model\.init: \{i3d: "):
        load_init(combined(), path, head="replace")
    with pytest.raises(ConfFault, match="no part 'stn'"):
        load_init(combined(), {"stn": path})


def test_our_own_checkpoint_gives_its_fields(tmp_path: Path) -> None:
    model = i3d(3)
    content = {
        "format": 1,
        "model": {"name": "i3d"},
        "classes": ["a", "b", "c"],
        "epoch": 4,
        "state_dict": model.state_dict(),
    }
    report = load_init(i3d(3), saved(tmp_path / "epoch-000004.pt", content))
    assert report.missing == ()
    assert (report.fields["epoch"], report.fields["model"]["name"]) == (4, "i3d")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(
    wrapped: bool, zipped: bool, tmp_path: Path
) -> None:
    """In both file formats, also as one value among tensors."""
    content: Any = Bomb(tmp_path / "exploded")
    content = {"state_dict": {"a": torch.ones(1), "b": content}} if wrapped else content
    path = tmp_path / "bad.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match="something other than tensors"):
        load_init(i3d(3), str(path))
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError):
        load_init(i3d(3), str(tmp_path / "plain.pkl"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "it holds a list"), ({}, "it is empty"), ({"a": 1}, "'a' is a int"), ({3: 4}, "3 is a int"),
        ({"state_dict": {"a": "b"}}, "'a' is a str"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_is_named(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        checkpoint_files.read(saved(tmp_path / "x.pt", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(
            DataError, match=r"cannot read the checkpoint .*(No such file|Is a directory)"
        ):
            checkpoint_files.read(str(path))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), zipped=st.booleans())
def test_damaged_files_are_data_errors(data: st.DataObject, zipped: bool, tmp_path: Path) -> None:
    """Cut off or altered anywhere: read whole, or DataError; never another exception."""
    buffer = io.BytesIO()
    torch.save(
        {"a": torch.arange(12.0), "b": torch.ones(2, 2)},
        buffer,
        _use_new_zipfile_serialization=zipped,
    )
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pt"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tensors = checkpoint_files.read(str(path)).tensors
    except DataError:
        return
    assert all(isinstance(value, Tensor) for value in tensors.values())


def conf(model: dict[str, Any], **data: Any) -> Config:
    config, faults = parse({"model": model, "data": {"root": "x", **data}})
    assert not faults
    return config


def test_create_for_takes_classes_frames_and_size_from_the_data() -> None:
    model = create_for(
        conf({"name": "transformer_resizer_i3d", "mode": "16x16"}, frames=16, size=10), ["a", "b"]
    )
    assert model.get_parameter("i3d.logits.conv3d.bias").shape == (2,)
    assert model.get_parameter("resizer.fc_loc.0.weight").shape == (32, 8 * 2 * 2)
    assert model(torch.zeros(2, 3, 16, 10, 10)).shape == (2, 2)


def test_create_for_refuses_what_disagrees() -> None:
    """Everything at once."""
    with pytest.raises(ConfFault) as caught:
        create_for(
            conf(
                {"name": "stn_resizer_i3d", "mode": "16x16", "num_classes": 3, "in_size": 14},
                frames=32,
                size=28,
            ),
            ["a", "b"],
        )
    assert {fault.path for fault in caught.value.faults} == {
        "model.num_classes",
        "model.in_size",
        "model.mode",
    }
