"""A bare pod that mounts claims, for files or a shell when no pod of the run is alive; deleted at the end, over by itself in time."""

from __future__ import annotations

import contextlib
import secrets
import signal
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from launcher import output
from launcher.backend_base import Manifest
from launcher.backends.kube import causes
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.backends.kube.exec import NO_PYTHON, NOT_FOUND
from launcher.errors import ClusterError
from launcher.render import fill

CONTAINER = "files"
FILES_S = 3600  # a helper for files is over after so long
_LABEL = "vidjobs/helper"
_LIMITS = {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "100Mi"}
_START_S = 600.0  # an image of many GB may have to be pulled
_QUIET_S = 5.0  # then whoever waits is told why


@dataclass(frozen=True, kw_only=True)
class HelperSpec:
    """What the pod needs to read what the run wrote: its image, its ids, its claim."""

    kind: str = "files"

    image: str
    claim: str
    mount: str  # where the claim is mounted
    read_only: bool = True
    node: str = ""  # "" = any
    uid: int = 1000
    gid: int = 1000
    fs_group: int = 1000
    pull_secrets: tuple[str, ...] = ()
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    more: tuple[tuple[str, str], ...] = ()  # other claims and their mounts
    deadline_s: int = FILES_S
    limits: dict[str, str] = field(default_factory=lambda: dict(_LIMITS))  # and requests
    node_terms: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (label, allowed values)
    env: dict[str, str] = field(default_factory=dict)


def like(
    template: Object, *, claim: str, mount: str, read_only: bool = True, node: str = ""
) -> HelperSpec:
    """A helper for what pods of this template wrote."""
    spec = template["spec"]
    ids = spec.get("securityContext") or {}
    main = pod_of.main_container(template)
    return HelperSpec(
        image=next(one["image"] for one in spec["containers"] if one["name"] == main),
        claim=claim,
        mount=mount,
        read_only=read_only,
        node=node,
        uid=ids.get("runAsUser", 1000),
        gid=ids.get("runAsGroup", 1000),
        fs_group=ids.get("fsGroup", 1000),
        pull_secrets=tuple(one["name"] for one in spec.get("imagePullSecrets") or []),
        tolerations=spec.get("tolerations") or [],
    )


def manifest(spec: HelperSpec, *, name: str, namespace: str) -> Manifest:
    places = [(spec.claim, spec.mount), *spec.more]
    volumes = {
        claim: f"volume-{number}"
        for number, claim in enumerate(dict.fromkeys(claim for claim, _ in places))
    }
    values = {
        "name": name, "namespace": namespace, "kind": spec.kind, "image": spec.image, "node": spec.node, "deadline_s": spec.deadline_s,
        "mounts": [{"volume": volumes[claim], "path": mount, "read_only": spec.read_only} for claim, mount in places],
        "claims": [{"volume": volume, "claim": claim} for claim, volume in volumes.items()],
        "limits": _pairs(spec.limits), "env": _pairs({key: value.replace("$", "$$") for key, value in spec.env.items()}),
        "node_terms": [{"key": key, "allowed": list(allowed)} for key, allowed in spec.node_terms],
        "uid": spec.uid, "gid": spec.gid, "fs_group": spec.fs_group, "pull_secrets": list(spec.pull_secrets),
        "tolerations": [_pairs(one) for one in spec.tolerations],
    }  # fmt: skip
    return fill("helper_pod.yaml.j2", values)


def _pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


@contextlib.contextmanager
def helper_pod(client: KubeClient, spec: HelperSpec) -> Iterator[str]:
    """The name of the pod, running. ClusterError with the cause when it cannot start."""
    _sweep(client)
    alphabet = string.ascii_lowercase + string.digits
    name = f"vidjobs-{spec.kind}-" + "".join(secrets.choice(alphabet) for _ in range(6))
    with _interruptible():
        client.create(manifest(spec, name=name, namespace=client.namespace))
        try:
            _wait_until_running(client, name, spec)
            yield name
        finally:
            _remove(client, name)


def _remove(client: KubeClient, name: str) -> None:
    """What was done with the pod stays done when the server is away just now: the pod is over in time."""
    try:
        client.delete("Pod", name)
    except ClusterError as error:
        if error.status == 403:
            raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, end the block as Ctrl-C does: the pod would hold its volume for an hour."""
    caught = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    if threading.current_thread() is not threading.main_thread():
        caught = []
    for number in caught:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _sweep(client: KubeClient) -> None:
    """Helpers of fetches that were killed: over after an hour, but nobody else removes them."""
    for pod in client.list("Pod", labels=_LABEL).items:
        if pod_of.over(pod):
            client.delete("Pod", pod_of.name(pod))


def _wait_until_running(client: KubeClient, name: str, spec: HelperSpec) -> None:
    began = time.monotonic()
    cause = told = causes.NOTHING
    while time.monotonic() < began + _START_S:
        pod = client.get("Pod", name)
        if pod_of.container_state(pod, CONTAINER) == "running":
            return
        if pod_of.over(pod):
            why = causes.failure(pod, name).text
            raise ClusterError(
                f"the helper pod ended: {why}", hint=NO_PYTHON if NOT_FOUND in why else "try again"
            )
        cause = _why_not(client, pod, spec)
        if "cannot be pulled" in cause.text or "does not exist" in cause.text:
            break
        if cause.text and cause != told and time.monotonic() > began + _QUIET_S:
            told = cause
            output.note(f"the helper pod {name} waits: {cause.text}")
        time.sleep(0.3)
    raise ClusterError(
        f"the helper pod does not start: {cause.text or 'no reason is given'}", hint=cause.fix
    )


def _why_not(client: KubeClient, pod: Object, spec: HelperSpec) -> causes.Cause:
    if pod["spec"].get("nodeName"):
        return causes.not_started(pod, [])
    if not pod_of.condition(pod, "PodScheduled"):
        return causes.NOTHING
    claims = {
        claim: client.find("PersistentVolumeClaim", claim)
        for claim in (spec.claim, *(claim for claim, _ in spec.more))
    }
    return causes.not_scheduled(pod, causes.Claims(found=claims))
