"""A sweep on this machine with the real trainer, through the command: two I3Ds of tiny clips, and one trial that cannot be."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import launcher

pytestmark = pytest.mark.slow

CONF = {
    "name": "tiny",
    "data": {
        "name": "tinyvirat",
        "root": "${data}/TinyVIRAT",
        "frames": 8,
        "size": 32,
        "val_fraction": 0.25,
    },
    "model": {"name": "i3d", "mode": "8x32", "bn_momentum": 0.1},
    "train": {"epochs": 2, "batch": 4, "log_every": 1, "keep_weights": "best"},
    "compute": {"threads": 1, "workers": 0},
    "job": {
        "code": "worktree",
        "resources": {"cpu": 1, "memory": "3Gi", "shm": "256Mi"},
        "volumes": [
            {"claim": "runs", "mount": "/runs", "as": "runs"},
            {"claim": "data", "mount": "/data", "as": "data"},
        ],
        "retries": 1,
    },
    "sweep": {"grid": {"train.lr": [1e-3, 1e-2]}, "where": "data.frames == 8", "parallelism": 2},
}


def test_trials_of_the_real_trainer_share_one_cache_and_are_compared(tmp_path: Path) -> None:
    """Prepared once for all; each trial has its own run folder; results are the trainer's own scores; a resume has nothing to do."""
    state = tmp_path / "state"
    environ = {
        **os.environ,
        **{
            f"XDG_{what}_HOME": str(tmp_path / what.lower())
            for what in ("STATE", "CONFIG", "CACHE")
        },
        "PYTHONPATH": str(Path(launcher.__path__[0]).parent),
        "OMP_NUM_THREADS": "1",
    }

    def vidjobs(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "launcher", *arguments]
        done = subprocess.run(
            command,
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    claims = state / "vidjobs/local/volumes"
    made = [
        sys.executable,
        "-m",
        "trainer.synthetic",
        "--out",
        str(claims / "data/TinyVIRAT"),
        "--train",
        "12",
        "--test",
        "4",
        "--alone",
    ]
    subprocess.run(made, env=environ, check=True, capture_output=True)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONF))
    vidjobs(
        "sweep",
        "submit",
        "train",
        "tiny.yaml",
        "--backend",
        "local",
        "--set",
        "sweep.grid.model.mode=[8x32, 9x99]",
        code=2,
    )
    run, *told = vidjobs(
        "sweep", "submit", "train", "tiny.yaml", "--backend", "local", "--watch"
    ).splitlines()
    assert any(line.startswith("trial 1 succeeded (train.lr=0.01)") for line in told)
    table = json.loads(vidjobs("sweep", "status", run, "--json"))
    assert table["counts"] == {"succeeded": 2}, vidjobs("logs", run, "--all-pods")

    folder = claims / "runs" / run
    assert len([path for path in (claims / "runs/.cache").iterdir() if path.name != "weights"]) == 1
    for number, lr in enumerate((1e-3, 1e-2)):
        trial = folder / "trials" / f"{number:04d}"
        assert yaml.safe_load((trial / "conf.yaml").read_text())["train"]["lr"] == lr
        assert json.loads((trial / "DONE.json").read_text())["exit_code"] == 0
        _agrees(table["trials"][number], trial)
    rows = list(csv.DictReader(io.StringIO(vidjobs("sweep", "results", run))))
    assert [row["train.lr"] for row in rows] == ["0.001", "0.01"]
    assert all(0 <= float(row["f1_macro"]) <= 1 for row in rows)
    vidjobs("fetch", "checkpoints", run, "--trial", "1", "--best", "-o", "best")
    assert next((tmp_path / "best/checkpoints").glob("epoch-*.pt")).stat().st_size > 10_000
    scored = vidjobs(
        "submit", "eval", "tiny.yaml", "--backend", "local", "--from", f"{run}@best", "--watch"
    ).splitlines()[0]
    best = max(table["trials"], key=lambda trial: trial["scores"][table["select"]])
    init = yaml.safe_load((claims / "runs" / scored / "conf.yaml").read_text())["model"]["init"]
    assert f"/{run}/trials/{best['trial']:04d}/checkpoints/{best['checkpoint']}" in str(init)
    lines = vidjobs("logs", run, "--trial", "1", "--grep", "Loss").splitlines()
    assert lines
    assert all(line.endswith("trial=1") for line in lines)


def _agrees(told: dict[str, Any], trial: Path) -> None:
    """The table says what the trial's own manifest says of its best checkpoint."""
    manifest = json.loads((trial / "checkpoints/manifest.json").read_text())
    best = manifest["files"][manifest["best"]]
    assert told["checkpoint"] == manifest["best"]
    assert told["scores"]["f1_macro"] == best["metrics"]["f1_macro"]
    assert told["epoch"] == 2
