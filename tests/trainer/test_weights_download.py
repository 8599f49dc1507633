"""Weights from the network: whole and checked, or not at all; a real server that cuts, lies and shuts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer import models
from trainer.errors import CannotWrite, ConfFault, DataError
from trainer.models import download
from trainer.models.weights import load_init, local_path

DATA = bytes(range(256)) * 20  # 5120 bytes
HASH = hashlib.sha256(DATA).hexdigest()
NAMED = f"net-{HASH[:8]}.pth"


class Server:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def url(self, kind: str, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{kind}/{name}"

    def asked(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def forget(self) -> None:
        (self.folder / "log").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    program = Path(__file__).with_name("weights_server.py")
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder), str(folder / "log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        yield Server(folder, int(process.stdout.readline()))
    process.terminate()
    process.wait()


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "weights"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for name in ("net.pth", NAMED, "net-00000000.pth"):
        (running.folder / name).write_bytes(DATA)
    running.forget()
    return running


@pytest.mark.parametrize("kind", ["whole", "ranges", "cut"])
def test_a_file_comes_whole_and_once(kind: str, server: Server, tmp_path: Path) -> None:
    """A cut connection goes on where it was cut; afterwards nothing is asked again, and nothing half lies around."""
    said: list[str] = []
    path = download.fetch(server.url(kind, NAMED), say=said.append)
    assert path.read_bytes() == DATA
    assert path == tmp_path / "weights" / "hub" / "checkpoints" / NAMED
    starts = [line.partition("bytes=")[2] for line in server.asked()]
    assert starts == (["", "1000-", "2000-", "3000-", "4000-", "5000-"] if kind == "cut" else [""])
    assert download.fetch(server.url(kind, NAMED), say=said.append) == path
    assert len(server.asked()) == len(starts)
    assert len(said) == 1
    assert {each.name for each in path.parent.iterdir()} == {NAMED, f".{NAMED}.lock"}


def test_an_interrupted_fetch_goes_on_in_the_next_run(server: Server) -> None:
    """Also when the file was replaced on the server meanwhile: then all of it is fetched anew."""
    url = server.url("ranges", NAMED)
    part = download.place(url).with_name(f".{NAMED}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:300])
    part.with_suffix(".tag").write_text(f'"{HASH}"')
    assert download.fetch(url).read_bytes() == DATA
    assert server.asked() == [f"ranges {NAMED} bytes=300-"]

    download.place(url).unlink()
    part.write_bytes(b"x" * 300)
    part.with_suffix(".tag").write_text('"of another file"')
    assert download.fetch(url).read_bytes() == DATA


def test_what_is_not_the_published_file_is_refused(server: Server) -> None:
    """By its sha256, by the hash that its name carries, by being a web page; nothing of it stays."""
    for kind, name, known, said in (
        ("whole", "net.pth", {"sha256": "0" * 64}, "sha256 begins with .*, not 0000000000000000"),
        ("cut", "net-00000000.pth", {}, f"sha256 begins with {HASH[:8]}, not 00000000"),
        ("page", "net.pth", {}, "is a web page"),
        ("gone", "net.pth", {}, "answers 404"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            download.fetch(server.url(kind, name), **known)  # type: ignore[arg-type]
        assert "set model.init to its path" in str(caught.value)
        assert not download.place(server.url(kind, name)).exists()


def test_a_kept_file_that_was_altered_is_named(server: Server) -> None:
    path = download.fetch(server.url("whole", NAMED))
    path.write_bytes(b"other")
    with pytest.raises(DataError, match=r"is not the published file.*remove it"):
        download.fetch(server.url("whole", NAMED))


def test_no_network_says_host_and_next_step(server: Server) -> None:
    """A host that closes, one that refuses, one that is not known."""
    for url, said in (
        (server.url("shut", "net.pth"), "127.0.0.1: "),
        ("http://127.0.0.1:1/net.pth", "127.0.0.1: Connection refused"),
        ("http://weights.invalid/net.pth", "weights.invalid: "),
    ):
        with pytest.raises(DataError, match=said) as caught:
            download.fetch(url)
        assert "fetch it on a machine that can" in str(caught.value)


def test_several_processes_fetch_it_once(server: Server) -> None:
    """As the processes of one training do."""
    url, found = server.url("slow", NAMED), []
    threads = [threading.Thread(target=lambda: found.append(download.fetch(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(server.asked()) == 1


def test_a_volume_that_refuses_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.raises(CannotWrite):
        download.fetch(server.url("whole", NAMED))


def test_an_address_in_model_init(server: Server) -> None:
    """Fetched, read and matched as any file; two addresses with one file name do not share a place."""
    model = models.create("resizer2d", frames=4, size=8)
    torch.save(
        {key: value + 1 for key, value in model.state_dict().items()}, server.folder / "resizer.pt"
    )
    before = model.get_parameter("c1.conv3d.weight").clone()
    load_init(model, server.url("ranges", "resizer.pt"))
    assert torch.equal(model.get_parameter("c1.conv3d.weight"), before + 1)
    assert download.place(server.url("whole", "resizer.pt")) != download.place(
        server.url("ranges", "resizer.pt")
    )


def test_torchvision_weights_are_found_by_name(server: Server, tmp_path: Path) -> None:
    """What torch.hub keeps under the name is used, and checked against the hash in it; a wrong name gets the nearest one."""
    kept = tmp_path / "weights" / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    kept.parent.mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, kept)
    with pytest.raises(
        DataError,
        match=r"inception_v3_google-0cc3c7bd\.pth is not the published file.*not 0cc3c7bd.*remove it",
    ):
        local_path("torchvision:Inception_V3_Weights.IMAGENET1K_V1", "inception_v3")
    with pytest.raises(
        ConfFault, match=r"no weights 'Inception_V3_Weights.IMAGENET1K_V2'.*did you mean"
    ):
        local_path("torchvision:Inception_V3_Weights.IMAGENET1K_V2", "inception_v3")


@pytest.mark.slow
def test_a_training_starts_from_an_address(
    server: Server, made_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched into the folder of all runs, once; the log says from where, what was loaded, and what the conf feeds otherwise."""
    monkeypatch.delenv("TORCH_HOME")
    weights = models.create("i3d", num_classes=5, mode="16x16").state_dict()
    torch.save(weights, server.folder / "rgb_charades.pt")
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"data: {{root: {made_set}, frames: 16, size: 16, normalise: imagenet}}\n"
        f"model: {{name: i3d, mode: 16x16, init: '{server.url('ranges', 'rgb_charades.pt')}', init_head: replace}}\n"
        "train: {epochs: 1, max_steps: 1, batch: 4}\ncompute: {device: cpu, processes: 1, workers: 0}\n"
    )
    for run in ("one", "two"):
        command = [
            sys.executable,
            "-m",
            "trainer",
            "train",
            "--conf",
            str(conf),
            "--run",
            str(tmp_path / "runs" / run),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr
        assert (
            "head replaced by a fresh one (logits.conv3d.weight, logits.conv3d.bias)" in done.stdout
        )
        assert (
            "note: the published charades-rgb: was trained with rgb frames, mean 127.5"
            in done.stdout
        )
        assert (f"fetching {server.url('ranges', 'rgb_charades.pt')}" in done.stdout) == (
            run == "one"
        )
    assert len(server.asked()) == 1
    assert len(list((tmp_path / "runs" / ".cache" / "weights").rglob("rgb_charades.pt"))) == 1
