"""What the trainer prints is what the launcher reads: the log line is their contract, and each side has its own code for it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from launcher.losses import parse_line
from trainer.records import format_line


def test_a_train_line_comes_back_whole() -> None:
    line = format_line(
        "train", 0.071, epoch=3, step=120, lr=1.5e-3, clips_per_s=412.0, data_wait=0.03, eta=3720.0
    )

    assert (
        line
        == "train Loss: 0.0710 epoch=3 step=120 lr=1.5e-03 clips_per_s=412.0 data_wait=0.03 eta=1h02m"
    )
    record = parse_line(line)
    assert record is not None
    assert (record.phase, record.loss, record.epoch, record.step) == ("train", 0.071, 3, 120)
    assert (
        record.values["lr"],
        record.values["clips_per_s"],
        record.values["data_wait"],
        record.values["eta"],
    ) == (
        1.5e-3,
        412.0,
        0.03,
        "1h02m",
    )


def test_a_val_line_keeps_the_two_spaces_that_old_notebooks_count() -> None:
    line = format_line("val", 0.0499, epoch=3, step=120, f1_macro=0.27)

    assert line.split(" ")[:4] == ["val", "", "Loss:", "0.0499"]
    assert line.startswith("val  Loss: 0.0499 ")


_PHASES = st.sampled_from(["train", "val", "test"])


@given(
    _PHASES,
    st.floats(min_value=0, allow_infinity=False),
    st.integers(1, 10**6),
    st.integers(0, 10**9),
    st.floats(min_value=0, max_value=1),
)
def test_every_line_the_trainer_prints_is_read(
    phase: str, loss: float, epoch: int, step: int, score: float
) -> None:
    """To the digits that the line shows: four decimals, or four significant digits of what is smaller."""
    record = parse_line(format_line(phase, loss, epoch=epoch, step=step, f1_macro=score))

    assert record is not None
    assert (record.phase, record.epoch, record.step) == (phase, epoch, step)
    assert record.loss is not None
    assert math.isclose(record.loss, loss, rel_tol=6e-4, abs_tol=5.1e-5 if loss >= 1e-3 else 0.0)
    told = record.values["f1_macro"]
    assert isinstance(told, float)
    assert math.isclose(told, score, rel_tol=6e-4, abs_tol=5.1e-5 if score >= 1e-3 else 0.0)


@given(_PHASES, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_loss_that_is_not_finite_is_told_and_read_as_such(phase: str, loss: float) -> None:
    record = parse_line(format_line(phase, loss, epoch=1, step=1))

    assert record is not None
    assert record.loss is not None
    assert record.loss == loss or (math.isnan(record.loss) and math.isnan(loss))


@given(_PHASES, st.integers(0, 400))
def test_a_line_that_a_kill_cut_anywhere_gives_no_wrong_number(phase: str, at: int) -> None:
    line = format_line(phase, 0.0712, epoch=13, step=1204, lr=1.5e-3, f1_macro=0.2712)
    whole = parse_line(line)
    part = parse_line(line[:at], complete=at >= len(line))

    assert whole is not None
    assert part is None or part.as_json().items() <= whole.as_json().items()
