"""The data of a chunked HTTP answer in blocks as large as what has arrived, also where a log comes with each line a chunk of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

_BLOCK = 1 << 17  # bytes of one read
_LONGEST_HEAD = 1 << 12  # bytes of a chunk's first line
_LONG_LINE = 1 << 12  # bytes; the chunks of longer lines are taken one by one


def unchunked(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Blocks of data until the last chunk. `read(n)` gives what is there, at most n bytes, and b"" at the connection's end.

    Raises ConnectionError when that comes before the last chunk, or where what comes is no chunk.
    """
    rest = b""
    left = 0  # bytes of this chunk's data and of the line end after it
    while True:
        got = read(_BLOCK)
        if not got:
            raise ConnectionError("the answer ended before its last chunk")
        data = rest + got if rest else got
        rest, at, size, out, fresh = b"", 0, len(data), [], True
        while at < size:
            if left:
                if size - at < left:
                    out.append(data[at : at + max(left - 2, 0)])
                    left -= size - at
                    break
                if left > 2:
                    out.append(data[at : at + left - 2])
                at += left
                left = 0
            if fresh:
                fresh = False
                lines, at = _lines(data, at)
                out.append(lines)
            end = data.find(b"\r\n", at)
            if end < 0:
                rest = data[at:]
                break
            length = _length(data[at:end])
            if not length:
                yield b"".join(out)
                return
            left = length + 2
            at = end + 2
        if len(rest) > _LONGEST_HEAD:
            raise ConnectionError("the answer is not made of chunks")
        block = b"".join(out)
        if block:
            yield block


def _length(head: bytes) -> int:
    """Of a chunk with this first line, which may say more than its length."""
    digits = head.partition(b";")[0].strip()
    try:
        # int() would take signs and underscores, too
        return int(digits if digits.isalnum() else b"", 16)
    except ValueError as error:
        raise ConnectionError(f"the answer is not made of chunks: {head[:40]!r}") from error


def _lines(data: bytes, start: int) -> tuple[bytes, int]:
    r"""(data, where the chunk after them begins) of the whole chunks from `start`, if each is one line; else nothing.

    Cut at its newlines, such an answer is threes of `HEX\r`, the line, and `\r`. That it is one is proved, not guessed: every
    first part must be the length of the second one and its newline, so no other reading of it exists. What the lines say does
    not matter. No step is taken per line in Python.
    """
    lengths = _line_lengths()
    head = data.find(b"\n", start)
    if data.find(b"\n", head + 1) - head - 1 != lengths.get(data[start:head]):
        return b"", start  # as where the chunks are large: nothing to try
    parts = data[start:].split(b"\n")
    whole = (len(parts) - 1) // 3 * 3  # the last part has no newline after it
    lines = parts[1:whole:3]
    if parts[2:whole:3].count(b"\r") != len(lines) or [*map(lengths.get, parts[0:whole:3])] != [
        *map(len, lines)
    ]:
        return b"", start
    lines.append(b"")
    return b"\n".join(lines), len(data) - len(b"\n".join(parts[whole:]))


@cache
def _line_lengths() -> dict[bytes, int]:
    r"""Bytes of a line without its newline, by the first line of its chunk without its `\n`, as Go writes it."""
    return {b"%x\r" % (length + 1): length for length in range(_LONG_LINE)}
