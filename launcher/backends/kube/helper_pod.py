"""A bare pod that mounts one claim, for files when no pod of the run is alive; deleted at the end, over by itself after an hour."""

from __future__ import annotations

import contextlib
import secrets
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from launcher.backend_base import Manifest
from launcher.backends.kube import causes
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.errors import ClusterError
from launcher.render import fill

CONTAINER = "files"
_LABEL = "vidjobs/helper=files"
_START_S = 600.0  # an image of many GB may have to be pulled


@dataclass(frozen=True, kw_only=True)
class HelperSpec:
    """What the pod needs to read what the run wrote: its image, its ids, its claim."""

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


def like(template: Object, *, claim: str, mount: str, read_only: bool = True, node: str = "") -> HelperSpec:
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
    values = {
        "name": name, "namespace": namespace, "image": spec.image, "claim": spec.claim, "mount": spec.mount, "read_only": spec.read_only,
        "node": spec.node, "uid": spec.uid, "gid": spec.gid, "fs_group": spec.fs_group, "pull_secrets": list(spec.pull_secrets),
        "tolerations": [[{"key": key, "value": value} for key, value in one.items()] for one in spec.tolerations],
    }  # fmt: skip
    return fill("helper_pod.yaml.j2", values)


@contextlib.contextmanager
def helper_pod(client: KubeClient, spec: HelperSpec) -> Iterator[str]:
    """The name of the pod, running. ClusterError with the cause when it cannot start."""
    _sweep(client)
    alphabet = string.ascii_lowercase + string.digits
    name = "vidjobs-files-" + "".join(secrets.choice(alphabet) for _ in range(6))
    client.create(manifest(spec, name=name, namespace=client.namespace))
    try:
        _wait_until_running(client, name, spec)
        yield name
    finally:
        client.delete("Pod", name)


def _sweep(client: KubeClient) -> None:
    """Helpers of fetches that were killed: over after an hour, but nobody else removes them."""
    for pod in client.list("Pod", labels=_LABEL).items:
        if pod_of.over(pod):
            client.delete("Pod", pod_of.name(pod))


def _wait_until_running(client: KubeClient, name: str, spec: HelperSpec) -> None:
    until = time.monotonic() + _START_S
    cause = causes.NOTHING
    while time.monotonic() < until:
        pod = client.get("Pod", name)
        if pod_of.container_state(pod, CONTAINER) == "running":
            return
        if pod_of.over(pod):
            raise ClusterError(f"the helper pod for files ended: {causes.failure(pod, name).text}", hint="try again")
        cause = _why_not(client, pod, spec)
        if "cannot be pulled" in cause.text or "does not exist" in cause.text:
            break
        time.sleep(0.3)
    raise ClusterError(f"the helper pod for files does not start: {cause.text or 'no reason is given'}", hint=cause.fix)


def _why_not(client: KubeClient, pod: Object, spec: HelperSpec) -> causes.Cause:
    if pod["spec"].get("nodeName"):
        return causes.not_started(pod, [])
    if not pod_of.condition(pod, "PodScheduled"):
        return causes.NOTHING
    return causes.not_scheduled(pod, causes.Claims(found={spec.claim: client.find("PersistentVolumeClaim", spec.claim)}))
