"""`fuse`: what two evaluations say together, by which weights, and what it refuses to put together."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import fuse, ranking
from trainer.answers import Answers
from trainer.config import Config, FuseConf
from trainer.errors import DataError
from trainer.run_folder import RunFolder

CLASSES = ("run", "walk", "sit")


def answers(seed: int, prefix: str = "v", count: int = 40) -> Answers:
    """Half right, each seed in its own way."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    logits = random.normal(size=(count, len(CLASSES))) + 1.2 * np.eye(len(CLASSES))[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Answers(
        CLASSES,
        tuple(f"{prefix}{number}" for number in range(count)),
        scores.astype(np.float32),
        labels,
    )


def write_run(folder: Path, content: Answers) -> None:
    """As `eval` leaves it."""
    run = RunFolder(folder)
    content.write(run, 10)
    scores = ranking.one_label(content.scores, content.targets)
    run.write_text(
        run.predictions / "metrics.json",
        json.dumps({"clip_top1": 0.25, "clip_top3": 0.5, **scores}),
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two streams of the test split, and of the validation split."""
    for seed, name in enumerate(("rgb", "flow")):
        write_run(tmp_path / name, answers(seed))
        write_run(tmp_path / f"{name}-val", answers(seed + 10, "w"))
    return tmp_path


def conf(**fields: object) -> Config:
    return Config(fuse=FuseConf(streams={"rgb": "rgb", "flow": "flow"}, **fields))  # type: ignore[arg-type]  # the test names the fields


def test_given_weights_are_shares_and_the_fusion_is_their_sum(runs: Path) -> None:
    """Files as of an evaluation, each stream's metrics beside the fused ones, and the table in two forms."""
    folder = RunFolder(runs / "fused")
    fuse.run(conf(weights={"rgb": 3.0, "flow": 1.0}), folder)
    expected = 0.75 * answers(0).scores + 0.25 * answers(1).scores
    found = Answers.read(folder.predictions)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    report = json.loads((folder.predictions / "metrics.json").read_text())
    assert {key: report[key] for key in ("top1", "map")} == pytest.approx(
        {
            key: value
            for key, value in ranking.one_label(expected, found.targets).items()
            if key in ("top1", "map")
        }
    )
    assert report["weights"] == {"rgb": 0.75, "flow": 0.25}
    assert (
        report["streams"]["flow"]["top1"]
        == ranking.one_label(answers(1).scores, found.targets)["top1"]
    )
    rows = list(csv.DictReader((folder.predictions / "fusion.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["rgb", "flow", "rgb + flow"]
    assert [row["frame top-1"] for row in rows] == ["25.00", "25.00", ""]
    assert float(rows[2]["video top-1"]) == pytest.approx(100 * report["top1"], abs=0.01)
    table = (folder.predictions / "fusion.md").read_text()
    assert len(table.splitlines()) == 5
    assert table in folder.log.read_text()
    assert json.loads(folder.done.read_text())["verb"] == "fuse"


def test_searched_weights_are_the_best_of_the_other_videos(runs: Path) -> None:
    """Nothing of the grid is better there; the curve is drawn; without anything the weights are equal."""
    folder = RunFolder(runs / "searched")
    fuse.run(conf(search_on={"flow": "flow-val", "rgb": "rgb-val"}, search_steps=10), folder)
    report = json.loads((folder.predictions / "metrics.json").read_text())
    on = {name: answers(seed + 10, "w") for seed, name in enumerate(("rgb", "flow"))}

    def top1(share: float) -> float:
        mixed = share * on["rgb"].scores + (1 - share) * on["flow"].scores
        return ranking.top(ranking.ranks(mixed, on["rgb"].labels), 1)

    assert top1(report["weights"]["rgb"]) == pytest.approx(
        max(top1(step / 10) for step in range(11))
    )
    assert (folder.figures / "weights.png").read_bytes().startswith(b"\x89PNG")
    equal = RunFolder(runs / "equal")
    fuse.run(conf(), equal)
    assert json.loads((equal.predictions / "metrics.json").read_text())["weights"] == {
        "rgb": 0.5,
        "flow": 0.5,
    }
    assert "note: equal weights" in equal.log.read_text()


@given(st.integers(2, 4), st.integers(1, 6))
def test_the_grid_has_every_sharing_once(streams: int, steps: int) -> None:
    names = [f"s{number}" for number in range(streams)]
    found = fuse.grid(names, steps)
    assert all(
        sum(weights.values()) == pytest.approx(1) and min(weights.values()) >= 0
        for weights in found
    )
    assert len(
        {tuple(round(share * steps) for share in weights.values()) for weights in found}
    ) == len(found)
    assert len(found) == len([0 for _ in _sharings(streams, steps)])


def _sharings(streams: int, steps: int) -> list[tuple[int, ...]]:
    if streams == 1:
        return [(steps,)]
    return [
        (first, *rest)
        for first in range(steps + 1)
        for rest in _sharings(streams - 1, steps - first)
    ]


def test_streams_in_another_order_are_matched_by_name(runs: Path) -> None:
    """Videos and classes may stand in any order."""
    flow, random = answers(1), np.random.default_rng(5)
    rows, columns = random.permutation(len(flow.videos)), np.array([2, 0, 1])
    shuffled = Answers(
        tuple(flow.classes[place] for place in columns), tuple(flow.videos[place] for place in rows),
        flow.scores[rows][:, columns], np.argsort(columns)[flow.labels[rows]],
    )  # fmt: skip
    write_run(runs / "flow", shuffled)
    streams = fuse.open_streams({"rgb": "rgb", "flow": "flow"}, runs)
    assert (streams["flow"].answers.scores == flow.scores).all()


def test_what_does_not_belong_together_is_refused(runs: Path) -> None:
    """Other videos, classes or labels; no such evaluation; weights searched where they are reported."""
    rgb = answers(0)
    last = replace(rgb, videos=(*rgb.videos[:-1], "another"))
    classes = replace(rgb, classes=("run", "walk", "lie"))
    labels = replace(rgb, labels=np.roll(rgb.labels, 1))
    cases = {
        'same videos: 1 only in "rgb", as v39; 1 only in "flow", as another': last,
        'same classes: 1 only in "rgb", as sit': classes,
        "39 videos have another label": labels,
    }
    for told, flow in cases.items():
        write_run(runs / "flow", flow)
        with pytest.raises(DataError, match=told):
            fuse.run(conf(), RunFolder(runs / "x"))
    with pytest.raises(
        DataError, match=r'no evaluation is called "nothing".*flow, flow-val, rgb, rgb-val'
    ):
        fuse.find_predictions("nothing", runs)
    assert fuse.find_predictions("rgb-v", runs) == fuse.find_predictions("rgb-val", runs)
    with pytest.raises(
        DataError, match=r'"fl" is the start of several evaluations: flow, flow-val'
    ):
        fuse.find_predictions("fl", runs)
    write_run(runs / "flow", answers(1))
    with pytest.raises(DataError, match="has 40 of the videos that are fused"):
        fuse.run(conf(search_on={"rgb": "rgb", "flow": "flow"}), RunFolder(runs / "x"))
    (runs / "flow" / "predictions" / "ground_truth.json").write_text("{}")
    with pytest.raises(DataError, match="ActivityNet's form"):
        fuse.run(conf(), RunFolder(runs / "x"))


@pytest.mark.slow
def test_it_runs_without_a_dataset_or_a_network(runs: Path, project: Path) -> None:
    """As a process: a conf with nothing but the streams, one of them by its path."""
    flat = runs / "conf.yaml"
    flat.write_text(f"fuse:\n  streams: {{rgb: rgb, flow: {runs / 'flow' / 'predictions'}}}\n")
    argv = [
        sys.executable,
        "-m",
        "trainer",
        "fuse",
        "--conf",
        str(flat),
        "--run",
        str(runs / "out"),
    ]
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| rgb + flow |" in done.stdout
    assert (runs / "out" / "predictions" / "val.json").exists()
    wrong = subprocess.run(
        [*argv, "fuse.streams.flow=missing"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 65
    assert 'no evaluation is called "missing"' in wrong.stderr
