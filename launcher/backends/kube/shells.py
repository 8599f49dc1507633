"""A shell in the run's pod, or in a bare pod of limited time with the run's volumes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from launcher.backend_base import ShellOptions
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.backends.kube.duplex import Duplex
from launcher.backends.kube.helper_pod import CONTAINER, HelperSpec, helper_pod
from launcher.errors import ClusterError, ConfError, Fault
from launcher.profiles import ClusterProfile
from launcher.rules.judge import broken
from launcher.site_rules import of_profile

_BLOCK = 1 << 15
_HERE = 'cd -- "$1" 2>/dev/null || cd -- "$2" 2>/dev/null || :; shift 2; exec "$@"'
_INTERACTIVE = "if command -v bash >/dev/null; then exec bash; fi; exec sh"
_VENDORS = ("nvidia.com/", "amd.com/", "gpu.intel.com/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodShell:
    """See `Shell`."""

    client: KubeClient
    pod: str
    container: str
    folder: str
    otherwise: str  # where to be when there is no such folder
    where: str

    def run(self, command: str | None) -> int:
        tty = command is None and sys.stdin.isatty() and sys.stdout.isatty()
        typed = _INTERACTIVE if command is None else command
        argv = [
            "sh",
            "-c",
            _HERE,
            "sh",
            self.folder,
            self.otherwise,
            "env",
            f"TERM={os.environ.get('TERM', 'dumb')}",
            "sh",
            "-c",
            typed,
        ]
        with contextlib.closing(
            Duplex(self.client, self.pod, self.container, argv, tty=tty, stderr=_write_to(2))
        ) as duplex:
            with _raw_terminal(duplex) if tty else contextlib.nullcontext():
                _pump(duplex, reads=command is None or not sys.stdin.isatty())
            return duplex.exit_code


def _pump(duplex: Duplex, *, reads: bool) -> None:
    """Bytes both ways until the command ends."""
    keyboard = _stdin() if reads else -1
    write = _write_to(1)
    while not duplex.ended:
        watched = [duplex.fileno(), *([keyboard] if keyboard >= 0 else [])]
        ready = [] if duplex.readable() else select.select(watched, [], [])[0]
        if keyboard in ready:
            data = os.read(keyboard, _BLOCK)
            if data:
                duplex.send(data)
            else:
                duplex.send_end()
                keyboard = -1
            continue
        said = duplex.receive(wait=False)
        if said:
            write(said)


def _stdin() -> int:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError):
        return -1  # closed, or not a file


def _write_to(fd: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return write


@contextlib.contextmanager
def _raw_terminal(duplex: Duplex) -> Iterator[None]:
    """Every key goes to the pod, and the pod knows our window's size."""
    import termios
    import tty

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        duplex.resize(size.columns, size.lines)

    before = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, resize)
    tty.setraw(0)
    try:
        resize()
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)


def in_run_pod(client: KubeClient, pods: Sequence[Object], folder: str) -> PodShell | None:
    """In the newest pod whose trainer runs; None when none does."""
    running = [
        pod for pod in pods if pod_of.container_state(pod, pod_of.main_container(pod)) == "running"
    ]
    running = [pod for pod in running if not pod["metadata"].get("deletionTimestamp")]
    if not running:
        return None
    name, container = pod_of.name(running[-1]), pod_of.main_container(running[-1])
    where = f"in {name}, the run's own pod: what you use is the training's; it ends with the run"
    return PodShell(
        client=client, pod=name, container=container, folder=folder, otherwise="/", where=where
    )


@contextlib.contextmanager
def in_helper(client: KubeClient, spec: HelperSpec, folder: str) -> Iterator[PodShell]:
    """In a pod of its own, deleted at the end."""
    with helper_pod(client, spec) as name:
        ends = (datetime.now() + timedelta(seconds=spec.deadline_s)).strftime("%H:%M")
        limits = ", ".join(
            f"{value} {key.rpartition('/')[2]}"
            for key, value in spec.limits.items()
            if key != "ephemeral-storage"
        )
        where = f"in {name}, with {limits}; it ends at {ends}, or with this shell"
        yield PodShell(
            client=client,
            pod=name,
            container=CONTAINER,
            folder=folder,
            otherwise=spec.mount,
            where=where,
        )


def shell_spec(
    base: HelperSpec, template: Object, wanted: ShellOptions, gpu_resource: str
) -> HelperSpec:
    """The helper with all claims of the template, and what was asked for. GPUs are of the template's type."""
    own = {base.claim: base.mount}
    others = {claim: mount for claim, mount in _mounts(template) if claim not in own}
    gpus = {_gpu_resource(template) or gpu_resource: str(wanted.gpus)} if wanted.gpus else {}
    return dataclasses.replace(
        base,
        kind="shell",
        more=tuple(others.items()),
        deadline_s=wanted.seconds,
        limits={"cpu": wanted.cpu, "memory": wanted.memory, "ephemeral-storage": "2Gi", **gpus},
        node_terms=_terms(template) if wanted.gpus else (),
        env={"HOME": "/tmp", "USER": "vidjobs"},
    )


def _mounts(template: Object) -> Iterator[tuple[str, str]]:
    """(claim, mount) of the main container, and of staged claims at the place where the first container sees them."""
    spec = template["spec"]
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in spec.get("volumes") or []
        if "persistentVolumeClaim" in one
    }
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        for mount in container.get("volumeMounts") or []:
            if mount["name"] in claims:
                yield claims[mount["name"]], mount["mountPath"]


def _gpu_resource(template: Object) -> str:
    limits = [
        key
        for one in template["spec"]["containers"]
        for key in one.get("resources", {}).get("limits", {})
    ]
    return next((key for key in limits if key.startswith(_VENDORS)), "")


def _terms(template: Object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    affinity = (template["spec"].get("affinity") or {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get(
        "nodeSelectorTerms"
    ) or [{}]
    return tuple(
        (one["key"], tuple(one["values"]))
        for one in terms[0].get("matchExpressions", [])
        if one.get("operator") == "In"
    )


def require_allowed(pod: Object, profile: ClusterProfile) -> None:
    """ConfError with every rule of the site that such a pod would break."""
    faults = [
        Fault(path=path, message=f"{message} [{rule.id}]", hint=rule.fix)
        for rule in of_profile(profile)
        if rule.severity == "error"
        for path, message in broken(rule, pod)
    ]
    if faults:
        raise ConfError(faults)


def one_node(holders: dict[str, str]) -> str:
    """The node that all claims which one node holds are on; "" = any. ClusterError when they are on two."""
    nodes = {node: claim for claim, node in holders.items() if node}
    if len(nodes) > 1:
        named = ", ".join(f"{claim} on {node}" for node, claim in nodes.items())
        raise ClusterError(
            f"no one pod can mount these claims now: {named}",
            hint="--claim CLAIM mounts one of them",
        )
    return next(iter(nodes), "")
