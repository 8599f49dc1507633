"""Credentials: what the kubeconfig, or the pod's service account, says about server, login, proxy and TLS.

The only module that calls the `kubernetes` package, which is imported only for a login that kubeconfig.py does not read itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from launcher import safe_yaml
from launcher.backends.kube import api_errors, kubeconfig
from launcher.errors import ClusterError

# the name of the context of a pod's own service account, in records and messages
IN_POD = "in-cluster"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True)
class Login:
    """What the kubeconfig (or the pod's service account) says: read when first needed."""

    context: str
    namespace: str
    host: str  # https://server:6443
    pool: Any  # urllib3.PoolManager with the kubeconfig's TLS and proxy
    # fresh credentials: a login command's expired token is renewed here, at each request
    headers: Callable[[], dict[str, str]]
    # the same TLS and proxy as websocket-client wants them
    websocket: dict[str, Any] = field(default_factory=dict)


def log_in(context: str) -> Login:
    """Read the kubeconfig, else the pod's service account; run the login command if there is one."""
    in_pod = (
        context in ("", IN_POD)
        and "KUBERNETES_SERVICE_HOST" in os.environ
        and (_SERVICE_ACCOUNT / "token").exists()
    )
    if in_pod and (context or not _kubeconfig_exists()):
        return _by_package(context, in_pod=True)
    plain = kubeconfig.read(Path(_kubeconfig()).expanduser(), context)
    if plain is None or _environments_proxy(plain.host)[0]:
        return _by_package(context, in_pod=False)
    import urllib3

    headers = {"authorization": f"Bearer {plain.token}"} if plain.token else {}
    return Login(
        context=plain.context,
        namespace=plain.namespace,
        host=plain.host,
        pool=urllib3.PoolManager(ssl_context=plain.tls),
        headers=lambda: headers,
        websocket={"sslopt": {"context": plain.tls}},
    )


def _by_package(context: str, *, in_pod: bool) -> Login:
    """Whatever else a kubeconfig may say, as the kubernetes package reads it."""
    client, config = _kubernetes()
    configuration = client.Configuration()
    configuration.proxy = configuration.no_proxy = None
    with _unusable(config.ConfigException), _spoken_errors() as said:
        if in_pod:
            config.load_incluster_config(client_configuration=configuration)
            name, namespace = IN_POD, (_SERVICE_ACCOUNT / "namespace").read_text().strip()
        else:
            name, namespace, cluster = _current_context(config, context)
            config.load_kube_config(
                config_file=_kubeconfig(), context=name, client_configuration=configuration
            )
            configuration.proxy = configuration.proxy or _proxy_of(cluster)
    if said:
        raise api_errors.login_failed(name, "; ".join(said))
    if configuration.proxy is None:
        configuration.proxy, configuration.no_proxy = _environments_proxy(str(configuration.host))
    with _unusable():
        pool = client.ApiClient(configuration).rest_client.pool_manager
    return Login(
        context=name,
        namespace=namespace,
        host=str(configuration.host),
        pool=pool,
        headers=lambda: _headers(configuration),
        websocket={"sslopt": _tls(configuration), **_proxy(configuration)},
    )


@contextlib.contextmanager
def _unusable(*more: type[Exception]) -> Iterator[None]:
    """What the package makes of a damaged kubeconfig, as one error: it meets the mistake wherever it first needs the value."""
    kinds: tuple[type[Exception], ...] = (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        yaml.YAMLError,
        *more,
    )
    try:
        yield
    except kinds as error:
        hint = "set KUBECONFIG or --cluster, or choose a context with `kubectl config use-context`"
        why = f": {' '.join(str(error).split())}" if _kubeconfig_exists() else " does not exist"
        raise ClusterError(f"no usable kubeconfig: {_kubeconfig()}{why}", hint=hint) from error


def _headers(configuration: Any) -> dict[str, str]:
    settings = configuration.auth_settings().values()
    return {
        one["key"]: one["value"]
        for one in settings
        if one.get("in") == "header" and one.get("value")
    }


def _tls(configuration: Any) -> dict[str, Any]:
    """The kubeconfig's certificates, as websocket-client spells them."""
    options: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE
    }
    if not configuration.verify_ssl or configuration.assert_hostname is False:
        options["check_hostname"] = False
    for option, value in (
        ("ca_certs", configuration.ssl_ca_cert),
        ("certfile", configuration.cert_file),
        ("keyfile", configuration.key_file),
        ("server_hostname", configuration.tls_server_name),
    ):
        if value:
            options[option] = value
    return options


def _proxy(configuration: Any) -> dict[str, Any]:
    """The kubeconfig's or the environment's proxy, as websocket-client spells it."""
    if not configuration.proxy:
        return {}
    proxy = urlsplit(configuration.proxy)
    excepted = configuration.no_proxy or os.environ.get("no_proxy") or ""
    options: dict[str, Any] = {
        "http_proxy_host": proxy.hostname,
        "http_proxy_port": proxy.port or (443 if proxy.scheme == "https" else 80),
        "proxy_type": "http" if proxy.scheme in ("http", "https", "") else proxy.scheme,
        "http_no_proxy": [host.strip() for host in excepted.split(",") if host.strip()],
    }
    if proxy.username:
        options["http_proxy_auth"] = (proxy.username, proxy.password or "")
    return options


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
            for entry in (
                (safe_yaml.load(text).get("clusters") or []) if b"proxy-url" in text else []
            ):
                if entry["name"] == cluster:
                    return (entry.get("cluster") or {}).get("proxy-url") or None
    return None


def _current_context(config: Any, wanted: str) -> tuple[str, str, str]:
    """(context, namespace, cluster) from the kubeconfig. `config`: the package's module."""
    contexts, current = config.list_kube_config_contexts(config_file=_kubeconfig())
    by_name = {one["name"]: one for one in contexts}
    chosen = by_name.get(wanted) if wanted else current
    if chosen is None:
        known = ", ".join(sorted(by_name)) or "none"
        raise ClusterError(f'the kubeconfig has no context "{wanted}"', hint=f"it has: {known}")
    said = chosen.get("context") or {}
    namespace = said.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise TypeError(
            f'the namespace of context "{chosen["name"]}" is {namespace!r}, and no name'
        )
    return chosen["name"], namespace, str(said.get("cluster", ""))


def _kubeconfig() -> str:
    """Paths as KUBECONFIG has them now (the package reads the variable once, when it is imported)."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _kubeconfig_exists() -> bool:
    return any(
        path and Path(path).expanduser().exists() for path in _kubeconfig().split(os.pathsep)
    )


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
    """The package's `client` and `config`."""
    from kubernetes import client, config

    return client, config
