"""What differs between two runs: conf, code, image, environment and results. Pure, but for the git repository that it asks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import recorded, safe_yaml
from launcher.records import RunRecord
from launcher.report_data import RunData
from launcher.sweep import shown
from launcher.sweep_view import SweepView

_ENVIRONMENT = ("python", "cudnn", "gpu", "node", "vidjobs")
_LEFT_OUT = ("time", "step", "epoch")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs. `data` is None when its folder could not be read, and `why` says why."""

    record: RunRecord
    data: RunData | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that the runs do not share; None where a run has no such thing."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that could be compared, and in `missing` what could not."""

    conf: list[Difference]
    code: list[Difference]
    patch: str  # from A's code to B's, when a repository here has both
    image: list[Difference]
    environment: list[Difference]
    results: list[Difference]  # side by side, also where they are equal
    missing: list[str]


def compare(a: Side, b: Side, repository: Path | None) -> Comparison:
    missing = [f"{side.record.run}: {side.why}" for side in (a, b) if side.why]
    code = _unequal(_code(a.record), _code(b.record))
    patch = ""
    if code:
        patch, why = _patch(a.record, b.record, repository)
        missing += [why] if why else []
    both_ran = bool(a.record.image_id and b.record.image_id)
    for side in (a, b):
        if side.data is not None and not side.data.provenance:
            missing.append(
                f"{side.record.run}: it has no provenance.json, so its packages and GPU are not known"
            )
        if side.data is not None and not _results(side):
            missing.append(f"{side.record.run}: it has no results yet")
    return Comparison(
        conf=_unequal(_conf(a.record), _conf(b.record)),
        code=code,
        patch=patch,
        image=_unequal(_image(a.record, both_ran), _image(b.record, both_ran)),
        environment=_unequal(_environment(a), _environment(b)) if a.data and b.data else [],
        results=_paired(_results(a), _results(b)),
        missing=missing,
    )


def _paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    return [Difference(key=key, a=a.get(key), b=b.get(key)) for key in dict.fromkeys([*a, *b])]


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    return [each for each in _paired(a, b) if each.a != each.b]


def _conf(record: RunRecord) -> dict[str, Any]:
    """Key path -> value; `name`, image and code are told elsewhere."""
    whole = safe_yaml.load(record.whole_conf or record.conf_text) or {}
    return {
        key: value
        for key, value in _flat(whole, "")
        if key not in ("name", "job.image") and not key.startswith("job.code")
    }


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _flat(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(child, dict | list) for child in value):
        for number, child in enumerate(value):
            yield from _flat(child, f"{path}[{number}]")
    else:
        yield path, value


def _code(record: RunRecord) -> dict[str, Any]:
    pin = recorded.code(record)
    diff = hashlib.sha256(pin.diff.encode()).hexdigest() if pin.diff else ""
    facts = {
        "repo": pin.repo or pin.origin,
        "ref": pin.ref,
        "commit": pin.commit,
        "local changes": diff,
    }
    return facts | ({"not recorded": pin.unrecorded} if pin.unrecorded else {})


def _image(record: RunRecord, both_ran: bool) -> dict[str, Any]:
    """What ran is compared where it is known of both: a run that nobody has looked at since is no difference."""
    return {"image": record.image} | ({"ran": recorded.image(record)} if both_ran else {})


def _environment(side: Side) -> dict[str, Any]:
    facts = side.data.provenance if side.data else {}
    packages = facts.get("packages")
    named = (
        {f"package {name}": version for name, version in packages.items()}
        if isinstance(packages, dict)
        else {}
    )
    return {key: facts.get(key) for key in _ENVIRONMENT} | named


def _results(side: Side) -> dict[str, Any]:
    """Numbers of the best and the last checkpoint, the last losses, and the scores of the predictions."""
    data = side.data
    if data is None:
        return {}
    found = _sweep_results(data.sweep) if data.sweep else {}
    files = data.manifest.get("files")
    for which in ("best", "last"):
        name = data.manifest.get(which)
        entry = files.get(name) if isinstance(files, dict) and isinstance(name, str) else None
        if isinstance(entry, dict):
            found[f"{which} epoch"] = entry.get("epoch")
            metrics = entry.get("metrics")
            found |= (
                {f"{which} {key}": value for key, value in metrics.items()}
                if isinstance(metrics, dict)
                else {}
            )
    for record in data.records:
        if record.phase in ("train", "val"):
            numbers = {
                key: value
                for key, value in record.values.items()
                if key not in _LEFT_OUT and isinstance(value, int | float)
            }
            found |= {f"last {record.phase} Loss": record.loss} if record.loss is not None else {}
            found |= (
                {f"last {record.phase} {key}": value for key, value in numbers.items()}
                if record.phase == "val"
                else {}
            )
    found |= {
        f"predictions {key}": value
        for key, value in data.scores.items()
        if isinstance(value, int | float | str)
    }
    return found


def _sweep_results(sweep: SweepView) -> dict[str, Any]:
    """Of the trial that `sweep results` calls the best."""
    found: dict[str, Any] = {"trials succeeded": sweep.counts().get("succeeded", 0)}
    ranked = sweep.ranked(sweep.metrics[0]) if sweep.metrics else []
    if not ranked:
        return found
    scores = {f"best trial's {metric}": ranked[0].score(metric) for metric in sweep.metrics}
    return found | {"best trial": f"{ranked[0].number} ({shown(ranked[0].changes)})"} | scores


def _patch(a: RunRecord, b: RunRecord, repository: Path | None) -> tuple[str, str]:
    """(`git diff` from A's code to B's, why there is none). Nothing is written to the repository: objects go to a folder of their own."""
    if repository is None or shutil.which("git") is None:
        return (
            "",
            "the patch between both is not shown: this directory is no checkout of their repository",
        )
    with tempfile.TemporaryDirectory() as scratch:
        objects = (
            _git(repository, "rev-parse", "--path-format=absolute", "--git-path", "objects")
            .stdout.decode()
            .strip()
        )
        own = {"GIT_OBJECT_DIRECTORY": scratch, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}
        trees = []
        for record in (a, b):
            tree = _tree(
                record, repository, {**own, "GIT_INDEX_FILE": str(Path(scratch) / record.run)}
            )
            if not tree:
                return (
                    "",
                    f"the patch between both is not shown: this repository has not the code of {record.run}",
                )
            trees.append(tree)
        return _git(
            repository, "diff", "--no-color", "--no-ext-diff", *trees, env=own
        ).stdout.decode(errors="replace"), ""


def _tree(record: RunRecord, repository: Path, env: Mapping[str, str]) -> str:
    """The tree of the run's commit with its local changes; "" when it cannot be made here."""
    diff = recorded.diff(record)
    if not record.commit or _git(repository, "read-tree", record.commit, env=env).returncode:
        return ""
    if (
        diff
        and _git(
            repository, "apply", "--cached", "--whitespace=nowarn", "-", env=env, stdin=diff
        ).returncode
    ):
        return ""
    return _git(repository, "write-tree", env=env).stdout.decode().strip()


def _git(
    repository: Path, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env={**os.environ, **(env or {})},
        input=stdin.encode(),
        capture_output=True,
        check=False,
    )
