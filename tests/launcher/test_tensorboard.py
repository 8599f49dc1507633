"""A copy of event files that grows with them, and a real TensorBoard over it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher import records
from launcher.backend_base import Phase, RunStatus
from launcher.backends.local.files import LocalFiles
from launcher.commands import tensorboard as command
from launcher.errors import ClusterError, UserError
from launcher.tensorboard import refresh

NAME = "tensorboard/events.out.tfevents.1"


def write(run: Path, data: bytes, *, name: str = NAME, mode: str = "wb") -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    with (run / name).open(mode) as file:
        file.write(data)


def test_only_what_is_new_is_brought(tmp_path: Path) -> None:
    """Growth is appended; a file that was cut back and grew again comes anew; other files do not come at all."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    write(run, b"a" * 1000)
    write(run, b"t" * 10, name="trials/0003/tensorboard/events.out.tfevents.2")
    write(run, b"no", name="train.log")
    files = LocalFiles(run)
    assert refresh(files, copy) == 1010
    assert refresh(files, copy) == 0
    write(run, b"b" * 50, mode="ab")
    assert refresh(files, copy) == 50 + 256
    write(run, b"c" * 2000)
    assert refresh(files, copy) == 2000
    write(run, b"d" * 20)
    assert refresh(files, copy) == 20
    (run / "trials/0003/tensorboard/events.out.tfevents.2").unlink()
    refresh(files, copy)
    assert {
        path.relative_to(copy).as_posix(): path.read_bytes()
        for path in copy.rglob("*")
        if path.is_file()
    } == {NAME: b"d" * 20}


def test_a_port_that_is_taken_is_told() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="is taken"):
            command._free_port(taken.getsockname()[1])


def test_without_tensorboard_the_next_step_is_told(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.save(world.record("a-train-aaaaaa"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        command.run("a-train")
    assert "pip install tensorboard" in caught.value.hint


def test_trouble_on_the_way_is_told_once_and_that_it_is_over(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pod is replaced, or the server away, for three looks; then the run ends."""
    record = world.record("a-train-aaaaaa")
    looks = iter([ClusterError("its pod is being stopped")] * 3 + [Phase.RUNNING, Phase.SUCCEEDED])

    class Place:
        def status(self, _record: object) -> RunStatus:
            now = next(looks)
            if isinstance(now, ClusterError):
                raise now
            return RunStatus(run=record.run, phase=now)

        def files(self, _record: object) -> Any:
            return contextlib.nullcontext(LocalFiles(tmp_path / "run"))

    with subprocess.Popen(["sleep", "1"]) as server:
        command._follow(record, Place(), tmp_path / "here", every_s=0.02, server=server)  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "warning: what is new cannot be read now: its pod is being stopped",
        "new events come again",
        "a-train-aaaaaa has ended: all its events are here",
    ]


@pytest.mark.slow
def test_a_runs_curves_are_served_until_interrupted(world: Any) -> None:
    pytest.importorskip("tensorboard")
    record = world.record("a-train-aaaaaa")
    records.save(record)
    write(world.folder(record.run), b"")
    command = [sys.executable, "-m", "launcher", "tensorboard", record.run, "--every", "1"]
    # a suite that was started in the background hands ignored interrupts down; a person's terminal
    # does not
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=dict(os.environ), preexec_fn=heard
    ) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().decode().strip()
            with urllib.request.urlopen(f"{url}data/logdir", timeout=20) as answer:
                assert record.run in answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.terminate()  # one that did not heed the interrupt
