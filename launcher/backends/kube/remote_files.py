"""Runs inside the pod, as `python -I -c THIS REQUEST`: lists, reads, hashes and removes files below one folder. Standard library only.

The request is one JSON object: {"do", "root", "path"?, "offset"?, "length"?, "patterns"?, "limit"?, "have"?}. The launcher reads
this file as text, it never imports it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

ALIVE_S = 20.0
MOST = 1 << 20  # bytes of a small file


def main(
    *,
    do: str,
    root: str,
    path: str = "",
    offset: int = 0,
    length: int | None = None,
    patterns: tuple[str, ...] = (),
    limit: int = 0,
    have: Mapping[str, str] = MappingProxyType({}),
) -> None:
    if do == "list":
        listing(root)
    elif do == "bundle":
        bundle(root, have)
    elif do == "gather":
        gather(root, patterns, limit)
    elif do == "remove":
        threading.Thread(target=keep_alive, daemon=True).start()
        if Path(root).is_dir() and not Path(root).is_symlink():
            shutil.rmtree(root)
    elif do == "sha256":
        threading.Thread(target=keep_alive, daemon=True).start()
        sha256(below(root, path), length)
    else:
        read(below(root, path), offset, length or 0)


def listing(root: str) -> None:
    """One JSON array a line; links and everything but regular files are left out."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                info = path.lstat()
            except OSError:
                continue  # it went away meanwhile
            if stat.S_ISREG(info.st_mode):
                say(
                    json.dumps([path.relative_to(root).as_posix(), info.st_size, info.st_mtime_ns])
                    + "\n"
                )


def gather(root: str, patterns: tuple[str, ...], limit: int) -> None:
    """Of each file that matches a line [path, bytes], then its last bytes; one that is a link or goes away meanwhile is left out."""
    names = {
        path.relative_to(root).as_posix()
        for pattern in patterns
        for path in Path(root).glob(pattern)
    }
    for name in sorted(names):
        try:
            fd = below(root, name)
        except (OSError, ValueError):
            continue
        with os.fdopen(fd, "rb") as file:
            file.seek(max(0, os.fstat(fd).st_size - limit))
            data = file.read(limit)
        sys.stdout.write(json.dumps([name, len(data)]) + "\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


def bundle(root: str, have: Mapping[str, str]) -> None:
    """Of each file a line [path, bytes, sha256], then its bytes; -1 and none when it has the digest that is given."""
    for name, known in have.items():
        try:
            fd = below(root, name)
        except (OSError, ValueError):
            continue
        with os.fdopen(fd, "rb") as file:
            before = os.fstat(fd)
            data = file.read(MOST)
            now = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns) or len(
            data
        ) != now.st_size:
            continue
        digest = hashlib.sha256(data).hexdigest()
        sys.stdout.write(json.dumps([name, -1 if digest == known else len(data), digest]) + "\n")
        sys.stdout.flush()
        if digest != known:
            sys.stdout.buffer.write(data)


def below(root: str, path: str) -> int:
    """Opens root/path step by step; a link anywhere on the way is refused."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a path below the folder: {path!r}")
    fd = os.open(root, os.O_RDONLY)
    for number, part in enumerate(parts, 1):
        # a FIFO must not make us wait
        kind = os.O_NONBLOCK if number == len(parts) else os.O_DIRECTORY
        inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=fd)
        os.close(fd)
        fd = inner
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError(f"not a regular file: {path!r}")
    return fd


def read(fd: int, offset: int, length: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    while length > 0:
        block = os.read(fd, min(length, 1 << 18))
        if not block:
            return
        length -= len(block)
        sys.stdout.buffer.write(block)


def sha256(fd: int, length: int | None) -> None:
    """Of the whole file, or of its first bytes."""
    digest = hashlib.sha256()
    left = sys.maxsize if length is None else length
    while block := os.read(fd, min(left, 1 << 20)):
        left -= len(block)
        digest.update(block)
    say(digest.hexdigest())


def keep_alive() -> None:
    """A blank now and then, for work that says nothing for long: a slow volume gives a few MB/s, or removes a few files a second."""
    while True:
        time.sleep(ALIVE_S)
        say(" ")
        sys.stdout.flush()


def say(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
