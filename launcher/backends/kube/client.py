"""The one door to the API server: plain dicts over HTTP.

The `kubernetes` package (35 to 37) is used for kubeconfig, login, proxy and TLS only; its models and its
streams are not (kubernetes 37 reads exec quadratically, and every version's Watch loses the last log line).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from launcher.backends.kube import api_errors
from launcher.backends.kube.chunks import unchunked
from launcher.backends.kube.login import Login, log_in
from launcher.errors import ClusterError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Object = dict[str, Any]
Query = Mapping[str, str | int | bool | list[str]]

_API = {  # kind (or plural) -> (path of its API group, plural)
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Service": ("api/v1", "services"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "LimitRange": ("api/v1", "limitranges"),
    "Event": ("api/v1", "events"),
    "Secret": ("api/v1", "secrets"),
    "Node": ("api/v1", "nodes"),
    "SelfSubjectAccessReview": ("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "SelfSubjectReview": ("apis/authentication.k8s.io/v1", "selfsubjectreviews"),
}
_CLUSTER_SCOPED = frozenset({"Node", "SelfSubjectAccessReview", "SelfSubjectReview"})
_PAGE = 500
_TRIES = 4
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The objects of one list call and the version from which a watch goes on."""

    items: list[Object]
    version: str


@dataclass(kw_only=True)
class KubeClient:
    """Requests to one API server in one namespace. Nothing is contacted before the first request."""

    context: str = ""  # "" = the kubeconfig's current context, or the pod's service account
    wanted_namespace: str = ""  # "" = the context's own
    # server's clock minus ours, to a second; None before the first answer
    skew_s: float | None = None
    _login: Login | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def login(self) -> Login:
        """Credentials and connection pool. ClusterError when the kubeconfig or its login command fails."""
        with self._lock:
            if self._login is None:
                self._login = log_in(self.context)
            return self._login

    @property
    def namespace(self) -> str:
        return self.wanted_namespace or self.login.namespace

    @property
    def server(self) -> str:
        return self.login.host

    def now(self) -> float:
        """Seconds since the epoch by the server's clock (to a second)."""
        return time.time() + (self.skew_s or 0.0)

    def path(self, kind: str, name: str = "", sub: str = "", *, everywhere: bool = False) -> str:
        """`/apis/batch/v1/namespaces/NS/jobs/NAME/SUB`, every part quoted."""
        group, plural = _API[kind]
        scope = (
            ""
            if everywhere or kind in _CLUSTER_SCOPED
            else f"/namespaces/{quote(self.namespace, safe='')}"
        )
        tail = "".join(f"/{quote(part, safe='')}" for part in (name, sub) if part)
        return f"/{group}{scope}/{plural}{tail}"

    def get(self, kind: str, name: str) -> Object:
        """One object. ClusterError with status 404 when there is none."""
        return self._json("GET", self.path(kind, name), doing=f"get {kind} {name}")

    def find(self, kind: str, name: str) -> Object | None:
        """One object, or None when there is none."""
        try:
            return self.get(kind, name)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, kind: str, *, labels: str = "", fields: str = "", everywhere: bool = False
    ) -> Listing:
        """All objects that match, page by page; `everywhere`: of all namespaces."""
        query: dict[str, str | int] = {"limit": _PAGE}
        query |= {
            key: value
            for key, value in (("labelSelector", labels), ("fieldSelector", fields))
            if value
        }
        items: list[Object] = []
        while True:
            try:
                answer = self._json(
                    "GET",
                    self.path(kind, everywhere=everywhere),
                    query=query,
                    doing=f"list {kind}s",
                )
            except ClusterError as error:
                if error.status != 410 or "continue" not in query:
                    raise
                del query["continue"]  # the server has forgotten the page mark: from the top
                items.clear()
                continue
            items += answer.get("items") or []
            mark = answer.get("metadata", {}).get("continue", "")
            if not mark:
                return Listing(
                    items=items, version=str(answer.get("metadata", {}).get("resourceVersion", ""))
                )
            query["continue"] = mark

    def watch(
        self, kind: str, *, version: str, labels: str = "", timeout_s: int = 30
    ) -> Iterator[tuple[str, Object]]:
        """("ADDED" | "MODIFIED" | "DELETED", object) as they happen, for `timeout_s`; status 410: list again."""
        query: dict[str, str | int | bool] = {
            "watch": True,
            "resourceVersion": version,
            "timeoutSeconds": timeout_s,
        }
        if labels:
            query["labelSelector"] = labels
        with self.stream(
            self.path(kind), query=query, doing=f"watch {kind}s", read_s=timeout_s + 15
        ) as blocks:
            for line in _lines(blocks):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = int(event["object"].get("code", 500))
                    raise api_errors.refusal(
                        status, json.dumps(event["object"]).encode(), self._where(f"watch {kind}s")
                    )
                yield event["type"], event["object"]

    def create(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """POST one object; unknown fields are refused (AdmissionError keeps the server's whole message)."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        kind = manifest["kind"]
        name = manifest.get("metadata", {}).get("name", "")
        return self._json(
            "POST",
            self.path(kind),
            query=query,
            body=manifest,
            doing=f"create {kind} {name}".rstrip(),
        )

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """JSON merge patch."""
        doing = f"patch {kind} {name}"
        return self._json(
            "PATCH",
            self.path(kind, name),
            body=change,
            content="application/merge-patch+json",
            doing=doing,
        )

    def delete(self, kind: str, name: str, *, propagation: str = "Background") -> bool:
        """False when it was not there."""
        options: Object = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
        }
        try:
            self._json("DELETE", self.path(kind, name), body=options, doing=f"delete {kind} {name}")
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

    def version(self) -> str:
        """The server's version, "v1.35.4"."""
        return str(self._json("GET", "/version", doing="read the version").get("gitVersion", ""))

    @contextlib.contextmanager
    def stream(
        self, path: str, *, query: Query, doing: str, read_s: float
    ) -> Iterator[Iterator[bytes]]:
        """Blocks of a long answer as they arrive. A broken or silent connection is a transient ClusterError."""
        answer = self._send("GET", path, query=query, doing=doing, read_s=read_s)
        try:
            yield self._blocks(answer, doing)
        finally:
            answer.close()  # a stream left early must not go back to the pool

    def _blocks(self, answer: BaseHTTPResponse, doing: str) -> Iterator[bytes]:
        import urllib3

        try:
            # where urllib3, too, reads chunks from, but one at a time
            connection = getattr(getattr(answer, "_fp", None), "fp", None)
            if (
                getattr(answer, "chunked", False)
                and connection is not None
                and "content-encoding" not in answer.headers
            ):
                yield from unchunked(connection.read1)
            elif getattr(answer, "chunked", False):
                yield from answer.stream(65536)
            else:
                while block := answer.read1(65536):
                    yield block
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise api_errors.unreachable(error, self._where(doing), sent=True) from error

    def _json(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Query | None = None,
        body: Object | None = None,
        content: str = "",
    ) -> Object:
        answer = self._send(
            method, path, query=query or {}, doing=doing, body=body, content=content
        )
        try:
            parsed = json.loads(answer.data or b"{}")
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            said = f"HTTP {answer.status}, {answer.headers.get('content-type', 'of no type')}"
            hint = "is this a Kubernetes API server? a login page of the network or of a proxy may stand before it"
            raise ClusterError(
                f"{self._where(doing)}: the answer ({said}) is not an object", hint=hint
            )
        return parsed

    def _send(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Query,
        body: Object | None = None,
        content: str = "",
        read_s: float = 60.0,
    ) -> BaseHTTPResponse:
        """One answer with a status below 400; asks again where that is safe and may help."""
        logged_in_again = False
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                answer = self._once(
                    method,
                    path,
                    query=query,
                    doing=doing,
                    body=body,
                    content=content,
                    read_s=read_s,
                )
            except ClusterError as error:
                if last or not error.transient:
                    raise
                time.sleep(0.4 * 2**attempt)
                continue
            if answer.status < 400:
                return answer
            data = answer.data
            if answer.status == 401 and not logged_in_again:
                logged_in_again = True
                self._forget_login()
                continue
            wait = _wait_s(answer, method, attempt)
            if wait is None or last:
                raise api_errors.refusal(answer.status, data, self._where(doing))
            time.sleep(wait)
        raise ClusterError(
            f"{self._where(doing)}: the server did not accept the login",
            hint="log in again",
            status=401,
        )

    def _once(
        self,
        method: str,
        path: str,
        *,
        query: Query,
        doing: str,
        body: Object | None,
        content: str,
        read_s: float,
    ) -> BaseHTTPResponse:
        import urllib3

        login = self.login
        headers = login.headers() | {"accept": "application/json, */*", "user-agent": "vidjobs"}
        if body is not None:
            headers["content-type"] = content or "application/json"
        url = self.server + path + (f"?{urlencode(_plain(query), doseq=True)}" if query else "")
        streaming = method == "GET" and (
            "follow" in query or "watch" in query or path.endswith("/log")
        )
        try:
            answer: BaseHTTPResponse = login.pool.request(
                method, url, headers=headers, body=None if body is None else json.dumps(body).encode(),
                preload_content=not streaming, timeout=urllib3.Timeout(connect=10, read=read_s), retries=False, redirect=False,
            )  # fmt: skip
        except (
            urllib3.exceptions.NewConnectionError,
            urllib3.exceptions.ConnectTimeoutError,
            urllib3.exceptions.ProxyError,
        ) as error:
            raise api_errors.unreachable(error, self._where(doing), sent=False) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = api_errors.unreachable(error, self._where(doing), sent=True)
            # what changes things is never sent twice blindly
            failure.transient = failure.transient and method == "GET"
            raise failure from error
        self._read_clock(answer)
        return answer

    def _read_clock(self, answer: BaseHTTPResponse) -> None:
        with contextlib.suppress(TypeError, ValueError):
            self.skew_s = (
                parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
                + 0.5
                - time.time()
            )

    def _forget_login(self) -> None:
        with self._lock:
            self._login = None

    def _where(self, doing: str) -> api_errors.Where:
        return api_errors.Where(
            server=self.server, namespace=self.namespace, context=self.login.context, doing=doing
        )


def _plain(query: Query) -> dict[str, Any]:
    """Booleans as the API server spells them."""
    return {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in query.items()
    }


def _wait_s(answer: BaseHTTPResponse, method: str, attempt: int) -> float | None:
    """How long to wait before asking again; None when asking again is unsafe or useless.

    429 is refused before anything is done, so it is safe for every method; 5xx only for GET.
    """
    if answer.status != 429 and (method != "GET" or answer.status not in (500, 502, 503, 504)):
        return None
    try:
        wanted = float(answer.headers.get("retry-after", ""))
    except ValueError:
        wanted = 0.5 * 2**attempt
    return min(wanted, _LONGEST_WAIT_S)


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from (line for line in whole if line)
