"""A run's files: through its running pod, or a helper pod when it has ended; whole, verified, and nothing else."""

from __future__ import annotations

import hashlib
import resource
import time

import pytest
from conftest import Lab, mounted
from researcher import get, kubectl

from launcher.errors import ClusterError, UserError
from launcher.records import RunRecord

pytestmark = pytest.mark.cluster

WRITE = """
cd /runs && mkdir -p {run}/checkpoints && cd {run}
printf 'abcdefghij' > checkpoints/epoch-000001.pt
: > empty; printf x > 'a name; $(id) "quoted"'
ln -s /etc/passwd link; ln -s checkpoints linked; mkfifo pipe
{then}
"""


def helpers(kube: Lab) -> list[str]:
    pods = get("pods", f"--namespace={kube.namespace}", "--selector=vidjobs/helper")["items"]
    return [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def write(kube: Lab, claim: str, then: str, **options: object) -> RunRecord:
    """A run that writes a few files into its folder."""
    job = kube.job("", **options, **mounted(claim))  # type: ignore[arg-type]
    run = job["metadata"]["name"]
    job["spec"]["template"]["spec"]["containers"][0]["command"] = [
        "sh",
        "-c",
        WRITE.format(run=run, then=then),
    ]
    kube.backend.submit([job])
    return kube.record(job, claim)


@pytest.fixture(scope="module")
def runs(kube: Lab) -> str:
    kube.claim("runs")
    return "runs"


@pytest.fixture(scope="module")
def ended(kube: Lab, runs: str) -> RunRecord:
    record = write(
        kube, runs, "head -c 30000000 /dev/urandom > big; sha256sum < big | cut -c1-64 > big.sha256"
    )
    kube.wait(record, lambda status: status.phase == "succeeded")
    return record


def test_a_running_run_is_read_in_its_own_pod(kube: Lab, runs: str) -> None:
    """No helper pod is made; only regular files are listed, by paths below the run's folder."""
    record = write(kube, runs, "sleep 60")
    kube.wait(record, lambda status: status.phase == "running")
    time.sleep(1)
    with kube.backend.files(record) as files:
        assert helpers(kube) == []
        found = {file.path: file.size for file in files.list()}
        assert found == {"checkpoints/epoch-000001.pt": 10, "empty": 0, 'a name; $(id) "quoted"': 1}
        assert b"".join(files.read("checkpoints/epoch-000001.pt", 3, 4)) == b"defg"
        assert b"".join(files.read('a name; $(id) "quoted"', 0, 9)) == b"x"
    kube.backend.delete(record)


def test_an_ended_run_is_read_through_a_helper_that_goes_away(kube: Lab, ended: RunRecord) -> None:
    """Whole files, ranges beyond the end, digests computed where the file lies, in constant memory."""
    with kube.backend.files(ended) as files:
        (helper,) = helpers(kube)
        pod = get("pod", helper, f"--namespace={kube.namespace}")["spec"]
        assert pod["activeDeadlineSeconds"] == 3600
        assert pod["containers"][0]["volumeMounts"][0]["readOnly"]

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        digest, size = hashlib.sha256(), 0
        for block in files.read("big", 0, 30_000_000):
            digest.update(block)
            size += len(block)
        assert size == 30_000_000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000, (
            "KiB: blocks are handed on, not gathered"
        )

        assert (
            digest.hexdigest()
            == files.sha256("big")
            == b"".join(files.read("big.sha256", 0, 64)).decode()
        )
        assert b"".join(files.read("checkpoints/epoch-000001.pt", 8, 100)) == b"ij"
        assert b"".join(files.read("empty", 0, 100)) == b""
    assert helpers(kube) == []


def test_a_run_that_ends_in_the_middle_of_a_fetch_is_read_on_elsewhere(
    kube: Lab, runs: str
) -> None:
    """Begun in the running pod, ended through a helper, then through another helper when somebody deletes the first."""
    record = write(kube, runs, "while [ ! -e /runs/go ]; do sleep 0.2; done; rm /runs/go")
    kube.wait(record, lambda status: status.phase == "running")
    time.sleep(1)
    with kube.backend.files(record) as files:
        assert b"".join(files.read("checkpoints/epoch-000001.pt", 0, 5)) == b"abcde"
        pod = kube.backend.status(record).pods[0].name
        kubectl("exec", pod, f"--namespace={kube.namespace}", "--", "touch", "/runs/go")
        kube.wait(record, lambda status: status.phase == "succeeded")
        with pytest.raises(ClusterError):
            list(files.read("checkpoints/epoch-000001.pt", 5, 5))
        assert len(files.list()) > 1  # finds the next pod
        assert b"".join(files.read("checkpoints/epoch-000001.pt", 5, 5)) == b"fghij"
        (helper,) = helpers(kube)
        kubectl("delete", "pod", helper, f"--namespace={kube.namespace}")
        assert len(files.sha256("empty")) == 64
    assert helpers(kube) == []


@pytest.mark.parametrize(
    "path", ["../other/secret", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\0b"]
)
def test_a_path_outside_the_folder_is_refused_before_anything_is_asked(
    kube: Lab, ended: RunRecord, path: str
) -> None:
    """Not even a pod is needed to say no."""
    from launcher.backends.kube.files import PodFiles

    files = PodFiles(client=kube.backend.client, pod="none", container="none", root="/runs")
    with pytest.raises(UserError):
        files.sha256(path)


def test_links_and_files_that_are_not_there_are_errors(kube: Lab, ended: RunRecord) -> None:
    """The pod's own sentence comes back."""
    with kube.backend.files(ended) as files:
        reasons = {
            "link": "symbolic link",
            "linked/epoch-000001.pt": "Not a directory",
            "pipe": "not a regular file",
            "no": "No such file",
        }
        for path, reason in reasons.items():
            with pytest.raises(ClusterError, match=reason):
                files.sha256(path)


def test_a_waiting_run_is_refused_with_the_reason(kube: Lab, runs: str) -> None:
    """Its pod may start at any moment and write."""
    record = write(kube, runs, "true", nodeSelector={"no": "node"})
    kube.wait(record, lambda status: bool(status.pods))
    with pytest.raises(ClusterError, match="is not running yet"), kube.backend.files(record):
        pass
    kube.backend.delete(record)


def test_a_claim_is_listed_by_folder(kube: Lab, ended: RunRecord) -> None:
    """`volume ls CLAIM PATH`, with the image of the newest run."""
    with kube.backend.volume_files("runs", f"{ended.run}/checkpoints") as files:
        assert [file.path for file in files.list()] == ["epoch-000001.pt"]
    with kube.backend.volume_files("runs", "/nowhere") as files:
        assert files.list() == []
    with (
        pytest.raises(ClusterError, match='"absent" does not exist'),
        kube.backend.volume_files("absent", ""),
    ):
        pass
    with pytest.raises(UserError), kube.backend.volume_files("runs", "../x"):
        pass


def test_deleting_a_run_with_its_files_leaves_the_others(
    kube: Lab, ended: RunRecord, runs: str
) -> None:
    """The folder and the Job are gone; a run that has not ended keeps its folder."""
    record = write(kube, runs, "true")
    with pytest.raises(ClusterError, match="not ended"):
        kube.backend.delete(record, files=True)
    kube.wait(record, lambda status: status.phase == "succeeded")
    kube.backend.delete(record, files=True)
    kube.wait(record, lambda status: status.phase == "gone")
    with kube.backend.volume_files("runs", "") as files:
        folders = {file.path.split("/")[0] for file in files.list()}
    assert record.run not in folders
    assert ended.run in folders


def test_a_run_whose_job_is_gone_is_still_read(kube: Lab, runs: str) -> None:
    """Past its ttl: the record of the run knows image, ids and claim."""
    record = write(kube, runs, "true")
    kube.wait(record, lambda status: status.phase == "succeeded")
    kube.backend.delete(record)
    kube.wait(record, lambda status: status.phase == "gone")
    with kube.backend.files(record) as files:
        assert "empty" in [file.path for file in files.list()]
