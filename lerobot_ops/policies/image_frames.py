"""Cameras' frames made to fit an encoder: resized, and cropped, at random in training and else at the centre."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""Height and width in pixels."""


class Frames(nn.Module):
    """Frames (B, C, H, W) -> (B, C, *crop); all frames of a batch get the same crop. Has no parameters."""

    def __init__(self, resize: Size | None, crop: Size | None, random: bool) -> None:
        super().__init__()
        self.resize, self.crop, self.random = resize, crop, random

    def forward(self, frames: Tensor) -> Tensor:
        if self.resize is not None:
            frames = F.interpolate(frames, size=self.resize, mode="bilinear", antialias=True, align_corners=False)
        if self.crop is None:
            return frames
        height, width = self.crop
        spare_y, spare_x = frames.shape[-2] - height, frames.shape[-1] - width
        if self.random and self.training:
            # Drawn as torchvision's RandomCrop draws, so that an equal seed gives an equal crop.
            drawn = bool(spare_y or spare_x)
            top = int(torch.randint(0, spare_y + 1, size=(1,))) if drawn else 0
            left = int(torch.randint(0, spare_x + 1, size=(1,))) if drawn else 0
        else:
            top, left = round(spare_y / 2), round(spare_x / 2)
        return frames[..., top : top + height, left : left + width]
