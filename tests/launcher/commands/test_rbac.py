"""`vidjobs rbac` prints applicable YAML, offline, and only what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.backends.kube.rbac import FEATURES
from launcher.commands import rbac
from launcher.errors import UserError


def test_all_blocks_are_roles_without_wildcards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs no kubeconfig: who has no rights yet prints it."""
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert rbac.run(cluster="generic") == 0
    roles = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [role["metadata"]["name"] for role in roles] == [
        "vidjobs",
        "vidjobs-fetch",
        "vidjobs-volume",
    ]
    for role in roles:
        assert role["kind"] == "Role"
        for rule in role["rules"]:
            assert "*" not in [*rule["resources"], *rule["verbs"], *rule["apiGroups"]]
            assert "secrets" not in rule["resources"]


def test_one_feature_alone_in_the_profiles_namespace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the command that gives it to a person."""
    (tmp_path / "conf/clusters").mkdir(parents=True)
    (tmp_path / "conf/clusters/ours.yaml").write_text("backend: kube\nnamespace: lab\n")
    monkeypatch.chdir(tmp_path)
    rbac.run(cluster="ours", features=["fetch"])
    out = capsys.readouterr().out
    (role,) = yaml.safe_load_all(out)
    assert role["metadata"] == {"name": "vidjobs-fetch", "namespace": "lab"}
    assert (
        "kubectl create rolebinding vidjobs-fetch --role=vidjobs-fetch --user=NAME --namespace=lab"
        in out
    )
    assert len(role["rules"]) == len(FEATURES["fetch"])


def test_it_prints_without_a_cluster_and_a_typo_is_helped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever has no cluster yet asks an administrator with it."""
    assert rbac.run(cluster="local") == 0
    told = capsys.readouterr()
    assert "kind: Role" in told.out
    assert "this machine needs no rights" in told.err
    with pytest.raises(UserError) as typo:
        rbac.run(cluster="generic", features=["fech"])
    assert 'did you mean "fetch"?' in typo.value.hint
