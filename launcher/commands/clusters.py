"""`vidjobs clusters`: the cluster profiles that can be chosen."""

from __future__ import annotations

from launcher import output
from launcher.profiles import ClusterProfile, available, load


def run(*, as_json: bool = False) -> int:
    profiles = [load(name) for name in available()]
    if as_json:
        output.json_result([document(profile) for profile in profiles])
    else:
        rows = [
            [
                each.name,
                each.backend,
                each.context or "-",
                each.namespace or "-",
                each.about,
                each.file,
            ]
            for each in profiles
        ]
        output.table(["name", "backend", "context", "namespace", "what", "file"], rows)
    return 0


def document(profile: ClusterProfile) -> dict[str, object]:
    """The stable schema of `--json`."""
    keys = ("name", "backend", "context", "namespace", "storage_class", "rules", "about", "file")
    return {key: getattr(profile, key) for key in keys} | {"gpu_types": list(profile.gpu_types)}
