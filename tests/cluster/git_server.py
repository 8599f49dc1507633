"""A real git server over HTTP: `git http-backend` behind a small CGI host, with or without a token."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NODE_ADDRESS = "10.88.0.1"  # the host, as the node's pods reach it


@dataclass
class GitServer:
    """Bare repositories below `root`, served read-only at `url(name)`."""

    root: Path
    host: str
    port: int
    token: str | None
    requests: list[str] = field(default_factory=list)  # "METHOD target STATUS" of every answer

    def url(self, name: str) -> str:
        return f"http://{self.host}:{self.port}/{name}.git"

    def publish(self, name: str, tree: Path, *, branch: str = "main") -> str:
        """Commit the files of `tree` (without what it ignores) to `branch` of repository `name`; its commit."""
        bare = self.root / f"{name}.git"
        if not bare.exists():
            git("init", "--quiet", "--bare", f"--initial-branch={branch}", bare)
        here = ("--git-dir", bare, "--work-tree", tree)
        git(*here, "add", "--all", cwd=tree)
        git(*here, "commit", "--quiet", "--allow-empty", "-m", "snapshot", cwd=tree)
        return git(*here, "rev-parse", "HEAD", cwd=tree)


@contextmanager
def serve(root: Path, *, host: str = NODE_ADDRESS, token: str | None = None) -> Iterator[GitServer]:
    """Serve the repositories below `root` until the block ends. With `token`, only to who gives it as the password."""

    with _Host((host, 0), _GitHandler) as http:
        http.git = GitServer(root=root, host=host, port=http.server_address[1], token=token)
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield http.git
        finally:
            http.shutdown()
            thread.join()


class _Host(ThreadingHTTPServer):
    git: GitServer


class _GitHandler(BaseHTTPRequestHandler):
    """One request to one `git http-backend` process."""

    @property
    def git(self) -> GitServer:
        assert isinstance(self.server, _Host)
        return self.server.git

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: `requests` has it."""

    def _answer(self) -> None:
        if not self._allowed():
            self._start(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            stdout=subprocess.PIPE,
            check=True,
            env=self._environment(),
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        self._start(int(dict(headers).get("Status", "200").split()[0]))
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _start(self, status: int) -> None:
        self.git.requests.append(f"{self.command} {self.path} {status}")
        self.send_response(status)

    def _allowed(self) -> bool:
        if self.git.token is None:
            return True
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        return (
            scheme == "Basic"
            and base64.b64decode(credentials).decode().partition(":")[2] == self.git.token
        )

    def _environment(self) -> dict[str, str]:
        target = urlsplit(self.path)
        return {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.git.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": unquote(target.path),
            "QUERY_STRING": target.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "CONTENT_LENGTH": self.headers.get("Content-Length", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }


def git(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Stdout of git, which must succeed, without the settings of whoever runs this."""
    person = {
        f"GIT_{role}_{what}": "test"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        **person,
    }
    return subprocess.run(
        ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()
