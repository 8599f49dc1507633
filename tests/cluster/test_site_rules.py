"""The site rules of `vidjobs lint` say the same when an API server says them as ValidatingAdmissionPolicies."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admission_policies import expressible, policies
from conftest import Lab
from researcher import kubectl

from launcher.backend_base import Manifest
from launcher.backends.kube.backend import KubeBackend
from launcher.conf.resolve import Experiment
from launcher.errors import AdmissionError
from launcher.lint import lint, lint_manifest
from launcher.plan import read
from launcher.profiles import ClusterProfile, load
from launcher.rules.model import Rule
from launcher.site_rules import of_profile
from launcher.sketch import sketch

pytestmark = pytest.mark.cluster
_CONF = """\
name: corpus
data: {root: "${data}/T"}
job:
  image: registry.example/v:1@sha256:0123
  code: {repo: https://git.example/lab/x}
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /mnt/data, as: data}]
"""


def _seeds(trials: int) -> str:
    return f"grid: {{train.seed: {list(range(trials))}}}"


_SEEDS = _seeds(420)
_CONFS: list[list[str]] = [
    [],
    ["job.image=v:1"],
    ["job.retries=0"],
    ["job.grace=10s", "job.ttl=5m"],
    ["job.grace=29s", "job.ttl=3599s", "job.retries=1"],
    ["job.grace=30s", "job.ttl=1h"],
    ["job.env.WANDB_API_KEY=abc"],
    ["job.env.X=ghp_abcdefghijklmnopqrst"],
    ["job.env={A: b, DB: 'postgres://me:pw@host/db', my_password: ''}"],
    ["model.init=https://me:secret@host/w.pt"],
    ["job.resources={gpus: 8}"],
    ["job.resources={gpus: 9}"],
    ["job.resources={gpus: 1, gpu_type: H100}"],
    ["job.resources={gpus: 1, gpu_type: GH200}", "job.priority=opportunistic2"],
    ["job.resources={gpus: 12, gpu_type: A100}", "job.priority=armada-default"],
    ["job.resources={gpus: 1, gpu_type: NVIDIA-A10, cpu: 500m, memory: 4G, shm: 512Mi}"],
    ["job.resources.scratch=50Gi"],
    ["job.resources.scratch=51Gi"],
    ["job.priority=high"],
    ["job.tolerations=[{key: nautilus.io/reservation, operator: Exists}]"],
    ["job.tolerations=[{operator: Exists}]", "job.priority=low"],
    ["job.tolerations=[{key: nautilus.io/science-dmz, operator: Exists}]"],
    ["job.resources.gpus=4", f"sweep={{{_SEEDS}, parallelism: 12}}"],
    ["job.resources.gpus=4", f"sweep={{{_SEEDS}, parallelism: 13}}", "job.retries=0"],
    [f"sweep={{{_SEEDS}, parallelism: 50}}"],
    [f"sweep={{{_SEEDS}, parallelism: 51}}"],
    [f"sweep={{{_SEEDS}, parallelism: 400}}"],
    [f"sweep={{{_SEEDS}, parallelism: 401}}"],
    [f"sweep={{{_seeds(200)}, parallelism: 60}}"],
    [f"sweep={{{_seeds(201)}, parallelism: 60}}"],
    ["job.resources={gpus: 8}", "job.nodes=6"],
    ["job.resources={gpus: 8}", "job.nodes=7"],
    ["job.resources={gpus: 2, scratch: 53687091200, memory: 32G, cpu: 16}"],
    ["job.resources.scratch=53687091201"],
    ["job.image=b", "job.retries=0", "job.grace=1s", "job.ttl=1m", "job.priority=no", "job.resources={gpus: 30, scratch: 1Ti}"],
]  # fmt: skip


def _resources(job: Manifest, **changed: str) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"] |= changed


def _many(job: Manifest, memory: str = "17Gi", pods: int = 120) -> None:
    _resources(job, memory=memory)
    job["spec"]["parallelism"] = pods


def _change(path: str, value: Any) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        *above, last = path.split(".")
        node: Any = manifest
        for key in above:
            node = node[int(key)] if key.isdigit() else node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return change


_BY_HAND: list[Callable[[Manifest], None]] = [
    _change("spec.ttlSecondsAfterFinished", None),
    _change("spec.parallelism", 150),
    _change("spec.template.spec.automountServiceAccountToken", True),
    _change("spec.template.spec.containers.0.resources", {}),
    _change("spec.template.spec.containers.0.args", ["--token", "hf_abcdefghijklmnopqrstuvwx"]),
    lambda job: job["spec"]["template"]["spec"]["volumes"].append(
        {"name": "more", "emptyDir": {"medium": "Memory"}}
    ),
    lambda job: _resources(job, cpu="4800m"),
    lambda job: _resources(job, cpu="4801m"),
    lambda job: _resources(job, memory="20Gi"),
    _many,
    _change("spec.parallelism", 100),
    _change("spec.parallelism", 101),
    lambda job: _many(job, "16385Mi", 100),
    lambda job: _many(job, "16385Mi", 101),
    lambda job: _resources(job, memory="19.2Gi"),
    lambda job: _resources(job, memory="20615843100"),
    lambda job: _resources(job, memory="20615843020"),
]


def _experiment(folder: Path, sets: list[str], profile: ClusterProfile) -> Experiment:
    (folder / "c.yaml").write_text(_CONF)
    found = read(folder / "c.yaml", profile=profile, backend=KubeBackend(profile), sets=sets)
    assert not found.faults
    return found


@pytest.fixture(scope="module")
def installed(kube: Lab) -> Iterator[dict[str, set[str]]]:
    """Policies of every rule that CEL can say, in this namespace only: kind -> ids. All gone afterwards."""
    rules: dict[str, list[Rule]] = {
        kind: [rule for rule in of_profile(load("nautilus")) if expressible(rule, kind)]
        for kind in ("Job", "Pod", "PersistentVolumeClaim")
    }
    made = [
        each
        for kind, mine in rules.items()
        for rule in mine
        for each in policies(rule, kind, kube.namespace)
    ]
    kubectl(
        "create",
        "--filename=-",
        text=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}),
    )
    try:
        yield {kind: {rule.id for rule in mine} for kind, mine in rules.items()}
    finally:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            kubectl("delete", kind, f"--selector=vidjobs/test={kube.namespace}")


def _verdicts(manifest: Manifest, kube: Lab) -> set[str]:
    """Ids of the rules that the server warns of, asked by a dry run."""
    kind = manifest["kind"].lower()
    command = [
        "kubectl",
        "create",
        "--dry-run=server",
        f"--namespace={kube.namespace}",
        "--filename=-",
    ]
    done = subprocess.run(
        command, input=json.dumps(manifest), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "failed to" not in done.stderr, done.stderr
    return set(
        re.findall(
            rf"ValidatingAdmissionPolicy '{kube.namespace}-{kind}-([a-z0-9-]+)'", done.stderr
        )
    )


def _named(manifest: Manifest, kube: Lab) -> Manifest:
    """As the server wants it: no namespace but this one."""
    made = copy.deepcopy(manifest)
    made["metadata"] = made.get("metadata", {}) | {
        "name": made.get("metadata", {}).get("name", "x"),
        "namespace": kube.namespace,
    }
    return made


def _wait_for_policies(kube: Lab, bad: Manifest, expected: set[str]) -> None:
    until = time.monotonic() + 30
    while not expected <= _verdicts(bad, kube):
        assert time.monotonic() < until, f"no verdict yet: {expected - _verdicts(bad, kube)}"
        time.sleep(0.5)


def test_the_server_agrees_with_lint_rule_by_rule(
    kube: Lab, installed: dict[str, set[str]], tmp_path: Path
) -> None:
    """On each conf of the corpus the same rules are broken; each rule is broken by at least one."""
    profile = load("nautilus")
    cases: list[tuple[str, list[Manifest], set[str]]] = []
    for sets in _CONFS:
        experiment = _experiment(tmp_path, sets, profile)
        for manifest in sketch(experiment, profile, KubeBackend(profile)):
            cases.append(
                (
                    f"{sets} {manifest['kind']}",
                    [manifest],
                    {each.rule for each in lint(experiment, profile, [manifest])},
                )
            )
    plain = sketch(_experiment(tmp_path, [], profile), profile, KubeBackend(profile))[0]
    for number, change in enumerate(_BY_HAND):
        job = copy.deepcopy(plain)
        change(job)
        cases.append(
            (f"by hand {number}", [job], {each.rule for each in lint_manifest(job, profile)})
        )
    worst = next(manifests[0] for name, manifests, _ in cases if "1Ti" in name)
    _wait_for_policies(
        kube,
        _named(worst, kube),
        {"nrp-priority", "nrp-scratch", "short-ttl", "image-digest", "nrp-gpus-per-pod"},
    )
    seen: set[str] = set()
    differ = []
    for name, manifests, expected in cases:
        theirs, ours = _verdicts(_named(manifests[0], kube), kube), expected & installed["Job"]
        seen |= theirs
        if theirs != ours:
            differ.append(
                f"{name}: the server says {sorted(theirs - ours)} more and {sorted(ours - theirs)} less"
            )
    assert not differ, "\n".join(differ)
    assert seen == installed["Job"]


@pytest.mark.parametrize(
    ("storage", "access"),
    [
        ("rook-cephfs", "ReadWriteMany"),
        ("ceph-rbd", "ReadWriteOnce"),
        ("rook-ceph-block-east", "ReadWriteMany"),
        ("linstor-ha", "ReadWriteOnce"),
    ],
)
def test_the_server_agrees_about_claims(
    kube: Lab, installed: dict[str, set[str]], storage: str, access: str
) -> None:
    """Classes that never bind."""
    spec = {
        "accessModes": [access],
        "storageClassName": storage,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c"},
        "spec": spec,
    }
    bad = claim | {"spec": spec | {"storageClassName": "ceph-rbd"}}
    _wait_for_policies(kube, _named(bad, kube), {"nrp-class-never-binds"})
    assert _verdicts(_named(claim, kube), kube) == {
        each.rule for each in lint_manifest(claim, load("nautilus"))
    }


def test_submit_names_the_policy_s_words_our_rule_and_the_fix(
    kube: Lab, installed: dict[str, set[str]], tmp_path: Path
) -> None:
    """A policy that denies: the whole message of the server, and the rule's id and fix as the hint."""
    profile = dataclasses.replace(load("nautilus"), context="", namespace=kube.namespace)
    backend = KubeBackend(profile)
    job = _named(
        sketch(_experiment(tmp_path, ["job.resources.scratch=51Gi"], profile), profile, backend)[0],
        kube,
    )
    change = json.dumps({"spec": {"validationActions": ["Deny"]}})
    kubectl(
        "patch",
        "validatingadmissionpolicybinding",
        f"{kube.namespace}-job-nrp-scratch",
        "--type=merge",
        f"--patch={change}",
    )
    refusal = _refusal(backend, job)
    assert "denied request: nrp-scratch: 50Gi or less" in refusal.message
    assert refusal.hint.startswith("50Gi or less")
    assert "nrp-scratch" in refusal.hint


def _refusal(backend: KubeBackend, job: Manifest) -> AdmissionError:
    """The first one: a policy that was changed takes a moment to hold."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            backend.submit([job], dry_run=True)
        except AdmissionError as refusal:
            return refusal
        time.sleep(0.5)
    raise AssertionError("never refused")
