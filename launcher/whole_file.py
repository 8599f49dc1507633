"""Writes a result file whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from launcher.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Make the folder if need be, write under a temporary name, rename. UserError when the place cannot be written."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path} cannot be written: {error.strerror}", hint="choose another place"
        ) from error
