"""The log file: whatever way the bytes come, each line is there once, with its time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backends.local.line_log import LineReader, LineWriter, stamp

pieces = st.lists(st.text(alphabet="ab \né\r$", max_size=8).map(str.encode), max_size=12)


@settings(deadline=None, max_examples=60)
@given(pieces)
def test_lines_are_those_of_the_stream_however_it_was_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks).decode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        writer = LineWriter(path)
        reader = LineReader(path, "pod")
        seen = []
        for chunk in chunks:
            writer.feed(chunk)
            seen += list(reader.lines(ended=False))
        assert all(line.terminated for line in seen)
        writer.close()
        seen += list(reader.lines(ended=True))
    *lines, rest = whole.split("\n")
    assert [(line.text, line.terminated) for line in seen] == [
        *((line, True) for line in lines),
        *([(rest, False)] if rest else []),
    ]


def test_a_line_longer_than_memory_is_one_line_again(tmp_path: Path) -> None:
    writer = LineWriter(tmp_path / "log")
    for _ in range(40):
        writer.feed(b"x" * 65536)
    writer.feed(b"end\nnext\n")
    writer.close()
    first, second = LineReader(tmp_path / "log", "pod").lines(ended=True)
    assert first.text == "x" * (40 * 65536) + "end"
    assert second.text == "next"


def test_a_record_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"2026-01-01T00:00:00.000000000Z F one\n2026-01-01T00:00:00.000000000Z F tw")
    reader = LineReader(path, "pod")
    assert [line.text for line in reader.lines(ended=False)] == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n")
    assert [line.text for line in reader.lines(ended=False)] == ["two"]


def test_a_full_disk_loses_lines_and_says_so(tmp_path: Path) -> None:
    """/dev/full is a real full disk; the log is then swapped for one with room."""
    writer = LineWriter(tmp_path / "log")
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(writer._fd)
    os.dup2(full, writer._fd)
    writer.feed(b"lost\n")
    os.dup2(kept, writer._fd)
    writer.feed(b"seen\n")
    writer.close()
    gap, line = LineReader(tmp_path / "log", "pod").lines(ended=True)
    assert gap.kind == "gap"
    assert "lost" in gap.text
    assert line.text == "seen"
    os.close(full)
    os.close(kept)


def test_stamps_have_nanoseconds_and_sort_as_text() -> None:
    assert stamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
