"""The record of runs: distinct, found by a unique start, and never overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import records
from launcher.errors import UserError
from launcher.records import RunRecord


def record(
    run: str, *, created: str = "2026-01-01T00:00:00Z", directory: str = "/elsewhere"
) -> RunRecord:
    return RunRecord(
        run=run,
        verb="train",
        name=run,
        created=created,
        backend="local",
        cluster="local",
        context="",
        namespace="",
        directory=directory,
        runs_claim="runs",
        runs_mount="/runs",
        conf_text="train: {lr: 0.1}\n",
        manifests=[{"kind": "Job", "metadata": {"name": run}}],
    )


def test_a_record_reads_back_whole() -> None:
    written = record("a-train-abcdef")

    records.save(written)

    assert records.load_all() == [written]


def test_two_submits_never_share_a_name() -> None:
    records.save(record("a-train-abcdef"))

    with pytest.raises(FileExistsError):
        records.save(replace(record("a-train-abcdef"), verb="eval"))

    assert records.find("a-train-abcdef").verb == "train"


def test_a_run_is_found_by_a_unique_start() -> None:
    for name in ("alpha-train-aaaaaa", "alpha-train-bbbbbb", "beta-eval-cccccc"):
        records.save(record(name))

    assert records.find("beta").run == "beta-eval-cccccc"
    assert records.find("alpha-train-aaaaaa").run == "alpha-train-aaaaaa"
    with pytest.raises(UserError, match="2 runs"):
        records.find("alpha")
    with pytest.raises(UserError, match="no run is called") as caught:
        records.find("alpha-train-aaaaab")
    assert "alpha-train-aaaaaa" in caught.value.hint


def test_without_a_name_it_is_the_newest_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    records.save(record("old", created="2026-01-01T00:00:00Z", directory=here))
    records.save(record("new", created="2026-01-02T00:00:00Z", directory=here))
    records.save(record("other", created="2026-01-03T00:00:00Z"))

    assert records.find(None).run == "new"


def test_a_directory_without_runs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match="no run was submitted from"):
        records.find(None)


def test_an_empty_name_means_no_run_not_the_only_one() -> None:
    records.save(record("a-train-abcdef"))

    with pytest.raises(UserError, match="name is empty"):
        records.find("")


@pytest.mark.parametrize(
    "content", [b"", b'{"run": "b-tra', b'{"run": "b-train-abcdef"}', b"[1]", b"\xff\xfe"]
)
def test_a_damaged_record_is_told_and_costs_no_other(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records.save(record("a-train-abcdef"))
    path.with_name("b-train-abcdef.json").write_bytes(content)

    assert [each.run for each in records.load_all()] == ["a-train-abcdef"]
    assert "b-train-abcdef.json is no record of a run" in capsys.readouterr().err


def test_a_record_of_a_newer_vidjobs_is_read_as_far_as_it_is_known() -> None:
    path = records.save(record("a-train-abcdef"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))

    assert records.load_all() == [record("a-train-abcdef")]


def test_a_record_that_vanishes_while_the_others_are_read_is_no_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records.save(record("a-train-abcdef"))
    # listed, and not there when it is opened
    (records.state_dir() / "runs" / "b-train-abcdef.json").symlink_to("nowhere")

    assert [each.run for each in records.load_all()] == ["a-train-abcdef"]
    assert capsys.readouterr().err == ""
