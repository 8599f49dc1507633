"""Many small files at once: a question each would take a fifth of a second each, whatever the wire."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from launcher.backend_base import RemoteFile
from launcher.whole_file import write_whole

SMALL = 1 << 16  # bytes of a file that is worth it
_TOGETHER = 4 << 20  # bytes of one answer
# characters of one question, which travels in an address; servers bear at least 8000 with the
# program beside it
_NAMES = 4000


class Brought(NamedTuple):
    """A file that is here now."""

    size: int
    sha256: str
    transferred: int


Pair = tuple[RemoteFile, Path]  # a file of the volume, and where it goes
Ask = Callable[[Mapping[str, str]], Mapping[str, bytes | None]]


def grouped(
    pairs: Sequence[Pair], *, unfinished: Callable[[Path], bool]
) -> Iterator[tuple[bool, list[Pair]]]:
    """The same in their order: small files together (True), all others alone, and those of which a part lies here."""
    group: list[Pair] = []
    names = size = 0
    for file, target in pairs:
        alone = file.size > SMALL or unfinished(target)
        name = len(json.dumps(file.path)) + (70 if target.is_file() else 6)  # with its digest
        if group and (alone or names + name > _NAMES or size + file.size > _TOGETHER):
            yield True, group
            group, names, size = [], 0, 0
        if alone:
            yield False, [(file, target)]
        else:
            group.append((file, target))
            names, size = names + name, size + file.size
    if group:
        yield True, group


def bring(group: Sequence[Pair], ask: Ask) -> dict[str, Brought]:
    """Those of a group that could be had together; the others are to be fetched one by one. UserError when one cannot be written."""
    have = {
        file.path: sha256_of(target)
        if target.is_file() and target.stat().st_size == file.size
        else ""
        for file, target in group
    }
    found = ask(have)
    brought = {}
    for file, target in group:
        if file.path not in found:
            continue
        data = found[file.path]
        if data is None:
            brought[file.path] = Brought(size=file.size, sha256=have[file.path], transferred=0)
            continue
        write_whole(target, data)
        if len(data) == file.size:  # else it has changed since it was listed
            os.utime(target, ns=(file.mtime_ns, file.mtime_ns))
        brought[file.path] = Brought(
            size=len(data), sha256=hashlib.sha256(data).hexdigest(), transferred=len(data)
        )
    return brought


def sha256_of(path: Path) -> str:
    """Hex digest of a file of this machine."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
