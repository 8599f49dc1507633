"""A cache is never taken for what it is not: each change of the settings or of the files is seen, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.config import Config, DataConf
from trainer.data.cache import Index, frames_of, map_bytes, read_index
from trainer.errors import DataError
from trainer.prepare import build, ensure_cache

SIDE, FRAMES = 16, 6


def quiet(_: str) -> None:
    """Say nothing."""


def _folders(
    root: Path, *, grey: int, videos: int = 4, classes: tuple[str, ...] = ("Jump", "Run")
) -> Path:
    """Class folders of folders of images, all of one grey: written over in place where they are there."""
    for name in classes:
        for video in range(videos):
            folder = root / "train" / name / f"v{video}"
            folder.mkdir(parents=True, exist_ok=True)
            for frame in range(FRAMES):
                image = np.full((SIDE, SIDE, 3), grey, np.uint8)
                image[frame, : grey % SIDE] = 255  # another size as a file, too
                cv2.imwrite(str(folder / f"{frame + 1:05d}.png"), image)
    return root


def _conf(root: Path, cache: Path, **data: object) -> Config:
    own = {
        "name": "folders",
        "layout": "frames",
        "size": SIDE,
        "frames": 4,
        "root": str(root),
        "cache": str(cache),
        "val_fraction": 0.0,
    }
    return Config(data=DataConf(**{**own, **data}))  # type: ignore[arg-type]


def _index(cache: Path) -> Index:
    index = read_index(cache, "train")
    assert index is not None
    return index


def _greys(cache: Path) -> set[int]:
    """The last pixel of every clip's first frame."""
    index = _index(cache)
    mapped = map_bytes(cache / index.data, index.bytes)
    return {int(frames_of(mapped, entry)[0, -1, -1, 0]) for entry in index.entries}


def _flow(config: Config, root: Path) -> Config:
    return replace(config, data=replace(config.data, stream="flow", flow_root=str(root)))


def test_flow_of_another_folder_is_not_the_flow_that_was_cached(tmp_path: Path) -> None:
    """`data.cache` names one folder for two kinds of flow: training sees that the files are others, and reads them."""
    rgb = _conf(_folders(tmp_path / "rgb", grey=10), tmp_path / "cache")
    first, second = (
        _flow(rgb, _folders(tmp_path / name, grey=grey))
        for name, grey in (("farneback", 100), ("brox", 203))
    )
    ensure_cache(first, tmp_path / "cache", quiet)
    assert _greys(tmp_path / "cache") == {100}
    ensure_cache(second, tmp_path / "cache", quiet)
    assert _greys(tmp_path / "cache") == {203}


def test_frames_that_were_written_over_in_place_are_read_again(tmp_path: Path) -> None:
    """Which changes no folder's time; `prepare` reads them again, and so does a training."""
    root, cache = _folders(tmp_path / "rgb", grey=10), tmp_path / "cache"
    for grey, recheck in ((52, True), (201, False)):
        build(_conf(root, cache), cache, quiet, recheck=True)
        times = [folder.stat().st_mtime_ns for folder in sorted(root.rglob("v*"))]
        _folders(root, grey=grey)
        assert times == [folder.stat().st_mtime_ns for folder in sorted(root.rglob("v*"))]
        build(_conf(root, cache), cache, quiet, recheck=recheck)
        assert _greys(cache) == {grey}


def test_files_that_are_gone_or_were_copied_leave_the_cache_as_it_is(tmp_path: Path) -> None:
    """A training on another node, whose copy has other times, or holds no more than the names, reads what was prepared."""
    root, cache = _folders(tmp_path / "rgb", grey=10), tmp_path / "cache"
    ensure_cache(_conf(root, cache), cache, quiet)
    before = _index(cache)
    ensure_cache(_conf(_folders(tmp_path / "copy", grey=10), cache), cache, quiet)
    assert _index(cache) == before


@pytest.mark.parametrize(
    "change", [{"resize": "12x12"}, {"size": 8}, {"resize": "original"}, {"resize": "short:8"}]
)
def test_frames_kept_otherwise_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """One folder holds one way to keep frames."""
    root, cache = _folders(tmp_path / "rgb", grey=10), tmp_path / "cache"
    ensure_cache(_conf(root, cache), cache, quiet)
    with pytest.raises(DataError, match=r"give data\.cache another folder"):
        ensure_cache(_conf(root, cache, **change), cache, quiet)


def test_other_videos_and_other_labels_are_seen_at_once(tmp_path: Path) -> None:
    """A video more, a class more (which moves the labels), and class names in another order."""
    root, cache = _folders(tmp_path / "rgb", grey=10), tmp_path / "cache"
    for make in ({"videos": 5}, {"classes": ("Fly",)}):
        ensure_cache(_conf(root, cache), cache, quiet)
        before = _index(cache)
        _folders(root, grey=10, **make)  # type: ignore[arg-type]
        ensure_cache(_conf(root, cache), cache, quiet)
        assert len(_index(cache).entries) > len(before.entries)
    assert _index(cache).classes == ("Fly", "Jump", "Run")
    (tmp_path / "names.txt").write_text("Run\nJump\nFly\n")
    ensure_cache(_conf(root, cache, classes=str(tmp_path / "names.txt")), cache, quiet)
    assert {entry.id.partition("/")[0]: entry.labels for entry in _index(cache).entries} == {
        "Fly": (2,),
        "Jump": (1,),
        "Run": (0,),
    }
