"""Contract of `vidjobs logs`: on files as a person's shell runs it, and on runs of the real local backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher import records
from launcher.backend_base import LogLine, Manifest, Phase, RunStatus
from launcher.backends.kube.log_cursor import LogCursor
from launcher.backends.local.backend import LocalBackend
from launcher.commands import logs
from launcher.errors import ClusterError, UserError
from launcher.log_view import LogOptions, LogView

Show = Callable[..., int]
PRINTS = """
import sys, time
for step in range(1, 4):
    print(f"train Loss: {1 / step:.4f} epoch=1 step={step}", flush=True)
print("val  Loss: 0.5000 epoch=1 step=3 f1_macro=0.2", flush=True)
"""


@pytest.fixture
def show() -> Show:
    """`logs.run` with the defaults of the command line."""

    def call(run: str | None = None, **options: Any) -> int:
        names = ("follow", "all_pods", "timestamps", "parse", "as_json")
        defaults: dict[str, Any] = (
            dict.fromkeys(names, False)
            | dict.fromkeys(("since", "tail", "style", "plot", "file"))
            | {"grep": []}
        )
        return logs.run(run, **(defaults | options))

    return call


@pytest.fixture
def old_log(tmp_path: Path) -> Path:
    path = tmp_path / "old.txt"
    path.write_bytes(
        b"Epoch 0/5\ntrain Loss: 0.5\n\xff\xfe binary \x00\r\ntrain Loss: 0.3\nval  Loss: 0.4 \ntrain Loss: 0.0"
    )
    return path


def vidjobs(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, **options
    )


def start(run: str, code: str, *, retries: int = 0) -> records.RunRecord:
    """A run of the local backend whose trainer is `python -c code`."""
    container = {"name": "trainer", "image": "none", "command": ["python"], "args": ["-c", code]}
    manifest: Manifest = {
        "kind": "Job",
        "metadata": {"name": run},
        "spec": {
            "backoffLimit": retries,
            "template": {
                "metadata": {},
                "spec": {"containers": [container], "restartPolicy": "Never"},
            },
        },
    }
    runs = str(Path(os.environ["XDG_STATE_HOME"]) / "volumes")
    LocalBackend(retry_base_s=0.1).submit([manifest])
    record = records.RunRecord(
        run=run, verb="train", name="t", created="2026-11-21T10:00:00Z", backend="local", cluster="local", context="", namespace="",
        directory=str(Path.cwd()), runs_claim="runs", runs_mount=runs,
    )  # fmt: skip
    records.save(record)
    return record


def wait_until_ended(record: records.RunRecord) -> None:
    backend = LocalBackend()
    deadline = time.monotonic() + 20
    while not backend.status(record).phase.ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_needs_no_run_and_keeps_its_lines(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(file=old_log) == 0

    lines = capsys.readouterr().out.splitlines()
    assert (lines[1], lines[-1]) == ("train Loss: 0.5", "train Loss: 0.0")
    assert lines[2] == "\ufffd\ufffd binary \x00"


def test_a_line_passes_when_any_grep_matches(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(file=old_log, grep=["^val", "Epoch"])

    assert capsys.readouterr().out.splitlines() == ["Epoch 0/5", "val  Loss: 0.4 "]


def test_nothing_matched_is_said_on_stderr(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(file=old_log, grep=["zebra"]) == 0

    assert capsys.readouterr() == ("", "no line matched; 6 lines were read\n")


def test_parsed_json_is_one_strict_object_a_line(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(file=old_log, parse=True, as_json=True)

    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"phase": "train", "loss": 0.5, "epoch": 0, "line": 2},
        {"phase": "train", "loss": 0.3, "epoch": 0, "line": 4},
        {"phase": "val", "loss": 0.4, "epoch": 0, "line": 5},
    ]
    assert err == "line 6 has no newline and may be cut in the middle: left out\n"


def test_the_classic_form_is_what_the_old_notebook_splits(
    show: Show, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The notebook takes the last token of a train line, and the fourth of a val line split at single spaces."""
    log = tmp_path / "log"
    log.write_text(
        "train Loss: 0.0710 epoch=1 step=1\nval  Loss: 0.0499 step=1 f1_macro=0.2\ntest Loss: 1.0 epoch=1\ntrain Loss: 0.00004 step=2\n"
    )
    show(file=log, style="classic")

    train, val, small = capsys.readouterr().out.splitlines()
    assert (train, val) == ("train Loss: 0.0710", "val  Loss: 0.0499 ")
    assert (float(train.split()[-1]), float(val.split(" ")[3]), float(small.split()[-1])) == (
        0.071,
        0.0499,
        0.00004,
    )


def test_json_without_parse_is_every_line(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(file=old_log, as_json=True, tail=2)

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"time": "", "pod": "", "text": "val  Loss: 0.4 ", "kind": "line"},
        {"time": "", "pod": "", "text": "train Loss: 0.0", "kind": "line"},
    ]


def test_the_tail_of_a_file_keeps_its_line_numbers(
    show: Show, old_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(file=old_log, parse=True, as_json=True, tail=2)

    assert json.loads(capsys.readouterr().out)["line"] == 5


@pytest.mark.parametrize(("name", "start_"), [("loss.svg", b"<svg"), ("loss.PNG", b"\x89PNG")])
def test_a_plot_is_written_whole_and_alone(
    show: Show,
    old_log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    start_: bytes,
) -> None:
    target = tmp_path / "out" / name
    target.parent.mkdir()

    assert show(file=old_log, plot=target) == 0
    assert target.read_bytes().startswith(start_)
    assert [path.name for path in target.parent.iterdir()] == [name]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grep": ["ok", "a(b"]}, ["a(b", "position 1", "\n   ^"]),
        ({"plot": Path("x.pdf")}, [".svg", ".png", "x.pdf"]),
        ({"plot": Path("no/such/x.svg")}, ["no/such"]),
        ({"since": "10x"}, ["10x", "90m"]),
        ({"since": "10m"}, ["--since", "--file"]),
        ({"follow": True, "all_pods": True}, ["--follow, --all-pods"]),
        ({"style": "clasic"}, ["clasic"]),
        ({"style": "classic", "as_json": True}, ["--json"]),
        ({"file": Path("/no/such/log")}, ["/no/such/log", "No such file"]),
        ({"file": Path("/")}, ["directory"]),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_value(
    show: Show, old_log: Path, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as raised:
        show(**({"file": old_log} | options))

    for word in words:
        assert word in raised.value.message


def test_a_plot_of_nothing_is_an_error_that_counts_the_lines(show: Show, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("hello\n")

    with pytest.raises(UserError, match="1 line was read"):
        show(file=tmp_path / "empty", plot=tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()


def test_a_resumed_run_is_told_once(
    show: Show, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_text(
        "".join(
            f"train Loss: {loss} step={step}\n"
            for step, loss in ((1, 9), (2, 8), (3, 7), (2, 6), (3, 5))
        )
    )
    show(file=log, parse=True, as_json=True)

    out, err = capsys.readouterr()
    assert [(record["step"], record["loss"]) for record in map(json.loads, out.splitlines())] == [
        (1, 9),
        (2, 6),
        (3, 5),
    ]
    assert "2 records" in err


def test_lost_lines_are_marked_and_half_lines_not_parsed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (gap,) = LogCursor().lost("pod a was deleted")
    view = LogView(options=LogOptions(), title="t")
    view.feed(LogLine(pod="a", text=gap.text, kind=gap.kind))
    view.feed(LogLine(pod="a", text="val Loss: 0.5", kind="truncated"))
    view.feed(LogLine(pod="b", text="train Loss: 0.5"))

    out, err = capsys.readouterr()
    assert out == "val Loss: 0.5\ntrain Loss: 0.5\n"
    assert "warning: lines may be missing here: pod a was deleted\n" in err
    assert "the next line is not whole" in err
    assert "now from pod b" in err
    parsed = LogView(options=LogOptions(parse=True), title="t")
    parsed.feed(LogLine(pod="a", text="val Loss: 0.5", kind="truncated"))
    assert parsed.records == []


def test_pods_are_told_apart_from_the_first_line_on(capsys: pytest.CaptureFixture[str]) -> None:
    view = LogView(options=LogOptions(all_pods=True, timestamps=True), title="t")
    view.feed(LogLine(pod="a", text="x", time="2026-11-21T10:00:00Z"))
    view.feed(LogLine(pod="b", text="y", time="2026-11-21T10:00:01Z", container="code"))

    assert (
        capsys.readouterr().out == "[a] 2026-11-21T10:00:00Z x\n[b] 2026-11-21T10:00:01Z code: y\n"
    )


def test_stdin_is_a_file_too() -> None:
    done = vidjobs(
        "logs", "--file", "-", "--parse", "--json", input="train Loss: 0.5\nval  Loss: 0.25 \n"
    )

    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["loss"] for line in done.stdout.splitlines()] == [0.5, 0.25]


def test_each_line_leaves_at_once_when_piped() -> None:
    command = [sys.executable, "-m", "launcher", "logs", "--file", "-", "--grep", "Loss"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("train Loss: 0.5\n")
        process.stdin.flush()
        assert process.stdout.readline() == "train Loss: 0.5\n"  # while stdin is still open
        process.stdin.close()


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("train Loss: 0.5\n" * 50_000)
    command = f"{sys.executable} -m launcher logs --file {tmp_path}/log | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "train Loss: 0.5\n", "")


def test_the_lines_of_an_ended_run_are_shown_and_parsed(
    show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until_ended(start("logs-train-aaaaaa", PRINTS))
    capsys.readouterr()

    assert show("logs-train", parse=True, as_json=True) == 0
    parsed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["phase"], record["step"]) for record in parsed] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("val", 3),
    ]
    assert all(record["pod"].startswith("logs-train-aaaaaa") for record in parsed)
    assert show("logs-train", parse=True, as_json=True, timestamps=True) == 0
    assert [json.loads(line)["time"][-1] for line in capsys.readouterr().out.splitlines()] == [
        "Z"
    ] * 4
    assert show(grep=["val"], timestamps=True) == 0  # the newest run from this directory
    assert "Z val  Loss: 0.5000" in capsys.readouterr().out


def test_following_ends_with_the_run_and_tells_its_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = start("follow-train-aaaaaa", PRINTS)
    plot = tmp_path / "loss.svg"

    assert logs.follow(good, LocalBackend(), LogOptions(follow=True, plot=plot)) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "follow-train-aaaaaa succeeded" in err
    assert plot.exists()


def test_a_run_that_fails_makes_follow_say_so(
    show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = start(
        "bad-train-aaaaaa", "import sys; print('train Loss: nan', flush=True); sys.exit(76)"
    )

    assert logs.follow(bad, LocalBackend()) == 4
    out, err = capsys.readouterr()
    assert out == "train Loss: nan\n"
    assert "bad-train-aaaaaa failed" in err
    assert show("bad-train", follow=True) == 0  # to show the log was all that was asked


def test_a_retry_is_followed_into_its_new_pod(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    code = (
        f"import pathlib, sys; mark = pathlib.Path({str(mark)!r}); again = mark.exists(); mark.touch();"
        "print('train Loss: 0.5 step=' + ('2' if again else '1'), flush=True); sys.exit(0 if again else 75)"
    )
    record = start("retry-train-aaaaaa", code, retries=2)

    assert logs.follow(record, LocalBackend()) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["train Loss: 0.5 step=1", "train Loss: 0.5 step=2"]
    assert "now from pod" in err


class Waiting(LocalBackend):
    """A run that waits for a GPU, then for its image, and then prints one line: what a cluster does and this machine never."""

    def __init__(self, *phases: RunStatus) -> None:
        super().__init__()
        self.phases = list(phases)
        self.told = threading.Event()

    def status(self, record: records.RunRecord) -> RunStatus:  # noqa: ARG002 - the Protocol's
        if len(self.phases) == 1:
            self.told.set()
            return self.phases[0]
        return self.phases.pop(0)

    def logs(self, record: records.RunRecord, **options: Any) -> Iterator[LogLine]:  # noqa: ARG002 - the Protocol's
        assert self.told.wait(20)
        yield LogLine(pod="a", text="train Loss: 0.5")


def test_while_a_run_waits_each_cause_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(logs, "_LOOK_EVERY_S", 0.05)
    gpu = RunStatus(
        run="r", phase=Phase.PENDING, cause="no GPU is free", fix="ask for another type"
    )
    pull = RunStatus(run="r", phase=Phase.STARTING, cause="pulling the image")
    record = records.RunRecord(
        run="r", verb="train", name="t", created="", backend="local", cluster="local", context="", namespace="", directory="",
        runs_claim="", runs_mount="/",
    )  # fmt: skip

    assert (
        logs.follow(
            record, Waiting(gpu, gpu, gpu, pull, pull, RunStatus(run="r", phase=Phase.SUCCEEDED))
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "train Loss: 0.5\n"
    assert err.splitlines() == [
        "r is pending: no GPU is free (ask for another type)",
        "r is starting: pulling the image",
        "r succeeded",
    ]


def test_a_log_that_ends_before_its_run_is_the_clusters_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_END_WAIT_S", 0.5)
    record = start("lost-train-aaaaaa", PRINTS)
    backend = Waiting(RunStatus(run=record.run, phase=Phase.RUNNING))

    with pytest.raises(ClusterError, match="still running"):
        logs.follow(record, backend)


def test_an_interrupt_leaves_the_run_alone_and_still_draws(tmp_path: Path) -> None:
    record = start(
        "long-train-aaaaaa",
        "import time\nprint('train Loss: 0.5 step=1', flush=True)\ntime.sleep(60)",
    )
    plot = tmp_path / "loss.svg"
    command = [sys.executable, "-m", "launcher", "logs", record.run, "-f", "--plot", str(plot)]
    try:
        # a suite that was started in the background hands ignored interrupts down; a person's
        # terminal does not
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "train Loss: 0.5 step=1\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "long-train-aaaaaa goes on" in err
        assert "vidjobs cancel long-train-aaaaaa" in err
        assert plot.exists()
        assert not LocalBackend().status(record).phase.ended
    finally:
        LocalBackend().delete(record)
