"""The launcher's own sections: types, names, and all faults at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.conf.checks import LONGEST_NAME
from launcher.conf.resolve import resolve
from launcher.errors import ConfError
from launcher.profiles import load
from launcher.render import quoted

Resolve = Callable[..., Any]
_JOB = "job:\n  image: i\n  code: image\n  volumes: [{claim: v, mount: /runs, as: runs}]\n"


def test_all_faults_are_reported_together_each_with_file_and_line(resolved: Resolve) -> None:
    """Three files' worth of mistakes in one message."""
    text = (
        "extends: base.yaml\nnmae: x\ntrain: {lr: 1}\n"
        + _JOB
        + "  retires: 3\n  deadline: tomorrow\n"
    )
    experiment = resolved(
        text,
        files={"base.yaml": "job:\n  resources: {memory: 16GB}\n"},
        sets=["job.user.uid=0"],
        volumes=False,
    )
    with pytest.raises(ConfError) as caught:
        experiment.sound()
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[0] for line in lines) == [
        "--set job.user.uid",
        "base.yaml:2",
        "exp.yaml:2",
        "exp.yaml:8",
        "exp.yaml:9",
    ]
    assert any('did you mean "retries"?' in line for line in lines)
    assert any('did you mean "name"?' in line for line in lines)
    assert any("16Gi" in line for line in lines)


def test_texts_stay_as_written_and_other_scalars_take_their_field_s_type(resolved: Resolve) -> None:
    """A version is no number, a port no boolean, and 3.0 retries are 3."""
    experiment = resolved(
        _JOB
        + "  retries: 3.0\n  env: {VERSION: 1.10, FLAG: yes, N: 007, E: 1e3}\n  deadline: 2d\n",
        volumes=False,
    )
    assert not experiment.faults
    assert experiment.job.env == {"VERSION": "1.10", "FLAG": "yes", "N": "007", "E": "1e3"}
    assert (experiment.job.retries, experiment.job.deadline) == (3, 172800)


def test_one_item_may_stand_for_a_list_of_one(resolved: Resolve) -> None:
    """gpu_type: A40."""
    experiment = resolved(_JOB + "  resources: {gpus: 1, gpu_type: A40}\n", volumes=False)
    assert experiment.job.resources.gpu_type == ("A40",)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("worktree", "worktree"),
        ("image", "image"),
        ("{repo: 'https://h/r', ref: main}", "repo"),
        ("{kind: worktree, repo: 'https://h/r'}", "worktree"),
    ],
)
def test_the_forms_of_code(resolved: Resolve, code: str, kind: str) -> None:
    """A word, or a mapping."""
    experiment = resolved(_JOB.replace("code: image", f"code: {code}"), volumes=False)
    assert not experiment.faults
    assert experiment.job.code.kind == kind


@pytest.mark.parametrize(
    ("line", "where", "said"),
    [
        ("  code: {ref: main}", "job.code", '"repo" is missing'),
        ("  code: worktre", "job.code.kind", 'did you mean "worktree"?'),
        ("  code: {repo: 'https://me:tok@h/r'}", "job.code.repo", "holds a user or a token"),
        ("  code: {repo: 'https://tok@h/r'}", "job.code.repo", "holds a user or a token"),
        ("  code: {repo: '--upload-pack=x'}", "job.code", "cannot begin"),
        ("  image: 'a b'", "job.image", "not the name of an image"),
        ("  nodes: 0", "job.nodes", "1 is the least"),
        ("  retries: -1", "job.retries", "whole number"),
        ("  resources: {memory: 4Gi, shm: 8Gi}", "job.resources.shm", "leaves nothing"),
        ("  resources: {gpu_type: [A40]}", "job.resources.gpu_type", "gpus is 0"),
        ("  user: {gid: 0}", "job.user.gid", "restricted"),
        ("  env: {VIDJOBS_RUN: x}", "job.env.VIDJOBS_RUN", "set by vidjobs"),
        ("  env: {'A B': x}", "job.env.A B", "cannot name a variable"),
        ("  env: [A]", "job.env", "not a mapping"),
        (
            "  secrets: [{env: A, secret: 'UP', key: k}]",
            "job.secrets[0].secret",
            "the name of a Secret",
        ),
        ("  secrets: [{env: A}]", "job.secrets[0]", '"secret" is missing'),
        ("  pull_secrets: ['a/b']", "job.pull_secrets[0]", "the name of a Secret"),
        ("  priority: 'A b'", "job.priority", "priority class"),
        ("  queue: '{{'", "job.queue", "queue"),
        ("  node_selector: {'bad key': v}", "job.node_selector.bad key", "label"),
        ("  tolerations: [{effect: Nope}]", "job.tolerations[0].effect", "not one of"),
        ("  grace: [1]", "job.grace", "not one value"),
    ],
)
def test_what_kubernetes_would_refuse_is_a_conf_fault(
    resolved: Resolve, line: str, where: str, said: str
) -> None:
    """Found before anything is sent, with its key path."""
    key = line.split(":")[0] + ":"
    text = (
        "".join(kept + "\n" for kept in _JOB.splitlines() if not kept.startswith(key)) + line + "\n"
    )
    experiment = resolved(text, volumes=False)
    assert {fault.path for fault in experiment.faults} == {where}
    assert said in str(experiment.faults[0])


@pytest.mark.parametrize(
    ("volumes", "said"),
    [
        ("[]", "no volume says `as: runs`"),
        ("[{claim: v, mount: runs, as: runs}]", "not an absolute path"),
        ("[{claim: v, mount: /a/../b, as: runs}]", "not an absolute path"),
        ("[{claim: v, mount: '/a:b', as: runs}]", "not an absolute path"),
        ("[{claim: v, mount: /, as: runs}]", "not an absolute path"),
        ("[{claim: v, mount: /vidjobs/conf, as: runs}]", "taken by vidjobs"),
        ("[{claim: v, mount: /dev/shm, as: runs}]", "taken by shared memory"),
        ("[{claim: v, mount: /r, as: runs}, {claim: w, mount: /r}]", "taken by volumes[0].mount"),
        (
            "[{claim: v, mount: /r, as: runs}, {claim: w, mount: /s, as: runs}]",
            "taken by another volume",
        ),
        ("[{claim: v, mount: /r, as: runs, stage_to: /s}]", "neither staged nor read_only"),
        ("[{claim: v, mount: /r, as: runs}, {claim: w, mount: /s, unpack: true}]", "no stage_to"),
        ("[{claim: '../v', mount: /r, as: runs}]", "cannot name a claim"),
        ("[{claim: v, mount: /r, as: rnus}]", 'did you mean "runs"?'),
        ("[{mount: /r, as: runs}]", '"claim" is missing'),
        ("3", "not a mapping"),
    ],
)
def test_volumes_that_cannot_be_mounted_are_faults(
    resolved: Resolve, volumes: str, said: str
) -> None:
    """Paths, names and roles."""
    experiment = resolved(f"job: {{image: i, code: image, volumes: {volumes}}}\n", volumes=False)
    assert said in "\n".join(map(str, experiment.faults))


def test_a_name_leaves_room_for_verb_random_part_and_index(resolved: Resolve) -> None:
    """63 characters are a label's."""
    assert not resolved(f"name: {'a' * LONGEST_NAME}\n").faults
    assert f"at most {LONGEST_NAME}" in str(
        resolved(f"name: {'a' * (LONGEST_NAME + 1)}\n").faults[0]
    )
    assert len("a" * LONGEST_NAME + "-compress-abcdef-9999") == 63


@pytest.mark.parametrize(
    ("name", "proposal"),
    [("TinyVIRAT_stn", "tinyvirat-stn"), ("a b", "a-b"), ("3d", ""), ("", ""), ("é", "")],
)
def test_a_name_that_cannot_name_a_job_gets_one_that_can(
    resolved: Resolve, name: str, proposal: str
) -> None:
    """Where there is one."""
    fault = str(resolved(f"name: '{name}'\n").faults[0])
    assert "cannot name a Job" in fault
    assert (f'did you mean "{proposal}"?' in fault) == bool(proposal)


def test_without_a_name_the_file_names_the_experiment(resolved: Resolve) -> None:
    """exp.yaml."""
    assert resolved("").name == "exp"


def test_the_flat_conf_has_only_the_trainer_s_sections(resolved: Resolve) -> None:
    """Resolved, in plain YAML that any reader reads the same."""
    experiment = resolved("train: {lr: 1e-3, optimizer: 'on'}\nsweep: {grid: {train.lr: [1, 2]}}\n")
    assert yaml.safe_load(experiment.flat_text) == {"train": {"lr": 0.001, "optimizer": "on"}}
    assert experiment.sweep is not None
    assert experiment.sweep.grid == {"train.lr": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        "job: 3\n",
        "job: [1]\n",
        "name: {a: 1}\n",
        "job: {resources: 3}\n",
        "sweep: x\n",
        "job: {code: [1]}\n",
    ],
)
def test_a_section_of_another_shape_is_a_fault_and_no_crash(resolved: Resolve, text: str) -> None:
    """Every shape at every level."""
    assert resolved(text, volumes=False).faults


@pytest.mark.parametrize(
    "text",
    [
        "\x85",
        "a\u2028b",
        "yes",
        "1e-3",
        "0x1F",
        " lead",
        "tail ",
        "#no",
        "é",
        "\U0001f600",
        "a: b",
        "null",
        "- x",
        "{{ x }}",
        "$(A)",
    ],
)
def test_the_flat_conf_reads_back_as_it_was_resolved(resolved: Resolve, text: str) -> None:
    """By the reader that the trainer uses, which follows an older YAML than ours."""
    experiment = resolved(f"data: {{root: {quoted(text)}}}\n")
    assert not experiment.faults
    assert yaml.safe_load(experiment.flat_text) == {"data": {"root": text}}


def test_a_claim_that_is_a_path_is_one_fault_among_the_others(tmp_path: Path) -> None:
    """No backend is asked where such a claim lies, so every fault of the file is told, each at its line."""
    path = tmp_path / "conf.yaml"
    path.write_text("job:\n  retries: many\n  volumes: [{claim: ../x, mount: /runs, as: runs}]\n")

    def place(claim: str, _mount: str) -> str:
        raise AssertionError(f"asked for {claim}")

    found = resolve(path, profile=load("local"), place=place)

    assert {(fault.path, fault.line) for fault in found.faults} >= {
        ("job.retries", 2),
        ("job.volumes[0].claim", 3),
    }
