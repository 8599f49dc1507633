"""Several nodes of one run, here processes that meet on the loopback: they do what one does, end together, and go on together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from trainer import failures, synthetic
from trainer.errors import ConfFault
from trainer.meeting import Place, interface_towards, leads
from trainer.records import read_metrics
from trainer.run_folder import RunFolder

CONF = """
data: {{name: tinyvirat, root: {root}, frames: 16, size: 32, start: random}}
model: {{name: squeezenet_3d}}
train: {{epochs: 2, batch: 4, optimizer: sgd, lr: 1.0e-3, checkpoint_steps: 1, keep_weights: last:1}}
compute: {{device: cpu, workers: 0, threads: 1}}
"""


def test_a_place_is_read_from_the_environment() -> None:
    told = {
        "VIDJOBS_NODES": "3",
        "VIDJOBS_MEETING": "run-0.run:29400",
        "JOB_COMPLETION_INDEX": "2",
        "VIDJOBS_JOIN_TIMEOUT": "60",
    }
    place = Place.of(told)
    assert (place.node, place.nodes, place.host, place.port, place.patience) == (
        2,
        3,
        "run-0.run",
        29400,
        60.0,
    )
    assert (place.alone, place.leads, place.others) == (False, False, [0, 1])
    assert Place.of({"JOB_COMPLETION_INDEX": "3"}).alone  # a shard or a trial is no node
    assert leads({"JOB_COMPLETION_INDEX": "3"})
    assert not leads(told)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"VIDJOBS_NODES": "two"}, "VIDJOBS_NODES"),
        ({"VIDJOBS_NODES": "0"}, "VIDJOBS_NODES"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX"),
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX"),
        ({"VIDJOBS_MEETING": "run-0.run"}, "VIDJOBS_MEETING"),
        ({"VIDJOBS_JOIN_TIMEOUT": "soon"}, "VIDJOBS_JOIN_TIMEOUT"),
    ],
)
def test_a_place_that_cannot_be_is_a_conf_fault(changes: dict[str, str], named: str) -> None:
    told = {
        "VIDJOBS_NODES": "2",
        "VIDJOBS_MEETING": "run-0.run:29400",
        "JOB_COMPLETION_INDEX": "1",
    } | changes
    with pytest.raises(ConfFault) as caught:
        Place.of(told)
    assert named in [fault.path for fault in caught.value.faults]


def test_the_interface_towards_a_machine() -> None:
    assert interface_towards("127.0.0.1", 9) == "lo"
    assert interface_towards("no.such.host.invalid", 9) == ""


def test_a_node_0_that_does_not_answer_a_process_is_a_lost_peer() -> None:
    """Nor does its name, where the cluster's DNS is away for a while: that is no bug, and no fault of this node."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(RuntimeError) as caught:
        TCPStore(
            "127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=1)
        )
    ended = failures.first_failure([failures.describe(caught.value, "process 0")], {})
    assert isinstance(ended, failures.LostPeers)
    assert ended.exit_code == 75


class Nodes:
    """`count` nodes as processes of one command, each with its output."""

    def __init__(
        self, command: list[str], count: int, *, folder: Path, project: Path, patience: int = 60
    ) -> None:
        self.command, self.count, self.folder = command, count, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            meeting = f"127.0.0.1:{probe.getsockname()[1]}"
        group = {
            "VIDJOBS_NODES": str(count),
            "VIDJOBS_MEETING": meeting,
            "VIDJOBS_JOIN_TIMEOUT": str(patience),
        }
        self.env = {
            **os.environ,
            **group,
            "PYTHONPATH": str(project),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *nodes: int) -> None:
        for node in nodes or range(self.count):
            with (self.folder / f"node-{node}.txt").open("w") as out:
                env = self.env | {"JOB_COMPLETION_INDEX": str(node)}
                self.processes[node] = subprocess.Popen(
                    self.command,
                    cwd=self.folder,
                    env=env,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def said(self, node: int) -> str:
        return (self.folder / f"node-{node}.txt").read_text()

    def codes(self, *nodes: int, seconds: float = 120) -> list[int]:
        """Exit codes, once they have ended."""
        end = time.monotonic() + seconds
        return [
            self.processes[node].wait(end - time.monotonic()) for node in nodes or range(self.count)
        ]

    def await_line(self, node: int, text: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while text not in self.said(node):
            assert time.monotonic() < end, self.said(node)
            assert self.processes[node].poll() is None, self.said(node)
            time.sleep(0.02)

    def lose(self, node: int) -> None:
        """As a machine that is gone: the node and all its ranks at once."""
        os.killpg(self.processes[node].pid, signal.SIGKILL)
        self.processes[node].wait()


@contextmanager
def started(*arguments: Any, **options: Any) -> Iterator[Nodes]:
    nodes = Nodes(*arguments, **options)
    try:
        nodes.start()
        yield nodes
    finally:
        for process in nodes.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _program(project: Path, what: str, processes: int, out: Path) -> list[str]:
    return [
        sys.executable,
        str(project / "tests" / "trainer" / "ddp_program.py"),
        what,
        str(processes),
        str(out),
    ]


@pytest.mark.slow
def test_nodes_train_as_one_process_does(project: Path, tmp_path: Path) -> None:
    """Three nodes of one process, and two of two: the same global batches, so the same weights but for the order of sums."""
    alone = subprocess.run(
        _program(project, "train", 1, tmp_path / "1.pt"),
        env={**os.environ, "PYTHONPATH": str(project)},
        timeout=120,
        check=True,
    )
    assert alone.returncode == 0
    expected = torch.load(tmp_path / "1.pt", weights_only=True)
    for count, processes in ((3, 1), (2, 2)):
        out = tmp_path / f"{count}.pt"
        with started(
            _program(project, "train", processes, out), count, folder=tmp_path, project=project
        ) as nodes:
            assert nodes.codes() == [0] * count, nodes.said(0)
        found = torch.load(out, weights_only=True)
        assert found["steps"] == expected["steps"]
        for key, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_what_ends_one_node_ends_all_with_its_cause(project: Path, tmp_path: Path) -> None:
    """Of three the last cannot read its data: every node exits 65, and the console, node 0's, says which and why."""
    with started(
        _program(project, "fail", 1, tmp_path / "out"), 3, folder=tmp_path, project=project
    ) as nodes:
        assert nodes.codes() == [65, 65, 65], nodes.said(0)
        assert "DataError: node 2: a broken video (replace it)" in nodes.said(0)


@pytest.mark.slow
def test_nodes_that_do_not_come_are_waited_for_no_longer_than_that(
    project: Path, tmp_path: Path
) -> None:
    """75, and who is missing: node 0 knows which, the others that it is node 0 or whom that waits for."""
    command = _program(project, "train", 1, tmp_path / "out")
    nodes = Nodes(command, 3, folder=tmp_path, project=project, patience=3)
    nodes.start(0, 1)
    assert nodes.codes(0, 1) == [75, 75]
    assert "waited 3 s for peers: node 2 of 3 did not come" in nodes.said(0)
    assert "waited 3 s for peers: node 0 at 127.0.0.1:" in nodes.said(1)
    nodes.start(1)
    assert nodes.codes(1) == [75]
    assert "refused), or a node that it waits for, did not come" in nodes.said(1)


@pytest.mark.slow
def test_a_node_that_comes_anew_ends_the_group_that_still_waits_for_the_lost_one(
    project: Path, tmp_path: Path
) -> None:
    """Also while nobody speaks, so that no broken connection tells. The new one waits for a new node 0."""
    with started(
        _program(project, "idle", 1, tmp_path / "out"), 2, folder=tmp_path, project=project
    ) as nodes:
        _await_file(Path(f"{tmp_path / 'out'}.0"))
        nodes.lose(1)
        nodes.start(1)
        assert nodes.codes(0) == [75]
        assert "node 1 was lost and has come anew" in nodes.said(0)
        assert nodes.processes[1].poll() is None
        Path(f"{tmp_path / 'out'}.0").unlink()
        nodes.start(0)
        _await_file(Path(f"{tmp_path / 'out'}.0"))
        nodes.processes[1].send_signal(signal.SIGTERM)  # `idle` heeds it at once
        assert nodes.codes() == [75, 75]


def _await_file(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a conf."""
    place = tmp_path_factory.mktemp("nodes")
    synthetic.make_tinyvirat(
        place / "data", train=26, test=4, seed=3, frames=(16, 20), sizes=(10, 24)
    )
    (place / "conf.yaml").write_text(CONF.format(root=place / "data"))
    return place


def _train(run: str) -> list[str]:
    return [sys.executable, "-m", "trainer", "train", "--conf", "conf.yaml", "--run", f"runs/{run}"]


@pytest.mark.slow
def test_stopped_and_lost_nodes_come_back_and_the_run_is_the_uninterrupted_one(
    bench: Path, project: Path
) -> None:
    """SIGTERM at one node stops all after one step, with a checkpoint; a lost node ends all with 75; the end is the same to the bit."""
    with started(_train("whole"), 2, folder=bench, project=project) as nodes:
        assert nodes.codes() == [0, 0], nodes.said(0)
        assert "finished: last" in nodes.said(0)
        assert nodes.said(1).count("Loss: ") == 0

    with started(_train("broken"), 2, folder=bench, project=project) as nodes:
        nodes.await_line(0, "step=2 ")
        nodes.processes[1].send_signal(signal.SIGTERM)
        assert nodes.codes() == [75, 75], nodes.said(0)
        assert "its state is saved and a retry goes on from it" in nodes.said(0)
        nodes.start()
        nodes.await_line(0, "resumed at step")
        nodes.await_line(0, "epoch=2 step=6 ")
        nodes.lose(1)
        assert nodes.codes(0) == [75], nodes.said(0)
        nodes.start()
        assert nodes.codes() == [0, 0], nodes.said(0)
        assert "resumed at step" in nodes.said(0)
        nodes.start()  # finished: nobody waits for anybody
        assert nodes.codes() == [0, 0]
        assert all("already finished" in nodes.said(node) for node in range(2))

    whole, broken = (RunFolder(bench / "runs" / name) for name in ("whole", "broken"))
    mine, theirs = (
        torch.load(folder.weights(2), weights_only=True)["state_dict"] for folder in (broken, whole)
    )
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    told = [
        [(entry["phase"], entry["step"], entry["loss"]) for entry in read_metrics(folder.metrics)]
        for folder in (whole, broken)
    ]
    assert told[0] == told[1]
    # node 0's; the other's is in its own output
    assert broken.log.read_text().count("error: ") == 2
