"""`prepare`: read every clip once, name what is damaged, and write the cache that training reads.

`build` does the work and never stops at a damaged file; `ensure_cache` (for `train`) and `run` (the verb) refuse the result
when clips cannot be read and `data.broken` does not say to leave them out.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from trainer import config as conf
from trainer import provenance
from trainer.compute import cores
from trainer.config import Config, DataConf
from trainer.data import decode, shards, stats, steps
from trainer.data.all_datasets import open_dataset
from trainer.data.cache import (
    CacheWriter,
    Entry,
    Index,
    blank,
    describe,
    frames_of,
    map_bytes,
    read_index,
)
from trainer.data.dataset_base import Clip, Dataset
from trainer.data.decode import Frames, Span, Video
from trainer.data.image_folder import read_frames
from trainer.data.kept import Kept
from trainer.data.loader import cache_folder, refuse_broken
from trainer.data.outputs import signature, sizes
from trainer.data.progress import Progress, Say
from trainer.data.report import PrepareReport, make_report
from trainer.data.shards import WHOLE, Share, locked
from trainer.errors import CannotWrite, DataError
from trainer.run_folder import RunFolder, readable_size, writing
from trainer.stopping import Stop

# files that are compared with the cache before a training, whose files are not all read again
LOOKED_AT = 16

Read = tuple[Entry, Frames | None]


@dataclass(frozen=True)
class Reading:
    """How the files of a dataset are read."""

    kept: Kept
    fps: float  # of the dataset; 0 = its files tell
    base: Path  # folder that Entry.file is relative to
    counted: bool  # everything is read, and no frame is held: for training from the files

    @classmethod
    def of(cls, data: DataConf, fps: float) -> Reading:
        base = data.flow_root if data.stream == "flow" else data.root
        return cls(Kept.of(data), fps, Path(base), data.source == "files")


def ensure_cache(config: Config, cache: Path, say: Say) -> PrepareReport:
    """The report of a whole, up-to-date cache in `cache`, which is written first where it is missing.

    Safe when several processes start it at once: one writes, the others wait. Raises DataError for a dataset that cannot be
    used and for clips that cannot be read, CannotWrite when the cache does not fit.
    """
    report = build(config, cache, say, recheck=False)
    _refuse(config, cache, list(report.splits))
    return report


def build(config: Config, cache: Path, say: Say, *, recheck: bool) -> PrepareReport:
    """Write what the cache lacks, and report. `recheck`: also read those files again that changed since they were read.

    What shards have read is taken from their parts.
    """
    began = time.monotonic()
    dataset = open_dataset(config.data)
    indices = {
        job.split: _current(job, recheck=recheck) or _write(job, say=say, recheck=recheck)
        for job in (_Job.of(config, dataset, split, cache) for split in dataset.splits)
    }
    return make_report(
        indices, cache, config.data, notes=dataset.notes, seconds=time.monotonic() - began
    )


def build_part(config: Config, cache: Path, share: Share, say: Say) -> None:
    """A shard's part of the cache, where the whole one is not there yet. Raises DataError, CannotWrite."""
    dataset = open_dataset(config.data)
    for split in dataset.splits:
        if _current(_Job.of(config, dataset, split, cache), recheck=True) is None:
            job = _Job.of(config, dataset, split, cache, share)
            if _current(job, recheck=True) is None:
                _write(job, say=say, recheck=True)


@dataclass(frozen=True)
class _Job:
    """The cache of one split, to be made."""

    cache: Path
    split: str
    wanted: Index
    clips: list[Clip]
    how: Reading
    before: tuple[Path, ...]  # caches that may hold some of its clips already

    @classmethod
    def of(
        cls, config: Config, dataset: Dataset, split: str, cache: Path, share: Share = WHOLE
    ) -> _Job:
        clips = share.take(dataset.clips(split))
        wanted, how = describe(dataset, clips, config.data), Reading.of(config.data, dataset.fps)
        return cls(share.cache(cache), split, wanted, clips, how, (cache, *shards.parts(cache)))


def _current(job: _Job, *, recheck: bool) -> Index | None:
    """The index that is there, if it is what is wanted and the files it was made from did not change since."""
    index = read_index(job.cache, job.split)
    if index is None or index.fingerprint != job.wanted.fingerprint:
        return None
    if not (index.data or job.how.counted) and index.total:
        return None  # it was made for training from the files
    pairs = list(zip(index.entries, job.clips, strict=True))
    doubtful = pairs if recheck else [(entry, clip) for entry, clip in pairs if entry.frames == 0]
    looked_at = [] if recheck else pairs[:: max(len(pairs) // LOOKED_AT, 1)]
    with ThreadPoolExecutor(decode_threads()) as pool:
        same = all(pool.map(lambda pair: _signature(pair[1]) == pair[0].source, doubtful))
        others = sum(
            pool.map(lambda pair: _is_other(_signature(pair[1]), pair[0].source), looked_at)
        )
    return index if same and 2 * others <= len(looked_at) else None


def _is_other(now: str, before: str) -> bool:
    """Whether it cannot be the same file: most are not where `data.cache` holds another dataset, or flow of another kind.

    A copy may have other times, and a file that is not there (any more) tells nothing: its frames are kept.
    """
    return bool(now and before) and sizes(now) != sizes(before)


def _write(job: _Job, *, say: Say, recheck: bool) -> Index:
    held, wanted = read_index(job.cache, job.split), job.wanted
    if held is not None and (held.dataset, held.kept) != (wanted.dataset, wanted.kept):
        raise DataError(
            f"the cache {job.cache} holds {held}, not {wanted}",
            hint="give data.cache another folder, or remove this one",
        )
    with writing(job.cache):
        job.cache.mkdir(parents=True, exist_ok=True)
        with locked(job.cache / ".lock", say):
            made = _current(job, recheck=recheck)  # by the process that had the lock before
            return made if made is not None else _fill(job, say)


def _fill(job: _Job, say: Say) -> Index:
    by_id = {clip.id: clip for clip in job.clips}
    writer = CacheWriter(
        job.cache,
        job.wanted,
        job.split,
        unchanged=lambda entry: _signature(by_id[entry.id]) == entry.source,
        data=not job.how.counted,
    )
    try:
        old = _Old(job)
        _require_space(job, max(job.wanted.expected_bytes, old.bytes), writer.written)
        todo = job.clips[len(writer.done) :]
        if writer.done:
            say(f"prepare {job.split}: going on after {len(writer.done)} of {len(job.clips)} clips")
        progress = Progress(job.split, len(job.clips), say, unit="clips", done=len(writer.done))
        for entry, frames in _read_all(todo, old, job.how):
            writer.append(entry, frames)
            progress.step()
        return writer.finish()
    finally:
        writer.close()


def _require_space(job: _Job, expected: int, written: int) -> None:
    size = 0 if job.how.counted else expected
    free = shutil.disk_usage(job.cache).free + written
    if free < size:
        missing = (
            f"{readable_size(size - free)} ({size - free} bytes) missing of {readable_size(size)}"
        )
        raise CannotWrite(
            f"the cache does not fit on the volume of {job.cache}: {missing}",
            hint="free space, or point data.cache elsewhere",
        )


def _read_all(clips: list[Clip], old: _Old, how: Reading) -> Iterator[Read]:
    """Every clip read, in order, by several threads (decoders let other threads run); few are held in memory at once."""
    threads = decode_threads()
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for clip in clips:
                waiting.append(pool.submit(_read, clip, old, how))
                if len(waiting) >= 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Old:
    """The cache that is being replaced, and parts of shards: clips whose file did not change are copied, not decoded again.

    Until the new one is whole both are on the volume.
    """

    def __init__(self, job: _Job) -> None:
        wanted = {clip.id for clip in job.clips}
        found = [
            (folder, index) for folder in job.before if (index := read_index(folder, job.split))
        ]
        self._held = {
            entry.id: (entry, map_bytes(folder / index.data, index.bytes) if index.data else None)
            for folder, index in found
            if (index.dataset, index.kept) == (job.wanted.dataset, job.wanted.kept)
            for entry in index.entries
            if entry.frames and entry.id in wanted
        }

    @property
    def bytes(self) -> int:
        """Of all frames that it may give."""
        return sum(entry.bytes for entry, _ in self._held.values())

    def find(self, clip: Clip, source: str, *, counted: bool) -> Read | None:
        """The clip's entry and frames, if its file is the one that was read."""
        entry, mapped = self._held.get(clip.id, (None, None))
        if entry is None or (entry.source, entry.annotated, entry.first) != (
            source,
            clip.frames,
            clip.first,
        ):
            return None
        entry = replace(entry, labels=clip.labels, group=clip.group)
        if counted:
            return replace(entry, offset=0), None
        return (entry, frames_of(mapped, entry)) if mapped is not None else None


def _read(clip: Clip, old: _Old, how: Reading) -> Read:
    source = _signature(clip)
    return old.find(clip, source, counted=how.counted) or repair(
        clip, *read_clip(clip, how), source=source, how=how
    )


def read_clip(clip: Clip, how: Reading) -> tuple[Path, Video]:
    """The clip's video file, or its folder of frames when that holds more of it; and which of them it was."""
    span = Span(first=clip.first, limit=clip.frames)
    if clip.path.is_dir():
        return clip.path, read_frames(clip.path, how.kept, span, fps=how.fps, counted=how.counted)
    video = decode.read_video(clip.path, how.kept, span, counted=how.counted)
    if video.found < max(clip.frames, 1):
        folder = frames_folder(clip.path)
        from_folder = read_frames(folder, how.kept, span, fps=how.fps, counted=how.counted)
        if from_folder.found > video.found:
            return folder, from_folder
    return clip.path, video


def repair(clip: Clip, file: Path, video: Video, *, source: str, how: Reading) -> Read:
    """The clip at its annotated length: missing frames repeat the last good one, and the entry says so."""
    entry = _entry(clip, file, video, source=source, how=how)
    frames = None if how.counted else video.frames
    if not video.found:
        return replace(entry, fault=video.fault or "it holds no frame"), frames
    if video.found == clip.frames or not clip.frames:
        return replace(entry, repaired=video.fault), frames
    why = video.fault or f"the file ends after {clip.first + video.found}"
    length = round(len(video.taken) * clip.frames / video.found)  # after resampling
    entry = replace(
        entry,
        frames=length,
        repaired=f"{video.found} of {clip.frames} frames; the last is repeated ({why})",
    )
    return entry, None if frames is None else frames[
        np.minimum(np.arange(length), len(video.taken) - 1)
    ]


def _entry(clip: Clip, file: Path, video: Video, *, source: str, how: Reading) -> Entry:
    kept, resampled = how.kept, bool(how.kept.fps) and video.found > 0
    height, width = video.frames.shape[1:3] if video.found else (0, 0)
    rates = f"resampled from {video.source_fps:.5g} to {kept.fps:g} fps" if resampled else ""
    return replace(
        blank(clip, kept),
        source=source,
        file=str(file.relative_to(how.base) if file.is_relative_to(how.base) else file.absolute()),
        frames=len(video.taken),
        kept_height=height,
        kept_width=width,
        found=video.found,
        height=video.height,
        width=video.width,
        fps=kept.fps or round(video.fps, 4),
        source_fps=video.source_fps,
        taken=tuple(video.taken.tolist())
        if resampled and (video.variable_rate or video.source_fps <= 0)
        else (),
        decoder=video.decoder,
        seekable=video.seekable,
        variable_rate=video.variable_rate,
        longer=video.promised - clip.first
        if clip.frames and video.promised - clip.first > clip.frames
        else 0,
        note="; ".join(part for part in (rates, _lack(clip, video), video.note) if part),
    )


def _lack(clip: Clip, video: Video) -> str:
    """A file without an annotated length that was cut off where no decoder stumbles: its header tells."""
    promised = video.promised - clip.first
    cut = not clip.frames and not video.fault and 0 < video.found < promised
    return (
        f"it holds {video.found} of the {promised} frames that its header promises" if cut else ""
    )


def frames_folder(video: Path) -> Path:
    """`<id>_frames` beside `<id>.mp4`."""
    return video.with_name(f"{video.stem}_frames")


def _signature(clip: Clip) -> str:
    """Changes when the clip's file (or folder of frames) does; "" when there is neither."""
    return " ".join(filter(None, map(signature, (clip.path, frames_folder(clip.path)))))


def decode_threads() -> int:
    """Threads that decode: one for each core this process may use, at most 16."""
    return min(cores(), 16)


def _refuse(config: Config, cache: Path, splits: list[str]) -> None:
    for split in splits:
        index = read_index(cache, split)
        assert index is not None
        refuse_broken(config.data, index, cache)


def run(config: Config, folder: RunFolder) -> None:
    """The verb: the steps that the conf asks for, the cache, `<run>/prepare.json`, a summary on stdout, DONE.json.

    A shard that is not the last one to finish ends after its share. Raises DataError when videos cannot be read, CannotWrite.
    """
    share = Share.of(config.prepare, os.environ)
    say = share.named(_say)
    folder.write_text(folder.conf, conf.dump(config))
    provenance.write(folder, config)
    # SIGTERM: what is written so far stays, and a retry goes on from there
    with Stop().listening():
        done = steps.first(config, folder, share, say)
        if share.whole:
            _finish(config, folder, done, say=say, made={})
        else:
            _share(config, folder, share, done, say=say)


def _share(config: Config, folder: RunFolder, share: Share, done: list[str], *, say: Say) -> None:
    """One shard's work; the last one to finish does what the whole needs. What is broken is for that one to tell: the others go on."""
    began = time.monotonic()
    share.begin(folder)
    made = {name: step.made for name, step in steps.run(config, share, say).items()}
    build_part(config, cache_folder(config, folder.whole), share, say)
    share.finish(folder, made, time.monotonic() - began)
    with locked(folder.root / ".prepare.lock", say):
        missing = share.missing(folder)
        if missing:
            say(
                f"prepare: this share is done; still at work or to come: shards {', '.join(map(str, missing))}"
            )
        elif not folder.done.exists():
            say("prepare: the last share is done; putting the whole together")
            _finish(config, folder, done, say=say, made=share.made(folder))


def _finish(
    config: Config, folder: RunFolder, done: list[str], *, say: Say, made: Mapping[str, int]
) -> None:
    """Everything that is not there yet, the report, and the refusal of what is broken. `made`: outputs of each step, by the shards."""
    cache = cache_folder(config, folder.whole)
    reports = {
        name: replace(step, made=step.made + made.get(name, 0))
        for name, step in steps.run(config, WHOLE, say).items()
    }
    done = done + steps.last(config, say)
    report = build(config, cache, say, recheck=True)
    measured = stats.of_training(cache) if config.prepare.stats else None
    report = replace(report, done=done, steps=reports, stats=measured)
    if (cache / shards.PARTS).exists():
        shutil.rmtree(cache / shards.PARTS, ignore_errors=True)
    folder.write_text(folder.root / "prepare.json", json.dumps(report.to_json(), indent=1) + "\n")
    print("\n".join(report.summary()), flush=True)
    refuse_unmade(config.data, report)
    _refuse(config, cache, list(report.splits))
    facts = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_code": 0,
        "cache": str(cache),
        "broken": report.broken,
    }
    folder.write_text(folder.done, json.dumps({"verb": "prepare", **facts}, indent=1) + "\n")


def refuse_unmade(data: DataConf, report: PrepareReport) -> None:
    """Raise DataError that names the videos of which a step could make nothing, unless `data.broken` says to leave them out."""
    for name, step in report.steps.items():
        if step.broken and data.broken == "fail":
            named = "; ".join(f"{item['id']}: {item['problem']}" for item in step.broken[:10])
            more = f" and {len(step.broken) - 10} more" if len(step.broken) > 10 else ""
            hint = 'replace the files and run `prepare` again, or set data.broken: "exclude" to leave them out'
            raise DataError(
                f"no {name} could be made of {len(step.broken)} of {step.videos} videos: {named}{more}",
                hint=hint,
            )


def _say(line: str) -> None:
    print(line, flush=True)
