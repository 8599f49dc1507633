"""Fetching: cuts cost nothing, changed files start over, names cannot lead out, and no half file has its final name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.backend_base import RemoteFile
from launcher.backends.local.files import LocalFiles
from launcher.errors import AdmissionError, ClusterError, UserError
from launcher.fetching import Vanished, fetch, fetch_each, local_path

quick = settings(deadline=None, max_examples=60)


@dataclass
class FlakyVolume:
    """Files in memory over a bad line: `cuts` are bytes that each next read may deliver; `changes` happen after that many reads."""

    content: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    changes: dict[int, bytes] = field(default_factory=dict)
    version: int = 1
    reads: int = 0
    sent: int = 0
    most: int = 0  # reads at once
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def list(self) -> list[RemoteFile]:
        return [
            RemoteFile(path=path, size=len(data), mtime_ns=self.version)
            for path, data in sorted(self.content.items())
        ]

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        with self.lock:
            self.reads += 1
            self.now += 1
            self.most = max(self.most, self.now)
            if self.reads in self.changes:
                self.content[path] = self.changes[self.reads]
                self.version += 1
            data = self.content[path][offset : offset + length]
            room = self.cuts.pop(0) if self.cuts else len(data) + 1
        try:
            for start in range(0, min(len(data), room), 7):
                block = data[start : min(start + 7, room)]
                with self.lock:
                    self.sent += len(block)
                yield block
            if room <= len(data):
                raise ClusterError("connection reset")
        finally:
            with self.lock:
                self.now -= 1

    def sha256(self, path: str, length: int | None = None) -> str:
        return hashlib.sha256(self.content[path][:length]).hexdigest()

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:  # noqa: ARG002
        return {}  # one by one: what these tests are about


def quickly(_: float) -> None:
    """Instead of waiting between attempts."""


@pytest.fixture(params=[32 << 20, 16], ids=["in one range", "in ranges of 16 bytes"])
def ranges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.fetching._RANGE", request.param)
    monkeypatch.setattr("launcher.fetching._NOTE_EVERY", 8)


quick_in_ranges = settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if ".part" in path.name]


@pytest.mark.usefixtures("ranges")
@quick_in_ranges
@given(st.binary(max_size=200), st.lists(st.integers(0, 60), max_size=5))
def test_after_any_cuts_the_file_is_whole_and_nothing_was_sent_twice(
    data: bytes, cuts: list[int]
) -> None:
    volume = FlakyVolume({"a/b.bin": data}, list(cuts))
    with tempfile.TemporaryDirectory() as folder:
        (file,) = fetch(volume, volume.list(), Path(folder), wait=quickly)
        assert file.read_bytes() == data
        assert leftovers(Path(folder)) == []
    assert volume.sent == len(data)


@pytest.mark.usefixtures("ranges")
@quick_in_ranges
@given(
    st.binary(max_size=100),
    st.dictionaries(st.integers(1, 6), st.binary(max_size=120), max_size=3),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_a_file_that_changes_meanwhile_is_never_mixed(
    data: bytes, changes: dict[int, bytes], cuts: list[int]
) -> None:
    volume = FlakyVolume({"a": data}, list(cuts), changes)
    with tempfile.TemporaryDirectory() as folder:
        fetch(volume, volume.list(), Path(folder), wait=quickly)
        result = (Path(folder) / "a").read_bytes()
    assert result in (data, *changes.values())
    assert result == volume.content["a"] or volume.reads < max(changes)


@pytest.mark.usefixtures("ranges")
@quick_in_ranges
@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_later_fetch_goes_on_where_the_first_was_cut(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    volume = FlakyVolume({"a": data}, [at, *[0] * 20])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with pytest.raises(ClusterError, match="cut"):
            fetch(volume, volume.list(), out, wait=quickly)
        assert not (out / "a").exists(), "a half file must not have its final name"
        volume.cuts = []
        fetch(volume, volume.list(), out, wait=quickly)
        assert (out / "a").read_bytes() == data
    assert volume.sent == len(data)


def test_a_large_file_comes_in_ranges_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Far(FlakyVolume):
        def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
            for block in super().read(path, offset, length):
                time.sleep(0.002)
                yield block

    monkeypatch.setattr("launcher.fetching._RANGE", 50)
    volume = Far({"a": os.urandom(1000)})
    seen: list[int] = []
    (file,) = fetch(volume, volume.list(), tmp_path, seen.append)
    assert file.read_bytes() == volume.content["a"]
    assert (volume.reads, volume.sent, volume.most) == (20, 1000, 3)
    assert seen == sorted(seen)


def test_what_no_second_try_would_mend_ends_all_ranges_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forbidding(FlakyVolume):
        def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
            if offset == 50:
                raise AdmissionError("pods/exec is forbidden")
            for block in super().read(path, offset, length):
                time.sleep(0.01)
                yield block

    monkeypatch.setattr("launcher.fetching._RANGE", 50)
    volume = Forbidding({"a": b"x" * 5000})
    with pytest.raises(AdmissionError):
        fetch(volume, volume.list(), tmp_path, wait=quickly)
    assert volume.sent < 100
    assert volume.now == 0


def test_a_killed_fetch_asks_again_for_what_it_had_not_noted_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges arrive out of order; the note is all that a process that was killed leaves behind."""
    monkeypatch.setattr("launcher.fetching._RANGE", 50)
    volume = FlakyVolume({"a": os.urandom(200)})
    (tmp_path / "a.part").write_bytes(bytes(150) + volume.content["a"][150:180])
    (tmp_path / "a.part.json").write_text(
        json.dumps({"size": 200, "mtime_ns": 1, "have": [[150, 180]]})
    )
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == volume.content["a"]
    assert volume.sent == 170


@pytest.mark.parametrize("have", [[[0, 99]], [[5, 2]], [[-1, 3]], [[0, "3"]], [0, 3], None, {}])
def test_a_note_that_cannot_be_true_is_not_trusted(tmp_path: Path, have: object) -> None:
    volume = FlakyVolume({"a": b"0123456789"})
    (tmp_path / "a.part").write_bytes(b"01234")
    (tmp_path / "a.part.json").write_text(json.dumps({"size": 10, "mtime_ns": 1, "have": have}))
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def cut_once(volume: FlakyVolume, out: Path, at: int) -> None:
    volume.cuts = [at, *[0] * 20]
    with pytest.raises(ClusterError):
        fetch(volume, volume.list(), out, wait=quickly)
    volume.cuts = []


def test_a_file_changed_between_two_fetches_starts_over(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"old" * 20})
    cut_once(volume, tmp_path, 30)
    volume.content["a"], volume.version, volume.sent = b"new" * 20, 2, 0
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"new" * 20
    assert volume.sent == 60


def test_a_part_that_was_damaged_here_starts_over(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"0123456789" * 6})
    cut_once(volume, tmp_path, 30)
    (tmp_path / "a.part").write_bytes(bytes(30))  # as a power cut may leave it
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 6


def test_a_part_without_its_note_is_not_trusted(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"0123456789" * 6})
    cut_once(volume, tmp_path, 30)
    (tmp_path / "a.part.json").write_text("{")
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 6


def test_a_log_that_grows_is_not_read_again_from_its_start(tmp_path: Path) -> None:
    volume = FlakyVolume({"train.log": b"line\n" * 100})
    listed = volume.list()
    volume.content["train.log"] += b"more\n" * 10
    volume.version = 2
    fetch(volume, listed, tmp_path)
    assert (tmp_path / "train.log").read_bytes() == volume.content["train.log"]
    assert volume.sent == 550


@pytest.mark.parametrize(
    "path", ["train.log", "trials/0001/metrics.jsonl", "tensorboard/events.out.tfevents.1.host.2.0"]
)
def test_a_log_that_never_stops_growing_is_fetched_as_it_was_a_moment_ago(
    tmp_path: Path, path: str
) -> None:
    class Growing(FlakyVolume):
        def sha256(self, path: str, length: int | None = None) -> str:
            self.content[path] += b"one more line\n"
            self.version += 1
            return super().sha256(path, length)

    volume = Growing({path: b"first\n"})
    (file,) = fetch(volume, volume.list(), tmp_path, wait=quickly)
    assert file.read_bytes().startswith(b"first\none more line\n")
    assert volume.content[path].startswith(file.read_bytes())

    other = Growing({"weights.bin": b"first\n"})
    with pytest.raises(UserError, match="keeps changing"):
        fetch(other, other.list(), tmp_path, wait=quickly)


def test_what_is_here_already_is_not_sent_again(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"x" * 50, "b": b"y" * 50})
    fetch(volume, volume.list(), tmp_path)
    (tmp_path / "b").write_bytes(b"z" * 50)
    volume.sent = 0
    first, second = fetch_each(volume, volume.list(), tmp_path)
    assert (first.transferred, second.transferred, volume.sent) == (0, 50, 50)
    assert second.sha256 == hashlib.sha256(b"y" * 50).hexdigest()
    assert (tmp_path / "b").read_bytes() == b"y" * 50


def test_a_file_that_never_holds_still_is_given_up(tmp_path: Path) -> None:
    volume = FlakyVolume(
        {"a": b"0"}, changes={number: str(number % 10).encode() for number in range(1, 50)}
    )
    volume.sha256 = lambda *_: "0" * 64  # type: ignore[method-assign]
    with pytest.raises(UserError, match="keeps changing"):
        fetch(volume, volume.list(), tmp_path, wait=quickly)
    assert not (tmp_path / "a").exists()


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"0123"}, [2, 0])
    listed = volume.list()
    volume.list = list  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match="a was removed"):
        fetch(volume, listed, tmp_path, wait=quickly)


@pytest.mark.parametrize(
    "moment", ["before it is read", "while it is read", "before it is verified"]
)
def test_of_several_files_one_that_vanishes_is_left_out_and_told(
    tmp_path: Path, moment: str
) -> None:
    """A run that trains removes its older states: `fetch all` brings the rest, and leaves no part of what is gone."""

    class Training(FlakyVolume):
        def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
            self._end(path, "before it is read")
            for block in super().read(path, offset, length):
                yield block
                self._end(path, "while it is read")

        def sha256(self, path: str, length: int | None = None) -> str:
            self._end(path, "before it is verified")
            return super().sha256(path, length)

        def _end(self, path: str, when: str) -> None:
            if path == "b" and when == moment:
                self.content.pop(path, None)
            if path not in self.content:
                raise ClusterError(f"No such file: {path}")

    volume = Training({"a": b"0" * 20, "b": b"1" * 20, "c": b"2" * 20})
    told: list[Vanished] = []
    done = list(fetch_each(volume, volume.list(), tmp_path, gone=told.append, wait=quickly))
    assert [each.path for each in done] == ["a", "c"]
    assert [each.message.split()[0] for each in told] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_refusal_is_not_retried(tmp_path: Path) -> None:
    class Refused(FlakyVolume):
        def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
            self.reads += 1
            raise AdmissionError(f"pods/exec is forbidden: {path} {offset} {length}")
            yield b""

    volume = Refused({"a": b"0123"})
    with pytest.raises(AdmissionError):
        fetch(volume, volume.list(), tmp_path, wait=quickly)
    assert volume.reads == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "C:x",
        "x" * 300,
        "a.part",
        "a.part.json",
    ],
)
def test_hostile_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    volume = FlakyVolume({"fine": b"1", name: b"2"})
    with pytest.raises(UserError):
        fetch(volume, volume.list(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text(max_size=12))
def test_no_name_leads_out(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        try:
            path = local_path(out, name)
        except UserError:
            return
        assert path.resolve().is_relative_to(out.resolve())
        assert path != out


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    (out / "file").symlink_to(elsewhere / "file")
    (out / "b.part").symlink_to(elsewhere / "b")
    for name in ("sub/a", "file", "b"):
        volume = FlakyVolume({name: b"1"})
        with pytest.raises(UserError):
            fetch(volume, volume.list(), out)
    assert list(elsewhere.iterdir()) == []


def test_two_fetches_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """The second is told, as long as the first holds the part."""
    outer = FlakyVolume({"a": b"1" * 20})
    inner = FlakyVolume({"a": b"1" * 20})

    class During(FlakyVolume):
        def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
            with pytest.raises(UserError, match="another fetch"):
                fetch(inner, inner.list(), tmp_path)
            return super().read(path, offset, length)

    outer = During({"a": b"1" * 20})
    fetch(outer, outer.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"1" * 20


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    volume = FlakyVolume({"a": b"1"})
    with pytest.raises(UserError, match="is a folder here"):
        fetch(volume, volume.list(), tmp_path)


def test_what_the_disk_here_refuses_is_a_sentence(tmp_path: Path) -> None:
    volume = FlakyVolume({"a/b": b"1"})
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a").write_text("")
    for out, why in {
        "file": "Not a directory",
        "file/x": "Not a directory",
        "taken": "File exists",
    }.items():
        with pytest.raises(UserError, match=f"cannot be written: {why}"):
            fetch(volume, volume.list(), tmp_path / out)


def test_a_disk_without_locks_takes_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lustre mounted without flock."""

    def refused(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("launcher.fetching.fcntl.flock", refused)
    volume = FlakyVolume({"a": b"123"}, cuts=[1])
    fetch(volume, volume.list(), tmp_path, wait=quickly)
    assert (tmp_path / "a").read_bytes() == b"123"


def test_a_connection_that_stays_away_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    class Away(FlakyVolume):
        def sha256(self, path: str, length: int | None = None) -> str:  # noqa: ARG002
            raise ConnectionResetError("reset by peer")

    volume = Away({"a": b"123"})
    with pytest.raises(ClusterError, match="cut 6 times in a row: reset by peer"):
        fetch(volume, volume.list(), tmp_path, wait=quickly)


def test_too_little_space_is_said_before_the_first_byte(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"1"})
    huge = RemoteFile(path="a", size=1 << 60, mtime_ns=1)
    with pytest.raises(UserError, match="too little space"):
        fetch(volume, [huge], tmp_path / "out")
    assert volume.reads == 0


def test_what_has_arrived_needs_no_room_and_what_will_be_replaced_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = FlakyVolume({"a": b"0123456789"})
    cut_once(volume, tmp_path, 8)
    monkeypatch.setattr("launcher.fetching.shutil.disk_usage", lambda _: SimpleNamespace(free=3))
    fetch(volume, volume.list(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    volume.content["a"] = b"another of 17 bytes"
    with pytest.raises(UserError, match="too little space"):
        fetch(volume, volume.list(), tmp_path)


def test_progress_counts_up_to_the_whole(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"1" * 20, "b": b"2" * 30}, [10])
    seen: list[int] = []
    fetch(volume, volume.list(), tmp_path, seen.append, wait=quickly)
    assert seen == sorted(seen)
    assert seen[-1] == 50


def test_the_note_beside_a_part_says_which_file_it_is_of(tmp_path: Path) -> None:
    volume = FlakyVolume({"a": b"0123456789"})
    cut_once(volume, tmp_path, 4)
    assert json.loads((tmp_path / "a.part.json").read_text()) == {
        "size": 10,
        "mtime_ns": 1,
        "have": [[0, 4]],
    }
    assert (tmp_path / "a.part").read_bytes() == b"0123"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir()
    with (source / "big").open("wb") as file:
        file.truncate(100 << 20)
    files = LocalFiles(source)
    tracemalloc.start()
    fetch(files, files.list(), tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert (tmp_path / "out" / "big").stat().st_size == 100 << 20
