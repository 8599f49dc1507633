"""Submitting, stopping, going on and deleting on a real cluster: all or nothing, and never twice."""

from __future__ import annotations

import dataclasses
import time

import pytest
from conftest import Lab, mounted
from researcher import get, kubectl

from launcher.backend_base import Phase
from launcher.errors import AdmissionError, ClusterError
from launcher.spec import CodePin

pytestmark = pytest.mark.cluster


def names(kube: Lab, kind: str) -> list[str]:
    return [
        thing["metadata"]["name"] for thing in get(kind, f"--namespace={kube.namespace}")["items"]
    ]


def test_a_server_dry_run_makes_nothing_and_keeps_the_whole_message(kube: Lab) -> None:
    """An unknown field, a wrong value: the server's own sentence."""
    kube.backend.submit([kube.job("true")], dry_run=True)
    unknown, wrong = kube.job("true"), kube.job("true")
    unknown["spec"]["backofLimit"] = 3
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(
        AdmissionError, match=r'strict decoding error: unknown field "spec.backofLimit"'
    ):
        kube.backend.submit([unknown], dry_run=True)
    with pytest.raises(AdmissionError, match=r"spec.template.spec.restartPolicy: Required value"):
        kube.backend.submit([wrong])
    assert names(kube, "jobs") == []


def test_objects_beside_the_job_belong_to_it_and_go_with_it(kube: Lab) -> None:
    """Created first, owned afterwards; removed again when the Job is refused."""
    job = kube.job("true")
    beside = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{job['metadata']['name']}-diff"},
        "data": {"a": "b"},
    }
    refused = kube.job("true")
    refused["spec"]["template"]["spec"]["containers"][0]["image"] = ""
    with pytest.raises(AdmissionError):
        kube.backend.submit([beside, refused])
    assert beside["metadata"]["name"] not in names(kube, "configmaps")

    kube.backend.submit([beside, job])
    (owner,) = get("configmap", beside["metadata"]["name"], f"--namespace={kube.namespace}")[
        "metadata"
    ]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Job", job["metadata"]["name"])
    record = kube.record(job)
    kube.backend.delete(record)
    until = time.monotonic() + 30
    while beside["metadata"]["name"] in names(kube, "configmaps"):
        assert time.monotonic() < until
        time.sleep(0.5)
    kube.wait(record, lambda status: status.phase is Phase.GONE)


def test_a_name_is_never_taken_twice(kube: Lab) -> None:
    """The second submit of one name is refused, and the first goes on untouched."""
    job = kube.job("sleep 30")
    kube.backend.submit([job])
    with pytest.raises(ClusterError, match="already exists") as refusal:
        kube.backend.submit([job])
    assert refusal.value.status == 409
    kube.wait(kube.record(job), lambda status: status.phase is Phase.RUNNING)
    kube.backend.delete(kube.record(job))


def test_cancel_lets_the_trainer_finish_and_resume_goes_on(kube: Lab) -> None:
    """SIGTERM reaches the trainer; the Job stays, and a new pod starts on resume."""
    record = kube.submit("trap 'echo saved; exit 75' TERM; echo started; sleep 60 & wait")
    kube.wait(record, lambda status: status.phase is Phase.RUNNING)
    time.sleep(1)
    follow = kube.backend.logs(record, follow=True)
    assert next(follow).text == "started"
    kube.backend.cancel(record)
    assert next(follow).text == "saved"
    assert {line.kind for line in follow} <= {"gap"}  # suspending takes the pod away with its log
    status = kube.wait(record, lambda status: status.phase is Phase.CANCELLED and not status.pods)
    assert f"vidjobs resume {record.run}" in status.fix

    kube.backend.resume(record)
    kube.wait(record, lambda status: status.phase is Phase.RUNNING)
    kube.backend.delete(record)
    kube.wait(record, lambda status: status.phase is Phase.GONE)
    with pytest.raises(ClusterError, match="no longer in the cluster"):
        kube.backend.resume(record)


def test_an_ended_run_can_be_neither_cancelled_nor_resumed(kube: Lab) -> None:
    """Said in words, with what to do instead."""
    record = kube.submit("true")
    kube.wait(record, lambda status: status.phase is Phase.SUCCEEDED)
    for change in (kube.backend.cancel, kube.backend.resume):
        with pytest.raises(ClusterError, match="has succeeded already"):
            change(record)
    assert record.run in [status.run for status in kube.backend.list_runs()]


def test_a_run_that_has_failed_goes_on_in_its_folder(kube: Lab) -> None:
    """A failed Job cannot be started again: the same one takes its place, with what it owns; what was written is there."""
    job = kube.job(
        'test -e /runs/half && echo "goes on" && exit 0; touch /runs/half; exit 70',
        **mounted("again"),
    )
    kube.claim("again")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": job["metadata"]["name"]}}
    service["spec"] = {"clusterIP": "None", "selector": {"a": "b"}}
    kube.backend.submit([service, job])
    record = dataclasses.replace(kube.record(job, "again"), manifests=[service, job])
    status = kube.wait(record, lambda status: status.phase is Phase.FAILED)
    assert f"vidjobs resume {record.run}" in status.fix
    kube.backend.resume(record)
    assert len(kube.wait(record, lambda status: status.phase is Phase.SUCCEEDED).pods) == 1
    owner = kube.backend.client.get("Service", record.run)["metadata"]["ownerReferences"][0]
    assert owner["uid"] == kube.backend.client.get("Job", record.run)["metadata"]["uid"]
    kube.backend.delete(record)


def test_where_things_lie_in_the_pod(kube: Lab) -> None:
    """The paths that plan.py writes into the conf and the manifest."""
    assert kube.backend.claim_path("runs", "/runs") == "/runs"
    assert kube.backend.conf_dir("r") == "/vidjobs/conf"
    assert kube.backend.code_dir("r", CodePin(kind="repo")) == "/vidjobs/workspace/code"
    assert kube.backend.code_dir("r", CodePin(kind="image")) == ""


def test_a_volume_is_made_once_and_listed(kube: Lab) -> None:
    """Size, access and class as asked; the same name again is refused."""
    made = kube.backend.create_volume("data", size="64Mi", access="ReadWriteMany")
    assert (made.claim, made.size, made.access) == ("data", "64Mi", "ReadWriteMany")
    assert "data" in [volume.claim for volume in kube.backend.volumes()]
    with pytest.raises(ClusterError, match="already exists"):
        kube.backend.create_volume("data", size="1Gi", access="ReadWriteOnce")
    with pytest.raises(AdmissionError, match="quantities must match"):
        kube.backend.create_volume("other", size="lots", access="ReadWriteOnce")


def test_doctor_sees_the_whole_cluster_as_its_owner(kube: Lab) -> None:
    """Rights, quota, claims and free GPUs by type."""
    kubectl(
        "create", "quota", "few", "--hard=count/jobs.batch=1000", f"--namespace={kube.namespace}"
    )
    findings = {finding.what: finding for finding in kube.backend.doctor()}
    assert all(
        findings[what].ok
        for what in (
            "packages",
            "clients",
            "server",
            "clock",
            "rights: base",
            "rights: fetch",
            "rights: volume",
        )
    )
    assert "count/jobs.batch" in findings["quota few"].detail
    assert any(what.startswith("gpus") for what in findings)
