"""A kubeconfig that says everything itself: one file, the server's CA, and a certificate or a token. Read here, at once.

The `kubernetes` package reads every kubeconfig, but takes 0.15 s and 20 MB only to be imported. So whatever is not exactly such a
file (a login command, a proxy, several files, a setting that is not known here, a mistake) is left to it, see login.py.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher import safe_yaml

_CLUSTER = frozenset(
    {"server", "certificate-authority", "certificate-authority-data", "extensions"}
)
_USER = frozenset(
    {
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "token",
        "extensions",
    }
)


@dataclass(frozen=True, kw_only=True)
class Kubeconfig:
    """What one context of it means."""

    context: str
    namespace: str
    host: str  # https://server:6443
    tls: ssl.SSLContext | None  # None: the server speaks http
    token: str  # "" where the certificate is the login


def read(path: Path, wanted: str) -> Kubeconfig | None:
    """The context `wanted`, by default the current one; None when the kubernetes package has to read it."""
    try:
        said = safe_yaml.load(path.read_bytes())
        name = wanted or said["current-context"]
        context = _named(said["contexts"], name, "context")
        cluster = _named(said["clusters"], context["cluster"], "cluster")
        user = _named(said["users"], context["user"], "user")
        host = cluster["server"].rstrip("/")
        namespace, token = context.get("namespace") or "default", user.get("token") or ""
        if (
            cluster.keys() - _CLUSTER
            or user.keys() - _USER
            or not all(isinstance(text, str) for text in (name, namespace, token))
        ):
            return None
        if not host.startswith(("http://", "https://")):
            return None
        tls = _tls(cluster, user, path.parent) if host.startswith("https://") else None
        return Kubeconfig(context=name, namespace=namespace, host=host, tls=tls, token=token)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
        # ssl's errors are OSErrors
        return None


def _named(entries: Sequence[Mapping[str, Any]], name: str, what: str) -> Mapping[str, Any]:
    """The one entry of this name. ValueError when there are none or several."""
    (found,) = [entry[what] for entry in entries if entry["name"] == name]
    return dict(found)


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    """Trusts the cluster's CA alone, and shows the user's certificate. LookupError when the CA is the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=_data(cluster, "certificate-authority", folder).decode())
    if {key for key in user if key.startswith("client-")}:
        # only its owner can enter; OpenSSL reads files only
        with tempfile.TemporaryDirectory() as private:
            chain, key = Path(private) / "chain", Path(private) / "key"
            chain.write_bytes(_data(user, "client-certificate", folder))
            key.write_bytes(_data(user, "client-key", folder))
            context.load_cert_chain(chain, key, password="")  # not asked for on the terminal
    return context


def _data(said: Mapping[str, Any], key: str, folder: Path) -> bytes:
    """`KEY-data`, else the file that KEY names, as kubectl takes them."""
    inline = said.get(f"{key}-data")
    return base64.b64decode(inline, validate=True) if inline else (folder / said[key]).read_bytes()
