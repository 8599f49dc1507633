"""Credentials: what the kubeconfig, or the pod's service account, says about server, login, proxy and TLS.

The only module that calls the `kubernetes` package.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from launcher.backends.kube import api_errors
from launcher.errors import ClusterError

IN_POD = "in-cluster"  # the name of the context of a pod's own service account, in records and messages
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True)
class Login:
    """What the kubeconfig (or the pod's service account) says: read when first needed."""

    context: str
    namespace: str
    configuration: Any  # kubernetes.client.Configuration
    pool: Any  # urllib3.PoolManager with the kubeconfig's TLS and proxy

    def headers(self) -> dict[str, str]:
        """Fresh credentials: a login command's expired token is renewed here, at each request."""
        settings = self.configuration.auth_settings().values()
        return {one["key"]: one["value"] for one in settings if one.get("in") == "header" and one.get("value")}


def log_in(context: str) -> Login:
    """Read the kubeconfig, else the pod's service account; run the login command if there is one."""
    client, config = _kubernetes()
    in_pod = context in ("", IN_POD) and "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").exists()
    configuration = client.Configuration()
    configuration.proxy = configuration.no_proxy = None
    with _spoken_errors() as said:
        try:
            if in_pod and (context or not _kubeconfig_exists()):
                config.load_incluster_config(client_configuration=configuration)
                name, namespace = IN_POD, (_SERVICE_ACCOUNT / "namespace").read_text().strip()
            else:
                name, namespace, cluster = _current_context(context)
                config.load_kube_config(config_file=_kubeconfig(), context=name, client_configuration=configuration)
                configuration.proxy = configuration.proxy or _proxy_of(cluster)
        except (config.ConfigException, OSError, ValueError, TypeError) as error:
            hint = "set KUBECONFIG or --cluster, or choose a context with `kubectl config use-context`"
            raise ClusterError(f"no usable kubeconfig: {error}", hint=hint) from error
    if said:
        raise api_errors.login_failed(name, "; ".join(said))
    if configuration.proxy is None:
        configuration.proxy, configuration.no_proxy = _environments_proxy(str(configuration.host))
    pool = client.ApiClient(configuration).rest_client.pool_manager
    return Login(context=name, namespace=namespace, configuration=configuration, pool=pool)


def _environments_proxy(host: str) -> tuple[str | None, str | None]:
    """(proxy, hosts without one) where the kubeconfig names no proxy.

    Not left to the package: 35 forgets NO_PROXY, and 35 and 36 take HTTP_PROXY also for a server of https.
    """
    proxies = getproxies()
    return proxies.get(urlsplit(host).scheme) or proxies.get("all"), proxies.get("no")


def _proxy_of(cluster: str) -> str | None:
    """`proxy-url` of this cluster's entry, which 35 and 36 of the package do not read. Of several files the first that has it counts."""
    for path in filter(None, _kubeconfig().split(os.pathsep)):
        with contextlib.suppress(OSError):
            text = Path(path).expanduser().read_bytes()
            for entry in (yaml.safe_load(text).get("clusters") or []) if b"proxy-url" in text else []:
                if entry["name"] == cluster:
                    return (entry.get("cluster") or {}).get("proxy-url") or None
    return None


def _current_context(wanted: str) -> tuple[str, str, str]:
    """(context, namespace, cluster) from the kubeconfig."""
    _, config = _kubernetes()
    contexts, current = config.list_kube_config_contexts(config_file=_kubeconfig())
    by_name = {one["name"]: one for one in contexts}
    chosen = by_name.get(wanted) if wanted else current
    if chosen is None:
        known = ", ".join(sorted(by_name)) or "none"
        raise ClusterError(f'the kubeconfig has no context "{wanted}"', hint=f"it has: {known}")
    said = chosen.get("context") or {}
    return chosen["name"], said.get("namespace") or "default", str(said.get("cluster", ""))


def _kubeconfig() -> str:
    """Paths as KUBECONFIG has them now (the package reads the variable once, when it is imported)."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _kubeconfig_exists() -> bool:
    return any(path and Path(path).expanduser().exists() for path in _kubeconfig().split(os.pathsep))


@contextlib.contextmanager
def _spoken_errors() -> Iterator[list[str]]:
    """What is logged as an error meanwhile: the kubernetes package logs a failed login command and goes on without it."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(level=logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(listener)


def _kubernetes() -> tuple[Any, Any]:
    """The package's `client` and `config`; imported here since they take a quarter of a second."""
    from kubernetes import client, config

    return client, config
