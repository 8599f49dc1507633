"""A directory of this machine as `Files`. Links are never followed, so a run cannot hand out files from elsewhere."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from launcher.backend_base import RemoteFile
from launcher.errors import ClusterError, UserError

_BLOCK = 1 << 20


class LocalFiles:
    """Regular files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self) -> list[RemoteFile]:
        """All of them, sorted by path; empty when the folder does not exist. A file that vanishes meanwhile is left out."""
        found = []
        for folder, _, names in os.walk(self._root):  # does not enter linked folders
            for name in names:
                path = Path(folder) / name
                try:
                    info = path.lstat()
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(info.st_mode):
                    found.append(
                        RemoteFile(
                            path=path.relative_to(self._root).as_posix(),
                            size=info.st_size,
                            mtime_ns=info.st_mtime_ns,
                        )
                    )
        return sorted(found, key=lambda file: file.path)

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        """`length` bytes from `offset`, in blocks; fewer when the file ends. ClusterError when it cannot be read."""
        fd = self._open(path)
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            while length > 0 and (block := os.read(fd, min(_BLOCK, length))):
                length -= len(block)
                yield block
        except OSError as error:
            raise ClusterError(f"{path} cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)

    def sha256(self, path: str, length: int | None = None) -> str:
        """Hex digest of the whole file, or of its first bytes."""
        if length is not None:
            digest = hashlib.sha256()
            for block in self.read(path, 0, length):
                digest.update(block)
            return digest.hexdigest()
        with os.fdopen(self._open(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        """Path -> content of the files that match; links are left out. ClusterError when one cannot be read."""
        names = {
            path.relative_to(self._root).as_posix()
            for pattern in patterns
            for path in self._root.glob(pattern)
        }
        found = {}
        for name in sorted(names):
            path = self._root / name
            if path.is_file() and not path.is_symlink():
                start = max(0, path.stat().st_size - limit)
                found[name] = b"".join(self.read(name, start, limit))
        return found

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:
        """Path -> content, or None where that is known. What cannot be read is left out."""
        found: dict[str, bytes | None] = {}
        for path, known in have.items():
            with suppress(ClusterError):
                with os.fdopen(self._open(path), "rb") as file:
                    data = file.read()
                found[path] = None if hashlib.sha256(data).hexdigest() == known else data
        return found

    def _open(self, path: str) -> int:
        """Step by step from the root, no step through a link."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\0" in path or ".." in parts:
            raise UserError(f"{path!r} is not a file below {self._root}")
        # O_NONBLOCK: a FIFO must not make us wait
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                try:
                    inner = os.open(part, flags | (0 if last else os.O_DIRECTORY), dir_fd=fd)
                finally:
                    os.close(fd)
                fd = inner
        except OSError as error:
            raise ClusterError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ClusterError(f"{path} cannot be read: it is not a regular file")
        return fd
