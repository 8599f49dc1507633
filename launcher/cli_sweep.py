"""`vidjobs sweep ...`: many trials of one conf, as one Job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.cli_options import (
    BackendName,
    Cluster,
    Conf,
    DryRun,
    Json,
    MaybeRun,
    Name,
    Sets,
    Source,
    Verb,
)

app = typer.Typer(
    help="Many trials of one conf, as one Job: a grid, a list, random samples.",
    rich_markup_mode=None,
)


@app.command()
def submit(
    verb: Verb,
    conf: Conf,
    sets: Sets = None,
    source: Source = None,
    backend: BackendName = None,
    cluster: Cluster = None,
    name: Name = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="show the trials to the end and exit with the sweep's outcome"
        ),
    ] = False,
    dry_run: DryRun = None,
    as_json: Json = False,
) -> int:
    """Submit all trials of CONF's `sweep:` as one Job, each checked before."""
    from launcher.trainer_process import Checking

    trainer = Checking(verb, trials=True)  # starts while the rest is imported
    from launcher.commands import submit as command

    return command.run(
        verb,
        conf,
        sets=sets or [],
        source=source,
        backend=backend,
        cluster=cluster,
        name=name,
        sweep=True,
        watch=watch,
        dry_run=dry_run,
        as_json=as_json,
        trainer=trainer,
    )


@app.command()
def status(
    run: MaybeRun = None,
    watch: Annotated[bool, typer.Option("--watch", help="refresh until the sweep ends")] = False,
    as_json: Json = False,
) -> int:
    """Show each trial: what it changes, what it does, how far and how good it is, and why it failed."""
    from launcher.commands import sweep as command

    return command.status(run, watch=watch, as_json=as_json)


@app.command()
def results(
    run: MaybeRun = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="where the CSV goes; stdout if left out"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="METRIC", help="the best trials of this metric first"),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            "--heatmap", metavar="FILE", help="draw two keys against the metric: .png, .svg"
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            metavar="KEY,KEY",
            help="of the heat map: across and down; the two that vary if left out",
        ),
    ] = None,
) -> int:
    """Write what each trial changed, and the metrics of its best checkpoint, as CSV."""
    from launcher.commands import sweep as command

    return command.results(run, out=out, by=by, heatmap=heatmap, axes=axes)
