"""The word at the end of a run, to a real server; and that nothing about it can fail a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer import webhook


class Listener:
    """A server that keeps what it is told and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                outer.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/secret-path"


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def trainer(tmp_path: Path, project: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A run that ends at once: its conf is wrong."""
    (tmp_path / "conf.yaml").write_text("train: {lr: much}\n")
    command = [
        sys.executable,
        "-m",
        "trainer",
        "train",
        "--conf",
        str(tmp_path / "conf.yaml"),
        "--run",
        str(tmp_path / "run"),
    ]
    return subprocess.run(
        command,
        env={**os.environ, **environ},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_that_fails_tells_so_once(tmp_path: Path, project: Path, listener: Listener) -> None:
    done = trainer(
        tmp_path, project, VIDJOBS_WEBHOOK=listener.address, VIDJOBS_RUN="a-train-xxxxxx"
    )

    assert done.returncode == 64
    (told,) = listener.told
    assert (told["run"], told["verb"], told["outcome"], told["exit_code"], told["final"]) == (
        "a-train-xxxxxx",
        "train",
        "failed",
        64,
        True,
    )
    assert "train.lr" in told["message"]
    assert told["text"].startswith("a-train-xxxxxx failed: ")
    assert told["best"] == {}


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_refuses_fails_nothing_and_the_address_is_not_printed(
    tmp_path: Path, project: Path, listener: Listener, status: int
) -> None:
    listener.status = status
    done = trainer(tmp_path, project, VIDJOBS_WEBHOOK=listener.address)

    assert done.returncode == 64
    assert f"webhook: the end of the run could not be told: HTTP Error {status}" in done.stderr
    assert "secret-path" not in done.stderr


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:9/x", "file:///etc/passwd", "http://", "http://[x", "not an address"],
)
def test_an_address_that_is_none_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    ending = {"cause": "done", "exit_code": 0, "message": ""}
    webhook.tell(ending, verb="train", manifest=tmp_path / "no", environ={webhook.ADDRESS: address})

    assert capsys.readouterr().err.startswith("webhook: ")


def test_what_will_be_tried_again_is_no_end(tmp_path: Path, listener: Listener) -> None:
    ending = {"cause": "try-again", "exit_code": 75, "message": "stopped"}
    webhook.tell(
        ending, verb="train", manifest=tmp_path / "no", environ={webhook.ADDRESS: listener.address}
    )
    webhook.tell({**ending, "exit_code": 0}, verb="train", manifest=tmp_path / "no", environ={})

    assert listener.told == []


def test_the_best_checkpoint_is_told(tmp_path: Path) -> None:
    files = {"epoch-000002.pt": {"epoch": 2, "step": 8, "metrics": {"top1": 0.5}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"best": "epoch-000002.pt", "files": files}))
    ending = {"cause": "done", "exit_code": 0, "message": "", "epoch": 3, "step": 12}
    told = webhook.document(
        ending, verb="train", manifest=tmp_path / "manifest.json", environ={"VIDJOBS_RUN": "r"}
    )

    assert told["best"] == {"checkpoint": "epoch-000002.pt", "epoch": 2, "metrics": {"top1": 0.5}}
    assert (told["outcome"], told["epoch"], told["text"]) == ("done", 3, "r done")


def test_a_bug_may_be_tried_again(tmp_path: Path) -> None:
    ending = {"cause": "bug", "exit_code": 70, "message": "x", "trial": 3}
    told = webhook.document(
        ending, verb="train", manifest=tmp_path / "no", environ={"VIDJOBS_RUN": "r"}
    )

    assert (told["final"], told["trial"], told["text"]) == (False, 3, "r, trial 3, failed: x")
