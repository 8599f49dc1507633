"""What `prepare` makes of a download before the dataset is cached: sorted files, annotations, videos, frames, flow, in this order."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainer.config import Config
from trainer.data import flow, outputs
from trainer.data.all_datasets import open_dataset
from trainer.data.annotate import annotate, needs_frames
from trainer.data.dataset_files import video_stem
from trainer.data.extract import Extract, folder_name
from trainer.data.flow import Flow
from trainer.data.organise import organise
from trainer.data.outputs import StepReport, Task
from trainer.data.progress import Say
from trainer.data.reencode import Reencode, file_name
from trainer.data.shards import Share, locked
from trainer.run_folder import RunFolder, own_name, writing

LISTS = (".txt", ".json", ".csv")  # annotations, which go where the videos go


def first(config: Config, folder: RunFolder, share: Share, say: Say) -> list[str]:
    """Sort and annotate, which cannot be shared: one shard does it, and the others wait. Returns what was done, by whichever."""
    conf, done = config.prepare, list[str]()
    marker = folder.root / "shards" / "first.json"
    with locked(folder.root / ".prepare.lock", say):
        if not share.whole and marker.exists():
            return [str(line) for line in json.loads(marker.read_text())]
        if conf.organise:
            done += organise(config, say).summary()
        if conf.annotate and not needs_frames(config):
            done += [f"annotate: {path}" for path in annotate(config, say)]
        if not share.whole:
            folder.write_text(marker, json.dumps(done, indent=1) + "\n")
    return done


def last(config: Config, say: Say) -> list[str]:
    """Annotate what tells which frames are there, now that they are. Returns what was done."""
    return (
        [f"annotate: {path}" for path in annotate(config, say)]
        if config.prepare.annotate and needs_frames(config)
        else []
    )


def run(config: Config, share: Share, say: Say) -> dict[str, StepReport]:
    """The steps that the conf asks for, this shard's videos of them: name -> what was done. Raises DataError, CannotWrite."""
    conf, reports = config.prepare, dict[str, StepReport]()
    if not (conf.videos_to or conf.frames_to or conf.flow_to):
        return reports
    every = _videos(config)
    videos, places = share.take(every), folders(config, [path for _, path in every])
    root = Path(config.data.root)
    for target in (conf.videos_to, conf.frames_to):
        if target and share.shard == 0:
            _copy_lists(root, Path(target))
    if conf.videos_to:
        out = Path(conf.videos_to)
        tasks = [
            Task(id=name, source=path, target=out / file_name(path, root)) for name, path in videos
        ]
        reports["videos"] = outputs.run(Reencode(conf), tasks, out, say)
    if conf.frames_to:
        out = Path(conf.frames_to)
        tasks = [
            Task(id=name, source=path, target=out / _frames(places[path], config))
            for name, path in videos
        ]
        reports["frames"] = outputs.run(Extract(conf), tasks, out, say)
    if conf.flow_to:
        reports["flow"] = _flow(
            config,
            [(name, path, places[path]) for name, path in videos],
            reports.get("frames"),
            say,
        )
    return reports


def _flow(
    config: Config, videos: list[tuple[str, Path, Path]], frames: StepReport | None, say: Say
) -> StepReport:
    """Of the frames that were just extracted, so that both have the same numbers; else of what the dataset has."""
    conf, out = config.prepare, Path(config.prepare.flow_to)
    step = Flow(conf)
    flow.claim(out, step.settings)
    lost = {item["id"] for item in frames.broken} if frames else set()
    tasks = []
    for name, path, place in videos:
        source = Path(conf.frames_to) / _frames(place, config) if frames else path
        tasks += [Task(id=name, source=source, target=out / place)] if name not in lost else []
    return outputs.run(step, tasks, out, say)


def folders(config: Config, videos: list[Path]) -> dict[Path, Path]:
    """Video -> its folder below frames_to and flow_to. Of two clips of one YouTube video each keeps its seconds in the name."""
    rule = "kinetics" if config.data.name == "kinetics" else config.prepare.frames_rule
    root = Path(config.data.root)
    places = {video: folder_name(video, root, rule) for video in videos}
    often = Counter(places.values())
    return {
        video: place if often[place] == 1 else place.with_name(video_stem(video.name))
        for video, place in places.items()
    }


def _frames(place: Path, config: Config) -> Path:
    """Where the dataset looks for a video's frames: TinyVIRAT's have a name that tells them from its tubes."""
    return place.with_name(f"{place.name}_frames") if config.data.name == "tinyvirat" else place


def _videos(config: Config) -> list[tuple[str, Path]]:
    """(name, file or folder of frames) of every video of every split, each once, in the annotation's order. Raises DataError."""
    dataset = open_dataset(replace(config.data, stream="rgb"))
    found: dict[Path, str] = {}
    for split in dataset.splits:
        for clip in dataset.clips(split):
            found.setdefault(clip.path, clip.id)
    return [(name, path) for path, name in found.items()]


def _copy_lists(root: Path, target: Path) -> None:
    """Annotations at the dataset's top and one folder below, so that `target` can stand as data.root. Newer ones win."""
    with writing(target):
        for path in _lists(root):
            copy = target / path.relative_to(root)
            if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
                copy.parent.mkdir(parents=True, exist_ok=True)
                temporary = own_name(copy, ".part")
                shutil.copyfile(path, temporary)
                temporary.rename(copy)


def _lists(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = Path(entry.path)
            if entry.is_file() and path.suffix.lower() in LISTS and not entry.name.startswith("."):
                yield path
            elif entry.is_dir() and not entry.name.startswith("."):
                yield from sorted(
                    each
                    for each in path.iterdir()
                    if each.suffix.lower() in LISTS and not each.name.startswith(".")
                )
