"""`vidjobs render VERB CONF`: the manifests, exactly as submit would send them but for the six letters that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher import output
from launcher.all_backends import for_profile
from launcher.plan import plan
from launcher.profiles import choose
from launcher.render import to_yaml


def run(
    verb: str,
    conf: Path,
    *,
    sets: Sequence[str] = (),
    source: str | None = None,
    backend: str | None = None,
    cluster: str | None = None,
    name: str | None = None,
    shards: int | None = None,
) -> int:
    """The same conf, code and cluster give the same bytes."""
    profile = choose(cluster)
    place = for_profile(profile, backend)
    made = plan(
        verb,
        conf,
        profile=profile,
        backend=place,
        sets=sets,
        source=source,
        name=name,
        shards=shards,
        stable=True,
    )
    for warning in made.warnings:
        output.warn(warning)
    output.result(to_yaml(made.manifests).rstrip("\n"))
    return 0
