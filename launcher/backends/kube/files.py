"""Files on a claim, through commands in a pod that mounts it: the running trainer, or a helper pod."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from typing import Any, TypeVar

from launcher.backend_base import RemoteFile, ShellOptions
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.backends.kube.exec import run_command
from launcher.backends.kube.helper_pod import CONTAINER, HelperSpec, helper_pod, like
from launcher.backends.kube.shells import one_node, shell_spec
from launcher.errors import ClusterError, UserError
from launcher.records import RunRecord

_T = TypeVar("_T")
_ONE_NODE = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})


@dataclass(frozen=True, kw_only=True)
class PodFiles:
    """The folder `root` as a container sees it."""

    client: KubeClient
    pod: str
    container: str
    root: str

    def list(self) -> list[RemoteFile]:
        """All regular files, sorted by path."""
        lines = b"".join(self._run("list")).splitlines()
        found = [
            RemoteFile(path=path, size=size, mtime_ns=mtime_ns)
            for path, size, mtime_ns in map(json.loads, lines)
        ]
        return sorted(found, key=lambda file: file.path)

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        """Blocks of the file's bytes from `offset`, at most `length` in all."""
        return self._run("read", path=_checked(path), offset=offset, length=length)

    def sha256(self, path: str, length: int | None = None) -> str:
        """Hex digest, computed in the pod."""
        first = {} if length is None else {"length": length}
        return b"".join(self._run("sha256", path=_checked(path), **first)).decode().strip()

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        """Each file as a line [path, bytes], then its bytes."""
        answer = b"".join(self._run("gather", patterns=list(patterns), limit=limit))
        found: dict[str, bytes] = {}
        at = 0
        while at < len(answer):
            line = answer[at : answer.index(b"\n", at)]
            path, size = json.loads(line)
            at += len(line) + 1
            found[path] = answer[at : at + size]
            at += size
        return found

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:
        """Each file as a line [path, bytes or -1, sha256], then its bytes. What arrived damaged is a transient ClusterError."""
        answer = b"".join(
            self._run("bundle", have={_checked(path): digest for path, digest in have.items()})
        )
        found: dict[str, bytes | None] = {}
        at = 0
        while at < len(answer):
            line = answer[at : answer.index(b"\n", at)]
            path, size, digest = json.loads(line)
            at += len(line) + 1
            data = answer[at : at + max(0, size)]
            if path not in have or (size >= 0 and hashlib.sha256(data).hexdigest() != digest):
                raise ClusterError(f"{path} arrived damaged", hint="try again", transient=True)
            found[path] = data if size >= 0 else None
            at += max(0, size)
        return found

    def remove_all(self) -> None:
        """The folder and everything in it; a folder that is not there is fine."""
        for _ in self._run("remove"):
            pass

    def _run(self, do: str, **request: Any) -> Iterator[bytes]:
        """The request travels as one argument of plain ASCII: no shell reads it."""
        argument = json.dumps({"do": do, "root": self.root, **request})
        return run_command(
            self.client, self.pod, self.container, ["python", "-I", "-c", _program(), argument]
        )


class FoundFiles:
    """One folder, through whichever pod can show it now: a trainer ends in the middle of a fetch, a helper's hour is over.

    `find` makes or chooses the pod; it is asked again when the pod of before is over. Several threads may read at once; all else is
    for one thread, the main one where signals are to remove a helper pod.
    """

    def __init__(
        self, client: KubeClient, find: Callable[[], AbstractContextManager[PodFiles]]
    ) -> None:
        self._client = client
        self._find = find
        self._stack = contextlib.ExitStack()
        self._now: PodFiles | None = None

    def list(self) -> list[RemoteFile]:
        return self._asked(lambda files: files.list())

    def sha256(self, path: str, length: int | None = None) -> str:
        return self._asked(lambda files: files.sha256(path, length))

    def gather(self, patterns: Sequence[str], limit: int) -> dict[str, bytes]:
        return self._asked(lambda files: files.gather(patterns, limit))

    def bundle(self, have: Mapping[str, str]) -> dict[str, bytes | None]:
        return self._asked(lambda files: files.bundle(have))

    def read(self, path: str, offset: int, length: int) -> Iterator[bytes]:
        """Of the present pod. When that is over, reads fail until another question has found the next one."""
        return self.here().read(path, offset, length)

    def here(self) -> PodFiles:
        """The files in their present pod."""
        if self._now is None:
            self._now = self._stack.enter_context(self._find())
        return self._now

    def close(self) -> None:
        self._now = None
        self._stack.close()

    def _asked(self, ask: Callable[[PodFiles], _T]) -> _T:
        try:
            return ask(self.here())
        except ClusterError:
            if not self._leave_if_over():
                raise
            return ask(self.here())

    def _leave_if_over(self) -> bool:
        if self._now is None:
            return False
        pod = self._client.find("Pod", self._now.pod)
        if pod is not None and pod_of.container_state(pod, self._now.container) == "running":
            return False
        self.close()
        return True


@contextlib.contextmanager
def run_files(
    client: KubeClient, record: RunRecord, objects: Callable[[], tuple[Object | None, list[Object]]]
) -> Iterator[FoundFiles]:
    """The run's folder; `objects` gives its Job and pods. ClusterError when they cannot be read now, with the reason."""
    with contextlib.closing(FoundFiles(client, lambda: _find(client, record, *objects()))) as found:
        found.here()
        yield found


@contextlib.contextmanager
def _find(
    client: KubeClient, record: RunRecord, job: Object | None, pods: list[Object]
) -> Iterator[PodFiles]:
    """In the running trainer, else through a helper pod once the run has ended or is cancelled.

    ClusterError while an attempt is about to start or to stop: it may write, or need the volume alone.
    """
    running = [
        pod for pod in pods if pod_of.container_state(pod, pod_of.main_container(pod)) == "running"
    ]
    root = str(record.paths.root)
    if running and not running[-1]["metadata"].get("deletionTimestamp"):
        pod = running[-1]
        yield PodFiles(
            client=client, pod=pod_of.name(pod), container=pod_of.main_container(pod), root=root
        )
        return
    _require_quiet(record.run, job, pods)
    with helper_pod(client, _helper(client, record, job, read_only=True)) as name:
        yield PodFiles(client=client, pod=name, container=CONTAINER, root=root)


def remove_run_files(
    client: KubeClient, record: RunRecord, job: Object | None, pods: list[Object]
) -> None:
    """Delete the run's folder from its volume; no pod of the run may be alive."""
    if pod_of.live(pods):
        raise ClusterError(
            f"{record.run} still runs: its folder is not deleted",
            hint=f"`vidjobs cancel {record.run}`, then delete it",
        )
    with helper_pod(client, _helper(client, record, job, read_only=False)) as name:
        PodFiles(
            client=client, pod=name, container=CONTAINER, root=str(record.paths.root)
        ).remove_all()


@contextlib.contextmanager
def claim_files(client: KubeClient, template: Object, claim: str, path: str) -> Iterator[PodFiles]:
    """A folder of any claim, with the image and ids of `template` (a pod or a pod template)."""
    mount = "/volume"
    spec = like(template, claim=claim, mount=mount, node=_holder(client, claim))
    root = "/".join([mount, *(part for part in _folder(path).split("/") if part)])
    with helper_pod(client, spec) as name:
        yield PodFiles(client=client, pod=name, container=CONTAINER, root=root)


def shell_helper(
    client: KubeClient,
    record: RunRecord,
    job: Object | None,
    *,
    wanted: ShellOptions,
    gpu_resource: str,
) -> HelperSpec:
    """A pod with all claims of the run, which it may write to."""
    template = job["spec"]["template"] if job else _recorded_template(record)
    base = like(template, claim=record.runs_claim, mount=record.runs_mount, read_only=False)
    spec = shell_spec(base, template, wanted, gpu_resource)
    claims = [spec.claim, *(claim for claim, _ in spec.more)]
    return dataclasses.replace(
        spec, node=one_node({claim: _holder(client, claim) for claim in claims})
    )


def claim_helper(client: KubeClient, template: Object, claim: str, *, mount: str) -> HelperSpec:
    """A helper that may write to a claim. ClusterError when the claim does not exist, or a pod has it for itself."""
    return like(template, claim=claim, mount=mount, read_only=False, node=_holder(client, claim))


def _require_quiet(run: str, job: Object | None, pods: list[Object]) -> None:
    live = pod_of.live(pods)
    if live:
        phase = (
            "is being stopped"
            if live[-1]["metadata"].get("deletionTimestamp")
            else "is not running yet"
        )
        hint = f"try again when it runs or has ended; `vidjobs status {run}` says why it waits"
        raise ClusterError(
            f"the files of {run} cannot be read now: its pod {pod_of.name(live[-1])} {phase}",
            hint=hint,
        )
    if not pod_of.job_ended(job):
        hint = f"try again when it runs, or `vidjobs cancel {run}` first"
        raise ClusterError(
            f"the files of {run} cannot be read now: its next attempt is about to start", hint=hint
        )


def _helper(
    client: KubeClient, record: RunRecord, job: Object | None, *, read_only: bool
) -> HelperSpec:
    template = job["spec"]["template"] if job else _recorded_template(record)
    node = _holder(client, record.runs_claim)
    return like(
        template, claim=record.runs_claim, mount=record.runs_mount, read_only=read_only, node=node
    )


def _recorded_template(record: RunRecord) -> Object:
    for manifest in record.manifests:
        if manifest.get("kind") == "Job":
            return dict(manifest["spec"]["template"])
    raise ClusterError(
        f"neither the cluster nor the record of {record.run} holds its Job",
        hint="its volume: `vidjobs volume ls CLAIM`",
    )


def _holder(client: KubeClient, claim: str) -> str:
    """The node of a live pod that holds a one-node claim; "" when any node will do."""
    volume = client.find("PersistentVolumeClaim", claim)
    if volume is None:
        hint = "`vidjobs volume ls` shows those that do"
        raise ClusterError(
            f'volume claim "{claim}" does not exist in namespace {client.namespace}', hint=hint
        )
    modes = set(volume["spec"].get("accessModes", []))
    if not modes <= _ONE_NODE:
        return ""
    users = [
        pod
        for pod in pod_of.live(client.list("Pod").items)
        if claim in pod_of.claims(pod) and pod["spec"].get("nodeName")
    ]
    if users and "ReadWriteOncePod" in modes:
        raise ClusterError(
            f'pod {pod_of.name(users[-1])} holds volume claim "{claim}" for itself',
            hint="try again when it has ended",
        )
    return str(users[-1]["spec"]["nodeName"]) if users else ""


def _checked(path: str) -> str:
    """Refused here as well as in the pod: nothing outside the folder is ever asked for."""
    if not path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise UserError(f"{path!r} is not a path below the run's folder")
    return path


def _folder(path: str) -> str:
    if "\0" in path or ".." in path.split("/"):
        raise UserError(
            f"{path!r} is not a folder of the volume",
            hint="name it from the volume's top, without ..",
        )
    return path


@cache
def _program() -> str:
    return package_files("launcher.backends.kube").joinpath("remote_files.py").read_text()
