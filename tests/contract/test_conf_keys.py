"""conf/KEYS.md lists every key, and says of it what the dataclasses say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from trainer import config


def test_the_page_of_keys_is_up_to_date(project: Path) -> None:
    """`make docs` writes it."""
    spec = importlib.util.spec_from_file_location(
        "conf_keys", project / "tests" / "contract" / "conf_keys.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert (project / "conf" / "KEYS.md").read_text(encoding="utf-8") == module.document()


def test_the_page_names_every_key_of_the_trainer(project: Path) -> None:
    page = (project / "conf" / "KEYS.md").read_text(encoding="utf-8")

    for section, values in config.flat(config.Config()).items():
        for key in values:
            assert f"`{section}.{key}`" in page
