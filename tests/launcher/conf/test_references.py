"""`${runs}`, `${data}` and `${section.key}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.conf.nodes import Origin, from_plain, plain
from launcher.conf.references import substitute

Resolve = Callable[..., Any]


def test_places_come_from_the_volumes(resolved: Resolve) -> None:
    """`as:` gives the mount, wherever a layer uses it."""
    experiment = resolved('data: {root: "${data}/T"}\n', sets=["model.init=${runs}/m.pt"])
    assert experiment.trainer == {"data": {"root": "/mnt/data/T"}, "model": {"init": "/runs/m.pt"}}


def test_staged_data_is_where_it_is_staged_to(resolved: Resolve) -> None:
    """The trainer reads the copy."""
    volumes = (
        "[{claim: v, mount: /runs, as: runs}, {claim: d, mount: /m, as: data, stage_to: /local}]"
    )
    text = f"job: {{image: i, code: image, volumes: {volumes}}}\n"
    assert (
        resolved(text + 'data: {root: "${data}"}\n', volumes=False).trainer["data"]["root"]
        == "/local"
    )


def test_a_reference_alone_keeps_its_type_and_follows_the_highest_layer(resolved: Resolve) -> None:
    """Substituted at the end, so that --set of the target moves what refers to it."""
    experiment = resolved(
        'data: {size: 28}\nmodel: {in_size: "${data.size}", tag: "s${data.size}"}\n',
        sets=["data.size=56"],
    )
    assert experiment.trainer["model"] == {"in_size": 56, "tag": "s56"}


def test_references_to_references_are_followed(resolved: Resolve) -> None:
    """None is left for the trainer, which would refuse it."""
    experiment = resolved('data: {root: "${data}/T", classes: "${data.root}/c.txt"}\n')
    assert experiment.trainer["data"]["classes"] == "/mnt/data/T/c.txt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"${dta}/x"', 'did you mean "data"?'),
        ('"${data.rot}"', 'did you mean "data.root"?'),
        ('"${train}"', "is not set"),
        ('"${job.volumes}"', "is a list, not one value"),
        ('"${open"', "without its end"),
        ('"${data.root}"', "go in a circle: data.root -> data.root"),
        ('"${}"', "is not set"),
    ],
)
def test_a_reference_that_means_nothing_is_a_fault_where_it_stands(
    resolved: Resolve, text: str, said: str
) -> None:
    """With a proposal when one is near."""
    experiment = resolved(f"data: {{root: {text}}}\n")
    assert len(experiment.faults) == 1
    assert str(experiment.faults[0]).startswith("exp.yaml:1: data.root: ")
    assert said in str(experiment.faults[0])


def test_without_a_data_volume_the_fault_says_what_to_write(resolved: Resolve) -> None:
    """`${data}` is set nowhere else."""
    text = 'job: {image: i, code: image, volumes: [{claim: v, mount: /runs, as: runs}]}\ndata: {root: "${data}"}\n'
    assert "give one of job.volumes `as: data`" in str(resolved(text, volumes=False).faults[0])


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_what_a_reference_brings_in_is_not_read_again(value: str) -> None:
    """A place whose path looks like a reference stays as it is."""
    tree, faults = substitute(
        from_plain({"a": "${runs}", "b": "x${runs}"}, Origin("file")), {"runs": value}
    )
    assert not faults
    assert plain(tree) == {"a": value, "b": f"x{value}"}
