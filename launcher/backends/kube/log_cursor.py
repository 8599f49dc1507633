"""Exactly once: which lines of a container's log, read in overlapping pieces, are new. Pure; no requests are made here.

    file order   a b c d e f g h        every line as `TIMESTAMP text`
    1st read     a b c d e|             cut in the middle of e: the unterminated e is held back, not shown
    2nd read         c d e f|           asked for since floor(newest) - 2 s: c and d are known, dropped
    last read              f g h        the container has ended: its unterminated last line is shown too

Timestamps alone cannot tell what is new: stdout and stderr together are not in order of time (measured: 86 of
120,000 lines went back). So the lines of the last 5 s are kept as (timestamp, hash), each as often as it came.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache

_SECOND = 1_000_000_000
_REMEMBERED_NS = 5 * _SECOND
_OVERLAP_S = 2  # of each re-read with what was read before; well inside what is remembered
_JITTER_NS = _SECOND // 10  # far more than lines were seen to go back in time
_MOST_REMEMBERED = 40_000  # lines; a bound on memory for logs faster than 8,000 lines a second
LONGEST_LINE = 16 << 20  # bytes; the rest of a longer line is not shown
# the kubelet always writes nine digits
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})(Z|[+-]\d\d:\d\d)(?: |$)")
STAMP = 31  # bytes of such a timestamp and its space
_SHORT = 1 << 10  # bytes; blocks of lines that are longer on average are taken line by line
_BLOCK_LIMIT = 1 << 20  # bytes of one block
_MOST_BYTES = 3 << 20  # of all blocks that are remembered
# What the kubelet sends in place of a log, with status 200 and no timestamp.
_NODE_SAYS = re.compile(
    rb"unable to retrieve container logs for |failed to (try resolving symlinks|create fsnotify|watch)|rpc error: "
)

_Key = tuple[int, int]  # (nanoseconds since the epoch, hash of the text)


@dataclass(frozen=True)
class Entry:
    """One thing to show; `kind` as in LogLine."""

    text: str
    time: str = ""
    kind: str = "line"
    terminated: bool = True  # False: no newline came after it
    # as it was sent, without its newline
    raw: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True)
class Block:
    """Many new lines at once: whole ones, each `TIMESTAMP text`, as they were sent. Every front is STAMP bytes, in UTC."""

    raw: bytes
    lines: int


class LineSplitter:
    """Blocks of bytes in, whole lines without their newline out. Linear in time also for lines of many blocks."""

    def __init__(self, limit: int = LONGEST_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        first, *others = block.split(b"\n")
        self._keep(first)
        if not others:
            return []
        whole = [self.take(), *(line[: self._limit] for line in others[:-1])]
        self._keep(others[-1])
        return whole

    def cut(self, block: bytes) -> bytes:
        """The whole lines up to this block's last newline, in one piece."""
        end = block.rfind(b"\n") + 1
        whole = self.take() + block[:end] if end else b""
        self._keep(block[end:])
        return whole

    def take(self) -> bytes:
        """What has come since the last newline; forgotten afterwards."""
        text = b"".join(self._parts)
        self._parts, self._size = [], 0
        return text

    def _keep(self, part: bytes) -> None:
        room = self._limit - self._size
        if part and room > 0:
            self._parts.append(part[:room])
            self._size += min(len(part), room)


class LogCursor:
    """What has been shown of one container's log. Call `attach` before each read, `feed` with what comes, `finish` or `lost` last.

    `from_start`: the first read begins at the log's first line (no `since`, no `tail`).
    """

    def __init__(self, *, from_start: bool = True, limit: int = LONGEST_LINE) -> None:
        self._limit = limit
        self._splitter = LineSplitter(limit)
        self._whole = from_start  # every line before the newest one is known
        self._recent: deque[_Key] = deque()  # in file order
        # newer than these: (nanoseconds of the last line, lines)
        self._blocks: deque[tuple[int, bytes]] = deque()
        self._block_bytes = 0
        self._newest_ns = 0
        self._last_time = ""
        self._tail = b""  # of an earlier read: shown only if the line never comes whole
        self._expected: Counter[_Key] = Counter()  # known lines that this read may bring again
        # the last line shown; None once it came again (or none was shown)
        self._final: _Key | None = None
        self._asked_ns = 0  # this read was asked to begin here
        self._lead: list[bytes] = []  # text before the first timestamp
        self._led = False
        self._held: list[tuple[_Key, Entry]] = []
        self._node_says = ""

    @property
    def since(self) -> int | None:
        """Second (epoch) from which the next read must start; None: where the first one started."""
        return self._newest_ns // _SECOND - _OVERLAP_S if self._recent or self._blocks else None

    def attach(self) -> None:
        """A read from `since` begins: what it brings again will be dropped."""
        rest = self._splitter.take()
        if rest and self._final is None:
            self._tail = rest
        self._unfold()
        self._expected = Counter(self._recent)
        self._final = self._recent[-1] if self._recent else None
        self._asked_ns = (self.since or 0) * _SECOND
        self._lead, self._led, self._held = [], False, []
        self._node_says = ""

    def feed(self, block: bytes) -> list[Entry]:
        """The new lines that end in this block."""
        entries: list[Entry] = []
        for raw in self._splitter.feed(block):
            self._line(raw, entries)
        return entries

    def feed_many(self, block: bytes) -> list[Entry | Block]:
        """The same, and where all is plain many lines as one."""
        if self._final is not None or self._lead or not self._led:
            return [*self.feed(block)]
        whole = self._splitter.cut(block)
        if not whole:
            return []
        lines = _newlines(whole)
        short = len(whole) <= min(_BLOCK_LIMIT, self._limit, _SHORT * lines)
        last = _last_of_plain(whole) if short else None
        if last is None:
            entries: list[Entry] = []
            for raw in whole[:-1].split(b"\n"):
                self._line(raw[: self._limit], entries)
            return [*entries]
        self._tail = b""
        nanoseconds, self._last_time = last
        self._newest_ns = max(self._newest_ns, nanoseconds)
        self._remember(whole)
        return [Block(whole, lines)]

    def _remember(self, block: bytes) -> None:
        """Lines that were shown, until they are too old or too many."""
        self._blocks.append((self._newest_ns, block))
        self._block_bytes += len(block)
        while (many := self._block_bytes > _MOST_BYTES) or self._blocks[0][
            0
        ] < self._newest_ns - _REMEMBERED_NS:
            self._whole = self._whole and not many
            self._recent.clear()  # older than the blocks
            self._block_bytes -= len(self._blocks.popleft()[1])

    def _unfold(self) -> None:
        """Remember the blocks' lines one by one."""
        for _, block in self._blocks:
            self._recent += map(_key_of_plain, block[:-1].split(b"\n"))
        self._blocks.clear()
        self._block_bytes = 0

    def finish(self) -> list[Entry]:
        """The container has ended and was read to its end: what was held back, the unterminated last line included."""
        entries: list[Entry] = []
        rest = self._splitter.take()
        if rest:
            self._line(rest, entries)
        if self._node_says:
            return [*entries, *self.lost(f"its node says: {self._node_says}")]
        if self._final is not None:
            self._gap(entries)
        self._show_lead(entries)
        if rest and entries and entries[-1].kind != "gap":
            entries[-1] = replace(entries[-1], terminated=False)
        return entries

    def lost(self, why: str) -> list[Entry]:
        """The log cannot be read any more: the unterminated line, marked, and a gap that says why."""
        rest = (self._splitter.take() if self._final is None else b"") or self._tail
        stamped = _parse(rest)
        cut = (
            [Entry(_text(stamped[2]), stamped[1], "truncated", terminated=False, raw=rest)]
            if stamped
            else []
        )
        return [*cut, Entry(why, self._last_time, "gap")]

    def _line(self, raw: bytes, entries: list[Entry]) -> None:
        stamped = _parse(raw)
        # the tail of a line may look like a timestamp
        if stamped is None or (not self._led and stamped[0] < self._asked_ns):
            if not self._glued(raw):
                self._unstamped(raw, entries)
            return
        self._led = True
        nanoseconds, time, text = stamped
        key = (nanoseconds, hash(text))
        if self._expected and self._expected[key] > 0:
            self._known(key)
            return
        if self._glued(raw):
            return
        entry = Entry(
            _text(text), time, "truncated" if len(raw) >= self._limit else "line", raw=raw
        )
        if self._final is not None:
            self._unknown_before_final(key, entry, entries)
            return
        self._show_lead(entries)
        self._show(key, entry, entries)

    def _known(self, key: _Key) -> None:
        self._expected[key] -= 1
        if key == self._final and not self._expected[key]:
            self._final = None
            self._expected = Counter()
            self._lead, self._held = [], []  # all of this came before a line that was shown

    def _unknown_before_final(self, key: _Key, entry: Entry, entries: list[Entry]) -> None:
        """A line not shown yet although the last one shown has not come again: the log was rotated, or this came before our start."""
        assert self._final is not None
        if key[0] < self._final[0] - _JITTER_NS:
            return  # too old to come after it
        if not self._whole:
            self._held.append((key, entry))
        if self._whole or key[0] > self._final[0] + _SECOND:
            self._gap(entries)
        if self._whole:
            self._show(key, entry, entries)

    def _glued(self, raw: bytes) -> bool:
        """Whether a known line stands at the end of this text. A read that begins between the chunks of a line can lose its newline."""
        for stamp in _STAMP.finditer(raw, 1) if self._final is not None else ():
            stamped = _parse(raw[stamp.start() :])
            if stamped and self._expected[stamped[0], hash(stamped[2])] > 0:
                self._known((stamped[0], hash(stamped[2])))
                return True
        return False

    def _unstamped(self, raw: bytes, entries: list[Entry]) -> None:
        """The tail of a line that began before `since`, or a word of the kubelet's own."""
        if _NODE_SAYS.match(raw):
            self._node_says = _text(raw)
        elif self._led and self._final is None:
            entries.append(Entry(_text(raw), self._last_time, "truncated", raw=raw))
        else:
            self._lead.append(raw)

    def _gap(self, entries: list[Entry]) -> None:
        self._final = None
        text = "the cluster rotated or removed what came after the line above"
        entries.append(Entry(text, self._last_time, "gap"))
        self._show_lead(entries)
        for key, entry in self._held:
            self._show(key, entry, entries)
        self._held = []

    def _show_lead(self, entries: list[Entry]) -> None:
        entries += [Entry(_text(raw), self._last_time, "truncated", raw=raw) for raw in self._lead]
        self._lead = []

    def _show(self, key: _Key, entry: Entry, entries: list[Entry]) -> None:
        self._unfold()
        entries.append(entry)
        self._tail = b""
        self._last_time = entry.time
        self._newest_ns = max(self._newest_ns, key[0])
        self._recent.append(key)
        while len(self._recent) > _MOST_REMEMBERED:
            self._whole = False
            self._recent.popleft()
        while self._recent[0][0] < self._newest_ns - _REMEMBERED_NS:
            self._recent.popleft()


def _newlines(block: bytes) -> int:
    """How many. `replace` leaps from one to the next, in a third of the time in which `count` looks at each byte."""
    return len(block) - len(block.replace(b"\n", b""))


def _last_of_plain(block: bytes) -> tuple[int, str] | None:
    """(nanoseconds since the epoch, RFC 3339) of the last of whole lines that `_parse` would all know, of one day and in UTC; else None.

    One look at each byte, and no guess: where one line has no timestamp, another day's, another offset or an hour that does
    not exist, the lines are for the caller to take one by one.
    """
    begin = block.rfind(b"\n", 0, -1) + 1
    last = _parse(block[begin:-1])
    if last is None or not _lines_of(block[begin : begin + len("2026-01-02T")]).fullmatch(block):
        return None
    return last[0], last[1]


def _key_of_plain(raw: bytes) -> _Key:
    """Of one line of such a block."""
    second = _second(raw[:19], b"Z")
    assert second is not None
    return second[0] * _SECOND + int(raw[20:29]), hash(raw[STAMP:])


@lru_cache(maxsize=8)
def _lines_of(day: bytes) -> re.Pattern[bytes]:
    """Whole lines of this day. Its letters are compared as they are, and nothing is tried twice: half the time of `_STAMP`'s classes."""
    clock = rb"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{9}+Z"
    return re.compile(rb"(?:%b%b .*+\n)*+" % (re.escape(day), clock))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _parse(raw: bytes) -> tuple[int, str, bytes] | None:
    """(nanoseconds since the epoch, RFC 3339 in UTC, text), or None when the line has no timestamp."""
    stamp = _STAMP.match(raw)
    second = _second(stamp[1], stamp[3]) if stamp else None
    if stamp is None or second is None:
        return None
    return (
        second[0] * _SECOND + int(stamp[2]),
        f"{second[1]}.{stamp[2].decode()}Z",
        raw[stamp.end() :],
    )


@lru_cache(maxsize=64)
def _second(text: bytes, zone: bytes) -> tuple[int, str] | None:
    """(epoch second, the same in UTC as text) of `2026-01-02T03:04:05` and `Z` or `+02:00`; None when no such moment exists."""
    try:
        moment = datetime.fromisoformat((text + zone).decode()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return int(moment.timestamp()), moment.strftime("%Y-%m-%dT%H:%M:%S")
