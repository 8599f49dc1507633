"""Following a log over cut connections shows every line once, in order, whatever the cuts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backends.kube.log_cursor import STAMP, Block, Entry, LineSplitter, LogCursor

SECOND = 1_000_000_000
START = 1_795_000_000 * SECOND


@dataclass(frozen=True)
class Chunk:
    """One entry of a container's log file as containerd writes it; a partial one does not end its line."""

    ns: int
    text: bytes
    partial: bool = False


def stamp(ns: int) -> bytes:
    moment = datetime.fromtimestamp(ns // SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % SECOND:09d}Z ".encode()


def served(chunks: Iterable[Chunk], since: int | None = None) -> bytes:
    """What the kubelet sends with timestamps=true: chunks before `since` are left out one by one, so a line may lose its head."""
    sent, new_line = [], True
    for chunk in chunks:
        if since is None or chunk.ns >= since * SECOND:
            sent += [
                stamp(chunk.ns) if new_line else b"",
                chunk.text,
                b"" if chunk.partial else b"\n",
            ]
        new_line = not chunk.partial
    return b"".join(sent)


def whole_lines(chunks: Iterable[Chunk]) -> list[str]:
    return [line.split(b" ", 1)[1].decode() for line in served(chunks).split(b"\n") if line]


def pieces(
    body: bytes, dice: random.Random, sizes: Sequence[int] = (1, 3, 17, 200, 4096)
) -> Iterable[bytes]:
    while body:
        size = dice.choice(sizes)
        yield body[:size]
        body = body[size:]


def read(cursor: LogCursor, body: bytes, dice: random.Random) -> list[Entry]:
    """All that comes, blocks of many lines taken apart."""
    return [entry for piece in pieces(body, dice) for entry in apart(cursor.feed_many(piece))]


def apart(shown: Iterable[Entry | Block]) -> Iterable[Entry]:
    for one in shown:
        if isinstance(one, Block):
            lines = one.raw[:-1].split(b"\n")
            assert len(lines) == one.lines
            yield from (
                Entry(line[STAMP:].decode("utf-8", "replace"), line[: STAMP - 1].decode())
                for line in lines
            )
        else:
            yield one


STEPS = st.sampled_from(
    [0, 1, 1000, 40_000_000, 300_000_000, 900_000_000, 2_500_000_000, 9 * SECOND]
)
TEXTS = st.sampled_from(
    [
        b"",
        b"same",
        b"\r 10%\r 20%",
        "\u00fcber \u0001".encode(),
        b"x",
        b"2026-01-02T03:04:05.000000000Z no",
    ]
)


@st.composite
def logs(draw: st.DrawFn, *, numbered: bool = False) -> list[Chunk]:
    """Time goes on in steps, back a little now and then as stdout and stderr interleave; lines may come in several chunks.

    Numbered: every chunk is a line and differs from all others (two equal lines of one nanosecond cannot be told apart).
    """
    now, chunks = START + draw(st.integers(0, SECOND)), []
    for step in draw(st.lists(STEPS, min_size=1, max_size=40)):
        now += step
        back = draw(st.sampled_from([0, 0, 0, 700, 2_000_000]))
        text = b"%d " % len(chunks) if numbered else b""
        chunks.append(
            Chunk(now - back, text + draw(TEXTS), not numbered and draw(st.integers(0, 5)) == 0)
        )
    return chunks


def follow_with_cuts(
    cursor: LogCursor, chunks: list[Chunk], dice: random.Random, *, first: int = 0
) -> list[Entry]:
    """Reads of a log that grows meanwhile, each cut at a random byte, then the last read of the ended container."""
    shown, there = [], 0
    for _ in range(dice.randrange(6)):
        there = dice.randint(there, len(chunks))
        cursor.attach()
        body = served(
            chunks[first if cursor.since is None else 0 : max(there, first)], cursor.since
        )
        shown += read(cursor, body[: dice.randint(0, len(body))], dice)
    cursor.attach()
    shown += read(
        cursor, served(chunks[first if cursor.since is None else 0 :], cursor.since), dice
    )
    return shown + cursor.finish()


@settings(max_examples=600, deadline=None)
@given(logs(), st.integers(0, 2**32))
def test_every_line_once_in_order_whatever_the_cuts(chunks: list[Chunk], seed: int) -> None:
    """Cut anywhere, any number of times, with an unterminated last line: nothing lost, nothing doubled, nothing marked."""
    shown = follow_with_cuts(LogCursor(), chunks, random.Random(seed))
    assert [entry.text for entry in shown] == whole_lines(chunks)
    assert {entry.kind for entry in shown} <= {"line"}


@settings(max_examples=400, deadline=None)
@given(logs(numbered=True), st.integers(0, 2**32), st.data())
def test_a_tail_stays_a_tail_after_a_cut(
    chunks: list[Chunk], seed: int, data: st.DataObject
) -> None:
    """Re-reading from a time before the tail's start brings older lines: they are not shown."""
    first = data.draw(st.integers(0, len(chunks) - 1))
    shown = follow_with_cuts(LogCursor(from_start=False), chunks, random.Random(seed), first=first)
    assert [entry.text for entry in shown] == whole_lines(chunks[first:])
    assert {entry.kind for entry in shown} <= {"line"}


@settings(max_examples=400, deadline=None)
@given(logs(numbered=True), st.integers(0, 2**32), st.data())
def test_lines_lost_to_rotation_leave_a_mark(
    chunks: list[Chunk], seed: int, data: st.DataObject
) -> None:
    """The file is rotated during a cut: what is left comes once, and where lines were lost a gap says so."""
    dice = random.Random(seed)
    seen, kept = data.draw(st.integers(0, len(chunks))), data.draw(st.integers(0, len(chunks)))
    cursor = LogCursor()
    cursor.attach()
    shown = read(cursor, served(chunks[:seen]), dice)
    cursor.attach()
    shown += read(cursor, served(chunks[kept:], cursor.since), dice)
    shown += cursor.finish()

    lines = [entry.text for entry in shown if entry.kind == "line"]
    assert lines == whole_lines([*chunks[:seen], *chunks[max(seen, kept) :]])
    if 0 < seen < kept:
        assert [entry.kind for entry in shown].count("gap") == 1


def test_the_unterminated_last_line_is_shown_when_the_container_has_ended() -> None:
    """A traceback without a final newline is not lost."""
    cursor = LogCursor()
    cursor.attach()
    body = served(
        [Chunk(START, b"line1"), Chunk(START + 5, b"RuntimeError: CUDA OOM", partial=True)]
    )
    assert [entry.text for entry in cursor.feed(body)] == ["line1"]
    assert [(entry.text, entry.terminated) for entry in cursor.finish()] == [
        ("RuntimeError: CUDA OOM", False)
    ]


def test_a_deleted_pod_gives_its_last_words_marked_and_a_gap() -> None:
    """What had come of an unfinished line is shown even when its log can never be read again."""
    cursor = LogCursor()
    cursor.attach()
    cursor.feed(served([Chunk(START, b"line1"), Chunk(START + 5, b"half", partial=True)]))
    cursor.attach()
    half, gap = cursor.lost("pod p was deleted")
    assert (half.text, half.kind) == ("half", "truncated")
    assert gap.kind == "gap"
    assert "pod p was deleted" in gap.text


def test_what_the_node_says_in_place_of_a_log_is_no_line_of_the_log() -> None:
    """The kubelet answers for a removed container with a sentence and status 200."""
    cursor = LogCursor()
    cursor.attach()
    cursor.feed(served([Chunk(START, b"line1")]))
    cursor.attach()
    assert cursor.feed(b"unable to retrieve container logs for containerd://ce231b") == []
    (gap,) = cursor.finish()
    assert gap.kind == "gap"
    assert "unable to retrieve" in gap.text


def test_the_head_of_a_line_that_began_before_the_start_is_marked() -> None:
    """`--since` inside a long line gives its tail without a timestamp: shown as truncated, then whole lines."""
    cursor = LogCursor(from_start=False)
    cursor.attach()
    entries = cursor.feed(b"ail of a line\n" + served([Chunk(START, b"next")]))
    assert [(entry.text, entry.kind) for entry in entries] == [
        ("ail of a line", "truncated"),
        ("next", "line"),
    ]


def test_times_come_back_in_utc_with_nanoseconds() -> None:
    """A node in another time zone stamps with its own offset."""
    cursor = LogCursor()
    cursor.attach()
    (entry,) = cursor.feed(b"2026-11-21T12:00:00.500000000+02:00 hello\n")
    assert entry == Entry("hello", "2026-11-21T10:00:00.500000000Z", "line")


def test_text_that_only_looks_like_a_timestamp_does_no_harm() -> None:
    """A moment that does not exist is text."""
    cursor = LogCursor()
    cursor.attach()
    entries = cursor.feed(b"2026-13-45T99:00:00.000000000Z odd\n" + served([Chunk(START, b"next")]))
    assert [entry.text for entry in entries] == ["2026-13-45T99:00:00.000000000Z odd", "next"]


ODD_LINES = [
    b"",
    b"no timestamp",
    b"2026-11-21T",
    b"2026-11-21T16:00:01 no fraction",
    b"2026-11-21T16:00:01.123456789Z",
    b"2026-11-21T16:00:01.123456789Zno space",
    b"2026-11-21T16:00:01.12345678Z eight digits",
    b"2026-11-21T16:00:01.1234567890Z ten",
    b"2026-11-21T16:00:01.000000000+02:00 another offset",
    b"2026-11-21T16:00:01,000000000Z a comma",
    b"2026-11-21 16:00:01.000000000Z a space",
    b"2026-W47-6T16:00:01.000000000Z a week",
    b"2026-11-21T24:00:00.000000000Z no such hour",
    b"2026-11-21T29:00:00.000000000Z no such hour",
    b"2026-11-21T16:60:00.000000000Z no such minute",
    b"2026-11-21T16:00:60.000000000Z no such second",
    b"2026-11-31T16:00:00.000000000Z no such day",
    "2026-11-21T1\u0666:00:00.000000000Z no such digit".encode(),
    b"2026-11-22T00:00:00.000000000Z the next day",
    b"2026-11-20T23:59:59.000000000Z the day before",
    b"2026-11-21T16:00:02.000000000Z 2026-11-21T16:00:01.000000000Z twice",
    b"rpc error: code = Unknown",
    b"\r2026-11-21T16:00:01.000000000Z after a carriage return",
]
DAY = 1_795_219_200 * SECOND  # 2026-11-21 00:00 UTC
PLAIN_LINES = st.builds(
    lambda ns, text: stamp(DAY + ns) + text.replace(b"\n", b""),
    st.integers(0, 86_400 * SECOND - 1) | st.integers(86_399 * SECOND, 86_401 * SECOND),
    st.binary(max_size=20) | st.sampled_from([b"same", b"\r 10%\r", b"x" * 3000]),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PLAIN_LINES, min_size=1, max_size=20),
    st.lists(st.sampled_from(ODD_LINES), max_size=2),
    st.integers(0, 2**32),
    st.sampled_from([500, 1 << 24]),
)
def test_many_lines_at_once_are_what_they_are_one_by_one(
    lines: list[bytes], odd: list[bytes], seed: int, limit: int
) -> None:
    """Whatever lies among them, in whatever order, and wherever the blocks are cut: in words, times and marks."""
    dice = random.Random(seed)
    for line in odd:
        lines.insert(dice.randrange(len(lines)), line)
    body = b"".join(line + b"\n" for line in [stamp(START) + b"first", *lines])
    slow, fast = LogCursor(limit=limit), LogCursor(limit=limit)
    slow.attach()
    fast.attach()
    for piece in pieces(body, dice, (100, 1000, 10_000)):
        assert list(apart(fast.feed_many(piece))) == slow.feed(piece)
    assert fast.finish() == slow.finish()


@pytest.mark.parametrize("odd", ODD_LINES)
def test_one_odd_line_among_plain_ones_is_seen(odd: bytes) -> None:
    """In a block that begins and ends with plain lines of its day."""
    plain = b"".join(stamp(DAY + number) + b"text\n" for number in range(3))
    slow, fast = LogCursor(), LogCursor()
    for cursor in (slow, fast):
        cursor.attach()
        cursor.feed(plain)
    assert list(apart(fast.feed_many(plain + odd + b"\n" + plain))) == slow.feed(
        plain + odd + b"\n" + plain
    )


def test_plain_lines_come_as_one() -> None:
    """What a follow's speed rests on."""
    cursor = LogCursor()
    cursor.attach()
    cursor.feed_many(served([Chunk(START, b"first")]))
    body = served([Chunk(START + number, b"train Loss: 0.07 \xff\r") for number in range(1000)])
    assert cursor.feed_many(body) == [Block(body, 1000)]


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 2**32))
def test_splitter_gives_back_what_went_in(lines: list[bytes], seed: int) -> None:
    """However the bytes are cut into blocks, lines come out whole, carriage returns untouched."""
    body = b"\n".join(lines)
    splitter, out = LineSplitter(), []
    for piece in pieces(body, random.Random(seed)):
        out += splitter.feed(piece)
    assert [*out, splitter.take()] == body.split(b"\n")


def test_a_line_longer_than_the_limit_is_cut_and_marked() -> None:
    """Memory stays bounded, the next line comes whole, and a second read knows the cut line again."""
    body = served([Chunk(START, b"x" * 5000), Chunk(START + 1, b"next")])
    cursor = LogCursor(limit=1000)
    cursor.attach()
    entries = [
        entry
        for start in range(0, len(body), 64)
        for entry in cursor.feed(body[start : start + 64])
    ]
    assert [(len(entry.text), entry.kind) for entry in entries] == [(969, "truncated"), (4, "line")]
    cursor.attach()
    assert [
        entry
        for start in range(0, len(body), 300)
        for entry in cursor.feed(body[start : start + 300])
    ] == []


def test_a_megabyte_line_in_small_blocks_is_linear() -> None:
    """Eight megabytes in 1 KiB blocks: joined once, not at each block."""
    splitter = LineSplitter()
    for _ in range(8192):
        assert splitter.feed(b"x" * 1024) == []
    (line,) = splitter.feed(b"\n")
    assert len(line) == 8192 * 1024


@pytest.mark.slow
def test_a_log_faster_than_memory_allows_is_still_shown_once() -> None:
    """120,000 lines within one second: more than are remembered, and a cut, yet none doubled or lost."""
    chunks = [Chunk(START + number, str(number).encode()) for number in range(120_000)]
    body = served(chunks)
    cursor = LogCursor()
    cursor.attach()
    dice = random.Random(0)
    shown = read(cursor, body[: len(body) * 9 // 10], dice)
    cursor.attach()
    shown += read(cursor, body, dice)
    shown += cursor.finish()
    assert [entry.text for entry in shown] == [str(number) for number in range(120_000)]
