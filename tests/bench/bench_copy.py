"""Bringing a file onto a claim and back, beside `kubectl cp` in the same run: clean, and over a wire that is cut. Prints a table.

The file has VIDJOBS_BENCH_MIB (1024) MiB of random bytes. All traffic goes through a proxy of ours, which counts it and cuts. The times
of vidjobs hold the start and the end of its helper pod and both digests; `kubectl cp` gets a pod that runs already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from researcher import Researcher, arrive, kubectl
from small_image import small_image

MIB = int(os.environ.get("VIDJOBS_BENCH_MIB", "1024"))
RUN = "bench-train-aaaaaa"
CUTS = [0.3, 0.3, 0.3]  # shares of the file that pass before each cut
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"), reason="no cluster: KUBECONFIG is not set"
    ),
]


class Proxy:
    """TCP to the API server; after so many bytes all connections of that moment are reset."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.passed = self._since = 0
        self.cuts: list[int] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def start(self, cuts: list[int]) -> None:
        self.passed = self._since = 0
        self.cuts = list(cuts)

    def _serve(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return  # closed
            theirs = socket.create_connection(self._target)
            self._open |= {ours, theirs}
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                self._count(len(data))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _count(self, size: int) -> None:
        with self._lock:
            self.passed += size
            self._since += size
            if self.cuts and self._since > self.cuts[0]:
                self.cuts.pop(0)
                self._since = 0
                for end in list(self._open):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One command: seconds, MiB on the wire, MiB of resident memory, and how it ended."""

    name: str
    seconds: float
    wire: float
    memory: float
    ended: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    researcher: Researcher
    proxy: Proxy
    pod: str
    folder: Path

    def measure(self, name: str, command: list[str], *, good: Path | None, cut: bool) -> Measured:
        """Run it whole. `good`: the file that must then equal the source."""
        self.proxy.start([int(share * MIB * 1048576) for share in CUTS] if cut else [])
        start = time.perf_counter()
        errors = self.folder / "errors"
        with errors.open("wb") as told:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.researcher.environment,
                stdout=subprocess.DEVNULL,
                stderr=told,
                stdin=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        ended = (
            "ok"
            if process.returncode == 0
            else f"exit {process.returncode}: {errors.read_text().strip().splitlines()[-1][:70]}"
        )
        if good is not None and ended == "ok" and not _same(good, self.folder / "source.bin"):
            ended = "ok, it says, but the file is not the same"
        return Measured(
            name=name,
            seconds=seconds,
            wire=self.proxy.passed / 1048576,
            memory=usage.ru_maxrss / 1024,
            ended=ended,
        )


def _same(a: Path, b: Path) -> bool:
    return subprocess.run(["cmp", "-s", a, b], check=False).returncode == 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A namespace with a claim, a pod for kubectl cp, and a file."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    image = small_image()
    namespace = f"copy-{secrets.token_hex(3)}"
    researcher = arrive(tmp_path, namespace)
    config = Path(researcher.environment["KUBECONFIG"])
    host, port = re.search(r"https://([^:/]+):(\d+)", config.read_text()).groups()  # type: ignore[union-attr]
    proxy = Proxy(host, int(port))
    config.write_text(
        config.read_text().replace(f"https://{host}:{port}", f"https://{host}:{proxy.port}")
    )
    try:
        _profile(researcher, image)
        researcher.vidjobs("volume", "create", "data", "--size", f"{5 * MIB}Mi")
        _record(researcher, image)
        kubectl("apply", f"--namespace={namespace}", "--filename=-", text=json.dumps(_pod(image)))
        kubectl(
            "wait",
            "pod/copier",
            "--for=condition=Ready",
            f"--namespace={namespace}",
            "--timeout=120s",
        )
        subprocess.run(
            [
                "dd",
                "if=/dev/urandom",
                f"of={tmp_path / 'source.bin'}",
                "bs=1M",
                f"count={MIB}",
                "status=none",
            ],
            check=True,
        )
        yield Bench(researcher=researcher, proxy=proxy, pod=f"{namespace}/copier", folder=tmp_path)
    finally:
        proxy.close()
        kubectl("delete", "namespace", namespace, "--wait=false")


def _profile(researcher: Researcher, image: str) -> None:
    """A cluster whose pods without a run use the small image."""
    folder = Path(researcher.environment["XDG_CONFIG_HOME"]) / "vidjobs/clusters"
    folder.mkdir(parents=True)
    (folder / "bench.yaml").write_text(json.dumps({"backend": "kube", "job": {"image": image}}))
    researcher.environment["VIDJOBS_CLUSTER"] = "bench"


def _record(researcher: Researcher, image: str) -> None:
    """A run whose Job has gone, and whose folder is on the claim."""
    template = {"spec": {"containers": [{"name": "trainer", "image": image}]}}
    record = {
        "run": RUN, "verb": "train", "name": "bench", "created": "2026-01-01T00:00:00Z", "backend": "kube", "cluster": "bench",
        "context": "", "namespace": "", "directory": "/", "runs_claim": "data", "runs_mount": "/runs",
        "manifests": [{"kind": "Job", "spec": {"template": template}}],
    }  # fmt: skip
    folder = Path(researcher.environment["XDG_STATE_HOME"]) / "vidjobs/runs"
    folder.mkdir(parents=True)
    (folder / f"{RUN}.json").write_text(json.dumps(record))


def _pod(image: str) -> dict[str, object]:
    """What our helper pods are: the same limits and ids."""
    from launcher.backends.kube.helper_pod import HelperSpec, manifest

    return manifest(
        HelperSpec(image=image, claim="data", mount="/volume", read_only=False),
        name="copier",
        namespace="",
    ) | {"metadata": {"name": "copier"}}


def test_a_file_onto_a_claim_and_back(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    vidjobs = [sys.executable, "-m", "launcher"]
    rows = []
    for cut in (False, True):
        what, number = ("cut 3 times" if cut else "clean"), int(cut)
        there, cp, back = (
            f"data:{RUN}/file-{number}.bin",
            f"/volume/cp-{number}.bin",
            bench.folder / f"cp-{number}.bin",
        )
        source = str(bench.folder / "source.bin")
        out = bench.folder / f"out-{number}"
        rows += [
            bench.measure(
                f"vidjobs push, {what}", [*vidjobs, "push", source, there], good=None, cut=cut
            ),
            bench.measure(
                f"kubectl cp up, {what}",
                ["kubectl", "cp", source, f"{bench.pod}:{cp}", "-c", "files"],
                good=None,
                cut=cut,
            ),
            bench.measure(
                f"vidjobs fetch, {what}",
                [*vidjobs, "fetch", f"file-{number}.bin", RUN, "-o", str(out)],
                good=out / f"file-{number}.bin",
                cut=cut,
            ),
            bench.measure(
                f"kubectl cp down --retries=5, {what}",
                [
                    "kubectl",
                    "cp",
                    f"{bench.pod}:{'/volume/cp-0.bin'}",
                    str(back),
                    "-c",
                    "files",
                    "--retries=5",
                ],
                good=back,
                cut=cut,
            ),
        ]
        for path in (out / f"file-{number}.bin", back):
            path.unlink(missing_ok=True)
    with capsys.disabled():
        print(
            f"\n{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, a file of {MIB} MiB"
        )
        print(
            f"{'command':38}{'s':>7}{'MiB/s':>8}{'wire MiB':>10}{'re-sent':>9}{'RSS MiB':>9}  ended"
        )
        for row in rows:
            again = max(0.0, row.wire - MIB)
            print(
                f"{row.name:38}{row.seconds:7.1f}{MIB / row.seconds:8.1f}{row.wire:10.0f}{again:9.0f}{row.memory:9.0f}  {row.ended}"
            )
