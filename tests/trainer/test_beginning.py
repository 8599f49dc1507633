"""What is looked at before a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trainer import config as conf
from trainer import preflight
from trainer.config import Config
from trainer.errors import ConfFault
from trainer.run_folder import RunFolder


@pytest.mark.parametrize("there", ["manifest", "state"])
def test_another_recipe_is_refused_also_where_the_manifest_was_lost(
    tmp_path: Path, there: str
) -> None:
    """The manifest is made anew from the states, so they alone make it a run that goes on."""
    folder, config = RunFolder(tmp_path), Config()
    folder.write_text(folder.conf, conf.dump(config))
    other = replace(config, train=replace(config.train, lr=0.5))
    preflight.require_same_conf(folder, other, print)  # nothing was trained yet
    folder.write_text(folder.manifest if there == "manifest" else folder.state(3), "{}")
    preflight.require_same_conf(folder, config, print)
    with pytest.raises(ConfFault, match=r"train\.lr: was"):
        preflight.require_same_conf(folder, other, print)
