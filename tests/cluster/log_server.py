"""An API server with one pod that prints a log, and whose connections break as a test wants. A real HTTP server on this machine.

What it serves is what a kubelet serves: entries of the container's log file from a second on, left out one by one, so that a line
may lose its head; `follow` waits for more; the end of a chunked answer is told, or not.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SECOND = 1_000_000_000
# RST; a clean end though the container runs; an end within a chunk; 500 in place of an answer
MODES = ("reset", "eof", "torn", "error")


@dataclass(frozen=True)
class Chunk:
    """One entry of a container's log file as containerd writes it; a partial one does not end its line."""

    ns: int
    text: bytes
    partial: bool = False


@dataclass(frozen=True)
class Cut:
    """How one connection ends: after this share of what there is to send."""

    share: float
    mode: str


def stamp(ns: int) -> bytes:
    moment = datetime.fromtimestamp(ns // SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % SECOND:09d}Z ".encode()


def served(chunks: Sequence[Chunk], since: int | None = None, *, stamps: bool = True) -> bytes:
    """What the kubelet sends: chunks before `since` (epoch second) are left out one by one."""
    sent, new_line = [], True
    for chunk in chunks:
        if since is None or chunk.ns >= since * SECOND:
            sent += [
                stamp(chunk.ns) if new_line and stamps else b"",
                chunk.text,
                b"" if chunk.partial else b"\n",
            ]
        new_line = not chunk.partial
    return b"".join(sent)


def whole_lines(chunks: Sequence[Chunk]) -> list[str]:
    """What a reader must show. A last line without a newline counts, also an empty one."""
    return [
        line.partition(b" ")[2].decode("utf-8", "replace")
        for line in served(chunks).split(b"\n")
        if line
    ]


@dataclass
class Pod:
    """The log, the cuts that its readers meet in turn, and how often a log was asked for. After the last cut the container has ended."""

    chunks: Sequence[Chunk]
    cuts: Sequence[Cut]
    # bytes of one chunk of the answer; 0: each line is a chunk, as a kubelet sends them
    block: int = 4096
    asked: int = 0
    gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> bool:
        return self.asked >= len(self.cuts)

    def as_json(self) -> dict[str, Any]:
        state = (
            {"terminated": {"exitCode": 0, "startedAt": "2026-01-01T00:00:00Z"}}
            if self.over
            else {"running": {}}
        )
        status = {
            "name": "trainer",
            "state": state,
            "ready": True,
            "restartCount": 0,
            "image": "i",
            "imageID": "i",
        }
        meta = {
            "name": "p",
            "namespace": "lab",
            "uid": "u-1",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        spec = {"containers": [{"name": "trainer", "image": "i"}]}
        phase = "Succeeded" if self.over else "Running"
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": spec,
            "status": {"phase": phase, "containerStatuses": [status]},
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pod: Pod

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path.endswith("/pods/p/log"):
            self._log({key: values[0] for key, values in parse_qs(address.query).items()})
        elif address.path.endswith("/pods/p") and not self.pod.gone:
            self._json(200, self.pod.as_json())
        else:
            self._json(
                404,
                {
                    "kind": "Status",
                    "status": "Failure",
                    "code": 404,
                    "reason": "NotFound",
                    "message": "not here",
                },
            )

    def _log(self, query: dict[str, str]) -> None:
        pod = self.pod
        with pod.lock:
            number = pod.asked
            pod.asked += 1
        cut = pod.cuts[number] if number < len(pod.cuts) else None
        # the log grows meanwhile
        there = len(pod.chunks) * (number + 1) // (len(pod.cuts) + 1) if cut else len(pod.chunks)
        since = (
            int(datetime.fromisoformat(query["sinceTime"].replace("Z", "+00:00")).timestamp())
            if "sinceTime" in query
            else None
        )
        body = served(pod.chunks[:there], since, stamps=query.get("timestamps") == "true")
        if cut and cut.mode == "error":
            self._json(
                500,
                {
                    "kind": "Status",
                    "status": "Failure",
                    "code": 500,
                    "message": "etcdserver: request timed out",
                },
            )
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        end = int(len(body) * cut.share) if cut else len(body)
        for piece in _pieces(body[:end], pod.block):
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        self._end(cut.mode if cut else "eof")

    def _end(self, mode: str) -> None:
        if mode == "eof":
            self.wfile.write(b"0\r\n\r\n")
            return
        if mode == "torn":
            self.wfile.write(b"400\r\n2026")
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _json(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def _pieces(body: bytes, size: int) -> list[bytes]:
    if size:
        return [body[start : start + size] for start in range(0, len(body), size)]
    return [piece for piece in re.split(rb"(?<=\n)", body) if piece]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that left is no fault of the test's."""


@contextmanager
def log_server() -> Iterator[tuple[type[_Handler], str]]:
    """A handler whose `pod` may be set again and again, and the server's address."""
    handler = type("Handler", (_Handler,), {"pod": Pod((), ()), "disable_nagle_algorithm": True})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield handler, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def kubeconfig(
    folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any
) -> Path:
    """A kubeconfig that names this server and the namespace `lab`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [
            {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}
        ],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user or {"token": "secret"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path
