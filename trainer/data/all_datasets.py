"""The datasets by name. A new one is one file: a module in datasets/ with `open_dataset(conf)`."""

from __future__ import annotations

import importlib
import pkgutil

from trainer.config import DataConf
from trainer.data import datasets
from trainer.data.dataset_base import Dataset
from trainer.errors import DataError, did_you_mean


def names() -> list[str]:
    """What `data.name` takes, found without importing a module of them."""
    return sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))


def open_dataset(conf: DataConf) -> Dataset:
    """The dataset that `data.name` names. Raises DataError for an unknown name, a missing folder or a damaged annotation."""
    known = names()
    if conf.name not in known:
        raise DataError(
            f'no dataset is called "{conf.name}"',
            hint=did_you_mean(conf.name, known) or f"known: {', '.join(known)}",
        )
    module = importlib.import_module(f"{datasets.__name__}.{conf.name}")
    dataset: Dataset = module.open_dataset(conf)
    return dataset
