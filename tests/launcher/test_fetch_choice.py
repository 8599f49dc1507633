"""Which files WHAT, --epochs, --last and --best mean."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.backend_base import RemoteFile
from launcher.errors import UserError
from launcher.fetch_choice import Which, choose, parse_epochs

PATHS = [
    ".lock",
    "checkpoints/.epoch-000004.pt.tmp",
    "checkpoints/epoch-000001.pt",
    "checkpoints/epoch-000002.pt",
    "checkpoints/epoch-000003.pt",
    "checkpoints/manifest.json",
    "checkpoints/state-000003.pt",
    "conf.yaml",
    "figures/loss.png",
    "figures/resizer/a/input-001.png",
    "metrics.jsonl",
    "predictions/metrics.json",
    "predictions/predictions.npy",
    "train.log",
]
MANIFEST = {"last": "epoch-000003.pt", "best": "epoch-000002.pt"}


def names(what: str, **which: object) -> list[str]:
    listed = [RemoteFile(path=path, size=1, mtime_ns=1) for path in PATHS]
    return [file.path for file in choose(what, Which(**which), listed, MANIFEST)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (
            "checkpoints",
            [
                "checkpoints/epoch-000001.pt",
                "checkpoints/epoch-000002.pt",
                "checkpoints/epoch-000003.pt",
                "checkpoints/manifest.json",
            ],
        ),
        ("predictions", ["predictions/metrics.json", "predictions/predictions.npy"]),
        ("metrics", ["metrics.jsonl"]),
        ("logs", ["train.log"]),
        ("figures", ["figures/loss.png", "figures/resizer/a/input-001.png"]),
        ("checkpoints/state-*", ["checkpoints/state-000003.pt"]),
        ("predictions/*.npy", ["predictions/predictions.npy"]),
        ("figures/resizer/", ["figures/resizer/a/input-001.png"]),
        ("conf.yaml", ["conf.yaml"]),
    ],
)
def test_words_and_globs(what: str, expected: list[str]) -> None:
    assert names(what) == expected


def test_all_leaves_out_what_is_hidden_or_not_whole() -> None:
    assert names("all") == PATHS[2:]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"best": True}, [2]),
        ({"last": True}, [3]),
        ({"best": True, "last": True}, [2, 3]),
        ({"epochs": "1"}, [1]),
        ({"epochs": "1,3"}, [1, 3]),
        ({"epochs": "2-9"}, [2, 3]),
        ({"epochs": "1", "best": True}, [1, 2]),
    ],
)
def test_chosen_checkpoints_come_without_anything_else(
    which: dict[str, object], expected: list[int]
) -> None:
    assert names("checkpoints", **which) == [
        f"checkpoints/epoch-{epoch:06d}.pt" for epoch in expected
    ]


@pytest.mark.parametrize(
    ("what", "which", "message", "hint"),
    [
        ("checkpoint", {}, "nothing that can be fetched", "checkpoints"),
        ("weights", {}, "nothing that can be fetched", "predictions"),
        ("report", {}, "has nothing", "vidjobs report"),
        ("*.onnx", {}, "has nothing", "checkpoints"),
        ("metrics", {"best": True}, "choose checkpoints", "--best"),
        ("checkpoints", {"epochs": "7"}, "no checkpoint of epoch 7", "1 to 3"),
        ("checkpoints", {"epochs": "7-9,1"}, "no checkpoint of epoch 7", "1 to 3"),
        ("checkpoints", {"epochs": "x"}, '"x" is no epoch', "3,10-20"),
        ("checkpoints", {"epochs": "3-1"}, '"3-1" is no epoch', "3,10-20"),
    ],
)
def test_what_cannot_be_meant_is_explained(
    what: str, which: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        names(what, **which)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_before_the_first_manifest_the_last_is_known_and_the_best_is_not() -> None:
    listed = [RemoteFile(path="checkpoints/epoch-000001.pt", size=1, mtime_ns=1)]
    assert choose("checkpoints", Which(last=True), listed, None) == listed
    with pytest.raises(UserError, match="no best checkpoint"):
        choose("checkpoints", Which(best=True), listed, None)


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 50)), min_size=1, max_size=5))
def test_epochs_are_read_as_they_are_written(spans: list[tuple[int, int]]) -> None:
    text = ",".join(str(first) if not more else f"{first}-{first + more}" for first, more in spans)
    assert parse_epochs(text) == [range(first, first + more + 1) for first, more in spans]


@given(st.text(alphabet="0123456789,- x", max_size=10))
def test_no_text_is_a_bug(text: str) -> None:
    with suppress(UserError):
        parse_epochs(text)
