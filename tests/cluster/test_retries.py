"""Retries by cause on a real Kubernetes: the rendered Job's policy against every exit code of the trainer, and against an eviction."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from conftest import Lab
from researcher import evict, get

from launcher.backend_base import Manifest, Phase, RunStatus
from launcher.records import RunRecord
from launcher.render import render
from launcher.spec import CodePin, JobSpec, Mount, Resources

pytestmark = pytest.mark.cluster

# exit codes that fail the Job at once, and those that are tried again and counted
_FINAL, _AGAIN = (64, 65, 73, 76), (70, 75, 137)


def _manifest(kube: Lab, script: str, **changes: Any) -> Manifest:
    """A Job as submit renders it, with a shell script in the trainer's place."""
    run = f"t-{secrets.token_hex(3)}"
    spec = JobSpec(
        run=run, verb="train", name="t", namespace=kube.namespace, image=kube.image, argv=("sh", "-c", script), conf_text="{}\n",
        conf_dir="/vidjobs/conf", code=CodePin(kind="image"), code_dir="", mounts=changes.pop("mounts", ()), runs_mount="/runs",
        resources=Resources(cpu="50m", memory="64Mi", shm="8Mi", scratch="64Mi"), grace_s=20, **changes,
    )  # fmt: skip
    return render(spec)[-1]


def _submit(kube: Lab, script: str, **changes: Any) -> RunRecord:
    manifest = _manifest(kube, script, **changes)
    kube.backend.submit([manifest])
    return kube.record(manifest)


def test_each_exit_code_is_final_or_tried_again_as_the_trainer_means_it(kube: Lab) -> None:
    """64, 65, 73 and 76 have one pod; 70, 75 and a kill have one more for each retry. `status` tells what the trainer said."""
    script = """echo '{"cause": "word", "message": "said with %d", "step": 7}' > /dev/termination-log; exit %d"""
    runs = {code: _submit(kube, script % (code, code), retries=1) for code in (*_FINAL, *_AGAIN)}
    ended = {
        code: kube.wait(record, lambda status: status.phase is Phase.FAILED, 90)
        for code, record in runs.items()
    }
    assert {code: [pod.exit_code for pod in status.pods] for code, status in ended.items()} == {
        **{code: [code] for code in _FINAL},
        **{code: [code, code] for code in _AGAIN},
    }
    for code, status in ended.items():
        assert status.termination == {"cause": "word", "message": f"said with {code}", "step": 7}
        assert f"exit code {code}: " in status.cause
        assert f"said with {code}" in status.cause
        assert ("2 attempts failed" in status.cause) is (code in _AGAIN)
    reasons = {code: _failed_for(kube, record) for code, record in runs.items()}
    assert reasons == {
        **dict.fromkeys(_FINAL, "PodFailurePolicy"),
        **dict.fromkeys(_AGAIN, "BackoffLimitExceeded"),
    }


def test_an_eviction_is_not_counted(kube: Lab) -> None:
    """With no retry allowed: the evicted pod gets its grace and saves, the next goes on, and the Job succeeds."""
    kube.claim("kept")
    script = "[ ! -e /runs/saved ] || exit 0; trap 'touch /runs/saved; exit 75' TERM; echo started; sleep 60 & wait"
    record = _submit(kube, script, retries=0, mounts=(Mount(claim="kept", mount="/runs"),))
    first = kube.wait(record, _started).pods[0].name
    assert next(kube.backend.logs(record, follow=True)).text == "started"
    evict(kube.namespace, first)
    status = kube.wait(record, lambda status: status.phase.ended, 90)
    assert status.phase is Phase.SUCCEEDED, status
    job = get("job", record.run, f"--namespace={kube.namespace}")
    assert job["status"]["succeeded"] == 1
    assert first not in [pod.name for pod in status.pods if pod.phase is Phase.SUCCEEDED]


def test_a_pod_that_ran_out_of_memory_is_tried_again(kube: Lab) -> None:
    """The kernel ends the trainer at its limit; the next attempt goes on with what the first one left, and one retry is spent."""
    kube.claim("eaten")
    eat = "import pathlib; pathlib.Path('/runs/began').touch(); x = bytearray(200 << 20)"
    record = _submit(
        kube,
        f'[ ! -e /runs/began ] || exit 0; exec python -c "{eat}"',
        retries=1,
        mounts=(Mount(claim="eaten", mount="/runs"),),
    )
    status = kube.wait(record, lambda status: status.phase.ended, 90)
    assert status.phase is Phase.SUCCEEDED, status
    assert [(pod.exit_code, pod.reason) for pod in status.pods] == [
        (137, "OOMKilled"),
        (0, "Completed"),
    ]
    assert get("job", record.run, f"--namespace={kube.namespace}")["status"]["failed"] == 1


def test_the_group_of_a_lost_node_comes_back_together_and_its_retries_are_counted_together(
    kube: Lab,
) -> None:
    """Two nodes, one retry each: both end with 75 three times, which is one more than the Job has."""
    record = _submit(kube, "sleep 1; exit 75", retries=1, nodes=2)
    status = kube.wait(record, lambda status: status.phase is Phase.FAILED, 120)
    assert len([pod for pod in status.pods if pod.exit_code == 75]) in (3, 4)
    assert "pods failed, the last: exit code 75" in status.cause


def _started(status: RunStatus) -> bool:
    return status.phase is Phase.RUNNING


def _failed_for(kube: Lab, record: RunRecord) -> str:
    """The reason of the Job's condition Failed (or FailureTarget, which comes first)."""
    conditions = get("job", record.run, f"--namespace={kube.namespace}")["status"]["conditions"]
    return str(
        next(each["reason"] for each in conditions if each["type"] in ("Failed", "FailureTarget"))
    )
