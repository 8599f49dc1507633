"""Tells an address of the user's that the run has ended: one small JSON document, and never a reason to fail.

Sent by the trainer itself, since nobody else is sure to be there at the end. What Kubernetes will try again by itself (75) is no
end and is not told; of several nodes the first one tells.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import TryAgain

ADDRESS = "VIDJOBS_WEBHOOK"
TIMEOUT_S = 10.0
_FINAL = frozenset({0, 64, 65, 73, 76})  # what no retry follows


def tell(
    ending: Mapping[str, Any], *, verb: str, manifest: Path, environ: Mapping[str, str]
) -> None:
    """POST how the run ended, if an address is given. What goes wrong is one line on stderr."""
    address = environ.get(ADDRESS, "")
    if not address or ending["exit_code"] == TryAgain.exit_code:
        return
    import urllib.request  # 15 ms, which every `check` would pay
    from http.client import HTTPException

    try:
        if not address.startswith(("http://", "https://")):
            raise ValueError("it is no http address")
        body = json.dumps(document(ending, verb=verb, manifest=manifest, environ=environ)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "vidjobs"}
        request = urllib.request.Request(address, data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass
    except (OSError, HTTPException, ValueError) as error:
        # the address itself is often a secret, and is not printed
        reason = str(error).replace(address, "the address")
        print(
            f"webhook: the end of the run could not be told: {reason}", file=sys.stderr, flush=True
        )


def document(
    ending: Mapping[str, Any], *, verb: str, manifest: Path, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The document: run, verb, outcome, exit code, cause, how far it got, the best checkpoint's metrics.

    `text` says it in a sentence, under the key that chat services show. `final` is False when Kubernetes may try again.
    """
    run, code = environ.get("VIDJOBS_RUN", ""), int(ending["exit_code"])
    outcome = "done" if code == 0 else "failed"
    parts = {key: ending[key] for key in ("trial", "epoch", "step") if key in ending}
    why = f": {ending['message']}" if ending.get("message") else ""
    trial = f", trial {ending['trial']}," if "trial" in ending else ""
    return {
        "text": f"{run}{trial} {outcome}{why}",
        "run": run,
        "verb": verb,
        "outcome": outcome,
        "exit_code": code,
        "cause": ending["cause"],
        "message": ending.get("message", ""),
        "final": code in _FINAL,
        **parts,
        "best": _best(manifest),
    }


def _best(manifest: Path) -> dict[str, Any]:
    """The best checkpoint's name, epoch and metrics; empty while there is none."""
    try:
        known = json.loads(manifest.read_text())
        entry = known["files"][known["best"]]
        return {"checkpoint": known["best"], "epoch": entry["epoch"], "metrics": entry["metrics"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
