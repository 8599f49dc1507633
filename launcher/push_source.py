"""The files of this machine that a push takes, and the names that it refuses."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import UserError

part_name = re.compile(r"(?:.*/)?([^/]+)\.([0-9a-f]{8})\.part")
_BLOCK = 1 << 17
_LONGEST = 240  # bytes of one name, so that its part's name fits too


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A regular file, and where it goes."""

    file: Path
    path: str  # below the target folder, with /
    size: int
    mtime_ns: int

    @property
    def part(self) -> str:
        """The name of its unfinished copy: of this content only, as far as size and time tell."""
        name = self.path.rpartition("/")[2]
        return (
            f"{name}.{hashlib.sha256(f'{self.size} {self.mtime_ns}'.encode()).hexdigest()[:8]}.part"
        )

    def read(self) -> Iterator[bytes]:
        """Its bytes, as many as it had when it was found."""
        left = self.size
        try:
            with self.file.open("rb", buffering=0) as file:
                while left > 0 and (
                    block := file.read(min(_BLOCK if self.size > _BLOCK else self.size, left))
                ):
                    left -= len(block)
                    yield block
        except OSError as error:
            raise UserError(f"{self.file} cannot be read: {error.strerror}") from error

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self.read():
            digest.update(block)
        return digest.hexdigest()

    def unchanged(self) -> bool:
        """True when it is what it was when it was found."""
        try:
            info = self.file.stat()
        except OSError:
            return False
        return (info.st_size, info.st_mtime_ns) == (self.size, self.mtime_ns)


def parts_of(path: str, parts: Iterable[str]) -> list[str]:
    """Those parts that are of this path, of whichever content."""
    return [
        each
        for each in parts
        if (match := part_name.fullmatch(each)) and each[: match.end(1)] == path
    ]


def one_file(source: Path, name: str) -> LocalFile:
    """A single file under a name. UserError when it is no regular file."""
    info = source.stat()
    if not stat.S_ISREG(info.st_mode):
        raise UserError(f"{source} is not a regular file", hint="push files and folders of files")
    _check(name)
    return LocalFile(file=source, path=name, size=info.st_size, mtime_ns=info.st_mtime_ns)


def tree(source: Path, *, skip_links: bool = False) -> list[LocalFile]:
    """All files below a folder, sorted by path.

    UserError for parts that another push left, and for links and other things that are no files, unless they are to be skipped.
    """
    found, strange, unfinished = [], [], []
    for folder, folders, names in os.walk(source, onerror=_cannot_read):
        for name in sorted(
            [*names, *(each for each in folders if (Path(folder) / each).is_symlink())]
        ):
            file = Path(folder) / name
            info = file.lstat()
            path = file.relative_to(source).as_posix()
            if not stat.S_ISREG(info.st_mode):
                strange.append(path)
            elif part_name.fullmatch(path):
                unfinished.append(path)
            else:
                _check(path)
                found.append(
                    LocalFile(file=file, path=path, size=info.st_size, mtime_ns=info.st_mtime_ns)
                )
    if unfinished:
        hint = "remove or rename them: on a claim names like these are parts of files that are not whole yet"
        raise UserError(
            f"{source} holds {len(unfinished)} unfinished copies: {', '.join(unfinished[:3])}",
            hint=hint,
        )
    if strange and not skip_links:
        hint = "--skip-links leaves them out; `cp -rL` makes a copy with files instead of links"
        raise UserError(
            f"{source} holds {len(strange)} links or other things that are no files: {', '.join(strange[:3])}",
            hint=hint,
        )
    return sorted(found, key=lambda file: file.path)


def _cannot_read(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _check(path: str) -> None:
    """UserError for a name that other machines and tools would not bear."""
    parts = path.split("/")
    hostile = (
        not path
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in parts)
    )
    if hostile or any(len(os.fsencode(part)) > _LONGEST for part in parts):
        raise UserError(
            f"a file is called {path!r}; a name like this is not pushed", hint="rename it"
        )
