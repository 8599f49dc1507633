"""Runs where a claim is mounted, as `python -I -c THIS REQUEST`: writes what `vidjobs push` sends. Standard library only.

The request is one JSON object {"top", "folder", "only"}: files go below top/folder. The launcher never imports this file.
First it says what is there, a JSON array a line: ["file", path, size, mtime_ns]..., ["ready", free bytes]. Then frames come
on stdin, each a letter, a length (4 bytes, big-endian) and so many bytes: not every server passes on the end of stdin.

    C  {n, path, mtime_ns, sha256}               is this the file? -> [n, "same"] (and its time is set) or [n, "differs"]
    F  {n, path, part, offset, mtime_ns, stale}  a file comes: goes on in `part` at `offset`; D are its bytes
    E  sha256                                    the file's end: verified and renamed -> [n, "ok"], or thrown away -> [n, "bad"]
    A                                            throw the part away: the file changed while it was read
    Q                                            all is on disk -> ["done"], and the program ends

It answers ["at", bytes] as data arrives, [n, "error", why] when a file cannot be written, and blank lines so that the connection lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

ACK = 1 << 20  # bytes
# files from this size on are on disk before they get their name; all others at the end
SYNC = 1 << 20
ALIVE_S = 20.0
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
LOCK_S = 30.0  # the receiver of a connection that was cut may live a little longer
MEANWHILE = "another push wrote to it meanwhile"
_lock = threading.Lock()


def say(*value: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps(value) + "\n" if value else "\n")
        sys.stdout.flush()


def keep_alive() -> None:
    while True:
        time.sleep(ALIVE_S)
        say()


def parts_of(path: str) -> list[str]:
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a path below the folder: {path!r}")
    return parts


def locked(fd: int) -> bool:
    """Where the volume has no locks every push is let through: those of one part send the same bytes to the same places."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


class Receiver:
    """Writes below one folder; links are never followed."""

    def __init__(self, top: str, folder: str, only: str) -> None:
        self.top = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self.folder = parts_of(folder) if folder else []
        self.only = only
        self.got = self.told = 0
        self.n = -1
        self.header: dict[str, Any] = {}
        self.name = self.part = ""
        self.at = self.fd = -1
        self.digest = hashlib.sha256()

    def tell(self) -> None:
        """What is there, parts included. A link on the way to the folder is an error."""
        try:
            root = self.directory([], make=False)
        except FileNotFoundError:
            root = -1
        if root >= 0:
            for path, info in self.files(root):
                say("file", path, info.st_size, info.st_mtime_ns)
        free = shutil.disk_usage(self.top).free
        say("ready", free)

    def files(self, root: int) -> Any:
        """(path, stat) of regular files; of one name and its parts when only that is wanted."""
        for folder, folders, names, fd in os.fwalk(".", dir_fd=root):
            inside = Path(folder)
            for name in names:
                if self.only and not name.startswith(self.only):
                    continue
                try:
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield (inside / name).as_posix(), info
            if self.only:
                folders.clear()

    def directory(self, parts: list[str], *, make: bool) -> int:
        """Opens folder/parts step by step."""
        fd = os.dup(self.top)
        for part in [*self.folder, *parts]:
            if make:
                try:
                    os.mkdir(part, dir_fd=fd)
                except FileExistsError:
                    pass
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def compare(self, header: dict[str, Any]) -> None:
        *folder, name = parts_of(header["path"])
        at = self.directory(folder, make=False)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        with os.fdopen(fd, "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == header["sha256"]
        if same:
            os.utime(
                name, ns=(header["mtime_ns"], header["mtime_ns"]), dir_fd=at, follow_symlinks=False
            )
        os.close(at)
        say(header["n"], "same" if same else "differs")

    def begin(self, header: dict[str, Any]) -> None:
        *folder, self.name = parts_of(header["path"])
        self.header, self.part = header, parts_of(header["part"])[0]
        self.at = self.directory(folder, make=True)
        if self.is_folder():
            raise IsADirectoryError(21, "a folder of this name is there")
        self.take_part()
        self.digest = hashlib.sha256()
        os.ftruncate(self.fd, min(header["offset"], os.fstat(self.fd).st_size))
        while block := os.read(self.fd, 1 << 20):
            self.digest.update(block)
        if os.fstat(self.fd).st_size != header["offset"]:
            raise OSError(5, MEANWHILE)

    def is_folder(self) -> bool:
        try:
            return stat.S_ISDIR(os.stat(self.name, dir_fd=self.at, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def take_part(self) -> None:
        """Opens the part for us alone. Another push may have given it the file's name while we waited: that one is not ours to cut."""
        until = time.monotonic() + LOCK_S
        make = 0 if self.header["offset"] else os.O_CREAT
        while True:
            try:
                self.fd = os.open(
                    self.part, os.O_RDWR | os.O_NOFOLLOW | make, 0o666, dir_fd=self.at
                )
            except FileNotFoundError:
                raise OSError(5, MEANWHILE) from None
            if locked(self.fd) and self.is_part():
                return
            os.close(self.fd)
            if time.monotonic() > until:
                raise BlockingIOError(11, "another push is writing it")
            time.sleep(0.2)

    def is_part(self) -> bool:
        try:
            return os.path.samestat(
                os.fstat(self.fd), os.stat(self.part, dir_fd=self.at, follow_symlinks=False)
            )
        except FileNotFoundError:
            return False

    def write(self, data: memoryview) -> None:
        self.digest.update(data)
        self.got += len(data)
        while len(data):
            data = data[os.write(self.fd, data) :]
        if self.got - self.told >= ACK:
            self.told = self.got
            say("at", self.got)

    def end(self, sha256: str) -> None:
        if self.digest.hexdigest() != sha256:
            self.throw_away()
            say(self.header["n"], "bad")
            return
        if os.fstat(self.fd).st_size >= SYNC:
            os.fsync(self.fd)
        os.utime(self.fd, ns=(self.header["mtime_ns"], self.header["mtime_ns"]))
        os.rename(self.part, self.name, src_dir_fd=self.at, dst_dir_fd=self.at)
        for stale in self.header["stale"]:
            self.remove_stale(parts_of(stale)[0])
        self.close()
        say(self.header["n"], "ok")

    def remove_stale(self, part: str) -> None:
        """A part of what the file held before, unless another push is filling it."""
        with contextlib.suppress(OSError):
            fd = os.open(part, os.O_RDWR | os.O_NOFOLLOW, dir_fd=self.at)
            if locked(fd):
                os.unlink(part, dir_fd=self.at)
            os.close(fd)

    def settle(self) -> None:
        """All small files onto the disk at once; of this file system only, since the node has other users. OSError when they are not."""
        with contextlib.suppress(ImportError, AttributeError):  # a Python or a libc without it
            import ctypes

            if (
                ctypes.CDLL(None, use_errno=True).syncfs(self.top)
                and (code := ctypes.get_errno()) != errno.ENOSYS
            ):
                raise OSError(code, os.strerror(code))

    def throw_away(self) -> None:
        os.unlink(self.part, dir_fd=self.at)
        self.close()

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.at)

    def handle(self, kind: bytes, data: memoryview) -> None:
        if kind == b"D":
            self.write(data)
        elif kind in b"CF":
            header = json.loads(bytes(data))
            self.n = header["n"]
            self.compare(header) if kind == b"C" else self.begin(header)
        elif kind == b"A":
            self.throw_away()
        else:
            self.end(bytes(data).decode())


def frames(stream: BinaryIO) -> Any:
    while len(head := stream.read(5)) == 5:
        kind, length = struct.unpack(">cI", head)
        data = stream.read(length)
        if len(data) < length:
            return
        yield kind, memoryview(data)


def main(top: str, folder: str, only: str) -> int:
    threading.Thread(target=keep_alive, daemon=True).start()
    try:
        receiver = Receiver(top, folder, only)
        receiver.tell()
    except (OSError, ValueError) as error:
        say(-1, "error", getattr(error, "strerror", None) or str(error))
        return 0
    for kind, data in frames(sys.stdin.buffer):
        try:
            if kind == b"Q":
                receiver.settle()
                say("done")
                return 0
            receiver.handle(kind, data)
        except BrokenPipeError:
            os._exit(1)  # nobody listens any more, not even to Python's last flush
        except (OSError, ValueError) as error:
            say(receiver.n, "error", getattr(error, "strerror", None) or str(error))
            return 0
    return 1  # cut; the part stays for the next time


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
