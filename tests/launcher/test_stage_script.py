"""stage.sh: copies claims onto local disk."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from launcher.render import TEMPLATES


def _stage(
    source: Path, target: Path, *, unpack: bool = False, **more: str
) -> subprocess.CompletedProcess[str]:
    target.mkdir(exist_ok=True)
    env = {
        "PATH": os.environ["PATH"],
        "VIDJOBS_STAGES": "1",
        "VIDJOBS_FROM_0": str(source),
        "VIDJOBS_TO_0": str(target),
    }
    env["VIDJOBS_UNPACK_0"] = "1" if unpack else ""
    return subprocess.run(
        ["bash", "-c", (TEMPLATES / "stage.sh").read_text()],
        env=env | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """A volume as ext4 gives it: with lost+found, hidden files and odd names."""
    folder = tmp_path / "claim"
    (folder / "lost+found").mkdir(parents=True)
    (folder / "videos" / "a b").mkdir(parents=True)
    (folder / "videos" / "a b" / "-é\n.mp4").write_bytes(b"x")
    (folder / ".hidden").write_text("h")
    os.utime(folder / ".hidden", (1000, 1000))
    return folder


def test_files_come_with_their_times_and_lost_found_stays(claim: Path, tmp_path: Path) -> None:
    """Names with spaces, dashes and newlines too."""
    done = _stage(claim, tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "videos" / "a b" / "-é\n.mp4").read_bytes() == b"x"
    assert (tmp_path / "to" / ".hidden").stat().st_mtime == 1000
    assert not (tmp_path / "to" / "lost+found").exists()


def test_an_empty_claim_is_staged(tmp_path: Path) -> None:
    """Nothing to copy is no error of this step; `prepare` will say what is missing."""
    (tmp_path / "empty").mkdir()
    assert _stage(tmp_path / "empty", tmp_path / "to").returncode == 0


def test_a_claim_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    """65."""
    done = _stage(tmp_path / "none", tmp_path / "to")
    assert (done.returncode, "is not there" in done.stderr) == (65, True)


def _tar(path: Path, *members: tuple[str, bytes | None]) -> None:
    """A gzipped tar; a member without content is a link to /etc/passwd."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_tar_files_at_the_top_are_unpacked_and_removed(claim: Path, tmp_path: Path) -> None:
    """As the published jobs did with their dataset."""
    _tar(claim / "TinyVirat.tar.gz", ("TinyVIRAT/classes.txt", b"a\n"))
    done = _stage(claim, tmp_path / "to", unpack=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "TinyVIRAT" / "classes.txt").read_bytes() == b"a\n"
    assert not (tmp_path / "to" / "TinyVirat.tar.gz").exists()
    assert (claim / "TinyVirat.tar.gz").exists()


def test_a_tar_file_cannot_write_outside(claim: Path, tmp_path: Path) -> None:
    """`..`, absolute names and links."""
    outside = tmp_path / "outside.txt"
    _tar(claim / "a.tar.gz", ("../outside.txt", b"x"), (str(outside), b"x"))
    _stage(claim, tmp_path / "to", unpack=True)
    assert not outside.exists()
    (claim / "a.tar.gz").unlink()
    _tar(claim / "b.tar.gz", ("link", None))
    done = _stage(claim, tmp_path / "to2", unpack=True)
    assert (done.returncode, "links" in done.stderr) == (65, True)


def test_links_of_a_damaged_tar_file_are_not_made_either(claim: Path, tmp_path: Path) -> None:
    """Nothing of it is unpacked before its end is missed."""
    _tar(claim / "b.tar.gz", ("link", None), ("big", os.urandom(200_000)))
    whole = (claim / "b.tar.gz").read_bytes()
    (claim / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    done = _stage(claim, tmp_path / "to", unpack=True)
    assert (done.returncode, "links" in done.stderr) == (65, True)
    assert not os.path.lexists(tmp_path / "to" / "link")


def test_a_damaged_tar_file_is_a_data_error(claim: Path, tmp_path: Path) -> None:
    """65, with its name."""
    (claim / "cut.tar.gz").write_bytes(b"\x1f\x8b no archive")
    done = _stage(claim, tmp_path / "to", unpack=True)
    assert (done.returncode, "cut.tar.gz is damaged" in done.stderr) == (65, True)


def test_a_disk_that_is_full_is_no_fault_of_the_tar_file(claim: Path, tmp_path: Path) -> None:
    """75: a file that is whole must not be thrown away."""
    _tar(claim / "whole.tar.gz", ("a", b"1"))
    tools = tmp_path / "bin"
    tools.mkdir()
    full = (
        'case "$1" in -xf) echo "tar: a: Cannot write: No space left on device" >&2; exit 2;; esac'
    )
    (tools / "tar").write_text(f'#!/bin/sh\n{full}\nexec {shutil.which("tar")} "$@"\n')
    (tools / "tar").chmod(0o755)
    done = _stage(claim, tmp_path / "to", unpack=True, PATH=f"{tools}:{os.environ['PATH']}")
    assert (done.returncode, "job.resources.scratch" in done.stderr, "damaged" in done.stderr) == (
        75,
        True,
        False,
    )


@pytest.mark.parametrize("script", ["checkout.sh", "stage.sh"])
def test_the_scripts_have_no_fault_that_shellcheck_knows(script: str) -> None:
    """Quoting above all."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "-s", "bash", str(TEMPLATES / script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
