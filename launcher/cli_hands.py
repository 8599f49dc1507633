"""Commands for hands-on work with runs and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import completing
from launcher.cli_options import Cluster, Json

app = typer.Typer(rich_markup_mode=None)


@app.command()
def push(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="a file, or a folder whose files go below PATH")],
    to: Annotated[
        str, typer.Argument(metavar="CLAIM:PATH", help="where to; a PATH that ends with / is a folder", autocompletion=completing.claims)
    ],
    skip_links: Annotated[bool, typer.Option("--skip-links", help="leave links out instead of refusing them")] = False,
    cluster: Cluster = None,
    as_json: Json = False,
) -> int:
    """Bring data onto a volume, verified; run again, it goes on."""
    from launcher.commands import push as command

    return command.run(source, to, cluster=cluster, skip_links=skip_links, as_json=as_json)
