"""`vidjobs doctor`: whether this machine, the way to the cluster, and the rights there are in order."""

from __future__ import annotations

from dataclasses import asdict

from launcher import output
from launcher.all_backends import for_profile
from launcher.backend_base import Finding
from launcher.errors import ClusterError
from launcher.profiles import choose

_MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("-", "dim")}


def _line(finding: Finding, width: int) -> str:
    mark, colour = _MARKS[finding.ok]
    fix = f"  -> {finding.fix}" if finding.fix and not finding.ok else ""
    return f"{output.paint(mark.ljust(2), colour)}  {finding.what.ljust(width)}  {finding.detail}{fix}".rstrip()


def run(*, cluster: str | None = None, as_json: bool = False) -> int:
    """0 when nothing is wrong, else 5."""
    findings = for_profile(choose(cluster)).doctor()
    if as_json:
        output.json_result([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            output.result(_line(finding, width))
    return ClusterError.exit_code if any(finding.ok is False for finding in findings) else 0
