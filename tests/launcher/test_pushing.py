"""Pushing: the real receiver as a process; cuts cost nothing, names cannot lead out, and no half file has its final name."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backend_base import Channel
from launcher.backends.local.inlet import LocalInlet, Receiver
from launcher.commands import push as command
from launcher.errors import ClusterError, UserError
from launcher.push_source import LocalFile, one_file, tree
from launcher.pushing import Push, Pushed

quick = settings(deadline=None, max_examples=5)


@dataclass
class CutWire:
    """A channel that breaks after some bytes."""

    channel: Channel
    left: int

    def send(self, data: bytes) -> None:
        self.channel.send(data[: self.left])
        self.left -= len(data)
        if self.left < 0:
            raise ClusterError("connection reset", transient=True)

    def receive(self, *, wait: bool) -> bytes | None:
        if self.left < 0:
            raise ClusterError("connection reset", transient=True)
        return self.channel.receive(wait=wait)


@dataclass
class CutInlet:
    """Connections of which the first ones bear only so many bytes each."""

    inlet: LocalInlet
    cuts: list[int] = field(default_factory=list)
    connections: int = 0

    @contextlib.contextmanager
    def connect(self, folder: str, only: str) -> Iterator[Channel]:
        self.connections += 1
        with self.inlet.connect(folder, only) as channel:
            yield CutWire(channel, self.cuts.pop(0)) if self.cuts else channel


def quickly(_: float) -> None:
    """Instead of waiting between attempts."""


def push(source: Path, top: Path, folder: str = "", cuts: list[int] | None = None) -> Pushed:
    inlet = CutInlet(LocalInlet(top), list(cuts or []))
    return Push(inlet=inlet, files=tree(source), folder=folder, wait=quickly).run()


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    (tmp_path / "claim").mkdir()
    return tmp_path / "claim"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree of many small files and two larger ones."""
    folder = tmp_path / "source"
    numbers = random.Random(0)
    for number in range(300):
        file = folder / f"class {number % 7}" / f"clip-{number:03d}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(numbers.randbytes(number))
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/large.bin").write_bytes(numbers.randbytes(3_000_001))
    (folder / "größe.bin").write_bytes(numbers.randbytes(500_000))
    return folder


def test_a_tree_arrives_whole_and_is_not_sent_again(source: Path, claim: Path) -> None:
    done = push(source, claim, "a/b")
    assert content(claim / "a/b") == content(source)
    assert (done.files, done.there, done.sent, done.cuts) == (302, 0, done.bytes, 0)
    assert (claim / "a/b/größe.bin").stat().st_mtime_ns == (source / "größe.bin").stat().st_mtime_ns

    again = push(source, claim, "a/b")
    assert (again.there, again.sent) == (302, 0)


def test_only_what_changed_is_sent(source: Path, claim: Path) -> None:
    """A file touched but equal is found equal by its digest; one of equal size and other content is not."""
    push(source, claim)
    os.utime(source / "größe.bin")
    changed = source / "class 3/clip-003.txt"
    changed.write_bytes(b"new")
    done = push(source, claim)
    assert (done.there, done.sent) == (301, 3)
    assert content(claim) == content(source)
    assert push(source, claim).sent == 0, "the time of the touched file was set"


@quick
@given(st.lists(st.integers(0, 900_000), max_size=5))
def test_after_any_cuts_the_tree_is_whole_and_little_was_sent_twice(cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, claim = Path(folder, "source"), Path(folder, "claim")
        source.mkdir()
        claim.mkdir()
        for name, size in {"a": 700_000, "b": 0, "c": 10, "d": 400_000}.items():
            (source / name).write_bytes(random.Random(name).randbytes(size))
        done = push(source, claim, cuts=cuts)
        assert content(claim) == content(source), "whole, and no part is left"
    assert done.cuts <= len(cuts)
    assert done.sent <= done.bytes + (1 << 17) * (done.cuts + 1), (
        "at most what was on the wire at each cut"
    )


def test_a_later_push_goes_on_where_the_first_was_cut(source: Path, claim: Path) -> None:
    file = source / "deep/er/large.bin"
    with pytest.raises(ClusterError, match="6 times"):
        push(file.parent, claim, cuts=[2_000_000, *[200] * 8])
    (part,) = claim.iterdir()
    assert part.name.endswith(".part"), "a half file must not have its final name"
    have = part.stat().st_size
    assert 1_500_000 < have < 2_000_000
    done = push(file.parent, claim)
    assert done.sent == 3_000_001 - have
    assert content(claim) == {"large.bin": file.read_bytes()}


def test_a_part_of_other_content_is_not_gone_on_with_and_goes_away(
    source: Path, claim: Path
) -> None:
    file = source / "deep/er/large.bin"
    with pytest.raises(ClusterError):
        push(file.parent, claim, cuts=[2_000_000, *[200] * 8])
    file.write_bytes(b"other")
    push(file.parent, claim)
    assert content(claim) == {"large.bin": b"other"}


class Sender:
    """The far end's receiver, spoken to by hand."""

    def __init__(self, claim: Path) -> None:
        self.process = Receiver(claim, "", "")
        self.rest = b""
        while self.hear()[0] != "ready":
            pass

    def hear(self) -> list[Any]:
        while b"\n" not in self.rest:
            self.rest += self.process.receive(wait=True) or b""
        line, _, self.rest = self.rest.partition(b"\n")
        return list(json.loads(line)) if line else self.hear()

    def frame(self, kind: bytes, data: bytes) -> None:
        self.process.send(struct.pack(">cI", kind, len(data)) + data)

    def begin(self, file: LocalFile, stale: tuple[str, ...] = ()) -> None:
        header = {
            "n": 1,
            "path": file.path,
            "part": file.part,
            "offset": 0,
            "mtime_ns": file.mtime_ns,
            "stale": stale,
        }
        self.frame(b"F", json.dumps(header).encode())


def test_two_pushes_of_one_file_at_once_never_cut_what_is_whole(source: Path, claim: Path) -> None:
    """The second waits for the first; what the first has given its name meanwhile is not cut for the second to begin anew."""
    file = one_file(source / "größe.bin", "größe.bin")
    content_of = file.file.read_bytes()
    first, second = Sender(claim), Sender(claim)
    try:
        first.begin(file)
        first.frame(b"D", content_of)
        while not (claim / file.part).exists():
            time.sleep(0.01)
        second.begin(file)
        time.sleep(0.3)  # it has opened the part, and waits for its lock
        first.frame(b"E", file.sha256().encode())
        assert first.hear() == [1, "ok"]
        time.sleep(0.5)  # it has the lock
        assert (claim / "größe.bin").read_bytes() == content_of
        second.process.close()  # cut
        assert (claim / "größe.bin").read_bytes() == content_of
    finally:
        first.process.close()
        second.process.close()


def test_a_receiver_to_which_nobody_listens_ends_quietly(
    source: Path, claim: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = one_file(source / "größe.bin", "größe.bin")
    sender = Sender(claim)
    assert sender.process._process.stdout is not None
    sender.process._process.stdout.close()
    sender.begin(file)
    sender.frame(b"D", file.file.read_bytes())
    sender.frame(b"E", file.sha256().encode())
    sender.process.close()
    assert (claim / "größe.bin").exists()
    assert capfd.readouterr().err == ""


def test_a_part_that_another_push_is_filling_is_not_removed(source: Path, claim: Path) -> None:
    file = one_file(source / "größe.bin", "größe.bin")
    other = Sender(claim)
    try:
        other.begin(file)
        while not (claim / file.part).exists():
            time.sleep(0.01)
        time.sleep(0.2)  # its lock
        (source / "größe.bin").write_bytes(b"changed")
        Push(
            inlet=LocalInlet(claim),
            files=[one_file(source / "größe.bin", "größe.bin")],
            wait=quickly,
        ).run()
        assert (claim / file.part).exists()
    finally:
        other.process.close()


def test_a_part_that_was_damaged_there_is_sent_anew(source: Path, claim: Path) -> None:
    file = source / "deep/er/large.bin"
    with pytest.raises(ClusterError):
        push(file.parent, claim, cuts=[2_000_000, *[200] * 8])
    (part,) = claim.iterdir()
    part.write_bytes(bytes(1_000_000))
    push(file.parent, claim)
    assert content(claim) == {"large.bin": file.read_bytes()}


def test_links_are_refused_on_both_sides(source: Path, claim: Path, tmp_path: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    (source / "folder").symlink_to("/etc")
    with pytest.raises(UserError, match="2 links"):
        tree(source)
    assert len(tree(source, skip_links=True)) == 302

    (claim / "deep").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"deep/er/large\.bin cannot be written"):
        Push(inlet=LocalInlet(claim), files=tree(source, skip_links=True), wait=quickly).run()
    with pytest.raises(UserError, match="cannot be written"):
        Push(
            inlet=LocalInlet(claim),
            files=tree(source, skip_links=True),
            folder="deep/x",
            wait=quickly,
        ).run()
    assert not (tmp_path / "er").exists()


@pytest.mark.parametrize("name", ["new\nline", "back\\slash", "x" * 241])
def test_names_that_others_would_not_bear_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="is not pushed"):
        tree(tmp_path)


def test_a_server_that_has_forgotten_our_rights_for_a_moment_is_asked_again(
    source: Path, claim: Path
) -> None:
    """As one that restarts; one that has never let us in means it."""

    class Forgetful(CutInlet):
        refuses: tuple[int, ...] = (2, 3)

        @contextlib.contextmanager
        def connect(self, folder: str, only: str) -> Iterator[Channel]:
            if self.connections + 1 in self.refuses:
                self.connections += 1
                raise ClusterError("not allowed", status=403)
            with super().connect(folder, only) as channel:
                yield channel

    inlet = Forgetful(LocalInlet(claim), [1_000_000])
    done = Push(inlet=inlet, files=tree(source), wait=quickly).run()
    assert (inlet.connections, done.cuts) == (4, 3)
    assert content(claim) == content(source)
    never = Forgetful(LocalInlet(claim))
    never.refuses = (1,)
    with pytest.raises(ClusterError, match="not allowed"):
        Push(inlet=never, files=tree(source), wait=quickly).run()


def test_no_file_is_left_out_in_silence(source: Path, claim: Path) -> None:
    """A name that the other end would take for a part of another file."""
    (source / "results.0a1b2c3d.part").write_text("mine")
    with pytest.raises(UserError, match=r"1 unfinished copies: results\.0a1b2c3d\.part"):
        push(source, claim)


def test_a_folder_in_the_place_of_a_file_is_an_error_that_names_it(
    source: Path, claim: Path
) -> None:
    (claim / "größe.bin").mkdir()
    with pytest.raises(UserError, match=r"größe\.bin cannot be written.*folder"):
        push(source, claim)


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path, claim: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    file = one_file(tmp_path / "a", "a")
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(UserError, match="changes while it is pushed"):
        Push(inlet=LocalInlet(claim), files=[file], wait=quickly).run()
    assert not list(claim.iterdir())


@pytest.mark.parametrize(
    ("to", "there"),
    [
        ("data:", "größe.bin"),
        ("data:/x/y", "x/y"),
        ("data:x/", "x/größe.bin"),
        ("data:./x//y.bin", "x/y.bin"),
    ],
)
def test_push_as_typed_names_a_file_or_a_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, there: str
) -> None:
    from launcher.backends.local.state import volume_dir

    volume_dir("data").mkdir(parents=True)
    assert command.run(source / "größe.bin", to, cluster="local", as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "claim": "data",
        "path": there,
        "files": 1,
        "bytes": 500_000,
        "sent": 500_000,
        "there": 0,
        "cuts": 0,
    }
    assert content(volume_dir("data")) == {there: (source / "größe.bin").read_bytes()}


@pytest.mark.parametrize("to", ["data", ":x", "data:../x", "data:a/../../x", "Data:x", "data:a\\b"])
def test_a_place_that_is_none_is_refused(source: Path, to: str) -> None:
    with pytest.raises(UserError):
        command.run(source, to, cluster="local")


def test_a_claim_that_is_not_there_is_told_with_the_next_step(source: Path) -> None:
    with pytest.raises(UserError) as caught:
        command.run(source, "nowhere:", cluster="local")
    assert "volume create" in caught.value.hint


def test_a_folder_without_files_is_no_push(tmp_path: Path) -> None:
    """A wrong folder would else end well, and the training that needs the data would not."""
    (tmp_path / "source" / "deeper").mkdir(parents=True)
    with pytest.raises(UserError, match="source holds no files"):
        command.run(tmp_path / "source", "data:x", cluster="local")


def test_a_file_onto_a_folder_is_told_how_it_goes_into_it(source: Path) -> None:
    from launcher.backends.local.state import volume_dir

    (volume_dir("data") / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="folder of this name") as caught:
        command.run(source / "größe.bin", "data:x", cluster="local")
    assert caught.value.hint.endswith(": x/")
    assert command.run(source / "größe.bin", "data:x/", cluster="local") == 0


def test_one_file_is_said_as_one(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.backends.local.state import volume_dir

    volume_dir("data").mkdir(parents=True)
    command.run(source / "größe.bin", "data:", cluster="local")
    assert capsys.readouterr().err == "1 file, 0.5 MB sent\n"
