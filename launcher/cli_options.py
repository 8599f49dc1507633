"""Arguments and options that several commands share, as typer reads them from annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import completing
from launcher.errors import UserError, did_you_mean

VERBS = ("prepare", "train", "test", "eval", "fuse", "infer")  # each is `python -m trainer VERB`


def meant(argv: list[str]) -> list[str]:
    """`--dry-run` alone means `--dry-run=client`, as with kubectl; nothing, or a group's name alone, asks for help."""
    if argv in ([], ["sweep"], ["volume"]):
        return [*argv, "--help"]
    return [
        "--dry-run=client"
        if word == "--dry-run" and argv[at + 1 : at + 2] not in (["client"], ["server"])
        else word
        for at, word in enumerate(argv)
    ]


def _verb(value: str) -> str:
    if value not in VERBS:
        raise UserError(
            f'no verb is called "{value}"',
            hint=did_you_mean(value, VERBS) or f"known: {', '.join(VERBS)}",
        )
    return value


def _dry_run(value: str | None) -> str | None:
    if value not in (None, "client", "server"):
        raise UserError(
            f'--dry-run is "{value}"',
            hint="client (only render) or server (ask the API server too)",
        )
    return value


Verb = Annotated[
    str,
    typer.Argument(
        callback=_verb, metavar="VERB", help=" | ".join(VERBS), autocompletion=lambda: list(VERBS)
    ),
]
Conf = Annotated[Path, typer.Argument(metavar="CONF", help="the experiment's conf file")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="a run's name or a unique start of it", autocompletion=completing.runs
    ),
]
MaybeRun = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="a run's name or a unique start of it; the newest of this directory if left out",
        autocompletion=completing.runs,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=v", help="a value that wins over the conf; may be repeated"),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN[@best|@last|@N]",
        help="start from a checkpoint of this run; of a sweep SWEEP@best, SWEEP/7@last",
        autocompletion=completing.sources,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME",
        help="cluster profile (`vidjobs clusters`)",
        autocompletion=completing.clusters,
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAME", help="kube or local, instead of the profile's"),
]
Name = Annotated[str | None, typer.Option("--name", metavar="N", help="instead of the conf's name")]
DryRun = Annotated[
    str | None,
    typer.Option(
        "--dry-run",
        callback=_dry_run,
        metavar="client|server",
        help="show what would be sent; server: and ask it",
    ),
]
Shards = Annotated[
    int | None,
    typer.Option("--shards", min=1, metavar="N", help="of prepare: N pods share the videos"),
]
Trial = Annotated[
    int | None, typer.Option("--trial", min=0, metavar="N", help="of a sweep: this trial alone")
]
Json = Annotated[bool, typer.Option("--json", help="for programs: a stable schema on stdout")]
