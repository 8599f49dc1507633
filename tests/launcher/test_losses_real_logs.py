"""The logs that TinyVIRAT experiments left, read whole: counts and values here were found with grep and awk, not with the parser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from launcher.losses import LossRecord, best_val, epoch_losses, latest, parse_stream

# file: (lines train, first, last, sum), (lines val, first, last, sum), (smallest val, number of its
# epoch)
LOSSES = {
    "32_bit_bilinear_resizer_logs.txt": (
        (820, 0.0750, 0.0332, 25.0103),
        (10, 0.0425, 0.0232, 0.2607),
        (0.0210, 7),
    ),
    "bilinear_64_training_logs.txt": (
        (320, 0.6389, 0.0195, 17.3169),
        (25, 0.1429, 0.0322, 1.3042),
        (0.0322, 25),
    ),
    "i3d_new_training_logs.txt": (
        (131, 0.6461, 0.0370, 10.7857),
        (16, 0.2068, 0.0480, 1.2397),
        (0.0480, 16),
    ),
    "resizer_3d_56.txt": ((205, 0.0710, 0.0197, 5.4503), (10, 0.0499, 0.0388, 0.4038), (0.0370, 8)),
    "resizer_v3_logs.txt": (
        (426, 0.0976, 0.0295, 15.3670),
        (5, 0.0348, 0.0303, 0.1574),
        (0.0269, 4),
    ),
    "resnet_18_training.txt": ((0, None, None, 0.0), (11, 0.1659, 0.2814, 2.7524), (0.1659, 1)),
    "resnet_training_exp1.txt": (
        (25, 0.0841, 0.0493, 1.3816),
        (25, 0.0944, 0.1054, 2.5259),
        (0.0944, 1),
    ),
}
# file: lines, (number, f1_macro, f1_micro, accuracy) of the first and of the last, (best f1_macro,
# its number), what the number counts
SCORES = {
    "accuracy_eval.txt": (
        12,
        (600, 0.13969097949366557, 0.7617970752299111, 0.5681378242353852),
        (2700, 0.2456860932295291, 0.7797328810684757, 0.5716221447928765),
        (0.2456860932295291, 2700),
        "step",
    ),
    "eval_logsd_20th.txt": (
        30,
        (20, 0.2658886939492511, 0.7812838472091848, 0.586527293844367),
        (49, 0.27838174503244884, 0.7836775530622454, 0.5888501742160279),
        (0.2905261290192261, 38),
        "epoch",
    ),
    "f1_resizer2d_28.txt": (
        17,
        (0, 0.08797191074512302, 0.6109127267533209, 0.35617499032133176),
        (16, 0.27671718887654256, 0.7696673051003758, 0.5631049167634533),
        (0.29406209548554685, 15),
        "epoch",
    ),
    "rerun_accuracy.txt": (
        10,
        (1, 0.19622066265936694, 0.7708695652173915, 0.5650406504065041),
        (19, 0.23229792958783546, 0.7831456592807846, 0.5911730545876888),
        (0.23229792958783546, 19),
        "epoch",
    ),
    "resizer_time_run_16_first.txtx": (
        7,
        (1, 0.14425270017136158, 0.7224559073131134, 0.505420054200542),
        (7, 0.1965749984497321, 0.7366185216652505, 0.5089043747580333),
        (0.1965749984497321, 7),
        "epoch",
    ),
    "resnet_eval.txt": (  # its last line has no newline, so that line's accuracy cannot be trusted
        7,
        (9, 0.2442225924861893, 0.6500895814105001, 0.27390631049167635),
        (17, 0.24281234028937554, 0.6490582377137908, None),
        (0.2456936072262031, 15),
        "epoch",
    ),
}


def records_of(file: Path) -> list[LossRecord]:
    text = file.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")
    return list(parse_stream(lines if lines[-1] else lines[:-1], terminated=not lines[-1]))


def test_every_real_log_is_listed_here(shared: Path) -> None:
    assert {path.name for path in (shared / "real/logs").iterdir()} == LOSSES.keys() | SCORES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_a_training_log_is_read_and_nothing_else(shared: Path, name: str) -> None:
    records = records_of(shared / "real/logs" / name)
    train, val, (best, at) = LOSSES[name]

    assert Counter(record.phase for record in records) == {
        phase: count for phase, (count, *_) in (("train", train), ("val", val)) if count
    }
    for phase, (count, first, last, total) in (("train", train), ("val", val)):
        losses = [
            record.loss for record in records if record.phase == phase and record.loss is not None
        ]
        assert (len(losses), losses[:1], losses[-1:]) == (
            count,
            [first] * bool(count),
            [last] * bool(count),
        )
        assert sum(losses) == pytest.approx(total, abs=5e-5)
    epochs = epoch_losses(records)
    lowest = best_val(epochs)
    assert lowest is not None
    assert (lowest.val, epochs.index(lowest) + 1, len(epochs)) == (best, at, val[0])
    assert latest(records) == records


@pytest.mark.parametrize("name", SCORES)
def test_every_score_of_a_test_log_is_read(shared: Path, name: str) -> None:
    records = records_of(shared / "real/logs" / name)
    count, first, last, best, unit = SCORES[name]

    def row(record: LossRecord) -> tuple[object, ...]:
        return tuple(record.values.get(key) for key in (unit, "f1_macro", "f1_micro", "accuracy"))

    assert (len(records), {record.phase for record in records}) == (count, {"test"})
    assert (row(records[0]), row(records[-1])) == (first, last)
    assert max((record.values["f1_macro"], record.values[unit]) for record in records) == best


@pytest.mark.parametrize(
    ("name", "mean", "lines", "val"),
    [
        ("resizer_3d_56.txt", 0.041125, 20, 0.0499),
        ("i3d_new_training_logs.txt", 0.3926375, 8, 0.2068),
    ],
)
def test_the_first_epoch_is_the_mean_that_awk_finds(
    shared: Path, name: str, mean: float, lines: int, val: float
) -> None:
    first = epoch_losses(records_of(shared / "real/logs" / name))[0]

    assert first.train == pytest.approx(mean, abs=1e-9)
    assert (first.position, first.val) == (lines, val)


def test_a_whole_pod_log_tells_epochs_by_its_headings(shared: Path) -> None:
    vals = [
        record
        for record in records_of(shared / "real/logs/resnet_18_training.txt")
        if record.phase == "val"
    ]

    assert [record.epoch for record in vals] == list(range(11))


@pytest.mark.parametrize(
    ("name", "whole"), [("resizer_3d_56.txt", 215), ("resizer_v3_logs.txt", 431)]
)
def test_the_two_logs_cut_in_the_middle_of_a_line_lose_only_that_line(
    shared: Path, name: str, whole: int
) -> None:
    records = records_of(shared / "real/logs" / name)

    assert (len(records), records[-1].line, any(record.cut for record in records)) == (
        whole,
        whole,
        False,
    )
