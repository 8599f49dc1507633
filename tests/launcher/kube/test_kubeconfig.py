"""A kubeconfig that is read without the kubernetes package means what the package makes of it, and every other one is left to it."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.kube import kubeconfig, login
from launcher.backends.kube.client import KubeClient
from launcher.errors import ClusterError

NAMES = {
    "client-certificate": "user.crt",
    "client-key": "user.key",
    "certificate-authority": "ca.crt",
}


class _Server(BaseHTTPRequestHandler):
    """Answers with the name in the client's certificate and the token."""

    def do_GET(self) -> None:
        shown = (
            self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        )
        name = (
            dict(pair for part in shown["subject"] for pair in part)["commonName"] if shown else ""
        )
        data = json.dumps(
            {"gitVersion": f"{name} {self.headers.get('authorization', '')}"}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server of 127.0.0.1 and a user, each with a key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl, which makes the certificates")
    folder = tmp_path_factory.mktemp("pki")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    for name, subject, more in (
        ("ca", "/CN=ca", []),
        (
            "server",
            "/CN=server",
            ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"],
        ),
        ("user", "/CN=ada", ["-CA", "ca.crt", "-CAkey", "ca.key"]),
        ("other", "/CN=other", []),
    ):
        command = [*new, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", subject, *more]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(pki: Path) -> Iterator[str]:
    """Speaks TLS and takes certificates of the CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def inline(pki: Path, *keys: str) -> dict[str, str]:
    """`KEY-data: ...` of each."""
    return {
        f"{key}-data": base64.b64encode((pki / NAMES[key]).read_bytes()).decode() for key in keys
    }


def written(
    folder: Path,
    cluster: dict[str, Any],
    user: dict[str, Any],
    context: dict[str, Any] | None = None,
) -> Path:
    """The kubeconfig, with a second context that lacks most of it."""
    config = {
        "current-context": "lab",
        "contexts": [
            {"name": "lab", "context": {"cluster": "c", "user": "u", **(context or {})}},
            {"name": "bare", "context": {"cluster": "c", "user": "nobody"}},
        ],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("form", ["files", "data", "token", "both"])
def test_it_reaches_the_server_as_the_package_does(
    form: str, pki: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates in files beside the kubeconfig or inside it, a token, or both: the same login, over TLS that is verified."""
    certificate = inline(pki, "client-certificate", "client-key")
    user: dict[str, Any] = {
        "files": {key: NAMES[key] for key in ("client-certificate", "client-key")},
        "data": certificate,
        "token": {"token": "secret"},
        "both": {"token": "secret", **certificate},
    }[form]
    for file in pki.iterdir():
        shutil.copy(file, tmp_path)
    cluster = {
        "server": f"{server}/",
        **(
            {"certificate-authority": "ca.crt"}
            if form == "files"
            else inline(pki, "certificate-authority")
        ),
    }
    monkeypatch.setenv("KUBECONFIG", str(written(tmp_path, cluster, user, {"namespace": "team"})))

    ours, theirs = login.log_in(""), login._by_package("", in_pod=False)

    assert kubeconfig.read(tmp_path / "kubeconfig", "") is not None
    assert (
        (ours.context, ours.namespace, ours.host)
        == (theirs.context, theirs.namespace, theirs.host)
        == ("lab", "team", server)
    )
    assert (
        ours.headers()
        == theirs.headers()
        == ({"authorization": "Bearer secret"} if "token" in user else {})
    )
    expected = f"{'' if form == 'token' else 'ada'} {ours.headers().get('authorization', '')}"
    assert KubeClient().version() == expected
    assert (
        json.loads(theirs.pool.request("GET", f"{server}/version", headers=theirs.headers()).data)[
            "gitVersion"
        ]
        == expected
    )


def test_a_server_of_another_ca_is_not_trusted(
    pki: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pki / "other.crt", tmp_path / "ca.crt")
    monkeypatch.setenv(
        "KUBECONFIG",
        str(
            written(tmp_path, {"server": server, "certificate-authority": "ca.crt"}, {"token": "t"})
        ),
    )
    with pytest.raises(ClusterError, match="certificate is not trusted"):
        KubeClient().version()


CA = {"certificate-authority": "ca.crt"}
AT_HOME: dict[str, Any] = {"server": "https://127.0.0.1:1", **CA}


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        (AT_HOME, {"exec": {"command": "login"}}),
        (AT_HOME, {"auth-provider": {"name": "oidc"}}),
        (AT_HOME, {"tokenFile": "token"}),
        (AT_HOME, {"username": "ada", "password": "secret"}),
        (AT_HOME, {"token": "t", "as": "boss"}),
        (AT_HOME, {"client-certificate": "user.crt"}),  # without its key
        (AT_HOME, {"client-certificate": "user.crt", "client-key": "nothing.key"}),
        (AT_HOME, {"client-certificate-data": "%", "client-key-data": "%"}),
        (AT_HOME, {"token": ["t"]}),
        (AT_HOME | {"proxy-url": "http://127.0.0.1:9"}, {"token": "t"}),
        (AT_HOME | {"insecure-skip-tls-verify": True}, {"token": "t"}),
        (AT_HOME | {"tls-server-name": "kube"}, {"token": "t"}),
        ({"server": "https://127.0.0.1:1"}, {"token": "t"}),  # the system's CAs
        ({"server": "127.0.0.1:1", **CA}, {"token": "t"}),
        ({}, {"token": "t"}),
    ],
)
def test_what_is_not_plain_is_left_to_the_package(
    cluster: dict[str, Any], user: dict[str, Any], pki: Path, tmp_path: Path
) -> None:
    for file in pki.iterdir():
        shutil.copy(file, tmp_path)
    assert kubeconfig.read(written(tmp_path, AT_HOME, {"token": "t"}), "") is not None
    assert kubeconfig.read(written(tmp_path, cluster, user), "") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "- a",
        "{a: ]",
        "\x00",
        "current-context: lab",
        "current-context: lab\ncontexts: 3\n",
    ],
)
def test_a_file_that_is_no_kubeconfig_is_left_to_the_package(text: str, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    assert kubeconfig.read(tmp_path / "kubeconfig", "") is None
    assert kubeconfig.read(tmp_path / "not-there", "") is None


def test_contexts_are_told_apart_by_name(tmp_path: Path) -> None:
    """A context without its user, one that is not there, and a name that is there twice are the package's to explain."""
    path = written(tmp_path, {"server": "http://127.0.0.1:1"}, {"token": "t"})
    assert kubeconfig.read(path, "lab") == kubeconfig.read(path, "")
    assert kubeconfig.read(path, "bare") is kubeconfig.read(path, "other") is None
    config = json.loads(path.read_text())
    config["contexts"].append(config["contexts"][0])
    path.write_text(json.dumps(config))
    assert kubeconfig.read(path, "lab") is None


def test_a_plain_login_costs_no_import_of_the_package_and_leaves_no_file(
    pki: Path, server: str, tmp_path: Path
) -> None:
    """The private key is on disk only while OpenSSL reads it."""
    path = written(
        tmp_path,
        {"server": server, **inline(pki, "certificate-authority")},
        inline(pki, "client-certificate", "client-key"),
    )
    code = "import sys; from launcher.backends.kube.client import KubeClient; KubeClient().version(); print(*sys.modules)"
    environ = {
        "KUBECONFIG": str(path),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": str(Path(login.__file__).parents[3]),
    }
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert not {"kubernetes", "pydantic", "requests"} & set(done.stdout.split())
    assert list((tmp_path / "tmp").iterdir()) == []
