"""Every path of a run's folder, and the only ways to write there: whole under its own name, or not at all.

No torch here: `python -m trainer check` and the termination message need these paths too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.errors import CannotWrite

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
TEMPORARY = ".tmp"  # ends the name of a file that is not whole yet


@dataclass(frozen=True)
class RunFolder:
    """`<runs>/<run>`; the launcher's RunPaths names the same files."""

    root: Path
    trial: int | None = None  # which trial of a sweep it is: a run of its own inside the sweep's

    def of_trial(self, number: int) -> RunFolder:
        """`<runs>/<run>/trials/0007`"""
        return RunFolder(self.root / "trials" / f"{number:04d}", trial=number)

    @property
    def whole(self) -> Path:
        """The run's own folder; of a trial the sweep's, so that trials share what runs share."""
        return self.root if self.trial is None else self.root.parents[1]

    @property
    def runs(self) -> Path:
        return self.whole.parent

    @property
    def trial_file(self) -> Path:
        return self.root / "trial.json"

    @property
    def weights_cache(self) -> Path:
        """Published weights that were fetched, for all runs beside this one."""
        return self.runs / ".cache" / "weights"

    @property
    def conf(self) -> Path:
        return self.root / "conf.yaml"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def manifest(self) -> Path:
        return self.checkpoints / "manifest.json"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def usage_events(self) -> Path:
        """TensorBoard events of what the training uses, in minutes instead of steps."""
        return self.tensorboard / "usage"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def done(self) -> Path:
        return self.root / "DONE.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def weights(self, epoch: int) -> Path:
        """`checkpoints/epoch-000012.pt`: what inference needs, after that epoch (numbered from 1)."""
        return self.checkpoints / f"epoch-{epoch:06d}.pt"

    def state(self, epoch: int, step: int | None = None) -> Path:
        """`checkpoints/state-000012.pt`: what resuming needs, after that epoch; with `step`, inside it."""
        inside = "" if step is None else f"-step-{step:08d}"
        return self.checkpoints / f"state-{epoch:06d}{inside}.pt"

    def require_writable(self) -> None:
        """Make the folder and prove that a file can be written in it. Raises CannotWrite with the command that mends it."""
        probe = own_name(self.root / "probe")
        with writing(self.root):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for existing in (self.root, self.checkpoints, self.metrics, self.log, self.manifest):
                if existing.exists() and not os.access(existing, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
            probe.write_bytes(b"x")
            probe.unlink()

    def require_space(self, size: int) -> None:
        """Raise CannotWrite unless `size` more bytes fit on the volume."""
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise _full(self.root, missing=size - free, size=size)

    def write_text(self, path: Path, text: str) -> None:
        """Replace the file `path` by `text` (UTF-8), atomically. Raises CannotWrite."""
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Replace the file `path` by `data`, atomically: nobody ever sees half of it. Raises CannotWrite."""
        with atomic(path) as sink:
            sink.write(data)


class Sink:
    """A binary file that counts and hashes what goes through, and keeps the first OSError for the end.

    torch.save cannot be stopped in the middle of a write (its C++ writer aborts the process when a write raises), so
    a write to a full disk is remembered here and raised by `close`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._error: OSError | None = None
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        length = memoryview(data).nbytes
        self.size += length
        if self._error is None:
            self._hash.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return length

    def flush(self) -> None:
        """Nothing to do before `close`; torch.save calls it."""

    def close(self) -> None:
        """Everything is on the disk, or OSError."""
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def own_name(path: Path, ending: str = TEMPORARY) -> Path:
    """A hidden name beside `path` that is this process's alone: in pods that share a volume each trainer is process 1."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{ending}")


@contextmanager
def atomic(path: Path) -> Iterator[Sink]:
    """A sink that becomes the file `path` when the block ends well: temporary name, fsync, rename. Raises CannotWrite."""
    temporary = own_name(path)
    sink: Sink | None = None
    try:
        with writing(path, lambda: sink.size if sink else 0):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb", buffering=1 << 20) as file:
                sink = Sink(file)
                yield sink
                sink.close()
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # the volume itself may be gone
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, size: object = 0) -> Iterator[None]:
    """Turns what the volume refuses inside the block into CannotWrite. `size`: bytes that were wanted, or a function that says it."""
    try:
        yield
    except OSError as error:
        wanted = size() if callable(size) else size
        assert isinstance(wanted, int)
        raise _explain(error, path, wanted) from error


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process left half written. Only under the run's lock."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def readable_size(size: int) -> str:
    """1536 -> "1.5 KiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _explain(error: OSError, path: Path, size: int) -> CannotWrite:
    if error.errno in FULL:
        return _full(path, missing=max(size - _free(path), 0), size=size)
    if error.errno in REFUSED:
        own = f"{os.getuid()}:{os.getgid()}"
        target = next(folder for folder in (path, *path.parents) if folder.exists())
        if error.errno == errno.EROFS:
            return CannotWrite(
                f"{path} is on a read-only volume", hint="mount it with write access"
            )
        owner = f"{target.stat().st_uid}:{target.stat().st_gid}"
        hint = f"make it ours: chown -R {own} {target}"
        return CannotWrite(
            f"cannot write {path}: {target} belongs to {owner} and this process is {own}", hint=hint
        )
    return CannotWrite(
        f"cannot write {path}: {error.strerror or error}",
        hint="the volume refused; look at its events and quota",
    )


def _full(path: Path, *, missing: int, size: int) -> CannotWrite:
    lack = "over quota, or no free file entries"
    if missing:
        lack = f"{readable_size(missing)} ({missing} bytes) missing of {readable_size(size)}"
    hint = "free space or enlarge the volume, then resume: the checkpoints are whole"
    return CannotWrite(f"the volume of {path} is full: {lack}", hint=hint)


def _free(path: Path) -> int:
    try:
        return shutil.disk_usage(
            next(folder for folder in (path, *path.parents) if folder.exists())
        ).free
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
