"""What a training uses: read from real processes, told once a minute in metrics.jsonl, summed up in DONE.json and provenance.json."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer import usage
from trainer.errors import TryAgain
from trainer.records import Recorder, read_metrics
from trainer.run_folder import RunFolder
from trainer.usage import Container, Processes, Sample, Sampler, Usage


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """One core busy, in a grandchild, and 80 MB of its own; both end with the test."""
    inner = "x = bytearray(b'1') * (80 << 20); print('ready', flush=True)\nwhile True: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)


def test_cores_and_memory_of_a_process_and_all_that_it_started(
    busy: subprocess.Popen[bytes],
) -> None:
    """Not what other processes use."""
    assert busy.stdout is not None
    assert busy.stdout.readline() == b"ready\n"
    meter = Processes(busy.pid)
    before, began = meter.read()[0], time.perf_counter()
    time.sleep(0.5)
    after, memory = meter.read()
    elapsed = time.perf_counter() - began
    assert 0.1 < (after - before) / elapsed < 1.3  # a core, on a machine that others use too
    assert 80 << 20 < memory < 140 << 20


def test_time_of_processes_that_have_ended_is_kept() -> None:
    """A data worker's seconds count when it is gone."""
    meter = Processes()
    spin = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        before = meter.read()[0]
        assert child.stdout.readline() == b"done\n"
        during = meter.read()[0]
        child.kill()
    assert during - before > 0.1
    assert meter.read()[0] >= during - 0.02


def test_a_container_s_files(tmp_path: Path) -> None:
    """Of cgroup v2, in the kernel's own form; a machine's root, which has no memory.current, is no container."""
    (tmp_path / "cpu.stat").write_text(
        "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"
    )
    (tmp_path / "memory.stat").write_text("anon 1048576\nfile 999999999\nshmem 4096\n")
    assert not Container.found(tmp_path)
    (tmp_path / "memory.current").write_text("1000000000\n")
    assert Container.found(tmp_path)
    assert Container(tmp_path).read() == (2.5, 1 << 20)


def test_lines_in_metrics_jsonl_and_nothing_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each a record of kind "usage" that readers of losses pass over; resuming keeps them."""
    folder = RunFolder(tmp_path)
    Recorder(folder, tensorboard=False).record("train", 0.5, epoch=1, step=1)
    capfd.readouterr()
    sampler = Sampler(folder, 0.12)
    until = time.monotonic() + 10
    while len(lines := folder.metrics.read_text().splitlines()) < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    sampler.close()
    found = [json.loads(line) for line in lines[1:]]
    assert {each["kind"] for each in found} == {"usage"}
    assert found[0]["memory"] > 10 << 20
    assert found[0]["cpu"] >= 0
    assert "gpu" in found[0] or not usage.shutil.which("nvidia-smi")
    assert capfd.readouterr().out == ""
    assert len(read_metrics(folder.metrics)) == 1
    assert list(folder.usage_events.glob("events.*"))
    recorder = Recorder(folder, tensorboard=False)
    assert recorder.cut_back(0) == 1
    assert [json.loads(line)["kind"] for line in folder.metrics.read_text().splitlines()][:2] == [
        "usage",
        "usage",
    ]


def test_the_summary_of_an_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes into the newest attempt, also when it ends with an error; nothing is written into a folder that is another's by now."""
    monkeypatch.setenv("VIDJOBS_USAGE_EVERY", "60")
    folder = RunFolder(tmp_path)
    folder.provenance.write_text(json.dumps({"attempts": [{"node": "a"}, {"node": "b"}]}))

    def work() -> None:
        with usage.watched(folder):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    attempts = json.loads(folder.provenance.read_text())["attempts"]
    assert "usage" not in attempts[0]
    assert attempts[1]["usage"].keys() >= {"elapsed", "cpu_mean", "memory_mean", "memory_peak"}
    folder.provenance.write_text(json.dumps({"attempts": [{}]}))

    def lost() -> None:
        raise TryAgain("another pod holds the run")

    with usage.watched(folder, require=lost):
        pass
    assert json.loads(folder.provenance.read_text()) == {"attempts": [{}]}


def test_means_over_the_times_that_clusters_look_at() -> None:
    """GPU since the start of the process, idle until it is first heard of; cores over 15 minutes; memory over 30."""
    told = Usage()
    told.add(Sample(at=600, cpu_s=0, memory=100))
    for minute in range(11, 31):
        told.add(
            Sample(at=minute * 60, cpu_s=(minute - 10) * 120, memory=200, gpu=60, gpu_memory=5)
        )
    line = told.line(60)
    assert (line["cpu"], line["cpu_15m"], line["gpu"], line["gpu_memory"]) == (2.0, 2.0, 60.0, 5)
    assert line["gpu_mean"] == 40.0  # 20 of 30 minutes at 60 %
    assert 195 <= line["memory_30m"] <= 200
    assert told.summary()["memory_peak"] == 200


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0, 61, 4096\n", ("0", 61.0, 4096 << 20)),
        ("1, [N/A], [N/A]\n", None),
        ("No devices were found\n", None),
        ("", None),
    ],
)
def test_lines_of_nvidia_smi(line: str, told: tuple[str, float, int] | None) -> None:
    """A GPU slice tells no utilisation."""
    assert usage.gpu_line(line) == told


def test_a_real_nvidia_smi_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process tells again and again; it ends with the sampler, and with one that never answers nothing hangs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 50, 100'\necho '1, 70, 300'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    gpus = usage.Gpus(1)
    until = time.monotonic() + 5
    while gpus.read() != (60.0, 300 << 20):
        assert time.monotonic() < until
        time.sleep(0.01)
    gpus.close()


def test_an_nvidia_smi_that_does_not_end_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose driver hangs: the training would hold its GPUs for ever."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ntrap '' TERM\necho '0, 50, 100'\nwhile :; do sleep 0.1; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(usage, "PATIENCE", 0.2)
    gpus = usage.Gpus(1)
    while gpus.read() == (None, None):
        time.sleep(0.01)
    began = time.monotonic()
    gpus.close()
    assert time.monotonic() - began < 5
    assert gpus._process is not None
    gpus._process.wait()
    assert gpus._process.stdout is not None
    gpus._process.stdout.close()


def test_a_volume_that_is_full_at_the_end_takes_nothing_from_the_training(tmp_path: Path) -> None:
    class Full:
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with usage.watched(RunFolder(tmp_path)) as sampler:
        assert sampler is not None
        sampler._events = Full()


_CONF = """
data: {{name: tinyvirat, root: {root}, frames: 16, size: 16}}
model: {{name: i3d, mode: 16x16}}
train: {{max_steps: 5, epochs: 9, batch: 4}}
compute: {{device: cpu, workers: 0, threads: 1}}
"""


@pytest.mark.slow
def test_a_training_records_itself(tmp_path: Path, made_set: Path, project: Path) -> None:
    """Lines while it runs, the summary in DONE.json and in the attempt, nothing about it on stdout."""
    (tmp_path / "conf.yaml").write_text(_CONF.format(root=made_set))
    folder = RunFolder(tmp_path / "runs" / "r")
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        "--conf",
        "conf.yaml",
        "--run",
        str(folder.root),
    ]
    environment = os.environ | {"PYTHONPATH": str(project), "VIDJOBS_USAGE_EVERY": "1"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage" not in done.stdout + done.stderr
    entries = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    told = [entry for entry in entries if entry.get("kind") == "usage"]
    assert told
    assert max(entry["cpu"] for entry in told) < 3  # cores: one thread, and what starts it
    assert told[-1]["memory"] > 100 << 20
    assert len([entry for entry in entries if entry.get("phase") == "train"]) == 5
    summary = json.loads(folder.done.read_text())["usage"]
    assert 0.05 < summary["cpu_mean"] < 3
    assert summary["memory_peak"] >= summary["memory_mean"] > 50 << 20
    assert (
        json.loads(folder.provenance.read_text())["attempts"][-1]["usage"]["elapsed"]
        >= summary["elapsed"]
        > 1
    )
