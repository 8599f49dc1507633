"""Copies files off a volume so that a cut costs nothing: `NAME.part` grows to the whole file, is verified, and only then becomes `NAME`.

A large file comes in ranges, a few at once: one stream over a long way gets a small share of it. Beside the part, `NAME.part.json` says
which file it belongs to (size and time of change) and which ranges have arrived, so a later fetch asks for the others only, and starts
over when the file has changed. Works with anything that is `Files`; memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launcher.backend_base import Files, RemoteFile
from launcher.errors import AdmissionError, ClusterError, UserError
from launcher.fetch_small import Brought, Pair, bring, grouped, sha256_of
from launcher.ranges import Range, Ranges

_T = TypeVar("_T")
PART = ".part"
SIDECAR = ".part.json"
_RANGE = 32 << 20  # bytes asked for at once
_STREAMS = 3  # ranges at once; more burden the API server and bring no more
# bytes that may arrive before the note says so: what a killed fetch asks for again
_NOTE_EVERY = 4 << 20
_TRIES = 6  # cuts in a row without a single new byte
_ROUNDS = 8  # times that a file may change (or arrive damaged) before we give up
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 20.0
_AGAIN = "run the same again: it goes on from there"
# only ever grows: its first bytes are a log, too
_LOG = re.compile(r"\.(log|jsonl)$|(^|/)events\.out\.tfevents\.[^/]*$")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Vanished(UserError):
    """The file was removed from the volume after it was listed: a run keeps the last states of its training only."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One file that is now here, whole."""

    path: str  # below the run folder
    file: Path
    size: int
    sha256: str
    transferred: int  # bytes that crossed the wire; 0 when it was here already


def fetch(
    files: Files,
    wanted: Sequence[RemoteFile],
    out: Path,
    progress: Callable[[int], None] | None = None,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Bring `wanted` below `out`; the paths of the files, in order. `progress` is told the bytes done so far. Errors as `fetch_each`."""
    return [done.file for done in fetch_each(files, wanted, out, progress, wait=wait)]


def fetch_each(
    files: Files,
    wanted: Sequence[RemoteFile],
    out: Path,
    progress: Callable[[int], None] | None = None,
    *,
    gone: Callable[[Vanished], None] | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Fetched]:
    """The same, file by file as they become whole. `gone` is told of one that vanished, and the others come.

    Raises UserError for a name that could lead out of `out`, a file that vanished or keeps changing, a full disk;
    ClusterError when the connection does not come back (what has arrived is kept).
    """
    with _spoken(out):
        # all are checked before the first byte
        targets = [local_path(out, file.path) for file in wanted]
        _require_space(wanted, targets, out)
    before = 0
    pairs = list(zip(wanted, targets, strict=True))
    for small, group in grouped(
        pairs, unfinished=lambda target: target.with_name(target.name + PART).exists()
    ):
        together = _together(files, group, wait) if small else {}
        for file, target in group:
            tell = _from(before, progress)
            brought = together.get(file.path)
            if brought is None:
                try:
                    yield _Transfer(files, file, target, tell=tell, wait=wait).run()
                except Vanished as vanished:
                    if gone is None:
                        raise
                    gone(vanished)
            else:
                tell(file.size)
                yield Fetched(path=file.path, file=target, **brought._asdict())
            before += file.size


def _together(
    files: Files, group: Sequence[Pair], wait: Callable[[float], None]
) -> dict[str, Brought]:
    with _spoken(group[0][1].parent):
        return bring(
            group, lambda have: _patiently(lambda: files.bundle(have), group[0][0].path, wait)
        )


@contextlib.contextmanager
def _spoken(path: Path, hint: str = "choose another folder with -o") -> Iterator[None]:
    """What this machine's disk refuses inside the block, as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}", hint=hint
        ) from error


def _from(before: int, progress: Callable[[int], None] | None) -> Callable[[int], None]:
    """Adds what earlier files had to one file's progress."""

    def tell(done: int) -> None:
        if progress:
            progress(before + done)

    return tell


def local_path(out: Path, name: str) -> Path:
    """Where a file of the volume goes. UserError when its name is hostile, or would pass through a link below `out`."""
    parts = name.split("/")
    hostile = (
        not name
        or name.startswith("/")
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
    )
    if (
        hostile
        or ":" in parts[0]
        or not name.isprintable()
        or any(len(os.fsencode(part)) > 240 for part in parts)
    ):
        raise UserError(
            f"the volume holds a file called {name!r}; a name like this is not written here",
            hint="rename it on the volume",
        )
    if name.endswith((PART, SIDECAR)):
        raise UserError(f"{name} is an unfinished copy, not a file", hint="fetch the whole file")
    path = out
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise UserError(
                f"{path} is a link; {name} is not written through it",
                hint="remove the link, or choose another folder with -o",
            )
    if path.is_dir():
        raise UserError(
            f"{path} is a folder here, and {name} a file on the volume",
            hint="choose another folder with -o",
        )
    return path


def _require_space(wanted: Sequence[RemoteFile], targets: Sequence[Path], out: Path) -> None:
    """UserError when the disk cannot take what is not here yet."""
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.is_dir())
    needed = sum(
        file.size - _here(file, target) for file, target in zip(wanted, targets, strict=True)
    )
    missing = needed - shutil.disk_usage(folder).free
    if missing > 0:
        raise UserError(
            f"{out} has too little space: {missing / (1 << 30):.2f} GiB are missing",
            hint="free some, or choose another folder with -o",
        )


def _here(file: RemoteFile, target: Path) -> int:
    """Bytes of the file that need no more room: of one that is here, most likely equal, or of its part."""
    if target.is_file() and target.stat().st_size == file.size:
        return file.size
    part = target.with_name(target.name + PART)
    return min(part.stat().st_blocks * 512, file.size) if part.is_file() else 0  # it may have holes


class _Transfer:
    """One file on its way."""

    def __init__(
        self,
        files: Files,
        remote: RemoteFile,
        target: Path,
        *,
        tell: Callable[[int], None],
        wait: Callable[[float], None],
    ) -> None:
        self.files = files
        self.remote = remote
        self.target = target
        self.part = target.with_name(target.name + PART)
        self.sidecar = target.with_name(target.name + SIDECAR)
        self.tell = tell
        self.wait = wait
        self.transferred = 0
        self.have = Ranges()
        self.written_down = 0  # of `transferred`, when the note was written
        self.lock = threading.Lock()  # of the four above

    def run(self) -> Fetched:
        """Until the file is here, whole and verified."""
        with _spoken(
            self.target,
            "what has arrived is kept; mend it and run the same, or choose another folder with -o",
        ):
            digest = self._here_already()
            if not digest:
                self.target.parent.mkdir(parents=True, exist_ok=True)
                with self._open_part() as part:
                    digest = self._download(part)
        self.tell(self.remote.size)
        return Fetched(
            path=self.remote.path,
            file=self.target,
            size=self.remote.size,
            sha256=digest,
            transferred=self.transferred,
        )

    def _here_already(self) -> str:
        """The digest of a file that is here and equal; else ""."""
        if not self.target.is_file() or self.target.stat().st_size != self.remote.size:
            return ""
        digest = sha256_of(self.target)
        return digest if digest == self._digest_there() else ""

    @contextlib.contextmanager
    def _open_part(self) -> Iterator[int]:
        """The part, for us alone."""
        fd = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the other may have renamed it just now
            ours = self.part.exists() and os.fstat(fd).st_ino == self.part.stat().st_ino
        except BlockingIOError:
            ours = False
        except OSError as error:
            ours = error.errno in _NO_LOCKS  # such a disk cannot tell us of another fetch
        try:
            if not ours:
                raise UserError(
                    f"another fetch is writing {self.target}",
                    hint="wait for it, or choose another folder with -o",
                )
            yield fd
        finally:
            os.close(fd)

    def _download(self, fd: int) -> str:
        """Fill the part, verify it, give it its name; the digest."""
        self.have = self._remembered(os.fstat(fd).st_size)
        if not self.have.bytes:
            os.ftruncate(fd, 0)
        self._note()
        for turn in range(_ROUNDS):
            self._receive(fd)
            digest = self._verified(
                fd, start_is_enough=turn > 1 and bool(_LOG.search(self.remote.path))
            )
            if digest:
                os.utime(fd, ns=(self.remote.mtime_ns, self.remote.mtime_ns))
                self.part.replace(self.target)
                self.sidecar.unlink(missing_ok=True)
                return digest
            self._look_again(fd)
        raise UserError(
            f"{self.remote.path} keeps changing while it is copied",
            hint="fetch it when the run writes less, or has ended",
        )

    def _receive(self, fd: int) -> None:
        """Read what is missing until nothing is, or the file turns out to be another by now."""
        cuts = 0
        while missing := self.have.missing(self.remote.size, _RANGE):
            before = self.have.bytes
            problem = self._read_ranges(fd, missing)
            self._note()
            if self.have.bytes > before:
                cuts = 0
                continue
            if problem is None or self._now() != self.remote:
                return
            cuts += 1
            if cuts == _TRIES:
                raise ClusterError(
                    f"{self.remote.path}: the connection was cut {cuts} times in a row at {before} of {self.remote.size} bytes: {problem}",
                    hint=_AGAIN,
                ) from problem
            self.wait(_pause_s(cuts))

    def _read_ranges(self, fd: int, missing: Sequence[Range]) -> Exception | None:
        """Some at once until all have been asked for or one was cut; what cut the first one. Raises what no second try would mend."""
        left, problems = iter(missing), list[Exception]()

        def stream(own_fd: int) -> None:
            try:
                while not problems and (wanted := next(left, None)) is not None:
                    self._read_range(own_fd, wanted, problems)
            except Exception as error:  # noqa: BLE001 - raised below, in the thread that called
                problems.append(error)
            finally:
                # its own: a stream that hangs must not write into whatever file has this number
                # next
                os.close(own_fd)

        others = [
            threading.Thread(target=stream, args=(os.dup(fd),), daemon=True)
            for _ in missing[1:_STREAMS]
        ]
        try:
            for other in others:
                other.start()
            stream(os.dup(fd))
            for other in others:
                other.join()
        except BaseException as error:  # Ctrl-C: the others end at their next block
            problems.append(InterruptedError(str(error)))
            raise
        grave = next((problem for problem in problems if not _is_cut(problem)), None)
        if grave is not None:
            raise grave
        return problems[0] if problems else None

    def _read_range(self, fd: int, wanted: Range, problems: list[Exception]) -> None:
        """Until the range is here, the read ends early, or another stream has met a problem that ends all."""
        offset, end = wanted
        for block in self.files.read(self.remote.path, offset, end - offset):
            data = memoryview(block)[: end - offset]
            _write_all(fd, offset, data)
            with self.lock:
                self._arrived(offset, offset + len(data))
            offset += len(data)
            if offset == end or any(not _is_cut(problem) for problem in problems):
                return

    def _arrived(self, start: int, end: int) -> None:
        self.have.add(start, end)
        self.transferred += end - start
        if self.transferred - self.written_down >= _NOTE_EVERY:
            self._note()
        self.tell(self.have.bytes)

    def _verified(self, fd: int, *, start_is_enough: bool) -> str:
        """The digest when the part equals the file on the volume (or its start); else ""."""
        if self.have.missing(self.remote.size, _RANGE):
            return ""
        os.fsync(fd)
        digest = sha256_of(self.part)
        return (
            digest
            if digest == self._digest_there(self.remote.size if start_is_enough else None)
            else ""
        )

    def _digest_there(self, first: int | None = None) -> str:
        """Of the file on the volume, or of its first bytes."""

        def ask() -> str:
            try:
                return self.files.sha256(self.remote.path, first)
            except ClusterError:
                self._found(self.files.list())
                raise

        return self._patiently(ask)

    def _look_again(self, fd: int) -> None:
        """The part is not the file. One that grew most likely was appended to, so its start is kept; all else starts over."""
        now = self._now()
        if now.size <= self.remote.size:
            os.ftruncate(fd, 0)
            self.have = Ranges()
        self.remote = now
        self._note()

    def _now(self) -> RemoteFile:
        """The file as it is on the volume at this moment. Raises Vanished."""
        return self._found(self._patiently(self.files.list))

    def _found(self, listed: Sequence[RemoteFile]) -> RemoteFile:
        for file in listed:
            if file.path == self.remote.path:
                return file
        self.part.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)
        raise Vanished(
            f"{self.remote.path} was removed from the volume while it was copied",
            hint="fetch again to get what is there",
        )

    def _remembered(self, length: int) -> Ranges:
        """What has arrived already in the part of `length` bytes that lies here; nothing when it is of another file."""
        try:
            noted = json.loads(self.sidecar.read_text(encoding="utf-8"))
            have = Ranges((start, end) for start, end in noted.pop("have"))
        except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError):
            return Ranges()
        return (
            have
            if noted == self._file() and have.end <= min(length, self.remote.size)
            else Ranges()
        )

    def _note(self) -> None:
        """Remember what has arrived, for the fetch after a cut."""
        temporary = self.sidecar.with_name(self.sidecar.name + ".tmp")
        temporary.write_text(
            json.dumps(self._file() | {"have": self.have.as_json()}), encoding="utf-8"
        )
        temporary.replace(self.sidecar)
        self.written_down = self.transferred

    def _file(self) -> dict[str, int]:
        return {"size": self.remote.size, "mtime_ns": self.remote.mtime_ns}

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        return _patiently(ask, self.remote.path, self.wait)


def _patiently(ask: Callable[[], _T], path: str, wait: Callable[[float], None]) -> _T:
    """Ask again after a cut, a few times."""
    for cuts in range(1, _TRIES):
        try:
            return ask()
        except AdmissionError:
            raise
        except (ClusterError, ConnectionError, TimeoutError):
            wait(_pause_s(cuts))
    try:
        return ask()
    except (ConnectionError, TimeoutError) as error:
        raise ClusterError(
            f"{path}: the connection was cut {_TRIES} times in a row: {error}", hint=_AGAIN
        ) from error


def _is_cut(problem: Exception) -> bool:
    """Of the connection: asking again may help."""
    return isinstance(problem, (ClusterError, ConnectionError, TimeoutError)) and not isinstance(
        problem, AdmissionError
    )


def _pause_s(cuts: int) -> float:
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (cuts - 1))


def _write_all(fd: int, offset: int, data: memoryview) -> None:
    """Write every byte at `offset`."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
