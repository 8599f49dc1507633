"""`prepare`: read every clip once, name what is damaged, and write the cache that training reads.

`build` does the work and never stops at a damaged file; `ensure_cache` (for `train`) and `run` (the verb) refuse the result
when clips cannot be read and `data.broken` does not say to leave them out.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer import config as conf
from trainer import provenance
from trainer.compute import cores
from trainer.config import Config
from trainer.data import decode
from trainer.data.all_datasets import open_dataset
from trainer.data.cache import CacheWriter, Entry, Index, describe, frame_bytes, map_frames, read_index
from trainer.data.dataset_base import Clip
from trainer.data.decode import Frames, Video
from trainer.data.loader import cache_folder, refuse_broken
from trainer.data.report import PrepareReport, make_report
from trainer.errors import CannotWrite, DataError
from trainer.run_folder import RunFolder, readable_size, writing
from trainer.stopping import Stop

SPLITS = ("train", "test")
PROGRESS_SECONDS = 5.0
WAIT_SECONDS = 1.0  # between looks at a cache that another process is writing

Say = Callable[[str], None]
Read = tuple[Entry, Frames]


def ensure_cache(config: Config, cache: Path, say: Say) -> PrepareReport:
    """The report of a whole, up-to-date cache in `cache`, which is written first where it is missing.

    Safe when several processes start it at once: one writes, the others wait. Raises DataError for a dataset that cannot be
    used and for clips that cannot be read, CannotWrite when the cache does not fit.
    """
    report = build(config, cache, say, recheck=False)
    _refuse(config, cache)
    return report


def build(config: Config, cache: Path, say: Say, *, recheck: bool) -> PrepareReport:
    """Write what the cache lacks, and report. `recheck`: also read those files again that changed since they were read."""
    began = time.monotonic()
    dataset = open_dataset(config.data)
    indices = {}
    for split in SPLITS:
        clips = dataset.clips(split)
        wanted = describe(dataset, clips, name=config.data.name, size=config.data.size)
        indices[split] = _current(cache, wanted, clips, split=split, recheck=recheck) or _write(
            cache, wanted, clips, split=split, say=say, recheck=recheck
        )
    return make_report(indices, cache, config.data, seconds=time.monotonic() - began)


def _current(cache: Path, wanted: Index, clips: list[Clip], *, split: str, recheck: bool) -> Index | None:
    """The index that is there, if it is what is wanted and the files it was made from did not change since."""
    index = read_index(cache, split)
    if index is None or index.fingerprint != wanted.fingerprint:
        return None
    doubtful = [(entry, clip) for entry, clip in zip(index.entries, clips, strict=True) if recheck or entry.frames == 0]
    with ThreadPoolExecutor(decode_threads()) as pool:
        same = all(pool.map(lambda pair: _signature(pair[1]) == pair[0].source, doubtful))
    return index if same else None


def _write(cache: Path, wanted: Index, clips: list[Clip], *, split: str, say: Say, recheck: bool) -> Index:
    held = read_index(cache, split)
    if held is not None and (held.dataset, held.size) != (wanted.dataset, wanted.size):
        what = f"{held.dataset} at {held.size} px, not {wanted.dataset} at {wanted.size} px"
        raise DataError(f"the cache {cache} holds {what}", hint="give data.cache another folder, or remove this one")
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache, say):
            made = _current(cache, wanted, clips, split=split, recheck=recheck)  # by the process that had the lock before
            if made is not None:
                return made
            return _fill(cache, wanted, clips, split=split, say=say)


@contextmanager
def _lock(cache: Path, say: Say) -> Iterator[None]:
    """One writer at a time; the kernel frees the lock of a process that dies."""
    with (cache / ".lock").open("a") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say(f"prepare: another process is writing {cache}; waiting for it")
                    told = True
                time.sleep(WAIT_SECONDS)
        yield


def _fill(cache: Path, wanted: Index, clips: list[Clip], *, split: str, say: Say) -> Index:
    by_id = {clip.id: clip for clip in clips}
    writer = CacheWriter(cache, wanted, split, unchanged=lambda entry: _signature(by_id[entry.id]) == entry.source)
    try:
        _require_space(cache, wanted, writer.written)
        todo = clips[len(writer.done) :]
        if writer.done:
            say(f"prepare {split}: going on after {len(writer.done)} of {len(clips)} clips")
        progress = _Progress(split, len(clips), len(writer.done), say)
        for entry, frames in _read_all(todo, _Old(cache, split), wanted.size):
            writer.append(entry, frames)
            progress.step()
        return writer.finish()
    finally:
        writer.close()


def _require_space(cache: Path, wanted: Index, written: int) -> None:
    size = sum(entry.annotated for entry in wanted.entries) * frame_bytes(wanted.size)
    free = shutil.disk_usage(cache).free + written
    if free < size:
        missing = f"{readable_size(size - free)} ({size - free} bytes) missing of {readable_size(size)}"
        raise CannotWrite(f"the cache does not fit on the volume of {cache}: {missing}", hint="free space, or point data.cache elsewhere")


def _read_all(clips: list[Clip], old: _Old, size: int) -> Iterator[Read]:
    """Every clip read, in order, by several threads (decoders let other threads run); few are held in memory at once."""
    threads = decode_threads()
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for clip in clips:
                waiting.append(pool.submit(_read, clip, old, size))
                if len(waiting) >= 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Old:
    """The cache that is being replaced: clips whose file did not change are copied from it, not decoded again."""

    def __init__(self, cache: Path, split: str) -> None:
        index = read_index(cache, split)
        self._entries = {entry.id: entry for entry in index.entries} if index else {}
        self._frames = map_frames(cache / index.data, index.total, index.size) if index else None

    def find(self, clip: Clip, source: str) -> Read | None:
        """The clip's entry and frames, if its file is the one that was read."""
        entry = self._entries.get(clip.id)
        if self._frames is None or entry is None or (entry.source, entry.annotated) != (source, clip.frames) or not entry.frames:
            return None
        return replace(entry, labels=clip.labels), self._frames[entry.offset : entry.offset + entry.frames]


def _read(clip: Clip, old: _Old, size: int) -> Read:
    source = _signature(clip)
    return old.find(clip, source) or repair(clip, read_clip(clip, size), source)


def read_clip(clip: Clip, size: int) -> Video:
    """The clip's video file, or its folder of frames when that holds more of it."""
    video = decode.read_video(clip.path, size=size, limit=clip.frames)
    if len(video.frames) < clip.frames:
        from_folder = decode.read_frames(frames_folder(clip.path), size=size, limit=clip.frames)
        if len(from_folder.frames) > len(video.frames):
            return from_folder
    return video


def repair(clip: Clip, video: Video, source: str) -> Read:
    """The clip at its annotated length: missing frames repeat the last good one, and the entry says so."""
    found = len(video.frames)
    entry = Entry(
        id=clip.id,
        labels=clip.labels,
        annotated=clip.frames,
        source=source,
        height=video.height,
        width=video.width,
        fps=round(video.fps, 4),
        decoder=video.decoder,
        variable_rate=video.variable_rate,
        longer=video.promised if video.promised > clip.frames else 0,
    )
    if not found:
        return replace(entry, fault=video.fault or "it holds no frame"), video.frames
    if found == clip.frames:
        return replace(entry, repaired=video.fault), video.frames
    why = video.fault or f"the file ends after {found}"
    entry = replace(entry, repaired=f"{found} of {clip.frames} frames; the last is repeated ({why})")
    return entry, video.frames[np.minimum(np.arange(clip.frames), found - 1)]


def frames_folder(video: Path) -> Path:
    """`<id>_frames` beside `<id>.mp4`."""
    return video.with_name(f"{video.stem}_frames")


def _signature(clip: Clip) -> str:
    """Changes when the clip's file (or folder of frames) does; "" when there is neither."""
    parts = []
    for path in (clip.path, frames_folder(clip.path)):
        try:
            status = path.stat()
        except OSError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)  # its size depends on the file system
        parts.append(f"{status.st_mtime_ns}" if is_folder else f"{status.st_size}-{status.st_mtime_ns}")
    return " ".join(parts)


def decode_threads() -> int:
    """Threads that decode: one for each core this process may use, at most 16."""
    return min(cores(), 16)


class _Progress:
    """A line every few seconds."""

    def __init__(self, split: str, clips: int, done: int, say: Say) -> None:
        self._split, self._clips, self._done, self._say = split, clips, done, say
        self._began = self._told = time.monotonic()
        self._before = done

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            rate = (self._done - self._before) / (now - self._began)
            left = (self._clips - self._done) / rate
            self._say(f"prepare {self._split}: {self._done} of {self._clips} clips, {rate:.0f} clips/s, {left:.0f} s left")
            self._told = now


def _refuse(config: Config, cache: Path) -> None:
    for split in SPLITS:
        index = read_index(cache, split)
        assert index is not None
        refuse_broken(config.data, index, cache)


def run(config: Config, folder: RunFolder) -> None:
    """The verb: cache, `<run>/prepare.json`, a summary on stdout. Raises DataError when clips cannot be read, CannotWrite."""
    folder.write_text(folder.conf, conf.dump(config))
    provenance.write(folder, config)
    cache = cache_folder(config, folder.root)
    with Stop().listening():  # SIGTERM: what is written so far stays, and a retry goes on from there
        report = build(config, cache, _say, recheck=True)
    folder.write_text(folder.root / "prepare.json", json.dumps(report.to_json(), indent=1) + "\n")
    print("\n".join(report.summary()), flush=True)
    _refuse(config, cache)


def _say(line: str) -> None:
    print(line, flush=True)
