"""`infer`: every kind of input, the checkpoint's own preprocessing, and what is refused. Real recordings, real processes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer import asking, infer, models, overlay
from trainer.config import INFERENCE, Config, DataConf, InferConf, ModelConf, PrepareConf
from trainer.data import decode
from trainer.data.decode import Shown
from trainer.data.kept import Kept
from trainer.data.normalise import PRESETS
from trainer.data.sampling import even_times, resample
from trainer.errors import CannotWrite, ConfFault, DataError, TryAgain
from trainer.infer_inputs import Input, expand, open_frames, resampled
from trainer.run_folder import RunFolder
from trainer.windows import colours, flows, windows

CLASSES = ("run", "jump", "sit", "wave")
DATA = DataConf(resize="short:40", frames=16, size=32, test_crop="center", short="loop")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small I3D as `train` writes it, one class a video."""
    torch.manual_seed(3)
    options: dict[str, Any] = {"num_classes": len(CLASSES), "mode": "16x32"}
    model = models.create("i3d", **options, bn_momentum=0.9)
    with torch.no_grad():
        # statistics of its inputs, so that its answers are not all the same
        model(100 * torch.randn(4, 3, 16, 32, 32))
    content = {
        "format": 1, "model": {"name": "i3d", **options}, "classes": list(CLASSES), "multi_label": False,
        "data": {key: getattr(DATA, key) for key in INFERENCE}, "frames": 16, "size": 32, "fps": 30.0,
        "normalisation": PRESETS["c3d_bgr"].to_json(), "epoch": 1, "step": 1, "metrics": {},
        "state_dict": model.state_dict(),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "epoch-000001.pt"
    torch.save(content, path)
    return path


def _conf(checkpoint: Path, *inputs: str, **settings: Any) -> Config:
    return Config(
        model=ModelConf(init=str(checkpoint)),
        infer=InferConf(input=inputs, **{"overlay": False, "top": 2, **settings}),
    )


def _rows(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = (folder.predictions / "infer.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.mark.slow
def test_every_real_recording_is_answered_from_its_first_frame_to_its_last(
    shared: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """MP4, AVI and GIF; rates of 6 to 30; 1920x1080; each with a labelled video of as many frames, with even sides."""
    folder = RunFolder(tmp_path / "run")
    infer.run(_conf(checkpoint, str(shared / "real" / "videos"), overlay=True), folder)
    recordings = sorted((shared / "real" / "videos").iterdir())
    whole = {row["input"]: row for row in _rows(folder, "video")}
    assert set(whole) == {str(path) for path in recordings}
    assert not _rows(folder, "error")
    for path in recordings:
        shown = [row for row in _rows(folder, "window") if row["input"] == str(path)]
        frames = _frames(path)
        assert shown[0]["start"] == 0
        assert shown[-1]["start"] + shown[-1]["frames"] == len(frames), path.name
        assert all(
            len(row["top"]) == 2 and row["top"][0]["score"] >= row["top"][1]["score"]
            for row in shown
        )
        labelled = _frames(folder.predictions / whole[str(path)]["labelled"])
        assert len(labelled) == len(frames), path.name
        assert not labelled[0].shape[0] % 2
        assert max(labelled[0].shape) <= overlay.LONG_SIDE


def test_a_video_gets_the_answers_of_its_clips_by_hand(
    shared: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Cut, fed and scored here without `infer`: short side 40, centre 32, BGR minus C3D's mean; softmax, mean over windows."""
    cv2 = pytest.importorskip("cv2")
    path = shared / "real" / "videos" / "part_0.mp4"
    folder = RunFolder(tmp_path / "run")
    infer.run(_conf(checkpoint, str(path), step=10), folder)
    rows = _rows(folder, "window")
    # the last one ends with the video
    assert [(row["start"], row["frames"]) for row in rows] == [(0, 16), (10, 16), (16, 16)]
    small = [
        cv2.resize(frame, (53, 40), interpolation=cv2.INTER_LINEAR)[4:36, 10:42]
        for frame in _frames(path)
    ]
    model = models.create("i3d", num_classes=len(CLASSES), mode="16x32").eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    clips = np.stack([np.stack(small[row["start"] : row["start"] + 16]) for row in rows])[
        ..., ::-1
    ].astype(np.float32) - (90, 98, 102)
    with torch.no_grad():
        scores = (
            model(
                torch.from_numpy(
                    np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3), dtype=np.float32)
                )
            )
            .softmax(dim=1)
            .numpy()
        )
    for row, expected in zip(rows, scores, strict=True):
        assert [item["label"] for item in row["top"]] == [
            CLASSES[place] for place in np.argsort(-expected)[:2]
        ]
        assert row["top"][0]["score"] == pytest.approx(float(expected.max()), abs=2e-3)
    (whole,) = _rows(folder, "video")
    assert whole["top"][0]["score"] == pytest.approx(float(scores.mean(axis=0).max()), abs=2e-3)
    assert json.loads(folder.done.read_text())["verb"] == "infer"


@pytest.mark.slow
def test_frames_on_stdin_get_the_answers_of_the_file_they_come_from(
    shared: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """`ffmpeg -i a.mp4 -f rawvideo -pix_fmt rgb24 - | python -m trainer infer ... infer.input=[-]`, through real processes."""
    path = shared / "real" / "videos" / "part_0.mp4"
    raw = np.stack(_frames(path)).tobytes()
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"model: {{init: {checkpoint}}}\ninfer: {{input: ['-'], stdin_size: 340x256, overlay: false, top: 2}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "trainer",
        "infer",
        "--conf",
        str(conf),
        "--run",
        str(tmp_path / "piped"),
    ]
    done = subprocess.run(command, input=raw, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"stdin 0.00-0.50 s: " in done.stdout
    infer.run(_conf(checkpoint, str(path)), RunFolder(tmp_path / "read"))
    piped, read = (_rows(RunFolder(tmp_path / name), "window") for name in ("piped", "read"))
    assert len(piped) == len(read) == 2
    for mine, other in zip(piped, read, strict=True):
        assert [item["label"] for item in mine["top"]] == [item["label"] for item in other["top"]]
        assert mine["top"][0]["score"] == pytest.approx(other["top"][0]["score"], abs=1e-4)


def test_a_damaged_video_is_named_and_the_others_are_answered(
    shared: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = shared / "real" / "videos" / "demo.mp4"
    (tmp_path / "in").mkdir()
    shutil.copy(whole, tmp_path / "in" / "b.mp4")
    (tmp_path / "in" / "a.mp4").write_bytes(b"not a video at all")
    (tmp_path / "in" / "c.avi").write_bytes(b"")
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(
        DataError, match=r"2 of 3 inputs could not be read to their end: .*a\.mp4, .*c\.avi"
    ):
        infer.run(_conf(checkpoint, str(tmp_path / "in"), max_windows=2), folder)
    assert [Path(row["input"]).name for row in _rows(folder, "error")] == ["a.mp4", "c.avi"]
    assert _rows(folder, "error")[1]["message"] == "cannot be read: the file is empty"
    assert [row["windows"] for row in _rows(folder, "video")] == [2]


def test_a_video_that_was_cut_off_is_answered_with_a_note(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No decoder stumbles over the end of an AVI; only its header tells."""
    whole = (shared / "real" / "videos" / "test.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 4])
    found = sum(
        1 for _ in open_frames(Input(str(tmp_path / "cut.avi"), "file"), InferConf(), fps=0)
    )
    assert 0 < found < 164
    assert capsys.readouterr().out.endswith(
        f"gave {found} of the 164 frames that its header promises\n"
    )


def test_a_random_last_layer_is_not_asked(checkpoint: Path, tmp_path: Path) -> None:
    """A trunk of other classes, whose head is replaced, would answer noise."""
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc")
    public = tmp_path / "rgb.pt"
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], public)
    data = replace(DATA, classes=str(names), normalise="minus_one_one")
    config = Config(
        data=data,
        model=ModelConf(
            name="i3d", options={"mode": "16x32"}, init=str(public), init_head="replace"
        ),
    )
    with pytest.raises(ConfFault, match="random weights"):
        asking.open_checkpoint(config)
    allowed = asking.open_checkpoint(replace(config, infer=InferConf(allow_random_head=True)))
    assert allowed.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.mp4", "'nowhere.mp4' is not there"),
        (".", "'.' is a folder without a video in it"),
        ("*.nothing", "is not there"),
    ],
)
def test_an_input_that_is_nothing_is_named(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfFault, match=said):
        expand([given])


def test_folders_and_globs_are_searched_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as a Mac leaves beside b.mp4
    for name in ("b.mp4", "a.avi", "notes.txt", "deep/c.gif", "._b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [Path(each.name).name for each in expand([str(tmp_path)])] == ["a.avi", "b.mp4", "c.gif"]
    assert [each.name for each in expand(["**/*.gif", "b.mp4", "0", "-"])] == [
        "deep/c.gif",
        "b.mp4",
        "webcam 0",
        "stdin",
    ]
    assert infer.film_names(expand(["b.mp4", "deep/c.gif"])) == ["b-labelled.mp4", "c-labelled.mp4"]
    films = infer.film_names(
        [Input("a-2.mp4", "file"), Input("x/a.mp4", "file"), Input("y/a.avi", "file")]
    )
    assert films == ["a-2-labelled.mp4", "a-labelled.mp4", "a-3-labelled.mp4"]


def test_a_checkpoint_that_is_not_there_says_so(checkpoint: Path) -> None:
    """And not that its class names are missing."""
    with pytest.raises(
        DataError,
        match=r"there is no checkpoint .*epoch-000010\.pt \(did you mean \"epoch-000001\.pt\"",
    ):
        asking.open_checkpoint(_conf(checkpoint.with_name("epoch-000010.pt")))


def test_a_rate_can_be_asked_for(checkpoint: Path) -> None:
    """Of frames that were extracted at a rate the checkpoint knows only that each was taken."""
    assert asking.open_checkpoint(_conf(checkpoint)).data.fps == DATA.fps
    assert asking.open_checkpoint(_conf(checkpoint, fps=16)).data.fps == 16


def test_flow_is_made_as_the_checkpoint_learnt_it(checkpoint: Path, tmp_path: Path) -> None:
    """Method, bound and gap are the checkpoint's; one that does not say them takes the conf's."""
    content = torch.load(checkpoint, weights_only=True)
    conf = replace(
        _conf(checkpoint, "x.mp4"), prepare=PrepareConf(flow_method="dis-medium", flow_bound=16)
    )
    assert asking.open_checkpoint(conf).flow == conf.prepare
    path = tmp_path / "epoch-000001.pt"
    torch.save(content | {"flow": {"method": "dis-fast", "bound": 8, "gap": 2}}, path)
    asked = asking.open_checkpoint(replace(conf, model=ModelConf(init=str(path))))
    assert asked.flow == replace(conf.prepare, flow_method="dis-fast", flow_bound=8, flow_gap=2)


def test_flow_is_of_frames_as_large_as_prepare_saw(shared: Path) -> None:
    """A frame twice as wide moves by twice as many pixels."""
    data, made = replace(DATA, stream="flow", flow_channels=2), PrepareConf()
    source = Input(str(shared / "real" / "videos" / "demo.mp4"), "file")  # 340 x 256
    sizes = [
        next(
            flows(open_frames(source, InferConf(), fps=0), data, made, short_side=side)
        ).image.shape
        for side in (0, 128)
    ]
    assert sizes == [(256, 340, 2), (128, 170, 2)]
    one = (Shown(np.zeros((32, 32, 3), np.uint8), 0.0),)
    with pytest.raises(DataError, match="no two frames 1 apart"):
        next(flows(iter(one), data, made))


def test_a_labelled_video_that_is_stopped_is_not_kept(tmp_path: Path) -> None:
    """It would look whole."""
    path = tmp_path / "a-labelled.mp4"
    film = overlay.Film(path)
    film.add(np.zeros((32, 32, 3), np.uint8), 0.0)
    film.__exit__(TryAgain, TryAgain("stopped"), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_a_labelled_video_lasts_as_long_as_its_frames_are_shown(
    tmp_path: Path, frames: int
) -> None:
    """Its last frame, too, for as long as the one before; a single one for a second, so that it can be seen."""
    with overlay.Film(tmp_path / "a.mp4") as film:
        for number in range(frames):
            film.add(np.full((32, 32, 3), number, np.uint8), number / 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(
            frames / 8 if frames > 1 else 1.0, abs=0.002
        )


def test_a_labelled_video_that_cannot_be_ended_is_named_and_not_kept(tmp_path: Path) -> None:
    """A volume that is full when what was held back is written."""
    (tmp_path / ".a.mp4.part").symlink_to("/dev/full")
    with (
        pytest.raises(CannotWrite, match=r"cannot write .*a\.mp4: .*No space left"),
        overlay.Film(tmp_path / "a.mp4") as film,
    ):
        film.add(np.zeros((32, 32, 3), np.uint8), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_webcam_that_is_not_there_says_so() -> None:
    with pytest.raises(DataError, match=r"cannot be opened .*/dev/video"):
        next(open_frames(Input("webcam 97", "webcam"), InferConf(), fps=0))


def test_half_a_frame_on_stdin_is_a_wrong_size() -> None:
    frames = open_frames(
        Input("stdin", "stdin"), InferConf(stdin_size="4x2"), fps=0, stdin=io.BytesIO(bytes(24 + 5))
    )
    assert next(frames).image.shape == (2, 4, 3)
    with pytest.raises(DataError, match="stdin ended 5 bytes into frame 1"):
        next(frames)


def test_without_a_display_a_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfFault, match="there is no display"):
        overlay.require_display()


@pytest.mark.skipif(not shutil.which("ffplay"), reason="ffplay is not installed")
def test_a_live_window_takes_frames_until_the_user_closes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real ffplay, drawing nowhere."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("DISPLAY", ":0")
    overlay.require_display()
    window = overlay.Window("a clip")
    try:
        assert window.show(np.zeros((64, 64, 3), np.uint8), rate=12.5)
        assert window.player is not None
        # else ffplay takes all for 25 a second
        assert "-framerate 12.500" in " ".join(map(str, window.player.args))
        window.player.kill()  # as closing it does
        window.player.wait()
        assert not window.show(np.zeros((64, 64, 3), np.uint8), rate=12.5)
    finally:
        window.close()


def test_a_live_window_shows_frames_as_fast_as_they_come_and_a_little_faster() -> None:
    """As they come they would pile up before a player that is slower than the camera by a hair."""
    assert overlay.rate_of([1.0, 1.1, 1.3, 1.4]) == pytest.approx(1.05 * 7.5)
    assert overlay.rate_of([1.0]) == overlay.rate_of([]) == decode.USUAL_RATE


@given(
    frames=st.integers(1, 60),
    length=st.integers(1, 12),
    stride=st.integers(1, 3),
    step=st.integers(1, 40),
)
def test_windows_show_every_frame_once_and_the_last_one_ends_with_the_video(
    frames: int, length: int, stride: int, step: int
) -> None:
    data = DataConf(frames=length, stride=stride, size=8, resize="8x8")
    blank = np.zeros((8, 8, 3), np.uint8)
    stream = iter([Shown(np.full_like(blank, number), float(number)) for number in range(frames)])
    found = list(windows(colours(stream), data, step=step, shrink=lambda image: image))
    span = (length - 1) * stride + 1
    assert [seconds for window in found for _, seconds in window.fresh] == [
        float(number) for number in range(frames)
    ]
    assert found[-1].start + found[-1].frames == frames
    for window in found:
        assert window.frames == min(span, frames)
        assert (window.since, window.until) == (window.start, window.start + window.frames - 1)
        assert window.clip.shape == (length, 8, 8, 3)
        assert window.clip[:, 0, 0, 0].tolist() == [
            min(window.start + k * stride, frames - 1) for k in range(length)
        ]


@given(
    rate=st.sampled_from([6.0, 15.0, 29.97, 60.0]),
    wanted=st.sampled_from([5.0, 15.0, 30.0]),
    count=st.integers(1, 80),
)
def test_resampling_chooses_the_frames_that_prepare_keeps(
    rate: float, wanted: float, count: int
) -> None:
    numbers = _resampled(even_times(count, rate), wanted)
    assert [number for number, _ in numbers] == resample(even_times(count, rate), wanted).tolist()
    assert [seconds for _, seconds in numbers] == pytest.approx(
        [k / wanted for k in range(len(numbers))]
    )


@pytest.mark.parametrize(
    "name", ["part_0.mp4", "test.avi", "demo_spatiotemporal_det.mp4", "ucf101_demo2.gif"]
)
def test_real_recordings_are_resampled_as_prepare_does(shared: Path, name: str) -> None:
    """A variable rate, an AVI whose time stamps are wrong, rates below and above."""
    path = shared / "real" / "videos" / name
    times = np.array([shown.seconds for shown in decode.stream(path)])
    for fps in (5.0, 12.5, 15.0, 30.0):
        kept = decode.read_video(path, Kept(resize="16x16", fps=fps), counted=True).taken
        assert [number for number, _ in _resampled(times, fps)] == kept.tolist()


def test_frames_before_damage_are_resampled_to_the_last_one() -> None:
    def damaged() -> Iterator[Shown]:
        yield from (Shown(np.full((1, 1, 3), number, np.uint8), number / 10) for number in range(6))
        raise DataError("cut off")

    found = resampled(damaged(), 20)
    assert [int(next(found).image[0, 0, 0]) for _ in range(12)] == [
        number // 2 for number in range(12)
    ]
    with pytest.raises(DataError, match="cut off"):
        next(found)


def _resampled(times: NDArray[np.float64], fps: float) -> list[tuple[int, float]]:
    """(number, seconds) of each frame that `infer` looks at."""
    frames = (
        Shown(np.full((1, 1, 3), number, np.uint8), float(seconds))
        for number, seconds in enumerate(times)
    )
    return [(int(shown.image[0, 0, 0]), shown.seconds) for shown in resampled(frames, fps)]


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "one\ntwo\n", ("one", "two")),
        (
            "classInd.txt",
            "1 ApplyEyeMakeup\n2 Apply Lipstick\n",
            ("ApplyEyeMakeup", "Apply Lipstick"),
        ),
        ("a.json", '["x", "y"]', ("x", "y")),
        ("a.json", '{"1": "y", "0": "x"}', ("x", "y")),
        ("a.json", '{"y": 2, "x": 1}', ("x", "y")),
    ],
)
def test_class_names_are_read_in_every_form_they_are_found_in(
    name: str, text: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert asking.read_labels(tmp_path / name) == names


def test_class_names_with_a_gap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"0": "x", "2": "y"}')
    with pytest.raises(DataError, match="without a gap"):
        asking.read_labels(tmp_path / "a.json")


def _frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
