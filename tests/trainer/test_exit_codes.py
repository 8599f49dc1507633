"""Each way of failing has its exit code and one message that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer import synthetic
from trainer.checkpoints import Manifest, require_whole
from trainer.lock import hold
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.slow  # processes that import torch and train I3D

CONF = """
data: {{name: tinyvirat, root: {root}, cache: {root}/cache, frames: 16, size: 16}}
model: {{name: i3d, mode: 16x16}}
train: {{epochs: 4, batch: 8, optimizer: sgd, momentum: 0.0, lr: 1.0e-3}}
compute: {{device: cpu, workers: 0, threads: 1}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("exits")
    synthetic.make_tinyvirat(
        folder / "data", train=26, test=2, seed=3, frames=(12, 20), sizes=(10, 24)
    )
    (folder / "conf.yaml").write_text(CONF.format(root=folder / "data"))
    yield folder
    shutil.rmtree(folder / "runs", ignore_errors=True)


def _train(
    place: Path, project: Path, run: Path, *overrides: str, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        "--conf",
        str(place / "conf.yaml"),
        "--run",
        str(run),
        *overrides,
    ]
    environment = {**os.environ, "PYTHONPATH": str(project), **env}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_missing_dataset_is_65(place: Path, project: Path) -> None:
    ended = _train(
        place, project, place / "runs" / "data", f"data.root={place}/nowhere", "data.cache="
    )
    assert ended.returncode == 65, ended.stderr
    assert f"{place}/nowhere" in ended.stderr


def test_divergence_is_76_and_names_step_and_clips(place: Path, project: Path) -> None:
    """The checkpoint from before it stays."""
    run = place / "runs" / "diverged"
    ended = _train(
        place, project, run, "train.lr=99", "train.weight_decay=1e35", "train.checkpoint_steps=1"
    )
    assert ended.returncode == 76, ended.stderr
    assert "is not finite at step 2 of epoch 1; clips: " in ended.stderr
    assert "lower train.lr" in ended.stderr
    assert [name for name, _ in Manifest.load(RunFolder(run)).of_kind("state")] == [
        "state-000001-step-00000001.pt"
    ]


def test_a_folder_in_use_is_75_and_names_who_uses_it(place: Path, project: Path) -> None:
    folder = RunFolder(place / "runs" / "held")
    with hold(folder, beat=0.2):
        folder.log.write_text("of the one that holds it\n")
        ended = _train(place, project, folder.root)
    assert ended.returncode == 75, ended.stderr
    assert f"is in use by process {os.getpid()} on " in ended.stderr
    assert folder.log.read_text() == "of the one that holds it\n"


def test_a_metric_that_nobody_computes_is_64(place: Path, project: Path) -> None:
    ended = _train(place, project, place / "runs" / "select", "train.select=f1")
    assert ended.returncode == 64, ended.stderr
    assert "train.select" in ended.stderr


def test_a_full_volume_is_73_with_whole_checkpoints_and_more_room_lets_it_go_on(
    place: Path, project: Path, tmp_path: Path
) -> None:
    """Of four epochs (49 MB of weights each, and as much of state) two fit; the rest after the volume has grown."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small volume")
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=215m", "tmpfs", str(volume)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        folder = RunFolder(volume / "run")
        ended = _train(place, project, folder.root)
        assert ended.returncode == 73, ended.stderr
        assert "is full: " in ended.stderr
        assert " bytes) missing of " in ended.stderr
        manifest = Manifest.load(folder)
        assert manifest.last == "epoch-000002.pt"
        for name, entry in manifest.files.items():
            require_whole(folder.checkpoints / name, entry)
        assert {path.name for path in folder.checkpoints.iterdir()} == {
            *manifest.files,
            "manifest.json",
        }
        subprocess.run(["mount", "-o", "remount,size=500m", str(volume)], check=True)
        ended = _train(place, project, folder.root)
        assert ended.returncode == 0, ended.stderr
        assert Manifest.load(folder).last == "epoch-000004.pt"
    finally:
        subprocess.run(["umount", str(volume)], check=True)
