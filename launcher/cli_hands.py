"""Commands for hands-on work with runs and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import completing
from launcher.cli_options import Cluster, DryRun, Json, MaybeRun, Name, Sets

app = typer.Typer(rich_markup_mode=None)


@app.command()
def push(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="a file, or a folder whose files go below PATH")
    ],
    to: Annotated[
        str,
        typer.Argument(
            metavar="CLAIM:PATH",
            help="where to; a PATH that ends with / is a folder",
            autocompletion=completing.places,
        ),
    ],
    skip_links: Annotated[
        bool, typer.Option("--skip-links", help="leave links out instead of refusing them")
    ] = False,
    cluster: Cluster = None,
    as_json: Json = False,
) -> int:
    """Bring data onto a volume, verified; run again, it goes on."""
    from launcher.commands import push as command

    return command.run(source, to, cluster=cluster, skip_links=skip_links, as_json=as_json)


@app.command()
def rerun(
    run: MaybeRun = None,
    sets: Sets = None,
    name: Name = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="follow to the end and exit with the job's outcome")
    ] = False,
    dry_run: DryRun = None,
    as_json: Json = False,
) -> int:
    """Start a new run of the same conf, code and image."""
    from launcher.commands import rerun as command

    return command.run(
        run, name=name, sets=sets or [], watch=watch, dry_run=dry_run, as_json=as_json
    )


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="RUN", help="a run", autocompletion=completing.runs)],
    b: Annotated[
        str, typer.Argument(metavar="RUN", help="another", autocompletion=completing.runs)
    ],
    as_json: Json = False,
) -> int:
    """Compare two runs: conf, code, image, environment, results."""
    from launcher.commands import diff as command

    return command.run(a, b, as_json=as_json)


@app.command()
def shell(
    run: MaybeRun = None,
    claim: Annotated[
        str | None,
        typer.Option(
            "--claim",
            metavar="CLAIM",
            help="look at a volume instead of a run",
            autocompletion=completing.claims,
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option("--command", "-c", metavar="COMMAND", help="run this instead of typing"),
    ] = None,
    time: Annotated[
        str,
        typer.Option(
            "--time", metavar="D", help="a pod made for this ends after 30m, 2h; at most 6h"
        ),
    ] = "1h",
    cpu: Annotated[str, typer.Option("--cpu", metavar="N", help="and gets so many cores")] = "1",
    memory: Annotated[str, typer.Option("--memory", metavar="Q", help="so much memory")] = "4Gi",
    gpus: Annotated[
        int, typer.Option("--gpus", min=0, metavar="N", help="so many GPUs, of the run's type")
    ] = 0,
    cluster: Cluster = None,
) -> int:
    """Open a shell in a run's pod, or beside its volumes."""
    from launcher.commands import shell as module

    return module.run(
        run,
        claim=claim,
        command=command,
        time=time,
        cpu=cpu,
        memory=memory,
        gpus=gpus,
        cluster=cluster,
    )


@app.command()
def tensorboard(
    run: MaybeRun = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, metavar="N", help="6006, or any free one"),
    ] = None,
    every: Annotated[
        float,
        typer.Option("--every", min=1, metavar="S", help="seconds between looks for new events"),
    ] = 10,
) -> int:
    """Serve a run's curves on this machine, new ones as they come."""
    from launcher.commands import tensorboard as command

    return command.run(run, port=port, every_s=every)
