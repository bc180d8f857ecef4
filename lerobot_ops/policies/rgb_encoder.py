"""A camera's frames -> a vector: a ResNet, the places where its features are (spatial softmax) and a linear layer.

Diffusion and VQ-BeT share it; state-dict names and shapes are LeRobot's. Shapes below: B frames, C channels, K points.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lerobot_ops.policies.image_frames import Frames, Size
from lerobot_ops.policies.resnet import ResNet, group_norm, laid_out, load_imagenet


class RgbEncoder(nn.Module):
    """Frames (B, 3, H, W) -> (B, 2 K). `size` is the frames' height and width when they come."""

    def __init__(
        self,
        backbone: str,
        size: Size,
        *,
        points: int,
        resize: Size | None,
        crop: Size | None,
        crop_is_random: bool,
        use_group_norm: bool,
        weights: str | None,
    ) -> None:
        super().__init__()
        self.frames = Frames(resize, crop, crop_is_random)
        network = ResNet(backbone, norm=group_norm if use_group_norm else nn.BatchNorm2d)
        if weights is not None:
            load_imagenet(network, weights)
        stem = (network.conv1, network.bn1, nn.ReLU(inplace=True), network.maxpool)
        self.backbone = nn.Sequential(*stem, network.layer1, network.layer2, network.layer3, network.layer4)
        height, width = crop or resize or size
        self.pool = SpatialSoftmax(network.channels, (_map_length(height), _map_length(width)), points)
        self.out = nn.Linear(2 * points, 2 * points)
        self.features = 2 * points

    def forward(self, frames: Tensor) -> Tensor:
        frames = self.frames(frames)
        features = self.backbone(laid_out(frames) if self.training else frames)
        return torch.relu(self.out(self.pool(features).flatten(1)))


class SpatialSoftmax(nn.Module):
    """Feature maps (B, C, h, w) -> where K mixtures of them are, on average (B, K, 2): x and y from -1 to 1.

    Finn et al. 2015, https://arxiv.org/abs/1509.06113.
    """

    pos_grid: Tensor

    def __init__(self, channels: int, size: Size, points: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, points, kernel_size=1)
        # numpy's linspace in float64, as the checkpoints have it, is not quite torch's
        rows, columns = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
        grid = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)
        self.register_buffer("pos_grid", torch.from_numpy(grid))

    def forward(self, features: Tensor) -> Tensor:
        attention = self.nets(features).flatten(2).softmax(dim=-1)  # (B, K, h w)
        return attention @ self.pos_grid


def _map_length(pixels: int) -> int:
    """The side of a ResNet's last feature map: five times half of it, rounded up."""
    return -(-pixels // 32)
