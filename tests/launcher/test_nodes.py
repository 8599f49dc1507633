"""`job.nodes`: who may ask for it, what is rendered, which volumes fit, which nodes are to be avoided, and the same on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher import nodes
from launcher.backend_base import Phase, PodStatus, Volume
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.kube.status import Facts, run_status
from launcher.backends.local import groups
from launcher.errors import ConfError
from launcher.plan import Plan, plan
from launcher.profiles import load
from launcher.records import RunRecord

CONF = """\
name: exp
data: {root: "${data}/T"}
job:
  image: registry.example/v:1
  code: image
  retries: 3
  nodes: 2
  join_timeout: 20m
  avoid_nodes: [gpu-7]
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /data, as: data}]
"""


def _plan(conf: Path, verb: str = "train", *sets: str, shards: int | None = None) -> Plan:
    profile = load("nautilus")
    return plan(verb, conf, profile=profile, backend=KubeBackend(profile), sets=sets, shards=shards)


@pytest.mark.parametrize("verb", ["train", "test", "eval"])
def test_nodes_are_the_pods_of_one_indexed_job_that_meet_by_a_service(
    conf: Path, verb: str
) -> None:
    """Retries are counted for all of them together; the Job is done when node 0 is; no pod goes to a node that is to be avoided."""
    made = _plan(conf, verb)
    service, job = made.manifests
    run = made.spec.run
    assert (service["kind"], service["metadata"]["name"], service["spec"]["clusterIP"]) == (
        "Service",
        run,
        "None",
    )
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": run}
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (
        spec["completionMode"],
        spec["completions"],
        spec["parallelism"],
        spec["backoffLimit"],
    ) == ("Indexed", 2, 2, 6)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert "backoffLimitPerIndex" not in spec
    assert pod["subdomain"] == run
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    wanted = {
        "VIDJOBS_NODES": "2",
        "VIDJOBS_MEETING": f"{run}-0.{run}:{nodes.PORT}",
        "VIDJOBS_JOIN_TIMEOUT": "1200",
    }
    assert wanted.items() <= env.items()
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-7"]}
    ]
    assert nodes.console(made.record) == 0


def test_one_node_is_a_plain_job(conf: Path) -> None:
    made = _plan(conf, "train", "job.nodes=1")
    (job,) = made.manifests
    assert "completionMode" not in job["spec"]
    assert "subdomain" not in job["spec"]["template"]["spec"]
    assert nodes.console(made.record) is None


@pytest.mark.parametrize(
    ("verb", "sets", "shards", "fault"),
    [
        ("prepare", (), None, "job.nodes: is 2, and `prepare` runs on one node.*--shards 2"),
        ("infer", (), None, "job.nodes: is 2, and `infer` runs on one node"),
        ("fuse", (), None, "job.nodes: is 2, and `fuse` runs on one node"),
        ("prepare", (), 3, "job.nodes: is 2, and prepare.shards 3"),
        ("train", ("job.nodes=0",), None, "job.nodes: is 0"),
        ("train", ("job.join_timeout=0s",), None, "job.join_timeout: is 0"),
        ("train", ("job.avoid_nodes=[A_b]",), None, "A_b"),
    ],
)
def test_what_cannot_run_on_several_nodes_is_a_conf_error(
    conf: Path, verb: str, sets: tuple[str, ...], shards: int | None, fault: str
) -> None:
    with pytest.raises(ConfError, match=fault):
        _plan(conf, verb, *sets, shards=shards)


def test_claims_of_one_node_are_warned_of(conf: Path) -> None:
    """Not those that also mount elsewhere, those nobody knows, or with one node."""
    job = _plan(conf).experiment.job
    known = [
        Volume(claim="v", phase="Bound", size="1Gi", access="ReadWriteOnce"),
        Volume(claim="d", phase="Bound", size="1Gi", access="RWX"),
    ]
    (warning,) = nodes.volume_warnings(job, known)
    assert '"v" is ReadWriteOnce: mounted by one node at a time' in warning
    assert nodes.volume_warnings(_plan(conf, "train", "job.nodes=1").experiment.job, known) == []
    assert nodes.volume_warnings(job, []) == []


def _failed(
    node: str, code: int | None = None, reason: str = "Error", phase: Phase = Phase.FAILED
) -> PodStatus:
    return PodStatus(name=f"p-{node}-{code}", phase=phase, node=node, exit_code=code, reason=reason)


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([_failed("a", 70), _failed("a", 139), _failed("b", 0, phase=Phase.SUCCEEDED)], {"a": 2}),
        ([_failed("a", 70), _failed("b", 70), _failed("a", 70)], {}),  # a bug: it fails everywhere
        # the run's own reasons
        ([_failed("a", 75), _failed("a", 75), _failed("a", 65), _failed("a", 76)], {}),
        ([_failed("a", 137, "OOMKilled"), _failed("a", 137, "OOMKilled")], {}),
        (
            [
                _failed("a", None, "PreemptionByScheduler"),
                _failed("a", 143, "EvictionByEvictionAPI"),
            ],
            {},
        ),
        (
            [_failed("a", None, "UnexpectedAdmissionError")] * 2
            + [_failed("b", 128, "StartError")],
            {"a": 2},
        ),
        (
            [
                _failed("a", None, "UnexpectedAdmissionError"),
                _failed("a", 70),
                _failed("b", 128),
                _failed("b", 128),
            ],
            {"a": 2, "b": 2},
        ),
        ([_failed("", 70), _failed("", 70)], {}),  # no node is known
        # no such module, no such command
        ([_failed("a", 1), _failed("a", 1), _failed("a", 127), _failed("a", 127)], {}),
        ([_failed("a", 70)], {}),  # once is not repeatedly
    ],
)
def test_nodes_that_failed_repeatedly(pods: list[PodStatus], expected: dict[str, int]) -> None:
    assert nodes.failed_repeatedly(pods) == expected


def test_gpus_of_this_machine_are_shared_out() -> None:
    """Two nodes never take one GPU; with fewer than nodes all use the CPU."""
    assert groups.shares(["0", "1", "2", "3", "4"], 2) == [["0", "1"], ["2", "3"]]
    assert groups.shares(["0"], 2) == [[], []]


# Node 1 fails until it has been tried once; all wait for each other as the trainer does, and end
# with 75 when one is lost.
_GROUP = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[2]); folder.mkdir(exist_ok=True)
index, meeting = os.environ["JOB_COMPLETION_INDEX"], os.environ["VIDJOBS_MEETING"]
tries = len(list(folder.glob(f"{index}-*")))
(folder / f"{index}-{tries}").touch()
print("node", index, "try", tries, meeting.split(":")[0], flush=True)
end = time.monotonic() + 10
while not all((folder / f"{other}-{tries}").exists() for other in "01"):
    assert time.monotonic() < end
    time.sleep(0.01)
sys.exit(75 if tries == 0 else 0)
"""


def _submit(world: Any, run: str, script: str, **spec: Any) -> RunRecord:
    group = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 4}
    record: RunRecord = world.submit(run, script, **group | spec)
    return record


def test_on_this_machine_nodes_run_at_once_meet_and_are_tried_again(world: Any) -> None:
    """Each has its index and the same address; the console is node 0's."""
    _submit(world, "a-train-aaaaaa", _GROUP)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.SUCCEEDED, status
    assert sorted(pod.name.split("-")[3] for pod in status.pods) == ["0", "0", "1", "1"]
    lines = sorted(line.text for line in world.log("a-train-aaaaaa", all_pods=True))
    assert lines == [
        f"node {index} try {number} 127.0.0.1" for index in (0, 1) for number in (0, 1)
    ]
    assert [line.text for line in world.log("a-train-aaaaaa", index=0)] == [
        "node 0 try 1 127.0.0.1"
    ]


def test_on_this_machine_a_node_that_fails_for_good_ends_the_others(world: Any) -> None:
    script = "import os, sys, time\nif os.environ['JOB_COMPLETION_INDEX'] == '1': sys.exit(65)\ntime.sleep(30)"
    _submit(world, "a-train-aaaaaa", script)
    status = world.wait("a-train-aaaaaa")
    assert status.phase is Phase.FAILED
    assert status.cause.startswith("node 1: exit code 65")


def _pod(
    index: int, *, ended: int | None = None, node: str = "n", reason: str = "Error"
) -> dict[str, Any]:
    """A pod of node `index`: ended with a code, running, or (without a node) pending."""
    state: dict[str, Any] = {"running": {}} if node else {"waiting": {}}
    if ended is not None:
        state = {"terminated": {"exitCode": ended, "startedAt": "x", "reason": reason}}
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    conditions = (
        []
        if node
        else [
            {
                "type": "PodScheduled",
                "status": "False",
                "message": "0/1 nodes are available: 1 Insufficient cpu.",
            }
        ]
    )
    phase = "Failed" if ended else "Running" if node else "Pending"
    return {
        "metadata": {"name": f"p-{index}", "uid": f"{index}-{ended}", "annotations": annotations},
        "spec": {"containers": [{"name": "trainer"}], "nodeName": node},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"name": "trainer", "state": state}],
        },
    }


def test_status_names_the_node_that_others_wait_for_and_the_one_that_ended_them() -> None:
    """Not the one that only followed with 75."""
    spec = {"completionMode": "Indexed", "completions": 2, "backoffLimit": 2}
    job: dict[str, Any] = {"metadata": {"name": "r"}, "spec": spec, "status": {}}
    status = run_status("r", Facts(job=job, pods=[_pod(0), _pod(1, node="")]))
    assert status.phase is Phase.PENDING
    assert status.cause.startswith(
        "1 of 2 nodes run, node 1: no node can take it: 0/1 nodes are available: 1 Insufficient cpu"
    )
    status = run_status("r", Facts(job=job, pods=[_pod(0), _pod(1)]))
    assert (status.phase, status.cause, status.indexes) == (Phase.RUNNING, "", {})
    ended = [_pod(0, ended=75), _pod(1, ended=137, reason="OOMKilled")]
    status = run_status("r", Facts(job=job, pods=[*ended, _pod(0)]))
    assert (status.phase, status.cause) == (
        Phase.RETRYING,
        "1 of 2 nodes run; the others are to be started again within minutes",
    )
    waits = run_status("r", Facts(job=job, pods=ended)).cause
    assert waits.startswith("2 pods have failed, and 2 may (out of memory"), (
        "one attempt, whose two pods both count"
    )
    assert waits.endswith("all nodes start again within minutes")
    job["status"] = {
        "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
    }
    status = run_status("r", Facts(job=job, pods=ended))
    assert (status.phase, status.cause.split(":")[0]) == (Phase.FAILED, "2 pods failed, the last")
    assert "out of memory" in status.cause
