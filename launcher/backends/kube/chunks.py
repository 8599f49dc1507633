"""The data of a chunked HTTP answer in blocks as large as what has arrived, also where a log comes with each line a chunk of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

_BLOCK = 1 << 16
_LONGEST_HEAD = 1 << 12  # bytes of a chunk's first line


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
        rest, at, size, out = b"", 0, len(data), []
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
            end = data.find(b"\r\n", at)
            if end < 0:
                rest = data[at:]
                break
            try:
                length = int(data[at:end], 16)
            except ValueError:
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
    """Of a chunk whose first line says more than its length."""
    try:
        return int(head.partition(b";")[0], 16)
    except ValueError as error:
        raise ConnectionError(f"the answer is not made of chunks: {head[:40]!r}") from error
