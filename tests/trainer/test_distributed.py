"""Several real processes do what one does; the first failure is the one that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import TryAgain
from trainer.failures import first_failure

pytestmark = pytest.mark.slow  # each starts processes that import torch


def _command(
    project: Path, what: str, processes: int, out: Path
) -> tuple[list[str], dict[str, str]]:
    program = project / "tests" / "trainer" / "ddp_program.py"
    env = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(program), what, str(processes), str(out)], env


def _run(project: Path, what: str, processes: int, out: Path) -> subprocess.CompletedProcess[str]:
    command, env = _command(project, what, processes, out)
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_uneven_and_empty_shares_train_as_one_process_does(project: Path, tmp_path: Path) -> None:
    """10 clips in micro-batches of 3, windows of 6 and 4: the second process has no clip in the last. Frozen weights need no flag."""
    found = []
    for count in (1, 2):
        ended = _run(project, "train", count, tmp_path / f"{count}.pt")
        assert ended.returncode == 0, ended.stderr
        found.append(torch.load(tmp_path / f"{count}.pt", weights_only=True))
    assert found[0]["steps"] == found[1]["steps"] == [1, 2]
    ended = _run(project, "train_scaled", 2, tmp_path / "scaled.pt")
    assert ended.returncode == 0, ended.stderr
    scaled = torch.load(tmp_path / "scaled.pt", weights_only=True)
    assert scaled["rates"] == [0.1, 0.1]  # half of it, for each of two processes
    for key, value in found[0]["weights"].items():
        torch.testing.assert_close(found[1]["weights"][key], value, rtol=1e-5, atol=1e-7)
        assert torch.equal(scaled["weights"][key], found[1]["weights"][key])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_that_begin_anew_add_gradients_in_the_same_order(
    project: Path, tmp_path: Path, processes: int
) -> None:
    """Of three terms the order counts, bit for bit; DistributedDataParallel settles its own with a process's first step."""
    ended = _run(project, "train_twice", processes, tmp_path / "twice.pt")
    assert ended.returncode == 0, ended.stderr
    whole, anew = torch.load(tmp_path / "twice.pt", weights_only=True)
    assert all(torch.equal(value, anew[key]) for key, value in whole.items())


def test_two_processes_evaluate_every_clip_once_and_agree_with_one(
    project: Path, tmp_path: Path
) -> None:
    found = []
    for count in (1, 2):
        ended = _run(project, "predict", count, tmp_path / f"{count}.npz")
        assert ended.returncode == 0, ended.stderr
        found.append(np.load(tmp_path / f"{count}.npz"))
    assert found[1]["indices"].tolist() == list(range(10))
    np.testing.assert_allclose(found[0]["logits"], found[1]["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0]["targets"], found[1]["targets"])
    assert found[1]["videos"].shape == (4, 3)
    np.testing.assert_allclose(found[0]["videos"], found[1]["videos"], rtol=1e-5)
    assert found[0]["loss"] == pytest.approx(float(found[1]["loss"]), rel=1e-6)


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("fail", 65, "DataError: a broken video (replace it)"),
        ("conf", 64, "ConfFault: model.mode: is wrong (mend it)"),
        ("kill", 75, "TryAgain: process 1 was killed by SIGKILL (out of memory, most likely"),
        ("bug", 1, "ZeroDivisionError: in the loop"),  # not a TrainerError: the caller ends with 70
    ],
)
def test_the_first_failing_process_decides(
    project: Path, tmp_path: Path, what: str, code: int, told: str
) -> None:
    """Its peers only lose it; their errors say nothing."""
    ended = _run(project, what, 2, tmp_path / "out")
    assert ended.returncode == code
    assert told in ended.stderr


def test_sigterm_reaches_every_process_and_they_finish(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command, env = _command(project, "stop", 2, out)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            for rank in range(2):
                _awaited(Path(f"{out}.{rank}"), process)
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 75
    assert "stopped by SIGTERM" in told
    assert out.read_text() == "checkpoint"


def test_no_process_outlives_a_killed_parent(project: Path, tmp_path: Path) -> None:
    """It held the run's lock; a retry may be writing already."""
    out = tmp_path / "out"
    command, env = _command(project, "stop", 2, out)
    with subprocess.Popen(command, env=env, text=True) as process:
        try:
            pids = [int(_awaited(Path(f"{out}.{rank}"), process)) for rank in range(2)]
        finally:
            process.kill()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)


def _awaited(file: Path, process: subprocess.Popen[str]) -> str:
    """The file's text, as soon as there is one."""
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    return file.read_text()


def test_without_any_reason_the_processes_lost_each_other() -> None:
    assert isinstance(first_failure([], {}), TryAgain)
