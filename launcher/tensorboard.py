"""A copy of a run's event files that grows with them, for a TensorBoard on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.backend_base import Files, RemoteFile
from launcher.fetching import local_path

_OVERLAP = 256  # bytes that are read again, to see that a file has only grown
_FOLDER = "tensorboard"


def cache_dir(run: str) -> Path:
    """`$XDG_CACHE_HOME/vidjobs/tensorboard/RUN`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vidjobs" / _FOLDER / run


def refresh(files: Files, folder: Path) -> int:
    """Bring what is new below `folder`; how many bytes that were. Errors of `files` pass; what has come stays, and is gone on from."""
    events = _events(files.list())
    for stale in _here(folder) - {file.path for file in events}:
        (folder / stale).unlink()
    return sum(_grow(files, file, local_path(folder, file.path)) for file in events)


def _events(listed: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Those of the run, and of each trial of a sweep."""
    return [
        file for file in listed if _FOLDER in file.path.split("/")[:-1] and "tfevents" in file.path
    ]


def _here(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*tfevents*") if path.is_file()
    }


def _grow(files: Files, file: RemoteFile, target: Path) -> int:
    """Append what is missing. A file that was cut back, as a resumed run does, is brought anew."""
    have = target.stat().st_size if target.is_file() else 0
    if target.is_file() and have == file.size and target.stat().st_mtime_ns == file.mtime_ns:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    start = max(0, have - _OVERLAP) if have <= file.size else 0
    with target.open("r+b" if have else "w+b") as copy:
        copy.seek(start)
        known = copy.read(have - start) if have <= file.size else b""
        received = 0
        copy.seek(start)
        for block in files.read(file.path, start, file.size - start):
            if known and block[: len(known)] != known[: len(block)]:
                copy.truncate(0)
                os.utime(target, ns=(0, 0))
                return received + _grow(files, file, target)
            known = known[len(block) :]
            copy.write(block)
            received += len(block)
        copy.truncate()
    if target.stat().st_size == file.size:
        os.utime(target, ns=(file.mtime_ns, file.mtime_ns))
    return received
