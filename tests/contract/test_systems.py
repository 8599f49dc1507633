"""Each origin system from its download to its results, by its own confs: real recordings in its layout, prepared, trained, scored.

The commands are what a user types, on the local backend; only the sizes are overridden. What comes out is read as the
original programs would read it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

CONF = Path(__file__).resolve().parents[2] / "conf"
# three recordings, a class each: what they show differs
SOURCES = ("demo.mp4", "test.mp4", "test.avi")
SMALL = (
    "train.epochs=1", "train.max_steps=3", "train.epoch_size=6", "train.batch=2", "train.log_every=1", "train.checkpoint_steps=0",
    "model.init=", "model.init_head=keep", "compute.device=cpu", "compute.threads=2", "compute.workers=0",
    "job.code=image", "job.retries=0",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed"),
]


class Desk:
    """A user's machine: a state folder with two claims, and the `vidjobs` command."""

    def __init__(self, place: Path) -> None:
        self.volumes = place / "vidjobs" / "local" / "volumes"
        self.data, self.runs = self.volumes / "video-data", self.volumes / "vidjobs-runs"
        for folder in (self.data, self.runs):
            folder.mkdir(parents=True)
        self._env = {
            **os.environ,
            "XDG_STATE_HOME": str(place),
            "PYTHONPATH": str(CONF.parent),
            "OMP_NUM_THREADS": "2",
        }

    def submit(self, verb: str, conf: str, *settings: str, source: str = "") -> tuple[Path, str]:
        """`vidjobs submit VERB CONF --watch`; the run's folder, and what was printed."""
        sets = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
        start = ["--from", source] if source else []
        command = [
            sys.executable,
            "-m",
            "launcher",
            "submit",
            verb,
            str(CONF / conf),
            "--cluster",
            "local",
            "--watch",
            *start,
            *sets,
        ]
        done = subprocess.run(
            command,
            env=self._env,
            cwd=CONF.parent,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self.runs / done.stdout.split(maxsplit=1)[0], done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield Desk(tmp_path)
    shutil.rmtree(tmp_path)  # gigabytes, with C3D's weights


def _cut(shared: Path, target: Path, *, label: int, part: int, frames: int = 24) -> None:
    """The `part`-th piece of a class's recording, as the format that the target's name says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = shared / "real" / "videos" / SOURCES[label]
    begin = [
        "-ss",
        f"{part * 0.9:.2f}",
        "-i",
        str(source),
        "-frames:v",
        str(frames),
        "-vf",
        "scale=160:120",
        "-an",
    ]
    subprocess.run(["ffmpeg", "-loglevel", "error", *begin, str(target)], check=True)


def _scores_of(run: Path) -> dict[str, list[dict[str, object]]]:
    answers: dict[str, list[dict[str, object]]] = json.loads(
        (run / "predictions" / "val.json").read_text()
    )["results"]
    return answers


def test_two_stream_networks_from_kinetics_clips_to_their_fusion(desk: Desk, shared: Path) -> None:
    """mp4 and csv -> 16 frames a second and finalannots.json -> Farneback flow -> two Inceptions -> pkl, JSON, the README's table."""
    labels, download = ("arm wrestling", "zumba"), desk.data / "kinetics400"
    for split, parts in (("train", (0, 1)), ("val", (2,))):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for label, name in enumerate(labels):
            for part in parts:
                video = f"clip{label}{split[0]}_{part:04d}"[:11].ljust(11, "x")
                _cut(
                    shared,
                    download / split / name / f"{video}_000001_000011.mp4",
                    label=label,
                    part=part,
                )
                rows.append(f"{name},{video},1,11,{split}")
        (download / f"kinetics_{split}.csv").write_text("\n".join(rows) + "\n")
    desk.submit("prepare", "prepare/kinetics_frames.yaml", "prepare.shards=1")
    annotation = json.loads((desk.data / "kinetics" / "hfiles" / "finalannots.json").read_text())
    assert sorted(annotation["classes"]) == sorted(labels)
    assert {video["subset"] for video in annotation["database"].values()} == {"train", "val"}
    assert all(video["isthere"] and video["numf"] > 8 for video in annotation["database"].values())
    desk.submit("prepare", "prepare/kinetics_flow.yaml", "prepare.shards=1")
    small = (
        "data.size=75",
        "data.resize=short:84",
        "data.step=4",
        "data.val_step=6",
        "data.test_step=2",
    )
    evals = {}
    for stream in ("rgb", "flow"):
        trained, _ = desk.submit("train", f"two_stream/inception_{stream}.yaml", *small)
        evals[stream], printed = desk.submit(
            "eval", f"two_stream/inception_{stream}.yaml", *small, source=f"{trained.name}@last"
        )
        assert re.search(r"^test Loss: \d", printed, re.MULTILINE), printed
        learnt = torch.load(trained / "checkpoints" / "epoch-000001.pt", weights_only=True)["flow"]
        assert learnt == ({"method": "farneback", "bound": 8, "gap": 1} if stream == "flow" else {})
    place = evals["rgb"] / "predictions"
    (scores,) = place.glob("output_val_*.pkl")
    frames = pickle.loads(scores.read_bytes())
    videos = {name for name, video in annotation["database"].items() if video["subset"] == "val"}
    assert set(frames) == videos
    for name in videos:
        assert frames[name]["scores"].shape == (len(frames[name]["fids"]), len(labels))
        assert np.all(np.diff(frames[name]["fids"]) == 2)
    best = sorted(path.name for path in place.glob("output_val_*-clstk-*.json"))
    assert [name[-8:-5] for name in best] == ["010", "020", "030", "050"]
    for path in place.glob("output_val_*-clstk-*.json"):
        answers = json.loads(path.read_text())
        assert set(answers) >= {"version", "results", "external_data"}
        assert set(answers["results"]) == videos
    names = [f"fuse.streams.{stream}={run.name}" for stream, run in evals.items()]
    fused, printed = desk.submit("fuse", "two_stream/fuse.yaml", *names)
    assert set(_scores_of(fused)) == videos
    table = (fused / "predictions" / "fusion.md").read_text()
    assert [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("|")][
        2:5
    ] == ["rgb", "flow", "rgb + flow"], table


def test_efficient_networks_from_ucf101_avis_to_val_json(desk: Desk, shared: Path) -> None:
    """avi and official lists -> image_00001.jpg and n_frames -> MobileNetV2 -> val.json and accuracy.txt, no video missing."""
    names = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
    tests = _ucf101(shared, desk.data / "UCF-101", names)
    desk.submit("prepare", "prepare/ucf101_frames.yaml", "prepare.shards=1")
    frames = desk.data / "ucf101_videos" / "jpg" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g08_c01"
    assert (frames / "n_frames").read_text().strip() == str(len(list(frames.glob("image_*.jpg"))))
    shutil.copytree(
        desk.data / "UCF-101" / "ucfTrainTestlist", desk.data / "ucf101_videos" / "ucfTrainTestlist"
    )
    small = (
        "model.width=0.2",
        "data.size=64",
        "data.test_short=64",
        "data.val_step=8",
        "train.batch=6",
    )
    trained, _ = desk.submit("train", "efficient/mobilenetv2.yaml", *small)
    run, _ = desk.submit(
        "eval", "efficient/mobilenetv2.yaml", *small, source=f"{trained.name}@best"
    )
    answers = _scores_of(run)
    assert set(answers) == tests
    for said in answers.values():
        assert sum(float(str(item["score"])) for item in said) == pytest.approx(1, abs=1e-3)
    assert re.fullmatch(
        r"Top-1 Accuracy: \S+\nTop-5 Accuracy: \S+\n?",
        (run / "predictions" / "accuracy.txt").read_text(),
    )


def test_vmz_networks_from_hmdb51_avis_to_answers_about_a_video(desk: Desk, shared: Path) -> None:
    """avi and split lists -> a cache of 128 x 171 -> R(2+1)D fine-tuned -> 10 clips a video -> what it says about a recording."""
    names = ("brush_hair", "climb_stairs", "wave")
    lists = desk.data / "hmdb51" / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for label, name in enumerate(names):
        rows = []
        for part in range(4):
            _cut(
                shared,
                desk.data / "hmdb51" / name / f"film{part}_{name}_f_cm_np1_fr_med_0.avi",
                label=label,
                part=part,
            )
            rows.append(f"film{part}_{name}_f_cm_np1_fr_med_0.avi {1 if part < 2 else 2}")
        (lists / f"{name}_test_split1.txt").write_text("\n".join(rows) + "\n")
    small = ("model.depth=10", "data.frames=8", "data.size=32", "data.resize=36x48")
    trained, _ = desk.submit("train", "vmz/r2plus1d34_hmdb51.yaml", *small)
    run, printed = desk.submit("test", "vmz/r2plus1d34_hmdb51.yaml", *small, source=trained.name)
    assert re.search(r"^Test accuracy: clip: \S+, top 1: \S+, top5: \S+$", printed, re.MULTILINE), (
        printed
    )
    assert json.loads((run / "predictions" / "test.json").read_text())["select"] == "top1"
    recording = shared / "real" / "videos" / "ucf101_demo1.gif"
    asked, _ = desk.submit(
        "infer",
        "vmz/r2plus1d34_hmdb51.yaml",
        f"infer.input=[{recording}]",
        source=f"{trained.name}@best",
    )
    rows = [
        json.loads(line)
        for line in (asked / "predictions" / "infer.jsonl").read_text().splitlines()
    ]
    assert [row["kind"] for row in rows] == ["window"] * 6 + ["video"]
    assert {item["label"] for item in rows[-1]["top"]} == set(names)
    assert (asked / "predictions" / "ucf101_demo1-labelled.mp4").stat().st_size > 10_000


def test_c3d_from_a_flat_folder_of_avis_to_its_test(desk: Desk, shared: Path) -> None:
    """v_<Class>_gXX_cYY.avi in one folder -> class folders -> every 4th frame (fewer where short) at 171 x 128 -> C3D on 16 frames."""
    names = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
    _ucf101(shared, desk.data / "UCF-101", names, frames=40)
    flat = desk.data / "download"
    flat.mkdir()
    for video in (desk.data / "UCF-101").rglob("*.avi"):
        video.rename(flat / video.name)
    for name in names:
        (desk.data / "UCF-101" / name).rmdir()
    desk.submit(
        "prepare", "prepare/ucf101_c3d_frames.yaml", f"prepare.organise={flat}", "prepare.shards=1"
    )
    assert len(list((desk.data / "UCF-101").glob("*/*.avi"))) == 9
    frames = list((desk.data / "ucf101_c3d" / "Archery" / "v_Archery_g08_c01").glob("*.jpg"))
    assert len(frames) == 20  # every 2nd of 40: every 3rd would leave fewer than a clip
    trained, printed = desk.submit(
        "train", "c3d/ucf101_scratch.yaml", "data.source=files", "train.keep_weights=best"
    )
    assert re.search(r"^val  Loss: \S+ .*top1=", printed, re.MULTILINE), printed
    _, printed = desk.submit("test", "c3d/ucf101_scratch.yaml", source=trained.name)
    assert re.search(r"^Test accuracy: clip: ", printed, re.MULTILINE), printed


def _ucf101(shared: Path, root: Path, names: Sequence[str], *, frames: int = 24) -> set[str]:
    """UCF101's folders and lists: a training video of two groups and a test video of one in each class. The test videos."""
    lists, rows, tests = root / "ucfTrainTestlist", {"train": [], "test": []}, set()
    lists.mkdir(parents=True)
    for label, name in enumerate(names):
        spelt = name.replace("Handstand", "HandStand")  # as its files are
        for part, (group, split) in enumerate(((8, "train"), (9, "train"), (1, "test"))):
            video = f"v_{spelt}_g{group:02d}_c01"
            _cut(shared, root / name / f"{video}.avi", label=label, part=part, frames=frames)
            rows[split].append(
                f"{name}/{video}.avi" + (f" {label + 1}" if split == "train" else "")
            )
            if split == "test":
                tests.add(video)
    (lists / "classInd.txt").write_text(
        "".join(f"{number} {name}\n" for number, name in enumerate(names, 1))
    )
    for split, lines in rows.items():
        (lists / f"{split}list01.txt").write_text("\n".join(lines) + "\n")
    return tests
