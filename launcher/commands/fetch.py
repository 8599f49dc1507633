"""`vidjobs fetch WHAT [RUN]`: results of a run, brought here whole and verified, while it runs or after."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher import output
from launcher.all_backends import for_record
from launcher.backend_base import Files, RemoteFile
from launcher.errors import UserError
from launcher.fetch_choice import INSIDE, WORDS, Which, choose
from launcher.fetching import Fetched, Vanished, fetch_each
from launcher.records import find
from launcher.sweep_view import TrialFiles, folder_of, require_trial, trials_of

_MANIFEST_BYTES = 64 << 20  # more than any has


def _manifest(files: Files) -> dict[str, Any] | None:
    """checkpoints/manifest.json as it is at this moment, in one piece: a run replaces it. None when the run has not written one."""
    found = files.gather([str(INSIDE.manifest)], _MANIFEST_BYTES).get(str(INSIDE.manifest))
    if found is None:
        return None
    try:
        value = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{INSIDE.manifest} on the volume is damaged: {error}", hint="choose by --epochs"
        ) from error
    return value if isinstance(value, dict) else None


def _bring(
    files: Files, wanted: Sequence[RemoteFile], out: Path, *, label: str, quiet: bool
) -> list[Fetched]:
    """Fetch, naming each file on stdout as it becomes whole (`quiet`: none), or after them all where a bar would be in the way.

    Of several files one that a run removes meanwhile, as it does its older states, is left out and said.
    """
    done, gone = [], list[Vanished]()
    bar = sys.stderr.isatty()
    with output.progress(label, sum(file.size for file in wanted)) as step:
        for each in fetch_each(files, wanted, out, step, gone=gone.append):
            done.append(each)
            if not quiet and not bar:
                output.result(str(each.file))
    if bar and not quiet:
        output.result("\n".join(str(each.file) for each in done))
    for vanished in gone:
        if not done:
            raise vanished
        output.warn(vanished.message)
    return done


def _summary(done: Sequence[Fetched]) -> str:
    here = sum(1 for each in done if not each.transferred and each.size)
    size = sum(each.transferred for each in done)
    return f"{output.counted(len(done), 'file')}, {size / 1e6:.1f} MB transferred" + (
        f", {here} here already" if here else ""
    )


def run(
    what: str,
    run: str | None,
    *,
    out: Path | None = None,
    epochs: str | None = None,
    last: bool = False,
    best: bool = False,
    trial: int | None = None,
    as_json: bool = False,
) -> int:
    record = find(run)
    own = Path(record.run)
    if trial is not None:
        require_trial(record, trial)
        own /= folder_of(trial)
    elif what in WORDS and what != "all" and trials_of(record):
        hint = f"--trial N brings those of one; of all: a glob, as 'trials/*/{INSIDE.metrics}'"
        raise UserError(f"{record.run} is a sweep: each trial has {what} of its own", hint=hint)
    target = out if out is not None else own
    with for_record(record).files(record) as folder:
        files = folder if trial is None else TrialFiles(folder, trial)
        listed = files.list()
        which = Which(epochs=epochs or "", last=last, best=best)
        wanted = choose(what, which, listed, _manifest(files) if which.best or which.last else None)
        done = _bring(files, wanted, target, label=record.run, quiet=as_json)
    if as_json:
        output.json_result(
            {
                "run": record.run,
                "out": str(target),
                "files": [{**asdict(each), "file": str(each.file)} for each in done],
            }
        )
    output.note(_summary(done))
    return 0
