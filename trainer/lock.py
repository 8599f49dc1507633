"""One writer at a time in a run's folder: flock, the holder's name, and a heartbeat for volumes whose flock forgets the dead.

The file's time is the heartbeat. A holder that ended well empties the file. A lock is stale when its holder was a process of this
very pod or machine and is gone, or when its heartbeat stood still while we watched: a lost node may work on, and clocks may differ.
Whoever finds that its lock was taken over stops before it writes again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.errors import NotOurs
from trainer.meeting import Place
from trainer.run_folder import RunFolder, writing

BEAT = 5.0  # seconds between heartbeats
STALE = 30.0  # seconds without one, after which a lock is taken over
# seconds since the last one, after which nobody watches: no two nodes' clocks are that far apart
LONG_DEAD = 3600.0
NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who writes."""

    pod: str
    pod_uid: str
    host: str
    pid: int
    # of the kernel: the pods of one index have one host name after another, on whichever node
    boot: str = ""

    @classmethod
    def me(cls) -> Holder:
        pod, uid = os.environ.get("VIDJOBS_POD", ""), os.environ.get("VIDJOBS_POD_UID", "")
        return cls(pod=pod, pod_uid=uid, host=socket.gethostname(), pid=os.getpid(), boot=_boot())

    def __str__(self) -> str:
        pod = f"pod {self.pod} ({self.pod_uid}), " if self.pod or self.pod_uid else ""
        return f"{pod}process {self.pid} on {self.host}"

    def here(self) -> bool:
        """Whether it ran where we do, on this very machine as it is now: then a free flock is its death.

        Of another pod of this machine it is not: each may have a mount of its own, and flock may not reach from one to the other.
        """
        return bool(self.boot) and (self.boot, self.host) == (_boot(), socket.gethostname())

    def gone(self) -> bool:
        """Whether no process here has its pid but we. Of a holder in another container that is a guess."""
        if self.pid == os.getpid():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Lock:
    """A held lock."""

    def __init__(self, descriptor: int, beat: float) -> None:
        self.holder = Holder.me()
        self._descriptor = descriptor
        self._ended = threading.Event()
        self._beat = beat
        self._thread = threading.Thread(target=self._keep_alive, name="run-lock", daemon=True)
        self._thread.start()
        # data workers that outlive us must not keep the flock
        os.register_at_fork(after_in_child=self._forget)

    def release(self) -> None:
        """Empty the file and let it go."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):  # a full or vanished volume: the flock ends with the process anyway
            # else somebody took it over, and goes on
            if _named_in(os.pread(self._descriptor, 4096, 0)) == self.holder:
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._beat):
            with suppress(OSError):  # a hiccup of the volume; the next beat tries again
                os.utime(self._descriptor)

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def hold(
    folder: RunFolder,
    *,
    say: Callable[[str], None] = print,
    stale: float = STALE,
    beat: float = BEAT,
) -> Iterator[Lock]:
    """Hold the run's folder inside the block. Raises NotOurs that names a living holder; takes a stale lock over."""
    folder.require_writable()
    with hold_file(folder.lock, say=say, stale=stale, beat=beat) as lock:
        yield lock


@contextmanager
def hold_file(
    path: Path, *, say: Callable[[str], None], stale: float = STALE, beat: float = BEAT
) -> Iterator[Lock]:
    """The same of a lock file anywhere."""
    lock = Lock(_acquire(path, say, stale), beat)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def hold_for(
    place: Place, folder: RunFolder, *, say: Callable[[str], None] = print
) -> Iterator[Holder]:
    """The run's folder is held inside the block, by node 0 for all nodes. Gives whose name is in the lock, on node 0 that is."""
    if not place.leads:
        yield Holder.me()
        return
    with hold(folder, say=say) as held:
        yield held.holder


def read_holder(path: Path) -> Holder | None:
    """Who is written in the lock file; None when nobody is."""
    try:
        return _named_in(path.read_bytes())
    except OSError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _named_in(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def require_held(path: Path, holder: Holder) -> None:
    """Raise NotOurs unless the lock file still names `holder`: somebody took it over while this process stood still.

    For every process of a run, before it writes: two writers would spoil it.
    """
    found = read_holder(path)
    if found != holder:
        raise NotOurs(
            f"the lock {path} was taken over by {found or 'somebody who is gone again'} while this process stood still"
        )


def _acquire(path: Path, say: Callable[[str], None], stale: float) -> int:
    """An open, locked descriptor of `path` with our name in it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
    try:
        free = _try_flock(descriptor)
        holder = read_holder(path)
        dead = holder is not None and holder.here() and (free or (free is False and holder.gone()))
        if holder and not dead:
            _await_silence(path, holder, stale, say, taken=free is False)
        if free is False and not _flock_within(path, descriptor, stale):
            descriptor = _replace(path, descriptor)
        if holder:
            say(f"taking over the lock of {holder}, which is gone")
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(Holder.me())).encode(), 0)
            os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _try_flock(descriptor: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the volume has no flock, and the heartbeat alone decides."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return None
    return True


def _await_silence(
    path: Path, holder: Holder, stale: float, say: Callable[[str], None], *, taken: bool
) -> None:
    """Return when the heartbeat stood still for `stale` seconds; NotOurs when it beats. `taken`: somebody has the flock."""
    last = path.stat().st_mtime
    if not taken and time.time() - last > LONG_DEAD:
        return
    say(f"the run folder is locked by {holder}; waiting up to {stale:.0f} s for a sign of life")
    end = time.monotonic() + stale
    while time.monotonic() < end:
        time.sleep(min(stale / 20, 1.0))
        if not _beats(path, last):
            return


def _flock_within(path: Path, descriptor: int, seconds: float) -> bool:
    """Orphans of a dead holder keep its flock for a moment. NotOurs when whoever has it lives: one that began when we did, too."""
    last = path.stat().st_mtime
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if _try_flock(descriptor):
            return True
        time.sleep(min(seconds / 20, 0.2))
        _beats(path, last)
    return False


def _beats(path: Path, last: float) -> bool:
    """Whether somebody's name is in the lock; NotOurs when it had a heartbeat since `last`."""
    holder = read_holder(path)
    if holder is not None and path.stat().st_mtime != last:
        run = path.parent.name
        hint = f"`vidjobs cancel {run}` stops it; a new submit makes a run of its own"
        raise NotOurs(
            f"the run folder {path.parent} is in use by {holder}, and its heartbeat goes on",
            hint=hint,
        )
    return holder is not None


def _replace(path: Path, descriptor: int) -> int:
    """The kernel never freed a silent holder's flock (a lost node): a new file takes its name; the old holder's `require_held` sees it."""
    os.close(descriptor)
    path.unlink(missing_ok=True)
    fresh = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
    _try_flock(fresh)
    return fresh
