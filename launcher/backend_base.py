"""What a backend must do, as a Protocol, and the plain values that cross it.

Two modules fit it: `backends/kube` (a namespace of a Kubernetes cluster) and `backends/local` (processes
on this machine). Commands know only this file; `all_backends.py` maps names to the modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from launcher.records import RunRecord
from launcher.spec import CodePin
from launcher.wanted import Wanted

Manifest = dict[str, Any]


class Phase(StrEnum):
    """What a run is doing, for people and `--json`."""

    PENDING = "pending"  # accepted, no container runs yet; `cause` says why
    STARTING = "starting"  # init containers, image pull
    RUNNING = "running"
    RETRYING = "retrying"  # a pod failed, the next one has not started
    CANCELLED = "cancelled"  # suspended by `vidjobs cancel`; `resume` goes on
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GONE = "gone"  # no object left; only the record remains

    @property
    def ended(self) -> bool:
        """True when the run will not go on by itself."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.GONE)

    @property
    def told(self) -> str:
        """How a sentence about the run goes on: "failed", "was cancelled"."""
        ended = {
            Phase.SUCCEEDED: "succeeded",
            Phase.FAILED: "failed",
            Phase.CANCELLED: "was cancelled",
            Phase.GONE: "is gone",
        }
        return ended.get(self, f"is {self}")


@dataclass(frozen=True, kw_only=True)
class PodStatus:
    """One attempt: a pod, or a process group on the local backend."""

    name: str
    phase: Phase
    node: str = ""
    exit_code: int | None = None
    reason: str = ""  # "OOMKilled", "Evicted", ...
    started: str = ""  # RFC 3339, UTC
    finished: str = ""
    image: str = ""  # what it really ran: name@sha256:...


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """One of the pods that have an index of their own, its attempts together."""

    phase: Phase
    cause: str = ""  # one line


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What a run does and, when it does not run or failed, why and what to do."""

    run: str
    phase: Phase
    cause: str = ""  # one line
    fix: str = ""  # one line: the next step
    pods: tuple[PodStatus, ...] = ()  # oldest first
    # the trainer's JSON: cause, step, checkpoint
    termination: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""  # RFC 3339, UTC; "" where only the record knows
    # of trials and shards those that have started
    indexes: Mapping[int, IndexStatus] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of one container, without its newline.

    `kind` is "line"; "gap" when the cluster lost lines here (the text says why);
    "truncated" when only the tail of a line could be had; "skipped" when it only counts lines that were not wanted.
    """

    pod: str
    text: str
    time: str = ""  # RFC 3339 with nanoseconds, UTC
    container: str = "trainer"
    kind: str = "line"
    # False: an ended container's last line, which has no newline and may be cut
    terminated: bool = True
    skipped: int = 0  # lines before this one that were not wanted
    more: bool = field(default=False, compare=False)  # the next one has come already
    lines: int = 1  # in `text`; more only where `wanted` allows it


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A regular file below a folder of a volume; `path` is relative to that folder, with `/`."""

    path: str
    size: int  # bytes
    mtime_ns: int


class Files(Protocol):
    """Read access to one folder of a volume. Links and everything but regular files are left out."""

    def list(self) -> list[RemoteFile]:
        """All files below the folder; empty when the folder does not exist."""
        ...

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        """Blocks of `length` bytes from `offset`; fewer when the file ends or the connection breaks (ClusterError)."""
        ...

    def sha256(self, path: str, length: int | None = None) -> str:
        """Hex digest of the whole file, or of its first bytes, computed where the file lies."""
        ...

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        """Many small files in one question: path -> content of those that match one of the globs; of longer ones the last `limit` bytes."""
        ...

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:
        """Small files in one question, each whole: path -> content; None where the file has the sha256 that is given with its path.

        What is no plain file, is not small, or changes at this moment is left out. ClusterError when the connection breaks.
        """
        ...


class Channel(Protocol):
    """The stdin and stdout of `receiving.py`, which writes to a claim. A broken one raises ClusterError or ConnectionError."""

    def send(self, data: bytes) -> None: ...

    def receive(self, *, wait: bool) -> bytes | None:
        """What it has said; b"" when it has ended, None when nothing has come and `wait` is False."""
        ...


class Inlet(Protocol):
    """Write access to one claim."""

    def connect(self, folder: str, only: str) -> AbstractContextManager[Channel]:
        """A new receiver for files below `folder`; `only`: it is asked about one name. Also after the connection before broke."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShellOptions:
    """What a pod made for a shell asks for; a run's own pod is as it is."""

    seconds: int = 3600  # then it ends by itself
    cpu: str = "1"
    memory: str = "4Gi"
    gpus: int = 0


class Shell(Protocol):
    """A place to type commands."""

    @property
    def where(self) -> str:
        """One line: which pod, and when it ends."""
        ...

    def run(self, command: str | None) -> int:
        """A command for `sh -c`, or an interactive shell on our terminal; its exit code."""
        ...


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One claim, as `volume ls` and `doctor` show it."""

    claim: str
    phase: str  # "Bound", "Pending", ...
    size: str
    access: str
    storage_class: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of `doctor`."""

    what: str
    ok: bool | None  # None: not allowed to see, or not applicable
    detail: str = ""
    fix: str = ""


class Backend(Protocol):
    """One place where runs run. Every method raises ClusterError when that place cannot be reached."""

    name: str

    def where(self) -> tuple[str, str]:
        """(context, namespace) that runs go to, as their records keep them; ("", "") on this machine."""
        ...

    def claim_path(self, claim: str, mount: str) -> str:
        """Where the trainer sees the claim: `mount` itself on a cluster, a directory of this machine on `local`."""
        ...

    def conf_dir(self, run: str) -> str:
        """Where the trainer finds conf.yaml (and code.diff)."""
        ...

    def code_dir(self, run: str, code: CodePin) -> str:
        """The trainer's working directory; "" when the code is baked into the image."""
        ...

    def submit(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> None:
        """Create the objects; with `dry_run` only ask the server whether it would. AdmissionError when it refuses."""
        ...

    def status(self, record: RunRecord) -> RunStatus: ...

    def list_runs(self) -> list[RunStatus]:
        """Every run of this place that is labelled as ours, also those without a record here."""
        ...

    def logs(
        self,
        record: RunRecord,
        *,
        follow: bool = False,
        since_s: int | None = None,
        tail: int | None = None,
        all_pods: bool = False,
        index: int | None = None,
        wanted: Wanted | None = None,
        quick: bool = False,
    ) -> Iterator[LogLine]:
        """Lines of the newest pod that has a log (or all), oldest first; with `follow` until the run has ended, pods found as they come.

        `index`: only pods of this trial or shard. `wanted`: other lines may be left out, if they are counted. `quick`: nothing is
        started only to read a log; what is then not known to be its end is followed by a gap.
        """
        ...

    def files(self, record: RunRecord) -> AbstractContextManager[Files]:
        """The run's folder, whether the run still runs or has ended."""
        ...

    def cancel(self, record: RunRecord) -> None:
        """Stop, keep the state (SIGTERM, checkpoint)."""
        ...

    def resume(self, record: RunRecord) -> None: ...

    def delete(self, record: RunRecord, *, files: bool = False) -> None:
        """Remove the objects, and with `files` the run's folder."""
        ...

    def create_volume(
        self, claim: str, *, size: str, access: str, storage_class: str = ""
    ) -> Volume: ...

    def volumes(self) -> list[Volume]: ...

    def volume_files(self, claim: str, path: str) -> AbstractContextManager[Files]:
        """A folder of a claim, for `volume ls CLAIM PATH`."""
        ...

    def inlet(self, claim: str) -> AbstractContextManager[Inlet]:
        """Write access to a claim, for `push`."""
        ...

    def shell(
        self, record: RunRecord | None, claim: str, wanted: ShellOptions
    ) -> AbstractContextManager[Shell]:
        """In the run's folder, or (without a run) on a claim."""
        ...

    def doctor(self) -> list[Finding]: ...
