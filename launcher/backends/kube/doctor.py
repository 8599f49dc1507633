"""What `vidjobs doctor` finds out about a cluster: the way there, the login's rights, and what the namespace has."""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from launcher.backend_base import Finding
from launcher.backends.kube import rbac
from launcher.backends.kube.client import KubeClient, Object
from launcher.backends.kube.gpus import gpu_findings
from launcher.errors import ClusterError

_PACKAGES = ("launcher", "trainer", "k8s_templates")
_OLDEST_SERVER = (1, 29)  # podReplacementPolicy is on from here
_MOST_SKEW_S = 60.0


def examine(
    client: KubeClient, *, image: str = "", pull_secrets: Sequence[str] = ()
) -> list[Finding]:
    """Every finding, in the order in which one depends on the other; a broken step on the way to the server ends the list.

    `image` and `pull_secrets` are those that the cluster profile gives to confs.
    """
    found = [_same_directory(), _client_versions()]
    try:
        detail = f"context {client.login.context}, {client.server}, namespace {client.namespace}"
        found += [
            Finding(what="login", ok=True, detail=detail),
            _server(client),
            _who(client),
            _clock(client),
        ]
    except ClusterError as error:
        return [*found, Finding(what="cluster", ok=False, detail=error.message, fix=error.hint)]
    looks: dict[str, Callable[[KubeClient], Iterator[Finding]]] = {
        "rights": _rights, "quota": _quotas, "limit range": _limit_ranges, "claim": _claims, "gpus": gpu_findings,
    }  # fmt: skip
    for what, look in looks.items():
        found += _seen(client, what, look)
    for name in pull_secrets:
        found += _seen(
            client, f"pull secret {name}", functools.partial(_pull_secret, name=name, image=image)
        )
    return found


def _seen(
    client: KubeClient, what: str, look: Callable[[KubeClient], Iterator[Finding]]
) -> list[Finding]:
    """The look's findings; what this login may not see is no fault of the cluster."""
    try:
        return list(look(client))
    except ClusterError as error:
        if error.status == 403:
            return [Finding(what=what, ok=None, detail="not allowed to see")]
        return [Finding(what=what, ok=False, detail=error.message, fix=error.hint)]


def _same_directory() -> Finding:
    """Another package called `trainer` in the same environment would be imported instead of ours."""
    homes = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        homes[name] = str(Path(spec.origin).parents[1]) if spec and spec.origin else "nowhere"
    if len(set(homes.values())) == 1:
        return Finding(
            what="packages", ok=True, detail=f"{', '.join(_PACKAGES)} in {homes['launcher']}"
        )
    detail = "; ".join(f"{name} in {home}" for name, home in homes.items())
    return Finding(
        what="packages", ok=False, detail=detail, fix="install vidjobs in an environment of its own"
    )


def _client_versions() -> Finding:
    from importlib.metadata import version  # 18 ms, which every verb with a backend would pay

    kubernetes = version("kubernetes")
    detail = f"kubernetes {kubernetes}, urllib3 {version('urllib3')}, websocket-client {version('websocket-client')}"
    return Finding(
        what="clients",
        ok=35 <= int(kubernetes.split(".")[0]) < 38,
        detail=detail,
        fix="pip install 'kubernetes>=35,<38'",
    )


def _server(client: KubeClient) -> Finding:
    text = client.version()
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    fix = f"vidjobs wants Kubernetes {'.'.join(map(str, _OLDEST_SERVER))} or newer"
    return Finding(
        what="server", ok=numbers >= _OLDEST_SERVER, detail=f"Kubernetes {text}", fix=fix
    )


def _who(client: KubeClient) -> Finding:
    """Who the server takes us for; servers older than 1.28 cannot say."""
    try:
        review = client.create(
            {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        )
    except ClusterError as error:
        if error.status not in (403, 404):
            raise
        return Finding(what="user", ok=None, detail="the server does not say")
    return Finding(
        what="user", ok=True, detail=str(review["status"]["userInfo"].get("username", ""))
    )


def _clock(client: KubeClient) -> Finding:
    skew = client.skew_s or 0.0
    detail = f"the server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    fix = "set this machine's clock (NTP): logins depend on it"
    return Finding(what="clock", ok=abs(skew) <= _MOST_SKEW_S, detail=detail, fix=fix)


def _rights(client: KubeClient) -> Iterator[Finding]:
    """One finding a feature: what of its Role this login lacks."""
    for feature, rules in rbac.FEATURES.items():
        missing = [
            f"{verb} {rule.resource}"
            for rule in rules
            for verb in rule.verbs
            if not _may(client, rule, verb)
        ]
        detail = (
            rbac.ABOUT[feature]
            if not missing
            else f"{rbac.ABOUT[feature]}: not allowed to {', '.join(missing)}"
        )
        fix = f"ask for the Role that `vidjobs rbac {feature}` prints"
        yield Finding(
            what=f"rights: {feature}", ok=not missing, detail=detail, fix=fix if missing else ""
        )


def _may(client: KubeClient, rule: rbac.Rule, verb: str) -> bool:
    resource, _, sub = rule.resource.partition("/")
    wanted = {
        "namespace": client.namespace,
        "verb": verb,
        "group": rule.group,
        "resource": resource,
        "subresource": sub,
    }
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    return bool(client.create(question).get("status", {}).get("allowed"))


def _quotas(client: KubeClient) -> Iterator[Finding]:
    quotas = client.list("ResourceQuota").items
    for quota in quotas:
        hard, used = (
            quota.get("status", {}).get("hard", {}),
            quota.get("status", {}).get("used", {}),
        )
        full = [key for key, most in hard.items() if used.get(key) == most]
        detail = ", ".join(f"{key} {used.get(key, '0')} of {most}" for key, most in hard.items())
        fix = f"used up or forbidden: {', '.join(full)}" if full else ""
        yield Finding(
            what=f"quota {quota['metadata']['name']}",
            ok=None if full else True,
            detail=detail,
            fix=fix,
        )
    if not quotas:
        yield Finding(what="quota", ok=True, detail="none")


def _limit_ranges(client: KubeClient) -> Iterator[Finding]:
    for one in client.list("LimitRange").items:
        limits = [
            (limit["type"], kind, limit[kind])
            for limit in one["spec"]["limits"]
            for kind in ("min", "max")
            if kind in limit
        ]
        parts = [f"{thing} {kind} {_pairs(values)}" for thing, kind, values in limits]
        yield Finding(
            what=f"limit range {one['metadata']['name']}",
            ok=True,
            detail="; ".join(parts) or "defaults only",
        )


def _claims(client: KubeClient) -> Iterator[Finding]:
    claims = client.list("PersistentVolumeClaim").items
    for claim in claims:
        phase = str(claim.get("status", {}).get("phase", "Pending"))
        spec = claim["spec"]
        detail = f"{phase}, {spec['resources']['requests']['storage']}, {','.join(spec['accessModes'])}, {spec.get('storageClassName', '')}"
        fix = (
            ""
            if phase == "Bound"
            else "binds with its first pod, or its storage class does not exist or has no room"
        )
        yield Finding(
            what=f"claim {claim['metadata']['name']}",
            ok=True if phase == "Bound" else None,
            detail=detail,
            fix=fix,
        )
    if not claims:
        yield Finding(
            what="claim", ok=None, detail="none", fix="`vidjobs volume create CLAIM --size SIZE`"
        )


def _pull_secret(client: KubeClient, *, name: str, image: str) -> Iterator[Finding]:
    """Whether it is there, is one for images, and knows the registry of the profile's image. What it holds is not shown."""
    what = f"pull secret {name}"
    secret = client.find("Secret", name)
    if secret is None:
        fix = f"kubectl create secret docker-registry {name} --docker-server=... --docker-username=... --docker-password=..."
        yield Finding(
            what=what, ok=False, detail="does not exist: pods would not get their image", fix=fix
        )
        return
    kind = str(secret.get("type", ""))
    if kind != "kubernetes.io/dockerconfigjson":
        yield Finding(
            what=what,
            ok=False,
            detail=f"is of type {kind}",
            fix="make one of type kubernetes.io/dockerconfigjson",
        )
        return
    try:
        servers = list(json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"])
    except (KeyError, TypeError, ValueError):
        yield Finding(
            what=what, ok=False, detail="holds no logins that can be read", fix=f"make {name} anew"
        )
        return
    wanted = _registry(image)
    known = [re.sub(r"^https?://|/.*$", "", server) for server in servers]
    fits = not image or wanted in known or (wanted == "docker.io" and "index.docker.io" in known)
    detail = f"for {', '.join(known)}" + ("" if fits else f"; the profile's image is on {wanted}")
    yield Finding(
        what=what, ok=fits, detail=detail, fix="" if fits else f"add a login for {wanted}"
    )


def _registry(image: str) -> str:
    """The host of an image's name: what stands before the first slash, when it can be a host."""
    host = image.partition("/")[0] if "/" in image else ""
    return host if "." in host or ":" in host or host == "localhost" else "docker.io"


def _pairs(values: Object) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
