"""`python -m trainer VERB --conf F --run DIR [--trials FILE] [a.b=v]...`: parse, check the conf, run one verb, end with its exit code.

Each verb is the module of its name with `run(config, folder)`; it is imported only when chosen, so that `check`
and `models` need no torch.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from trainer import check, ending, meeting, models_list, trials, webhook
from trainer.errors import CannotWrite, ConfFault, Fault, NotOurs
from trainer.run_folder import RunFolder
from trainer.stopping import Stop

VERBS = {
    "prepare": "read every clip once, report what is damaged, write the cache that training reads",
    "train": "train, and go on from the last checkpoint when there is one",
    "test": "metrics of a range of epochs",
    "eval": "predictions, figures and tables of one checkpoint",
    "fuse": "late fusion of the scores of several eval runs, as RGB and flow",
    "infer": "what a checkpoint says about videos, a webcam or frames on stdin",
}


class Parser(argparse.ArgumentParser):
    """Usage errors end with the conf's exit code, like every other fault of what was asked for."""

    def error(self, message: str) -> NoReturn:
        raise ConfFault([Fault(path="", message=message, hint=f"see `{self.prog} --help`")])


def main(argv: Sequence[str]) -> int:
    """Run one verb; returns the exit code (trainer/errors.py)."""
    try:
        arguments = _parser().parse_args(argv)
    except ConfFault as error:
        return _end(error, None)
    # Torch's threads spin while they wait. Beside one other busy program that cost five sixths of
    # the speed (39 clips/s fell to 6;
    # with passive waiting to 19), and on a quota it burns the quota. Before torch is imported,
    # since libgomp reads it once.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    folder = RunFolder(arguments.run) if "run" in arguments else None
    changes: Mapping[str, Any] = {}
    try:
        if arguments.verb == "models":
            return models_list.run(arguments.name, as_json=arguments.json)
        if folder is None:
            return check.run(
                arguments.conf,
                arguments.overrides,
                verb=arguments.for_verb,
                as_json=arguments.json,
                trials=arguments.trials,
            )
        if arguments.trials is not None:
            trial = trials.choose(arguments.trials, arguments.index, os.environ)
            folder, changes = folder.of_trial(trial.number), trial.changes
            trials.begin(trial, folder)
        # torch.hub's, which models/download.py keeps, too
        os.environ.setdefault("TORCH_HOME", str(folder.weights_cache))
        # from here on a SIGTERM is heard: torch takes seconds to import, and PID 1 of a container
        # would not even notice it
        with Stop().listening():
            config = check.load(
                arguments.conf, arguments.overrides, verb=arguments.verb, changes=changes
            )
            importlib.import_module(f"trainer.{arguments.verb}").run(config, folder)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the top: every ending gets its exit code and its message
        return _end(error, folder, arguments.verb)
    _tell_ending(ending.message("done", 0, "", folder.manifest), folder, arguments.verb)
    return 0


def _end(error: BaseException, folder: RunFolder | None, verb: str = "") -> int:
    cause, code = ending.classify(error)
    text = str(error) or type(error).__name__
    if cause == "bug":
        text = f"{type(error).__name__}: {text}"
        traceback.print_exception(error)
    report = "\n".join(f"error: {line}" for line in text.splitlines())
    print(report, file=sys.stderr, flush=True)
    if folder is not None:
        ours = not isinstance(error, NotOurs)
        if ours and meeting.leads(os.environ):  # of several nodes one writes
            _log(folder, report)
        _tell_ending(ending.message(cause, code, text, folder.manifest), folder, verb, ours=ours)
    return code


def _tell_ending(
    message: dict[str, Any], folder: RunFolder, verb: str, *, ours: bool = True
) -> None:
    """To Kubernetes, of a trial to the folder that outlives its pod, and to the user's webhook."""
    whole = message if folder.trial is None else message | {"trial": folder.trial}
    ending.write(whole)
    if meeting.leads(os.environ):
        webhook.tell(whole, verb=verb, manifest=folder.manifest, environ=os.environ)
    if folder.trial is not None and ours:
        with suppress(CannotWrite):  # the exit code still says it
            trials.end(message, folder)


def _log(folder: RunFolder, report: str) -> None:
    try:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(report + "\n")
    except OSError:
        pass  # the folder may be the very thing that cannot be written; stderr has it


def _parser() -> Parser:
    parser = Parser(
        prog="python -m trainer",
        description="Train, test and evaluate video action-recognition models.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.add_argument(
            "--conf",
            type=Path,
            required=True,
            metavar="FILE",
            help="flat conf (`vidjobs conf` prints one)",
        )
        verb.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
        verb.add_argument(
            "--trials",
            type=Path,
            metavar="FILE",
            help="a sweep's trials: run the one that --index names, in DIR/trials/N",
        )
        verb.add_argument(
            "--index", type=int, metavar="N", help="which trial; JOB_COMPLETION_INDEX if left out"
        )
        verb.add_argument(
            "overrides", nargs="*", metavar="a.b=v", help="settings that win over the conf"
        )
    verb = verbs.add_parser("check", help="every fault of a conf, without torch")
    verb.add_argument("--conf", type=Path, required=True, metavar="FILE")
    verb.add_argument(
        "--verb",
        choices=list(VERBS),
        default="train",
        dest="for_verb",
        help="what the conf is for; train if left out",
    )
    verb.add_argument(
        "--trials",
        type=Path,
        metavar="FILE",
        help="check what each of a sweep's trials makes of the conf",
    )
    verb.add_argument("--json", action="store_true", help="faults and defaults for programs")
    verb.add_argument("overrides", nargs="*", metavar="a.b=v")
    verb = verbs.add_parser("models", help="the networks, their options and published weights")
    verb.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="one of them, with where its published weights are",
    )
    verb.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if "torch" not in sys.modules:
        # a check ends at once: to look for garbage before its memory is given back takes a tenth of
        # its time
        gc.freeze()
    sys.exit(code)
