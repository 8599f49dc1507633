"""The datasets by name. A new one: a module in datasets/ with `open_dataset(conf)`, and its line here."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config import DataConf
from trainer.data.dataset_base import Dataset
from trainer.data.datasets import tinyvirat
from trainer.errors import DataError, did_you_mean

DATASETS: dict[str, Callable[[DataConf], Dataset]] = {
    "tinyvirat": tinyvirat.open_dataset,
}


def open_dataset(conf: DataConf) -> Dataset:
    """The dataset that `data.name` names. Raises DataError for an unknown name, a missing folder or a damaged annotation."""
    if conf.name not in DATASETS:
        known = sorted(DATASETS)
        raise DataError(f'no dataset is called "{conf.name}"', hint=did_you_mean(conf.name, known) or f"known: {', '.join(known)}")
    return DATASETS[conf.name](conf)
