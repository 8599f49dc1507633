"""Checkpoints of the 3D ResNets and the efficient 3D CNNs: those that are listed, and files of their published forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import models, signatures
from trainer.data.normalise import PRESETS
from trainer.errors import ConfFault
from trainer.models import published
from trainer.models.weights import load_init

NETS: list[tuple[str, dict[str, Any]]] = [
    ("resnet3d", {"depth": 10, "shortcut": "B"}),
    ("mobilenetv2_3d", {"width": 0.2}),
    ("mobilenet_3d", {"width": 0.25}),
    ("shufflenet_3d", {"width": 0.5}),
    ("shufflenetv2_3d", {"width": 0.25}),
    ("squeezenet_3d", {}),
]


@pytest.mark.parametrize("name", ["resnext3d", *(name for name, _ in NETS)])
def test_published_weights_fit_what_they_say(name: str) -> None:
    """Options build, the preset exists, names are unique; what is only on Google Drive has no address but says where it is."""
    records = signatures.read()[name].published
    assert records
    assert (
        len({record["name"] for record in records})
        == len({record["file"] for record in records})
        == len(records)
    )
    with torch.device("meta"):
        for options in {tuple(record["options"].items()) for record in records}:
            models.create(name, num_classes=2, **dict(options))
    for record in records:
        assert record["normalise"] in PRESETS
        assert record["url"] == ""
        assert record["page"] in published.PAGES


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize(("name", "options"), NETS)
def test_files_of_the_published_form_load(
    name: str, options: dict[str, Any], prefix: str, tmp_path: Path
) -> None:
    """As nn.DataParallel saved them, or bare as of 2020, from before BatchNorm counted: all fits but the head, if that is asked for."""
    source = models.create(name, num_classes=6, **options)
    kept = {
        key: tensor
        for key, tensor in source.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    content = {
        "epoch": 9,
        "arch": name,
        "state_dict": {prefix + key: tensor for key, tensor in kept.items()},
        "optimizer": {},
        "best_prec1": 50.6,
    }
    path = str(tmp_path / "kinetics_best.pth")
    torch.save(content, path)
    model = models.create(name, num_classes=4, **options)
    with pytest.raises(ConfFault, match="6 classes, the model 4"):
        load_init(model, path)
    report = load_init(model, path, head="replace")
    head = {f"{model.head_module}.{kind}" for kind in ("weight", "bias")}
    assert set(report.replaced) == head
    assert set(report.loaded) == set(kept) - head
    assert all(
        torch.equal(model.state_dict()[key], tensor)
        for key, tensor in kept.items()
        if key not in head
    )
