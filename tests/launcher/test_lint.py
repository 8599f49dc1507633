"""Site rules: each fires on what breaks it, says where, and is silent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.kube.backend import KubeBackend
from launcher.commands import lint as command
from launcher.errors import ConfError
from launcher.lint import Finding, lint, lint_manifest
from launcher.plan import read
from launcher.profiles import load
from launcher.render import TEMPLATES
from launcher.rules.model import read as read_rules
from launcher.rules.shell import idles
from launcher.site_rules import named_by, of_profile
from launcher.sketch import sketch

_CLEAN = """\
name: clean
data: {root: "${data}/T"}
job:
  image: registry.example/v:1@sha256:0123
  code: image
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /mnt/data, as: data}]
"""


def _findings(tmp_path: Path, cluster: str, *sets: str) -> list[Finding]:
    (tmp_path / "c.yaml").write_text(_CLEAN)
    profile = load(cluster)
    experiment = read(tmp_path / "c.yaml", profile=profile, backend=KubeBackend(profile), sets=sets)
    assert not experiment.faults
    return lint(experiment, profile, sketch(experiment, profile, KubeBackend(profile)))


@pytest.mark.parametrize("cluster", ["generic", "nautilus", "kube-one"])
def test_a_clean_conf_has_no_findings(tmp_path: Path, cluster: str) -> None:
    """No rule cries without need."""
    assert _findings(tmp_path, cluster) == []


@pytest.mark.parametrize(
    ("cluster", "change", "rule", "severity"),
    [
        ("generic", "job.image=v:1", "image-digest", "warning"),
        ("generic", "job.retries=0", "no-retries", "warning"),
        ("generic", "job.grace=10s", "short-grace", "warning"),
        ("generic", "job.ttl=5m", "short-ttl", "warning"),
        ("generic", "data.root=/elsewhere/T", "data-outside", "warning"),
        ("generic", "job.env.WANDB_API_KEY=abc", "secret-in-env", "error"),
        ("generic", "job.env.X=ghp_abcdefghijklmnopqrst", "secret-in-env", "error"),
        ("generic", "job.env.DB=postgres://me:pw@host/db", "secret-in-env", "error"),
        (
            "kube-one",
            "job.resources={gpus: 1, gpu_type: [Tesla-T4]}",
            "gpu-type-unknown",
            "warning",
        ),
        ("nautilus", "job.resources={gpus: 1, gpu_type: H100}", "nrp-gated-gpu", "error"),
        ("nautilus", "job.resources={gpus: 1, gpu_type: A100}", "nrp-a100", "warning"),
        (
            "nautilus",
            "job.resources={gpus: 1, gpu_type: NVIDIA-Typo}",
            "gpu-type-unknown",
            "warning",
        ),
        ("nautilus", "job.resources.gpus=9", "nrp-gpus-per-pod", "error"),
        ("nautilus", "job.resources.scratch=51Gi", "nrp-scratch", "warning"),
        ("nautilus", "job.resources={gpus: 1, cpu: 64}", "nrp-cpu-band", "warning"),
        ("nautilus", "job.resources={gpus: 1, memory: 200Gi}", "nrp-memory-band", "warning"),
        ("nautilus", "job.env.PIP_TARGET=/runs/packages", "nrp-installs", "warning"),
        (
            "nautilus",
            "job.env.START=pip install --target /runs/packages timm",
            "nrp-installs",
            "warning",
        ),
        ("nautilus", "job.env.AFTER=while true; do sleep 60; done", "nrp-sleep", "error"),
        ("nautilus", "job.priority=high", "nrp-priority", "error"),
        (
            "nautilus",
            "job.tolerations=[{key: nautilus.io/reservation, operator: Exists}]",
            "nrp-tolerations",
            "error",
        ),
        ("nautilus", "job.tolerations=[{operator: Exists}]", "nrp-tolerations", "error"),
    ],
)
def test_each_rule_fires_with_its_place(
    tmp_path: Path, cluster: str, change: str, rule: str, severity: str
) -> None:
    """Id, severity, the option or file it came from, the fix and the source."""
    found = _findings(tmp_path, cluster, change)
    assert [(each.rule, each.severity) for each in found] == [(rule, severity)]
    assert found[0].file.startswith("--set job") or found[0].path == "data.root"
    assert found[0].fix
    assert found[0].source


def test_more_than_fifty_gpus_at_once(tmp_path: Path) -> None:
    """A sweep's trials run beside each other."""
    rates = ", ".join(f"1e-{power}" for power in range(1, 21))
    found = _findings(
        tmp_path,
        "nautilus",
        "job.resources.gpus=4",
        f"sweep={{grid: {{train.lr: [{rates}]}}, parallelism: 20}}",
    )
    assert [each.rule for each in found] == ["nrp-many-gpus"]
    assert (
        _findings(
            tmp_path,
            "nautilus",
            "job.resources.gpus=4",
            f"sweep={{grid: {{train.lr: [{rates}]}}, parallelism: 2}}",
        )
        == []
    )


def test_hundreds_of_pods_at_once(tmp_path: Path) -> None:
    """More than 400 are refused; more than 200 trials, many at a time, are warned of; one after the other they are fine."""
    seeds = f"train.seed: {list(range(500))}"
    ids = {
        at_once: [
            each.rule
            for each in _findings(
                tmp_path, "nautilus", f"sweep={{grid: {{{seeds}}}, parallelism: {at_once}}}"
            )
        ]
        for at_once in (401, 60, 10)
    }
    assert ids == {401: ["nrp-pods-at-once", "nrp-many-trials"], 60: ["nrp-many-trials"], 10: []}


def test_a_private_repository_s_password_in_its_address(tmp_path: Path) -> None:
    """It would stand in the first container's environment. The secret itself is never shown."""
    conf = _CLEAN.replace("code: image", "code: {repo: https://git.example/lab/x}").replace(
        "data: {", 'model: {init: "https://me:hunter22@host/w.pt"}\ndata: {'
    )
    (tmp_path / "c.yaml").write_text(conf)
    profile = load("generic")
    experiment = read(tmp_path / "c.yaml", profile=profile, backend=KubeBackend(profile))
    found = lint(experiment, profile, sketch(experiment, profile, KubeBackend(profile)))
    assert [each.rule for each in found] == ["secret-in-conf"]
    assert "hunter22" not in str(found[0])


_MINE = """\
rules:
  - id: lab-owner
    severity: error
    require: [{path: "object.metadata.labels['lab/owner']", exists: true}]
    message: names no owner
    why: the lab shares one namespace
    fix: ask Ada
    source: https://wiki.example/jobs
  - id: lab-night
    when: [{path: "pod.containers[*].resources.limits['nvidia.com/*']", at_least: 4}]
    require: [{path: pod.nodeSelector.pool, one_of: [night]}, {path: pod.nodeSelector.pool, exists: true}]
    conf: job.node_selector
    message: "is {value}; jobs with 4 GPUs run at night"
    fix: "node_selector: {pool: night}"
"""


def test_an_image_that_is_missing_is_no_name_that_can_be_moved(tmp_path: Path) -> None:
    """Which `job.image is missing` says already."""
    assert _findings(tmp_path, "generic", "job.image=") == []


def test_rules_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ./conf/rules: over the manifest, with a reason and a fix; beside the site's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "rules").mkdir(parents=True)
    (tmp_path / "conf" / "rules" / "lab.yaml").write_text(_MINE)
    found = _findings(tmp_path, "generic", "job.resources.gpus=4", "job.node_selector={pool: day}")
    assert [(each.rule, each.severity) for each in found] == [
        ("lab-owner", "error"),
        ("lab-night", "warning"),
    ]
    assert found[0].message == "names no owner: the lab shares one namespace"
    assert found[0].source == "https://wiki.example/jobs"
    assert found[1].message.startswith("is day;")
    assert found[1].file.startswith("--set job.node_selector")
    assert [each.rule for each in _findings(tmp_path, "generic", "job.resources.gpus=1")] == [
        "lab-owner"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("exists: true}]", "rules.yaml:2: .*no operator"),
        ("names no owner", "the id of another rule"),
    ],
)
def test_an_own_rule_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, expected: str
) -> None:
    """Its file and line, or the id that is taken."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "rules").mkdir(parents=True)
    text = (
        _MINE.replace(", exists: true}]\n    message: names", "}]\n    message: names")
        if "exists" in change
        else _MINE.replace("lab-owner", "no-retries")
    )
    (tmp_path / "conf" / "rules" / "rules.yaml").write_text(text)
    with pytest.raises(ConfError, match=expected):
        _findings(tmp_path, "generic")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("require: [{path: 'a[b', exists: true}]", "cannot be read from"),
        ("require: [{path: a, matches: '('}]", "pattern"),
        ("require: [{path: a, at_most: lots}]", "no number"),
        ("require: [{path: a, within_percent: 20}]", "without `of`"),
        ("require: [{path: a, match: x}]", 'did you mean "matches"'),
        ("kinds: [Jobs]\n    require: [{path: a, exists: true}]", 'did you mean "Job"'),
        ("check: sleeps", "only shipped rules"),
        ("at: pod", "requires nothing"),
    ],
)
def test_faults_of_rules_say_what_is_wrong(tmp_path: Path, wrong: str, expected: str) -> None:
    """All with file and line."""
    path = tmp_path / "r.yaml"
    path.write_text(f"rules:\n  - id: x\n    message: m\n    fix: f\n    {wrong}\n")
    with pytest.raises(ConfError, match=r"r\.yaml:[2-5]: ") as caught:
        read_rules(path)
    assert expected in str(caught.value)


def test_a_profile_adds_rules_and_leaves_some_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """own_rules and ignore_rules; an id that no rule has is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "clusters").mkdir(parents=True)
    path = tmp_path / "conf" / "clusters" / "lab.yaml"
    path.write_text("rules: generic\nignore_rules: [no-retries]\nown_" + _MINE)
    assert [each.rule for each in _findings(tmp_path, "lab", "job.retries=0")] == ["lab-owner"]
    path.write_text("rules: generic\nignore_rules: [no-retrys]\n")
    with pytest.raises(ConfError, match='did you mean "no-retries"'):
        _findings(tmp_path, "lab")


@pytest.mark.parametrize(
    ("script", "idle"),
    [
        ("python train.py", False),
        ("python train.py; sleep infinity", True),
        ("python train.py && /bin/sleep inf", True),
        ("python train.py\nsleep 3600", True),
        ("sleep 5; python train.py", False),
        ("while true; do sleep 30; done", True),
        ("while :; do\n  date\n  sleep 30\ndone", True),
        ("while sleep 60; do date; done", True),
        ("until false; do sleep 1; done", True),
        ("for ((;;)); do sleep 1; done", True),
        ("until ping -c1 db; do sleep 1; done; python train.py", False),
        ("while true; do try && break; sleep 5; done; python train.py", False),
        ("tail -f /dev/null", True),
        ("python train.py & tail -F log", True),
        ("tail -f log & python train.py", False),
        ("tail -n 5 log", False),
        ("echo 'sleep infinity'", False),
        ("python train.py # then sleep infinity", False),
        ("trap : TERM; sleep infinity & wait", True),
        ("A=b sleep infinity", True),
        ("env A=b CUDA=0 sleep infinity", True),
        ("(sleep infinity)", True),
        ("python train.py; (date; sleep 1d)", True),
        ("while [ true ]; do date; sleep 5; done", True),
        ("A=b python train.py", False),
        ("bash -c 'sleep 1d'", True),
    ],
)
def test_sleep_is_found_as_a_shell_reads_it(script: str, idle: bool) -> None:
    """Loops, tail -f, the last command; not words in quotes or comments, not a pause between attempts."""
    assert bool(idles(script)) is idle


def test_a_script_that_a_command_names_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Job says only `bash run.sh`. Our own first containers pause between attempts and are fine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.sh").write_text("python train.py\nsleep infinity\n")
    container = {"name": "t", "command": ["bash", "run.sh"]}
    job = {
        "kind": "Job",
        "spec": {
            "ttlSecondsAfterFinished": 9999,
            "template": {"spec": {"containers": [container]}},
        },
    }
    found = [each for each in lint_manifest(job, load("nautilus")) if each.rule == "nrp-sleep"]
    assert 'run.sh idles: "sleep infinity"' in found[0].message
    for script in ("checkout.sh", "stage.sh"):
        assert idles((TEMPLATES / script).read_text()) == ""


def test_claims_and_bare_pods_have_rules_too() -> None:
    """Of NRP: a class that never binds, a one-node class for many, and what a pod without a Job may ask for."""
    claim = {
        "kind": "PersistentVolumeClaim",
        "spec": {"storageClassName": "ceph-rbd", "accessModes": ["ReadWriteOnce"]},
    }
    assert [each.rule for each in lint_manifest(claim, load("nautilus"))] == [
        "nrp-class-never-binds"
    ]
    claim["spec"] = {"storageClassName": "rook-ceph-block-east", "accessModes": ["ReadWriteMany"]}
    assert [each.rule for each in lint_manifest(claim, load("nautilus"))] == ["nrp-class-one-node"]
    limits = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "3"}
    container = {"name": "t", "resources": {"limits": limits, "requests": limits}}
    pod = {
        "kind": "Pod",
        "spec": {"automountServiceAccountToken": False, "containers": [container]},
    }
    assert [each.rule for each in lint_manifest(pod, load("nautilus"))] == ["nrp-bare-pod"]


def test_every_rule_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`vidjobs lint --rules`: id, reason, fix and source of each."""
    assert command.show_rules(cluster="nautilus") == 0
    shown = capsys.readouterr().out
    assert "error   nrp-sleep  job.env" in shown
    assert "from https://nrp.ai/documentation/userdocs/start/policies/" in shown
    for rule in of_profile(load("nautilus")):
        assert rule.fix, rule.id
        assert rule.source, rule.id
        assert rule.why, rule.id


GATED = (
    "exceeded quota: gpus, requested: requests.nvidia.com/h100=1, used: requests.nvidia.com/h100=4"
)


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ('pods "x" is forbidden: exceeded quota: high-priority-ban', "nrp-priority"),
        (
            "ValidatingAdmissionPolicy 'container-must-meet-memory-and-cpu-ratio' denied request",
            "nrp-ratio",
        ),
        (
            'admission webhook "job.nrp-nautilus.io" denied the request: Your pods resources utilization is too low for account',
            "nrp-cpu-band",
        ),
        (f"{GATED}, limited: pods=9,requests.nvidia.com/h100=0", "nrp-gated-gpu"),
        (f"{GATED}, limited: requests.nvidia.com/h100=0,pods=9", "nrp-gated-gpu"),
        (f"{GATED}, limited: requests.nvidia.com/h100=4", ""),
        ("policy 'lab' denied request: nrp-many-pods-equal: limits", "nrp-many-pods-equal"),
        ("something else", ""),
    ],
)
def test_a_refusal_is_mapped_to_its_rule(message: str, rule: str) -> None:
    """By the site's own words, or by a rule's id in them."""
    found = named_by(message)
    assert (found.id if found else "") == rule


def test_a_gated_gpu_is_allowed_to_preemptible_jobs(tmp_path: Path) -> None:
    """NRP's own way."""
    assert (
        _findings(
            tmp_path,
            "nautilus",
            "job.resources={gpus: 1, gpu_type: H100}",
            "job.priority=opportunistic",
        )
        == []
    )


def test_lint_shows_conf_faults_and_findings_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher's faults, the trainer's, types of two resources, and the site's rules; exit code 2."""
    monkeypatch.chdir(tmp_path)
    text = _CLEAN.replace(
        "job:",
        "train: {lr: fast}\njob:\n  retires: 2\n  resources: {gpus: 1, gpu_type: [A40, NVIDIA-A10]}\n  priority: high",
    )
    (tmp_path / "c.yaml").write_text(text)
    assert command.run(Path("c.yaml"), cluster="nautilus") == 2
    shown = capsys.readouterr().out
    assert "c.yaml:5: error conf: job.retires unknown key" in shown
    assert "c.yaml:3: error conf: train.lr" in shown
    assert "nvidia.com/a40: A40; nvidia.com/gpu: NVIDIA-A10" in shown
    assert "error nrp-priority: job.priority" in shown


def test_warnings_alone_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And --json is a list of findings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(_CLEAN + "model: {name: i3d, mode: 32x112}\n")
    sets = ["job.retries=0", "data.size=112"]
    assert command.run(Path("c.yaml"), cluster="generic", sets=sets, as_json=True) == 0
    assert '"rule": "no-retries"' in capsys.readouterr().out
