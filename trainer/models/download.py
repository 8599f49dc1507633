"""Weights from the network, once: continued where a connection was cut, checked, and never by two processes at a time.

They lie where torch.hub keeps its own, `$TORCH_HOME/hub/checkpoints`; `python -m trainer` sets TORCH_HOME to
`<runs>/.cache/weights` unless the environment says otherwise, so every run of a volume finds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.errors import DataError
from trainer.lock import NO_FLOCK
from trainer.models.checkpoint_files import is_page
from trainer.run_folder import own_name, writing
from trainer.signatures import file_name

ATTEMPTS = 5  # without a new byte
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
# torch.hub's file names end with the start of their sha256
HUB_HASH = re.compile(r"-([0-9a-f]{8,64})\.")
BY_HAND = "fetch it on a machine that can, put it on the volume (`vidjobs push`), and set model.init to its path"
_NETWORK = (OSError, http.client.HTTPException)


def folder() -> Path:
    """Where torch.hub keeps weights."""
    home = (
        os.environ.get("TORCH_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    )
    return Path(home) / "hub" / "checkpoints"


def place(url: str) -> Path:
    """Where an address's file lies. Names that carry their own hash mean one file only; others get a folder for each address."""
    name = file_name(url)
    if HUB_HASH.search(name):
        return folder() / name
    return folder() / hashlib.sha256(url.encode()).hexdigest()[:12] / name


def fetch(url: str, *, sha256: str = "", say: Callable[[str], None] = lambda _: None) -> Path:
    """The file of an address, from the network unless it was fetched before.

    `sha256`: all of it, or its start; unsaid, the one that torch.hub's names carry.
    Raises DataError when it cannot be reached or is not what it should be, CannotWrite when the volume refuses it.
    """
    target = place(url)
    named = HUB_HASH.search(target.name)
    sha256 = sha256 or (named[1] if named else "")
    if not target.exists():
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target) as part:
            if not target.exists():
                say(f"fetching {url} to {target}")
                _download(url, part)
                _require(part, sha256, url)
                with writing(target):
                    part.replace(target)
                part.with_suffix(".tag").unlink(missing_ok=True)
                return target
    _require(target, sha256, url)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[Path]:
    """Wait until no other process fetches this file; the name of the unfinished one."""
    with writing(target):
        descriptor = os.open(
            target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666
        )
    try:
        part = target.with_name(f".{target.name}.part")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            part = own_name(target, ".part")  # a volume without locks: nobody else's file then
        yield part
    finally:
        os.close(descriptor)


def _download(url: str, part: Path) -> None:
    """Fill `part`, going on from what it has; ATTEMPTS times in a row without a new byte are too many."""
    failed = 0
    while True:
        before = _size(part)
        try:
            if _fetch_rest(url, part):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code < 500 and error.code not in (408, 416, 429):
                raise DataError(
                    f"{url} answers {error.code} {error.reason}", hint=BY_HAND
                ) from error
            reason = f"{error.code} {error.reason}"
            if error.code == 416:  # no such range: what we have is not a start of that file
                part.unlink(missing_ok=True)
        except _NETWORK as error:
            reason = _reason(error)
        failed = 0 if _size(part) > before else failed + 1
        if failed >= ATTEMPTS:
            had = (
                f" after {_size(part)} bytes; they are kept, and the next try goes on from there"
                if _size(part)
                else ""
            )
            raise DataError(
                f"cannot fetch {url}: {urlsplit(url).hostname}: {reason}{had}", hint=BY_HAND
            )
        time.sleep(PAUSE * 2 ** (failed - 1) if failed else PAUSE / 10)


def _fetch_rest(url: str, part: Path) -> bool:
    """One request for what is missing; whether the file is whole. A server without ranges sends all of it again."""
    have, tag_file = _size(part), part.with_suffix(".tag")
    request = urllib.request.Request(
        url, headers={"User-Agent": "vidjobs", "Accept-Encoding": "identity"}
    )
    if have and tag_file.exists():
        request.add_header("Range", f"bytes={have}-")
        # another file there by now: all of it, please
        request.add_header("If-Range", tag_file.read_text())
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        going_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        total = int(answer.headers.get("Content-Length") or -1) + (have if going_on else 0)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        with writing(part):
            tag_file.unlink(missing_ok=True)
            if tag and not tag.startswith("W/"):
                tag_file.write_text(tag)
        _append(answer, part, fresh=not going_on, url=url)
    return total < 0 or _size(part) == total


def _append(answer: Any, part: Path, *, fresh: bool, url: str) -> None:
    """Write what comes. Errors of the network leave as they are, those of the volume as CannotWrite."""
    with writing(part):
        file = part.open("wb" if fresh else "ab")
    with file:
        while chunk := answer.read1(CHUNK):
            if fresh and file.tell() == 0 and is_page(chunk):
                raise DataError(
                    f"{url} is a web page, not weights",
                    hint="its host wants a login or a click; " + BY_HAND,
                )
            with writing(part, len(chunk)):
                file.write(chunk)
        with writing(part):
            file.flush()
            os.fsync(file.fileno())


def _require(path: Path, sha256: str, url: str) -> None:
    """Raise DataError unless the file's sha256 begins so; an unfinished one that does not goes away."""
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(sha256):
        return
    wrong = f"its sha256 begins with {found[: max(len(sha256), 8)][:16]}, not {sha256[:16]}"
    if path.suffix == ".part":
        path.unlink()
        raise DataError(f"what {url} sends is not the published file: {wrong}", hint=BY_HAND)
    raise DataError(
        f"{path} is not the published file: {wrong}", hint="remove it, and it is fetched again"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return str(
        getattr(inner, "strerror", None)
        or inner
        or getattr(error, "strerror", None)
        or str(error)
        or type(error).__name__
    )
