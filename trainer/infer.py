"""`infer`: what a checkpoint says about videos, a webcam or frames on stdin, window by window.

    frames ->  resampled, kept as small as the checkpoint wants  ->  windows of a clip's length  ->  scores  ->  JSON lines, labelled video

Writes predictions/infer.jsonl, a line for each window as it is answered, then one for the whole video, the mean of its windows' scores:

    {"input": "a.mp4", "kind": "window", "start": 0, "frames": 32, "from": 0.0, "to": 1.07, "top": [{"label": "walking", "score": 0.81}]}
    {"input": "a.mp4", "kind": "video", "windows": 9, "seconds": 9.6, "labelled": "a-labelled.mp4", "top": [...]}
    {"input": "b.mp4", "kind": "error", "message": "..."}     the others are still answered
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from trainer import asking, overlay, provenance
from trainer import config as conf
from trainer.asking import Asked
from trainer.config import Config
from trainer.errors import DataError, TryAgain
from trainer.infer_inputs import Input, expand, open_frames
from trainer.lock import hold
from trainer.run_folder import RunFolder, writing
from trainer.scoring import finish
from trainer.stopping import Stop
from trainer.windows import Window, colours, flows, windows

AT_ONCE = 4  # windows of a file that are answered together
Top = list[tuple[str, float]]


def run(config: Config, folder: RunFolder) -> None:
    """The verb. Raises ConfFault, CannotWrite, DataError when an input could not be read, and TryAgain on SIGTERM."""
    inputs = expand(config.infer.input)
    if config.infer.window:
        overlay.require_display()
    with Stop().listening() as stop, hold(folder):
        folder.require_writable()
        folder.write_text(folder.conf, conf.dump(config))
        provenance.write(folder, config)
        asked = asking.open_checkpoint(config)
        if asked.data.stream == "flow":
            print(_flow_note(config, asked), flush=True)
        lines = folder.predictions / "infer.jsonl"
        with writing(lines):
            folder.predictions.mkdir(parents=True, exist_ok=True)
            with lines.open("w", encoding="utf-8") as sink:
                films = [
                    folder.predictions / name if config.infer.overlay else None
                    for name in film_names(inputs)
                ]
                watched = [
                    _Watch(asked, config, source, film, sink, stop)
                    for source, film in zip(inputs, films, strict=True)
                ]
                failed = [watch.source.name for watch in watched if not watch.tell()]
        finish(
            folder,
            "infer",
            {"checkpoint": config.model.init, "inputs": len(inputs), "unreadable": failed},
        )
    if failed:
        raise DataError(
            f"{len(failed)} of {len(inputs)} inputs could not be read to their end: {', '.join(failed)}",
            hint=f"see {lines}",
        )


def _flow_note(config: Config, asked: Asked) -> str:
    """How flow is made, and what a checkpoint does not know of the images that it learnt from."""
    made, rate, side = asked.flow, asked.data.fps, config.infer.short_side
    how = f"{made.flow_method}, gap {made.flow_gap}, full at {made.flow_bound} px"
    frames = f"{f'{rate:g} frames a second' if rate else 'every frame'}{f' of {side} px' if side else ''}"
    keys = (
        "infer.fps and infer.short_side"
        if asked.flow_known
        else "prepare.flow_*, infer.fps and infer.short_side"
    )
    return f"note: flow is computed from {frames} ({how}): {keys} must be those of the training's"


@dataclass
class _Watch:
    """One input being looked at."""

    asked: Asked
    config: Config
    source: Input
    film: Path | None  # where the labelled video goes
    sink: TextIO
    stop: Stop
    scores: list[NDArray[np.float32]] = field(default_factory=list)  # of each window so far
    seconds: float = 0.0

    def tell(self) -> bool:
        """Answer the whole input; False when it could not be read to its end. What was read before the damage counts."""
        fault = ""
        with ExitStack() as open_things:
            film = open_things.enter_context(overlay.Film(self.film)) if self.film else None
            screen = overlay.Window(self.source.name) if self.config.infer.window else None
            if screen:
                open_things.callback(screen.close)
            try:
                for window, top in self._answers():
                    if not _draw(window, top, film, screen):
                        break
            except DataError as error:
                fault = str(error)
        if self.scores:
            mean = np.mean(self.scores, axis=0)
            facts = {
                "windows": len(self.scores),
                "seconds": round(self.seconds, 3),
                "labelled": self.film.name if self.film else None,
            }
            self._write("video", facts, self._top(mean))
        if fault:
            self.sink.write(
                json.dumps({"input": self.source.name, "kind": "error", "message": fault}) + "\n"
            )
            print(f"{self.source.name}: {fault}", flush=True)
        return not fault

    def _answers(self) -> Iterator[tuple[Window, Top]]:
        """Every window with its classes, as soon as it is complete where the input is live."""
        waiting: list[Window] = []
        for window in self._windows():
            if self.stop.requested:
                raise TryAgain("stopped; a retry starts over")
            waiting.append(window)
            if len(waiting) == (1 if self.source.live else AT_ONCE):
                yield from self._answer(waiting)
                waiting = []
        if waiting:
            yield from self._answer(waiting)

    def _windows(self) -> Iterator[Window]:
        data, most = self.asked.data, self.config.infer.max_windows
        shown = open_frames(self.source, self.config.infer, fps=data.fps)
        side = self.config.infer.short_side
        frames = (
            flows(shown, data, self.asked.flow, short_side=side)
            if data.stream == "flow"
            else colours(shown)
        )
        drawn = self.config.infer.overlay or self.config.infer.window
        every = windows(
            frames,
            data,
            step=self.config.infer.step or self.asked.span,
            shrink=overlay.shrink if drawn else None,
        )
        for number, window in enumerate(every):
            if most and number == most:
                return
            yield window

    def _answer(self, waiting: list[Window]) -> Iterator[tuple[Window, Top]]:
        scores = self.asked.answer([window.clip for window in waiting])
        for window, own in zip(waiting, scores, strict=True):
            self.scores.append(own)
            self.seconds = max(self.seconds, window.until)
            top = self._top(own)
            facts = {
                "start": window.start,
                "frames": window.frames,
                "from": round(window.since, 3),
                "to": round(window.until, 3),
            }
            self._write("window", facts, top)
            yield window, top

    def _top(self, scores: NDArray[np.float32]) -> Top:
        """The likeliest classes; equal scores in the order of the classes."""
        best = np.argsort(-scores, kind="stable")[: self.config.infer.top]
        return [(self.asked.classes[place], float(scores[place])) for place in best.tolist()]

    def _write(self, kind: str, facts: dict[str, Any], top: Top) -> None:
        row = {
            "input": self.source.name,
            "kind": kind,
            **facts,
            "top": [{"label": label, "score": round(score, 6)} for label, score in top],
        }
        self.sink.write(json.dumps(row) + "\n")
        self.sink.flush()
        when = f"{facts['from']:.2f}-{facts['to']:.2f} s" if kind == "window" else "as a whole"
        print(
            f"{self.source.name} {when}: {', '.join(f'{label} {score:.2f}' for label, score in top)}",
            flush=True,
        )


def _draw(
    window: Window, top: Top, film: overlay.Film | None, screen: overlay.Window | None
) -> bool:
    """Put the answer on the frames that no window before it had; False when the user closed the live window."""
    rate = overlay.rate_of([seconds for _, seconds in window.fresh])
    for image, seconds in window.fresh:
        drawn = overlay.draw(image, top)
        if film:
            film.add(drawn, seconds)
        if screen and not screen.show(drawn, rate):
            return False
    return True


def film_names(inputs: Sequence[Input]) -> list[str]:
    """The labelled video of each input: <name>-labelled.mp4, numbered where several inputs have one name."""
    names: list[str] = []
    for source in inputs:
        tried = (
            f"{source.stem}{again}-labelled.mp4"
            for again in itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        )
        names.append(next(name for name in tried if name not in names))
    return names
