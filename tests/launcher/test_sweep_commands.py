"""sweep status, results and the heat map; logs and fetch of one trial; all on a sweep of this machine with a small stand-in trainer."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher import records
from launcher.backend_base import Phase
from launcher.checkpoint_source import values_from
from launcher.commands import delete, diff, fetch, logs, report, sweep
from launcher.commands import status as status_command
from launcher.conf.schema import VolumeConf
from launcher.errors import UserError
from launcher.records import RunRecord
from launcher.sweep import Trials
from launcher.sweep_map import choose_axes, heat_map
from launcher.sweep_view import SweepView, TrialView, look

RUN = "a-train-aaaaaa"
TRIALS = Trials(
    ("model.read_at", "model.apply_at"),
    tuple((read, apply) for read in range(3) for apply in range(read, 3)),
)
# Writes what the trainer writes for a trial: two epochs, the better one first; trial 4 fails.
TRAINER = """
import json, os, pathlib, sys
number = int(os.environ["JOB_COMPLETION_INDEX"])
folder = pathlib.Path(sys.argv[2]) / "trials" / f"{number:04d}"; (folder / "checkpoints").mkdir(parents=True)
def write(name, value): (folder / name).write_text(json.dumps(value) + "\\n")
write("trial.json", {"trial": number, "started": "x"})
print(f"trial {number}", flush=True)
if number == 4:
    ending = {"cause": "bug", "exit_code": 70, "message": "model.read_at: is 9\\nmore"}
    write("trial.json", {"trial": number, "started": "x", "ended": ending})
    open(os.environ["VIDJOBS_TERMINATION_LOG"], "w").write(json.dumps(ending))
    sys.exit(70)
lines = []
for epoch in (1, 2):
    lines += [{"phase": "train", "loss": 1.0 / epoch, "epoch": epoch, "step": 10 * epoch, "trial": number}]
    lines += [{"phase": "val", "loss": 0.5, "epoch": epoch, "step": 10 * epoch, "f1_macro": 0.1 * number + 0.05 / epoch}]
    print(f"train Loss: {1.0 / epoch} epoch={epoch} step={10 * epoch} trial={number}", flush=True)
    (folder / "checkpoints" / f"epoch-{epoch:06d}.pt").write_bytes(bytes([number]) * 1000)
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
names = ["epoch-000001.pt", "epoch-000002.pt"]
scores = [{"loss": 0.5, "f1_macro": 0.1 * number + 0.05 / epoch} for epoch in (1, 2)]
files = {name: {"kind": "weights", "epoch": 1, "step": 10, "size": 1000, "sha256": "", "metrics": s} for name, s in zip(names, scores)}
write("checkpoints/manifest.json", {"format": 1, "last": names[1], "best": names[0], "select": "f1_macro", "files": files})
write("trial.json", {"trial": number, "started": "x", "ended": {"cause": "done", "exit_code": 0, "message": ""}})
"""


@pytest.fixture
def ended(world: Any) -> RunRecord:
    """A sweep of six trials that has ended, one of them badly."""
    record = begin(world)
    assert world.wait(RUN).phase is Phase.FAILED
    return record


def begin(world: Any) -> RunRecord:
    """The same, just submitted."""
    spec = {
        "completionMode": "Indexed",
        "completions": len(TRIALS),
        "parallelism": 3,
        "backoffLimitPerIndex": 0,
    }
    job = world.job(RUN, TRAINER, **spec)
    job["spec"]["template"]["metadata"]["annotations"]["vidjobs/trials"] = TRIALS.text
    world.folder(RUN).mkdir(parents=True)
    world.backend.submit([job])
    world.started.append(RUN)
    record = dataclasses.replace(world.record(RUN), manifests=[job])
    records.save(record)
    return record


def test_status_shows_every_trial_and_why_one_failed(
    ended: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.status("a-tr") == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert "trials    5 succeeded, 1 failed" in lines
    assert any(line.startswith("why       1 of 6 trials failed (4), the last: ") for line in lines)
    assert lines[-7].split() == [
        "TRIAL",
        "model.read_at",
        "model.apply_at",
        "PHASE",
        "EPOCH",
        "STEP",
        "LOSS",
        "BEST",
        "f1_macro",
        "WHY",
    ]
    assert lines[-6].split() == ["0", "0", "0", "succeeded", "2", "20", "0.5", "0.05"]
    assert lines[-2].split()[:4] == ["4", "1", "2", "failed"]
    assert "model.read_at: is 9" in lines[-2]
    assert "highest f1_macro: 0.55 in trial 5 (model.read_at=2 model.apply_at=2)" in told.err

    assert sweep.status(None, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"succeeded": 5, "failed": 1}
    assert document["trials"][5] == {
        "trial": 5,
        "changes": {"model.read_at": 2, "model.apply_at": 2},
        "phase": "succeeded",
        "cause": "",
        "epoch": 2,
        "step": 20,
        "loss": 0.5,
        "checkpoint": "epoch-000001.pt",
        "scores": {"val_loss": 0.5, "f1_macro": 0.55},
    }
    assert status_command.run(None) == 0
    assert "1 of 6 trials failed (4)" in capsys.readouterr().out


def test_followed_each_change_is_a_line_and_the_outcome_the_exit_code(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sweep submit --watch` does; `sweep status --watch` shows the same, and has shown what was asked."""
    monkeypatch.setattr(sweep, "_EVERY_S", 0.05)
    record = begin(world)
    assert sweep.follow(record) == 4
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert "trial 5 succeeded (model.read_at=2 model.apply_at=2), f1_macro 0.55" in lines
    assert [
        line
        for line in lines
        if line.startswith("trial 4 failed (model.read_at=1 model.apply_at=2): ")
    ]
    assert lines[-1].startswith("5 "), "the table of all"
    assert f"{RUN} failed: 1 of 6 trials failed (4)" in told.err

    assert sweep.status(None, watch=True) == 0
    assert sweep.follow(record, as_json=True) == 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {
        "succeeded": 5,
        "failed": 1,
    }


def test_a_terminal_that_is_too_low_shows_what_is_at_work_then_the_best(
    ended: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "18")
    view = look(ended)
    working = dataclasses.replace(view.trials[1], phase="running")
    view = dataclasses.replace(view, trials=(view.trials[0], working, *view.trials[2:]))
    assert [trial.number for trial in sweep._that_fit(view)] == [1, 4, 5, 3, 2]
    monkeypatch.setenv("LINES", "19")
    assert [trial.number for trial in sweep._that_fit(view)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("source", "verb", "values"),
    [
        ("@best", "eval", {"model.init": "trials/0005/checkpoints/epoch-000001.pt"}),
        ("@last", "train", {"model.init": "trials/0005/checkpoints/epoch-000002.pt"}),
        ("/3", "infer", {"model.init": "trials/0003/checkpoints/epoch-000001.pt"}),
        ("/3@last", "eval", {"model.init": "trials/0003/checkpoints/epoch-000002.pt"}),
        ("/0003@2", "eval", {"model.init": "trials/0003/checkpoints/epoch-000002.pt"}),
        ("/3", "test", {"test.checkpoints": "trials/0003/checkpoints"}),
        ("@best", "test", {"test.checkpoints": "trials/0005/checkpoints", "test.epochs": "1"}),
    ],
)
def test_from_a_sweep_is_a_trials_checkpoint(
    ended: RunRecord,
    world: Any,
    source: str,
    verb: str,
    values: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The best trial is the one that `sweep results` names, and is told."""
    found = values_from(
        f"a-tr{source}",
        verb,
        runs=VolumeConf(claim="runs", mount="/runs", as_="runs"),
        backend=world.backend,
    )
    assert {key: value for key, value in found.items() if key not in TRIALS.keys} == {
        key: value if key == "test.epochs" else f"${{runs}}/{RUN}/{value}"
        for key, value in values.items()
    }
    assert [found[key] for key in TRIALS.keys] == list(TRIALS.rows[3 if "3" in source else 5]), (
        "its weights fit no other network"
    )
    told = capsys.readouterr().err
    best = f"from trial 5 of {RUN} (model.read_at=2 model.apply_at=2): best f1_macro, 0.55; 1 of 6 trials have not succeeded"
    assert (best in told) == source.startswith("@")


def test_what_is_set_wins_over_what_a_trial_changed(ended: RunRecord, world: Any) -> None:
    """Only settings of the network and its data come along."""
    text = Trials(
        ("model.read_at", "model.init", "data.frames", "train.lr"), ((1, "x.pt", [8, 16], 0.1),)
    ).text
    ended.manifests[0]["spec"]["template"]["metadata"]["annotations"]["vidjobs/trials"] = text
    records.forget(RUN)
    records.save(ended)
    runs = VolumeConf(claim="runs", mount="/runs", as_="runs")
    own = values_from(f"{RUN}/0", "infer", runs=runs, backend=world.backend)
    init = {"model.init": f"${{runs}}/{RUN}/trials/0000/checkpoints/epoch-000001.pt"}
    assert own == {"model.read_at": 1, "data.frames": [8, 16], **init}
    own = values_from(
        f"{RUN}/0", "infer", runs=runs, backend=world.backend, sets=["model.read_at=2"]
    )
    assert own == {"data.frames": [8, 16], **init}


@pytest.mark.parametrize(
    ("source", "says", "hint"),
    [
        (
            "",
            "is a sweep of 6 trials: which one's checkpoint?",
            f"--from {RUN}@best takes the best trial's, --from {RUN}/7@best",
        ),
        ("@12", "which one's checkpoint?", "/7@best"),
        ("@bets", "which one's checkpoint?", "@best"),
        ("/x@best", "which one's checkpoint?", "/7@best"),
        ("/6@best", "has no trial 6", "0 to 5"),
        ("/4@best", f"trial 4 of {RUN} has no checkpoint yet", f"vidjobs sweep status {RUN}"),
        ("/3@9", f'trial 3 of {RUN} has no checkpoint "9"', "best, last and epochs"),
    ],
)
def test_from_a_sweep_says_how_when_it_is_not_clear(
    ended: RunRecord, world: Any, source: str, says: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        values_from(
            f"{RUN}{source}",
            "eval",
            runs=VolumeConf(claim="runs", mount="/runs", as_="runs"),
            backend=world.backend,
        )
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_from_a_trial_of_one_run_or_a_sweep_without_scores_is_an_error(
    ended: RunRecord, world: Any
) -> None:
    runs = VolumeConf(claim="runs", mount="/runs", as_="runs")
    records.save(world.record("b-train-bbbbbb"))
    with pytest.raises(UserError, match='is one run, not a sweep: it has no trial "7"'):
        values_from("b-train/7@best", "eval", runs=runs, backend=world.backend)
    shutil.rmtree(world.folder(RUN))
    with pytest.raises(UserError, match=r"no trial of .* has a checkpoint with a score yet"):
        values_from(f"{RUN}@best", "eval", runs=runs, backend=world.backend)


def test_results_are_the_same_when_the_job_is_gone(
    ended: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read from the trials' folders; the failed one has its reason there, too."""
    delete.run(RUN, yes=True)
    capsys.readouterr()
    assert sweep.results(None, by="f1_macro") == 0
    told = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(told.out)))
    assert [row["trial"] for row in rows] == ["5", "3", "2", "1", "0", "4"]
    assert rows[0] == {
        "trial": "5", "phase": "succeeded", "model.read_at": "2", "model.apply_at": "2", "epoch": "2", "step": "20", "train_loss": "0.5",
        "checkpoint": "epoch-000001.pt", "f1_macro": "0.55", "val_loss": "0.5", "cause": "",
    }  # fmt: skip
    assert (rows[5]["phase"], rows[5]["cause"]) == ("failed", "model.read_at: is 9")
    assert "best f1_macro: 0.55 in trial 5" in told.err

    assert sweep.results(RUN, out=tmp_path / "r.csv", heatmap=tmp_path / "map.png") == 0
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "r.csv").read_text().splitlines()[0].startswith("trial,phase,model.read_at")
    with pytest.raises(UserError) as caught:
        sweep.results(RUN, by="f1_marco")
    assert 'did you mean "f1_macro"' in caught.value.hint


def test_one_trial_can_be_fetched_and_its_log_read(
    ended: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.run("checkpoints", RUN, out=tmp_path, best=True, trial=3) == 0
    assert (tmp_path / "checkpoints/epoch-000001.pt").read_bytes() == bytes([3]) * 1000
    with pytest.raises(UserError, match="each trial has checkpoints of its own"):
        fetch.run("checkpoints", RUN, out=tmp_path)
    assert fetch.run("trials/*/metrics.jsonl", RUN, out=tmp_path / "all") == 0
    assert len(list((tmp_path / "all/trials").iterdir())) == 5
    capsys.readouterr()
    none = {
        "grep": [],
        "follow": False,
        "since": None,
        "tail": None,
        "all_pods": False,
        "timestamps": False,
        "parse": False,
        "style": None,
    }
    assert logs.run(RUN, trial=3, as_json=False, plot=None, file=None, **none) == 0
    assert capsys.readouterr().out.splitlines() == [
        "trial 3",
        *(f"train Loss: {1 / e} epoch={e} step={10 * e} trial=3" for e in (1, 2)),
    ]
    assert logs.run(RUN, as_json=False, plot=None, file=None, **none) == 0
    told = capsys.readouterr()
    assert told.out.startswith("trial ")
    assert "--trial N shows another's" in told.err
    for wrong in (
        lambda: fetch.run("all", RUN, trial=6),
        lambda: logs.run(RUN, trial=6, as_json=False, plot=None, file=None, **none),
    ):
        with pytest.raises(UserError, match="no trial 6"):
            wrong()


def test_a_report_of_a_sweep_has_its_trials_and_the_heat_map(
    ended: RunRecord, tmp_path: Path
) -> None:
    report.run([RUN], out=tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Trials</h2>" in page
    assert (
        '<tr class="best"><td>5</td><td>2</td><td>2</td><td>succeeded</td><td>2</td><td>0.5500</td>'
        in page
    )
    assert "model.read_at: is 9" in page
    assert f"f1_macro of {RUN}" in page


def test_status_of_a_sweep_names_the_newest_attempts_and_where_its_trials_are(
    ended: RunRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status_command, "_SHOWN", 2)
    assert status_command.run(ended.run) == 0
    told = capsys.readouterr()
    assert len([line for line in told.out.splitlines() if line.startswith(f"{RUN}-")]) == 2
    assert (
        told.err
        == f"4 older attempts are not shown; --json lists all\n`vidjobs sweep status {RUN}` shows its trials\n"
    )


def test_a_run_that_is_no_sweep_says_so(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    records.save(world.record("b-train-bbbbbb"))
    with pytest.raises(UserError, match="not a sweep"):
        sweep.status("b-train")
    with pytest.raises(UserError, match="no sweep was submitted from"):
        sweep.results(None)


def test_folders_with_anything_in_them_cost_what_they_hold_and_no_more(
    ended: RunRecord, world: Any
) -> None:
    """Half a manifest, a list for a mapping, no number for a loss: that trial is shown without."""
    folder = world.folder(RUN) / "trials"
    (folder / "0000/checkpoints/manifest.json").write_text('{"files": {"epoch')
    (folder / "0001/checkpoints/manifest.json").write_text(
        '{"best": 3, "files": {"3": []}, "select": []}'
    )
    (folder / "0002/metrics.jsonl").write_text(
        '[]\n{"phase": "train", "loss": null, "step": "x"}\n{"phase"'
    )
    (folder / "0003/trial.json").write_text("[1]")
    manifest = folder / "0005/checkpoints/manifest.json"
    manifest.write_text(manifest.read_text().replace("0.55", "NaN"))
    view = look(ended)
    trials = view.trials
    assert [dict(trial.scores) for trial in trials[:2]] == [{}, {}]
    assert [trial.number for trial in view.ranked("f1_macro")] == [3, 2]
    assert (trials[2].loss, trials[2].step) == (None, None)
    assert [trial.phase for trial in trials].count("succeeded") == 5


def _view(values: dict[tuple[int, int], float | None], world: Any, **more: Any) -> SweepView:
    trials = tuple(
        TrialView(
            number=number,
            changes={"model.read_at": read, "model.apply_at": apply, **more},
            phase="succeeded",
            scores={} if value is None else {"f1_macro": value},
        )
        for number, ((read, apply), value) in enumerate(values.items())
    )
    record = world.record(RUN)
    return SweepView(
        record=record,
        status=world.backend.status(record),
        keys=("model.read_at", "model.apply_at"),
        trials=trials,
    )


def test_a_heat_map_frames_the_best_and_marks_what_has_no_value(world: Any) -> None:
    values: dict[tuple[int, int], float | None] = {
        (read, apply): 0.1 * read + 0.01 * apply for read in range(3) for apply in range(read, 3)
    }
    values[1, 2] = None
    view = _view(values, world)
    assert choose_axes(view, None) == ("model.apply_at", "model.read_at")
    scene = heat_map(view, "f1_macro", ("model.apply_at", "model.read_at"))
    texts = [getattr(shape, "text", "") for shape in scene.shapes]
    assert texts.count("-") == 1
    assert {"0.220", "model.apply_at", "model.read_at", "f1_macro of a-train-aaaaaa"} <= set(texts)
    for said, hint in (
        ("model.read_at", "two keys"),
        ("model.read_at,model.raed_at", "did you mean"),
    ):
        with pytest.raises(UserError) as caught:
            choose_axes(view, said)
        assert hint in caught.value.hint
    one = _view({(0, 1): 0.5}, world)
    with pytest.raises(UserError, match="0 keys vary"):
        choose_axes(one, None)
    assert heat_map(one, "f1_macro", ("model.apply_at", "model.read_at")).width > 100


def test_diff_of_sweeps_compares_their_best_trials(
    ended: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff.run(ended.run, ended.run, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)

    results = {each["key"]: each["a"] for each in told["results"]}
    assert results["trials succeeded"] == 5
    assert results["best trial"] == "5 (model.read_at=2 model.apply_at=2)"
    assert results["best trial's f1_macro"] == pytest.approx(0.55)
    assert not [text for text in told["missing"] if "empty or gone" in text or "no results" in text]
