"""Cluster profiles: where they are found, and how a GPU type is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import ConfError, UserError
from launcher.profiles import available, choose, config_dir, load


def test_the_shipped_profiles_load() -> None:
    """Each by its name."""
    assert {"generic", "kube-one", "local", "nautilus"} <= set(available())
    assert [load(name).backend for name in ("generic", "kube-one", "local", "nautilus")] == [
        "kube",
        "kube",
        "local",
        "kube",
    ]


@pytest.mark.parametrize(
    ("name", "resource", "label"),
    [
        ("A100", "nvidia.com/a100", ("", "")),
        ("a40", "nvidia.com/a40", ("", "")),
        ("NVIDIA-A40", "nvidia.com/a40", ("", "")),
        (
            "NVIDIA-GeForce-GTX-1080-Ti",
            "nvidia.com/gpu",
            ("nvidia.com/gpu.product", "NVIDIA-GeForce-GTX-1080-Ti"),
        ),
        (
            "nvidia-geforce-gtx-1080-ti",
            "nvidia.com/gpu",
            ("nvidia.com/gpu.product", "NVIDIA-GeForce-GTX-1080-Ti"),
        ),
        (
            "NVIDIA-Something-New",
            "nvidia.com/gpu",
            ("nvidia.com/gpu.product", "NVIDIA-Something-New"),
        ),
    ],
)
def test_gpu_types_of_nautilus(name: str, resource: str, label: tuple[str, str]) -> None:
    """Some have a resource of their own, the rest a label; names that are new go to the label."""
    kind = load("nautilus").gpu(name)
    assert kind is not None
    assert (kind.resource, (kind.label_key, kind.label_value)) == (resource, label)


def test_a_profile_here_hides_the_user_s_and_the_user_s_hides_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """./conf/clusters, then the config folder, then the shipped ones."""
    monkeypatch.chdir(tmp_path)
    theirs, here = config_dir() / "clusters", tmp_path / "conf" / "clusters"
    for folder, namespace in ((theirs, "theirs"), (here, "here")):
        folder.mkdir(parents=True)
        (folder / "nautilus.yaml").write_text(f"namespace: {namespace}\n")
        assert load("nautilus").namespace == namespace
    assert load("generic").namespace == ""


def test_defaults_of_a_profile_become_a_layer_of_the_conf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes, tolerations and what `job:` says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "clusters").mkdir(parents=True)
    text = "tolerations: [{key: a, operator: Exists}]\nvolumes: [{claim: v, mount: /runs, as: runs}]\njob: {image: lab/image:1}\n"
    (tmp_path / "conf" / "clusters" / "lab.yaml").write_text(text)
    assert load("lab").conf_layer() == {
        "job": {
            "image": "lab/image:1",
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "volumes": [{"claim": "v", "mount": "/runs", "as": "runs"}],
        }
    }


def test_a_wrong_profile_names_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a conf does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "clusters").mkdir(parents=True)
    (tmp_path / "conf" / "clusters" / "lab.yaml").write_text("backend: kube\nnamspace: x\n")
    with pytest.raises(
        ConfError,
        match=r'conf/clusters/lab\.yaml:2: namspace: unknown key \(did you mean "namespace"\?\)',
    ):
        load("lab")


@pytest.mark.parametrize("name", ["nautlus", "../../etc/passwd", "", "a/b"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    """A name is never a path."""
    with pytest.raises(UserError, match="no cluster profile") as caught:
        load(name)
    assert "nautilus" in caught.value.hint


def test_the_choice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--cluster, VIDJOBS_CLUSTER, the user's config, and at last this machine, which it says."""
    assert choose().name == "local"
    assert "no cluster is configured" in capsys.readouterr().err
    config_dir().mkdir(parents=True)
    (config_dir() / "config.yaml").write_text("cluster: generic\n")
    assert choose().name == "generic"
    monkeypatch.setenv("VIDJOBS_CLUSTER", "kube-one")
    assert choose().name == "kube-one"
    assert choose("nautilus").name == "nautilus"
    assert capsys.readouterr().err == ""


def test_an_unknown_key_of_the_config_is_refused() -> None:
    """Not passed over, which would mean this machine."""
    config_dir().mkdir(parents=True)
    (config_dir() / "config.yaml").write_text("clustr: generic\n")
    with pytest.raises(
        ConfError, match=r'config\.yaml:1: clustr: unknown key \(did you mean "cluster"\?\)'
    ):
        choose()


def test_a_machine_of_ones_own_has_no_site_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "clusters").mkdir(parents=True)
    for text, rules in (
        ("backend: local", ""),
        ("{backend: local, rules: generic}", "generic"),
        ("backend: kube", "generic"),
    ):
        (tmp_path / "conf" / "clusters" / "mine.yaml").write_text(text)
        assert load("mine").rules == rules


def test_a_copy_for_another_namespace() -> None:
    """What records need: the cluster of the day."""
    there = load("nautilus").at(context="c", namespace="n")
    assert (there.context, there.namespace, there.rules) == ("c", "n", "nrp")
