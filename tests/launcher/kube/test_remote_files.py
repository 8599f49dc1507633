"""The program that shows a volume's files, run as in a pod: what is no plain file is not seen, and long work keeps talking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.kube import remote_files
from launcher.backends.kube.client import KubeClient
from launcher.backends.kube.files import PodFiles
from launcher.errors import ClusterError, UserError
from launcher.fetching import fetch, fetch_each

PROGRAM = Path(remote_files.__file__).read_text()


def asked(program: str = PROGRAM, **request: Any) -> bytes:
    """As `python -I -c PROGRAM REQUEST`. ClusterError with the last line of its stderr."""
    argv = [sys.executable, "-I", "-c", program, json.dumps(request)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env={"LC_ALL": "C"})
    if done.returncode:
        raise ClusterError(done.stderr.decode().splitlines()[-1])
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Volume(PodFiles):
    """A folder of this machine, seen through the program."""

    client: KubeClient = field(default_factory=KubeClient)
    pod: str = "p"
    container: str = "c"
    asked: list[str] = field(default_factory=list)
    # for each next bundle: which of its bytes arrives changed, from its end
    damage: list[int] = field(default_factory=list)

    def _run(self, do: str, **request: Any) -> Iterator[bytes]:
        self.asked.append(do)
        answer = asked(do=do, root=self.root, **request)
        if do == "bundle" and self.damage:
            at = len(answer) - self.damage.pop()
            answer = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        yield answer


def seen(root: Path) -> Volume:
    return Volume(root=str(root))


PLAIN = {
    "-rf": b"dash",
    "größe 文.npy": b"unicode",
    "x" * 240: b"long",
    "empty": b"",
    "deep/er/--help": b"1",
    " spaces ": b"2",
}


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
    files = seen(volume)
    fetch(files, files.list(), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in PLAIN} == PLAIN
    assert (tmp_path / "out" / "sparse").read_bytes() == bytes(5_000_000)


def test_many_small_files_are_asked_for_together_and_known_ones_do_not_cross_the_wire(
    volume: Path, tmp_path: Path
) -> None:
    (volume / "many").mkdir()
    for number in range(120):
        (volume / "many" / f"é-{number:03d}.txt").write_bytes(b"x" * number)
        os.utime(volume / "many" / f"é-{number:03d}.txt", ns=(1, number))
    files = seen(volume)
    done = list(fetch_each(files, files.list(), tmp_path))
    assert [each.path for each in done] == sorted(
        [*PLAIN, "sparse", *(f"many/é-{number:03d}.txt" for number in range(120))]
    )
    for each in done:
        assert each.file.read_bytes() == (volume / each.path).read_bytes()
        assert each.file.stat().st_mtime_ns == (volume / each.path).stat().st_mtime_ns
    assert len(files.asked) < 15

    (volume / "many" / "é-007.txt").write_bytes(b"changed")
    again = list(fetch_each(files, files.list(), tmp_path))
    assert {each.path: each.transferred for each in again if each.transferred} == {
        "many/é-007.txt": 7
    }
    assert (tmp_path / "many" / "é-007.txt").read_bytes() == b"changed"


def test_small_files_that_arrive_damaged_are_asked_for_again(volume: Path, tmp_path: Path) -> None:
    files = seen(volume)
    files.damage.extend([1, 3])
    fetch(
        files,
        [file for file in files.list() if file.path in PLAIN],
        tmp_path / "out",
        wait=lambda _: None,
    )
    assert {name: (tmp_path / "out" / name).read_bytes() for name in PLAIN} == PLAIN
    assert files.asked.count("bundle") == 3


def test_a_small_file_that_goes_or_was_begun_before_is_taken_alone(
    volume: Path, tmp_path: Path
) -> None:
    files = seen(volume)
    listed = [file for file in files.list() if file.path in PLAIN]
    (tmp_path / "-rf.part").write_bytes(b"da")
    (volume / "empty").unlink()
    (volume / "empty").symlink_to("/etc/passwd")
    done = fetch_each(files, listed, tmp_path, wait=lambda _: None)
    with pytest.raises((UserError, ClusterError)):
        list(done)
    assert (tmp_path / "-rf").read_bytes() == b"dash"
    assert not (tmp_path / "-rf.part").exists()
    assert not (tmp_path / "empty").exists()


def test_links_pipes_and_devices_are_not_seen_and_not_read(volume: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("out of bounds")
    (volume / "out").symlink_to(tmp_path / "secret")
    (volume / "in").symlink_to("empty")
    (volume / "folder").symlink_to(tmp_path)
    (volume / "loop").symlink_to("loop")
    os.mkfifo(volume / "pipe")
    assert {file.path for file in seen(volume).list()} == {*PLAIN, "sparse"}
    for path in (
        "out",
        "in",
        "folder/secret",
        "loop",
        "pipe",
        "../secret",
        "deep/../empty",
        "",
        "deep",
    ):
        for do in ("read", "sha256"):
            with pytest.raises(ClusterError):
                asked(do=do, root=str(volume), path=path, length=1)


@pytest.mark.parametrize(
    "name",
    [b"new\nline", b"esc\x1b[2J", b"not utf-8 \xff", b"y" * 255, b"c:drive", b"x\xe2\x80\xae.pt"],
)
def test_a_name_that_cannot_be_trusted_stops_the_fetch_before_it_begins(
    volume: Path, tmp_path: Path, name: bytes
) -> None:
    (volume / os.fsdecode(name)).write_bytes(b"1")
    files = seen(volume)
    with pytest.raises(UserError, match="is not written here") as told:
        fetch(files, files.list(), tmp_path / "out")
    assert told.value.message.isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("do", ["sha256", "remove"])
def test_long_work_says_a_blank_now_and_then(volume: Path, do: str) -> None:
    """A connection on which nothing comes for two minutes is taken for broken."""
    with (volume / "sparse").open("wb") as file:
        file.truncate(300_000_000)
    slow = PROGRAM.replace("ALIVE_S = 20.0", "ALIVE_S = 0.001").replace(
        "shutil.rmtree(root)", "time.sleep(0.2); shutil.rmtree(root)"
    )
    assert slow.count("0.001") == 1
    told = asked(slow, do=do, root=str(volume), path="sparse")
    assert told.count(b" ") > 1
    assert len(told.strip()) == (64 if do == "sha256" else 0)
