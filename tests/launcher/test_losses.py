"""Contract of `launcher.losses`: every grammar becomes a record, nothing cut becomes a wrong number, nothing raises."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.losses import (
    LossReader,
    LossRecord,
    best_val,
    epoch_losses,
    latest,
    parse_line,
    parse_stream,
    step_axis,
)

CANONICAL = (
    "train Loss: 0.0710 epoch=3 step=120 lr=1.5e-03 clips_per_s=412.0 data_wait=0.03 eta=1h02m"
)


def flat(text: str) -> dict[str, object]:
    record = parse_line(text)
    assert record is not None, text
    return record.as_json()


def test_the_canonical_line_keeps_the_type_of_every_value() -> None:
    record = parse_line(CANONICAL)

    assert record is not None
    assert (record.phase, record.loss, record.epoch, record.step) == ("train", 0.0710, 3, 120)
    assert dict(record.values) == {
        "epoch": 3,
        "step": 120,
        "lr": 1.5e-3,
        "clips_per_s": 412.0,
        "data_wait": 0.03,
        "eta": "1h02m",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train Loss: 0.0710", {"phase": "train", "loss": 0.071}),
        ("val  Loss: 0.0499 ", {"phase": "val", "loss": 0.0499}),
        ("val Loss: 0.0944 ", {"phase": "val", "loss": 0.0944}),
        (
            "val  Loss: 0.0499 epoch=3 f1_macro=0.27",
            {"phase": "val", "loss": 0.0499, "epoch": 3, "f1_macro": 0.27},
        ),
        (
            "test Loss: 0.05 epoch=3 f1_macro=0.2",
            {"phase": "test", "loss": 0.05, "epoch": 3, "f1_macro": 0.2},
        ),
        ("train Loss: 1e-05 step=2", {"phase": "train", "loss": 1e-5, "step": 2}),
        ("train Loss: -inf", {"phase": "train", "loss": "-inf"}),
        ("train Loss: nan epoch=1", {"phase": "train", "loss": "nan", "epoch": 1}),
        (
            "train Loc Loss: 0.1 Cls Loss: 0.2 Tot Loss: 0.15",
            {"phase": "train", "loss": 0.15, "loc_loss": 0.1, "cls_loss": 0.2},
        ),
        (
            "Epoch: [3][20/400] Time 0.100 (0.200) Data 0.010 (0.020)Loss 2.3456 (2.5000) Prec@1 12.30 (11.00) Prec@3 30.0 (29.0)",
            {
                "phase": "train",
                "loss": 2.3456,
                "epoch": 3,
                "batch": 20,
                "batches": 400,
                "loss_avg": 2.5,
                "time": 0.1,
                "time_avg": 0.2,
            }
            | {
                "data": 0.01,
                "data_avg": 0.02,
                "top1": 12.3,
                "top1_avg": 11.0,
                "top3": 30.0,
                "top3_avg": 29.0,
            },
        ),
        (
            "Epoch: [1][10/595]\t lr: 0.10000\tTime 0.5 (0.6)\tData 0.1 (0.1)\tLoss 4.6000 (4.7000)\tPrec@1 1.0 (0.9)\tPrec@5 5.0 (4.9)",
            {
                "phase": "train",
                "loss": 4.6,
                "epoch": 1,
                "batch": 10,
                "batches": 595,
                "lr": 0.1,
                "loss_avg": 4.7,
                "time": 0.5,
            }
            | {
                "time_avg": 0.6,
                "data": 0.1,
                "data_avg": 0.1,
                "top1": 1.0,
                "top1_avg": 0.9,
                "top5": 5.0,
                "top5_avg": 4.9,
            },
        ),
        (
            "Epoch: [1][10/95]\tTime 0.5 (0.6)\tData 0.1 (0.1)\tLoss 4.6 (4.7)\tPrec@1 1.0 (0.9)",
            {
                "phase": "val",
                "loss": 4.6,
                "epoch": 1,
                "batch": 10,
                "batches": 95,
                "loss_avg": 4.7,
                "time": 0.5,
                "time_avg": 0.6,
            }
            | {"data": 0.1, "data_avg": 0.1, "top1": 1.0, "top1_avg": 0.9},
        ),
        (
            "[train] Epoch: 1/100 Loss: 2.31 Acc: 0.41",
            {"phase": "train", "loss": 2.31, "epoch": 1, "epochs": 100, "accuracy": 0.41},
        ),
        (
            "[val] Epoch: 7/100 Loss: 2.31",
            {"phase": "val", "loss": 2.31, "epoch": 7, "epochs": 100},
        ),
        ("Training loss: 5.1, accuracy: 0.03", {"phase": "train", "loss": 5.1, "accuracy": 0.03}),
        (
            "[INFO: train_net.py: 123]: Training loss: 5.1, accuracy: 0.03",
            {"phase": "train", "loss": 5.1, "accuracy": 0.03},
        ),
        (
            "Validation @ 5000: Top1 45.20 Top3 66.01 Loss 2.345",
            {"phase": "val", "loss": 2.345, "step": 5000, "top1": 45.2, "top3": 66.01},
        ),
        (
            "epoch-000012.pt , f1_macro : 0.1, f1_micro 0.2, f1_samples 0.3,  Accuracy 0.4",
            {"phase": "test", "loss": None, "epoch": 12, "checkpoint": "epoch-000012.pt"}
            | {"f1_macro": 0.1, "f1_micro": 0.2, "f1_samples": 0.3, "accuracy": 0.4},
        ),
        (
            "resnet50_v3000009.pt: f1_macro 0.24, f1_micro: 0.65, accuracy: 0.27",
            {
                "phase": "test",
                "loss": None,
                "epoch": 9,
                "checkpoint": "resnet50_v3000009.pt",
                "f1_macro": 0.24,
                "f1_micro": 0.65,
            }
            | {"accuracy": 0.27},
        ),
    ],
)
def test_each_grammar_becomes_a_record(line: str, expected: dict[str, object]) -> None:
    assert flat(line) == expected


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("2026-11-21T10:00:00.123456789Z ", ""),
        ("[run-x-abc] ", ""),
        ("[run-x] 2026-11-21T10:00:00Z ", ""),
        ("\x1b[32m", "\x1b[0m"),
        ("", "\r"),
    ],
)
def test_a_time_a_pod_or_a_colour_around_a_line_does_not_hide_it(prefix: str, suffix: str) -> None:
    record = parse_line(f"{prefix}val  Loss: 0.0499{suffix}")

    assert record is not None
    assert (record.phase, record.loss) == ("val", 0.0499)


def test_a_progress_bar_before_a_carriage_return_does_not_hide_the_line_after_it() -> None:
    record = parse_line(" 40%|####      | 2/5\r100%|##########| 5/5\rtrain Loss: 0.5 epoch=1")

    assert record is not None
    assert record.loss == 0.5


@pytest.mark.parametrize(
    "line",
    [
        "", "tra", "train Loss:", "train Loss: ", "train Loss", "Loss: 0.5", "train Loss: 0.5x", "train Loss: 1e",
        "train Loss: 0.0710train Loss: 0.5",
        "the train Loss: 0.5 is low",
        "Epoch 3/50", "----------", "Test accuracy: 0.3", "step  100 0.0701", "0.24 0.65 0.27", "f1_macro 0.2",
        "Epoch: [3][20/400] Time 0.1 (0.2)", "loss", "x.pt , f1_macro : , f1_micro 0.2", "Step 100/64000",
    ],
)  # fmt: skip
def test_what_is_no_whole_loss_line_is_no_record(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("v7_bilinear_32_112000600.pt", {"step": 600}),
        ("v7_bilinear_32_112008500.pt", {"step": 8500}),
        ("resizerv42d_v2_32_14_scratch000000.pt", {"epoch": 0}),
        ("/virat-vr/models/16_timecompression_v1000007.pt", {"epoch": 7}),
        ("c56_epoch-99.pth.tar", {"epoch": 99}),
        ("runs/x/checkpoints/epoch-000012.pt", {"epoch": 12}),
        ("resizer_v3.pt", {}),
        ("best.pt", {}),
    ],
)
def test_the_number_of_a_checkpoint_is_an_epoch_or_a_step(
    checkpoint: str, expected: dict[str, int]
) -> None:
    values = flat(f"{checkpoint} , f1_macro : 0.1, f1_micro 0.2, Accuracy 0.4")

    assert {key: values[key] for key in ("epoch", "step") if key in values} == expected


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("train Loss: 0.0", None),
        ("train Loss:", None),
        ("tra", None),
        ("val  Loss: 0.0499 ", {"phase": "val", "loss": 0.0499}),
        ("train Loss: 0.0710 epoch=3 step=12", {"phase": "train", "loss": 0.071, "epoch": 3}),
        ("a000001.pt , f1_macro : 0.1, f1_micro 0.2, Accuracy 0.4", {"phase": "test", "loss": None, "epoch": 1, "checkpoint": "a000001.pt"}
         | {"f1_macro": 0.1, "f1_micro": 0.2}),
    ],
)  # fmt: skip
def test_the_last_word_of_an_unterminated_line_is_never_trusted(
    line: str, left: dict[str, object] | None
) -> None:
    record = parse_line(line, complete=False)

    assert (record and record.as_json()) == left
    if record:
        assert record.cut is not line.endswith(" ")


def test_a_reader_says_which_line_was_cut() -> None:
    reader = LossReader()
    reader.feed("train Loss: 0.5")

    assert reader.feed("train Loss: 0.0", complete=False) is None
    assert reader.cut_line == 2


@given(st.text(), st.booleans())
def test_no_text_makes_the_parser_raise(text: str, complete: bool) -> None:
    parse_line(text, complete=complete)


@given(
    st.lists(
        st.sampled_from(
            [
                "train Loss: ",
                "f1_macro",
                " , ",
                "Epoch: [1][2/3]",
                "Loss 1 (2)",
                "9" * 400,
                "e",
                "=",
                "nan",
                "\r",
                "\x1b[",
                "İ",
            ]
        )
    )
)
def test_no_mixture_of_known_pieces_makes_it_raise(pieces: list[str]) -> None:
    record = parse_line("".join(pieces))

    if record is not None:
        json.dumps(record.as_json(), allow_nan=False)


_NAMES = st.from_regex(r"\A[a-z][a-z0-9_]{0,10}\Z").filter(
    lambda name: name not in ("phase", "loss", "line", "pod")
)
_VALUES = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, width=32),
    st.from_regex(r"\A[0-9]{1,2}h[0-9]{2}m\Z"),
)


@given(
    st.sampled_from(["train", "val", "test"]),
    st.floats(allow_nan=False),
    st.dictionaries(_NAMES, _VALUES, max_size=6),
)
def test_a_canonical_line_round_trips(
    phase: str, loss: float, values: dict[str, int | float | str]
) -> None:
    line = f"{phase:<4} Loss: {loss!r} " + " ".join(
        f"{key}={value}" for key, value in values.items()
    )
    record = parse_line(line)

    assert record is not None
    assert (record.phase, record.loss, dict(record.values)) == (phase, loss, values)


def test_a_cut_anywhere_never_gives_a_wrong_number() -> None:
    """Whatever the pipe lost, each value that is left is one of the whole line's."""
    for line in (
        CANONICAL,
        "val  Loss: 0.0499 ",
        "a000012.pt , f1_macro : 0.139, f1_micro 0.7617, Accuracy 0.568",
    ):
        whole = flat(line)
        for length in range(len(line)):
            record = parse_line(line[:length], complete=False)
            if record is not None:
                assert record.as_json().items() <= whole.items(), line[:length]


def test_a_hostile_key_cannot_replace_what_the_line_says() -> None:
    assert flat("train Loss: 0.5 phase=val loss=9 line=7 pod=x step=1") == {
        "phase": "train",
        "loss": 0.5,
        "step": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "f1_macro" + " " * 200_000 + "x",
        "a" * 300_000 + " loss",
        "Epoch: [1][1/1] " + "loss " * 100_000,
        "Loss:" * 50_000,
    ],
)
def test_a_huge_hostile_line_takes_no_time(text: str) -> None:
    start = time.perf_counter()

    parse_line(text)

    assert time.perf_counter() - start < 1.0


def test_headings_give_bare_lines_their_epoch() -> None:
    lines = [
        "Epoch 0/25",
        "----------",
        "train Loss: 0.5",
        "val  Loss: 0.4 ",
        "Epoch 1/25",
        "train Loss: 0.3",
    ]

    assert [(record.epoch, record.line) for record in parse_stream(lines)] == [
        (0, 3),
        (0, 4),
        (1, 6),
    ]


def test_step_headings_count_epochs() -> None:
    lines = [
        "Step 0/64000",
        "train Loss: 0.5",
        "val  Loss: 0.4 ",
        "Step 90/64000",
        "train Loss: 0.3",
    ]

    assert [record.epoch for record in parse_stream(lines)] == [1, 1, 2]


def test_headings_of_one_pod_do_not_reach_another() -> None:
    reader = LossReader()
    reader.feed("Epoch 4/25", pod="a")

    record = reader.feed("train Loss: 0.5", pod="b")

    assert record is not None
    assert (record.epoch, record.pod) == (None, "b")


def trained(*steps: int, phase: str = "train", loss: float = 1.0) -> list[LossRecord]:
    return [LossRecord(phase=phase, loss=loss, values={"step": step}) for step in steps]


def test_what_a_resumed_run_did_again_counts_once() -> None:
    first = trained(10, 20, 30) + trained(30, phase="val") + trained(40, loss=9.0)

    kept = latest([*first, *trained(25, 35, loss=2.0)])

    assert [(record.phase, record.step, record.loss) for record in kept] == [
        ("train", 10, 1.0),
        ("train", 20, 1.0),
        ("train", 25, 2.0),
        ("train", 35, 2.0),
    ]


def test_a_validation_at_the_step_of_the_last_train_record_is_kept() -> None:
    kept = latest(
        [*trained(10), *trained(10, phase="val"), *trained(20), *trained(20, phase="val")]
    )

    assert [(record.phase, record.step) for record in kept] == [
        ("train", 10),
        ("val", 10),
        ("train", 20),
        ("val", 20),
    ]


def test_checkpoints_tested_in_any_order_are_all_kept_and_the_last_word_counts() -> None:
    tested = [
        LossRecord(phase="test", loss=None, values={"epoch": epoch, "f1_macro": score})
        for epoch, score in ((9, 0.1), (3, 0.2), (9, 0.3))
    ]

    assert [(record.epoch, record.values["f1_macro"]) for record in latest(tested)] == [
        (9, 0.3),
        (3, 0.2),
    ]


def test_an_epoch_is_the_mean_of_its_train_losses_and_ends_at_its_val_line() -> None:
    lines = [
        "train Loss: 1.0",
        "train Loss: 3.0",
        "val  Loss: 1.5 ",
        "train Loss: 1.0",
        "val  Loss: 0.5 ",
        "train Loss: 7.0",
    ]
    epochs = epoch_losses(parse_stream(lines))

    assert [(epoch.epoch, epoch.position, epoch.train, epoch.val) for epoch in epochs] == [
        (1, 2.0, 2.0, 1.5),
        (2, 3.0, 1.0, 0.5),
    ]
    assert best_val(epochs) == epochs[1]


def test_an_epoch_without_validation_ends_where_the_number_changes() -> None:
    lines = [
        f"train Loss: {loss} epoch={epoch} step={step}"
        for loss, epoch, step in ((1.0, 1, 1), (2.0, 1, 2), (5.0, 2, 3))
    ]
    epochs = epoch_losses(parse_stream([*lines, "val  Loss: 0.5 epoch=2 step=3"]))

    assert [(epoch.epoch, epoch.position, epoch.train, epoch.val) for epoch in epochs] == [
        (1, 2.0, 1.5, None),
        (2, 3.0, 5.0, 0.5),
    ]


def test_many_lines_of_one_validation_are_one_val_loss_their_average() -> None:
    train = "Epoch: [1][1/1]\t lr: 0.1\tLoss 5.0 (5.0)"
    epochs = epoch_losses(
        parse_stream([train, "Epoch: [1][1/2]\tLoss 4.0 (4.0)", "Epoch: [1][2/2]\tLoss 2.0 (3.0)"])
    )

    assert [(epoch.epoch, epoch.train, epoch.val) for epoch in epochs] == [(1, 5.0, 3.0)]


def test_a_loss_that_is_not_finite_makes_the_mean_so_and_is_never_the_best() -> None:
    epochs = epoch_losses(
        parse_stream(["train Loss: nan", "val  Loss: nan ", "train Loss: 1.0", "val  Loss: 2.0 "])
    )

    assert epochs[0].train is not None
    assert math.isnan(epochs[0].train)
    best = best_val(epochs)
    assert best is not None
    assert best.val == 2.0


def test_records_without_steps_are_placed_by_counting_train_lines() -> None:
    placed = step_axis(
        parse_stream(["train Loss: 1.0", "train Loss: 1.0", "val  Loss: 1.0 ", "train Loss: 1.0"])
    )

    assert [place for place, _ in placed] == [1.0, 2.0, 2.0, 3.0]


def test_trials_of_a_sweep_have_steps_of_their_own() -> None:
    """Read from one merged log, no trial undoes another's steps; only its own retry does."""
    steps = [(1, 0), (2, 0), (1, 1), (3, 0), (2, 1), (2, 0)]
    records = [
        LossRecord(phase="train", loss=1.0, values={"step": step, "trial": trial})
        for step, trial in steps
    ]
    assert [(record.step, record.values["trial"]) for record in latest(records)] == [
        (1, 0),
        (1, 1),
        (2, 1),
        (2, 0),
    ]
