"""`vidjobs push SRC CLAIM:PATH`: data onto a claim, verified, and resumed where a cut or an earlier push left off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from launcher import output
from launcher.all_backends import for_profile
from launcher.errors import UserError
from launcher.profiles import choose
from launcher.push_source import LocalFile, one_file, tree
from launcher.pushing import Push, Pushed

_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _place(to: str) -> tuple[str, str]:
    """(claim, path) of CLAIM:PATH; the path without . and .. and without a leading /."""
    claim, colon, path = to.partition(":")
    if not colon or not _CLAIM.fullmatch(claim):
        raise UserError(
            f'"{to}" is not CLAIM:PATH',
            hint="for example data:TinyVIRAT; `vidjobs volume ls` lists the claims",
        )
    parts = path.split("/")
    if ".." in parts or "\\" in path or not path.isprintable():
        raise UserError(
            f'"{path}" is not a path on a claim', hint="name it from the claim's top, without .."
        )
    kept = "/".join(part for part in parts if part not in ("", "."))
    return claim, f"{kept}/" if kept and path.endswith("/") else kept


def _sources(source: Path, path: str, *, skip_links: bool) -> tuple[Sequence[LocalFile], str, str]:
    """(files, folder of the claim, the only name): a folder's files go below PATH; a file becomes PATH, or goes into PATH/."""
    if not source.exists():
        raise UserError(
            f"{source} does not exist", hint="SRC is a file or a folder of this machine"
        )
    if source.is_dir():
        files = tree(source, skip_links=skip_links)
        if not files:
            raise UserError(
                f"{source} holds no files",
                hint="SRC is a file, or a folder with files in it or below it",
            )
        return files, path.rstrip("/"), ""
    folder, _, name = path.rpartition("/")
    file = one_file(source, name or source.name)
    return [file], folder, file.path


def _summary(done: Pushed) -> str:
    there = f", {done.there} there already" if done.there else ""
    cuts = f", after {output.counted(done.cuts, 'cut')}" if done.cuts else ""
    return f"{output.counted(done.files, 'file')}, {done.sent / 1e6:.1f} MB sent{there}{cuts}"


def run(
    source: Path,
    to: str,
    *,
    cluster: str | None = None,
    skip_links: bool = False,
    as_json: bool = False,
) -> int:
    claim, path = _place(to)
    files, folder, only = _sources(source, path, skip_links=skip_links)
    total = sum(file.size for file in files)
    with (
        for_profile(choose(cluster)).inlet(claim) as inlet,
        output.progress(f"{claim}:{path}", total) as step,
    ):
        done = Push(inlet=inlet, files=files, folder=folder, only=only, progress=step).run()
    if as_json:
        output.json_result(
            {
                "claim": claim,
                "path": "/".join(part for part in (folder, only) if part),
                **asdict(done),
            }
        )
    output.note(_summary(done))
    return 0
