"""`status` of a run that works: how far, how long still, what it uses and what its site thinks of that; and the live table."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from launcher import records, run_view
from launcher.commands import status

RUN = "a-train-cccccc"
TRAINER = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[2]); folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.jsonl").write_text('''%s''')
print("train Loss: 0.5 epoch=2 step=40 eta=1h02m", flush=True)
print("val  Loss: 0.4 epoch=2 step=40 f1_macro=0.27", flush=True)
(folder / "ready").touch()
while not (folder / "go").exists(): time.sleep(0.01)
"""
USAGE = {
    "kind": "usage",
    "elapsed": 1800,
    "cpu_15m": 4.0,
    "memory_30m": 2 << 30,
    "gpu": 61,
    "gpu_mean": 23,
    "gpu_memory": 9,
}


@pytest.fixture
def working(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A training with a usage record, on a cluster with bands, whose Job asked for 1 GPU, 8 cores and 32 Gi."""
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "conf" / "clusters" / "local.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        "backend: local\nrules: ''\nbands: {gpu: 40, cpu: [20, 200], memory: [20, 150]}\n"
    )
    resources = {"limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}}
    lines = [
        json.dumps(USAGE | {"gpu_mean": 1}),
        json.dumps(USAGE),
        json.dumps({"phase": "train", "loss": 0.5, "epoch": 2, "step": 40}),
    ]
    world.submit(RUN, TRAINER % "\n".join(lines))
    record = world.record(RUN)
    records.forget(RUN)
    records.save(
        dataclasses.replace(
            record, manifests=[world.job(RUN, "pass", container={"resources": resources})]
        )
    )
    # what it printed has gone through its supervisor
    world.wait(RUN, lambda _: len(world.log(RUN)) == 2)
    return RUN


def test_what_it_uses_and_what_becomes_of_that(
    working: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people a line each, with the next step; for programs the record and the verdicts."""
    assert status.run(working, watch=False, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "progress  epoch 2, step 40, val Loss: 0.4, 1h02m left" in lines
    use = [line for line in lines if line.startswith("use ")]
    assert use[0].startswith(
        "use       GPU 23% on average since start, below the site's 40%; reaches it in ~24 min at the present 61%; nothing to do"
    )
    assert use[1] == "use       CPU 50% of the 8 cores asked for, within the site's 20-200%"
    assert (
        use[2]
        == "use       memory 6% of the 32Gi asked for, below the site's 20%; the next run can ask for job.resources.memory: 3Gi"
    )
    assert status.run(working, watch=False, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["eta"] == "1h02m"
    assert told["usage"]["gpu_mean"] == 23
    assert [(each["what"], each["ok"]) for each in told["usage"]["verdicts"]] == [
        ("gpu", False),
        ("cpu", True),
        ("memory", False),
    ]


@pytest.mark.slow
def test_the_live_table_redraws_in_place(world: Any, working: str) -> None:
    """On a terminal: from its top each time, nothing left of what was longer, and the end of the run ends it."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "launcher", "status", "--watch"]
    threading.Timer(2.5, (world.folder(working) / "go").touch).start()
    environment = os.environ | {
        "COLUMNS": "200",
        "PYTHONPATH": str(Path(status.__file__).parents[2]),
    }
    with subprocess.Popen(
        command, stdout=terminal, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                more = os.read(main, 65536)
            except OSError:  # nobody holds the other end any more
                break
            shown += more
        assert process.wait(timeout=20) == 0, process.stderr and process.stderr.read()
    os.close(main)
    frames = shown.decode().split("\x1b[H\x1b[J")
    assert frames[0] == ""
    assert len(frames) >= 3
    assert frames[1].splitlines()[0].split() == [
        "RUN",
        "VERB",
        "PHASE",
        "AGE",
        "EPOCH",
        "STEP",
        "LOSS",
        "ETA",
        "WHY",
    ]
    assert "1h02m" in frames[1]
    assert "succeeded" in frames[-1]


def test_the_live_table_is_no_longer_than_the_terminal(
    world: Any, working: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What runs is always there."""
    for number in range(4):
        records.save(
            dataclasses.replace(
                world.record(f"a-train-bbbbb{number}"), created=f"2025-01-0{number + 1}T00:00:00Z"
            )
        )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for lines, shown in ((24, ["c", "3", "2", "1", "0"]), (6, ["c", "3", "2"]), (2, ["c"])):
        monkeypatch.setenv("LINES", str(lines))
        status._show_live_table(run_view.everything(records.load_all()))
        told = capsys.readouterr()
        assert [row.split()[0][-1] for row in told.out.splitlines()[1:]] == shown
        assert ("older runs are not shown" in told.err) is (len(shown) < 5)
