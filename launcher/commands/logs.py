"""`vidjobs logs`: a run's lines, or an old log file's: filtered, parsed, drawn; and `follow`, which `submit --watch` shares."""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from launcher import all_backends, output
from launcher.backend_base import Backend, LogLine, Phase, RunStatus
from launcher.conf.units import Seconds, of_option
from launcher.errors import INTERRUPTED, ClusterError, JobFailed, UserError, did_you_mean
from launcher.log_view import LogOptions, LogView
from launcher.records import RunRecord, find
from launcher.run_view import remember
from launcher.sweep_view import require_trial, trials_of

_WAITING = (Phase.PENDING, Phase.STARTING, Phase.RETRYING)
_FIRST_LOOK_S, _LOOK_EVERY_S = 1.0, 3.0
_END_WAIT_S = 30.0  # the Job's own status follows its pod's end a little later


def follow(record: RunRecord, backend: Backend, options: LogOptions | None = None) -> int:
    """Show the run's lines until it ends. Returns 0 when it succeeded, 4 when it did not, 130 when the person stopped watching.

    Raises ClusterError when the log ends although the run goes on.
    """
    view = LogView(options=options or LogOptions(follow=True), title=record.run)
    try:
        with _causes(record, backend):
            _stream(view, record, backend)
            ended = _outcome(record, backend, view.options.index)
            remember(record, ended)
    except KeyboardInterrupt:
        _finish_quietly(view)
        output.note(f"stopped watching; {record.run} goes on")
        output.note(
            f"`vidjobs logs {record.run} -f` shows it again, `vidjobs cancel {record.run}` stops it"
        )
        return INTERRUPTED
    except output.ReaderLeft:
        _finish_quietly(view)
        raise
    _finish_quietly(view)
    return _tell(ended) if view.options.index is None else _tell_trial(ended, view.options.index)


def _stream(view: LogView, record: RunRecord, backend: Backend) -> None:
    options = view.options
    lines = backend.logs(
        record,
        follow=options.follow,
        since_s=options.since_s,
        tail=options.tail,
        all_pods=options.all_pods,
        index=options.index,
        wanted=view.wanted,
    )
    for line in lines:
        view.feed(line)


def _finish_quietly(view: LogView) -> None:
    """The end of a followed log: a plot that cannot be drawn does not change how the run ended."""
    try:
        view.finish()
    except UserError as error:
        output.warn(error.message)


@contextmanager
def _causes(record: RunRecord, backend: Backend) -> Iterator[None]:
    """Meanwhile, says once per change why the run does not run. A thread, since waiting for the next line blocks."""
    stop = threading.Event()
    thread = threading.Thread(target=_say_causes, args=(record, backend, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=_LOOK_EVERY_S)


def _say_causes(record: RunRecord, backend: Backend, stop: threading.Event) -> None:
    said = ""
    wait = 0.0
    while not stop.wait(wait):
        wait = _LOOK_EVERY_S if wait else _FIRST_LOOK_S
        try:
            status = backend.status(record)
        except ClusterError:
            continue  # the log reader meets the same cut, and reports it
        now = _waiting(status) if status.phase in _WAITING else ""
        if now and now != said and not stop.is_set():
            output.note(now)
        said = now


def _waiting(status: RunStatus) -> str:
    if not status.cause:
        return "" if status.phase is Phase.STARTING else f"{status.run} is {status.phase}"
    return f"{status.run} is {status.phase}: {status.cause}" + (
        f" ({status.fix})" if status.fix else ""
    )


def _outcome(record: RunRecord, backend: Backend, index: int | None) -> RunStatus:
    """The status after the last line; waits a little for the run's own end to be known, or its trial's."""
    pause = threading.Event()
    status = backend.status(record)
    waited = 0.0
    while not _over(status, index) and waited < _END_WAIT_S:
        pause.wait(0.5)
        waited += 0.5
        status = backend.status(record)
    return status


def _over(status: RunStatus, index: int | None) -> bool:
    known = None if index is None else status.indexes.get(index)
    return status.phase.ended or (known is not None and known.phase.ended)


def _tell(status: RunStatus) -> int:
    if status.phase is Phase.SUCCEEDED:
        output.note(f"{status.run} succeeded")
        return 0
    if not status.phase.ended:
        raise ClusterError(
            f"the log of {status.run} ended, but the run is still {status.phase}",
            hint=f"vidjobs status {status.run} --watch",
        )
    cause = f": {status.cause}" if status.cause else ""
    output.error(f"{status.run} {status.phase.told}{cause}", status.fix)
    return JobFailed.exit_code


def _tell_trial(status: RunStatus, index: int) -> int:
    known = status.indexes.get(index)
    phase = known.phase if known else status.phase
    if known and phase is Phase.SUCCEEDED:
        output.note(f"trial {index} of {status.run} succeeded")
        return 0
    cause = f": {known.cause}" if known and known.cause else ""
    output.error(
        f"trial {index} of {status.run} {phase.told}{cause}", f"vidjobs sweep status {status.run}"
    )
    return JobFailed.exit_code


def _patterns(words: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    patterns = []
    for word in words:
        try:
            patterns.append(re.compile(word))
        except re.error as error:
            at = error.pos or 0
            message = f"--grep is not a regular expression: {error.msg} at position {at}\n  {word}\n  {' ' * at}^"
            raise UserError(
                message,
                hint="put a backslash before ( [ { * + ? . | ^ $ to mean the character itself",
            ) from error
    return tuple(patterns)


def _plot_path(path: Path | None) -> Path | None:
    """The file to draw to, checked before any line is read."""
    if path is None:
        return None
    if path.suffix.lower() not in (".svg", ".png"):
        raise UserError(
            f'--plot draws .svg and .png files, not "{path}"',
            hint=f"--plot {path.with_suffix('.svg')}" if path.name else "",
        )
    if not path.parent.is_dir():
        raise UserError(
            f"--plot {path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}"
        )
    return path


def _since(text: str | None) -> int | None:
    return None if text is None else int(of_option("--since", Seconds.parse, text))


def _check_together(
    run: str | None, file: Path | None, style: str | None, options: LogOptions
) -> None:
    if style not in (None, "classic"):
        raise UserError(
            f'--format knows "classic", not "{style}"', hint=did_you_mean(style or "", ["classic"])
        )
    if style and options.as_json:
        raise UserError(
            "--format classic and --json are two forms of the same records",
            hint="leave one of them out",
        )
    if file is None:
        return
    chosen = {
        f"RUN ({run})": run is not None,
        "--follow": options.follow,
        "--since": options.since_s is not None,
        "--all-pods": options.all_pods,
        "--trial": options.index is not None,
        "--timestamps": options.timestamps,
    }
    extra = ", ".join(name for name, given in chosen.items() if given)
    if extra:
        raise UserError(
            f"--file reads a finished log, which has no {extra}",
            hint=f"leave out --file, or {extra}",
        )


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}",
            hint="--file takes a saved log, or - for stdin",
        ) from error
    with stream:
        yield stream


def _show_file(file: Path, options: LogOptions) -> int:
    """Bytes that are not UTF-8 are replaced; the last line may lack its newline."""
    view = LogView(options=options, title="stdin" if str(file) == "-" else file.name)
    with _opened(file) as stream:
        numbered = enumerate(stream, 1)
        for number, raw in (
            numbered if options.tail is None else deque(numbered, maxlen=options.tail)
        ):
            view.reader.lines = number - 1
            text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
            view.feed(
                LogLine(
                    pod="",
                    text=text.removesuffix("\n").removesuffix("\r"),
                    terminated=raw.endswith(b"\n"),
                )
            )
    view.finish()
    return 0


def _show_run(record: RunRecord, options: LogOptions) -> int:
    """Showing the log is all that was asked, so a run that fails does not make this fail."""
    backend = all_backends.for_record(record)
    if options.follow:
        return INTERRUPTED if follow(record, backend, options) == INTERRUPTED else 0
    view = LogView(options=options, title=record.run)
    _stream(view, record, backend)
    if not view.reader.lines:
        _tell_empty(backend.status(record))
    view.finish()
    return 0


def _tell_empty(status: RunStatus) -> None:
    output.note(f"no line to show: {_waiting(status) or f'{status.run} is {status.phase}'}")
    if status.phase is Phase.GONE:
        output.note(f"its folder may still hold the log: vidjobs fetch logs {status.run}")


def run(
    run: str | None,
    *,
    grep: list[str],
    follow: bool,
    since: str | None,
    tail: int | None,
    all_pods: bool,
    trial: int | None = None,
    timestamps: bool,
    parse: bool,
    style: str | None,
    as_json: bool,
    plot: Path | None,
    file: Path | None,
) -> int:
    """Show the log of `run` (None: the newest from here) or of `file`."""
    options = LogOptions(
        grep=_patterns(grep),
        follow=follow,
        since_s=_since(since),
        tail=tail,
        all_pods=all_pods,
        index=trial,
        timestamps=timestamps,
        parse=parse or style is not None,
        classic=style == "classic",
        as_json=as_json,
        plot=_plot_path(plot),
        silent=plot is not None and not (grep or follow or parse or style or as_json),
    )
    _check_together(run, file, style, options)
    if file is not None:
        return _show_file(file, options)
    record = find(run)
    if trial is not None:
        require_trial(record, trial)
    elif not all_pods and trials_of(record):
        output.note(
            "of a sweep this is the newest trial's log: --trial N shows another's, --all-pods all"
        )
    return _show_run(record, options)
