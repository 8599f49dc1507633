"""How long the launcher takes to answer, beside kubectl and torchx in the same run. Prints a table; asserts nothing about time.

torchx is looked for on PATH and in the environment that VIDJOBS_BENCH_TORCHX names (`python -m venv V && V/bin/pip install torchx`).
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[2]
_ROUNDS = 11
pytestmark = pytest.mark.bench


def _measure(command: Sequence[str]) -> tuple[float, float, float]:
    """Medians of wall and CPU time in ms, and the least CPU time, of whole processes."""
    walls, cpus = [], []
    for _ in range(_ROUNDS + 1):
        before, start = _children(), time.perf_counter()
        subprocess.run(
            command, cwd=_PROJECT, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        walls.append(1000 * (time.perf_counter() - start))
        cpus.append(1000 * (_children() - before))
    # the first fills the page cache
    return statistics.median(walls[1:]), statistics.median(cpus[1:]), min(cpus[1:])


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _torchx() -> str | None:
    folder = os.environ.get("VIDJOBS_BENCH_TORCHX")
    return shutil.which("torchx", path=str(Path(folder) / "bin") if folder else None)


def test_answers_of_the_launcher_beside_kubectl_and_torchx(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--help`, `render` (code baked in, and this working tree with its git calls) and `lint` against `version --client` and `--help`."""
    vidjobs = [sys.executable, "-m", "launcher"]
    rendering = [*vidjobs, "render", "train", "conf/quickstart.yaml", "--cluster", "local"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "vidjobs --help": [*vidjobs, "--help"],
        "vidjobs render (code: image)": [*rendering, "--set", "job.code=image"],
        "vidjobs render (code: worktree)": rendering,
        "vidjobs lint": [*vidjobs, "lint", "conf/quickstart.yaml", "--cluster", "local"],
    }
    skipped = []
    for name, program, arguments in [
        ("kubectl", shutil.which("kubectl"), ["version", "--client"]),
        ("torchx", _torchx(), ["--help"]),
    ]:
        if program:
            commands[f"{name} {' '.join(arguments)}"] = [program, *arguments]
        else:
            skipped.append(f"{name}: not measured, it is not installed")
    rows = [(name, *_measure(command)) for name, command in commands.items()]
    with capsys.disabled():
        print(
            f"\n{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
        )
        print(f"{'command':36}{'wall ms':>9}{'CPU ms':>9}{'least CPU':>11}")
        for name, wall, cpu, least in rows:
            print(f"{name:36}{wall:9.0f}{cpu:9.0f}{least:11.0f}")
        print("\n".join(skipped))
