"""What `vidjobs doctor` says about this machine."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from launcher.backend_base import Finding

_SPACE = 5 << 30  # bytes; a run of the published recipes writes a few GB of checkpoints
_PYTHON = (3, 11)


def examine(state: Path, directories: Mapping[str, str]) -> list[Finding]:
    """Every finding, cheapest first. Nothing is written."""
    return [
        _python(),
        _trainer(),
        _torch(),
        _space(state),
        *_claims(directories),
        _tool("git", "code"),
        _tool("ffmpeg", "video"),
        _gpus(),
    ]


def _python() -> Finding:
    detail = f"{sys.version.split()[0]} at {sys.executable}"
    new = sys.version_info >= _PYTHON
    return Finding(
        what="python",
        ok=new,
        detail=detail,
        fix="" if new else f"install Python {_PYTHON[0]}.{_PYTHON[1]} or newer",
    )


def _trainer() -> Finding:
    """In the working directory first, as `python -m trainer` finds it."""
    here = Path.cwd() / "trainer" / "__main__.py"
    installed = importlib.util.find_spec("trainer")
    if here.is_file():
        return Finding(what="trainer", ok=True, detail=f"of the working tree, {here.parent}")
    if installed:
        return Finding(
            what="trainer", ok=True, detail=f"installed, {Path(installed.origin or '').parent}"
        )
    return Finding(
        what="trainer",
        ok=False,
        detail="`python -m trainer` finds no module",
        fix="install vidjobs beside this Python, or work in its checkout",
    )


def _torch() -> Finding:
    # 10 ms, which every verb with this backend would pay
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding(what="torch", ok=True, detail=version("torch"))
    except PackageNotFoundError:
        return Finding(
            what="torch", ok=False, detail="not installed", fix="pip install 'vidjobs[trainer]'"
        )


def _space(state: Path) -> Finding:
    folder = next(parent for parent in (state, *state.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / (1 << 30):.1f} GiB free at {state}"
    fix = (
        ""
        if free >= _SPACE
        else "free some, or map the runs claim elsewhere (`directories` of the cluster profile)"
    )
    return Finding(what="disk space", ok=free >= _SPACE, detail=detail, fix=fix)


def _claims(directories: Mapping[str, str]) -> list[Finding]:
    found = []
    for claim, folder in directories.items():
        there = Path(folder).is_dir()
        detail = folder if there else f"{folder} does not exist"
        fix = "" if there else "create it, or correct `directories` in the cluster profile"
        found.append(Finding(what=f"claim {claim}", ok=there, detail=detail, fix=fix))
    return found


def _tool(name: str, why: str) -> Finding:
    path = shutil.which(name)
    return Finding(
        what=name,
        ok=True if path else None,
        detail=path or f"not found; needed only for some {why} steps",
    )


def _gpus() -> Finding:
    """A list of GPUs. They are not handed out to runs: every run sees all, unless CUDA_VISIBLE_DEVICES says otherwise."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return Finding(what="gpus", ok=None, detail="no nvidia-smi: runs use the CPU")
    query = [tool, "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError) as error:
        return Finding(
            what="gpus",
            ok=False,
            detail=f"nvidia-smi failed: {error}",
            fix="check the driver: nvidia-smi",
        )
    names = "; ".join(line.strip() for line in answer.splitlines() if line.strip())
    detail = f"{names}. Local runs are not given GPUs one by one: all see all, set CUDA_VISIBLE_DEVICES to choose"
    return Finding(
        what="gpus",
        ok=bool(names),
        detail=detail,
        fix="" if names else "check the driver: nvidia-smi",
    )
