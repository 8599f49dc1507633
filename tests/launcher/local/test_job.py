"""The Job as a kubelet reads it: expansion, environment, failure rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.backends.local.job import PodIdentity, expand, read_job
from launcher.backends.local.outcome import Ending, judge
from launcher.errors import ClusterError, UserError

POD = PodIdentity(name="a-1", uid="u-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$", "$$"),
        ("$(B)", "$(B)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(A)$(A)", "11"),
        ("$()", "$()"),
    ],
)
def test_dollars_expand_as_kubernetes_has_them(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


@given(st.text(alphabet="$(){}AB \n"))
def test_what_render_doubles_comes_back_as_it_was(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "1", "B": "2"}) == text


def test_variables_see_those_before_them_and_the_pod_sees_itself(
    world: Any, tmp_path: Path
) -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2$(C)"},
        {"name": "C", "value": "3"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "SPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {
            "name": "CONF",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['vidjobs/conf']"}},
        },
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
    ]
    job = read_job(
        [world.job("a", "pass", container={"env": env, "resources": {"limits": {"cpu": "4"}}})]
    )
    seen = job.command(job.trainer, POD, {}, tmp_path).env
    assert seen == {
        "A": "1",
        "B": "12$(C)",
        "C": "3",
        "POD": "a-1",
        "UID": "u-1",
        "SPACE": "here",
        "CONF": "name: a\n",
        "CPU": "4",
    }


def test_places_that_only_a_pod_has_are_left_out(world: Any, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    values = {
        "HOME": "/x",
        "TRITON_CACHE_DIR": f"{workspace}/home/t",
        "PYTHONPATH": f"{workspace}/code/src",
        "OTHER": "/x",
    }
    container = {
        "env": [{"name": name, "value": value} for name, value in values.items()],
        "workingDir": f"{workspace}/code",
        "volumeMounts": [{"name": "workspace", "mountPath": str(workspace)}],
    }
    job = read_job(
        [
            world.job(
                "a",
                "pass",
                container=container,
                pod={"volumes": [{"name": "workspace", "emptyDir": {}}]},
            )
        ]
    )
    assert job.command(job.trainer, POD, {}, tmp_path).env == {
        "PYTHONPATH": f"{workspace}/code/src",
        "OTHER": "/x",
    }


def test_config_maps_and_projected_volumes_become_files(world: Any) -> None:
    sources = [{"configMap": {"name": "diff", "items": [{"key": "d", "path": "code.diff"}]}}]
    pod = {"volumes": [{"name": "conf", "projected": {"sources": sources}}]}
    extra = {"kind": "ConfigMap", "metadata": {"name": "diff"}, "data": {"d": "--- a"}}
    job = read_job([extra, world.job("a", "pass", pod=pod)])
    assert job.files(POD) == {Path(world.backend.conf_dir("a")) / "code.diff": "--- a"}


def test_a_field_that_a_machine_does_not_have_is_refused(world: Any, tmp_path: Path) -> None:
    env = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.qosClass"}}}]
    job = read_job([world.job("a", "pass", container={"env": env})])
    with pytest.raises(ClusterError, match=r"status\.qosClass"):
        job.command(job.trainer, POD, {}, tmp_path)


def test_there_must_be_one_job() -> None:
    with pytest.raises(UserError, match="0 Jobs"):
        read_job([])


@pytest.mark.parametrize(
    ("rule", "container", "code", "action"),
    [
        ({"operator": "In", "values": [64], "containerName": "trainer"}, "trainer", 64, "FailJob"),
        ({"operator": "In", "values": [64], "containerName": "trainer"}, "code", 64, "Count"),
        ({"operator": "In", "values": [64]}, "code", 64, "FailJob"),
        ({"operator": "In", "values": [64]}, "trainer", 65, "Count"),
        ({"operator": "NotIn", "values": [64]}, "trainer", 65, "FailJob"),
        ({"operator": "NotIn", "values": [64]}, "trainer", 64, "Count"),
    ],
)
def test_the_first_matching_rule_decides(
    world: Any, rule: dict[str, Any], container: str, code: int, action: str
) -> None:
    rules = [
        {"action": "FailJob", "onExitCodes": rule},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    ]
    job = read_job([world.job("a", "pass", podFailurePolicy={"rules": rules})])
    assert job.failure_action(container, code) == action


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (64, False),
        (65, False),
        (73, False),
        (76, False),
        (70, True),
        (75, True),
        (1, True),
        (137, True),
    ],
)
def test_the_trainers_exit_codes_decide_about_a_retry(world: Any, code: int, again: bool) -> None:
    job = read_job([world.job("a", "pass")])
    outcome = judge(job, Ending(container="trainer", code=code), 0)
    assert outcome.again is again
    assert outcome.again or outcome.fix
    assert not judge(job, Ending(container="trainer", code=code), 2).again


def test_an_ignored_failure_is_tried_again_and_not_counted(world: Any) -> None:
    rules = [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}}]
    job = read_job([world.job("a", "pass", podFailurePolicy={"rules": rules}, backoffLimit=0)])
    outcome = judge(job, Ending(container="trainer", code=75), 0)
    assert outcome.again
    assert outcome.failures == 0


@pytest.mark.parametrize(
    ("code", "said", "shown"),
    [
        (65, {"message": "no such clip"}, True),
        # the log's last line: whatever it was about
        (137, {"message": "train Loss: 0.1 epoch=1"}, False),
        (137, {"cause": "stopped", "message": "too slow"}, True),  # the trainer's own word
    ],
)
def test_the_last_line_of_what_was_killed_is_not_told_as_its_cause(
    world: Any, code: int, said: dict[str, str], shown: bool
) -> None:
    outcome = judge(
        read_job([world.job("a", "pass")]),
        Ending(container="trainer", code=code, termination=said),
        0,
    )
    assert (said["message"] in outcome.cause) is shown
