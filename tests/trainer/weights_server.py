"""A web server for tests of downloads: `python weights_server.py FOLDER LOG`. Prints its port; writes each request to LOG.

/whole/NAME: no ranges. /ranges/NAME: ranges and an ETag. /cut/NAME: the same, but each answer breaks off after 1000 bytes.
/slow/NAME: takes its time. /page/NAME: a web page. /gone/NAME: 404. /shut/NAME: closes at once.
"""

from __future__ import annotations

import hashlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER, LOG = Path(sys.argv[1]), Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        wanted = self.headers.get("Range", "")
        with LOG.open("a") as log:
            log.write(f"{kind} {name} {wanted}\n")
        if kind == "gone":
            return self.send_error(404)
        if kind == "shut":
            return None
        data = (
            b"<!DOCTYPE html><p>too large to scan"
            if kind == "page"
            else (FOLDER / name).read_bytes()
        )
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        if kind in ("ranges", "cut") and wanted and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if kind != "whole":
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if kind == "slow":
            time.sleep(0.5)
        self.wfile.write(data[start : start + 1000] if kind == "cut" else data[start:])
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
