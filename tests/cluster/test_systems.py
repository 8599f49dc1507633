"""One training of each origin system on a real Kubernetes, by its shipped conf, on data that the researcher pushed onto a claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from training_lab import Lab, cpu

import launcher

pytestmark = pytest.mark.cluster

CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS = {
    "epochs": 1,
    "max_steps": 2,
    "epoch_size": 4,
    "batch": 2,
    "accumulate": 1,
    "log_every": 1,
    "checkpoint_steps": 0,
    "keep_weights": "best",
}
START = {"init": "", "init_head": "keep"}
DATASETS = ("kinetics", "ucf101_videos", "ucf101_c3d", "hmdb51")
TRAININGS: dict[str, dict[str, Any]] = {  # what is smaller than published
    "two_stream/inception_rgb": {"data": {"size": 75, "resize": "short:84", "val_step": 12}},
    "efficient/mobilenetv2": {"data": {"size": 64, "test_short": 64}, "model": {"width": 0.2}},
    "vmz/r2plus1d34_hmdb51": {
        "data": {"frames": 8, "size": 32, "resize": "36x48"},
        "model": {"depth": 10},
    },
    "c3d/ucf101_scratch": {"data": {"source": "files"}},
}


@pytest.fixture(scope="module")
def pushed(lab: Lab, layouts: Any) -> str:
    """What `volume ls` says after `vidjobs push`: tiny datasets as the confs expect them. The cluster profile names the image."""
    profile = yaml.safe_load(
        (Path(launcher.__path__[0]) / "clusters" / "kube-one.yaml").read_text()
    )
    place = lab.folder / "conf" / "clusters"
    place.mkdir(parents=True)
    (place / "kube-one.yaml").write_text(yaml.safe_dump({**profile, "job": {"image": lab.image}}))
    folder = layouts.make(*DATASETS)
    for name in DATASETS:
        lab.researcher.vidjobs("push", str(folder / name), f"data:/{name}/")
    return lab.researcher.vidjobs("volume", "ls", "data")


@pytest.mark.parametrize("name", TRAININGS)
def test_a_conf_of_each_system_trains_on_pushed_data(lab: Lab, pushed: str, name: str) -> None:
    """Two steps, a validation, and the best checkpoint brought back with what inference needs."""
    assert all(dataset in pushed for dataset in DATASETS)
    own = TRAININGS[name]
    resources = {
        "gpus": 0,
        "gpu_type": [],
        "cpu": cpu(),
        "memory": "4Gi",
        "shm": "256Mi",
        "scratch": "1Gi",
    }
    conf = lab.conf(
        name.replace("/", "-").replace("_", "-"),
        extends=str(CONF / f"{name}.yaml"),
        data=own["data"],
        model={**START, **own.get("model", {})},
        train=STEPS,
        job={"resources": resources},
    )
    run = lab.submit("train", conf)
    log = lab.researcher.vidjobs("logs", run, "--follow", "--grep", "Loss", seconds=300)
    status = lab.wait_for(run, lambda status: status["phase"] in ("succeeded", "failed"))
    assert status["phase"] == "succeeded", status
    assert log.count("train Loss: ") == 2
    assert "top1=" in log
    out = lab.folder / run
    lab.researcher.vidjobs("fetch", "checkpoints", run, "--best", "--out", str(out))
    (weights,) = out.glob("**/epoch-000001.pt")
    assert weights.stat().st_size > 500_000
