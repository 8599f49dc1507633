"""A conf's `sweep:` as trials, and as one Indexed Job."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backend_base import Phase
from launcher.backends.kube.backend import KubeBackend
from launcher.backends.kube.status import Facts, run_status
from launcher.backends.local.backend import LocalBackend
from launcher.commands import lint, submit
from launcher.conf.resolve import resolve
from launcher.errors import ConfError
from launcher.indexes import parse_ranges
from launcher.plan import Plan, plan
from launcher.profiles import load
from launcher.sweep import Trials, expand, shown

ROOT = Path(__file__).parents[2]
CONF = """\
name: exp
data: {name: tinyvirat, root: "${data}/T"}
model: {name: transformer_resizer_i3d, read_at: 2, apply_at: 2}
job:
  image: registry.example/v:1
  code: image
  volumes: [{claim: v, mount: /runs, as: runs}, {claim: d, mount: /data, as: data}]
sweep:
"""


def trials_of(folder: Path, sweep: Any, *sets: str) -> Trials:
    """The trials of CONF with this `sweep:`."""
    text = (
        sweep
        if isinstance(sweep, str)
        else yaml.safe_dump({"sweep": sweep}, sort_keys=False).partition("\n")[2]
    )
    (folder / "exp.yaml").write_text(CONF + text)
    experiment = resolve(
        folder / "exp.yaml",
        profile=load("nautilus"),
        place=lambda _, mount: mount,
        sets=sets,
        environ={},
    )
    return expand(experiment.sound())


def made(folder: Path, *sets: str, verb: str = "train", conf: str = "exp.yaml") -> Plan:
    profile = load("nautilus")
    return plan(
        verb, folder / conf, profile=profile, backend=KubeBackend(profile), sets=sets, sweep=True
    )


def test_the_45_places_to_read_and_apply() -> None:
    """The shipped conf: every combination with read_at <= apply_at, in the order of the published names."""
    profile = load("local")
    backend = LocalBackend()
    experiment = resolve(
        ROOT / "conf/tinyvirat/sweep_read_apply.yaml",
        profile=profile,
        place=backend.claim_path,
        environ={},
    )
    trials = expand(experiment)
    assert trials.keys == ("model.read_at", "model.apply_at")
    assert list(trials.rows) == [(read, apply) for read in range(9) for apply in range(read, 9)]
    assert len(trials) == 45


def test_parts_are_crossed_in_their_order_and_a_null_leaves_the_confs_value(tmp_path: Path) -> None:
    """The list outermost, the last key of the grid fastest; what comes twice comes once."""
    trials = trials_of(
        tmp_path,
        {
            "list": [{"model.read_at": 0, "train.lr": 0.1}, {"model.read_at": 1}],
            "grid": {"train.seed": [1, 2, 1], "train.batch": [4]},
        },
    )
    assert trials.keys == ("model.read_at", "train.lr", "train.seed", "train.batch")
    assert trials.rows == ((0, 0.1, 1, 4), (0, 0.1, 2, 4), (1, None, 1, 4), (1, None, 2, 4))
    assert shown(trials.changes(2)) == "model.read_at=1 train.seed=1 train.batch=4"
    assert Trials.read(trials.text) == trials


def test_where_may_name_keys_of_the_conf_and_set_changes_a_grid(tmp_path: Path) -> None:
    trials = trials_of(
        tmp_path, {"where": "model.read_at <= model.apply_at"}, "sweep.grid.model.read_at=[0, 2, 3]"
    )
    assert trials.rows == ((0,), (2,))


def test_samples_depend_on_seed_key_and_number_alone(tmp_path: Path) -> None:
    """More samples and other keys leave the others as they are."""
    space = {
        "train.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "train.batch": [8, 16],
        "data.frames": {"low": 8, "high": 9, "whole": True},
    }
    few = trials_of(tmp_path, {"random": {"samples": 20, "seed": 3, "space": space}})
    many = trials_of(
        tmp_path,
        {
            "random": {
                "samples": 40,
                "seed": 3,
                "space": {"data.size": {"low": 20.0, "high": 30.0}, **space},
            }
        },
    )
    again = [
        {key: value for key, value in many.changes(number).items() if key != "data.size"}
        for number in range(20)
    ]
    assert [few.changes(number) for number in range(20)] == again
    assert all(1e-5 <= few.changes(number)["train.lr"] <= 1e-2 for number in range(20))
    assert {few.changes(number)["data.frames"] for number in range(20)} == {8, 9}
    assert sum(few.changes(number)["train.lr"] < 3.2e-4 for number in range(20)) in range(4, 17)
    assert trials_of(tmp_path, {"random": {"samples": 20, "seed": 4, "space": space}}) != few


@pytest.mark.parametrize(
    ("sweep", "faults"),
    [
        ("  grid: {model.read_at: [1]}\n  where: model.raed_at < 2\n", ["exp.yaml:10: sweep.where: .*did you mean \"model.read_at\""]),
        ("  grid:\n    modle.read_at: [1]\n    lr: 3\n", ["exp.yaml:10: .*did you mean \"model\"", "exp.yaml:11: .*not a list of values"]),
        ("  grid: {job.image: [a]}\n", ["all trials are pods of one Job"]),
        ("  grid: {prepare.shards: [1, 2]}\n", ["trials or shards, not both"]),
        ("  grid: {model: [a]}\n", ["is a section, not a key path"]),
        ("  grid: {train.lr: []}\n", ["is empty"]),
        ("  grid: {train.lr: [1]}\n  list: [{train.lr: 2}]\n", ["varies train.lr twice"]),
        ("  parallelism: 4\n", ["exp.yaml:8: sweep: varies nothing"]),
        ("  grid: {train.lr: [1, 2]}\n  where: train.lr > 2\n", ["is true of no combination"]),
        ("  grid: {train.lr: [a, 2]}\n  where: train.lr > 1\n", ["of train.lr=a: cannot be worked out"]),
        ("  grid: {train.lr: [1]}\n  where: __import__('os')\n", ["exp.yaml:10: sweep.where: .*not allowed"]),
        ("  grid: {train.lr: [1]}\n  parallelism: 0\n", ["sweep.parallelism: is 0"]),
        ("  random: {samples: 2, space: {train.lr: {low: 1, high: 1}}}\n", ["low and high must be numbers that ascend"]),
        ("  random: {samples: 0, space: {train.lr: {low: 0, high: 1, log: true}}}\n", ["samples: is 0", "above 0"]),
        ("  random: {samples: 2, space: {train.lr: {from: 0, to: 1}}}\n", ["a list to choose from"]),
        ("  random: {samples: 2}\n", ["has no space"]),
        ("  gird: {a: [1]}\n", ["did you mean \"grid\""]),
        (f"  grid: {{{', '.join(f'train.k{n}: [1, 2, 3, 4, 5]' for n in range(9))}}}\n", ["more than 200000 combinations"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: str, faults: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfError) as caught:
        trials_of(Path(), sweep)
    told = str(caught.value)
    for fault in faults:
        assert re.search(fault, told), told


_PLAIN = st.one_of(
    st.integers(-5, 5),
    st.sampled_from(["a", "$(X)", "{{ x }}", "é\u2028", "true", "1e-3", "x: y"]),
    st.booleans(),
    st.floats(-1, 1),
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["train.lr", "model.name", "data.size"]),
        st.lists(_PLAIN, min_size=1, max_size=4),
        min_size=1,
    )
)
def test_expansion_is_the_same_each_time_and_travels_whole(
    tmp_path_factory: pytest.TempPathFactory, grid: dict[str, list[Any]]
) -> None:
    """Whatever the values are: they come out of the manifest as they went in."""
    folder = tmp_path_factory.mktemp("conf")
    trials = trials_of(folder, {"grid": grid})
    assert trials_of(folder, {"grid": grid}) == trials
    sent = made(folder).manifests[0]["spec"]["template"]["metadata"]["annotations"][
        "vidjobs/trials"
    ]
    assert Trials.read(sent) == trials
    assert len(trials) == len({json.dumps(row) for row in trials.rows})


def test_a_sweep_is_one_indexed_job(tmp_path: Path) -> None:
    """Each trial is tried again by itself, and one that cannot succeed does not stop the others; a full volume does."""
    trials_of(tmp_path, {"grid": {"model.read_at": [0, 1, 2]}, "parallelism": 2, "max_failed": 1})
    plan_ = made(tmp_path)
    (job,) = plan_.manifests
    spec = job["spec"]
    assert [
        spec.get(key)
        for key in (
            "completionMode",
            "completions",
            "parallelism",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        )
    ] == [*("Indexed", 3, 2, 5, 1)]
    rules = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules == {"FailIndex": [64, 65, 76], "FailJob": [73]}
    assert spec["template"]["spec"]["containers"][0]["args"][-2:] == [
        "--trials",
        "/vidjobs/conf/trials.jsonl",
    ]
    assert plan_.warnings == ()


@pytest.mark.parametrize(
    ("verb", "sets", "fault"),
    [
        ("train", ("job.nodes=2",), "job.nodes: is 2, and this is a sweep"),
        ("prepare", ("prepare.shards=3",), "prepare.shards: is 3, and this is a sweep"),
        ("train", ("sweep=null",), "sweep: the conf has none"),
    ],
)
def test_a_sweep_of_nodes_or_shards_is_a_conf_error(
    tmp_path: Path, verb: str, sets: tuple[str, ...], fault: str
) -> None:
    trials_of(tmp_path, {"grid": {"model.read_at": [0, 1, 2]}})
    with pytest.raises(ConfError, match=fault):
        made(tmp_path, *sets, verb=verb)


def test_a_fault_of_a_trial_names_it_and_the_line_that_gave_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer checks all trials in one process; what all of them have is said once."""
    monkeypatch.chdir(tmp_path)
    trials_of(Path(), "  grid:\n    model.read_at: [0, 9, 11]\n", "job.code=image")
    with pytest.raises(ConfError) as caught:
        submit.run(
            "train",
            Path("exp.yaml"),
            sets=["train.epochs=0"],
            sweep=True,
            cluster="local",
            dry_run="client",
        )
    faults = {fault.path: str(fault) for fault in caught.value.faults}
    assert faults["model.read_at"].startswith("exp.yaml:10: model.read_at: ")
    assert ", in trial 1 (model.read_at=9)" in str(caught.value)
    assert "in trial" not in faults["train.epochs"]


def test_lint_reads_the_sweep_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own faults, and those of each trial."""
    monkeypatch.chdir(tmp_path)
    trials_of(Path(), "  grid:\n    model.read_at: [0, 9]\n")
    assert lint.run(Path("exp.yaml"), cluster="local") == 2
    assert "exp.yaml:10: error conf: model.read_at" in capsys.readouterr().out.replace("  ", " ")
    assert lint.run(Path("exp.yaml"), cluster="local", sets=["sweep.where=model.raed_at < 9"]) == 2
    assert 'did you mean "model.read_at"' in capsys.readouterr().out


def test_a_thousand_trials_are_one_object_and_expanded_in_no_time(tmp_path: Path) -> None:
    """All that submit does before it asks anybody; the whole of it is measured in tests/bench."""
    grid = {
        "model.read_at": list(range(9)),
        "train.lr": [round(1e-4 * step, 6) for step in range(1, 113)],
    }
    trials_of(tmp_path, {"grid": grid, "parallelism": 8})
    began = time.perf_counter()
    plan_ = made(tmp_path)
    took = time.perf_counter() - began
    assert len(plan_.manifests) == 1
    assert plan_.manifests[0]["spec"]["completions"] == 1008
    assert len(plan_.spec.trials) < 20_000
    assert took < 1.0


def test_trials_that_do_not_fit_on_a_job_are_a_conf_error(tmp_path: Path) -> None:
    trials_of(tmp_path, {"grid": {"model.init": ["x" * 100 + str(n) for n in range(3000)]}})
    with pytest.raises(ConfError, match="the conf and its trials have"):
        made(tmp_path)


def _pod(index: int, phase: str, created: int = 0) -> dict[str, Any]:
    ended = {
        "terminated": {
            "exitCode": 76,
            "reason": "Error",
            "startedAt": "x",
            "message": '{"cause": "diverged", "message": "loss is nan"}',
        }
    }
    state = {"Running": {"running": {}}, "Failed": ended, "Pending": {"waiting": {}}}[phase]
    metadata = {
        "name": f"p-{index}-{created}",
        "uid": f"{index}{created}",
        "creationTimestamp": f"2026-01-01T00:00:{created:02d}Z",
    }
    return {
        "metadata": metadata
        | {"annotations": {"batch.kubernetes.io/job-completion-index": str(index)}},
        "spec": {"containers": [{"name": "trainer"}]}
        | ({} if phase == "Pending" else {"nodeName": "n"}),
        "status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]},
    }


def test_the_cluster_tells_of_each_trial() -> None:
    """The Job knows those that are done, whose pods are not asked for; an earlier attempt of one of these says nothing any more."""
    template = {"metadata": {"annotations": {"vidjobs/trials": '["a"]\n'}}}
    spec = {
        "completionMode": "Indexed",
        "completions": 45,
        "backoffLimitPerIndex": 2,
        "template": template,
    }
    job: dict[str, Any] = {
        "metadata": {"name": "r"},
        "spec": spec,
        "status": {"completedIndexes": "0-2,5", "failedIndexes": "3,17"},
    }
    pods = [
        _pod(1, "Failed"),
        _pod(3, "Failed"),
        _pod(4, "Running", 1),
        _pod(6, "Failed"),
        _pod(6, "Pending", 2),
        _pod(7, "Failed", 1),
    ]
    status = run_status("r", Facts(job=job, pods=pods))
    assert {index: str(each.phase) for index, each in status.indexes.items()} == {
        **dict.fromkeys((0, 1, 2, 5), "succeeded"), **dict.fromkeys((3, 17), "failed"), 4: "running", 6: "pending", 7: "retrying",
    }  # fmt: skip
    assert "loss is nan" in status.indexes[3].cause
    assert (status.phase, status.cause) == (
        Phase.RUNNING,
        "4 of 45 trials done, 1 run, 2 failed (3, 17)",
    )
    job["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "FailedIndexes"}]
    status = run_status("r", Facts(job=job, pods=pods[:2]))
    assert status.phase is Phase.FAILED
    assert status.cause.startswith("2 of 45 trials failed (3, 17)")


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_read_as_kubernetes_writes_them(numbers: set[int]) -> None:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    assert parse_ranges(text) == sorted(numbers)
