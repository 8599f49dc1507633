"""A chunked answer comes out as it went in, however the connection cuts it; an end before its last chunk is no end."""

from __future__ import annotations

import cProfile
import io
import pstats

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backends.kube.chunks import unchunked


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(
        b"%x%s\r\n%s\r\n" % (len(piece), b";a=b" if len(piece) % 3 == 0 else b"", piece)
        for piece in pieces
        if piece
    )


def reader(body: bytes, sizes: list[int]) -> list[bytes]:
    reads, at = [], 0
    for size in sizes * (len(body) + 1):
        if at >= len(body):
            break
        reads.append(body[at : at + size])
        at += size
    return reads


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_data_comes_out_whole(pieces: list[bytes], sizes: list[int]) -> None:
    """Chunk extensions are passed over; what follows the last chunk is left."""
    reads = iter(reader(chunked(pieces) + b"0\r\n\r\n", sizes))
    assert b"".join(unchunked(lambda _: next(reads))) == b"".join(pieces)


ODD_HEADS = st.sampled_from(
    [b"%x", b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a=b", b"%x ", b"%x;\n", b"%x;\r"]
)
PIECES = st.one_of(
    st.sampled_from(
        [
            b"\n",
            b"one line\n",
            b"\r\n",
            b"3\r\n",
            b"5\r\nab\r\n",
            b"0\r\n\r\n",
            b"a\r\n3\r\nb\r\n",
            b"x" * 5000 + b"\n",
        ]
    ),
    st.sampled_from(
        [b"two\nlines\n", b"half", b"half\r", b"\r", b"\n\n", b"\n3\r\n", b"x\n\r\n2\r\ny\n"]
    ),
    st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"") + b"\n"),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(ODD_HEADS, PIECES), max_size=12),
    st.integers(1, 9),
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
)
def test_lines_that_are_chunks_come_out_whole(
    chunks: list[tuple[bytes, bytes]], again: int, sizes: list[int]
) -> None:
    """Also lines that look like chunks, lines in two chunks, two in one, with carriage returns, longer ones, and odd first lines."""
    chunks = chunks * again
    body = (
        b"".join(head % len(piece) + b"\r\n" + piece + b"\r\n" for head, piece in chunks)
        + b"0\r\n\r\n"
    )
    reads = iter(reader(body, sizes))
    assert b"".join(unchunked(lambda _: next(reads))) == b"".join(piece for _, piece in chunks)


def test_lines_that_are_chunks_cost_no_steps_of_their_own() -> None:
    """In one read: a few dozen calls for a thousand lines, where one by one each takes several."""
    body = (
        chunked(
            [b"line %d\n" % number for number in range(10, 1000) if len(b"line %d\n" % number) % 3]
        )
        + b"0\r\n\r\n"
    )
    profile = cProfile.Profile()
    profile.runcall(lambda: list(unchunked(io.BytesIO(body).read)))
    assert pstats.Stats(profile).total_calls < 100  # type: ignore[attr-defined]


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=9),
    st.integers(0, 500),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_a_cut_is_told_and_what_came_before_it_is_given(
    pieces: list[bytes], cut: int, sizes: list[int]
) -> None:
    """At every byte."""
    reads = [*reader(chunked(pieces)[:cut], sizes), b""]
    came = []
    with pytest.raises(ConnectionError, match="ended before"):
        came += list(unchunked(lambda _: reads.pop(0)))
    assert b"".join(pieces).startswith(b"".join(came))


@pytest.mark.parametrize(
    "body",
    [
        b"hello\r\n",
        b"x" * 5000,
        b"-5\r\nabc\r\n",
        b"1_0\r\nabc\r\n",
        b"\r\n",
        b" ;a\r\n",
        b"2\r\na\nXX\r\n0\r\n",
    ],
)
def test_what_is_no_chunk_is_refused(body: bytes) -> None:
    """Not waited for without end."""
    reads = [body]
    with pytest.raises(ConnectionError, match="not made of chunks"):
        list(unchunked(lambda _: reads.pop(0)))
