"""`vidjobs tensorboard RUN`: a TensorBoard on this machine over the run's events, which come as they are written."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from launcher import output
from launcher.all_backends import for_record
from launcher.backend_base import Backend
from launcher.errors import UserError, VidjobsError
from launcher.records import RunRecord, find
from launcher.tensorboard import cache_dir, refresh

_HOST = "127.0.0.1"
_START_S = 60.0
_PORT = 6006


def _free_port(wanted: int | None) -> int:
    """The wanted one; else TensorBoard's own, or any when that is taken. UserError when the wanted one is taken."""
    for port in (wanted,) if wanted else (_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return int(probe.getsockname()[1])
    raise UserError(f"port {wanted} is taken", hint="choose another with --port, or leave it out")


@contextlib.contextmanager
def _server(folder: Path, port: int, every_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """TensorBoard as a process of its own; gone at the end."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "TensorBoard is not installed beside vidjobs",
            hint=f"{sys.executable} -m pip install tensorboard",
        )
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(folder),
        "--host",
        _HOST,
        "--port",
        str(port),
    ]
    command += ["--reload_interval", str(max(1, int(every_s)))]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            _wait_until_up(process, port, said)
            yield process
        finally:
            process.terminate()
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
            return
        time.sleep(0.2)
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    raise UserError(
        f"TensorBoard does not start: {lines[-1] if lines else 'it said nothing'}",
        hint="try: python -m tensorboard.main",
    )


def _bring(record: RunRecord, backend: Backend, folder: Path) -> tuple[bool, str]:
    """(whether the run will write no more, what went wrong)."""
    try:
        ended = backend.status(record).phase.ended
        with backend.files(record) as files:
            refresh(files, folder)
    except (VidjobsError, ConnectionError, TimeoutError) as error:
        return False, str(error)
    return ended, ""


def _follow(
    record: RunRecord,
    backend: Backend,
    folder: Path,
    *,
    every_s: float,
    server: subprocess.Popen[bytes],
) -> None:
    """Until the server has ended, which Ctrl-C does. Trouble on the way is told once, and tried again."""
    told = ""
    ended = False
    while server.poll() is None:
        if not ended:
            ended, trouble = _bring(record, backend, folder)
            if trouble and trouble != told:
                output.warn(f"what is new cannot be read now: {trouble}")
            elif told and not trouble:
                output.note("new events come again")
            told = trouble
            if ended:
                output.note(f"{record.run} has ended: all its events are here")
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(every_s)


def run(run: str | None, *, port: int | None = None, every_s: float = 10.0) -> int:
    record = find(run)
    backend = for_record(record)
    folder = cache_dir(record.run)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _free_port(port)
    with _server(folder, chosen, every_s) as server:
        output.result(f"http://{_HOST}:{chosen}/")
        output.note(f"events of {record.run}, new ones every {every_s:.0f} s; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            _follow(record, backend, folder, every_s=every_s, server=server)
    return 0
