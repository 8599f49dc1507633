"""YAML as a conf may use it: plain values with their lines, nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.conf.nodes import Origin, find, plain
from launcher.conf.yaml_source import read_file, read_text

_HERE = Origin("file", "a.yaml")


def _plain(text: str) -> Any:
    node, faults = read_text(text, _HERE)
    assert node is not None, faults
    assert not faults
    return plain(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5e-3", 0.0015),
        ("-2", -2),
        ("0.5", 0.5),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("on", "on"),
        ("012", "012"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ('"1e-3"', "1e-3"),
        ("'true'", "true"),
        ("0x10", "0x10"),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    """YAML 1.2: no octal, no sexagesimal, no dates, no `on`; numbers with exponents are numbers."""
    assert _plain(f"a: {text}") == {"a": value}
    assert type(_plain(f"a: {text}")["a"]) is type(value)


def test_infinity_and_nan() -> None:
    """Their YAML names."""
    assert _plain("[.inf, -.inf]") == [math.inf, -math.inf]
    assert math.isnan(_plain(".nan"))


def test_the_text_as_written_is_kept() -> None:
    """1.10 is a version where text is wanted."""
    node, _ = read_text("v: 1.10", _HERE)
    assert node is not None
    found = find(node, ("v",))
    assert found is not None
    assert (found.value, found.text) == (1.1, "1.10")


def test_each_value_knows_its_line() -> None:
    """A value is looked for at its key, also when it begins on a later line."""
    node, _ = read_text("a:\n  b: 1\n  c:\n    - x\n    - y\n", _HERE)
    assert node is not None
    lines = {
        path: found.origin.line
        for path in [("a",), ("a", "b"), ("a", "c"), ("a", "c", 1)]
        if (found := find(node, path))
    }
    assert lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 1): 5}


def test_a_key_that_is_there_twice_is_a_fault_with_both_lines() -> None:
    """PyYAML would keep the last without a word."""
    _, faults = read_text("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n", _HERE)
    assert [str(fault) for fault in faults] == [
        "a.yaml:4: lr: the key is there twice (first on line 2)"
    ]


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("a: !!python/object/apply:os.system ['true']", "tag", 1),
        ("a: 1\nb: !mine x", "tag", 2),
        ("a: &x [*x]", "contains itself", 1),
        ("a: [1", "not YAML", 2),
        ("a: b: c", "not YAML", 1),
        ("a:\n\t- 1", "tabs", 2),
        ("? [a]\n: 1", "key is not a word", 1),
        ('a: "\\ud800"', "Unicode", 1),
        ('a: "\\0"', "NUL", 1),
        ("--- \na: 1\n--- \nb: 1", "not YAML", 3),
    ],
)
def test_what_a_conf_may_not_hold_is_a_fault_with_its_line(text: str, said: str, line: int) -> None:
    """Tags, cycles, broken syntax, several documents, texts that no manifest could carry."""
    node, faults = read_text(text, _HERE)
    assert node is None
    assert len(faults) == 1
    assert said in faults[0].message
    assert faults[0].line == line


def test_a_tower_of_aliases_is_refused_and_not_built() -> None:
    """Nine levels of ten would be 10^9 values."""
    tower = "l0: &l0 [x]\n" + "".join(
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 10)
    )
    node, faults = read_text(tower, _HERE)
    assert node is None
    assert "values" in faults[0].message


def test_deep_nesting_is_a_fault_and_no_crash() -> None:
    """The reader is recursive."""
    node, faults = read_text("[" * 5000, _HERE)
    assert node is None
    assert faults


def test_merge_keys_are_lower_than_own_keys() -> None:
    """`<<` as everywhere; a quoted "<<" is a key like any other."""
    assert _plain("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}")["y"] == {"a": 1, "b": 3}
    assert _plain('{"<<": 1}') == {"<<": 1}


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, not a mapping: one fault each, no traceback."""
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    (tmp_path / "list.yaml").write_text("- a")
    for name, said in [
        ("none.yaml", "No such file"),
        (".", "directory"),
        ("latin.yaml", "UTF-8"),
        ("list.yaml", "mapping"),
    ]:
        node, faults = read_file(tmp_path / name, "file")
        assert node is None
        assert said in faults[0].message


def test_an_empty_file_is_an_empty_conf(tmp_path: Path) -> None:
    """So that `extends` alone, or nothing, is allowed."""
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    node, faults = read_file(tmp_path / "empty.yaml", "file")
    assert node is not None
    assert (plain(node), faults) == ({}, [])


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc<&*$", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(_values)
def test_every_plain_value_survives(value: Any) -> None:
    """What PyYAML writes quoted where it must, we read as it was."""
    assert _plain(yaml.safe_dump({"v": value})) == {"v": value}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_a_value_or_faults_and_never_an_exception(text: str) -> None:
    """The reader is total."""
    node, faults = read_text(text, _HERE)
    assert node is not None or faults
