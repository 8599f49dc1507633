"""What the API server (or the way to it) said, turned into one ClusterError for a person. Pure: no requests are made here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from launcher.backends.kube import quotas
from launcher.errors import AdmissionError, ClusterError
from launcher.site_rules import named_by

_RBAC = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')
_TRANSIENT = frozenset({408, 410, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which server was asked for what; every message names it."""

    server: str
    namespace: str
    context: str
    doing: str  # "create jobs/x"

    def __str__(self) -> str:
        return f"{self.doing} in namespace {self.namespace} on {self.server}"


def refusal(status: int, body: bytes, where: Where) -> ClusterError:
    """The error for an answer with an HTTP status of 400 or more. The server's own message is kept whole."""
    message = server_message(body) or f"HTTP {status}"
    if status == 401:
        return _login_refused(message, where)
    if status == 403:
        return _forbidden(message, where)
    if status in (400, 422) and where.doing.startswith(("create", "patch")):
        denied = "denied" in message and "request" in message
        hint = (
            _admission_hint(message) if denied else "the manifest is what `vidjobs render` prints"
        )
        return AdmissionError(message, hint=hint, status=status)
    if status == 404:
        return ClusterError(
            f"{where}: not found: {message}", hint=_not_found_hint(message, where), status=404
        )
    if status == 409:
        return ClusterError(
            f"{where}: {message}",
            hint="something of that name is already there, or changed meanwhile",
            status=409,
        )
    hint = (
        "the server is overloaded or restarting; try again in a minute"
        if status in _TRANSIENT
        else "`vidjobs doctor` looks further"
    )
    return ClusterError(
        f"{where}: the server answered {status}: {message}",
        hint=hint,
        status=status,
        transient=status in _TRANSIENT,
    )


def server_message(body: bytes) -> str:
    """`message` of a Kubernetes Status object; of anything else the text, first 2000 characters."""
    text = body.decode("utf-8", "replace").strip()
    try:
        status = json.loads(text)
    except ValueError:
        return text[:2000]
    if isinstance(status, dict) and isinstance(status.get("message"), str):
        return str(status["message"])
    return text[:2000]


def unreachable(error: Exception, where: Where, *, sent: bool) -> ClusterError:
    """The error for a request that got no (whole) answer. `sent`: the server may have acted on it."""
    reason = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return ClusterError(
            f"{where}: the server's certificate is not trusted: {reason}",
            hint="check the cluster entry of the kubeconfig",
        )
    if "certificate required" in reason.lower() or "certificate expired" in reason.lower():
        return ClusterError(
            f"{where}: the server did not accept the login's certificate: {reason}",
            hint="log in again",
            status=401,
        )
    if re.search(r"NameResolution|Name or service not known|Temporary failure in name", reason):
        hint = "check the network, the VPN, and the server's name in the kubeconfig"
        return ClusterError(
            f"{where}: the name of the server cannot be looked up", hint=hint, transient=True
        )
    if sent:
        return ClusterError(
            f"{where}: the connection broke before the answer came: {reason}",
            hint="try again",
            transient=True,
        )
    hint = "the server is down or out of reach (the login was not the problem); check the network and the VPN"
    return ClusterError(f"{where}: cannot connect: {reason}", hint=hint, transient=True)


def login_failed(context: str, reason: str) -> ClusterError:
    """The kubeconfig's login command or file gave no credentials."""
    hint = "run `kubectl get pods` once to log in again, or renew the kubeconfig; if the login server is down, wait for it"
    return ClusterError(f'login for context "{context}" failed: {reason}', hint=hint, status=401)


def _login_refused(message: str, where: Where) -> ClusterError:
    hint = f'the login of context "{where.context}" has expired or was revoked (the server itself is up): log in again'
    return ClusterError(
        f"{where}: the server does not accept the login: {message}", hint=hint, status=401
    )


def _forbidden(message: str, where: Where) -> ClusterError:
    right = _RBAC.search(message)
    if right:
        hint = f'"{right["user"]}" needs `{right["verb"]} {right["resource"]}`: `vidjobs rbac` prints the Role to ask for'
        return ClusterError(f"not allowed: {message}", hint=hint, status=403)
    if where.doing.startswith(("create", "patch")):
        return AdmissionError(message, hint=_admission_hint(message), status=403)
    return ClusterError(
        f"{where}: {message}", hint="`vidjobs doctor` shows what this login may do", status=403
    )


def _admission_hint(message: str) -> str:
    rule = named_by(message)
    if rule is not None:
        return f"{rule.fix} [{rule.id}, {rule.source}]"
    if "exceeded quota" in message:
        return f"{quotas.refusal(message).fix}; `vidjobs doctor` shows the quota"
    if "violates PodSecurity" in message:
        return "change what the message names (job.user, job.volumes), or ask for a namespace with another Pod Security level"
    if "admission webhook" in message or "ValidatingAdmissionPolicy" in message:
        return "a rule of this site refused the object; change what the message names"
    return "change what the message names"


def _not_found_hint(message: str, where: Where) -> str:
    if f'namespaces "{where.namespace}" not found' in message:
        return "check `namespace` of the cluster profile or the kubeconfig context"
    return "it was deleted, or lies in another namespace"
