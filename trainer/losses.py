"""The loss of each kind of dataset, one number for each clip: the caller weights them, so that no clip is dropped or counted twice."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from trainer.errors import ConfFault, Fault

Loss = Callable[[Tensor, Tensor], Tensor]


def multi_label(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Binary cross entropy of each clip, its mean over the classes: (B,)."""
    return F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none").mean(dim=1)


def single_label(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Cross entropy of each clip against its class (one-hot targets): (B,)."""
    return F.cross_entropy(logits_BC, targets_BC, reduction="none")


BY_MULTI_LABEL: dict[bool, Loss] = {True: multi_label, False: single_label}


def require_match(logits: Tensor, targets: Tensor) -> None:
    """Raise ConfFault unless the network answers with one logit for each class of the dataset."""
    if logits.shape != targets.shape:
        message = f"answers with shape {tuple(logits.shape)}; clips and classes of the dataset are {tuple(targets.shape)}"
        raise ConfFault(
            [
                Fault(
                    path="model", message=message, hint='a classifier with head: "pooled" is needed'
                )
            ]
        )
