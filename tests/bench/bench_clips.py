"""Random 16-frame clips of 112 px from 320x240 videos, clips per second of CPU time: ours, beside each decoder used by hand.

Run: `python -m pytest tests/bench/bench_clips.py -m bench -s`. One thread. A clip is 16 consecutive frames from a random start, resized
to 112 x 112 RGB; the file is opened, sought, decoded and closed for each. The video is 530 frames of two real recordings, as H.264 with
key frames 16 apart (as prepare.videos_to writes it) and 250 apart (as the web gives it), and as a folder of jpg. Prints a table with
ratios; asserts only that all ways give the same pictures.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import by_hand
import cv2
import numpy as np
import pytest
import torch

from trainer.config import Config, DataConf
from trainer.data import sampling
from trainer.data.loader import open_split
from trainer.prepare import ensure_cache

FRAMES, SIZE, LENGTH = 16, 112, 530
SECONDS = 4.0
Reader = Callable[[Path, int, int], np.ndarray]

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video in three forms, each a dataset of TinyVIRAT's layout: gop16, gop250 and jpg."""
    folder, videos = tmp_path_factory.mktemp("bench"), shared / "real" / "videos"
    joined = "[0:v]scale=320:240,setsar=1,fps=30[a];[1:v]scale=320:240,setsar=1,fps=30[b];[a][b]concat=n=2:v=1[v]"
    source = [
        "-i",
        videos / "demo.mp4",
        "-i",
        videos / "test.mp4",
        "-filter_complex",
        joined,
        "-map",
        "[v]",
        "-frames:v",
        str(LENGTH),
    ]
    for form, options in {
        "gop16": ["-c:v", "libx264", "-g", "16", "-bf", "0"],
        "gop250": ["-c:v", "libx264", "-g", "250"],
        "jpg": ["-q:v", "3", "-start_number", "0"],
    }.items():
        place = folder / form / "videos" / "train" / "v"
        target = place / "0_frames" / "frame_%d.jpg" if form == "jpg" else place / "0.mp4"
        target.parent.mkdir(parents=True)
        subprocess.run(["ffmpeg", "-v", "error", *source, *options, target], check=True)
        tube = {"path": "v/0.mp4", "dim": [LENGTH, 240, 320], "label": ["Riding"]}
        (folder / form / "classes.txt").write_text("Riding\n")
        for split, tubes in {"train": [tube], "test": []}.items():
            (folder / form / f"tiny_{split}.json").write_text(json.dumps({"tubes": tubes}))
    return folder


def jpg(path: Path, start: int, frames: int) -> np.ndarray:
    """One file after the other."""
    folder = path.with_name("0_frames")
    images = [
        cv2.imread(str(folder / f"frame_{number}.jpg")) for number in range(start, start + frames)
    ]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


def ours(root: Path, **data: object) -> Callable[[int], np.ndarray]:
    """The trainer's own clips: number -> the clip that epoch draws."""
    conf = {"frames": FRAMES, "size": SIZE, "start": "random", "flip": 0.0, "val_fraction": 0.0}
    config = Config(
        data=DataConf(
            root=str(root),
            cache=str(root / f"cache-{len(list(root.iterdir()))}"),
            **{**conf, **data},
        )
    )  # type: ignore[arg-type]
    ensure_cache(config, Path(config.data.cache), lambda _: None)
    clips = open_split(config, "train", Path(config.data.cache))
    return lambda number: clips.__getitems__([(number, 0)])[0][0].numpy()


def peer(read: Reader, root: Path) -> Callable[[int], np.ndarray]:
    """The same clips, each read by other means."""
    path = root / "videos" / "train" / "v" / "0.mp4"
    key = {"seed": 1, "sample": 0, "random_start": True, "flip": 0.0}
    return lambda number: by_hand.resized(
        read(path, sampling.draw(LENGTH, FRAMES, epoch=number, **key).start, FRAMES), SIZE
    )  # type: ignore[arg-type]


def rates(ways: dict[str, Callable[[int], np.ndarray]]) -> dict[str, float]:
    """Clips per second of CPU time: the best pass of 40 clips, the ways taking turns so that a busy machine is fair to all."""
    best, began = dict.fromkeys(ways, 0.0), time.perf_counter()
    while time.perf_counter() - began < SECONDS * len(ways):
        for name, clip in ways.items():
            start = time.process_time()
            for number in range(40):
                clip(number)
            best[name] = max(best[name], 40 / (time.process_time() - start))
    return best


def test_random_clips_per_second(root: Path) -> None:
    """The table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ways: dict[str, Callable[[int], np.ndarray]] = {}
    for form in ("gop16", "gop250"):
        ways[f"{form}: ours, from files"] = ours(root / form, source="files")
        for name, read in {
            "torchcodec": by_hand.torchcodec,
            "PyAV": by_hand.pyav,
            "OpenCV": by_hand.opencv,
        }.items():
            ways[f"{form}: {name} by hand"] = peer(read, root / form)
    ways["jpg: ours, from files"] = ours(root / "jpg", source="files")
    ways["jpg: OpenCV by hand"] = peer(jpg, root / "jpg")
    ways["cache of 320x240"] = ours(root / "gop16", resize="original")
    ways["cache of 112x112"] = ours(root / "gop16")
    pictures = {name: clip(5).astype(int) for name, clip in ways.items()}
    for name, clip in pictures.items():
        # one clip, three times compressed
        assert np.abs(clip - pictures["cache of 112x112"]).mean() < 6, name
    assert np.array_equal(pictures["gop16: ours, from files"], pictures["cache of 320x240"])
    found = rates(ways)
    print(
        f"\n{platform.processor() or platform.machine()}, torch {torch.__version__}; {FRAMES} frames of {SIZE} px, one thread, CPU time"
    )
    reference = found["gop250: torchcodec by hand"]
    for name, value in found.items():
        print(
            f"{name:28s} {value:9.1f} clips/s   {value / reference:7.2f} x torchcodec by hand on gop250"
        )
    sizes = {
        form: sum(file.stat().st_size for file in (root / form / "videos").rglob("*.*"))
        for form in ("gop16", "gop250", "jpg")
    }
    print("bytes: " + ", ".join(f"{form} {size / 1e6:.2f} MB" for form, size in sizes.items()))
