"""The flat conf: one reader, every fault at once, and nothing lost on the way through a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainer import config as conf
from trainer.config import Config, TrainConf
from trainer.errors import ConfFault


def faults_of(raw: dict[str, object]) -> dict[str, str]:
    return {fault.path: str(fault) for fault in conf.parse(raw)[1]}


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    """PyYAML reads `1e-3` as a string; the field is a float."""
    raw = yaml.safe_load("train: {lr: 1e-3, epochs: '5', milestones: [1e1]}")

    parsed, faults = conf.parse(raw)

    assert not faults
    assert (parsed.train.lr, parsed.train.epochs, parsed.train.milestones) == (1e-3, 5, (10,))


@pytest.mark.parametrize(
    ("raw", "path", "says"),
    [
        ({"train": {"lrr": 1}}, "train.lrr", 'did you mean "lr"'),
        ({"trian": {}}, "trian", 'did you mean "train"'),
        ({"train": {"epochs": 2.5}}, "train.epochs", "not a whole number"),
        ({"train": {"epochs": True}}, "train.epochs", "not a whole number"),
        ({"train": {"lr": "fast"}}, "train.lr", "not a number"),
        ({"train": {"optimizer": "adm"}}, "train.optimizer", 'did you mean "adam"'),
        ({"train": [1]}, "train", "not a mapping"),
        ({"data": {"root": None}}, "data.root", "not text"),
        ({"data": {"root": "${data}/TinyVIRAT"}}, "data.root", "not resolved"),
        ({"extends": "base.yaml"}, "extends", "only the launcher"),
        ({"compute": {"compile": "maybe"}}, "compute.compile", "not true or false"),
    ],
)
def test_each_kind_of_mistake_is_named_with_its_value(
    raw: dict[str, object], path: str, says: str
) -> None:
    assert says in faults_of(raw)[path]


def test_all_faults_are_reported_together() -> None:
    assert set(faults_of({"train": {"lr": "x", "epocs": 1}, "data": {"size": "y"}})) == {
        "train.lr",
        "train.epocs",
        "data.size",
    }


def test_options_of_the_model_stand_beside_its_name() -> None:
    parsed, faults = conf.parse(
        {"model": {"name": "i3d", "mode": "32x112", "init": {"i3d": "a.pt"}, "freeze": ["i3d"]}}
    )

    assert not faults
    assert parsed.model.options == {"mode": "32x112"}
    assert parsed.model.init == {"i3d": "a.pt"}


def test_overrides_win_and_a_bad_one_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train: {lr: 0.1}\n")

    raw, faults = conf.read(path, ["train.lr=1e-4", "data.root=/d", "nonsense"])

    assert conf.parse(raw)[0].train.lr == 1e-4
    assert [str(fault) for fault in faults] == [
        "nonsense: 'nonsense' is not of the form section.key=value"
    ]


@pytest.mark.parametrize(
    "text", ["a: [", "- 1\n", "\x00", "!!python/object/apply:os.system ['true']"]
)
def test_a_file_that_is_no_conf_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)

    with pytest.raises(ConfFault, match=r"c\.yaml"):
        conf.read(path)


@pytest.mark.parametrize(
    ("text", "inputs"),
    [("-", ("-",)), ("talk.mp4", ("talk.mp4",)), ("0", ("0",)), ("[a.mp4, -]", ("a.mp4", "-"))],
)
def test_one_thing_is_a_list_of_one(text: str, inputs: tuple[str, ...], tmp_path: Path) -> None:
    """As people type it: --set infer.input=talk.mp4."""
    path = tmp_path / "c.yaml"
    path.write_text("")
    raw, faults = conf.read(path, [f"infer.input={text}"])
    config, more = conf.parse(raw)
    assert (config.infer.input, faults + more) == (inputs, [])


@given(
    train=st.builds(
        TrainConf,
        epochs=st.integers(1, 10**6),
        lr=st.floats(1e-9, 10, allow_nan=False),
        optimizer=st.sampled_from(["adam", "adamw", "sgd"]),
        milestones=st.lists(st.integers(0, 100)).map(tuple),
        keep_weights=st.text(max_size=8),
    )
)
def test_a_dumped_conf_reads_back_the_same(train: TrainConf) -> None:
    whole = Config(train=train)

    again, faults = conf.parse(yaml.safe_load(conf.dump(whole)))

    assert again == whole or "${" in train.keep_weights
    assert not faults or "${" in train.keep_weights


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    )
)
def test_no_value_makes_the_reader_fail(value: object) -> None:
    conf.parse(
        {
            "train": {"lr": value, "milestones": value},
            "data": {"root": value},
            "compute": {"workers": value},
            "model": {"init": value},
        }
    )
