"""A `prepare` shared among pods on a real Kubernetes: one Indexed Job, a lost shard that is tried again alone, one whole report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from researcher import get, kubectl
from training_lab import CLIPS, Lab, cpu

pytestmark = pytest.mark.cluster

SHARDS = 3
INDEX = "batch.kubernetes.io/job-completion-index"


def _conf(lab: Lab, name: str, **data: Any) -> str:
    """Frames beside the runs, and no GPU: nothing here needs one."""
    resources = {"cpu": cpu(SHARDS), "memory": "2Gi", "shm": "64Mi", "scratch": "1Gi"}
    section = {
        "name": "tinyvirat",
        "root": "${data}/TinyVIRAT",
        "frames": 8,
        "size": 32,
        "cache": f"${{runs}}/{name}-cache",
        **data,
    }
    prepare = {"frames_to": f"${{runs}}/{name}-frames", "stats": True}
    return lab.conf(name, data=section, prepare=prepare, job={"resources": resources})


def test_a_prepare_of_three_shards_loses_one_pod_and_ends_whole(lab: Lab) -> None:
    """Only the lost index runs again; the last to finish writes cache, statistics and report of all videos."""
    run = lab.submit("prepare", _conf(lab, "shared"), "--shards", str(SHARDS))
    started = lab.wait_for(run, lambda status: status["phase"] in ("running", "succeeded"))
    lost = next(
        pod for pod in lab.researcher.pods(run) if pod["metadata"]["annotations"][INDEX] == "1"
    )["metadata"]["name"]
    kubectl("delete", "pod", lost, f"--namespace={lab.researcher.namespace}", "--wait=false")

    log = lab.researcher.vidjobs("logs", run, "--follow", "--all-pods", seconds=300)
    lab.wait_for(run, lambda status: status["phase"] == "succeeded")
    job = get("job", run, f"--namespace={lab.researcher.namespace}")
    assert (job["spec"]["completionMode"], job["spec"]["backoffLimitPerIndex"]) == ("Indexed", 2)
    assert job["status"]["completedIndexes"] == "0-2"
    assert lost not in {pod["metadata"]["name"] for pod in lab.researcher.pods(run)}
    assert len(started["pods"]) <= SHARDS
    assert all(f"shard {index} of {SHARDS}: " in log for index in range(SHARDS))
    assert log.count("putting the whole together") == 1

    out = lab.folder / run
    lab.researcher.vidjobs("fetch", "*.json", run, "--out", str(out))
    assert json.loads((out / "DONE.json").read_text())["exit_code"] == 0
    report = json.loads((out / "prepare.json").read_text())
    assert {name: split["cached"] for name, split in report["splits"].items()} == {
        "train": CLIPS,
        "test": 12,
    }
    assert (report["steps"]["frames"]["videos"], report["steps"]["frames"]["broken"]) == (
        CLIPS + 12,
        [],
    )
    assert len(report["stats"]["mean"]) == 3


def test_a_fault_of_the_data_ends_all_shards_without_a_retry(lab: Lab) -> None:
    """65 fails the Job at once, and `status` says what the trainer said."""
    run = lab.submit(
        "prepare", _conf(lab, "missing", root="${data}/Missing"), "--shards", str(SHARDS)
    )
    status = lab.wait_for(run, lambda status: status["phase"] == "failed")
    assert "/data/Missing" in status["cause"]


def test_damaged_videos_are_named_and_nothing_stands_in_for_them(
    lab: Lab, layouts: Any, tmp_path: Path
) -> None:
    """An empty, a missing and a garbled file on the claim: named in the report where the conf leaves them out, else 65 without a retry."""
    data = Path(shutil.copytree(layouts.make("TinyVIRAT") / "TinyVIRAT", tmp_path / "damaged"))
    names = [tube["path"] for tube in json.loads((data / "tiny_train.json").read_text())["tubes"]]
    empty, missing, garbled = (data / "videos" / "train" / name for name in names[:3])
    empty.write_bytes(b"")
    missing.unlink()
    garbled.write_text("not a video")
    lab.researcher.vidjobs("push", str(data), "data:/damaged/")

    strict = lab.submit("prepare", _conf(lab, "strict", root="${data}/damaged"))
    lenient = lab.submit("prepare", _conf(lab, "lenient", root="${data}/damaged", broken="exclude"))
    status = lab.wait_for(strict, lambda status: status["phase"] == "failed")
    assert [pod["exit_code"] for pod in status["pods"]] == [65]
    assert any(name in status["cause"] for name in names[:3])

    lab.wait_for(lenient, lambda status: status["phase"] == "succeeded")
    lab.researcher.vidjobs("fetch", "prepare.json", lenient, "--out", str(tmp_path / "out"))
    train = json.loads((tmp_path / "out" / "prepare.json").read_text())["splits"]["train"]
    assert {each["id"]: each["problem"] for each in train["broken"]}.keys() == set(names[:3])
    assert train["cached"] == len(names) - 3
