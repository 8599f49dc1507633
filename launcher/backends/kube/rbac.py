"""The rights that this backend uses, as data: `vidjobs rbac` prints them, `vidjobs doctor` checks them, a test runs under them."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.backend_base import Manifest


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Verbs on one resource of one API group."""

    group: str
    resource: str  # "pods", "pods/log"
    verbs: tuple[str, ...]
    why: str


FEATURES: dict[str, tuple[Rule, ...]] = {
    "base": (
        Rule(
            group="batch",
            resource="jobs",
            verbs=("create", "get", "list", "patch", "delete"),
            why="submit, status, cancel, delete",
        ),
        Rule(
            group="",
            resource="configmaps",
            verbs=("create", "get", "patch", "delete"),
            why="submit of a large diff",
        ),
        Rule(
            group="",
            resource="services",
            verbs=("create", "get", "patch", "delete"),
            why="job.nodes: where pods meet",
        ),
        Rule(
            group="",
            resource="pods",
            verbs=("get", "list", "watch"),
            why="status, and logs that find pods as they come",
        ),
        Rule(group="", resource="pods/log", verbs=("get",), why="logs"),
        Rule(
            group="",
            resource="events",
            verbs=("list",),
            why="status: why a pod is refused or cannot mount",
        ),
        Rule(
            group="",
            resource="persistentvolumeclaims",
            verbs=("get", "list"),
            why="status of unbound claims; volume ls",
        ),
        Rule(group="", resource="resourcequotas", verbs=("list",), why="doctor"),
        Rule(group="", resource="limitranges", verbs=("list",), why="doctor"),
    ),
    "fetch": (
        Rule(
            group="",
            resource="pods/exec",
            verbs=("get", "create"),
            why="files and shells in a pod; older servers ask for get",
        ),
        Rule(
            group="",
            resource="pods",
            verbs=("create", "delete"),
            why="the helper pod once a run has ended; submit tries its pod",
        ),
    ),
    "volume": (
        Rule(group="", resource="persistentvolumeclaims", verbs=("create",), why="volume create"),
    ),
}
ABOUT = {
    "base": "submit, status, logs, cancel, resume, delete, doctor",
    "fetch": "fetch, push, shell, tensorboard, volume ls CLAIM, delete --files, --from RUN@best",
    "volume": "volume create",
}


def role(feature: str, namespace: str = "") -> Manifest:
    """The Role of one feature; without a namespace it goes to the one that `kubectl apply --namespace` names."""
    rules = [
        {"apiGroups": [rule.group], "resources": [rule.resource], "verbs": list(rule.verbs)}
        for rule in FEATURES[feature]
    ]
    metadata = {"name": role_name(feature)} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata,
        "rules": rules,
    }


def role_name(feature: str) -> str:
    return "vidjobs" if feature == "base" else f"vidjobs-{feature}"
