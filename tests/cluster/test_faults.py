"""Faults of a training and of people, where they happen: a full claim, a loss that is no number, two submits at once, hostile names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Lab as SmallLab
from conftest import mounted
from training_lab import Lab

from launcher.backend_base import LogLine
from launcher.errors import VidjobsError
from launcher.fetching import fetch
from launcher.log_spool import RunSpool

pytestmark = pytest.mark.cluster

# a few epochs fit: 7 MB of weights each, two states of three times as much, and one more of all
# while it is written
TIGHT = "96Mi"


@pytest.fixture(scope="module")
def diverged(lab: Lab) -> list[str]:
    """Two runs of one conf that were submitted in the same moment; its learning rate makes the loss no number."""
    train = {"epochs": 2, "batch": 4, "optimizer": "sgd", "lr": 99.0, "keep_weights": "best"}
    conf = lab.conf("no-number", train=train, job={"retries": 1})
    processes = [lab.researcher.start("submit", "train", conf) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert all(out.strip() for out, _ in said), said
    return [out.strip() for out, _ in said]


@pytest.fixture(scope="module")
def full(lab: Lab) -> str:
    """A run whose checkpoints go to a claim that is too small for them."""
    lab.researcher.vidjobs("volume", "create", "tight", "--size", TIGHT)
    volumes = [
        {"claim": "tight", "mount": "/runs", "as": "runs"},
        {"claim": "data", "mount": "/data", "as": "data"},
    ]
    data = {"name": "tinyvirat", "root": "${data}/TinyVIRAT", "frames": 16, "size": 32}
    train = {"epochs": 16, "batch": 6, "lr": 1e-3, "validate_every": 16}
    conf = lab.conf(
        "full",
        data=data,
        model={"name": "squeezenet_3d"},
        train=train,
        job={"volumes": volumes, "retries": 1},
    )
    return lab.submit("train", conf)


def test_two_submits_at_once_are_two_runs(lab: Lab, diverged: list[str], full: str) -> None:
    """Of one conf, in the same moment: two names, two records, two Jobs."""
    first, second = diverged
    assert first not in ("", second)
    assert second
    known = {row["run"] for row in lab.researcher.json("status")}
    assert {first, second} <= known
    assert all(
        lab.researcher.pods(run) or lab.wait_for(run, lambda status: status["pods"])
        for run in diverged
    )


def test_a_loss_that_is_no_number_stops_at_once_and_names_its_step(
    lab: Lab, diverged: list[str]
) -> None:
    """76 without a retry; `status` says the step and what is kept."""
    for run in diverged:
        status = lab.wait_for(run, lambda status: status["phase"] == "failed")
        (pod,) = status["pods"]
        assert pod["exit_code"] == 76
        assert "step" in status["cause"]


def test_a_full_claim_ends_training_cleanly_and_keeps_its_last_checkpoint(
    lab: Lab, full: str, tmp_path: Path
) -> None:
    """73 without a retry; `status` says how much is missing; the last good checkpoint comes back whole."""
    status = lab.wait_for(full, lambda status: status["phase"] == "failed", seconds=240)
    (pod,) = status["pods"]
    assert pod["exit_code"] == 73
    assert "is full" in status["cause"]
    assert "missing" in status["cause"]
    # compared with the manifest's sha256
    out = lab.researcher.vidjobs("fetch", "checkpoints", full, "--last", "-o", str(tmp_path))
    assert "epoch-" in out


HOSTILE = r"""
import os, pathlib
here = pathlib.Path('/runs/{run}')
here.mkdir()
for name in ['a\nb', '\x1b[2J', '$(id)', '-rf', '..data', 'c\\d', 'e"f']:
    (here / name).write_text('inert')
os.write(os.open(os.fsencode(str(here)) + b'/\xff', os.O_CREAT | os.O_WRONLY), b'inert')
(here / 'link').symlink_to('/etc/passwd')
(here / 'up').symlink_to('..')
os.mkfifo(here / 'pipe')
(here / 'train.log').write_text('one\ntwo\nonly in the folder\n')
print('one\n\x1b]0;title\x07two', flush=True)
"""


def test_hostile_names_from_the_pod_are_refused_or_inert(kube: SmallLab, tmp_path: Path) -> None:
    """Line ends, escape sequences, options, bytes that are no text, links, a pipe: what comes lies in the folder, and nothing else does."""
    kube.claim("hostile")
    job = kube.job("", **mounted("hostile"))
    job["spec"]["template"]["spec"]["containers"][0]["command"] = [
        "python",
        "-c",
        HOSTILE.format(run=job["metadata"]["name"]),
    ]
    kube.backend.submit([job])
    record = kube.record(job, "hostile")
    kube.wait(record, lambda status: status.phase == "succeeded")
    refused, came = [], []
    with kube.backend.files(record) as files:
        listed = files.list()
        assert not {"link", "up", "pipe"} & {file.path for file in listed}
        for file in listed:
            try:
                came += fetch(files, [file], tmp_path / "out")
            except VidjobsError:  # any other is a bare traceback
                refused.append(file.path)
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in came)
    assert {path.name for path in came} >= {"train.log", "$(id)", "-rf", "..data"}
    found = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert sorted(found) == sorted(came)
    assert {path.read_text() for path in came if path.name != "train.log"} == {"inert"}
    assert len(came) + len(refused) == len(listed)


def test_a_log_outlives_its_pod(kube: SmallLab) -> None:
    """From this machine's copy when it was followed; else what the run folder's train.log has, without a double line."""
    kube.claim("outlived")
    job = kube.job("", **mounted("outlived"))
    write = "import pathlib; d = pathlib.Path('/runs/{run}'); d.mkdir(); (d / 'train.log').write_text('one\\ntwo\\nthree\\n'); "
    program = (
        write.format(run=job["metadata"]["name"])
        + "print('one\\nnot in train.log\\ntwo\\nthree', end='')"
    )
    job["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "-c", program]
    kube.backend.submit([job])
    record = kube.record(job, "outlived")
    lines = list(kube.backend.logs(record, follow=True))
    kube.backend.delete(record)
    kube.wait(record, lambda status: status.phase == "gone" and not status.pods)

    def texts(kept: list[LogLine]) -> list[str]:
        return [line.text for line in kept if line.kind == "line"]

    assert texts(lines) == ["one", "not in train.log", "two", "three"]
    assert list(kube.backend.logs(record)) == lines
    assert texts(list(kube.backend.logs(record, tail=1))) == ["three"]
    (kept,) = RunSpool(record.run).logs_without(set())
    whole = kept.path.read_bytes().splitlines(keepends=True)
    # as a follower leaves it that was killed after the second line
    kept.path.write_bytes(b"".join(whole[:3]))
    again = list(kube.backend.logs(record))
    assert texts(again) == ["one", "not in train.log", "two", "three"]
    assert again[-1].kind == "gap"
