"""The run's lock: one writer, a living one is named, a dead one is replaced."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from trainer import lock
from trainer.errors import TryAgain
from trainer.lock import Holder, hold, read_holder, require_held
from trainer.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from trainer.lock import hold
from trainer.run_folder import RunFolder
with hold(RunFolder(Path(sys.argv[1])), beat=0.05):
    print("held", flush=True)
    time.sleep(60)
"""


def _other_process(folder: RunFolder, project: Path) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(project),
        "VIDJOBS_POD": "trainer-abc",
        "VIDJOBS_POD_UID": "uid-1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.root)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path: Path, project: Path) -> None:
    folder = RunFolder(tmp_path / "run-1")
    with _other_process(folder, project) as process:
        try:
            named = rf"pod trainer-abc \(uid-1\), process {process.pid} on .*vidjobs cancel run-1"
            with pytest.raises(TryAgain, match=named), hold(folder):
                pass
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, project: Path) -> None:
    folder = RunFolder(tmp_path)
    with _other_process(folder, project) as process:
        process.kill()
    said: list[str] = []
    began = time.monotonic()
    with hold(folder, say=said.append):
        assert read_holder(folder.lock) == Holder.me()
    assert time.monotonic() - began < 5
    assert "which is gone" in said[0]
    assert read_holder(folder.lock) is None  # ended well: nobody's


def _left_by(folder: RunFolder, holder: Holder, *, age: float) -> None:
    folder.require_writable()
    folder.lock.write_text(json.dumps(asdict(holder)))
    os.utime(folder.lock, (time.time() - age,) * 2)


ELSEWHERE = Holder(pod="p", pod_uid="u", host="another-node", pid=1)


def test_on_a_volume_whose_flock_does_not_reach_other_nodes_the_heartbeat_decides(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    _left_by(folder, ELSEWHERE, age=0)
    began = time.monotonic()
    with hold(folder, stale=0.4):  # it stood still for the whole wait
        pass
    assert time.monotonic() - began >= 0.4
    _left_by(folder, ELSEWHERE, age=2 * lock.LONG_DEAD)
    with hold(folder, stale=30):  # long dead: no wait
        pass


@contextmanager
def _heart(folder: RunFolder, *, skew: float = 0.0) -> Iterator[None]:
    """Another node's heartbeat; `skew`: its clock is that much behind ours."""
    beat = f"import os, time\nfor _ in range(100): time.sleep(0.1); os.utime({str(folder.lock)!r}, (time.time() - {skew},) * 2)"
    with subprocess.Popen([sys.executable, "-c", beat]) as heart:
        try:
            yield
        finally:
            heart.kill()


def test_a_clock_that_is_minutes_behind_makes_nobody_dead(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _left_by(folder, ELSEWHERE, age=600)
    with (
        _heart(folder, skew=600),
        pytest.raises(TryAgain, match="another-node"),
        hold(folder, stale=4),
    ):
        pass


def test_the_pod_before_of_the_same_index_may_live_on_a_lost_node(tmp_path: Path) -> None:
    """It has our host name, and as process 1 of its container our pid."""
    folder = RunFolder(tmp_path)
    _left_by(folder, replace(Holder.me(), pod_uid="uid-1", boot="another kernel"), age=0)
    with _heart(folder), pytest.raises(TryAgain, match="uid-1"), hold(folder, stale=4):
        pass


def test_another_pod_of_this_machine_may_have_a_mount_of_its_own(tmp_path: Path) -> None:
    """Where flock ends at the mount, a free one proves nothing."""
    folder = RunFolder(tmp_path)
    _left_by(folder, replace(Holder.me(), host="run-abcde"), age=0)
    with _heart(folder), pytest.raises(TryAgain, match="run-abcde"), hold(folder, stale=4):
        pass


def test_on_a_volume_without_flock_a_living_pod_of_this_machine_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are process 1 of their containers."""

    def refused(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("trainer.lock.fcntl.flock", refused)
    folder = RunFolder(tmp_path)
    _left_by(folder, replace(Holder.me(), pod="neighbour"), age=0)
    with _heart(folder), pytest.raises(TryAgain, match="neighbour"), hold(folder, stale=4):
        pass


def test_of_two_that_wait_for_a_dead_holder_one_gets_the_folder(tmp_path: Path) -> None:
    """The first has the flock and no name in the file yet; the second must not take it for an orphan's."""
    folder = RunFolder(tmp_path)
    _left_by(folder, ELSEWHERE, age=0)
    first = os.open(folder.lock, os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX)
    name = json.dumps(asdict(replace(ELSEWHERE, pod="first"))).encode()
    takes_over = threading.Timer(0.7, lambda: os.pwrite(first, name, 0))
    takes_over.start()
    try:
        with pytest.raises(TryAgain, match="pod first"), hold(folder, stale=0.5):
            pass
    finally:
        takes_over.join()
        os.close(first)


def test_who_lost_the_lock_leaves_its_new_holders_name_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    thief = json.dumps(asdict(replace(ELSEWHERE, pod="thief")))
    with hold(folder):
        folder.lock.write_text(thief)
    assert folder.lock.read_text() == thief


def test_a_living_holder_on_another_node_keeps_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _left_by(folder, ELSEWHERE, age=5)
    with _heart(folder), pytest.raises(TryAgain, match="another-node"), hold(folder, stale=4):
        pass


def test_the_heartbeat_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with hold(folder, beat=0.02):
        os.utime(folder.lock, (0, 0))
        time.sleep(0.3)
        assert time.time() - folder.lock.stat().st_mtime < 10


def test_who_lost_the_lock_stops_before_writing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with hold(folder) as held:
        require_held(folder.lock, held.holder)
        folder.lock.write_text(json.dumps(asdict(replace(ELSEWHERE, pod="thief"))))
        with pytest.raises(TryAgain, match="taken over by pod thief"):
            require_held(folder.lock, held.holder)


def test_a_flock_that_the_kernel_never_frees_is_replaced(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network volume whose server has not noticed that a node is lost."""
    folder = RunFolder(tmp_path)
    with _other_process(folder, project) as process:
        try:
            _left_by(folder, ELSEWHERE, age=1000)
            # its heartbeat is our helper's, which lives
            monkeypatch.setattr(lock, "_beats", lambda *_: True)
            with hold(folder, stale=0.3) as held:
                require_held(folder.lock, held.holder)
        finally:
            process.kill()
