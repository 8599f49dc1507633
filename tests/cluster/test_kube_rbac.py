"""Everything works under exactly the Role that `vidjobs rbac` prints, and what a right is missing for is said."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path

import pytest
from conftest import Lab, mounted
from researcher import kubectl

from launcher.backend_base import Phase
from launcher.backends.kube import rbac
from launcher.backends.kube.backend import KubeBackend
from launcher.errors import ClusterError
from launcher.profiles import ClusterProfile
from launcher.render import to_yaml

pytestmark = pytest.mark.cluster


def account(kube: Lab, folder: Path, features: list[str]) -> Path:
    """A ServiceAccount with the Roles of these features and nothing else: its kubeconfig."""
    name, here = f"sa-{secrets.token_hex(3)}", f"--namespace={kube.namespace}"
    kubectl("create", "serviceaccount", name, here)
    for feature in features:
        kubectl("apply", here, "--filename=-", text=to_yaml([rbac.role(feature)]))
        role = rbac.role_name(feature)
        kubectl(
            "create",
            "rolebinding",
            f"{name}-{feature}",
            f"--role={role}",
            f"--serviceaccount={kube.namespace}:{name}",
            here,
        )
    config = json.loads(
        kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    )
    config["users"] = [
        {"name": name, "user": {"token": kubectl("create", "token", name, here).strip()}}
    ]
    config["contexts"][0]["context"] |= {"user": name, "namespace": kube.namespace}
    path = folder / f"{name}.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def limited(kube: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab, Pod Security `restricted` enforced, for somebody with all of the printed rights; the namespace is the kubeconfig's."""
    kubectl("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    monkeypatch.setenv("KUBECONFIG", str(account(kube, tmp_path, list(rbac.FEATURES))))
    return dataclasses.replace(kube, backend=KubeBackend(ClusterProfile(name="test")))


def test_the_whole_path_with_the_printed_role(limited: Lab) -> None:
    """volume create, submit, status, logs, fetch while running and after, cancel, resume, list, delete with files, doctor."""
    backend = limited.backend
    backend.create_volume("runs", size="64Mi", access="ReadWriteOnce")
    job = limited.job("", **mounted("runs"))
    run = job["metadata"]["name"]
    script = f"mkdir -p /runs/{run}; echo hello > /runs/{run}/train.log; echo hello; while [ ! -e /runs/{run}/go ]; do sleep 0.2; done"
    job["spec"]["template"]["spec"]["containers"][0]["command"] = [
        "sh",
        "-c",
        f"trap 'touch /runs/{run}/go' TERM; {script}",
    ]
    backend.submit([job], dry_run=True)
    backend.submit([job])
    record = limited.record(job)
    limited.wait(record, lambda status: status.phase is Phase.RUNNING)
    assert next(backend.logs(record, follow=True)).text == "hello"
    with backend.files(record) as files:
        assert b"".join(files.read("train.log", 0, 10)) == b"hello\n"
    backend.cancel(record)
    limited.wait(record, lambda status: status.phase is Phase.CANCELLED and not status.pods)
    backend.resume(record)
    limited.wait(record, lambda status: status.phase is Phase.SUCCEEDED)
    assert [line.text for line in backend.logs(record)] == ["hello"]
    # also of the pod that cancel took away
    assert [line.text for line in backend.logs(record, all_pods=True)] == ["hello", "hello"]
    with backend.files(record) as files:
        assert (
            files.sha256("train.log")
            == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        )
    assert [status.run for status in backend.list_runs()] == [run]
    assert [volume.claim for volume in backend.volumes()] == ["runs"]
    backend.delete(record, files=True)
    limited.wait(record, lambda status: status.phase is Phase.GONE)

    findings = {finding.what: finding for finding in backend.doctor()}
    assert not [what for what, finding in findings.items() if finding.ok is False]
    assert findings["gpus"].detail == "not allowed to see"


def test_without_the_fetch_block_the_error_names_the_right(
    kube: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base alone submits and follows; fetch says what is missing and who can give it."""
    monkeypatch.setenv("KUBECONFIG", str(account(kube, tmp_path, ["base"])))
    limited = dataclasses.replace(kube, backend=KubeBackend(ClusterProfile(name="test")))
    record = limited.submit("echo hello; sleep 30")
    assert next(limited.backend.logs(record, follow=True)).text == "hello"
    with (
        pytest.raises(ClusterError, match=r"not allowed: pods .* is forbidden") as refusal,
        limited.backend.files(record) as files,
    ):
        files.list()
    assert "vidjobs rbac" in refusal.value.hint
    findings = {finding.what: finding for finding in limited.backend.doctor()}
    assert findings["rights: fetch"].ok is False
    assert "create pods/exec" in findings["rights: fetch"].detail
    limited.backend.delete(record)


def test_a_login_that_has_expired_is_told_from_a_server_that_is_away(
    kube: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ways not to get in, three next steps."""
    path = account(kube, tmp_path, [])
    config = json.loads(path.read_text())

    def error(**change: object) -> ClusterError:
        path.write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        with pytest.raises(ClusterError) as caught:
            KubeBackend(ClusterProfile(name="test")).list_runs()
        return caught.value

    config["users"][0]["user"] = {"token": "expired"}
    expired = error()
    assert expired.status == 401
    assert "log in again" in expired.hint

    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo the login page is down >&2; exit 1"],
    }
    config["users"][0]["user"] = {"exec": command | {"interactiveMode": "Never"}}
    failed = error()
    assert "the login page is down" in failed.message

    config["users"][0]["user"] = {"token": "any"}
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    away = error()
    assert away.transient
    assert "cannot connect" in away.message
    assert "the login was not the problem" in away.hint
