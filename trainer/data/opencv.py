"""OpenCV, imported when first used and without threads of its own: each core already has a decoding thread or a data worker."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def opencv() -> Any:
    """The module cv2."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
