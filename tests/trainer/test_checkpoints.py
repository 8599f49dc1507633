"""Checkpoints: whole or not there, named by the manifest, thinned as asked, and inert when hostile."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer import checkpoints
from trainer.checkpoints import Entry, Manifest, kept_weights
from trainer.errors import DataError, TryAgain
from trainer.run_folder import RunFolder


def _save_epoch(folder: RunFolder, epoch: int, *, keep: str = "all", best: str = "") -> None:
    state: dict[str, Any] = {
        "format": 1,
        "epoch": epoch,
        "step": 10 * epoch,
        "best": {"file": best, "value": None},
    }
    state["position"] = {"epoch": epoch + 1, "consumed": 0, "step": 10 * epoch, "closed": False}
    tensors = {"w": torch.full((3,), float(epoch))}
    weights = {
        "format": 1,
        "epoch": epoch,
        "step": 10 * epoch,
        "metrics": {"loss": 0.5},
        "state_dict": tensors,
    }
    path, inside = folder.weights(epoch), folder.state(epoch)
    files = {path.name: checkpoints.save(path, weights, kind="weights", metrics={"loss": 0.5})}
    files[inside.name] = checkpoints.save(inside, state, kind="state")
    Manifest.load(folder).adding(files, best=best, select="f1_macro", keep=keep).save(folder)


def _names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_the_manifest_has_the_form_that_the_launcher_reads(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1, best="epoch-000001.pt")
    raw = json.loads(folder.manifest.read_text())
    assert {key: raw[key] for key in ("format", "last", "best", "select")} == {
        "format": 1,
        "last": "epoch-000001.pt",
        "best": "epoch-000001.pt",
        "select": "f1_macro",
    }
    weights = raw["files"]["epoch-000001.pt"]
    assert (weights["kind"], weights["epoch"], weights["step"], weights["metrics"]) == (
        "weights",
        1,
        10,
        {"loss": 0.5},
    )
    assert weights["size"] == folder.weights(1).stat().st_size
    assert set(raw["files"]["state-000001.pt"]) == {"kind", "epoch", "step", "size", "sha256"}


def test_every_epoch_stays_and_the_last_two_states(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in range(1, 5):
        _save_epoch(folder, epoch)
    weights = [f"epoch-00000{epoch}.pt" for epoch in range(1, 5)]
    assert _names(folder) == [*weights, "manifest.json", "state-000003.pt", "state-000004.pt"]
    assert list(checkpoints.list_weights(folder.checkpoints)) == [1, 2, 3, 4]


def test_thinned_weights_leave_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in range(1, 5):
        _save_epoch(folder, epoch, keep="last:2", best="epoch-000001.pt")
    assert list(checkpoints.list_weights(folder.checkpoints)) == [1, 3, 4]


@given(st.integers(1, 20), st.integers(0, 19), st.sampled_from(["all", "best", "last:1", "last:3"]))
def test_best_and_last_always_stay(count: int, best: int, keep: str) -> None:
    names = [f"epoch-{epoch:06d}.pt" for epoch in range(1, count + 1)]
    kept = kept_weights(names, names[best % count], keep)
    assert {names[-1], names[best % count]} <= kept <= set(names)


def test_a_damaged_state_is_named_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        _save_epoch(folder, epoch)
    content = bytearray(folder.state(2).read_bytes())
    content[len(content) // 2] ^= 1
    folder.state(2).write_bytes(content)
    said: list[str] = []
    found = checkpoints.newest_state(folder, said.append)
    assert found is not None
    manifest, state = found
    assert state["epoch"] == 1
    assert "state-000002.pt is damaged" in said[0]
    # epoch 2 will be trained again
    assert sorted(manifest.files) == ["epoch-000001.pt", "state-000001.pt"]
    assert manifest.last == "epoch-000001.pt"


def test_when_every_state_is_damaged_nothing_starts_anew_silently(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    folder.state(1).write_bytes(b"short")
    with pytest.raises(DataError, match="holds no whole state to go on from"):
        checkpoints.newest_state(folder, lambda _: None)


def test_weights_without_any_state_are_not_trained_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    folder.state(1).unlink()
    folder.manifest.unlink()
    with pytest.raises(DataError, match="holds no whole state"):
        checkpoints.newest_state(folder, lambda _: None)


def test_a_process_killed_before_its_first_manifest_loses_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    expected = Manifest.load(folder)
    folder.manifest.unlink()
    found = checkpoints.newest_state(folder, lambda _: None)
    assert found is not None
    assert found[0].files == expected.files
    assert found[0].last == expected.last


@pytest.mark.parametrize("text", ["", '{"format": 1, "files": {"epoch-0', "[]"])
def test_a_torn_manifest_is_made_anew_from_the_whole_files(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        _save_epoch(folder, epoch)
    expected = Manifest.load(folder)
    folder.manifest.write_text(text)
    folder.weights(1).write_bytes(folder.weights(1).read_bytes()[:100])
    said: list[str] = []
    found = checkpoints.newest_state(folder, said.append)
    assert found is not None
    assert found[1]["epoch"] == 2
    assert found[0].files == {
        name: entry for name, entry in expected.files.items() if name != "epoch-000001.pt"
    }
    assert ["manifest.json" in said[0], "epoch-000001.pt" in said[1]] == [True, True]
    found[0].save(folder)
    assert Manifest.load(folder) == found[0]
    assert folder.weights(1).exists(), "what cannot be read is not thrown away"


def test_checkpoints_none_of_which_can_be_read_are_not_trained_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    folder.manifest.unlink()
    for path in (folder.weights(1), folder.state(1)):
        path.write_bytes(b"short")
    with pytest.raises(DataError, match="no checkpoint that can be read"):
        checkpoints.newest_state(folder, lambda _: None)


def test_a_lock_that_was_lost_while_a_file_was_written_gives_it_no_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    content, before = checkpoints.read_weights(folder.weights(1)), folder.weights(1).read_bytes()

    def lost() -> None:
        raise TryAgain("taken over")

    with pytest.raises(TryAgain, match="taken over"):
        checkpoints.save(folder.weights(1), content | {"step": 99}, kind="weights", require=lost)
    assert folder.weights(1).read_bytes() == before
    assert not list(folder.checkpoints.glob(".*"))


def test_files_that_no_manifest_named_stay(tmp_path: Path) -> None:
    """Somebody put them there; only states left by a killed process go."""
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    for stray in ("epoch-000099.pt", "mine.pt", "state-000001-step-00000003.pt"):
        (folder.checkpoints / stray).touch()
    _save_epoch(folder, 2)
    assert {"epoch-000099.pt", "mine.pt"} < set(_names(folder))
    assert "state-000001-step-00000003.pt" not in _names(folder)


def test_a_fresh_folder_has_no_state(tmp_path: Path) -> None:
    assert checkpoints.newest_state(RunFolder(tmp_path), lambda _: None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1, "last": "", "best": "", "select": "", "files": {"a.pt": {}}}',
    ],
)
def test_a_damaged_manifest_is_a_data_error(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text(folder.manifest, text)
    with pytest.raises(DataError, match=r"cannot read .*manifest\.json"):
        Manifest.load(folder)


def test_weights_are_compared_with_their_manifest_before_they_are_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _save_epoch(folder, 1)
    assert torch.equal(
        checkpoints.read_weights(folder.weights(1))["state_dict"]["w"], torch.ones(3)
    )
    folder.weights(1).write_bytes(folder.weights(1).read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="is damaged"):
        checkpoints.read_weights(folder.weights(1))


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickled_checkpoint_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"format": 1, "x": _Hostile(mark)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Hostile(mark), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(DataError, match="cannot read the checkpoint"):
            checkpoints.read_weights(tmp_path / name)
    assert not mark.exists()


def test_cutting_back_to_the_middle_of_an_epoch_drops_what_came_after() -> None:
    entry = {"size": 1, "sha256": ""}
    files = {
        "epoch-000001.pt": Entry(kind="weights", epoch=1, step=10, **entry),
        "epoch-000002.pt": Entry(kind="weights", epoch=2, step=20, **entry),
        "state-000002-step-00000014.pt": Entry(kind="state", epoch=2, step=14, **entry),
        "state-000002.pt": Entry(kind="state", epoch=2, step=20, **entry),
    }
    cut = Manifest(last="epoch-000002.pt", best="epoch-000002.pt", files=files).cut_back(
        14, 2, "epoch-000001.pt"
    )
    assert sorted(cut.files) == ["epoch-000001.pt", "state-000002-step-00000014.pt"]
    assert (cut.last, cut.best) == ("epoch-000001.pt", "epoch-000001.pt")
