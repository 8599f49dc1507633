"""The pictures are whole: nothing of a title or a name is cut off at the edge."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from trainer import figures


@pytest.mark.parametrize("classes", [2, 27])
def test_a_confusion_shows_all_its_words(classes: int) -> None:
    names = [f"class of number {place}" for place in range(classes)]
    picture = Image.open(io.BytesIO(figures.confusion(names, np.eye(classes, dtype=np.int64))))
    grey = np.asarray(picture.convert("L"))
    edges = [grey[:4], grey[-4:], grey[:, :4], grey[:, -4:]]
    assert all((edge == 255).all() for edge in edges)
