"""What a shell offers after a tab, asked as the shell asks."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher import completing, records


def offered(words: str) -> list[str]:
    """What bash would show for a line of which the last word is being typed."""
    asked = {
        "_VIDJOBS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "launcher"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture
def runs(world: Any) -> list[str]:
    """Two runs, the newest first."""
    for name in ("a-train-aaaaaa", "b-eval-bbbbbb"):
        record = world.record(name)
        job = world.job(name, "pass")
        records.save(type(record)(**{**vars(record), "manifests": [job]}))
        time.sleep(0.01)
    return ["b-eval-bbbbbb", "a-train-aaaaaa"]


@pytest.mark.parametrize(
    "line",
    [
        "vidjobs rerun ",
        "vidjobs shell ",
        "vidjobs tensorboard ",
        "vidjobs diff a-train-aaaaaa ",
        "vidjobs fetch all ",
    ],
)
def test_runs_are_offered_wherever_one_is_wanted(runs: list[str], line: str) -> None:
    assert offered(line) == runs


def test_names_are_completed(runs: list[str]) -> None:
    assert completing.runs("b") == runs[:1]
    assert completing.runs("[a-z]*") == []
    assert offered("vidjobs fetch ch") == ["checkpoints"]
    assert offered("vidjobs push x ru") == ["runs:"]
    assert offered("vidjobs shell --claim r") == ["runs"]
    assert offered("vidjobs submit eval x.yaml --from a") == runs[1:]
    assert offered("vidjobs submit eval x.yaml --from a-train@b") == ["a-train@best"]
    assert {"push", "prepare"} - set(offered("vidjobs pu")) == {"prepare"}


def typed(line: str, becomes: str, folder: Path) -> str:
    """What a bash on a terminal makes of the line and a tab: all that it shows until the text comes, or for 20 s."""
    (folder / "vidjobs").write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher "$@"\n')
    (folder / "vidjobs").chmod(0o755)
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

    def until(wanted: str) -> str:
        shown, end = b"", time.monotonic() + 20
        while (
            wanted.encode() not in shown
            and select.select([terminal], [], [], max(0, end - time.monotonic()))[0]
        ):
            shown += os.read(terminal, 4096)
        return shown.decode(errors="replace")

    os.write(terminal, b'eval "$(vidjobs completion bash)"; echo re""ady\n')
    until("ready")
    os.write(terminal, f"{line}\t".encode())
    shown = until(becomes)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("vidjobs submit eval x --from a-train-aaaaaa@b", "aaaaaa@best"),
        ("vidjobs status b-e", "b-eval-bbbbbb"),
        ("vidjobs volume ls r", "ls runs"),
    ],
)
def test_a_bash_on_a_terminal_completes(
    runs: list[str], tmp_path: Path, line: str, becomes: str
) -> None:
    """Also after an @, which ends a word where bash is left as it is."""
    assert becomes in typed(line, becomes, tmp_path)


def test_a_thousand_runs_are_listed_without_reading_them(world: Any) -> None:
    folder = records.state_dir() / "runs"
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / f"x-train-{number:06d}.json").write_text("not read")
    start = time.perf_counter()
    assert len(completing.runs("x-")) == 1000
    assert time.perf_counter() - start < 0.5
