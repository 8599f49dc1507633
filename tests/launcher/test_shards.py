"""`prepare --shards N`: one Indexed Job, each pod a share; refused for all that cannot be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.backend_base import Phase
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.kube.status import Facts, run_status
from launcher.errors import ConfError
from launcher.plan import Plan, plan
from launcher.profiles import load

CONF = """\
name: exp
data: {root: "${data}/T"}
job:
  image: registry.example/v:1
  code: image
  retries: 3
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /data, as: data}]
"""


def _plan(
    conf: Path, verb: str = "prepare", *, shards: int | None = None, sets: tuple[str, ...] = ()
) -> Plan:
    profile = load("nautilus")
    return plan(verb, conf, profile=profile, backend=KubeBackend(profile), sets=sets, shards=shards)


@pytest.mark.parametrize(
    ("shards", "sets"), [(3, ()), (None, ("prepare.shards=3",)), (3, ("prepare.shards=5",))]
)
def test_shards_are_the_pods_of_one_indexed_job(
    conf: Path, shards: int | None, sets: tuple[str, ...]
) -> None:
    """From the option or the conf, the option winning; the trainer reads the number, and the record keeps both."""
    made = _plan(conf, shards=shards, sets=sets)
    spec = made.manifests[0]["spec"]
    assert {
        key: spec.get(key)
        for key in (
            "completionMode",
            "completions",
            "parallelism",
            "backoffLimitPerIndex",
            "backoffLimit",
        )
    } == {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimitPerIndex": 3,
        "backoffLimit": None,
    }
    assert yaml.safe_load(made.record.conf_text)["prepare"] == {"shards": 3}
    assert made.record.manifests == made.manifests


@pytest.mark.parametrize(
    ("verb", "sets"),
    [("train", ("prepare.shards=3",)), ("prepare", ("prepare.shards=3", "prepare.shard=1"))],
)
def test_only_a_whole_prepare_is_shared(conf: Path, verb: str, sets: tuple[str, ...]) -> None:
    """A training of the same conf is one pod, and so is one shard that is asked for by its number."""
    assert "completions" not in _plan(conf, verb, sets=sets).manifests[0]["spec"]


@pytest.mark.parametrize(
    ("verb", "sets", "fault"),
    [
        ("train", (), "prepare.shards: only `prepare`"),
        ("prepare", ("job.nodes=2",), "job.nodes: is 2, and prepare.shards 3"),
    ],
)
def test_what_cannot_be_shared_is_a_conf_error(
    conf: Path, verb: str, sets: tuple[str, ...], fault: str
) -> None:
    """An Indexed Job is exactly one of: nodes, trials, shards."""
    with pytest.raises(ConfError, match=fault):
        _plan(conf, verb, shards=3, sets=sets)


def test_on_this_machine_shards_run_one_after_the_other_and_retry_alone(world: Any) -> None:
    """Each sees its own index; the one that fails once is tried again, the others are not."""
    script = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[2]); folder.mkdir(exist_ok=True)
index = os.environ["JOB_COMPLETION_INDEX"]
marker = folder / index
print("shard", index, "again" if marker.exists() else "first", flush=True)
sys.exit(0 if marker.exists() or index != "1" else marker.write_text("x") + 74)
"""
    shared = {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimitPerIndex": 1,
    }
    world.submit("a-prepare-aaaaaa", script, **shared)
    status = world.wait("a-prepare-aaaaaa")
    assert status.phase is Phase.SUCCEEDED
    assert [pod.name.split("-")[3] for pod in status.pods] == ["0", "1", "1", "2"]
    lines = [line.text for line in world.log("a-prepare-aaaaaa", all_pods=True)]
    assert lines == ["shard 0 first", "shard 1 first", "shard 1 again", "shard 2 first"]


def _pod(index: int, phase: str) -> dict[str, Any]:
    state = (
        {"running": {}} if phase == "Running" else {"terminated": {"exitCode": 0, "startedAt": "x"}}
    )
    statuses = [{"name": "trainer", "state": state}]
    metadata = {
        "name": f"p-{index}",
        "uid": str(index),
        "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
    }
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "trainer"}], "nodeName": "n"},
        "status": {"phase": phase, "containerStatuses": statuses},
    }


def test_status_says_how_many_shards_are_done() -> None:
    """While others run; and which failed for good."""
    spec = {"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 2}
    job: dict[str, Any] = {"metadata": {"name": "r"}, "spec": spec, "status": {}}
    status = run_status(
        "r", Facts(job=job, pods=[_pod(0, "Succeeded"), _pod(1, "Running"), _pod(2, "Running")])
    )
    assert (status.phase, status.cause) == (Phase.RUNNING, "1 of 3 shards done, 2 run")
    failed = _pod(1, "Failed")
    failed["status"]["containerStatuses"][0]["state"]["terminated"] |= {
        "exitCode": 74,
        "reason": "Error",
    }
    job["status"] = {
        "failedIndexes": "1",
        "conditions": [{"type": "Failed", "status": "True", "reason": "FailedIndexes"}],
    }
    status = run_status(
        "r", Facts(job=job, pods=[_pod(0, "Succeeded"), failed, _pod(2, "Succeeded")])
    )
    assert status.phase is Phase.FAILED
    assert status.cause.startswith("1 of 3 shards failed (1), the last: ")
