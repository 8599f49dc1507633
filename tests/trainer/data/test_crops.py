"""Crops: the boxes are those of the originals, always inside the frame, and all frames of a clip get the same one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import DataConf
from trainer.data import crops
from trainer.data.clip_rules import clip_faults
from trainer.data.crops import Box
from trainer.data.sampling import CROP_WORDS, draw

SIDES = st.tuples(st.integers(8, 300), st.integers(8, 300))
CHANCE = st.tuples(*[st.floats(0, 1, exclude_max=True)] * CROP_WORDS)
DRAWN = ("center", "random", "corners", "multi_scale", "rectangle")
HIGHEST = (1 - 2.0**-53,) * CROP_WORDS


@given(
    sides=SIDES,
    chance=CHANCE,
    crop=st.sampled_from(DRAWN),
    jitter=st.sampled_from([(), (112, 160), (128, 128)]),
)
def test_a_box_is_inside_the_frame(
    sides: tuple[int, int], chance: tuple[float, ...], crop: str, jitter: tuple[int, ...]
) -> None:
    """Whatever the frame and whatever is drawn; never empty, also of frames smaller than the network's size."""
    data = DataConf(size=112, crop=crop, jitter=jitter)  # type: ignore[arg-type]
    box = crops.training_box(*sides, data, chance)
    assert 0 <= box.top < box.top + box.height <= sides[0]
    assert 0 <= box.left < box.left + box.width <= sides[1]
    assert box.height == box.width or crop == "rectangle"


@pytest.mark.parametrize(
    ("data", "sides", "box"),
    [
        # C3D's [8:120, 30:142]
        (DataConf(size=112, test_crop="center"), (128, 171), Box(8, 30, 112, 112)),
        # Scale(112), CenterCrop(112)
        (DataConf(size=112, test_crop="center", test_short=112), (240, 320), Box(0, 40, 240, 240)),
        (DataConf(size=112, test_crop="center", test_short=128), (256, 340), Box(16, 58, 224, 224)),
        # the two-stream system
        (DataConf(size=299, test_crop="center", test_short=328), (328, 437), Box(14, 69, 299, 299)),
        (DataConf(size=112, test_crop="bottom_right"), (128, 171), Box(16, 59, 112, 112)),
        (DataConf(size=112, test_crop="top_left"), (128, 171), Box(0, 0, 112, 112)),
        (DataConf(size=112, test_crop="none"), (128, 171), Box(0, 0, 128, 171)),
    ],
)
def test_test_crops_are_those_of_the_systems(
    data: DataConf, sides: tuple[int, int], box: Box
) -> None:
    """Resizing and then cropping, written as one box of the kept frame."""
    assert crops.test_box(*sides, data) == box


def test_training_crops_reach_every_corner_and_scale() -> None:
    """MultiScaleCornerCrop draws one of five positions and five scales; the random ones reach both ends."""
    data = DataConf(size=112, crop="corners")
    chances = [
        draw(9, 9, seed=1, epoch=1, sample=sample, random_start=False, flip=0, crop=True).crop
        for sample in range(400)
    ]
    boxes = {crops.training_box(240, 320, data, chance) for chance in chances}
    assert {box.height for box in boxes} == {240, 201, 169, 142, 120}  # int(240 * scale)
    assert len({(box.top, box.left) for box in boxes if box.height == 120}) == 5
    random = DataConf(size=112, crop="random")
    ends = {
        crops.training_box(128, 171, random, chance) for chance in ((0.0,) * CROP_WORDS, HIGHEST)
    }
    assert ends == {Box(0, 0, 112, 112), Box(16, 59, 112, 112)}
    shares = [
        crops.training_box(100, 100, DataConf(crop="rectangle"), chance) for chance in chances
    ]
    assert min(box.height for box in shares) in (60, 61)
    assert max(box.width for box in shares) in (98, 99)
    jitter = [
        crops.training_box(128, 171, DataConf(size=112, crop="random", jitter=(128, 160)), chance)
        for chance in chances
    ]
    assert (min(box.height for box in jitter), max(box.height for box in jitter)) == (
        round(112 * 128 / 160),
        112,
    )


def test_crops_are_pinned() -> None:
    """A resumed run crops as the first one did: these numbers must never change."""
    drawn = [
        draw(40, 16, seed=1, epoch=2, sample=n, random_start=True, flip=0.5, crop=True)
        for n in range(2)
    ]
    assert [(one.start, one.flip) for one in drawn] == [(4, True), (8, True)]  # as without a crop
    boxes = [
        crops.training_box(240, 320, DataConf(size=112, crop="multi_scale"), one.crop)
        for one in drawn
    ]
    assert boxes == [Box(0, 55, 240, 240), Box(57, 70, 169, 169)]


def test_a_crop_is_cut_then_resized_as_opencv_does() -> None:
    """Bilinear without a filter; the same box in every frame; frames of the right size are copied as they are."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
    out = np.empty((3, 16, 16, 3), np.uint8)
    crops.cut(frames, Box(5, 7, 30, 20), out, antialias=False)
    assert np.array_equal(
        out[2], cv2.resize(frames[2, 5:35, 7:27], (16, 16), interpolation=cv2.INTER_LINEAR)
    )
    crops.cut(frames, Box(24, 44, 16, 16), out, antialias=False)
    assert np.array_equal(out, frames[:, 24:, 44:])


@pytest.mark.parametrize("channels", [2, 3])
def test_mirrored_flow_runs_the_other_way(channels: int) -> None:
    """u, around 128, changes its sign (-128 is cut to the largest); v and the magnitude stay; colours only change place."""
    flow = np.random.default_rng(0).integers(0, 256, (2, 4, 6, channels)).astype(np.uint8)
    mirrored, picture = flow.copy(), flow.copy()
    crops.mirror(mirrored, flow=True)
    crops.mirror(picture, flow=False)
    assert np.array_equal(picture, flow[:, :, ::-1])
    assert np.array_equal(mirrored[..., 1:], flow[:, :, ::-1, 1:])
    assert np.array_equal(mirrored[..., 0], np.minimum(256 - flow[:, :, ::-1, 0].astype(int), 255))


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (DataConf(resize="128*171"), "data.resize"),
        (DataConf(resize="short:4"), "data.resize"),
        (DataConf(stride=0), "data.stride"),
        (DataConf(test_clips=0), "data.test_clips"),
        (DataConf(crop="corners", scales=()), "data.scales"),
        (DataConf(crop="multi_scale", scales=(1.5,)), "data.scales"),
        (DataConf(crop="corners", jitter=(128, 160)), "data.jitter"),
        (DataConf(crop="random", jitter=(160, 128)), "data.jitter"),
        (DataConf(crop="random", size=112, jitter=(100, 128)), "data.jitter"),
        (DataConf(test_short=128), "data.test_short"),
        (DataConf(size=112, test_short=100, test_crop="center"), "data.test_short"),
        (DataConf(normalise="imagnet"), "data.normalise"),
        (DataConf(std=(1.0, 0.0, 1.0)), "data.std"),
        (DataConf(mean=(float("nan"), 1.0, 1.0)), "data.mean"),
        (DataConf(mean=(1.0, 2.0)), "data.mean"),
        (DataConf(stream="flow", flow_channels=2), "data.normalise"),  # of three channels
        (DataConf(stream="flow", normalise="c3d_bgr"), "data.normalise"),  # would feed v for u
        (DataConf(stream="flow", channels="bgr"), "data.channels"),
    ],
)
def test_impossible_clips_are_refused(data: DataConf, path: str) -> None:
    """By `check`, before anything is read."""
    assert [fault.path for fault in clip_faults(data)] == [path]
    assert not clip_faults(DataConf())
    assert not clip_faults(DataConf(stream="flow", flow_channels=2, normalise="vmz_flow"))
    assert not clip_faults(
        DataConf(
            resize="short:128",
            size=112,
            crop="random",
            jitter=(128, 160),
            test_crop="center",
            test_short=128,
        )
    )
