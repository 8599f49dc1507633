"""A chunked answer comes out as it went in, however the connection cuts it; an end before its last chunk is no end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.backends.kube.chunks import unchunked


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), b";a=b" if len(piece) % 3 == 0 else b"", piece) for piece in pieces if piece)


def reader(body: bytes, sizes: list[int]) -> list[bytes]:
    reads, at = [], 0
    for size in sizes * (len(body) + 1):
        if at >= len(body):
            break
        reads.append(body[at : at + size])
        at += size
    return reads


@given(st.lists(st.binary(max_size=40), max_size=20), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_data_comes_out_whole(pieces: list[bytes], sizes: list[int]) -> None:
    """Chunk extensions are passed over; what follows the last chunk is left."""
    reads = iter(reader(chunked(pieces) + b"0\r\n\r\n", sizes))
    assert b"".join(unchunked(lambda _: next(reads))) == b"".join(pieces)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=9), st.integers(0, 500), st.lists(st.integers(1, 60), min_size=1))
def test_a_cut_is_told_and_what_came_before_it_is_given(pieces: list[bytes], cut: int, sizes: list[int]) -> None:
    """At every byte."""
    reads = [*reader(chunked(pieces)[:cut], sizes), b""]
    came = []
    with pytest.raises(ConnectionError, match="ended before"):
        came += list(unchunked(lambda _: reads.pop(0)))
    assert b"".join(pieces).startswith(b"".join(came))


@pytest.mark.parametrize("body", [b"hello\r\n", b"x" * 5000])
def test_what_is_no_chunk_is_refused(body: bytes) -> None:
    """Not waited for without end."""
    reads = [body]
    with pytest.raises(ConnectionError, match="not made of chunks"):
        list(unchunked(lambda _: reads.pop(0)))
