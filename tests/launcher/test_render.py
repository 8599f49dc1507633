"""The manifest: its exact bytes, and that no value of a user's can change its structure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.errors import ConfError
from launcher.render import TEMPLATES, quoted, render, to_yaml
from launcher.spec import CodePin, JobSpec, Mount, Resources, SecretKey

GOLDEN = Path(__file__).parent / "golden"
_PLAIN = JobSpec(
    run="quick-train-abcdef",
    verb="train",
    name="quick",
    namespace="",
    image="registry.example/v:1",
    argv=(
        "python",
        "-m",
        "trainer",
        "train",
        "--conf",
        "/vidjobs/conf/conf.yaml",
        "--run",
        "/runs/quick-train-abcdef",
    ),
    conf_text="train:\n  lr: 0.001\n",
    conf_dir="/vidjobs/conf",
    code=CodePin(kind="image"),
    code_dir="",
    mounts=(Mount(claim="v", mount="/runs"),),
    runs_mount="/runs",
    resources=Resources(),
)
_FULL = dataclasses.replace(
    _PLAIN,
    namespace="lab",
    code=CodePin(
        kind="repo",
        repo="https://git.example/lab/v",
        ref="main",
        commit="a" * 40,
        diff="diff --git a/x b/x\n+$HOME é\n",
        token=SecretKey(secret="git", key="token"),
    ),
    code_dir="/vidjobs/workspace/code",
    mounts=(
        Mount(claim="v", mount="/runs"),
        Mount(claim="small.data", mount="/mnt/source", stage_to="/mnt/data", unpack=True),
        Mount(claim="v", mount="/models", read_only=True),
    ),
    resources=Resources(gpus=2, cpu="8", memory="32Gi", shm="8Gi", scratch="40Gi"),
    node_affinity=(("nvidia.com/gpu.product", ("NVIDIA-A10", "Tesla-T4")),),
    node_selector={"zone": "a"},
    tolerations=(
        {"key": "nautilus.io/arm64", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "b", "operator": "Equal", "value": "c"},
    ),
    env={"GREETING": "$(HOME) says $hi"},
    secret_env=(("WANDB_KEY", SecretKey(secret="wandb", key="key")),),
    pull_secrets=("registry",),
    priority="opportunistic",
    queue="lab-queue",
    deadline_s=172800,
    labels={"team": "video"},
    annotations={"vidjobs/commit": "a" * 40, "vidjobs/version": "0.1.0"},
)
_GROUP = dataclasses.replace(
    _PLAIN, nodes=3, join_s=600, retries=4, avoid_nodes=("gpu-07.example", "gpu-12.example")
)
_SHARED = dataclasses.replace(_PLAIN, run="quick-prepare-abcdef", verb="prepare", shards=4)
_SWEEP = dataclasses.replace(
    _PLAIN,
    argv=(*_PLAIN.argv, "--trials", "/vidjobs/conf/trials.jsonl"),
    trials='["model.read_at","train.lr"]\n[0,0.001]\n[0,null]\n[1,"$(HOME)"]\n',
    parallelism=2,
    max_failed=1,
)


@pytest.mark.parametrize(
    ("name", "spec"),
    [("plain", _PLAIN), ("full", _FULL), ("nodes", _GROUP), ("shards", _SHARED), ("sweep", _SWEEP)],
)
def test_the_manifest_is_this_to_the_byte(name: str, spec: JobSpec) -> None:
    """A change here is a change of every job; look at it, then write the file anew from `to_yaml(render(spec))`."""
    assert to_yaml(render(spec)) == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", [_PLAIN, _FULL])
def test_what_is_printed_is_what_is_sent(spec: JobSpec) -> None:
    """`vidjobs render | kubectl create -f -` makes the same Job."""
    assert list(yaml.safe_load_all(to_yaml(render(spec)))) == render(spec)


def _job(spec: JobSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = render(spec)[0]
    return manifest, manifest["spec"]["template"]["spec"]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_the_pod_is_clean_by_the_restricted_standard() -> None:
    """Pod Security `restricted`, each of its rules for every container, and what else product asks of a pod."""
    _, pod = _job(_FULL)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    allowed = {
        "persistentVolumeClaim",
        "emptyDir",
        "downwardAPI",
        "configMap",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in _containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"


def test_limits_equal_requests_and_first_containers_ask_for_no_more() -> None:
    """The 20% rule of NRP holds for every conf, and the pod's effective request is the trainer's."""
    _, pod = _job(_FULL)
    for container in _containers(pod):
        assert container["resources"]["limits"] == container["resources"]["requests"]
    trainer = pod["containers"][0]["resources"]["limits"]
    assert trainer == {
        "cpu": "8",
        "memory": "32Gi",
        "ephemeral-storage": "40Gi",
        "nvidia.com/gpu": "2",
    }
    assert all(
        container["resources"]["limits"].items() <= trainer.items()
        for container in pod["initContainers"]
    )


def test_every_mount_has_its_volume_and_every_volume_its_use() -> None:
    """Also for a claim mounted twice, and one whose name is no label."""
    _, pod = _job(_FULL)
    names = [volume["name"] for volume in pod["volumes"]]
    used = {mount["name"] for container in _containers(pod) for mount in container["volumeMounts"]}
    assert used == set(names)
    assert len(names) == len(set(names))
    assert all("." not in name and len(name) <= 63 for name in names)


def test_writable_places_for_a_bare_uid() -> None:
    """HOME, USER and the compilers' caches lie in the workspace; what the conf says wins."""
    _, pod = _job(dataclasses.replace(_PLAIN, env={"HOME": "/mine"}))
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert env["HOME"] == "/mine"
    assert env["USER"]
    assert env["TORCHINDUCTOR_CACHE_DIR"].startswith("/vidjobs/workspace/")
    assert env["TRITON_CACHE_DIR"].startswith("/vidjobs/workspace/")


def test_a_dollar_is_doubled_where_kubernetes_would_expand_it() -> None:
    """In command, args and env; not in annotations, which it leaves alone."""
    manifest, pod = _job(_FULL)
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert env["GREETING"] == "$$(HOME) says $$hi"
    assert (
        manifest["spec"]["template"]["metadata"]["annotations"]["vidjobs/diff"] == _FULL.code.diff
    )
    script = (TEMPLATES / "checkout.sh").read_text()
    assert pod["initContainers"][0]["command"][2].replace("$$", "$") == script


def test_no_token_is_in_any_url_argument_or_plain_value() -> None:
    """The token comes from its Secret, to the code container alone."""
    _, pod = _job(_FULL)
    entry = next(
        each for each in pod["initContainers"][0]["env"] if each["name"] == "VIDJOBS_GIT_TOKEN"
    )
    assert entry["valueFrom"] == {"secretKeyRef": {"name": "git", "key": "token"}}
    assert all(each["name"] != "VIDJOBS_GIT_TOKEN" for each in pod["containers"][0]["env"])


def test_a_working_tree_of_this_machine_is_never_checked_out_over() -> None:
    """The local backend uses it in place: a pin without a repository has no code container."""
    spec = dataclasses.replace(
        _PLAIN, code=CodePin(kind="worktree", commit="a" * 40), code_dir="/home/me/project"
    )
    _, pod = _job(spec)
    assert "initContainers" not in pod
    assert pod["containers"][0]["workingDir"] == "/home/me/project"


def test_a_diff_too_large_for_an_annotation_gets_a_config_map_of_its_own() -> None:
    """Created before the Job, mounted at the same place; the conf stays an annotation."""
    diff = "+x\n" * 70_000
    config_map, job = render(
        dataclasses.replace(_FULL, code=dataclasses.replace(_FULL.code, diff=diff))
    )
    assert (config_map["kind"], config_map["data"]) == ("ConfigMap", {"code.diff": diff})
    assert config_map["metadata"]["labels"]["vidjobs/run"] == _FULL.run
    template = job["spec"]["template"]
    assert set(template["metadata"]["annotations"]) == {"vidjobs/conf"}
    sources = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "conf")[
        "projected"
    ]["sources"]
    assert sources[1] == {
        "configMap": {
            "name": config_map["metadata"]["name"],
            "items": [{"key": "code.diff", "path": "code.diff"}],
        }
    }


def test_a_conf_too_large_for_an_annotation_is_refused_with_its_size() -> None:
    """No conf that people write has 200 KB."""
    with pytest.raises(ConfError, match="the conf has 200 KB"):
        render(dataclasses.replace(_FULL, conf_text="a" * 200_001))


_HOSTILE = [
    "yes: 1",
    "a: b\nc: d",
    '"}, {"a": "b',
    "'\n- x",
    "- --run=/etc",
    "{{ run }}{% for a in b %}",
    "{#",
    "$(HOME)$$(HOME)$",
    "`id`;$(id)\n#",
    "|\n  x",
    "&a *a !!python/object:os.system",
    "\x85\u2028\u2029\ufeff\x7f\x1b[0m",
    "\U0001f600é",
    "../../etc/passwd",
    "inert-word-3",
    "null",
    "1e3",
    "~",
    "\r\n\t",
    "%YAML 1.2\n---\n...",
]
_TEXT = st.sampled_from(_HOSTILE) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
)


def _shape(node: Any, names: frozenset[str]) -> Any:
    """The manifest without its texts: containers, fixed keys and kinds of values."""
    if isinstance(node, dict):
        return [
            (key if key in names else "KEY", _shape(child, names)) for key, child in node.items()
        ]
    return [_shape(child, names) for child in node] if isinstance(node, list) else type(node)


def _names(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set(node) | {name for child in node.values() for name in _names(child)}
    return {name for child in node for name in _names(child)} if isinstance(node, list) else set()


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(_TEXT, min_size=12, max_size=12),
    keys=st.lists(_TEXT.filter(bool), min_size=3, max_size=3, unique=True),
)
@example(values=_HOSTILE[:12], keys=["a: b", "{{ x }}", "\x85"])
@example(values=_HOSTILE[8:], keys=["$(X)", "- a", "&a"])
def test_a_hostile_value_is_a_value_and_nothing_else(values: list[str], keys: list[str]) -> None:
    """Texts in every place a conf can reach arrive as themselves, and the manifest has the shape that harmless ones give it."""
    harmless = [f"v{index}" if value else "" for index, value in enumerate(values)]
    manifest, expected = (
        render(_with(values, keys))[0],
        render(_with(harmless, ["k0", "k1", "k2"]))[0],
    )
    fixed = frozenset(_names(expected) - {"k0", "k1", "k2"})
    assert _shape(manifest, fixed - set(keys)) == _shape(expected, fixed - set(keys))
    pod = manifest["spec"]["template"]["spec"]
    trainer = pod["containers"][0]
    assert trainer["args"][-1].replace("$$", "$") == values[0]
    assert {entry["name"]: entry.get("value", "").replace("$$", "$") for entry in trainer["env"]}[
        keys[0]
    ] == values[1]
    assert pod["nodeSelector"][keys[1]] == values[2]
    assert manifest["metadata"]["annotations"][keys[2]] == values[3]
    assert manifest["spec"]["template"]["metadata"]["annotations"]["vidjobs/conf"] == values[4]
    assert trainer["image"] == values[5]
    assert trainer["workingDir"] == f"/code{values[6]}"
    assert list(yaml.safe_load_all(to_yaml([manifest]))) == [manifest]


def _with(values: list[str], keys: list[str]) -> JobSpec:
    code = CodePin(
        kind="repo", repo=f"https://x/{values[7]}", ref=values[8], commit="a" * 40, diff=values[9]
    )
    return dataclasses.replace(
        _FULL,
        argv=(*_FULL.argv, values[0]),
        env={keys[0]: values[1]},
        node_selector={keys[1]: values[2]},
        annotations={keys[2]: values[3]},
        conf_text=values[4],
        image=values[5],
        code=code,
        code_dir=f"/code{values[6]}",
        mounts=(Mount(claim=f"c{values[10]}", mount=f"/m{values[11]}"),),
    )


def test_a_name_that_the_template_was_not_given_is_named() -> None:
    """A bug in a template says which one."""
    import jinja2

    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    template.filters["q"] = quoted
    with pytest.raises(TypeError, match='"nobody"'):
        template.from_string("{{ nobody | q }}").render()
    with pytest.raises(TypeError, match="cannot write"):
        quoted(["a list"])
