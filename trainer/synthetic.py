"""A TinyVIRAT-shaped dataset made here: `python -m trainer.synthetic --out DIR`. Its labels can be learned from motion only.

A textured blob on a textured background moves in ways that are drawn independently; each class is bound to one of them.
Position, size, angle and texture have the same distribution at every moment whether or not they change in time, so no single
frame tells anything. Every motion is the same when mirrored.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from trainer.errors import CannotWrite
from trainer.run_folder import writing

FPS = 30
RATE = 0.25  # of clips that show a motion
STILL = "still"
MOTIONS: dict[str, tuple[str, ...]] = {
    "across": ("activity_walking", "activity_running", "vehicle_moving", "Transport_HeavyCarry"),
    "up_down": ("Entering", "Exiting", "vehicle_starting", "vehicle_stopping"),
    "grow_shrink": ("Opening", "Closing", "Push", "Pull"),
    "spin": ("vehicle_turning_left", "vehicle_turning_right", "Riding", "Misc"),
    "shake": ("activity_gesturing", "Interacts", "Talking", "specialized_using_tool"),
    # the background moves behind the blob
    "pan": ("activity_carrying", "Loading", "specialized_miscellaneous"),
    # none of the above
    STILL: ("activity_standing", "specialized_talking_phone", "specialized_texting_phone"),
}
MOVING = tuple(name for name in MOTIONS if name != STILL)
CLASSES = tuple(sorted(name for names in MOTIONS.values() for name in names))

BRIGHT, DARK = (140, 256), (0, 116)  # levels of the blob and of the background

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Tube:
    """One clip to make."""

    path: str  # below videos/<split>
    size: int  # px, even: H.264 in yuv420p has no odd sides
    frames: int
    motions: tuple[str, ...]
    seed: tuple[int, ...]

    def annotation(self) -> dict[str, object]:
        """As the official JSON has it."""
        shown = self.motions or (STILL,)
        return {
            "path": self.path,
            "dim": [self.frames, self.size, self.size],
            "label": [name for key in shown for name in MOTIONS[key]],
        }


def make_tinyvirat(
    out: Path,
    *,
    train: int,
    test: int,
    seed: int = 1,
    frames: tuple[int, int] = (24, 64),
    sizes: tuple[int, int] = (10, 128),
    alone: bool = False,
    processes: int = 0,
) -> None:
    """Write a dataset of `train` + `test` clips under `out`, the same for the same arguments.

    `frames` and `sizes` are the least and most frames of a clip and px of a side. `alone`: one motion (or none) in each clip, which
    a short training tells apart; else they are drawn independently. `processes` 0: one for each core, none for a few clips.
    Raises CannotWrite.
    """
    plans = {
        "train": plan(train, seed=(seed, 0), frames=frames, sizes=sizes, alone=alone),
        "test": plan(test, seed=(seed, 1), frames=frames, sizes=sizes, alone=alone),
    }
    jobs = [
        (out / "videos" / split / tube.path, tube)
        for split, tubes in plans.items()
        for tube in tubes
    ]
    with writing(out):
        for folder in {path.parent for path, _ in jobs}:
            folder.mkdir(parents=True, exist_ok=True)
        _make_all(jobs, processes)
        (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        for split, tubes in plans.items():
            (out / f"tiny_{split}.json").write_text(
                json.dumps({"tubes": [tube.annotation() for tube in tubes]}, indent=1)
            )


def plan(
    count: int,
    *,
    seed: tuple[int, ...],
    frames: tuple[int, int],
    sizes: tuple[int, int],
    alone: bool = False,
) -> list[Tube]:
    """What to make: every motion in `RATE` of the clips and, from 7 clips on, alone in at least one (so that every class occurs).

    `alone`: each of the seven, standing still among them, in a seventh of the clips.
    """
    rng = np.random.default_rng(seed)
    single = np.vstack([np.zeros((1, len(MOVING)), dtype=bool), np.eye(len(MOVING), dtype=bool)])
    shown = np.resize(single, (count, len(MOVING)))
    if not alone:
        for column in range(len(MOVING)):
            shown[len(single) :, column] = False
            shown[rng.permutation(count)[: round(RATE * count)], column] = True
        shown[: len(single)] = single[:count]
    lengths = rng.integers(frames[0], frames[1] + 1, count)
    sides = 2 * rng.integers((sizes[0] + 1) // 2, sizes[1] // 2 + 1, count)
    tubes: list[Tube] = []
    for number in rng.permutation(count).tolist():
        motions = tuple(name for name, on in zip(MOVING, shown[number], strict=True) if on)
        place = len(tubes)
        tubes.append(
            Tube(
                path=_path(place, seed),
                size=int(sides[place]),
                frames=int(lengths[place]),
                motions=motions,
                seed=(*seed, place),
            )
        )
    return tubes


def _path(number: int, seed: Sequence[int]) -> str:
    """`VIRAT_S_000205_02_000409_000566/0.mp4`: some tubes of the same recording share a folder."""
    recording = number // 4
    start = 100 + 157 * recording
    return (
        f"VIRAT_S_{200 + seed[-1]:06d}_{recording:02d}_{start:06d}_{start + 157:06d}/{number}.mp4"
    )


def _make_all(jobs: list[tuple[Path, Tube]], processes: int) -> None:
    # starting processes takes longer than that
    if processes == 1 or (not processes and len(jobs) < 40):
        for path, tube in jobs:
            _make(path, tube)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or None, mp_context=context) as pool:
        paths, tubes = zip(*jobs, strict=True)
        for _ in pool.map(_make, paths, tubes, chunksize=8):
            pass


def _make(path: Path, tube: Tube) -> None:
    encode(path, render(tube), fps=FPS)


def encode(path: Path, frames: Sequence[Image], *, fps: float) -> None:
    """H.264 in MP4 (yuv420p, GOP 16, no B-frames) of RGB frames (H, W, 3) with even sides."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "16", "g": "16", "bf": "0", "threads": "1"}
        # with them, tiny frames are not encoded the same way every time
        options["x264-params"] = "weightp=0:mbtree=0:rc-lookahead=0"
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def render(tube: Tube) -> list[Image]:
    """The tube's frames (size, size, 3)."""
    rng = np.random.default_rng(tube.seed)
    on = {name: name in tube.motions for name in MOVING}
    time = np.arange(tube.frames, dtype=np.float64)
    x = 0.5 + 0.23 * _wave(time, rng, on["across"]) + 0.09 * _shaking(time, rng, on["shake"])
    y = 0.5 + 0.23 * _wave(time, rng, on["up_down"]) + 0.09 * _shaking(time, rng, on["shake"])
    radius = 0.21 * 1.8 ** _wave(time, rng, on["grow_shrink"], period=11)
    angle = rng.uniform(0, 360) + (
        rng.choice([-1, 1]) * rng.uniform(20, 30) * time if on["spin"] else 0 * time
    )
    shift = rng.uniform(0, 1, 2)[:, None] + (
        _heading(rng) * rng.uniform(0.03, 0.05) * time if on["pan"] else 0 * time
    )
    blob, ground = _texture(rng, 4, BRIGHT), _texture(rng, 8, DARK)
    return [
        _compose(
            blob,
            ground,
            tube.size,
            x=x[i],
            y=y[i],
            radius=radius[i],
            angle=angle[i],
            shift=shift[:, i],
        )
        for i in range(tube.frames)
    ]


def _wave(time: Floats, rng: np.random.Generator, moving: bool, *, period: float = 18) -> Floats:
    """A triangle wave in [-1, 1] from a random phase, or one value of it: uniformly distributed at each moment either way.

    `period` is the mean one, in frames.
    """
    phase, frequency = rng.uniform(0, 1), 1 / (period * rng.uniform(0.8, 1.2))
    turns = phase + (frequency * time if moving else 0 * time)
    return 4 * np.abs(turns - np.floor(turns) - 0.5) - 1


def _shaking(time: Floats, rng: np.random.Generator, moving: bool) -> Floats:
    """A new offset in [-1, 1] for each frame, or one for all."""
    return rng.uniform(-1, 1, len(time)) if moving else np.full(len(time), rng.uniform(-1, 1))


def _heading(rng: np.random.Generator) -> Floats:
    turn = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(turn)], [np.sin(turn)]])


def _texture(rng: np.random.Generator, cells: int, levels: tuple[int, int]) -> Image:
    """64 x 64 px of soft random colour between two `levels`; it tiles."""
    coarse = rng.integers(*levels, (cells, cells, 3)).astype(np.uint8)
    tiled = cv2.resize(np.tile(coarse, (3, 3, 1)), (192, 192), interpolation=cv2.INTER_LINEAR)
    return np.asarray(tiled[64:128, 64:128], dtype=np.uint8)


def _compose(
    blob: Image,
    ground: Image,
    size: int,
    *,
    x: float,
    y: float,
    radius: float,
    angle: float,
    shift: Floats,
) -> Image:
    """One frame: the background moved by `shift`, and on it the blob, an ellipse at (x, y), turned by `angle` degrees.

    Lengths are in frame sides; the ellipse is `radius` long to both sides of its middle and 2.5 times as narrow.
    """
    inverse = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back = np.array([[64 / size, 0, 64 * shift[0]], [0, 64 / size, 64 * shift[1]]])
    frame = cv2.warpAffine(ground, back, (size, size), flags=inverse, borderMode=cv2.BORDER_WRAP)
    turn = np.deg2rad(angle)
    # px to radii, upright
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / (
        radius * size
    )
    middle = np.array([x, y]) * size - 0.5
    to_texture = 32 * np.column_stack([rotation, 1 - rotation @ middle])
    patch = cv2.warpAffine(
        blob, to_texture, (size, size), flags=inverse, borderMode=cv2.BORDER_WRAP
    )
    offsets = np.stack(np.meshgrid(np.arange(size) - middle[0], np.arange(size) - middle[1]))
    along, aside = np.tensordot(rotation, offsets, 1)
    # soft, about a pixel wide
    edge = np.clip((1 - np.hypot(along, 2.5 * aside)) * radius * size + 0.5, 0, 1)[..., None]
    return np.asarray(frame + (patch.astype(np.float64) - frame) * edge, dtype=np.uint8)


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.synthetic",
        description="Make a TinyVIRAT-shaped dataset of moving blobs.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--train", type=int, default=300, metavar="N", help="clips for training (300)"
    )
    parser.add_argument(
        "--test", type=int, default=100, metavar="N", help="clips for testing (100)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--frames",
        type=int,
        nargs=2,
        default=(24, 64),
        metavar=("LEAST", "MOST"),
        help="of a clip (24 64)",
    )
    parser.add_argument(
        "--min-size", type=int, default=10, metavar="PX", help="side of the smallest frames (10)"
    )
    parser.add_argument(
        "--max-size", type=int, default=128, metavar="PX", help="side of the largest frames (128)"
    )
    parser.add_argument(
        "--alone", action="store_true", help="one motion in each clip; quicker to learn"
    )
    arguments = parser.parse_args(argv)
    if not (
        10 <= arguments.min_size <= arguments.max_size
        and 1 <= arguments.frames[0] <= arguments.frames[1]
    ):
        parser.error(
            "--min-size is at least 10 and at most --max-size; --frames is LEAST MOST, at least 1"
        )
    sizes = (arguments.min_size, arguments.max_size)
    frames = (arguments.frames[0], arguments.frames[1])
    try:
        make_tinyvirat(
            arguments.out,
            train=arguments.train,
            test=arguments.test,
            seed=arguments.seed,
            frames=frames,
            sizes=sizes,
            alone=arguments.alone,
        )
    except CannotWrite as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{arguments.out}: {arguments.train} clips for training, {arguments.test} for testing, {len(CLASSES)} classes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
