"""Copies files of this machine onto a claim: packed into one stream, verified where they arrive, and never sent twice.

What is there already is asked first (names, sizes, times), so that a later push, or this one after a cut, sends only what is missing: files
of equal size and time are taken as there, those of equal size are compared by digest, and a part goes on from its last byte. At the other
end `receiving.py` writes; it needs Python and nothing else. Memory grows with the number of files, not with their bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from launcher.backend_base import Channel, Inlet, RemoteFile
from launcher.errors import ClusterError, UserError
from launcher.push_source import LocalFile, part_name, parts_of

_BLOCK = 1 << 17  # bytes of a frame of data, and of one message
_AHEAD_BYTES = 16 << 20  # sent before the other end says that it has them
_AHEAD_FILES = 500
_TRIES = 6  # cuts in a row without a single new byte
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 20.0
_DAMAGED = 3  # times that one file may arrive damaged
# final, but of a server that has just let us in: one that restarts knows nobody's rights for a
# moment
_REFUSED = (401, 403)
_SPOILT = 422  # final
_POD_GONE = (404, 500)  # between the look at the helper pod and the connection to it
_SAME_TIME_NS = 1000  # some file systems keep microseconds


@dataclass(kw_only=True)
class Pushed:
    """What a push did."""

    files: int = 0  # that are there now, whole and verified
    bytes: int = 0
    sent: int = 0  # bytes of content that crossed the wire
    there: int = -1  # files that were there already; -1 before they were looked at
    cuts: int = 0


@dataclass(kw_only=True)
class _Far:
    """What the folder of the claim holds."""

    files: dict[str, RemoteFile] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)  # path of a part -> its size
    free: int = 0


@dataclass(frozen=True, kw_only=True)
class Push:
    """Files that go below one folder of a claim."""

    inlet: Inlet
    files: Sequence[LocalFile]
    folder: str = ""
    only: str = ""  # the one name that is asked about; "" = all
    progress: Callable[[int], None] = lambda _done: None
    wait: Callable[[float], None] = time.sleep

    def run(self) -> Pushed:
        """Until all files are there.

        UserError for what cannot be written, or changes meanwhile; ClusterError when the connection does not come back (what has
        arrived is kept).
        """
        done = Pushed(files=len(self.files), bytes=sum(file.size for file in self.files))
        damaged: dict[str, int] = {}
        cuts = 0
        was_in = False
        while True:
            before = done.sent
            stream: _Stream | None = None
            try:
                with self.inlet.connect(self.folder, self.only) as channel:
                    stream = _Stream(channel, self, done, damaged)
                    stream.run()
                    return done
            except (ClusterError, ConnectionError, TimeoutError) as error:
                if isinstance(error, ClusterError) and _is_final(
                    error, connected=stream is not None, was_in=was_in
                ):
                    raise
                was_in = was_in or stream is not None
                cuts = 0 if stream and stream.arrived and done.sent > before else cuts
                cuts += 1
                done.cuts += 1
                if cuts == _TRIES:
                    hint = "run the same again: it goes on from there"
                    raise ClusterError(
                        f"the connection was cut {cuts} times in a row: {error}", hint=hint
                    ) from error
            self.wait(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (cuts - 1)))


class _Stream:
    """One connection's share of a push."""

    def __init__(self, channel: Channel, push: Push, done: Pushed, damaged: dict[str, int]) -> None:
        self.channel = channel
        self.push = push
        self.done = done
        self.damaged = damaged
        self.arrived = False  # the other end has answered about data
        self.out = bytearray()
        self.rest = b""
        self.streamed = self.acknowledged = 0  # bytes of content
        self.waiting: dict[int, LocalFile] = {}  # files that the other end has not answered about
        self.again: list[LocalFile] = []
        self.differ: list[LocalFile] = []
        self.finished = False
        self.placed = 0  # bytes that are there or on their way, for the progress bar
        self.sent_files = 0

    def run(self) -> None:
        """Until all files are there."""
        far = self._look()
        missing, alike = self._plan(far)
        for file in alike:
            self._ask(file)
        self._settle()
        missing = [*missing, *self.differ]
        self._require_space(missing, far)
        if self.done.there < 0:
            self.done.there = len(self.push.files) - len(missing)
        self.placed = self.done.bytes - sum(file.size - _have(file, far) for file in missing)
        self.push.progress(self.placed)
        while missing:
            for file in missing:
                self._send(file, far)
            self._settle()
            missing, self.again = self.again, []
            far = _Far(files=far.files)  # what arrived damaged was thrown away
        self._frame(b"Q", b"")
        self._flush()
        while not self.finished:
            self._hear(wait=True)

    def _look(self) -> _Far:
        far = _Far()
        while not far.free:
            for answer in self._answers(wait=True):
                if answer[0] == "ready":
                    far.free = max(1, int(answer[1]))
                elif answer[0] == "file" and part_name.fullmatch(answer[1]):
                    far.parts[answer[1]] = int(answer[2])
                elif answer[0] != "file":
                    self._take(answer)
                else:
                    far.files[answer[1]] = RemoteFile(
                        path=answer[1], size=int(answer[2]), mtime_ns=int(answer[3])
                    )
        return far

    def _plan(self, far: _Far) -> tuple[list[LocalFile], list[LocalFile]]:
        """(files to send, files of equal size to compare); all others are there."""
        missing, alike = [], []
        for file in self.push.files:
            there = far.files.get(file.path)
            if there is None or there.size != file.size:
                missing.append(file)
            elif abs(there.mtime_ns - file.mtime_ns) >= _SAME_TIME_NS:
                alike.append(file)
        return missing, alike

    def _require_space(self, missing: Sequence[LocalFile], far: _Far) -> None:
        needed = sum(file.size - _have(file, far) for file in missing) - far.free
        if needed > 0:
            raise UserError(
                f"the claim has too little space: {needed / (1 << 30):.2f} GiB are missing",
                hint="free some, or push less",
            )

    def _ask(self, file: LocalFile) -> None:
        n = self._number(file)
        self._frame(b"C", _json(n=n, path=file.path, mtime_ns=file.mtime_ns, sha256=file.sha256()))
        self._pace()

    def _send(self, file: LocalFile, far: _Far) -> None:
        """The file from where its part ends. Its digest goes last, so it is read only once."""
        part = file.part
        offset = _have(file, far)
        stale = [
            name.rpartition("/")[2]
            for name in parts_of(file.path, far.parts)
            if name.rpartition("/")[2] != part
        ]
        n = self._number(file)
        self._frame(
            b"F",
            _json(
                n=n, path=file.path, part=part, offset=offset, mtime_ns=file.mtime_ns, stale=stale
            ),
        )
        digest = hashlib.sha256()
        for block in file.read():
            digest.update(block)
            fresh = memoryview(block)[offset:] if offset < len(block) else memoryview(b"")
            offset = max(0, offset - len(block))
            if len(fresh):
                self._frame(b"D", fresh)
                self.streamed += len(fresh)
                self.done.sent += len(fresh)
                self.placed += len(fresh)
                self._pace()
                self.push.progress(self.placed)
        if not file.unchanged():
            self._frame(b"A", b"")
            self._flush()
            raise UserError(
                f"{file.file} changes while it is pushed",
                hint="push it again when nobody writes it",
            )
        self._frame(b"E", digest.hexdigest().encode())
        self._pace()

    def _number(self, file: LocalFile) -> int:
        self.sent_files += 1
        self.waiting[self.sent_files] = file
        return self.sent_files

    def _frame(self, kind: bytes, data: bytes | memoryview) -> None:
        self.out += struct.pack(">cI", kind, len(data))
        self.out += data
        if len(self.out) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        """Send; when that fails, the other end may have said why."""
        data, self.out = bytes(self.out), bytearray()
        try:
            self.channel.send(data)
        except (ClusterError, OSError):
            with suppress(ClusterError, OSError):
                while True:
                    self._hear(wait=True)
            raise

    def _pace(self) -> None:
        """Never so far ahead that unheard answers could block the other end."""
        if self.out:
            self._hear(wait=False)
        while self.streamed - self.acknowledged > _AHEAD_BYTES or len(self.waiting) > _AHEAD_FILES:
            self._flush()
            self._hear(wait=True)

    def _settle(self) -> None:
        """Wait for the answers about everything that was sent."""
        self._flush()
        while self.waiting:
            self._hear(wait=True)

    def _hear(self, *, wait: bool) -> None:
        for answer in self._answers(wait=wait):
            self._take(answer)

    def _take(self, answer: list[Any]) -> None:
        if answer[0] == "done":
            self.finished = True
            return
        if answer[0] == "at":
            self.acknowledged = int(answer[1])
            self.arrived = True
            return
        file = self.waiting.pop(int(answer[0]), None)
        if file is None or answer[1] == "error":
            where = (
                "/".join(part for part in (self.push.folder, file.path if file else "") if part)
                or "its top"
            )
            into = bool(self.push.only) and "folder of this name" in str(answer[2])
            hint = (
                f"PATH ends in / to put it into that folder: {where}/"
                if into
                else "what has arrived is kept; mend it and run the same"
            )
            raise UserError(f"{where} cannot be written on the claim: {answer[2]}", hint=hint)
        self.arrived = True
        if answer[1] == "differs":
            self.differ.append(file)
        if answer[1] == "bad":
            self.damaged[file.path] = self.damaged.get(file.path, 0) + 1
            if self.damaged[file.path] == _DAMAGED:
                raise ClusterError(
                    f"{file.path} arrived damaged {_DAMAGED} times",
                    hint="check the network, and the volume",
                    status=_SPOILT,
                )
            self.placed -= file.size
            self.again.append(file)
        if not self.waiting:
            self.acknowledged = self.streamed

    def _answers(self, *, wait: bool) -> Iterator[list[Any]]:
        """Whole lines that have come; with `wait` at least one message is waited for."""
        data = self.channel.receive(wait=wait)
        if data is None:
            return
        if not data:
            raise ConnectionError("the other end has gone")
        *lines, self.rest = (self.rest + data).split(b"\n")
        yield from (json.loads(line) for line in lines if line.strip())


def _is_final(error: ClusterError, *, connected: bool, was_in: bool) -> bool:
    """True for what asking again does not change. A receiver that was killed reports a failure that is no word about the next one."""
    if error.status in _REFUSED:
        return not was_in
    return error.status == _SPOILT or (
        not connected and not error.transient and error.status not in _POD_GONE
    )


def _have(file: LocalFile, far: _Far) -> int:
    """Bytes of the file that lie there in its part."""
    folder = file.path.rpartition("/")[0]
    size = far.parts.get(f"{folder}/{file.part}" if folder else file.part, 0)
    return size if size <= file.size else 0


def _json(**value: Any) -> bytes:
    return json.dumps(value).encode()
