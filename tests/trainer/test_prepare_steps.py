"""What `prepare` makes of videos: frames by the published rules, key frames, flow; once, whole, and every failure named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from trainer.config import PrepareConf
from trainer.data import decode, flow, outputs
from trainer.data.extract import Extract, c3d_step, folder_name
from trainer.data.flow import Flow
from trainer.data.image_folder import frame_paths, read_image
from trainer.data.outputs import StepReport, Task
from trainer.data.reencode import AS_IT_IS, Reencode, file_name
from trainer.errors import DataError
from trainer.synthetic import encode


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real recordings in class folders: MP4, AVI and a GIF."""
    root = tmp_path_factory.mktemp("classes")
    for label, name in (("Walk", "part_0.mp4"), ("Walk", "test.avi"), ("Wave", "ucf101_demo2.gif")):
        (root / label).mkdir(exist_ok=True)
        shutil.copy(shared / "real" / "videos" / name, root / label / name)
    return root


def tasks(root: Path, out: Path, rule: str = "ucf101") -> list[Task]:
    """Every video below `root`, for frames below `out`."""
    videos = sorted(path for path in root.rglob("*.*") if path.is_file())
    return [
        Task(id=path.stem, source=path, target=out / folder_name(path, root, rule))
        for path in videos
    ]


def do(step: outputs.Step, todo: list[Task], out: Path) -> StepReport:
    """Run a step in silence."""
    return outputs.run(step, todo, out, lambda _: None)


def jpgs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.jpg")}


RULES = {
    "kinetics": (["-qscale:v", "15", "-r", "16"], "%05d.jpg"),
    "ucf101": (["-vf", "scale=-1:240"], "image_%05d.jpg"),
}


@pytest.mark.parametrize("rule", ["kinetics", "ucf101"])
def test_frames_are_what_ffmpeg_makes_by_hand(root: Path, tmp_path: Path, rule: str) -> None:
    """To the byte, for every video; a second prepare makes nothing, one of another rule makes all anew."""
    conf = PrepareConf(frames_rule=rule)  # type: ignore[arg-type]
    todo = tasks(root, tmp_path / "frames", rule)
    report = do(Extract(conf), todo, tmp_path / "frames")
    options, pattern = RULES[rule]
    for number, task in enumerate(todo):
        by_hand = tmp_path / "by-hand" / str(number)
        by_hand.mkdir(parents=True)
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", task.source, *options, by_hand / pattern], check=True
        )
        assert jpgs(task.target) == jpgs(by_hand)
        if rule == "ucf101":
            assert (task.target / "n_frames").read_text() == str(len(jpgs(by_hand)))
    assert (report.made, report.broken, report.damaged) == (3, [], [])
    assert report.frames == sum(len(jpgs(task.target)) for task in todo)
    assert do(Extract(conf), todo, tmp_path / "frames").made == 0
    assert (
        do(Extract(PrepareConf(frames_rule=rule, short_side=64)), todo, tmp_path / "frames").made
        == 3
    )  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_c3d_rule_keeps_every_fourth_frame_and_more_of_short_videos(
    root: Path, tmp_path: Path
) -> None:
    """171 x 128, numbered from 0 behind four zeros, as the original does; read by number they are in order."""
    todo = tasks(root, tmp_path)
    do(Extract(PrepareConf(frames_rule="c3d")), todo, tmp_path)
    counts = {task.id: sorted(frame_paths(task.target)[0]) for task in todo}
    assert counts == {
        "part_0": list(range(32)),
        "test": list(range(41)),
        "ucf101_demo2": list(range(31)),
    }
    assert {"00000.jpg", "000040.jpg"} <= set(jpgs(todo[1].target))
    whole = decode.read_video(todo[1].source, AS_IT_IS).frames
    for number, path in frame_paths(todo[1].target)[0].items():
        image = read_image(path)
        assert image is not None
        assert image.shape == (128, 171, 3)
        assert (
            np.abs(image.astype(int) - cv2.resize(whole[4 * number], (171, 128)).astype(int)).mean()
            < 6
        )


def test_steps_of_c3d_by_length() -> None:
    """3, 2, 1 while no more than 16 frames would be left."""
    assert [c3d_step(held) for held in (164, 68, 67, 51, 50, 34, 33, 3)] == [4, 4, 3, 3, 2, 2, 1, 1]


def test_kinetics_folders_are_the_ids() -> None:
    """And all others lie as their videos do."""
    assert folder_name(
        Path("/d/ride a bike/-ab_c1_000010_000020.mp4"), Path("/d"), "kinetics"
    ) == Path("-ab_c1")
    assert folder_name(Path("/d/UCF-101/Wave/v_Wave_g01_c01.avi"), Path("/d"), "ucf101") == Path(
        "UCF-101/Wave/v_Wave_g01_c01"
    )


def test_damage_is_named_with_ffmpegs_reason_and_the_rest_is_made(
    root: Path, tmp_path: Path
) -> None:
    """A truncated AVI gives what it holds; an MP4 without its index, an empty and a missing file give nothing. No half folder stays."""
    broken = Path(shutil.copytree(root, tmp_path / "broken"))
    for name, size in (("test.avi", 200_000), ("part_0.mp4", 30_000)):
        path = broken / "Walk" / name
        path.write_bytes(path.read_bytes()[:size])
    (broken / "Walk" / "empty.mp4").touch()
    out = tmp_path / "frames"
    todo = [*tasks(broken, out), Task(id="gone", source=broken / "gone.mp4", target=out / "gone")]
    report = do(Extract(PrepareConf()), todo, out)
    assert {item["id"]: item["problem"] for item in report.broken} == {
        "part_0": "moov atom not found",
        "empty": "moov atom not found",
        "gone": "No such file or directory",
    }
    ((named,),) = [report.damaged]
    assert named["id"] == "test"
    assert "damaged" in named["problem"]
    assert sorted(path.name for path in (out / "Walk").iterdir()) == ["test"]
    shutil.copy(root / "Walk" / "part_0.mp4", broken / "Walk")
    again = do(Extract(PrepareConf()), todo, out)
    # only what was mended is made
    assert (again.made, len(again.broken), len(again.damaged)) == (1, 2, 1)


@pytest.mark.slow
def test_a_killed_prepare_leaves_no_half_output_and_goes_on(root: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: what is there under its name is whole, the rest is made by the next one, nothing twice."""
    many = tmp_path / "many"
    for number in range(6):
        shutil.copytree(root / "Walk", many / f"C{number:02}")
    out = tmp_path / "frames"
    script = "import sys; from pathlib import Path; import test_prepare_steps as t; from trainer.config import PrepareConf\n"
    script += "t.do(t.Extract(PrepareConf()), t.tasks(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[2]))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", script, many, out], env=os.environ | {"PYTHONPATH": path}
    )
    while len(list(out.glob("C*/[!.]*"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its ffmpeg may go on for a moment
    finished = {folder: len(jpgs(folder)) for folder in out.glob("C*/[!.]*")}
    assert {(folder.name, count) for folder, count in finished.items()} <= {
        ("part_0", 33),
        ("test", 165),
    }  # a frame more than the files have: as ffmpeg does
    report = do(Extract(PrepareConf()), tasks(many, out), out)
    assert (report.made, report.videos) == (12 - len(finished), 12)
    assert not list(out.rglob("*.part"))


def test_what_prepare_did_not_make_is_not_replaced(root: Path, tmp_path: Path) -> None:
    """A folder of somebody's own frames under the same name is a fault, not a loss."""
    todo = tasks(root, tmp_path)
    todo[0].target.mkdir(parents=True)
    (todo[0].target / "mine.jpg").write_text("x")
    with pytest.raises(DataError, match="`prepare` did not make it"):
        do(Extract(PrepareConf()), todo[:1], tmp_path)
    with pytest.raises(DataError, match="would both become"):
        do(
            Extract(PrepareConf()),
            [todo[1], Task(id="b", source=todo[0].source, target=todo[1].target)],
            tmp_path,
        )


def test_without_ffmpeg_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        DataError, match=r"ffmpeg is not on this machine's PATH(.|\n)*apt install ffmpeg"
    ):
        Extract(PrepareConf())


@pytest.mark.slow
def test_videos_get_key_frames_and_keep_times_and_counts(root: Path, tmp_path: Path) -> None:
    """At most `gop` frames from key frame to key frame, no sound, even sides, every frame at its own time; a variable rate stays one."""
    uneven = tmp_path / "in" / "Walk" / "uneven.mp4"
    shutil.copytree(root, tmp_path / "in")
    select = "select=not(mod(n\\,3))+lt(n\\,12)"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        root / "Walk" / "part_0.mp4",
        "-vf",
        select,
        "-fps_mode",
        "vfr",
        "-g",
        "250",
        uneven,
    ]
    subprocess.run(command, check=True)
    videos = sorted(path for path in (tmp_path / "in").rglob("*.*") if path.is_file())
    out = tmp_path / "out"
    todo = [
        Task(id=path.stem, source=path, target=out / file_name(path, tmp_path / "in"))
        for path in videos
    ]
    report = do(Reencode(PrepareConf(gop=8, short_side=120)), todo, out)
    assert (report.made, report.broken, report.damaged) == (4, [], [])
    names = ["Walk/part_0.mp4", "Walk/test.avi", "Walk/uneven.mp4", "Wave/ucf101_demo2.mp4"]
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("[!.]*.*"))] == names
    for task in todo:
        before, after = _times(task.source), _times(task.target)
        assert len(before) == len(after)
        if task.source.suffix != ".avi":  # an AVI with B-frames gives wrong times
            np.testing.assert_allclose(np.diff(after), np.diff(before), atol=1e-3)
        video = decode.read_video(task.target, AS_IT_IS)
        assert min(video.height, video.width) == 120
        assert video.width % 2 == 0
        with av.open(str(task.target)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
            assert container.streams.video[0].codec_context.name == "h264"
            keys = [
                number
                for number, packet in enumerate(container.demux(video=0))
                if packet.is_keyframe and packet.size
            ]
        assert keys == list(range(0, len(before), 8))
    assert decode.read_video(todo[2].target, AS_IT_IS, counted=True).variable_rate
    assert do(Reencode(PrepareConf(gop=8, short_side=120)), todo, out).made == 0


def _times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [
            frame.time if frame.time is not None else number / 25
            for number, frame in enumerate(container.decode(video=0))
        ]


def moving(frames: int, right: int, down: int) -> list[np.ndarray]:
    """A soft random picture that moves by so many pixels from frame to frame."""
    noise = np.random.default_rng(3).integers(0, 256, (240, 240)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    soft = ((soft - soft.min()) / (soft.max() - soft.min()) * 255).astype(np.uint8)
    cut = [
        soft[60 - down * i : 180 - down * i, 60 - right * i : 180 - right * i]
        for i in range(frames)
    ]
    return [np.repeat(frame[..., None], 3, axis=2) for frame in cut]


@pytest.mark.parametrize("method", ["farneback", "dis-fast", "dis-medium"])
def test_flow_of_a_known_shift_has_its_size_and_sign(tmp_path: Path, method: str) -> None:
    """Two px to the right and one up, from frame to frame, as a file and as a folder; over a gap of two, twice that."""
    images = moving(7, right=2, down=-1)
    (tmp_path / "in" / "b").mkdir(parents=True)
    encode(tmp_path / "in" / "a.mp4", images, fps=25)
    for number, image in enumerate(images):
        cv2.imwrite(
            str(tmp_path / "in" / "b" / f"frame_{number}.jpg"),
            image,
            [cv2.IMWRITE_JPEG_QUALITY, 95],
        )
    for gap in (1, 2):
        out = tmp_path / f"flow-{gap}"
        todo = [
            Task(id=name, source=tmp_path / "in" / name, target=out / Path(name).stem)
            for name in ("a.mp4", "b")
        ]
        report = do(Flow(PrepareConf(flow_method=method, flow_gap=gap)), todo, out)  # type: ignore[arg-type]
        assert (report.broken, report.frames) == ([], 2 * (7 - gap))
        for task in todo:
            assert sorted(frame_paths(task.target)[0]) == list(range(1, 8 - gap))
            read = [
                image
                for path in frame_paths(task.target)[0].values()
                if (image := read_image(path)) is not None
            ]
            inside = np.stack(read)[:, 20:-20, 20:-20].astype(float)
            u, v, magnitude = ((inside - 128) / 16).mean(axis=(0, 1, 2))
            assert (u, v, magnitude) == (
                pytest.approx(2 * gap, abs=0.3),
                pytest.approx(-gap, abs=0.3),
                pytest.approx(gap * 5**0.5, abs=0.3),
            )


def test_flow_images_are_clipped_and_rounded_around_128() -> None:
    """bound 8: 16 levels to the px; beyond +-8 px a channel is full."""
    uv = np.array([[[0.0, 0.0], [1.0, -1.0], [0.04, 100.0], [-100.0, 3.0]]], np.float32)
    assert flow.to_image(uv, 128 // 8)[0].tolist() == [
        [128, 128, 128],
        [144, 112, 151],
        [129, 255, 255],
        [0, 176, 255],
    ]


def test_one_folder_never_holds_flow_of_two_kinds(tmp_path: Path) -> None:
    """The first to come writes how its flow is made; another method, bound or gap is refused."""
    first = Flow(PrepareConf(flow_method="dis-fast"))
    flow.claim(tmp_path, first.settings)
    flow.claim(tmp_path, first.settings)
    with pytest.raises(
        DataError,
        match="holds flow of another kind: method dis-fast, gap 1, not method farneback, gap 2",
    ):
        flow.claim(tmp_path, Flow(PrepareConf(flow_gap=2)).settings)
    assert json.loads((tmp_path / "flow.json").read_text())["bound"] == 8
