"""Real training processes, killed and stopped wherever it hurts: what they leave is the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import synthetic
from trainer.checkpoints import Manifest, require_whole
from trainer.records import read_metrics
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.slow  # whole trainings of I3D, as processes

CONF = """
data: {{name: tinyvirat, root: {root}, frames: 16, size: 16, start: random}}
model: {{name: i3d, mode: 16x16}}
train: {{epochs: 2, batch: 4, accumulate: 2, lr: 1.0e-3, checkpoint_steps: 1}}
compute: {{device: cpu, workers: 2, threads: 1}}
"""


class Bench:
    """A dataset, a conf, and the program run as users run it."""

    def __init__(self, place: Path, project: Path) -> None:
        self.place = place
        self.env = {**os.environ, "PYTHONPATH": str(project), "PYTHONUNBUFFERED": "1"}
        synthetic.make_tinyvirat(
            place / "data", train=26, test=4, seed=3, frames=(12, 20), sizes=(10, 24)
        )
        (place / "conf.yaml").write_text(CONF.format(root=place / "data"))

    def folder(self, run: str) -> RunFolder:
        return RunFolder(self.place / "runs" / run)

    def start(self, run: str, *overrides: str, **env: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "trainer",
            "train",
            "--conf",
            "conf.yaml",
            "--run",
            str(self.folder(run).root),
            *overrides,
        ]
        environment = {**self.env, **env}
        return subprocess.Popen(
            command,
            cwd=self.place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, run: str, *overrides: str, **env: str) -> tuple[int, str]:
        """(exit code, output)."""
        with self.start(run, *overrides, **env) as process:
            output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def interrupt(
        self, run: str, *overrides: str, at: str, with_signal: int, **env: str
    ) -> tuple[int, str]:
        """Send a signal as soon as a line holds `at`; (exit code, output)."""
        lines = []
        with self.start(run, *overrides, **env) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if at in line:
                    process.send_signal(with_signal)
                    at = "\0"
        assert at == "\0", "".join(lines)
        return process.returncode, "".join(lines)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("resume")
    yield Bench(place, project)
    shutil.rmtree(place / "runs", ignore_errors=True)  # hundreds of MiB


@pytest.fixture(scope="module")
def whole(bench: Bench) -> RunFolder:
    """The uninterrupted run."""
    code, output = bench.run("whole")
    assert code == 0, output
    return bench.folder("whole")


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def _same(left: Any, right: Any) -> bool:
    """Bit for bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(
            _same(*pair) for pair in zip(left, right, strict=True)
        )
    return bool(left == right)


def _told(folder: RunFolder) -> list[tuple[Any, ...]]:
    keys = ("phase", "epoch", "step", "loss", "lr", "f1_macro", "accuracy")
    return [tuple(entry.get(key) for key in keys) for entry in read_metrics(folder.metrics)]


def test_killed_and_stopped_runs_end_bit_for_bit_as_the_uninterrupted_one(
    bench: Bench, whole: RunFolder
) -> None:
    """SIGTERM in an epoch, SIGKILL while the epoch's checkpoint is written, SIGTERM in a later epoch; two data workers, dropout."""
    ending = bench.place / "termination.json"
    env = {"VIDJOBS_TERMINATION_LOG": str(ending)}
    code, output = bench.interrupt("broken", at="step=1 ", with_signal=signal.SIGTERM, **env)
    assert code == 75, output
    assert "stopped by SIGTERM after step" in output
    told = json.loads(ending.read_text())
    assert (told["cause"], told["exit_code"], told["epoch"]) == ("stopped", 75, 1)
    assert told["checkpoint"].startswith("state-000001-step-")
    code, output = bench.interrupt("broken", at="val  Loss", with_signal=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "resumed at step" in output
    code, output = bench.interrupt("broken", at="epoch=2 ", with_signal=signal.SIGTERM)
    assert code == 75, output
    code, output = bench.run("broken")
    assert code == 0, output

    broken = bench.folder("broken")
    for name in ("epoch-000001.pt", "epoch-000002.pt", "state-000002.pt"):
        mine, theirs = _content(broken.checkpoints / name), _content(whole.checkpoints / name)
        assert _same(mine, theirs), name
    assert _told(broken) == _told(whole)
    assert [line for line in broken.log.read_text().splitlines() if " Loss: " in line][
        -1
    ].startswith("val  Loss: ")
    assert len(json.loads(broken.provenance.read_text())["attempts"]) == 4
    assert len(set(_told(broken))) == len(_told(broken))


def test_the_manifest_names_whole_files_and_nothing_else_lies_there(whole: RunFolder) -> None:
    manifest = Manifest.load(whole)
    for name, entry in manifest.files.items():
        require_whole(whole.checkpoints / name, entry)
    assert {path.name for path in whole.checkpoints.iterdir()} == {*manifest.files, "manifest.json"}
    assert manifest.last == "epoch-000002.pt"
    assert manifest.best in ("epoch-000001.pt", "epoch-000002.pt")
    assert len(manifest.of_kind("state")) == 2


def test_a_weights_file_has_all_that_inference_needs(whole: RunFolder) -> None:
    content = _content(whole.weights(2))
    assert content["model"]["name"] == "i3d"
    assert content["model"]["mode"] == "16x16"
    assert len(content["classes"]) == 26
    assert (content["frames"], content["size"], content["fps"], content["multi_label"]) == (
        16,
        16,
        30.0,
        True,
    )
    assert content["normalisation"] == {"mean": [127.5] * 3, "std": [127.5] * 3, "order": "rgb"}
    assert content["data"]["frames"] == 16
    assert content["metrics"].keys() == {
        "loss",
        "f1_macro",
        "f1_micro",
        "f1_samples",
        "accuracy",
        "map",
    }


def test_a_finished_run_says_so_and_trains_no_more(bench: Bench, whole: RunFolder) -> None:
    before = whole.metrics.read_bytes()
    code, output = bench.run("whole")
    assert code == 0
    assert "already finished" in output
    assert whole.metrics.read_bytes() == before


def test_another_recipe_is_refused_with_the_keys(bench: Bench, whole: RunFolder) -> None:
    code, output = bench.run("whole", "train.lr=0.5", "train.batch=2", "train.epochs=9")
    assert code == 64
    assert "error: train.lr: was 0.001 in the run whole that is resumed, is now 0.5" in output
    assert "error: train.batch: was 4" in output
    assert "train.epochs" not in output


def test_a_longer_run_goes_on_from_a_finished_one(bench: Bench, whole: RunFolder) -> None:
    """As if it had been asked for from the start; and keep_weights thins from then on."""
    shutil.copytree(whole.root, bench.folder("longer").root)
    code, output = bench.run("longer", "train.epochs=3", "train.keep_weights=last:1")
    assert code == 0, output
    assert "resumed at step" in output
    manifest = Manifest.load(bench.folder("longer"))
    assert manifest.last == "epoch-000003.pt"
    assert {name for name, _ in manifest.of_kind("weights")} == {"epoch-000003.pt", manifest.best}


def test_two_processes_train_stop_and_go_on(bench: Bench) -> None:
    """Also with frozen parts and uneven shares; the recipe and the number of processes make the run, not who was interrupted."""
    overrides = (
        "compute.processes=2",
        "compute.workers=1",
        "train.epochs=1",
        "train.batch=3",
        "train.accumulate=3",
    )
    code, output = bench.run("pair", *overrides)
    assert code == 0, output
    code, output = bench.interrupt(
        "pair-broken", *overrides, at="step=1 ", with_signal=signal.SIGTERM
    )
    assert code == 75, output
    code, output = bench.run("pair-broken", *overrides)
    assert code == 0, output
    pair, broken = bench.folder("pair"), bench.folder("pair-broken")
    assert _told(pair) == _told(broken)
    assert _same(_content(pair.weights(1)), _content(broken.weights(1)))


def test_a_recipe_of_groups_and_drawn_epochs_goes_on_bit_for_bit(bench: Bench) -> None:
    """More clips in an epoch than the split has, rates and decay by name, a warm-up, cut gradients, BatchNorm as it is."""
    overrides = (
        *(
            "train.epochs=1",
            "train.epoch_size=40",
            "train.optimizer=sgd",
            "train.weight_decay=0.01",
            "train.warmup_epochs=0.5",
        ),
        *(
            "train.lr_of={logits: 10}",
            "train.bias_lr=2",
            "train.bias_decay=false",
            "train.clip_grad=1",
            "train.freeze_norm=true",
        ),
    )
    code, output = bench.run("drawn", *overrides)
    assert code == 0, output
    assert "5 steps" in output
    code, output = bench.interrupt(
        "drawn-broken", *overrides, at="step=3 ", with_signal=signal.SIGTERM
    )
    assert code == 75, output
    code, output = bench.run("drawn-broken", *overrides)
    assert code == 0, output
    assert "resumed at step" in output
    drawn, broken = bench.folder("drawn"), bench.folder("drawn-broken")
    assert _told(drawn) == _told(broken)
    for name in ("epoch-000001.pt", "state-000001.pt"):
        assert _same(_content(drawn.checkpoints / name), _content(broken.checkpoints / name)), name
