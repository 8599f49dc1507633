"""What looks like a secret in local changes: they travel with a Job, where everybody who may read Jobs reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

_NAMES = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", ".pypirc",
    ".git-credentials", "kubeconfig", "*.kubeconfig",
)  # fmt: skip
_HARMLESS = (".env.example", ".env.sample", ".env.template")
_CONTENTS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?i:aws_secret_access_key)\W{1,4}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "GitHub token": r"\bgh[opusr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{22}",
    "GitLab token": r"\bglpat-[\w-]{20}",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10}",
    "API key": r"\bsk-[A-Za-z0-9_-]{32}",
}
_ANY = re.compile(
    "|".join(f"(?P<k{number}>{pattern})" for number, pattern in enumerate(_CONTENTS.values()))
)
_KINDS = list(_CONTENTS)
_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(\d+)")


def secrets_in(diff: str, allowed: Sequence[str] = ()) -> list[str]:
    """`path (its name)` and `path:line (GitHub token)` of what a git diff adds; files that match a glob of `allowed` are left out."""
    return [
        f"{where} ({what})"
        for path, where, what in _found(diff)
        if not any(fnmatch(path, glob) for glob in allowed)
    ]


def _found(diff: str) -> Iterator[tuple[str, str, str]]:
    """(path, place, kind). Binary patches are known by their file's name only."""
    path, line, inside = "", 0, False
    for text in diff.splitlines():
        if text.startswith("diff --git "):
            path, inside = text.rpartition(" b/")[2].rstrip('"'), False
            added = True
        elif not inside and text.startswith(("deleted file", "rename from")):
            added = False
        elif not inside and text.startswith(("index ", "+++ ")):
            if added and _is_secret_name(path):
                yield path, path, "its name"
                added = False
        elif hunk := _HUNK.match(text):
            line, inside = int(hunk[1]) - 1, True
        elif inside and text.startswith("+"):
            line += 1
            match = _ANY.search(text)
            if match:
                yield path, f"{path}:{line}", _KINDS[int(str(match.lastgroup)[1:])]
        elif inside and text.startswith(" "):
            line += 1


def _is_secret_name(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return name not in _HARMLESS and any(fnmatch(name, pattern) for pattern in _NAMES)
