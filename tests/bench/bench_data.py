"""Clips per second of the data path: from the cache that `prepare` writes, and from the same tubes by each decoder by hand.

Run: `python -m pytest tests/bench/bench_data.py -m bench -s`. One thread; a clip is 32 consecutive frames from a random start, resized
to 28 x 28 RGB, whichever way it is read. Prints a table with ratios; asserts only that all ways give the same pictures.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import by_hand
import cv2
import numpy as np
import pytest
import torch

from trainer.config import Config, DataConf
from trainer.data.datasets.tinyvirat import TinyVirat, open_dataset
from trainer.data.loader import batches, open_split
from trainer.prepare import ensure_cache
from trainer.synthetic import make_tinyvirat

FRAMES, SIZE, TUBES = 32, 28, 120
Reader = Callable[[Path, int], np.ndarray]

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Tubes of TinyVIRAT's size: 64 to 80 px, about 90 frames."""
    root = tmp_path_factory.mktemp("bench") / "TinyVIRAT"
    make_tinyvirat(root, train=TUBES, test=7, seed=1, frames=(80, 100), sizes=(64, 80))
    return Config(
        data=DataConf(
            root=str(root), frames=FRAMES, size=SIZE, start="random", val_fraction=0.0, flip=0.0
        )
    )


def small(read: Callable[[Path, int, int], np.ndarray]) -> Reader:
    """A clip of the tubes' 28 px."""
    return lambda path, start: by_hand.resized(read(path, start, FRAMES), SIZE)


def rate(read: Callable[[], int], seconds: float = 3.0) -> float:
    """Clips per second of CPU time: the best of the passes made until `seconds` are over."""
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds or not best:
        start = time.process_time()
        count = read()
        best = max(best, count / (time.process_time() - start))
    return best


def test_clips_per_second(config: Config, tmp_path: Path) -> None:
    """The table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    began = time.perf_counter()
    ensure_cache(config, tmp_path, print)
    prepared = (TUBES + 7) / (time.perf_counter() - began)
    dataset: TinyVirat = open_dataset(config.data)
    starts = np.random.default_rng(0).integers(0, 80 - FRAMES, TUBES)
    jobs = list(zip([clip.path for clip in dataset.clips("train")], starts.tolist(), strict=True))
    peers = {
        "torchcodec": by_hand.torchcodec,
        "PyAV by hand": by_hand.pyav,
        "OpenCV by hand": by_hand.opencv,
    }
    readers = {name: small(read) for name, read in peers.items()}
    pictures = {name: read(*jobs[0]).astype(int) for name, read in readers.items()}
    for name, clip in pictures.items():
        assert np.abs(clip - pictures["torchcodec"]).mean() < 2, name
    clips = open_split(config, "train", tmp_path)

    def from_cache() -> int:
        return sum(
            len(batch.indices_B)
            for epoch in range(5)
            for batch in batches(clips, epoch=epoch, batch=32, seed=1, shuffle=True)
        )

    def from_video(read: Reader) -> Callable[[], int]:
        return lambda: len([read(path, start) for path, start in jobs])

    rates = {name: rate(from_video(read)) for name, read in readers.items()} | {
        "our cache": rate(from_cache)
    }
    print(
        f"\n{platform.processor() or platform.machine()}, torch {torch.__version__}; clips of {FRAMES} x {SIZE} px, one thread, CPU time"
    )
    for name, value in rates.items():
        print(
            f"{name:16s} {value:9.0f} clips/s   cache is {rates['our cache'] / value:6.1f} times as fast"
        )
    print(f"prepare          {prepared:9.0f} clips/s, once, all threads, wall time")
