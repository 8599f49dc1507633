"""Reading video: colours, order and counts are right, and a damaged file gives its good frames and a reason."""

from __future__ import annotations

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.data import image_folder
from trainer.data.decode import Decoder, Span, Video, is_variable, read_at, read_video, stream
from trainer.data.image_folder import frame_paths
from trainer.data.kept import Kept
from trainer.data.resizing import resize
from trainer.synthetic import encode, plan, render

DECODERS: tuple[Decoder, ...] = ("torchcodec", "pyav")
EVERYTHING = 10**6


def read(
    path: Path, *, size: int, limit: int = EVERYTHING, decoder: Decoder | None = None
) -> Video:
    """The first frames of a file as squares."""
    return read_video(path, Kept(resize=f"{size}x{size}"), Span(limit=limit), decoder=decoder)


def read_frames(folder: Path, *, size: int, limit: int = EVERYTHING) -> Video:
    """The first frames of a folder as squares."""
    return image_folder.read_frames(folder, Kept(resize=f"{size}x{size}"), Span(limit=limit))


def solid(*colours: tuple[int, int, int], side: int = 32) -> list[np.ndarray]:
    """One frame of each RGB colour."""
    return [np.full((side, side, 3), colour, np.uint8) for colour in colours]


@pytest.fixture(scope="module")
def tube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of 48 x 48 px, in short groups of pictures, its index at the front (so that a cut leaves frames)."""
    folder = tmp_path_factory.mktemp("tube")
    (made,) = plan(1, seed=(1,), frames=(60, 60), sizes=(48, 48))
    encode(folder / "plain.mp4", render(made), fps=30)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        folder / "plain.mp4",
        "-c",
        "copy",
        "-movflags",
        "+faststart",
        folder / "tube.mp4",
    ]
    subprocess.run(command, check=True)
    return folder / "tube.mp4"


@pytest.mark.parametrize("decoder", DECODERS)
def test_channels_are_red_green_blue(tmp_path: Path, decoder: Decoder) -> None:
    """The original kept OpenCV's BGR."""
    encode(tmp_path / "a.mp4", solid((255, 0, 0), (0, 255, 0), (0, 0, 255)), fps=30)
    frames = read(tmp_path / "a.mp4", size=16, limit=EVERYTHING, decoder=decoder).frames
    assert frames.shape == (3, 16, 16, 3)
    assert frames.mean(axis=(1, 2)).argmax(axis=1).tolist() == [0, 1, 2]


def test_both_decoders_give_the_same_frames(tube: Path) -> None:
    """So that a cache does not depend on what is installed (beyond rounding)."""
    one, other = (read(tube, size=24, limit=EVERYTHING, decoder=decoder) for decoder in DECODERS)
    assert one.frames.shape == other.frames.shape == (60, 24, 24, 3)
    assert np.abs(one.frames.astype(int) - other.frames).max() <= 2
    assert (one.promised, one.fps, one.height, one.width, one.variable_rate, one.fault) == (
        60,
        30.0,
        48,
        48,
        False,
        "",
    )


def test_what_a_phone_filmed_lying_down_stands_upright(tube: Path, tmp_path: Path) -> None:
    """For every way to read it, as for the ffmpeg program: training, flow and `infer` would else see different pictures."""
    data = bytearray(tube.read_bytes())
    matrix = data.index(b"tkhd") + 44  # of the track's header: how its picture is shown
    # a quarter turn
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    upright = np.frombuffer(
        subprocess.run(command, check=True, capture_output=True).stdout, np.uint8
    ).reshape(-1, 48, 48, 3)
    lying = read_video(tube, Kept(resize="original")).frames
    assert np.abs(upright.astype(int) - lying).mean() > 5
    assert np.array_equal(upright, np.rot90(lying, -1, (1, 2)))
    assert np.array_equal([shown.image for shown in stream(path)], upright)
    for decoder in DECODERS:
        assert np.array_equal(
            read_video(path, Kept(resize="original"), decoder=decoder).frames, upright
        )
        assert np.array_equal(
            read_at(path, np.array([3, 40]), decoder=decoder, seekable=True), upright[[3, 40]]
        )


def test_times_of_a_stream_ascend_where_timestamps_are_wrong(shared: Path) -> None:
    """They are those that the file as a whole has, so that `infer` looks at the frames that `prepare` kept."""
    times = [shown.seconds for shown in stream(shared / "real" / "videos" / "test.avi")]
    assert times == pytest.approx(np.arange(164) / 25)


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_the_frames_that_are_wanted_are_read(tube: Path, decoder: Decoder) -> None:
    """They are the first ones, and `promised` still says how many there are."""
    part = read(tube, size=24, limit=7, decoder=decoder)
    assert np.array_equal(
        part.frames, read(tube, size=24, limit=EVERYTHING, decoder=decoder).frames[:7]
    )
    assert part.promised == 60


@pytest.mark.parametrize("decoder", [*DECODERS, None])
@pytest.mark.parametrize("kept", [0.6, 0.8, 0.97])
def test_a_truncated_file_gives_the_frames_before_the_cut(
    tube: Path, tmp_path: Path, decoder: Decoder | None, kept: float
) -> None:
    """Those of the whole file, and the reason; nothing is raised."""
    data = tube.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(kept * len(data))])
    video = read(tmp_path / "cut.mp4", size=24, limit=60, decoder=decoder)
    whole = read(tube, size=24, limit=60, decoder=decoder)
    assert 0 < len(video.frames) < 60
    assert np.abs(video.frames.astype(int) - whole.frames[: len(video.frames)]).max() <= 2
    assert video.fault.startswith(f"frame {len(video.frames)}: ")
    assert video.promised == 60


def test_as_many_frames_as_possible_are_saved(shared: Path, tmp_path: Path) -> None:
    """With B-frames the decoder holds some back until it knows their order; where the file breaks off they are not lost."""
    source, whole, cut = (
        shared / "real" / "videos" / "test.mp4",
        tmp_path / "whole.mp4",
        tmp_path / "cut.mp4",
    )
    filters = [
        "-vf",
        "crop=64:64:100:100",
        "-frames:v",
        "90",
        "-an",
        "-c:v",
        "libx264",
        "-g",
        "16",
        "-movflags",
        "+faststart",
    ]
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *filters, whole], check=True)
    cut.write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    saved = read(cut, size=28, limit=90).frames
    assert len(saved) > len(read(cut, size=28, limit=90, decoder="torchcodec").frames) > 30
    assert (
        np.abs(saved.astype(int) - read(whole, size=28, limit=90).frames[: len(saved)]).max() <= 2
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "kind", ["empty", "text", "head only", "no frames", "sound only", "missing", "folder"]
)
def test_a_file_without_frames_says_why(
    tube: Path, tmp_path: Path, decoder: Decoder, kind: str
) -> None:
    """No exception, no frame, one line."""
    path = tmp_path / "x.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video\n" * 50)
    elif kind == "head only":
        path.write_bytes(tube.read_bytes()[:300])
    elif kind == "folder":
        path.mkdir()
    elif kind == "no frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
    elif kind == "sound only":
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", path], check=True
        )
    video = read(path, size=24, limit=60, decoder=decoder)
    assert len(video.frames) == 0
    # of a frame without sides
    assert len(read_video(path, Kept(resize="short:24"), decoder=decoder).frames) == 0
    assert video.fault or kind == "no frames"
    assert "\n" not in video.fault
    assert ".cpp" not in video.fault


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_variable_rate_is_noticed_and_every_frame_comes_once(
    tmp_path: Path, decoder: Decoder
) -> None:
    """Frames at 0, 1, 2, 7, 8, 15, ... thirtieths of a second."""
    times = [0, 1, 2, 7, 8, 15, 16, 17, 30, 31]
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 32, 3), 20 * number + 20, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = read(tmp_path / "v.mp4", size=8, limit=EVERYTHING, decoder=decoder)
    assert video.variable_rate
    levels = video.frames.mean(axis=(1, 2, 3))
    assert np.abs(levels - (20 * np.arange(10) + 20)).max() < 5


@pytest.mark.parametrize("fps", [6, 25, 29.97, 30, 2160 / 77])
def test_rounding_to_a_time_base_is_not_a_variable_rate(fps: float) -> None:
    """Milliseconds, as Matroska and GIF keep them."""
    assert not is_variable([round(number / fps, 3) for number in range(50)])
    assert is_variable([*(number / fps for number in range(10)), 20 / fps])


def test_every_real_recording_is_read_whole(shared: Path) -> None:
    """Codec, container, rate and size of each are another; the counts are those of its README."""
    counts = {
        "test_video_structuralize.mp4": 300,
        "demo_spatiotemporal_det.mp4": 57,
        "test.avi": 164,
        "ucf101_demo1.gif": 48,
    }
    for name, count in counts.items():
        for decoder in ("pyav", None):
            video = read(
                shared / "real" / "videos" / name, size=16, limit=EVERYTHING, decoder=decoder
            )  # type: ignore[arg-type]
            assert (name, len(video.frames), video.promised, video.variable_rate, video.fault) == (
                name,
                count,
                count,
                False,
                "",
            )


def test_frames_keep_their_order_where_timestamps_are_wrong(shared: Path) -> None:
    """An AVI of UCF101's kind, with B-frames: the order is that of the ffmpeg program, not that of its timestamps."""
    source = shared / "real" / "videos" / "test.avi"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        source,
        "-vsync",
        "0",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    expected = resize(
        np.frombuffer(raw, np.uint8).reshape(-1, 240, 320, 3), (32, 32), antialias=False
    )
    frames = read(source, size=32, limit=EVERYTHING).frames
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3)).max() < 1


@pytest.mark.slow
def test_large_frames_are_read_in_small_chunks(shared: Path) -> None:
    """1920 x 1080: all 72 frames at once would be 450 MB."""
    program = (
        "import resource, sys; from pathlib import Path; from trainer.data.decode import read_video, video_decoder; video_decoder();"
        "from trainer.data.kept import Kept;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; video = read_video(Path(sys.argv[1]), Kept(resize='28x28'));"
        "print(len(video.frames), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        program,
        str(shared / "real" / "videos" / "demo_skeleton.mp4"),
    ]
    frames, grown = map(
        int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    assert frames == 72
    assert grown < 250  # MiB


def test_frames_of_a_folder_are_ordered_by_number(tmp_path: Path) -> None:
    """The original sorted names: 0, 1, 10, 11, 2, ..."""
    for number in range(12):
        cv2.imwrite(
            str(tmp_path / f"frame_{number}.jpg"), np.full((20, 20, 3), 20 * number, np.uint8)
        )
    (tmp_path / "Thumbs.db").write_text("x")
    assert list(frame_paths(tmp_path)[0]) == list(range(12))
    video = read_frames(tmp_path, size=8, limit=EVERYTHING)
    assert np.abs(video.frames.mean(axis=(1, 2, 3)) - 20 * np.arange(12)).max() < 3
    assert (video.promised, video.height, video.width, video.fault) == (12, 20, 20, "")


def test_a_frame_file_is_read_as_rgb(tmp_path: Path) -> None:
    """OpenCV reads BGR; red must stay red."""
    cv2.imwrite(str(tmp_path / "frame_0.jpg"), np.full((20, 20, 3), (0, 0, 255), np.uint8))
    assert read_frames(tmp_path, size=8, limit=1).frames.mean(axis=(0, 1, 2)).argmax() == 0


def test_damaged_frames_are_the_last_good_one_before_them(tmp_path: Path) -> None:
    """Missing, truncated, empty and nonsense files, at the start too; each number is named."""
    for number in range(10):
        cv2.imwrite(
            str(tmp_path / f"frame_{number}.jpg"), np.full((20, 20, 3), 20 * number + 20, np.uint8)
        )
    (tmp_path / "frame_0.jpg").unlink()
    data = (tmp_path / "frame_4.jpg").read_bytes()
    # libjpeg would fill it up with grey
    (tmp_path / "frame_4.jpg").write_bytes(data[: len(data) - 40])
    (tmp_path / "frame_5.jpg").write_bytes(b"")
    (tmp_path / "frame_8.jpg").write_text("x" * 100)
    video = read_frames(tmp_path, size=8, limit=EVERYTHING)
    expected = [1, 1, 2, 3, 3, 3, 6, 7, 7, 9]
    assert np.abs(video.frames.mean(axis=(1, 2, 3)) - (20 * np.array(expected) + 20)).max() < 3
    assert video.fault == "frames 0, 4-5, 8 are missing or damaged"


def test_a_folder_without_a_good_frame_gives_none(tmp_path: Path) -> None:
    """Empty, and with damaged files only."""
    assert len(read_frames(tmp_path, size=8, limit=9).frames) == 0
    (tmp_path / "frame_0.jpg").write_bytes(b"")
    assert read_frames(tmp_path, size=8, limit=9).fault == "none of its frames can be read"


def test_resizing_is_opencvs_bilinear() -> None:
    """What the published models were trained on; frames of the right size stay as they are."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 37, 53, 3)).astype(np.uint8)
    resized = resize(frames, (28, 28), antialias=False)
    assert np.array_equal(
        resized[1], cv2.resize(frames[1], (28, 28), interpolation=cv2.INTER_LINEAR)
    )
    assert resize(resized, (28, 28), antialias=False) is resized


@pytest.mark.parametrize("sides", [(28, 30), (60, 80)])
def test_smoothed_resizing_is_pils_bilinear(sides: tuple[int, int]) -> None:
    """What Inception v3 and the efficient 3D CNNs were trained on: it smooths what it shrinks; also of a part of frames, and of flow."""
    frames = (
        np.random.default_rng(0).integers(0, 256, (3, 90, 70, 3)).astype(np.uint8)[:, 5:64, 8:61]
    )
    for channels in (3, 2):
        resized = resize(frames[..., :channels], sides, antialias=True)
        for channel in range(channels):
            expected = Image.fromarray(frames[2, ..., channel]).resize(
                sides[::-1], Image.Resampling.BILINEAR
            )
            assert np.abs(resized[2, ..., channel].astype(int) - np.asarray(expected)).max() <= 1
    plain = resize(frames, (28, 30), antialias=False)
    # noise shows how much
    assert np.abs(plain.astype(int) - resize(frames, (28, 30), antialias=True)).mean() > 20


def test_the_loader_imports_no_decoder() -> None:
    """Data workers stay light; the decoder comes when a video is opened."""
    program = "import sys; import trainer.data.loader; print([m for m in ('cv2', 'av', 'torchcodec', 'sklearn') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"
