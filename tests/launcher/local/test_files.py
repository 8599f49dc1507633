"""A folder as `Files`: regular files only, and never through a link."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.local.files import LocalFiles
from launcher.errors import ClusterError, UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.txt").write_bytes(b"0123456789")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    return root


def test_only_regular_files_are_listed(folder: Path) -> None:
    (file,) = LocalFiles(folder).list()
    assert (file.path, file.size) == ("sub/a.txt", 10)
    assert file.mtime_ns == (folder / "sub/a.txt").stat().st_mtime_ns


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert LocalFiles(tmp_path / "no").list() == []


def test_a_range_is_read_and_ends_with_the_file(folder: Path) -> None:
    files = LocalFiles(folder)
    assert b"".join(files.read("sub/a.txt", 2, 3)) == b"234"
    assert b"".join(files.read("sub/a.txt", 8, 100)) == b"89"
    assert files.sha256("sub/a.txt") == hashlib.sha256(b"0123456789").hexdigest()


@pytest.mark.parametrize("name", ["link", "out/secret", "fifo", "sub", "nothing"])
def test_what_is_no_regular_file_cannot_be_read(folder: Path, name: str) -> None:
    with pytest.raises(ClusterError):
        list(LocalFiles(folder).read(name, 0, 1))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../secret", "sub/../../secret", "a\0b"])
def test_names_that_lead_out_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError):
        LocalFiles(folder).sha256(name)


def test_volumes_are_directories(world: Any, tmp_path: Path) -> None:
    made = world.backend.create_volume("data", size="1Gi", access="ReadWriteMany")
    assert made.claim == "data"
    assert [volume.claim for volume in world.backend.volumes()] == ["data"]
    with pytest.raises(UserError, match="exists"):
        world.backend.create_volume("data", size="1Gi", access="ReadWriteMany")
    (Path(world.backend.claim_path("data", "/mnt")) / "x").write_text("x")
    with world.backend.volume_files("data", "/") as files:
        assert [file.path for file in files.list()] == ["x"]
    with pytest.raises(UserError, match="leads out"):
        world.backend.volume_files("data", "../..")
    with pytest.raises(UserError, match="no claim"):
        world.backend.volume_files("other", "")


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    from launcher.backends.local.backend import LocalBackend

    findings = {
        finding.what: finding
        for finding in LocalBackend(directories={"data": str(tmp_path / "no")}).doctor()
    }
    assert findings["python"].ok
    assert findings["trainer"].ok
    assert findings["claim data"].ok is False
    assert "directories" in findings["claim data"].fix
    assert {"torch", "disk space", "gpus"} <= findings.keys()
