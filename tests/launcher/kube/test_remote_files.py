"""The program that shows a volume's files, run as in a pod: what is no plain file is not seen, and long work keeps talking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.backend_base import RemoteFile
from launcher.backends.kube import remote_files
from launcher.errors import ClusterError, UserError
from launcher.fetching import fetch

PROGRAM = Path(remote_files.__file__).read_text()


def asked(program: str = PROGRAM, **request: Any) -> bytes:
    """As `python -I -c PROGRAM REQUEST`. ClusterError with the last line of its stderr."""
    argv = [sys.executable, "-I", "-c", program, json.dumps(request)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env={"LC_ALL": "C"})
    if done.returncode:
        raise ClusterError(done.stderr.decode().splitlines()[-1])
    return done.stdout


class Volume:
    """A folder, seen through the program."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)

    def list(self) -> list[RemoteFile]:
        lines = map(json.loads, asked(do="list", root=self.root).splitlines())
        return sorted((RemoteFile(path=path, size=size, mtime_ns=mtime) for path, size, mtime in lines), key=lambda file: file.path)

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        yield asked(do="read", root=self.root, path=path, offset=offset, length=length)

    def sha256(self, path: str) -> str:
        return asked(do="sha256", root=self.root, path=path).decode().strip()

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        raise NotImplementedError


PLAIN = {"-rf": b"dash", "größe 文.npy": b"unicode", "x" * 240: b"long", "empty": b"", "deep/er/--help": b"1", " spaces ": b"2"}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    for name, content in PLAIN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    with (root / "sparse").open("wb") as file:
        file.truncate(5_000_000)
    return root


def test_odd_names_empty_and_sparse_files_come_as_they_are(volume: Path, tmp_path: Path) -> None:
    files = Volume(volume)
    fetch(files, files.list(), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in PLAIN} == PLAIN
    assert (tmp_path / "out" / "sparse").read_bytes() == bytes(5_000_000)


def test_links_pipes_and_devices_are_not_seen_and_not_read(volume: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("out of bounds")
    (volume / "out").symlink_to(tmp_path / "secret")
    (volume / "in").symlink_to("empty")
    (volume / "folder").symlink_to(tmp_path)
    (volume / "loop").symlink_to("loop")
    os.mkfifo(volume / "pipe")
    assert {file.path for file in Volume(volume).list()} == {*PLAIN, "sparse"}
    for path in ("out", "in", "folder/secret", "loop", "pipe", "../secret", "deep/../empty", "", "deep"):
        for do in ("read", "sha256"):
            with pytest.raises(ClusterError):
                asked(do=do, root=str(volume), path=path, length=1)


@pytest.mark.parametrize("name", [b"new\nline", b"esc\x1b[2J", b"not utf-8 \xff", b"y" * 255, b"c:drive", b"x\xe2\x80\xae.pt"])
def test_a_name_that_cannot_be_trusted_stops_the_fetch_before_it_begins(volume: Path, tmp_path: Path, name: bytes) -> None:
    (volume / os.fsdecode(name)).write_bytes(b"1")
    files = Volume(volume)
    with pytest.raises(UserError, match="is not written here") as told:
        fetch(files, files.list(), tmp_path / "out")
    assert told.value.message.isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("do", ["sha256", "remove"])
def test_long_work_says_a_blank_now_and_then(volume: Path, do: str) -> None:
    """A connection on which nothing comes for two minutes is taken for broken."""
    with (volume / "sparse").open("wb") as file:
        file.truncate(300_000_000)
    slow = PROGRAM.replace("ALIVE_S = 20.0", "ALIVE_S = 0.001").replace("shutil.rmtree(root)", "time.sleep(0.2); shutil.rmtree(root)")
    assert slow.count("0.001") == 1
    told = asked(slow, do=do, root=str(volume), path="sparse")
    assert told.count(b" ") > 1
    assert len(told.strip()) == (64 if do == "sha256" else 0)
