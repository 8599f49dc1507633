"""What a run's record says of its code, image and conf, for commands that need no more than the record."""

from __future__ import annotations

import re
from typing import Any

from launcher.records import RunRecord
from launcher.render import DIFF_ANNOTATION, TRIALS_ANNOTATION
from launcher.spec import CodePin, SecretKey

_DIGEST = re.compile(r"(?:[a-z-]+://)?(?P<name>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})")


def code(record: RunRecord) -> CodePin:
    """The pin of that day; of an older record only its commit."""
    fields = {key: value for key, value in record.code.items() if key != "token"}
    token = record.code.get("token")
    known = {"kind": "repo", "commit": record.commit} | fields
    return CodePin(**known, diff=diff(record), token=SecretKey(**token) if token else None)


def diff(record: RunRecord) -> str:
    """The local changes, as they travelled with the Job; "" when there were none."""
    for manifest in record.manifests:
        if manifest.get("kind") == "ConfigMap":
            return str(manifest.get("data", {}).get("code.diff", ""))
    return _annotations(record).get(DIFF_ANNOTATION, "")


def is_sweep(record: RunRecord) -> bool:
    return TRIALS_ANNOTATION in _annotations(record)


def image(record: RunRecord) -> str:
    """The image by the digest that ran, else as the conf named it (which may be a tag, that can be moved)."""
    if "@sha256:" in record.image:
        return record.image
    ran = _DIGEST.fullmatch(record.image_id)
    if ran is None:
        # an image that was loaded onto a node by hand has a digest that no registry knows
        return record.image
    name, _, tag = record.image.rpartition(":")
    return f"{name if name and '/' not in tag else record.image}@{ran['digest']}"


def fields_of(pin: CodePin) -> dict[str, Any]:
    """The pin for the record; the diff is in the manifests already."""
    token = {"secret": pin.token.secret, "key": pin.token.key} if pin.token else None
    texts = {
        name: getattr(pin, name)
        for name in ("kind", "repo", "ref", "commit", "checkout", "origin", "unrecorded")
    }
    return texts | {"token": token}


def _annotations(record: RunRecord) -> dict[str, str]:
    for manifest in record.manifests:
        if manifest.get("kind") == "Job":
            return dict(manifest["spec"]["template"].get("metadata", {}).get("annotations") or {})
    return {}
