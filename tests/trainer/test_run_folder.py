"""The run folder: files appear whole under their names or not at all, and a refusal says how to mend it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer import checkpoints
from trainer.errors import CannotWrite
from trainer.run_folder import RunFolder, atomic, readable_size, remove_temporary

AS_SOMEBODY_ELSE = """
import os, sys
from pathlib import Path
from trainer.run_folder import RunFolder
os.setgid(12345)
os.setuid(12345)
RunFolder(Path(sys.argv[1])).require_writable()
"""


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small volume")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_the_numbers_in_checkpoint_names_have_six_digits() -> None:
    folder = RunFolder(Path("/runs/r"))
    assert folder.weights(12).as_posix() == "/runs/r/checkpoints/epoch-000012.pt"
    assert folder.state(12).name == "state-000012.pt"
    assert folder.state(12, 1234).name == "state-000012-step-00001234.pt"


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text(folder.conf, "old")
    with pytest.raises(KeyboardInterrupt):
        _stop_in_the_middle(folder.conf)
    assert folder.conf.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["conf.yaml"]


def test_a_full_volume_is_told_with_the_missing_bytes_and_the_old_file_stays(
    small_volume: Path,
) -> None:
    folder = RunFolder(small_volume / "run")
    folder.require_writable()
    folder.write_bytes(folder.weights(1), b"x" * 700_000)
    with pytest.raises(CannotWrite, match=r"is full: .* missing of 683\.6 KiB"):
        folder.write_bytes(folder.weights(1), b"y" * 700_000)
    assert folder.weights(1).read_bytes() == b"x" * 700_000
    assert [path.name for path in folder.checkpoints.iterdir()] == ["epoch-000001.pt"]
    with pytest.raises(CannotWrite, match=r"\(\d+ bytes\) missing"):
        folder.require_space(1 << 20)


def test_torch_save_to_a_full_volume_ends_cleanly(small_volume: Path) -> None:
    """Its writer aborts the whole process when a write raises in the middle (pytorch's "unexpected pos")."""
    folder = RunFolder(small_volume / "run")
    content = {"format": 1, "epoch": 1, "step": 1, "w": torch.zeros(170_000)}
    entry = checkpoints.save(folder.weights(1), content, kind="weights")
    with pytest.raises(CannotWrite, match="is full"):
        checkpoints.save(folder.weights(2), content, kind="weights")
    checkpoints.require_whole(folder.weights(1), entry)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["epoch-000001.pt"]


def test_a_folder_of_another_user_is_refused_with_the_chown_command(
    tmp_path: Path, project: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user")
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", AS_SOMEBODY_ELSE, str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=_open_to_all(tmp_path, project), check=False
    )
    assert f"make it ours: chown -R 12345:12345 {tmp_path}" in ended.stderr


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".epoch-000001.pt.99.tmp").write_text("half")
    (tmp_path / "epoch-000001.pt").write_text("whole")
    remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001.pt"]


def test_pods_that_write_one_file_write_it_each_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of one run on two machines are both process 1: the second to end finds its own unfinished file, not the first one's."""
    path = tmp_path / "provenance.json"
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("socket.gethostname", lambda: "run-0")
    with atomic(path) as first:
        first.write(b"of the first")
        monkeypatch.setattr("socket.gethostname", lambda: "run-1")
        with atomic(path) as second:
            second.write(b"of the second")
        assert path.read_bytes() == b"of the second"
    assert path.read_bytes() == b"of the first"
    assert [each.name for each in tmp_path.iterdir()] == ["provenance.json"]


def test_sizes_are_readable() -> None:
    assert [readable_size(size) for size in (3, 1536, 5 << 20, 3 << 30)] == [
        "3 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


def _stop_in_the_middle(path: Path) -> None:
    with atomic(path) as sink:
        sink.write(b"half")
        raise KeyboardInterrupt


def _open_to_all(folder: Path, project: Path) -> dict[str, str]:
    """Let another user walk down to the folder, and import the project."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return {**os.environ, "PYTHONPATH": str(project)}
