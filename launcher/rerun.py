"""A new run of an earlier one, from its record alone: the same flat conf, the same commit and local changes, the same image."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launcher import recorded, safe_yaml
from launcher.backend_base import Backend
from launcher.errors import UserError
from launcher.plan import Again, Plan, plan
from launcher.profiles import ClusterProfile
from launcher.records import RunRecord
from launcher.spec import CodePin


def plan_again(
    record: RunRecord,
    *,
    profile: ClusterProfile,
    backend: Backend,
    sets: Sequence[str] = (),
    name: str | None = None,
) -> tuple[Plan, list[str]]:
    """The new run, and what about it cannot be the same. UserError when the record, or its code, is not enough to start from.

    Of the profile only what no conf holds is asked (where claims lie on this machine); its other values are in the record.
    """
    if not record.whole_conf:
        raise UserError(
            f"the record of {record.run} is of an older vidjobs and holds no whole conf",
            hint="submit its conf again",
        )
    chosen = _keys(sets)
    own_code = any(key == "job.code" or key.startswith("job.code.") for key in chosen)
    notes: list[str] = []
    code = None if own_code else _code(record, notes)
    if avoided := to_avoid(record, sets):
        sets = [f"job.avoid_nodes={json.dumps([*_avoids(record), *avoided])}", *sets]
    if record.image and "job.image" not in chosen:
        sets = [f"job.image={_image(record, notes)}", *sets]
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / f"{record.run}.yaml"
        conf.write_text(record.whole_conf, encoding="utf-8")
        made = plan(
            record.verb,
            conf,
            profile=dataclasses.replace(profile, layer={}),
            backend=backend,
            sets=sets,
            name=name,
            sweep=recorded.is_sweep(record),
            again=Again(code=code),
        )
    if made.spec.conf_text != record.conf_text and not chosen:
        notes.append(
            "this vidjobs reads the recorded conf differently: compare with `vidjobs diff`"
        )
    if (
        made.spec.resources.gpus
        and not made.spec.node_affinity
        and made.spec.resources.gpu_resource == "nvidia.com/gpu"
    ):
        notes.append(
            "any type of GPU may be given: job.resources.gpu_type names those that will do"
        )
    return dataclasses.replace(
        made, record=dataclasses.replace(made.record, rerun_of=record.run)
    ), notes


def to_avoid(record: RunRecord, sets: Sequence[str]) -> dict[str, int]:
    """Nodes that the new run keeps away from though the old one did not, and how many attempts failed there; none when the user chose."""
    if "job.avoid_nodes" in _keys(sets):
        return {}
    return {node: times for node, times in record.blamed.items() if node not in _avoids(record)}


def _keys(sets: Sequence[str]) -> set[str]:
    return {each.partition("=")[0] for each in sets}


def _avoids(record: RunRecord) -> list[str]:
    """Those that the recorded conf names."""
    conf = safe_yaml.load(record.whole_conf)
    return list(conf.get("job", {}).get("avoid_nodes", [])) if isinstance(conf, dict) else []


def _image(record: RunRecord, notes: list[str]) -> str:
    image = recorded.image(record)
    if "@sha256:" not in image and record.backend != "local":  # where no image is used
        why = (
            "its pod told no digest that a registry knows"
            if record.image_id
            else "no pod's digest was seen"
        )
        notes.append(f"the image {image} is a name that may have been moved since: {why}")
    return image


def _code(record: RunRecord, notes: list[str]) -> CodePin:
    """The pin of that day; a working tree that ran as it was becomes a checkout of its commit with the recorded changes."""
    code = recorded.code(record)
    if code.kind == "image":
        notes.append("the code is part of the image")
    if code.unrecorded and code.commit:
        notes.append(f"local changes were not recorded: {code.unrecorded}")
    if record.backend != "local" or code.repo or code.kind == "image":
        return code
    if not code.commit:
        notes.append("the code was under no version control: this directory's is used as it is")
        return code
    return dataclasses.replace(code, repo=_source(record, code), ref=code.commit)


def _source(record: RunRecord, code: CodePin) -> str:
    """Where the commit may be had: the working tree of that day, this one, or the remote."""
    for folder in (code.checkout, str(Path.cwd())):
        if folder and _has(folder, code.commit):
            return folder
    if code.origin:
        return code.origin
    hint = "run it in a checkout that has the commit, or say --set job.code.kind=repo --set job.code.repo=URL"
    raise UserError(
        f"the commit {code.commit[:12]} of {record.run} is neither in {code.checkout} nor here",
        hint=hint,
    )


def _has(folder: str, commit: str) -> bool:
    try:
        asked = ["git", "-C", folder, "cat-file", "-e", f"{commit}^{{commit}}"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
