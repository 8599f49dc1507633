"""`vidjobs shell` on this machine, the pod that it makes on a cluster, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import records
from launcher.backend_base import ShellOptions
from launcher.backends.kube.helper_pod import like, manifest
from launcher.backends.kube.shells import one_node, require_allowed, shell_spec
from launcher.commands import shell
from launcher.errors import ClusterError, ConfError, UserError
from launcher.profiles import load

TEMPLATE = {
    "spec": {
        "containers": [
            {
                "name": "trainer",
                "image": "registry.example/v:1",
                "resources": {"limits": {"cpu": "8", "nvidia.com/a40": "4"}},
                "volumeMounts": [
                    {"name": "pvc-runs", "mountPath": "/runs"},
                    {"name": "stage-0", "mountPath": "/data"},
                ],
            }
        ],
        "initContainers": [
            {"name": "stage", "volumeMounts": [{"name": "pvc-data", "mountPath": "/mnt/source"}]}
        ],
        "volumes": [
            {"name": "pvc-runs", "persistentVolumeClaim": {"claimName": "runs"}},
            {"name": "pvc-data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "stage-0", "emptyDir": {}},
        ],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "gpu", "operator": "In", "values": ["A", "B"]}
                            ]
                        }
                    ]
                }
            }
        },
    }
}


def pod(wanted: ShellOptions) -> Any:
    base = like(TEMPLATE, claim="runs", mount="/runs", read_only=False, node="n1")
    return manifest(shell_spec(base, TEMPLATE, wanted, "nvidia.com/gpu"), name="x", namespace="y")


def test_the_pod_has_the_runs_volumes_a_deadline_and_no_gpu() -> None:
    spec = pod(ShellOptions(seconds=600))["spec"]
    assert spec["activeDeadlineSeconds"] == 600
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"] == {
        "cpu": "1",
        "memory": "4Gi",
        "ephemeral-storage": "2Gi",
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/runs", "/mnt/source"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]] == [
        "runs",
        "data",
    ]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}


def test_gpus_are_of_the_runs_type() -> None:
    spec = pod(ShellOptions(gpus=2))["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/a40"] == "2"
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [{"key": "gpu", "operator": "In", "values": ["A", "B"]}]


def test_the_sites_rules_hold_for_it_too() -> None:
    require_allowed(pod(ShellOptions(gpus=2)), load("nautilus"))
    with pytest.raises(ConfError):
        require_allowed(pod(ShellOptions(gpus=4)), load("nautilus"))


def test_claims_on_two_nodes_cannot_be_mounted_together() -> None:
    assert one_node({"a": "n", "b": "", "c": "n"}) == "n"
    with pytest.raises(ClusterError, match="a on n, b on m"):
        one_node({"a": "n", "b": "m"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "7h"},
        {"time": "soon"},
        {"time": "0"},
        {"gpus": 3},
        {"cpu": "17"},
        {"memory": "33Gi"},
    ],
)
def test_more_than_a_pod_to_look_around_in_may_have_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} is"):
        shell.run("x", **wrong)


def test_a_command_runs_in_the_runs_folder_with_its_variables(
    world: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its exit code is ours."""
    record = world.record("a-train-aaaaaa")
    records.save(record)
    with pytest.raises(UserError, match="does not exist"):
        shell.run("a-train", command="true")
    world.folder(record.run).mkdir(parents=True)
    assert shell.run("a-train", command="pwd; echo oops >&2; exit 7") == 7
    told = capfd.readouterr()
    assert told.out.strip() == str(world.folder(record.run))
    assert "oops" in told.err

    assert shell.run(None, claim="runs", command="ls", cluster="local") == 0
    assert capfd.readouterr().out.split() == [record.run]
    with pytest.raises(UserError):
        shell.run("a-train", claim="runs")
