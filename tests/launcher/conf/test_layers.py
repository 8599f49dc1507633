"""Which layer wins, and where each value says it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from launcher.conf.explain import settings
from launcher.conf.nodes import Origin

Resolve = Callable[..., Any]


def test_later_layers_win_key_by_key(resolved: Resolve) -> None:
    """extends < file < environment < --set; mappings merge."""
    experiment = resolved(
        "extends: base.yaml\ntrain: {lr: 2, batch: 2}\n",
        files={"base.yaml": "train: {lr: 1, batch: 1, epochs: 1, seed: 1}"},
        environ={"VIDJOBS_TRAIN__BATCH": "3", "VIDJOBS_TRAIN__SEED": "3"},
        sets=["train.seed=4"],
    )
    assert not experiment.faults
    assert experiment.trainer["train"] == {"lr": 2, "batch": 3, "epochs": 1, "seed": 4}


def test_lists_replace(resolved: Resolve) -> None:
    """No appending: what is written is what there is."""
    experiment = resolved(
        "extends: base.yaml\ntrain: {milestones: [3]}\n",
        files={"base.yaml": "train: {milestones: [1, 2]}"},
    )
    assert experiment.trainer["train"]["milestones"] == [3]


def test_null_unsets_a_key_of_a_lower_layer(resolved: Resolve) -> None:
    """As in a JSON merge patch; the default is back."""
    experiment = resolved(
        "extends: base.yaml\nmodel: {init: null}\ntrain:\n",
        files={"base.yaml": "model: {init: x, name: m}\ntrain: {lr: 1}"},
    )
    assert experiment.trainer == {"model": {"name": "m"}}


def test_extends_is_relative_to_its_own_file_and_the_last_of_a_list_wins(resolved: Resolve) -> None:
    """conf/tinyvirat/x.yaml says ../base/y.yaml, which says z.yaml beside itself."""
    files = {
        "base/a.yaml": "extends: b.yaml\ntrain: {lr: 1}",
        "base/b.yaml": "train: {lr: 0, epochs: 7}",
        "c.yaml": "train: {lr: 3}",
    }
    experiment = resolved("extends: [base/a.yaml, c.yaml]\n", files=files)
    assert experiment.trainer["train"] == {"lr": 3, "epochs": 7}


def test_the_same_base_twice_is_no_circle(resolved: Resolve) -> None:
    """A diamond."""
    files = {"a.yaml": "extends: c.yaml", "b.yaml": "extends: c.yaml", "c.yaml": "train: {lr: 3}"}
    assert not resolved("extends: [a.yaml, b.yaml]\n", files=files).faults


def test_a_circle_is_a_fault_that_names_the_way_round(resolved: Resolve) -> None:
    """And reading ends."""
    experiment = resolved("extends: a.yaml\n", files={"a.yaml": "\nextends: exp.yaml"})
    assert [str(fault) for fault in experiment.faults] == [
        "a.yaml:2: extends: the files extend each other in a circle: exp.yaml -> a.yaml -> exp.yaml"
    ]


def test_a_missing_base_gets_a_proposal(resolved: Resolve) -> None:
    """The usual mistake is a typing error."""
    experiment = resolved("extends: bse.yaml\n", files={"base.yaml": ""})
    assert "exp.yaml:1: extends: there is no file" in str(experiment.faults[0])
    assert 'did you mean "base.yaml"?' in str(experiment.faults[0])


@pytest.mark.parametrize("item", ["train.lr", "=1", "a..b=1", ".a=1"])
def test_a_set_of_another_form_is_a_fault(resolved: Resolve, item: str) -> None:
    """Named with what was typed."""
    assert item in str(resolved(sets=[item]).faults[0])


def test_a_set_takes_yaml_and_an_empty_value_is_empty_text(resolved: Resolve) -> None:
    """Lists, numbers and texts with `=` in them."""
    experiment = resolved(
        sets=["train.milestones=[1, 2]", "train.lr=1e-3", "data.root=", "job.env.A=x=y"]
    )
    assert not experiment.faults
    assert experiment.trainer == {
        "train": {"milestones": [1, 2], "lr": 0.001},
        "data": {"root": ""},
    }
    assert experiment.job.env == {"A": "x=y"}


def test_a_set_of_a_dash_is_text(resolved: Resolve) -> None:
    """Frames on stdin; to YAML a dash is a list of nothing."""
    assert resolved(sets=["infer.input=-"]).trainer == {"infer": {"input": "-"}}


def test_a_set_that_is_not_yaml_is_a_fault(resolved: Resolve) -> None:
    """It names the option."""
    assert str(resolved(sets=["train.lr=[1"]).faults[0]).startswith(
        "--set train.lr: it is not YAML"
    )


def test_variables_without_a_double_underscore_are_no_conf(resolved: Resolve) -> None:
    """VIDJOBS_CLUSTER and what the trainer's pod has must not end up in a conf."""
    assert not resolved(
        environ={"VIDJOBS_CLUSTER": "x", "VIDJOBS_POD_UID": "y", "OTHER__A": "z"}
    ).faults


def test_every_value_knows_its_layer_file_and_line(resolved: Resolve) -> None:
    """What `conf --explain` prints."""
    experiment = resolved(
        "extends: base.yaml\ndata: {root: /d}\n",
        files={"base.yaml": "\ntrain:\n  lr: 1\n"},
        environ={"VIDJOBS_TRAIN__SEED": "3"},
        sets=["train.batch=4"],
        given=[(Origin("--name", "--name"), {"name": "n"})],
    )
    said = {each.path: each.said for each in settings(experiment.tree)}
    assert said["train.lr"] == "extends base.yaml:3"
    assert said["data.root"] == "file exp.yaml:2"
    assert said["train.seed"] == "environment VIDJOBS_TRAIN__SEED"
    assert said["train.batch"] == "--set train.batch"
    assert said["name"] == "--name"
    assert said["job.retries"] == "default"
    assert said["job.volumes[0].claim"] == "file exp.yaml:3"
