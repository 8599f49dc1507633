"""Contract of `vidjobs report`: one page that needs nothing else, shows what the run folder holds, and lets no name become code."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from launcher import records
from launcher.backend_base import Phase, RunStatus
from launcher.backends.local.files import LocalFiles
from launcher.commands import report as command
from launcher.confusion_map import read_counts
from launcher.errors import UserError
from launcher.report import render
from launcher.report_answers import Answer, common_folder, read_answers
from launcher.report_data import PICTURE_LIMIT, RunData, gather

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">{{ 7 * 7 }}</pre>'
COLUMNS = "class,train_count,support,tp,fp,fn,tn,precision,recall,f1"


def png(folder: Path, name: str) -> None:
    path = folder / "figures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32), (200, 80, 40)).save(path)


def write_run(folder: Path, *, name: str = "walking", verb: str = "eval") -> None:
    """A run folder as the trainer leaves it: 4 epochs of 5 steps."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in range(1, 21):
        epoch = (step + 4) // 5
        lines.append(
            {
                "phase": "train",
                "loss": 1 / step,
                "epoch": epoch,
                "step": step,
                "lr": 1e-3,
                "time": "2026-11-21T10:00:00+00:00",
            }
        )
        if step % 5 == 0:
            scores = {"f1_macro": epoch / 10, "f1_micro": 0.7, "f1_samples": 0.6, "accuracy": 0.5}
            lines.append(
                {
                    "phase": "val",
                    "loss": 0.5 / epoch,
                    "epoch": epoch,
                    "step": step,
                    **scores,
                    "time": "x",
                }
            )
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "tra'
    )
    (folder / "conf.yaml").write_text(f"name: t\nmodel: {{name: i3d}}  # {name}\n")
    (folder / "provenance.json").write_text(
        json.dumps(
            {"commit": "abc123", "packages": {"torch": "2.10.0"}, "command": ["python", name]}
        )
    )
    (folder / "DONE.json").write_text(
        json.dumps({"verb": verb, "finished": "2026-11-21T11:00:00Z", "exit_code": 0})
    )
    weights = {
        f"epoch-00000{epoch}.pt": {
            "kind": "weights",
            "epoch": epoch,
            "metrics": {"f1_macro": epoch / 10},
        }
        for epoch in (3, 4)
    }
    (folder / "checkpoints").mkdir()
    manifest = {"format": 1, "last": "epoch-000004.pt", "best": "epoch-000003.pt", "files": weights}
    (folder / "checkpoints/manifest.json").write_text(json.dumps(manifest))
    if verb != "eval":
        return
    (folder / "predictions").mkdir()
    (folder / "predictions/metrics.json").write_text(
        json.dumps({"f1_macro": 0.2944, "accuracy": 0.5724})
    )
    rows = io.StringIO()
    csv.writer(rows).writerows(
        [
            COLUMNS.split(","),
            [name, 4644, 30, 20, 5, 10, 65, 0.8, 0.6667, 0.7273],
            ["riding", "", 3, 0, 1, 3, 96, "nan", 0, 0],
        ]
    )
    (folder / "predictions/f1_by_class.csv").write_text(rows.getvalue())
    png(folder, "resizer/sample-1.png")
    png(folder, "resizer/sample-1/input-000.png")
    png(folder, "f1_by_class.png")


def record_of(run: str, root: Path, verb: str = "eval") -> records.RunRecord:
    return records.RunRecord(
        run=run, verb=verb, name="t", created="2026-11-21T10:00:00Z", backend="local", cluster="local", context="", namespace="",
        directory=str(Path.cwd()), runs_claim="runs", runs_mount=str(root), commit="abc123",
    )  # fmt: skip


def data_of(root: Path, run: str = "t-eval-aaaaaa", **options: Any) -> RunData:
    write_run(root / run, **options)
    return gather(
        record_of(run, root), RunStatus(run=run, phase=Phase.SUCCEEDED), LocalFiles(root / run)
    )


class Outline(HTMLParser):
    """Tags, and the addresses that a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "data", "action", "srcset")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_what_the_run_folder_holds(tmp_path: Path) -> None:
    page = Outline(render([data_of(tmp_path)], made="today"))

    for shown in ("t-eval-aaaaaa", "succeeded", "best val 0.1250, epoch 4", "0.2944", "0.5724", "walking", "4644", "0.7273",
                  "2.10.0",
                  "model: {name: i3d}", "best checkpoint, epoch-000003.pt", "resizer/sample-1", "Scores of the validations"):  # fmt: skip
        assert shown in page.text, shown
    assert page.tags.count("svg") == 2
    # the contact sheet; single frames stay where they are, and F1 is a table here
    assert page.tags.count("img") == 1


def test_a_page_fetches_nothing(tmp_path: Path) -> None:
    page = render(
        [data_of(tmp_path / "a"), data_of(tmp_path / "b", "other-eval-bbbbbb")], made="today"
    )
    outline = Outline(page)

    assert all(address.startswith(("data:image/png;base64,", "#")) for address in outline.fetched)
    assert not {"link", "iframe", "object", "embed"} & set(outline.tags)
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert "default-src 'none'" in page


def test_a_section_without_data_is_not_there(tmp_path: Path) -> None:
    page = Outline(render([data_of(tmp_path, "t-train-aaaaaa", verb="train")], made="today"))

    for absent in ("F1 by class", "Confusion", "Pictures", "Tested checkpoints", "Left out"):
        assert absent not in page.text, absent
    empty = RunData(
        record=record_of("new-train-aaaaaa", tmp_path),
        status=RunStatus(run="new", phase=Phase.PENDING, cause="no GPU is free"),
    )
    shown = Outline(render([empty], made="today"))
    assert "no GPU is free" in shown.text
    assert "svg" not in shown.tags


def test_several_runs_are_compared_in_one_table_and_frame(tmp_path: Path) -> None:
    page = Outline(
        render(
            [data_of(tmp_path / "a"), data_of(tmp_path / "b", "other-eval-bbbbbb")], made="today"
        )
    )

    assert "2 runs compared" in page.text
    assert "other-eval-bbbbbb val" in page.text
    assert "F1 macro of all runs" in page.text
    assert page.tags.count("svg") == 6


def test_videos_with_one_class_each_have_their_own_scores(tmp_path: Path) -> None:
    """Top-1 instead of F1: in the curve, the tables and the tiles; what a class is taken for; only columns that have numbers."""
    for number in (1, 2):
        folder = tmp_path / f"t-eval-{number}"
        (folder / "predictions").mkdir(parents=True)
        lines = [
            {
                "phase": "val",
                "loss": 1 / epoch,
                "epoch": epoch,
                "step": epoch,
                "top1": epoch / 10,
                "map": 0.5,
            }
            for epoch in (1, 2, 3)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "predictions/metrics.json").write_text(
            json.dumps({"top1": 0.61, "top5": 0.87, "clip_top1": 0.5, "videos": 6})
        )
        rows = [
            f"{COLUMNS},accuracy,confused_with,confused",
            "riding,7,4,3,1,1,5,0.75,0.75,0.75,0.75,walking,1",
            "walking,8,2,2,0,0,4,1,1,1,,",
        ]
        (folder / "predictions/class_accuracy.csv").write_text("\n".join(rows) + "\n")
        png(folder, "class_accuracy.png")
        png(folder, "confusion.png")
    data = [
        gather(
            record_of(f"t-eval-{number}", tmp_path),
            RunStatus(run="t", phase=Phase.SUCCEEDED),
            LocalFiles(tmp_path / f"t-eval-{number}"),
        )
        for number in (1, 2)
    ]
    page = Outline(render(data, made="today"))

    for shown in (
        "best top1 0.3000, epoch 3",
        "0.6100",
        "0.8700",
        "Top1 of all runs",
        "Accuracy by class",
        "most often taken for",
        "videos",
    ):
        assert shown in page.text, shown
    for absent in ("F1 by class", "f1 macro"):
        assert absent not in page.text, absent
    assert page.tags.count("img") == 2  # the confusion of each run; class accuracy is a table


def test_a_fusion_stands_below_its_streams(tmp_path: Path) -> None:
    """Their scores beside its own; what was not scored is told."""
    folder = tmp_path / "t-fuse-aaaaaa" / "predictions"
    folder.mkdir(parents=True)
    scores = {
        "top1": 0.75,
        "missing": ["a", "b"],
        "weights_from": "given",
        "streams": {"rgb": {"top1": 0.7}, "flow": {"top1": 0.6}, "x": 1},
    }
    (folder / "metrics.json").write_text(json.dumps(scores))
    files = LocalFiles(folder.parent)
    data = gather(
        record_of("t-fuse-aaaaaa", tmp_path, "fuse"),
        RunStatus(run="t", phase=Phase.SUCCEEDED),
        files,
    )
    page = Outline(render([data], made="today"))

    assert re.search(r"rgb\s*0\.7000\s*flow\s*0\.6000\s*rgb \+ flow\s*0\.7500", page.text)
    assert re.search(r"not scored\s*2 videos", page.text)
    assert re.search(r"weights from\s*given", page.text)


def test_what_infer_answered_is_shown(tmp_path: Path) -> None:
    """Each input's classes, its windows below, what could not be read, and the half line of a run that was killed is nothing."""
    place = tmp_path / "t-infer-aaaaaa" / "predictions"
    place.mkdir(parents=True)
    top = [{"label": "walking", "score": 0.8125}, {"label": HOSTILE, "score": 0.1}]
    rows = [
        *(
            {
                "input": "a.mp4",
                "kind": "window",
                "from": start / 2,
                "to": (start + 1) / 2,
                "top": top,
            }
            for start in range(2)
        ),
        {
            "input": "a.mp4",
            "kind": "video",
            "windows": 2,
            "seconds": 1.0,
            "labelled": None,
            "top": top,
        },
        {"input": "b.mp4", "kind": "error", "message": "no frame can be decoded"},
        {"input": "0", "kind": "window", "from": 0, "to": 0.5, "top": top[:1]},
    ]
    (place / "infer.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"input": "0", "kin'
    )
    data = gather(
        record_of("t-infer-aaaaaa", tmp_path, "infer"),
        RunStatus(run="t", phase=Phase.FAILED),
        LocalFiles(place.parent),
    )
    page = Outline(render([data], made="today"))

    assert re.search(r"a\.mp4\s*2\s*1\.0\s*walking\s*0\.8125", page.text)
    assert re.search(r"b\.mp4\s*0\s*no frame can be decoded", page.text)
    assert "0.50-1.00 s" in page.text
    assert "0, window by window" in page.text
    assert "img" not in page.tags
    assert page.tags.count("script") == 1


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["/d/talks/a.mp4"], "/d/talks/"),
        (["/d/talks/a.mp4", "/d/talks/day/b.mp4"], "/d/talks/"),
        (["/d/talks/a.mp4", "/d/talk/b.mp4"], "/d/"),
        (["/d/a.mp4", "/e/a.mp4"], ""),
        (["/d/a.mp4", "0"], ""),
        (["a.mp4"], ""),
        ([], ""),
    ],
)
def test_the_folder_of_all_inputs_is_told_once(names: list[str], folder: str) -> None:
    assert common_folder([Answer(name=name) for name in names]) == folder


def test_of_very_many_answers_the_first_are_shown_and_the_rest_is_told() -> None:
    notes: list[str] = []
    lines = [
        json.dumps(
            {"input": f"{number % 400}.mp4", "kind": "window", "from": 0, "to": 1, "top": []}
        )
        for number in range(40_000)
    ]
    answers = read_answers("\n".join([*lines, *lines[:1] * 300]), notes)
    assert (len(answers), answers[0].count) == (300, 400)
    assert max(len(answer.windows) for answer in answers) <= 200
    assert sum(len(answer.windows) for answer in answers) <= 5000
    assert any("100 inputs are not shown" in note for note in notes)
    assert any("windows are not shown" in note for note in notes)


def test_a_test_of_videos_with_one_class_each_shows_its_confusion_by_name(tmp_path: Path) -> None:
    """Not where the run has drawn one, as an eval does; what is no such array is no picture."""
    folder = tmp_path / "t-test-aaaaaa"
    (folder / "predictions").mkdir(parents=True)
    (folder / "predictions/classes.json").write_text(json.dumps(["walking", HOSTILE, "riding"]))
    counts = [[5, 1, 0], [0, 4, 0], [2, 0, 0]]
    np.save(folder / "predictions/confusion.npy", np.array(counts))

    def page() -> tuple[RunData, Outline]:
        data = gather(
            record_of("t-test-aaaaaa", tmp_path, "test"),
            RunStatus(run="t", phase=Phase.SUCCEEDED),
            LocalFiles(folder),
        )
        return data, Outline(render([data], made="today"))

    data, shown = page()
    assert data.confusion == counts
    assert shown.tags.count("svg") == 1
    for text in ("walking 0", "riding 2", "rows: the class"):
        assert text in shown.text
    for wrong in (
        np.zeros((3, 2, 2), np.int64),
        np.zeros((2, 2), np.int64),
        np.zeros((3, 3), np.float32),
        -np.ones((3, 3), np.int64),
    ):
        np.save(folder / "predictions/confusion.npy", wrong)
        assert page()[0].confusion == []
    for content in (
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x01\x00\x04\x00{}  " + bytes(80),
    ):
        assert read_counts(content, 3) == []
    np.save(folder / "predictions/confusion.npy", np.array(counts))
    png(folder, "confusion.png")
    assert "svg" not in page()[1].tags


def test_hostile_names_are_text(tmp_path: Path) -> None:
    page = render([data_of(tmp_path, name=HOSTILE)], made="today")
    outline = Outline(page)

    assert outline.tags.count("script") == 1
    assert outline.tags.count("img") == 1
    assert "{{ 7 * 7 }}" in outline.text


@pytest.mark.slow
def test_in_a_browser_the_page_sorts_and_no_hostile_name_runs(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = tmp_path / "page.html"
    page.write_text(render([data_of(tmp_path, name=HOSTILE)], made="today"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [browser, *flags, page.as_uri()], capture_output=True, text=True, check=True, timeout=60
    )

    assert "<title>t-eval-aaaaaa</title>" in done.stdout  # not "owned"
    # our own script ran, past the page's policy
    assert '<th tabindex="0">class</th>' in done.stdout


@pytest.mark.parametrize(
    ("path", "content", "note"),
    [
        ("predictions/f1_by_class.csv", b"class,f1\nwalking,high\n", "f1_by_class.csv"),
        ("predictions/metrics.json", b"{", "metrics.json"),
        ("provenance.json", b"[" * 100_000, "provenance.json"),
        ("figures/huge.png", b"\x89PNG\r\n\x1a\n" + bytes(PICTURE_LIMIT), "figures/huge.png"),
        ("figures/fake.png", b"<svg onload=alert(1)>", ""),
        ("metrics.jsonl", b"\xff\xfe\n[]\n{}\n" + b'{"phase": 3}\n', ""),
        (
            "predictions/test.json",
            b'{"checkpoints": [1, "x", {"checkpoint": null, "f1_macro": "high"}]}',
            "",
        ),
        ("checkpoints/manifest.json", b'{"best": {}, "last": 3, "files": {"3": 7}}', ""),
    ],
)
def test_a_file_that_makes_no_sense_is_left_out_and_named(
    tmp_path: Path, path: str, content: bytes, note: str
) -> None:
    write_run(tmp_path / "t")
    (tmp_path / "t" / path).write_bytes(content)
    data = gather(
        record_of("t", tmp_path),
        RunStatus(run="t", phase=Phase.SUCCEEDED),
        LocalFiles(tmp_path / "t"),
    )

    assert bool(data.notes) == bool(note)
    assert all(note in one for one in data.notes)
    page = Outline(render([data], made="today"))
    assert note in page.text
    assert page.tags.count("img") == 1


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=5),
    st.just(HOSTILE),
)
_NAMES = (
    "input kind top label score phase loss epoch step f1_macro checkpoint best last files metrics "
    "packages attempts exit_code a.pt clips"
)
_KEYS = st.sampled_from(_NAMES.split())
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(_JSON, min_size=8, max_size=8),
    st.lists(st.dictionaries(_KEYS, _LEAVES, max_size=6), max_size=6),
)
def test_whatever_json_a_pod_leaves_there_is_a_page(
    values: list[Any], lines: list[dict[str, Any]]
) -> None:
    paths = (
        "predictions/infer.jsonl",
        "predictions/classes.json",
        "predictions/metrics.json",
        "predictions/test.json",
        "checkpoints/manifest.json",
        "provenance.json",
        "DONE.json",
        "conf.yaml",
    )
    with TemporaryDirectory() as folder:
        for path, value in zip(paths, values, strict=True):
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_text(json.dumps(value))
        told = [
            {**line, "phase": phase}
            for line, phase in zip(lines, ["train", "val", "test"] * 2, strict=False)
        ]
        (Path(folder) / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in told)
        )
        data = gather(
            record_of("t", Path("/none")),
            RunStatus(run="t", phase=Phase.GONE),
            LocalFiles(Path(folder)),
        )

    page = Outline(render([data, data], made="today"))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags


def test_a_loss_that_was_not_finite_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/metrics.jsonl").write_text(
        '{"phase": "train", "loss": null, "epoch": 1, "step": 1}\n'
    )
    data = gather(
        record_of("t", tmp_path), RunStatus(run="t", phase=Phase.FAILED), LocalFiles(tmp_path / "t")
    )

    assert [math.isnan(record.loss or 0.0) for record in data.records] == [True]
    render([data], made="today")


def test_the_command_writes_a_page_and_prints_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("t-eval-aaaaaa", "t-train-bbbbbb"):
        write_run(tmp_path / "runs" / run)
        records.save(record_of(run, tmp_path / "runs"))

    assert command.run(["t-eval"], out=tmp_path / "out") == 0
    path = tmp_path / "out/report-t-eval-aaaaaa.html"
    assert capsys.readouterr().out == f"{path}\n"
    # the backend has forgotten the run, its DONE.json has not
    assert "succeeded" in path.read_text()
    assert command.run(["t-eval", "t-train", "t-eval-aaaaaa"], out=tmp_path / "both.html") == 0
    assert "2 runs compared" in (tmp_path / "both.html").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name]


def test_a_page_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    write_run(tmp_path / "t-eval-aaaaaa")
    records.save(record_of("t-eval-aaaaaa", tmp_path))
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="cannot be written"):
        command.run(["t-eval"], out=tmp_path / "file" / "below")
