"""How `model.init` names weights, what a conf must agree with in them, and what is only told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import models, preflight, signatures
from trainer.config import Config, PrepareConf, parse
from trainer.data import flow
from trainer.data.flow import Flow
from trainer.data.normalise import PRESETS
from trainer.errors import ConfFault, DataError, Fault
from trainer.model_rules import check_model, weights_faults
from trainer.models import published, weights
from trainer.models.weights import load_init
from trainer.signatures import RECORD

NOT_IN_THE_FILE = {
    "vgg16_reducedfc.pth": ("extra_layers.", "classifier."),
    "c3d-pretrained.pth": ("fc8.",),
}


def conf(model: dict[str, Any], **data: Any) -> Config:
    config, faults = parse({"model": model, "data": {"root": "x", **data}})
    assert not faults
    return config


def faults(init: Any, name: str = "inception_v3", **data: Any) -> list[str]:
    data = {"size": 299, "frames": 1} | data
    return [str(fault) for fault in check_model(conf({"name": name, "init": init}, **data), 5)]


def test_each_form_of_init_is_accepted_without_torch() -> None:
    for init in (
        "/runs/a/checkpoints/epoch-000003.pt", "weights/net.pkl", "imagenet", "published:imagenet",
        "torchvision:Inception_V3_Weights.IMAGENET1K_V1", "https://example.org/net-0cc3c7bd.pth?download=1",
    ):  # fmt: skip
        assert faults(init) == []


@pytest.mark.parametrize(
    ("init", "name", "said"),
    [
        (
            "published:imagenett",
            "inception_v3",
            r"model.init: no published weights of inception_v3 are called 'imagenett' \(did you mean",
        ),
        ("published:x", "inception_v3", r"it has imagenet"),
        (
            "imagenet",
            "c3d_bn",
            r"no published weights of c3d_bn are called 'imagenet' \(a checkpoint's path, https",
        ),
        (
            "published:sports1m",
            "c3d",
            r"to fetch it from \(fetch c3d-pretrained.pth from https://.* \(by hand\), and give its path",
        ),
        (
            "torchvision:inception",
            "inception_v3",
            r"not a name of torchvision's weights \(for example",
        ),
        ("s3://bucket/net.pth", "inception_v3", r"cannot fetch s3:// addresses"),
        ("https://example.org/", "inception_v3", r"names no file"),
    ],
)
def test_what_names_nothing_is_refused_by_check(init: str, name: str, said: str) -> None:
    data = {"frames": 16, "size": 112} if name.startswith("c3d") else {}
    (fault,) = faults(init, name, **data)
    assert re.search(said, fault), fault


def test_parts_name_their_own_weights() -> None:
    """`published:` in a part's init means the part's model; an unknown one is named with the part."""
    config = conf(
        {"name": "resizer_i3d", "mode": "16x16", "init": {"i3d": "published:charades-rbg"}},
        frames=16,
        size=8,
    )
    (fault,) = check_model(config, 5)
    assert fault.path == "model.init.i3d"
    assert 'did you mean "charades-rgb"' in fault.hint


def test_options_that_weights_were_not_made_with_are_told_before_they_are_read() -> None:
    config = conf(
        {"name": "mobilenetv2_3d", "init": "x/kinetics_mobilenetv2_0.45x_RGB_16_best.pth"},
        frames=16,
        size=112,
    )
    (fault,) = check_model(config, 600)
    assert (
        str(fault)
        == "model.width: is 1.0, but kinetics600-0.45x was made with 0.45 (model.width: 0.45)"
    )
    assert (
        check_model(
            conf(
                {"name": "mobilenetv2_3d", "width": 0.45, "init": config.model.init},
                frames=16,
                size=112,
            ),
            600,
        )
        == []
    )


def test_frames_that_weights_were_not_made_for_are_told_as_the_data_s() -> None:
    """R2D's first convolution joins all frames, so its weights are of one number of them."""
    (fault,) = check_model(
        conf({"name": "r2d", "init": "published:kinetics400-18-16f"}, frames=8, size=112), 400
    )
    assert (
        str(fault) == "data.frames: is 8, but kinetics400-18-16f was made with 16 (data.frames: 16)"
    )


def test_weights_of_another_batch_norm_are_told() -> None:
    """VMZ's and torchvision's R3D have the same tensors and another epsilon, so the files fit and the answers would be others."""
    model = {"name": "r3d", "midplanes": "torchvision", "init": "models/r3d_d18_l8.pkl"}
    (fault,) = check_model(conf(model, frames=8, size=112), 400)
    assert (
        str(fault)
        == "model.midplanes: is torchvision, but kinetics400-18-8f was made with vmz (model.midplanes: vmz)"
    )


def test_flow_weights_take_the_channels_of_the_data() -> None:
    """in_channels comes from the stream, so it need not be written to agree."""
    model = {"name": "i3d", "init": "flow_imagenet.pt"}
    assert (
        check_model(
            conf(
                model, stream="flow", flow_root="y", flow_channels=2, size=112, normalise="vmz_flow"
            ),
            5,
        )
        == []
    )
    (fault,) = check_model(conf(model, size=112), 5)
    assert fault.path == "model.in_channels"


def test_every_record_is_complete_and_true() -> None:
    """What a record names exists: options of its model, a preset; nothing has two meanings."""
    for name, signature in signatures.read().items():
        names = [record["name"] for record in signature.published]
        assert len(set(names)) == len(names), name
        for record in signature.published:
            assert set(record) == {"name", *RECORD}, (name, record["name"])
            assert record["file"], (name, record["name"])
            assert record["torchvision"] or record["url"] or record["page"], (name, record["name"])
            assert set(record["options"]) <= set(signature.options), (name, record["name"])
            assert record["normalise"] in ("", *PRESETS), (name, record["name"])
            for key, value in record["options"].items():
                choices = signature.options[key].choices
                assert not choices or value in choices, (name, record["name"], key)
            by_hand = not record["url"] and not record["torchvision"]
            assert (
                isinstance(published.source(f"published:{record['name']}", name), Fault) == by_hand
            )
            if by_hand:
                assert published.whereabouts(record).startswith("https://"), (name, record["name"])


def test_torchvision_knows_the_weights_that_records_name() -> None:
    """By the same file name, and of the same size."""
    from torchvision.models import get_weight

    named = [
        record
        for signature in signatures.read().values()
        for record in signature.published
        if record["torchvision"]
    ]
    assert named
    for record in named:
        known = get_weight(record["torchvision"])
        assert published.file_name(known.url) == record["file"]
        assert record["mib"] == round(known.meta["_file_size"], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, signature in signatures.read().items() if signature.published]
)
def test_the_size_of_a_published_file_is_that_of_the_tensors_that_its_network_takes(
    name: str,
) -> None:
    """Four bytes each, BatchNorm's counters left out."""
    sizes: dict[str, float] = {}
    for record in signatures.read()[name].published:
        options = {
            **({"mode": "64x224"} if name == "i3d" else {}),
            **record["options"],
            "num_classes": record["classes"],
        }
        if record["torchvision"]:
            continue
        absent = NOT_IN_THE_FILE.get(record["file"], ())
        if (made := str((options, absent))) not in sizes:
            with torch.device("meta"):
                state = models.create(name, **options).state_dict()
            cells = {
                key: values.numel()
                for key, values in state.items()
                if not key.endswith("num_batches_tracked")
            }
            sizes[made] = round(
                4
                * sum(count for key, count in cells.items() if not key.startswith(absent))
                / 2**20,
                1,
            )
        assert record["mib"] == sizes[made], record["name"]


def test_flow_of_another_kind_than_a_checkpoint_learnt_from_is_told(tmp_path: Path) -> None:
    """By the marker that `prepare` leaves; where it or the checkpoint does not say, nobody knows."""
    data = {"stream": "flow", "flow_root": str(tmp_path), "flow_channels": 2}
    config = conf({"name": "i3d"}, **data)
    learnt = {"method": "farneback", "bound": 8, "gap": 2}
    assert weights.other_flow(config, {"flow": learnt}) == []
    flow.claim(tmp_path, Flow(PrepareConf(flow_method="dis-fast", flow_gap=2)).settings)
    assert weights.other_flow(config, {"flow": {**learnt, "method": "dis-fast"}}) == []
    assert weights.other_flow(config, {"flow": {}}) == weights.other_flow(config, {}) == []
    (fault,) = weights.other_flow(config, {"flow": learnt})
    assert fault.path == "data.flow_root"
    assert (
        fault.message
        == f"was trained with flow of method farneback; {tmp_path} holds method dis-fast"
    )


def test_a_mean_for_flow_of_other_levels_is_refused_with_the_right_one(tmp_path: Path) -> None:
    """vmz_flow means flow that is full at 8 px, 16 levels to the px; full at 16 px it has half as many."""
    data = {
        "stream": "flow",
        "flow_root": str(tmp_path),
        "flow_channels": 2,
        "normalise": "vmz_flow",
    }
    preflight.require_flow_levels(conf({"name": "r3d"}, **data))  # nobody says how it was made
    flow.claim(tmp_path, Flow(PrepareConf(flow_bound=16)).settings)
    with pytest.raises(
        ConfFault, match=r"for 16 levels to the px of flow; .* has 8 \(flow_bound 16\)"
    ) as caught:
        preflight.require_flow_levels(conf({"name": "r3d"}, **data))
    assert "data.mean: [128.0373, 128.037] and data.std: [7.7788, 6.0412]" in str(caught.value)
    preflight.require_flow_levels(
        conf({"name": "r3d"}, **data, mean=[128.0, 128.0], std=[8.0, 6.0])
    )


def test_notes_say_where_the_conf_feeds_other_numbers(tmp_path: Path) -> None:
    """A published file is known by its name, a pattern where names end with a hash; an own one says it itself."""
    network = models.create("squeezenet_3d", num_classes=5)
    path = tmp_path / "kinetics_squeezenet_RGB_16_best.pth"
    torch.save(network.state_dict(), path)
    said = weights.notes(
        conf({"name": "squeezenet_3d"}, frames=16, size=112), load_init(network, str(path))
    )
    (note,) = said
    assert note.startswith(
        "note: the published kinetics600: was trained with bgr frames, mean 114.8, 107.7, 99.47"
    )
    assert note.endswith(
        "the conf feeds rgb frames, mean 127.5, 127.5, 127.5, std 127.5, 127.5, 127.5; data.normalise: activitynet_bgr"
    )
    fitting = conf({"name": "squeezenet_3d"}, frames=16, size=112, normalise="activitynet_bgr")
    assert weights.notes(fitting, load_init(network, str(path))) == []

    own = {
        "format": 1,
        "normalisation": PRESETS["vmz"].to_json(),
        "frames": 16,
        "size": 112,
        "data": {"fps": 15.0, "antialias": True},
    }
    torch.save({**own, "state_dict": network.state_dict()}, tmp_path / "epoch-000001.pt")
    report = load_init(network, str(tmp_path / "epoch-000001.pt"))
    said = weights.notes(
        conf({"name": "squeezenet_3d"}, frames=32, size=112, normalise="vmz"), report
    )
    assert said == [
        "note: this checkpoint: was trained with data.fps: 15.0; the conf says 0.0; data.fps: 15.0",
        "note: this checkpoint: was trained with data.antialias: True; the conf says False; data.antialias: True",
        "note: this checkpoint: was trained with data.frames: 16; the conf says 32; data.frames: 16",
    ]


def test_an_own_checkpoint_fed_otherwise_is_not_scored() -> None:
    """`test` and `eval` refuse other means, colours, rates and streams; a plain difference in frames they do not."""
    fields = {
        "format": 1,
        "model": {"name": "squeezenet_3d"},
        "classes": ["a", "b"],
        "frames": 16,
        "size": 112,
    }
    fields |= {
        "normalisation": PRESETS["kinetics_bgr"].to_json(),
        "data": {"fps": 15.0, "stream": "rgb"},
    }
    config = conf({"name": "squeezenet_3d"}, frames=32, size=112, normalise="kinetics")
    found = weights_faults(config, fields, ("a", "b"))
    assert [fault.path for fault in found] == ["data.normalise", "data.fps"]
    assert found[0].hint == "data.normalise: kinetics_bgr"
    same = conf(
        {"name": "squeezenet_3d"}, frames=32, size=112, normalise="kinetics", channels="bgr", fps=15
    )
    assert weights_faults(same, fields, ("a", "b")) == []
    first_version = {**fields, "normalisation": {"kind": "minus_one_one"}, "fps": 25.0}
    del first_version["data"]
    assert (
        weights_faults(
            conf({"name": "squeezenet_3d"}, frames=16, size=112), first_version, ("a", "b")
        )
        == []
    )


def test_whether_the_head_was_trained(tmp_path: Path) -> None:
    """What `infer` must know: of own checkpoints, of parts, and with a fresh last layer."""
    whole = models.create("resizer_i3d", num_classes=3, mode="16x16")
    torch.save({"format": 1, "state_dict": whole.state_dict()}, tmp_path / "epoch-000001.pt")
    i3d = whole.get_submodule("i3d")
    torch.save(i3d.state_dict(), tmp_path / "i3d.pt")
    paths = [str(tmp_path / name) for name in ("epoch-000001.pt", "i3d.pt")]
    assert load_init(whole, paths[0]).head_trained
    assert load_init(whole, {"i3d": paths[1]}).head_trained
    assert not load_init(whole, {"resizer": paths[0]}).head_trained
    assert not load_init(whole, {"i3d": paths[1]}, head="replace").head_trained
    other = models.create("resizer_i3d", num_classes=4, mode="16x16")
    for init in (paths[0], {"i3d": paths[0]}, {"i3d": paths[1]}):
        with pytest.raises(ConfFault, match=r"model.init_head.*has 3 classes, the model 4"):
            load_init(other, init)
        assert load_init(other, init, head="replace").replaced == (
            "i3d.logits.conv3d.weight",
            "i3d.logits.conv3d.bias",
        )


def test_a_misfit_tells_what_the_file_was_made_for(tmp_path: Path) -> None:
    """The model it is published for, or the options."""
    path = str(tmp_path / "jester_squeezenet_RGB_16_best.pth")
    torch.save(models.create("squeezenet_3d", num_classes=27).state_dict(), path)
    with pytest.raises(
        DataError,
        match=r"does not fit the model: it lacks .*best.pth is published for squeezenet_3d",
    ):
        load_init(models.create("mobilenetv2_3d", num_classes=27, width=0.2), path)
    Path(path).rename(tmp_path / "jester_mobilenetv2_0.45x_RGB_16_best.pth")
    with pytest.raises(DataError, match=r"jester-0.45x was made with width: 0.45"):
        load_init(
            models.create("mobilenetv2_3d", num_classes=27, width=0.2),
            str(tmp_path / "jester_mobilenetv2_0.45x_RGB_16_best.pth"),
        )
