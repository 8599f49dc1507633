"""Fixtures that every test may use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real logs, annotations, videos and the test cluster; a checkout stands alone, so tests that need them skip without."""
    folder = PROJECT.parent / "shared"
    if not (folder / "real").is_dir():
        pytest.skip(f"{folder} is not there: real inputs are not part of the project")
    return folder


@pytest.fixture(autouse=True)
def _private_state(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the state or settings of the person who runs it."""
    home = tmp_path_factory.mktemp("xdg")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("VIDJOBS_CLUSTER", raising=False)


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    """Tiny datasets in every layout that the confs of conf/ read, each made when it is asked for. Do not change them."""
    return Layouts(tmp_path_factory.mktemp("layouts"))


class Layouts:
    """Datasets below `root`, named and laid out as the confs have them under ${data}: three classes of three training and two test videos.

    Each video has 20 to 28 frames of 64 x 48 px, in which a square goes right, down, or nowhere, by its class.
    """

    UCF = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
    HMDB = ("brush_hair", "climb_stairs", "wave")
    KINETICS = ("abseiling", "air drumming", "zumba")
    JESTER = ("Doing other things", "Swiping Left", "Thumb Up")
    TRAIN, TEST = (8, 9, 10), (1, 2)  # groups

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: set[str] = set()

    def make(self, *names: str) -> Path:
        """Make what is missing of these; the folder that they lie in."""
        for name in names:
            if name not in self._made:
                self._made.add(name)
                self._makers[name]()
        return self.root

    def everything(self) -> Path:
        """The same, with all there are."""
        return self.make(*self._makers)

    @property
    def _makers(self) -> dict[str, Callable[[], None]]:
        return {
            "UCF-101": self._ucf101_videos,
            "ucf101_videos": self._ucf101_frames,
            "ucf101_c3d": self._ucf101_c3d,
            "hmdb51": self._hmdb51_videos,
            "hmdb51_flow": lambda: self._folders(
                "hmdb51_flow", self._hmdb_names(), self.HMDB, "{:05d}.jpg", flow=True
            ),
            "hmdb51_c3d": self._hmdb51_c3d,
            "kinetics": self._kinetics_frames,
            "kinetics400": self._kinetics_videos,
            "jester": self._jester,
            "my_videos": self._class_folders,
            "video_list": self._video_list,
            "TinyVIRAT": self._tinyvirat,
        }

    def _numbered(self) -> Iterator[tuple[int, int, str]]:
        """(class, group, split) of every video."""
        for label in range(3):
            yield from ((label, group, "train") for group in self.TRAIN)
            yield from ((label, group, "test") for group in self.TEST)

    def _ucf_names(self) -> list[tuple[int, str, str]]:
        """(class, name, split); files of HandstandPushups are spelt otherwise than their folder."""
        spelt = [name.replace("Handstand", "HandStand") for name in self.UCF]
        return [
            (label, f"v_{spelt[label]}_g{group:02d}_c01", split)
            for label, group, split in self._numbered()
        ]

    def _hmdb_names(self) -> list[tuple[int, str, str]]:
        return [
            (label, f"Film{group}_{self.HMDB[label]}_u_cm_np1_fr_med_{group}", split)
            for label, group, split in self._numbered()
        ]

    def _ucf101_videos(self) -> None:
        for label, name, _ in self._ucf_names():
            self._encode(
                self.root / "UCF-101" / self.UCF[label] / f"{name}.avi", label, name, fps=25
            )
        self._ucf_lists(self.root / "UCF-101" / "ucfTrainTestlist")

    def _ucf101_frames(self) -> None:
        self._folders(
            "ucf101_videos/jpg", self._ucf_names(), self.UCF, "image_{:05d}.jpg", counted=True
        )
        self._ucf_lists(self.root / "ucf101_videos" / "ucfTrainTestlist")

    def _ucf101_c3d(self) -> None:
        self._folders("ucf101_c3d", self._ucf_names(), self.UCF, "{:05d}.jpg", size=(171, 128))
        self._ucf_lists(self.root / "ucf101_c3d" / "ucfTrainTestlist")

    def _hmdb51_c3d(self) -> None:
        self._folders("hmdb51_c3d", self._hmdb_names(), self.HMDB, "{:05d}.jpg", size=(171, 128))
        self._hmdb_lists(self.root / "hmdb51_c3d" / "testTrainMulti_7030_splits")

    def _ucf_lists(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        _lines(
            folder / "classInd.txt", [f"{number} {name}" for number, name in enumerate(self.UCF, 1)]
        )
        for fold in (1, 2, 3):
            rows = [
                (f"{self.UCF[label]}/{name}.avi", label, split)
                for label, name, split in self._ucf_names()
            ]
            _lines(
                folder / f"trainlist{fold:02d}.txt",
                [f"{path} {label + 1}" for path, label, split in rows if split == "train"],
            )
            _lines(
                folder / f"testlist{fold:02d}.txt",
                [path for path, _, split in rows if split == "test"],
            )

    def _hmdb51_videos(self) -> None:
        for label, name, _ in self._hmdb_names():
            self._encode(
                self.root / "hmdb51" / self.HMDB[label] / f"{name}.avi", label, name, fps=30
            )
        self._hmdb_lists(self.root / "hmdb51" / "testTrainMulti_7030_splits")

    def _hmdb_lists(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for number, own in enumerate(self.HMDB):
            rows = [
                f"{name}.avi {1 if split == 'train' else 2} "
                for label, name, split in self._hmdb_names()
                if label == number
            ]
            _lines(folder / f"{own}_test_split1.txt", rows)

    def _kinetics_frames(self) -> None:
        names = [
            (label, f"id{label}_{group:08d}", split) for label, group, split in self._numbered()
        ]
        self._folders("kinetics/rgb-images", names, (), "{:05d}.jpg")
        self._folders("kinetics/farneback-images", names, (), "{:05d}.jpg", flow=True)
        database = {
            name: {
                "label": self.KINETICS[label],
                "cls": label + 1,
                "subset": split.replace("test", "val"),
                "isthere": True,
                "numf": _length(name),
            }
            for label, name, split in names
        }
        (self.root / "kinetics" / "hfiles").mkdir()
        annotation = {
            "database": database,
            "classes": {name: number for number, name in enumerate(self.KINETICS, 1)},
        }
        (self.root / "kinetics" / "hfiles" / "finalannots.json").write_text(json.dumps(annotation))

    def _kinetics_videos(self) -> None:
        rows: dict[str, list[str]] = {
            "train": ["label,youtube_id,time_start,time_end,split"],
            "val": ["label,youtube_id,time_start,time_end,split"],
        }
        for label, group, split in self._numbered():
            name, folder = f"id{label}_{group:08d}", split.replace("test", "val")
            path = (
                self.root
                / "kinetics400"
                / folder
                / self.KINETICS[label]
                / f"{name}_000003_000013.mp4"
            )
            self._encode(path, label, name, fps=30)
            rows[folder].append(f"{self.KINETICS[label]},{name},3,13,{folder}")
        for split, lines in rows.items():
            _lines(self.root / "kinetics400" / f"kinetics_{split}.csv", lines)

    def _jester(self) -> None:
        names = [
            (label, str(100 * label + group), split) for label, group, split in self._numbered()
        ]
        self._folders("jester", names, (), "{:05d}.jpg")
        _lines(self.root / "jester" / "jester-v1-labels.csv", list(self.JESTER))
        for file, wanted in (("train", "train"), ("validation", "test")):
            rows = [
                f"{name};{self.JESTER[label]}" for label, name, split in names if split == wanted
            ]
            _lines(self.root / "jester" / f"jester-v1-{file}.csv", rows)

    def _class_folders(self) -> None:
        for label, name, _ in self._ucf_names():
            self._encode(
                self.root / "my_videos" / self.UCF[label] / f"{name}.mp4", label, name, fps=25
            )

    def _video_list(self) -> None:
        rows: dict[str, list[str]] = {"train": ["org_video,label"], "test": ["org_video,label"]}
        for label, name, split in self._hmdb_names():
            path = f"{self.HMDB[label]}/{name}.avi"
            self._encode(self.root / "video_list" / path, label, name, fps=30)
            rows[split].append(f"/another/machine/{path},{label}")
        for split, lines in rows.items():
            _lines(self.root / "video_list" / f"videos_{split}_01.csv", lines)

    def _tinyvirat(self) -> None:
        from trainer.synthetic import make_tinyvirat  # numpy and cv2, which few tests need

        make_tinyvirat(
            self.root / "TinyVIRAT", train=14, test=4, seed=5, frames=(16, 24), sizes=(16, 24)
        )

    def _folders(
        self,
        place: str,
        names: list[tuple[int, str, str]],
        classes: tuple[str, ...],
        pattern: str,
        *,
        size: tuple[int, int] = (64, 48),
        flow: bool = False,
        counted: bool = False,
    ) -> None:
        """A folder of jpg for each video, below its class's folder where there are classes; `flow`: images of u, v and magnitude."""
        import cv2

        for label, name, _ in names:
            folder = self.root / place / (classes[label] if classes else "") / name
            folder.mkdir(parents=True)
            images = _flow(label, name) if flow else _frames(label, name)
            for number, image in enumerate(images, 1):
                cv2.imwrite(
                    str(folder / pattern.format(number)),
                    cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_RGB2BGR),
                )
            if counted:
                (folder / "n_frames").write_text(str(len(images)))

    def _encode(self, path: Path, label: int, name: str, *, fps: float) -> None:
        from trainer.synthetic import encode

        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, list(_frames(label, name)), fps=fps)


def _length(name: str) -> int:
    return 20 + sum(name.encode()) % 9


def _frames(label: int, name: str) -> Any:
    """(frames, 48, 64, 3): a square that goes right (0), down (1) or nowhere (2), on a ground of the video's own."""
    import numpy as np

    rng = np.random.default_rng(list(name.encode()))
    video = np.broadcast_to(
        rng.integers(0, 90, (48, 64, 3), dtype=np.uint8) // 2, (_length(name), 48, 64, 3)
    ).copy()
    for number, frame in enumerate(video):
        x, y = (4 + 2 * number if label == 0 else 24, 2 + int(1.2 * number) if label == 1 else 16)
        frame[y : y + 12, x : x + 12] = (220, 160 + 10 * label, 60)
    return video


def _flow(label: int, name: str) -> Any:
    """Flow images of the same: 16 levels a pixel, and none is 128."""
    import numpy as np

    images = np.full((_length(name) - 1, 48, 64, 3), 128, np.uint8)
    for number, image in enumerate(images):
        x, y = (4 + 2 * number if label == 0 else 24, 2 + int(1.2 * number) if label == 1 else 16)
        image[y : y + 12, x : x + 12] = [(160, 128, 160), (128, 147, 147), (128, 128, 128)][label]
    return images


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
