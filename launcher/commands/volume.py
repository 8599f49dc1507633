"""`vidjobs volume create CLAIM` and `vidjobs volume ls [CLAIM [PATH]]`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from launcher import output
from launcher.all_backends import for_profile
from launcher.backend_base import Backend
from launcher.conf.units import Bytes, of_option
from launcher.errors import UserError, did_you_mean
from launcher.lint import lint_manifest
from launcher.profiles import choose

_ACCESS = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany")


def create(
    claim: str, *, size: str, access: str, storage_class: str = "", cluster: str | None = None
) -> int:
    """Create a claim. Its phase is Pending until the cluster has made the volume, or until the first pod uses it."""
    if access not in _ACCESS:
        hint = did_you_mean(access, _ACCESS) or f"known: {', '.join(_ACCESS)}"
        raise UserError(f'--access "{access}" is not an access mode', hint=hint)
    of_option("--size", Bytes.parse, size)
    profile = choose(cluster)
    spec = {"accessModes": [access], "storageClassName": storage_class or profile.storage_class}
    for finding in lint_manifest({"kind": "PersistentVolumeClaim", "spec": spec}, profile):
        if finding.severity == "error":
            raise UserError(f"{claim}: {finding.message} [{finding.rule}]", hint=finding.fix)
        output.warn(finding.told)
    made = for_profile(profile).create_volume(
        claim, size=size, access=access, storage_class=storage_class
    )
    output.result(made.claim)
    output.note(
        f"{made.claim}: {made.phase}, {made.size}, {made.access}"
        + (f", class {made.storage_class}" if made.storage_class else "")
    )
    return 0


def _show_claims(backend: Backend, *, as_json: bool) -> None:
    volumes = sorted(backend.volumes(), key=lambda volume: volume.claim)
    if as_json:
        output.json_result([asdict(volume) for volume in volumes])
    elif not volumes:
        output.note("no claims yet: `vidjobs volume create CLAIM` makes one")
    else:
        rows = [
            (volume.claim, volume.phase, volume.size, volume.access, volume.storage_class)
            for volume in volumes
        ]
        output.table(("CLAIM", "PHASE", "SIZE", "ACCESS", "CLASS"), rows)


def _show_files(backend: Backend, claim: str, path: str, *, as_json: bool) -> None:
    with backend.volume_files(claim, path) as files:
        found = files.list()
    if as_json:
        output.json_result([asdict(file) for file in found])
    elif not found:
        output.note(f"{claim}:{path} holds no files")
    else:
        rows = [(file.size, _when(file.mtime_ns), _printable(file.path)) for file in found]
        output.table(("BYTES", "CHANGED (UTC)", "FILE"), rows)


def _when(mtime_ns: int) -> str:
    return datetime.fromtimestamp(mtime_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _printable(name: str) -> str:
    """A file's name comes from the pod: what could steer a terminal is shown escaped."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def ls(
    claim: str | None = None, path: str = "", *, cluster: str | None = None, as_json: bool = False
) -> int:
    """The claims, or the files below a folder of one."""
    backend = for_profile(choose(cluster))
    if claim is None:
        _show_claims(backend, as_json=as_json)
    else:
        _show_files(backend, claim, path, as_json=as_json)
    return 0
