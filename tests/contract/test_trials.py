"""The trials of a sweep are a text that two programs share: the file's form, the folder of each, and how a value of a conf gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launcher.render import TRIALS_FILE
from launcher.sweep import Trials, shown
from launcher.sweep_view import folder_of
from trainer import trials
from trainer.run_folder import RunFolder

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_the_trainer_reads_what_the_launcher_wrote(
    tmp_path_factory: Any, rows: list[tuple[Any, Any]]
) -> None:
    """Any values, line by line; what is null stays the conf's on both sides."""
    path = tmp_path_factory.mktemp("trials") / TRIALS_FILE
    written = Trials(("train.lr", "model.name"), tuple(rows))
    path.write_text(written.text, encoding="utf-8")
    read = trials.Trials.read(path)
    for number in range(len(rows)):
        trial = read.trial(number)
        assert dict(trial.changes) == written.changes(number)
        assert str(trial) == f"trial {number} of {len(rows)}: {shown(written.changes(number))}"


def test_both_programs_give_a_trial_the_same_folder() -> None:
    for number in (0, 7, 12345):
        folder = RunFolder(Path("/runs/a")).of_trial(number)
        assert str(folder.root) == f"/runs/a/{folder_of(number)}"
        assert folder.trial_file.name == "trial.json"
