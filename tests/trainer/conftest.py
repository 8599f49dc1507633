"""Datasets in TinyVIRAT's shape for the trainer's tests: a made one, and one cut from real recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from trainer.config import Config, DataConf
from trainer.synthetic import CLASSES, encode, make_tinyvirat

# (recording, frames, left, top, side px): crops as small as TinyVIRAT's, at rates of 6 to 30 fps,
# from MP4, AVI and GIF
CROPS = (
    ("demo.mp4", 40, 120, 80, 64),
    ("test.mp4", 48, 40, 60, 70),
    ("part_0.mp4", 32, 100, 50, 112),
    ("demo_spatiotemporal_det.mp4", 57, 10, 20, 128),
    ("demo_skeleton.mp4", 20, 800, 400, 96),
    ("test_video_structuralize.mp4", 36, 200, 100, 36),
    ("test.avi", 50, 60, 60, 48),
    ("ucf101_demo1.gif", 48, 150, 100, 56),
    ("ucf101_demo2.gif", 31, 100, 50, 20),
    ("demo.mp4", 33, 200, 120, 10),
)


@pytest.fixture(scope="session")
def made_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset: 16 clips for training, 8 for testing, of 10 to 64 px and 20 to 40 frames. Do not change it."""
    root = tmp_path_factory.mktemp("made") / "TinyVIRAT"
    make_tinyvirat(root, train=16, test=8, seed=7, frames=(20, 40), sizes=(10, 64))
    return root


@pytest.fixture(scope="session")
def real_set(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten crops of real recordings, each in both splits: MP4 tubes, the first also (and the third only) as a folder of frames."""
    root = tmp_path_factory.mktemp("real") / "TinyVIRAT"
    tubes = []
    for number, (name, frames, left, top, side) in enumerate(CROPS):
        images, fps = _crop(shared / "real" / "videos" / name, frames, left, top, side)
        path = f"{Path(name).stem}/{number}.mp4"
        target = root / "videos" / "train" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if number != 2:
            encode(target, images, fps=fps)
        if number in (0, 2):
            write_frames(target.with_name(f"{number}_frames"), images)
        tubes.append(
            {
                "path": path,
                "dim": [len(images), side, side],
                "label": [CLASSES[number], CLASSES[2 * number]],
            }
        )
    shutil.copytree(root / "videos" / "train", root / "videos" / "test")
    write_annotations(root, train=tubes, test=tubes)
    return root


@pytest.fixture
def damaged_set(made_set: Path, tmp_path: Path) -> Path:
    """A copy of the made set that a test may damage."""
    return Path(shutil.copytree(made_set, tmp_path / "TinyVIRAT"))


@pytest.fixture
def conf_of() -> Callable[..., Config]:
    """`conf_of(root, frames=8, ...)`: a conf with these data settings."""

    def make(root: Path, **data: object) -> Config:
        return Config(data=DataConf(root=str(root), **{"frames": 8, "size": 16, **data}))  # type: ignore[arg-type]  # the test names the fields

    return make


def write_annotations(root: Path, **tubes: Sequence[dict[str, object]]) -> None:
    """classes.txt (without a newline at its end) and a JSON for each split."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for split, own in tubes.items():
        (root / f"tiny_{split}.json").write_text(json.dumps({"tubes": own}))


def write_frames(folder: Path, images: Sequence[np.ndarray]) -> None:
    """frame_0.jpg, frame_1.jpg, ... of RGB images."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        cv2.imwrite(
            str(folder / f"frame_{number}.jpg"),
            cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, 95],
        )


def _crop(
    recording: Path, frames: int, left: int, top: int, side: int
) -> tuple[list[np.ndarray], float]:
    images = []
    with av.open(str(recording)) as container:
        rate = container.streams.video[0].average_rate or Fraction(30)
        for frame in container.decode(video=0):
            images.append(
                np.ascontiguousarray(
                    frame.to_ndarray(format="rgb24")[top : top + side, left : left + side]
                )
            )
            if len(images) == frames:
                break
    return images, float(rate)
