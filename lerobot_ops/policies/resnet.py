"""ResNet (He et al. 2015, arXiv:1512.03385) as a feature extractor, with the parameter names of torchvision.

Which normalisation follows a convolution is the policy's choice: `FrozenBatchNorm2d`, whose statistics and affine
parameters are constants, since batches of robot data are small and correlated; torch's `BatchNorm2d`; or `group_norm`.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.errors import CheckpointError, ConfigError, PrerequisiteError, did_you_mean

HUB_WEIGHTS = {
    "ResNet18_Weights.IMAGENET1K_V1": "timm/resnet18.tv_in1k",
    "ResNet34_Weights.IMAGENET1K_V1": "timm/resnet34.tv_in1k",
    "ResNet50_Weights.IMAGENET1K_V1": "timm/resnet50.tv_in1k",
    "ResNet50_Weights.IMAGENET1K_V2": "timm/resnet50.tv2_in1k",
}
"""torchvision's names of its ImageNet weights, and the Hub repositories that hold the same tensors as safetensors."""


_MANY_PIXELS = 2**18
"""Eight images of 181x181; measured with ResNet-18."""

Norm = Callable[[int], nn.Module]
"""Makes the normalisation of so many channels."""


def group_norm(channels: int) -> nn.GroupNorm:
    """A normalisation of single frames, in groups of 16 channels."""
    return nn.GroupNorm(channels // 16, channels)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with constant statistics and affine parameters."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def affine(self) -> tuple[Tensor, Tensor]:
        """What every channel is multiplied by, and what is added then."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, offset = self.affine()
        return x * scale[:, None, None] + offset[:, None, None]


def _convolved(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(conv(x))`; in training a constant norm scales the weights, where they are fewer than what they make."""
    if norm.training and isinstance(norm, FrozenBatchNorm2d) and type(conv) is nn.Conv2d:
        places = x.shape[0] * x.shape[2] * x.shape[3] // (conv.stride[0] * conv.stride[1])
        if places > conv.weight[0].numel():
            scale, offset = norm.affine()
            return F.conv2d(
                x, conv.weight * scale[:, None, None, None], offset, conv.stride, conv.padding, conv.dilation
            )
    out: Tensor = norm(conv(x))
    return out


def _shortcut(downsample: nn.Module | None, x: Tensor) -> Tensor:
    if not isinstance(downsample, nn.Sequential):
        return x
    return _convolved(downsample[0], downsample[1], x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, downsample: nn.Module | None, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = norm(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = norm(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(_convolved(self.conv1, self.bn1, x))
        out = _convolved(self.conv2, self.bn2, out)
        return torch.relu_(out + _shortcut(self.downsample, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, the stride in the middle (ResNet-50)."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, dilation: int, downsample: nn.Module | None, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = norm(width)
        self.conv2 = _conv(width, width, 3, stride, dilation)
        self.bn2 = norm(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = norm(width * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(_convolved(self.conv1, self.bn1, x))
        out = torch.relu_(_convolved(self.conv2, self.bn2, out))
        out = _convolved(self.conv3, self.bn3, out)
        return torch.relu_(out + _shortcut(self.downsample, x))


_DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """Images (B, 3, H, W) -> the last feature map (B, channels, H/32, W/32), or H/16 with `dilate_last`."""

    def __init__(self, name: str, *, dilate_last: bool = False, norm: Norm = FrozenBatchNorm2d) -> None:
        super().__init__()
        block, depths = _DEPTHS[name]
        self.channels = 512 * block.expansion
        self.conv1 = _conv(3, 64, 7, stride=2)
        self.bn1 = norm(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _layer(block, 64, 64, depths[0], norm, stride=1)
        self.layer2 = _layer(block, 64 * block.expansion, 128, depths[1], norm, stride=2)
        self.layer3 = _layer(block, 128 * block.expansion, 256, depths[2], norm, stride=2)
        self.layer4 = _layer(block, 256 * block.expansion, 512, depths[3], norm, stride=2, dilate=dilate_last)

    def forward(self, x: Tensor) -> Tensor:
        x = laid_out(x) if self.training else x
        x = self.maxpool(torch.relu_(_convolved(self.conv1, self.bn1, x)))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Make constant normalisations a part of the convolutions before them, for prediction: equal but for rounding."""
    children = list(module.named_children())
    for (_, conv), (name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale, offset = norm.affine()
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias = nn.Parameter(offset, requires_grad=False)
            module.add_module(name, nn.Identity())
    for _, child in children:
        fold_norms(child)


@torch.no_grad()
def channels_last(module: nn.Module) -> None:
    """Lay the convolutions' weights out as processors read them fastest; their outputs follow."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


def laid_out(images: Tensor) -> Tensor:
    """Images (B, C, H, W), many or large, laid out as a processor learns from them fastest; the layers' outputs follow.

    Of few and small ones the weights, which the layers copy into the same layout, would take longer than is won.
    """
    count, _, height, width = images.shape
    if images.device.type != "cpu" or count * height * width < _MANY_PIXELS:
        return images
    return images.contiguous(memory_format=torch.channels_last)


def load_imagenet(backbone: ResNet, weights: str) -> None:
    """Load weights into `backbone`: torchvision's name of them (see HUB_WEIGHTS), or a safetensors file.

    Raises ConfigError for an unknown name, PrerequisiteError when the Hub cannot be reached and CheckpointError when
    the file is of another network.
    """
    from lerobot_ops.policies.weights import read_tensors

    tensors = read_tensors(_weights_file(weights))
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    expected = {n: tensor for n, tensor in backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    wrong = [name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape]
    if wrong:
        raise CheckpointError(
            "the backbone's weights are of another network",
            field="policy.pretrained_backbone_weights",
            found=f"{weights}: {len(wrong)} of {len(expected)} tensors missing or of another shape, first {wrong[0]}",
            expected="torchvision's parameter names and shapes for policy.vision_backbone",
        )
    backbone.load_state_dict(backbone.state_dict() | {name: tensors[name] for name in expected})


def _weights_file(weights: str) -> Path:
    if Path(weights).is_file():
        return Path(weights)
    if weights not in HUB_WEIGHTS:
        raise ConfigError(
            "the backbone's weights are unknown",
            field="policy.pretrained_backbone_weights",
            found=weights,
            expected="a safetensors file, null, or a name",
            fix=did_you_mean(weights, HUB_WEIGHTS),
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_WEIGHTS[weights], "model.safetensors"))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise PrerequisiteError(
            "the backbone's ImageNet weights cannot be fetched",
            field="policy.pretrained_backbone_weights",
            found=f"{HUB_WEIGHTS[weights]}: {str(error).splitlines()[0]}",
            fix="connect to the Hub once, give a safetensors file, or pass --policy.pretrained_backbone_weights=null",
        ) from None


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _layer(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    width: int,
    depth: int,
    norm: Norm,
    *,
    stride: int,
    dilate: bool = False,
) -> nn.Sequential:
    """`depth` blocks, the first with the stride; `dilate` looks wider in the others in place of the stride."""
    outputs = width * block.expansion
    stride, dilation = (1, stride) if dilate else (stride, 1)
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), norm(outputs))
    blocks = [block(inputs, width, stride, 1, shortcut, norm)]
    blocks += [block(outputs, width, 1, dilation, None, norm) for _ in range(1, depth)]
    return nn.Sequential(*blocks)
