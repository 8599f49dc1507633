"""Records: the log line's form, and that a resumed run tells no step twice, in any of the four places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import TryAgain
from trainer.records import Recorder, format_eta, format_line, read_metrics
from trainer.run_folder import RunFolder


def test_the_train_line_is_that_of_the_contract() -> None:
    line = format_line(
        "train", 0.071, epoch=3, step=120, lr=1.5e-3, clips_per_s=412.0, data_wait=0.03, eta=3725.0
    )
    assert (
        line
        == "train Loss: 0.0710 epoch=3 step=120 lr=1.5e-03 clips_per_s=412.0 data_wait=0.03 eta=1h02m"
    )


def test_the_val_line_has_two_spaces_after_val() -> None:
    assert (
        format_line("val", 0.0499, epoch=3, step=120, f1_macro=0.27)
        == "val  Loss: 0.0499 epoch=3 step=120 f1_macro=0.2700"
    )


def test_a_step_that_is_not_known_is_left_out() -> None:
    assert (
        format_line("test", 0.05, epoch=3, f1_macro=1.0)
        == "test Loss: 0.0500 epoch=3 f1_macro=1.0000"
    )


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e6),
    st.floats(min_value=1e-9, max_value=10),
)
def test_numbers_in_the_line_keep_three_digits(loss: float, lr: float) -> None:
    fields = dict(
        field.split("=") for field in format_line("train", loss, epoch=1, step=1, lr=lr).split()[3:]
    )
    told = float(format_line("train", loss, epoch=1, step=1).split()[2])
    assert told == pytest.approx(loss, rel=5e-2, abs=1e-12)
    assert float(fields["lr"]) == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(9, "9s"), (75, "1m15s"), (3720, "1h02m"), (360_000, "100h00m"), (-1, "0s")],
)
def test_what_is_left_is_told_in_the_two_greatest_units(seconds: float, told: str) -> None:
    assert format_eta(seconds) == told


def _told(folder: RunFolder, steps: range) -> Recorder:
    recorder = Recorder(folder)
    for step in steps:
        recorder.record("train", 1 / step, epoch=1, step=step, lr=0.1)
        if step % 2 == 0:
            recorder.record("val", 0.5, epoch=step // 2, step=step, f1_macro=0.1 * step)
    return recorder


def _events(folder: RunFolder, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.tensorboard), purge_orphaned_data=False)
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_who_has_lost_the_folder_adds_nothing_to_its_records(tmp_path: Path) -> None:
    """A process that stood still goes on beside the one that took its place."""
    folder, mine = RunFolder(tmp_path), True

    def held() -> None:
        if not mine:
            raise TryAgain("taken over")

    recorder = Recorder(folder, tensorboard=False, require=held)
    recorder.record("train", 0.5, epoch=1, step=1)
    before = folder.metrics.read_bytes(), folder.log.read_bytes()
    mine = False
    with pytest.raises(TryAgain):
        recorder.record("train", 0.4, epoch=1, step=2)
    with pytest.raises(TryAgain):
        recorder.say("note")
    assert (folder.metrics.read_bytes(), folder.log.read_bytes()) == before


def test_cutting_back_forgets_later_steps_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """metrics.jsonl, train.log and TensorBoard; messages stay, since they are no records."""
    folder = RunFolder(tmp_path)
    recorder = _told(folder, range(1, 6))
    recorder.say("a message")
    with folder.metrics.open("a") as file:
        file.write('{"phase": "train", "lo')  # killed while writing
    assert recorder.cut_back(3) == 4  # train 4, val 4, train 5 and the torn line
    recorder.close()
    kept = [(entry["phase"], entry["step"]) for entry in read_metrics(folder.metrics)]
    assert kept == [("train", 1), ("train", 2), ("val", 2), ("train", 3)]
    log = folder.log.read_text().splitlines()
    assert len(log) == 5
    assert log[-1] == "a message"
    assert [step for step, _ in _events(folder, "train/loss")] == [1, 2, 3]
    assert _events(folder, "val/f1_macro") == [(2, pytest.approx(0.2))]


def test_a_validation_that_will_be_done_again_is_forgotten_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _told(folder, range(1, 5)).cut_back(4, validated=False)
    assert [(entry["phase"], entry["step"]) for entry in read_metrics(folder.metrics)][-1] == (
        "train",
        4,
    )


def test_metrics_are_json_even_when_a_value_is_not_finite(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Recorder(folder, tensorboard=False).record("val", float("nan"), epoch=1, step=2)
    entry = json.loads(folder.metrics.read_text())
    assert entry["loss"] is None
    assert entry["time"].endswith("+00:00")


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(RunFolder(tmp_path), enabled=False)
    recorder.record("train", 1.0, epoch=1, step=1)
    recorder.say("hello")
    recorder.cut_back(0)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out
