"""GPUs of a cluster by type: how many there are, and how many are free where this login may see other people's pods."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from launcher.backend_base import Finding
from launcher.backends.kube import pods as pod_of
from launcher.backends.kube.client import KubeClient, Object
from launcher.errors import ClusterError

_PRODUCT = "nvidia.com/gpu.product"
_VENDORS = ("nvidia.com/", "amd.com/", "gpu.intel.com/")


class Kind(NamedTuple):
    """What a conf asks for: the resource's name and the product's label."""

    resource: str
    product: str


def gpu_findings(client: KubeClient) -> Iterator[Finding]:
    """One finding a type."""
    nodes = client.list("Node").items
    try:
        used: Counter[tuple[str, str]] | None = in_use(client.list("Pod", everywhere=True).items)
    except ClusterError as error:
        if error.status != 403:
            raise
        used = None
    counts = by_type(nodes, used or Counter())
    for kind, (free, total) in sorted(counts.items()):
        seen = (
            f"{free} of {total} free"
            if used is not None
            else f"{total} in all; in use: not allowed to see"
        )
        yield Finding(
            what=f"gpus {kind.product or kind.resource}",
            ok=True,
            detail=f"{seen} ({kind.resource})",
        )
    if not counts:
        yield Finding(what="gpus", ok=None, detail="no node offers any")


def by_type(nodes: Sequence[Object], used: Counter[tuple[str, str]]) -> dict[Kind, tuple[int, int]]:
    """(free, total) of each type over nodes that take pods."""
    counts: dict[Kind, list[int]] = defaultdict(lambda: [0, 0])
    for node in nodes:
        if node["spec"].get("unschedulable") or not pod_of.holds(node, "Ready"):
            continue
        name, labels = node["metadata"]["name"], node["metadata"].get("labels", {})
        for resource, amount in node["status"].get("allocatable", {}).items():
            if resource.startswith(_VENDORS) and str(amount).isdigit() and int(amount):
                count = counts[Kind(resource, labels.get(_PRODUCT, ""))]
                count[0] += max(0, int(amount) - used[name, resource])
                count[1] += int(amount)
    return {kind: (free, total) for kind, (free, total) in counts.items()}


def in_use(pods: Sequence[Object]) -> Counter[tuple[str, str]]:
    """(node, resource) -> how many are given to pods that are not over."""
    used: Counter[tuple[str, str]] = Counter()
    for pod in pod_of.live(pods):
        for container in pod["spec"]["containers"]:
            for resource, amount in container.get("resources", {}).get("limits", {}).items():
                if resource.startswith(_VENDORS):
                    used[pod["spec"].get("nodeName", ""), resource] += int(amount)
    return used
