"""From uint8 frames to what a network is fed: done in one go on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer import signatures
from trainer.config import Config
from trainer.data import normalise
from trainer.data.normalise import Normalisation


@dataclass(frozen=True)
class ModelInput:
    """How one network takes clips."""

    normalisation: Normalisation
    images: bool = False  # a 2D network: the frames of a clip are stacked on the channels

    @classmethod
    def of(cls, config: Config) -> ModelInput:
        """For the conf's network and data."""
        return cls(normalise.of_conf(config.data), signatures.read()[config.model.name].images)

    def __call__(self, clips_BTHWC: Tensor) -> Tensor:
        """uint8 frames (B, T, H, W, C) as float32 (B, C, T, H, W), or (B, T * C, H, W), on the device where they are.

        The video lies in memory as channels_last_3d, like its source. Raises ValueError for something else than uint8 clips.
        """
        if clips_BTHWC.dtype != torch.uint8 or clips_BTHWC.dim() != 5:
            raise ValueError(
                f"clips are {clips_BTHWC.dtype} of shape {tuple(clips_BTHWC.shape)}, not uint8 of shape (B, T, H, W, C)"
            )
        if self.normalisation.order == "bgr":
            clips_BTHWC = clips_BTHWC.flip(-1)
        mean, std = (
            clips_BTHWC.new_tensor(values, dtype=torch.float32)
            for values in (self.normalisation.mean, self.normalisation.std)
        )
        video_BTHWC = clips_BTHWC.float().sub_(mean).div_(std)
        if self.images:
            # frame after frame, the channels of each together
            return video_BTHWC.permute(0, 1, 4, 2, 3).flatten(1, 2)
        return video_BTHWC.permute(0, 4, 1, 2, 3)
