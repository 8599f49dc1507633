"""`sweep.where`: what it can say, and that nothing else can be said with it."""

from __future__ import annotations

import ast
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launcher.conf import where
from launcher.conf.where import Refused, parse

VALUES: dict[str, Any] = {
    "model.read_at": 2,
    "model.apply_at": 5,
    "model.name": "i3d",
    "train.lr": 0.01,
    "train.nesterov": True,
    "n": [1, 2],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.read_at <= model.apply_at", True),
        ("model.read_at + 2 * 2 == model.apply_at + 1", True),
        ("-model.read_at < 0 and not model.read_at > model.apply_at", True),
        ("1 < model.read_at < 2", False),
        ("model.apply_at % model.read_at == 1 or 1 / 0 == 1", True),
        ("model.name in ['i3d', 'c3d'] and model.name != \"vgg16\"", True),
        ("model.read_at not in (0, 1)", True),
        ("train.nesterov and train.nesterov == true and not false", True),
        ("train.lr >= 1e-2\n  and train.lr < .1", True),
        ("2 in n", True),
        ("'3' in model.name", True),
    ],
)
def test_it_says_what_it_looks_like(text: str, expected: bool) -> None:
    assert parse(text).holds(VALUES) is expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "model.read_at <=",
            "model.read_at = 1",
            "a b",
            "(" * 900,
            "-" * 990 + "1 < 2",
            "\ud800 == 1",
            "\0",
        ),
        *(
            "__import__('os')",
            "model.read_at.real()",
            "(1).real == 1",
            "[x for x in n]",
            "n[0] == 1",
            "lambda: 1",
            "f'{n}' == ''",
        ),
        *(
            "2 ** 2 == 4",
            "1 << 9 == 1",
            "~1 == 1",
            "1 is 1",
            "a if b else c",
            "{1: 2}",
            "{1}",
            "(a := 1)",
            "b'x' == 1",
            "1j == 1",
            "... == 1",
        ),
        *("None == 1", "*n == 1", "'x'.upper() == 'X'", "1 " + "+ 1" * 400),
    ],
)
def test_all_else_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(Refused):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "model.read_at",
        "'a'",
        "1 < 'a'",
        "1 / 0 == 1",
        "true + 1 == 2",
        "'a' * 3 == 'aaa'",
        "not 1",
        "1 in 2",
    ],
)
def test_what_has_no_meaning_for_the_values_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse(text).holds(VALUES)


def test_it_names_its_keys() -> None:
    assert parse("model.read_at < 3 and (x in [model.read_at, a.b.c]) == true").keys == (
        "model.read_at",
        "x",
        "a.b.c",
    )


_ATOMS = st.sampled_from(
    [
        "model.read_at",
        "train.lr",
        "1",
        "0",
        "1e308",
        "'a'",
        "true",
        "[1, 'a']",
        "9" * 90,
        "model.name",
        "n",
    ]
)
_OPERATORS = (
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not in",
    "and",
    "or",
)
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(_OPERATORS), inner),
        st.builds("(not {})".format, inner),
        st.builds("(-{})".format, inner),
    ),
    max_leaves=12,
)


@given(_EXPRESSIONS)
def test_any_expression_is_true_false_or_refused_as_python_has_it(text: str) -> None:
    """Total, and where it gives an answer the same as Python's own."""
    try:
        mine = parse(text).holds(VALUES)
    except Refused:
        return
    named = {
        "true": True,
        "false": False,
        "n": VALUES["n"],
        "model": type("m", (), {"read_at": 2, "name": "i3d"}),
        "train": type("t", (), {"lr": 0.01}),
    }
    assert mine == eval(text, {"__builtins__": {}}, named)


@given(st.text(max_size=80))
@example("a.b.c(")
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        parse(text)


def test_the_longest_expression_is_quick() -> None:
    text = " or ".join(["model.read_at * 9 < 1"] * 40)
    began = time.perf_counter()
    assert not parse(text).holds(VALUES)
    assert time.perf_counter() - began < 0.5
    assert len(text) <= where.LONGEST


def test_nothing_of_python_is_called() -> None:
    """No eval, exec, compile or getattr in the module that reads what people write."""
    tree = ast.parse(Path(where.__file__).read_text(encoding="utf-8"))
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "compile", "getattr", "__import__"}
