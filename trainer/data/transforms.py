"""From the cache's uint8 frames to what a network is fed: done in one go on the device."""

from __future__ import annotations

import torch

NORMALISATION = {"kind": "minus_one_one"}  # travels with every checkpoint: x / 255 * 2 - 1
CHANNEL_ORDER = "rgb"


def to_model_input(clips_BTHWC: torch.Tensor) -> torch.Tensor:
    """uint8 frames (B, T, H, W, 3) as float32 (B, 3, T, H, W) in [-1, 1], on the device where they are.

    The values are those of 000's `x / 255 * 2 - 1`. The result lies in memory as channels_last_3d, like its source.
    """
    if clips_BTHWC.dtype != torch.uint8 or clips_BTHWC.dim() != 5:
        raise ValueError(f"clips are {clips_BTHWC.dtype} of shape {tuple(clips_BTHWC.shape)}, not uint8 of shape (B, T, H, W, C)")
    return clips_BTHWC.permute(0, 4, 1, 2, 3).float().div_(255).mul_(2).sub_(1)
