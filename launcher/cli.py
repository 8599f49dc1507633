"""The `vidjobs` command: parse, call one function of `commands/`, give its exit code.

Each verb imports its own module when it is chosen, so that `--help` stays light.
"""

from __future__ import annotations

import copy
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from launcher import cli_sweep, completing, output
from launcher.cli_errors import told
from launcher.cli_hands import app as hands_on
from launcher.cli_options import (
    BackendName,
    Cluster,
    Conf,
    DryRun,
    Json,
    MaybeRun,
    Name,
    Run,
    Sets,
    Shards,
    Source,
    Trial,
    Verb,
    meant,
)
from launcher.errors import INTERRUPTED, UserError
from launcher.version import VERSION

app = typer.Typer(
    name="vidjobs",
    help="Train video action-recognition models as jobs: one conf, one command, losses and checkpoints back.",
    epilog="Without a cluster, jobs run on this machine. Start with: vidjobs init",
    add_completion=False,  # `vidjobs completion` prints the script
    rich_markup_mode=None,  # rich costs more than all the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
volume_app = typer.Typer(help="Claims that hold runs and data.", rich_markup_mode=None)
app.add_typer(volume_app, name="volume")
app.add_typer(hands_on)
app.add_typer(cli_sweep.app, name="sweep")


def _show_version(wanted: bool) -> None:
    if wanted:
        output.result(f"vidjobs {VERSION}")
        raise typer.Exit


@app.callback()
def _global(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="the version, and stop"
        ),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=None)
def submit(
    verb: Verb,
    conf: Conf,
    sets: Sets = None,
    source: Source = None,
    backend: BackendName = None,
    cluster: Cluster = None,
    name: Name = None,
    shards: Shards = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="follow to the end and exit with the job's outcome")
    ] = False,
    dry_run: DryRun = None,
    as_json: Json = False,
) -> int:
    """Render a Job from CONF and submit it."""
    from launcher.trainer_process import Checking

    trainer = Checking(verb)  # starts while the rest is imported
    from launcher.commands import submit as command

    return command.run(
        verb,
        conf,
        sets=sets or [],
        source=source,
        backend=backend,
        cluster=cluster,
        name=name,
        shards=shards,
        watch=watch,
        dry_run=dry_run,
        as_json=as_json,
        trainer=trainer,
    )


@app.command()
def render(
    verb: Verb,
    conf: Conf,
    sets: Sets = None,
    source: Source = None,
    backend: BackendName = None,
    cluster: Cluster = None,
    name: Name = None,
    shards: Shards = None,
) -> int:
    """Print the manifests exactly as submit sends them."""
    from launcher.commands import render as command

    return command.run(
        verb,
        conf,
        sets=sets or [],
        source=source,
        backend=backend,
        cluster=cluster,
        name=name,
        shards=shards,
    )


@app.command()
def conf(
    conf: Conf,
    sets: Sets = None,
    cluster: Cluster = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="which layer, file and line set each value")
    ] = False,
    as_json: Json = False,
) -> int:
    """Print the resolved, flat conf."""
    from launcher.commands import conf as command

    return command.run(conf, sets=sets or [], cluster=cluster, explain=explain, as_json=as_json)


@app.command()
def lint(
    conf: Annotated[Path | None, typer.Argument(metavar="CONF", help="a conf file")] = None,
    sets: Sets = None,
    cluster: Cluster = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="list the cluster's rules: id, reason, fix, source")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check CONF and the site's rules, offline, all at once."""
    from launcher.commands import lint as command

    if rules:
        return command.show_rules(cluster=cluster, as_json=as_json)
    if conf is None:
        raise UserError("which conf?", hint="vidjobs lint CONF, or vidjobs lint --rules")
    return command.run(conf, sets=sets or [], cluster=cluster, as_json=as_json)


@app.command()
def status(
    run: MaybeRun = None,
    watch: Annotated[bool, typer.Option("--watch", help="refresh until the run ends")] = False,
    as_json: Json = False,
) -> int:
    """Show what runs do, how far they are, and why they wait."""
    from launcher.commands import status as command

    return command.run(run, watch=watch, as_json=as_json)


@app.command()
def logs(
    run: MaybeRun = None,
    grep: Annotated[
        list[str] | None,
        typer.Option(
            "--grep", metavar="RE", help="only lines that match; may be repeated (any matches)"
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until the run ends")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="D", help="only newer than 30s, 10m, 2h, 1d")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, metavar="N", help="only the last N lines")
    ] = None,
    all_pods: Annotated[
        bool, typer.Option("--all-pods", help="every attempt and pod, merged by time")
    ] = False,
    trial: Trial = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="each line's time, UTC")] = False,
    parse: Annotated[bool, typer.Option("--parse", help="losses as records")] = False,
    style: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="classic",
            help="with --parse: bare `train Loss: x` lines for old notebooks",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="draw the losses to a .svg or .png file"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="read an old log instead of a run's; - is stdin"
        ),
    ] = None,
) -> int:
    """Stream a log, filter it, parse its losses, draw them."""
    from launcher.commands import logs as command

    return command.run(
        run,
        grep=grep or [],
        follow=follow,
        since=since,
        tail=tail,
        all_pods=all_pods,
        trial=trial,
        timestamps=timestamps,
        parse=parse,
        style=style,
        as_json=as_json,
        plot=plot,
        file=file,
    )


@app.command()
def fetch(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="checkpoints predictions metrics logs figures report all, or a glob in the run folder",
            autocompletion=completing.what,
        ),
    ],
    run: MaybeRun = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="where to; ./RUN if left out")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="3,10-20", help="which checkpoints")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="only the last checkpoint")] = False,
    best: Annotated[bool, typer.Option("--best", help="only the best checkpoint")] = False,
    trial: Trial = None,
    as_json: Json = False,
) -> int:
    """Bring results back, verified, during a run or after it."""
    from launcher.commands import fetch as command

    return command.run(
        what, run, out=out, epochs=epochs, last=last, best=best, trial=trial, as_json=as_json
    )


@app.command()
def cancel(run: Run) -> int:
    """Stop a run and keep its state."""
    from launcher.commands import cancel as command

    return command.run(run)


@app.command()
def resume(run: Run) -> int:
    """Go on from the run's last checkpoint."""
    from launcher.commands import resume as command

    return command.run(run)


@app.command()
def delete(
    run: Run,
    files: Annotated[bool, typer.Option("--files", help="its folder on the volume too")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> int:
    """Remove a run's objects, and with --files its results."""
    from launcher.commands import delete as command

    return command.run(run, files=files, yes=yes)


@volume_app.command("create")
def volume_create(
    claim: Annotated[str, typer.Argument(metavar="CLAIM")],
    size: Annotated[str, typer.Option("--size", metavar="Q", help="50Gi, 1Ti")] = "50Gi",
    access: Annotated[
        str, typer.Option("--access", metavar="MODE", help="ReadWriteMany or ReadWriteOnce")
    ] = "ReadWriteMany",
    storage_class: Annotated[
        str,
        typer.Option("--class", metavar="NAME", help="storage class; the profile's if left out"),
    ] = "",
    cluster: Cluster = None,
) -> int:
    """Create a claim."""
    from launcher.commands import volume as command

    return command.create(
        claim, size=size, access=access, storage_class=storage_class, cluster=cluster
    )


@volume_app.command("ls")
def volume_ls(
    claim: Annotated[
        str | None, typer.Argument(metavar="[CLAIM]", autocompletion=completing.claims)
    ] = None,
    path: Annotated[str, typer.Argument(metavar="[PATH]")] = "",
    cluster: Cluster = None,
    as_json: Json = False,
) -> int:
    """The claims, or the files on one."""
    from launcher.commands import volume as command

    return command.ls(claim, path, cluster=cluster, as_json=as_json)


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", autocompletion=completing.runs)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR")] = Path(),
) -> int:
    """Write one self-contained HTML page about runs."""
    from launcher.commands import report as command

    return command.run(runs or [], out=out)


@app.command()
def doctor(cluster: Cluster = None, as_json: Json = False) -> int:
    """Check this machine, the cluster, and your rights there."""
    from launcher.commands import doctor as command

    return command.run(cluster=cluster, as_json=as_json)


@app.command()
def rbac(
    features: Annotated[
        list[str] | None, typer.Argument(metavar="[FEATURE]...", help="only these blocks")
    ] = None,
    cluster: Cluster = None,
) -> int:
    """Print the Role that vidjobs needs, and no more."""
    from launcher.commands import rbac as command

    return command.run(cluster=cluster, features=features or [])


@app.command()
def init(
    cluster: Cluster = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a conf that is there")] = False,
) -> int:
    """Write a starter conf here, and remember the cluster."""
    from launcher.commands import init as command

    return command.run(cluster=cluster, force=force)


@app.command()
def clusters(as_json: Json = False) -> int:
    """List the cluster profiles."""
    from launcher.commands import clusters as command

    return command.run(as_json=as_json)


@app.command()
def models(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="one of them, with its published weights",
            autocompletion=completing.models,
        ),
    ] = "",
    as_json: Json = False,
) -> int:
    """List the networks and their options; with NAME, also where its published weights are and how to use them."""
    from launcher.commands import models as command

    return command.run(name, as_json=as_json)


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish")] = "bash") -> int:
    """Print a completion script, for eval in your shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer's, only not re-exported by name

    if shell not in ("bash", "zsh", "fish"):
        raise UserError(f'no completion for the shell "{shell}"', hint="bash, zsh or fish")
    # an @ ends a word there, and RUN@best would not complete
    words = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@/}\n" if shell == "bash" else ""
    output.result(
        words
        + get_completion_script(prog_name="vidjobs", complete_var="_VIDJOBS_COMPLETE", shell=shell)
    )
    return 0


def main() -> NoReturn:
    """Run one command and exit with its code."""
    if "_VIDJOBS_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # typer's, only not re-exported by name

        completion_init()
    code = run(sys.argv[1:])
    # the process gives all its memory back at once: to look it over for garbage before takes a
    # tenth of a command's time
    gc.freeze()
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command; every ending becomes an exit code and a message for a person."""
    try:
        return _app_of(argv)(args=meant(argv), prog_name="vidjobs", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        output.note("interrupted")
        return INTERRUPTED
    except output.ReaderLeft:
        return 0
    except Exception as error:  # noqa: BLE001  the top: each gets its message and its code
        return told(error)


def _app_of(argv: list[str]) -> typer.Typer:
    """All commands, or of them only the one that `argv` begins with: typer takes 20 ms to make parsers for the others."""
    word = argv[0] if argv else ""
    every = [*app.registered_commands, *hands_on.registered_commands]
    commands = [each for each in every if each.callback and each.callback.__name__ == word]
    groups = [each for each in app.registered_groups if each.name == word]
    if not commands and not groups:
        return app
    only = copy.copy(app)
    only.registered_commands, only.registered_groups = commands, groups
    return only
