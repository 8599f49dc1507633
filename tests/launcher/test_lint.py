"""Site rules: each fires on what breaks it, says where, and is silent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.backends.kube.backend import KubeBackend
from launcher.commands import lint as command
from launcher.lint import Finding, lint
from launcher.plan import read
from launcher.profiles import load

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
    return lint(experiment, profile)


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
        ("kube-one", "job.resources={gpus: 1, gpu_type: [Tesla-T4]}", "gpu-type-unknown", "warning"),
        ("nautilus", "job.resources={gpus: 1, gpu_type: H100}", "nrp-gated-gpu", "error"),
        ("nautilus", "job.resources={gpus: 1, gpu_type: A100}", "nrp-a100", "warning"),
        ("nautilus", "job.resources={gpus: 1, gpu_type: NVIDIA-Typo}", "gpu-type-unknown", "warning"),
        ("nautilus", "job.resources.gpus=9", "nrp-gpus-per-pod", "error"),
        ("nautilus", "job.resources.scratch=51Gi", "nrp-scratch", "warning"),
        ("nautilus", "job.priority=high", "nrp-priority", "error"),
        ("nautilus", "job.tolerations=[{key: nautilus.io/reservation, operator: Exists}]", "nrp-tolerations", "error"),
        ("nautilus", "job.tolerations=[{operator: Exists}]", "nrp-tolerations", "error"),
    ],
)
def test_each_rule_fires_with_its_place(tmp_path: Path, cluster: str, change: str, rule: str, severity: str) -> None:
    """Id, severity, the option or file it came from, the fix and the source."""
    found = _findings(tmp_path, cluster, change)
    assert [(each.rule, each.severity) for each in found] == [(rule, severity)]
    assert found[0].file.startswith("--set job") or found[0].path == "data.root"
    assert found[0].fix
    assert found[0].source


def test_more_than_fifty_gpus_at_once(tmp_path: Path) -> None:
    """A sweep's trials run beside each other."""
    found = _findings(tmp_path, "nautilus", "job.resources.gpus=4", "sweep={grid: {train.lr: [1]}, parallelism: 20}")
    assert [each.rule for each in found] == ["nrp-many-gpus"]


def test_a_gated_gpu_is_allowed_to_preemptible_jobs(tmp_path: Path) -> None:
    """NRP's own way."""
    assert _findings(tmp_path, "nautilus", "job.resources={gpus: 1, gpu_type: H100}", "job.priority=opportunistic") == []


def test_lint_shows_conf_faults_and_findings_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher's faults, the trainer's, types of two resources, and the site's rules; exit code 2."""
    monkeypatch.chdir(tmp_path)
    text = _CLEAN.replace(
        "job:", "train: {lr: fast}\njob:\n  retires: 2\n  resources: {gpus: 1, gpu_type: [A40, NVIDIA-A10]}\n  priority: high"
    )
    (tmp_path / "c.yaml").write_text(text)
    assert command.run(Path("c.yaml"), cluster="nautilus") == 2
    shown = capsys.readouterr().out
    assert "c.yaml:5: error conf: job.retires unknown key" in shown
    assert "c.yaml:3: error conf: train.lr" in shown
    assert "nvidia.com/a40: A40; nvidia.com/gpu: NVIDIA-A10" in shown
    assert "error nrp-priority: job.priority" in shown


def test_warnings_alone_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And --json is a list of findings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(_CLEAN + "model: {name: i3d, mode: 32x112}\n")
    sets = ["job.retries=0", "data.size=112"]
    assert command.run(Path("c.yaml"), cluster="generic", sets=sets, as_json=True) == 0
    assert '"rule": "no-retries"' in capsys.readouterr().out
