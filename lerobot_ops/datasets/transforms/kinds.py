"""The image transforms there are: each draws its parameters once, and changes all frames it is given by them.

Frames are floating point [n, channels, height, width] in [0, 1], and so is what comes back.
"""

import io
import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BeforeValidator, Field

from lerobot_ops.config import Config


class Draw:
    """Random numbers from one generator, or from torch's global one."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator))

    def order(self, count: int) -> list[int]:
        numbers: list[int] = torch.randperm(count, generator=self._generator).tolist()
        return numbers

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._generator, dtype=like.dtype).to(like.device)


Pair = tuple[float, float]
"""(low, high) of a number that is drawn uniformly; a number alone stands for a pair, by each parameter's own rule."""
Whole = tuple[int, int]
"""The same for whole numbers, both included."""


def _within(low: float, high: float) -> AfterValidator:
    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not low <= value[0] <= value[1] <= high:
            raise ValueError(f"(low, high) with {low:g} <= low <= high <= {high:g}")
        return value

    return AfterValidator(check)


def _both(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


def _around_one(value: Any) -> Any:
    """torchvision's rule for factors: a number x stands for (1 - x, 1 + x), not below 0."""
    return (max(0.0, 1.0 - value), 1.0 + value) if isinstance(value, int | float) and value >= 0 else value


def _around_zero(value: Any) -> Any:
    return (-abs(value), abs(value)) if isinstance(value, int | float) else value


def _from_zero(value: Any) -> Any:
    return (0.0, value) if isinstance(value, int | float) else value


def _log_symmetric(value: Any) -> Any:
    single = isinstance(value, int | float) and value > 0
    return (min(value, 1 / value), max(value, 1 / value)) if single else value


def _check_parts(value: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= part <= 1 for part in value):
        raise ValueError("two parts of the frame, each from 0 to 1")
    return value


def _check_odd(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] | 1 > value[1]:
        raise ValueError("a range with an odd number in it")
    return value


INFINITE = float("inf")
_Factor = Annotated[Pair, _within(0, INFINITE), BeforeValidator(_around_one)]


class Kind(Config):
    """A transform with its parameters."""

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        raise NotImplementedError


class Identity(Kind):
    """Nothing."""

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        return frames


class ColorJitter(Kind):
    """Brightness, contrast and saturation by factors, and the hue by a part of the circle, in a random order."""

    brightness: _Factor | None = None
    contrast: _Factor | None = None
    saturation: _Factor | None = None
    hue: Annotated[Pair, _within(-0.5, 0.5), BeforeValidator(_around_zero)] | None = None

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        changes = (("brightness", _brighten), ("contrast", _contrast), ("saturation", _saturate), ("hue", _turn_hue))
        for place in draw.order(len(changes)):
            name, change = changes[place]
            span = getattr(self, name)
            if span is not None:
                frames = change(frames, draw.uniform(*span))
        return frames


class SharpnessJitter(Kind):
    """Sharpness by a factor: 0 blurs, 1 leaves it, 2 doubles the difference from the blurred frame."""

    sharpness: _Factor

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        factor = draw.uniform(*self.sharpness)
        if min(frames.shape[-2:]) < 3:
            return frames
        kernel = frames.new_ones((3, 3))
        kernel[1, 1] = 5
        blurred = frames.clone()
        blurred[..., 1:-1, 1:-1] = _convolved(frames, kernel / kernel.sum())
        return _blend(frames, blurred, factor)


class RandomAffine(Kind):
    """Rotation (degrees), shift (parts of width and height), scale and shear (degrees) around the middle."""

    degrees: Annotated[Pair, _within(-INFINITE, INFINITE), BeforeValidator(_around_zero)]
    translate: Annotated[tuple[float, float], AfterValidator(_check_parts)] | None = None
    scale: Annotated[Pair, _within(1e-6, INFINITE), BeforeValidator(_both)] | None = None
    shear: Annotated[Pair, _within(-90, 90), BeforeValidator(_around_zero)] | None = None
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: float = Field(default=0.0, ge=0, le=1)
    """What is outside of the frame, in [0, 1]."""

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        height, width = frames.shape[-2:]
        angle = math.radians(draw.uniform(*self.degrees))
        across, down = self.translate or (0.0, 0.0)
        shift = draw.uniform(-across, across) * width, draw.uniform(-down, down) * height
        scale = draw.uniform(*self.scale) if self.scale else 1.0
        shear = math.tan(math.radians(draw.uniform(*self.shear))) if self.shear else 0.0
        cos, sin = math.cos(angle), math.sin(angle)
        forward = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, shear], [0.0, 1.0]])
        back = np.linalg.inv(forward)
        offset = -back @ np.array(shift)
        # From pixels around the middle to the coordinates of `grid_sample`, which are -1 and 1 at the edges.
        half = np.array([width, height]) / 2
        theta = np.concatenate([back * half[None] / half[:, None], (offset / half)[:, None]], axis=1)
        grid = F.affine_grid(frames.new_tensor(theta)[None], [1, 1, height, width], align_corners=False)
        grid = grid.expand(len(frames), -1, -1, -1)
        moved = F.grid_sample(frames - self.fill, grid, mode=self.interpolation, align_corners=False)
        return moved + self.fill


class GaussianNoise(Kind):
    """Noise of a sensor, new in every frame; its standard deviation is in levels of 0 to 255."""

    std: Annotated[Pair, _within(0, INFINITE), BeforeValidator(_from_zero)] = (5.0, 25.0)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        deviation = draw.uniform(*self.std) / 255
        return (frames + draw.normal(frames) * deviation).clamp(0, 1)


class MotionBlur(Kind):
    """The mean along a line through each pixel, of a random direction and an odd number of pixels."""

    kernel_size: Annotated[Whole, _within(1, 999), BeforeValidator(_both), AfterValidator(_check_odd)] = (3, 11)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        first = self.kernel_size[0] | 1
        size = first + 2 * draw.integer(0, (self.kernel_size[1] - first) // 2)
        angle = draw.uniform(0, 2 * math.pi)
        radius = size // 2
        steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
        down, across = ((steps * part).round().long() + radius for part in (math.sin(angle), math.cos(angle)))
        kernel = frames.new_zeros((size, size))
        kernel[down, across] = 1
        padded = F.pad(frames, (radius,) * 4, mode="replicate")
        return _convolved(padded, kernel / kernel.sum()).clamp(0, 1)


class JPEGCompression(Kind):
    """Encoded as JPEG of a random quality, and decoded."""

    quality: Annotated[Whole, _within(1, 100), BeforeValidator(_both)] = (15, 75)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        quality = draw.integer(*self.quality)
        levels = (frames * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        done = np.stack([_through_jpeg(picture, quality) for picture in levels.permute(0, 2, 3, 1).numpy()])
        return (torch.from_numpy(done).permute(0, 3, 1, 2).to(frames) / 255).contiguous()


class GaussianPatchBrightness(Kind):
    """Round patches that are brighter or darker than the rest, as under uneven light."""

    num_patches: Annotated[Whole, _within(1, 999), BeforeValidator(_both)] = (1, 4)
    sigma_range: Annotated[Pair, _within(1e-6, INFINITE), BeforeValidator(_both)] = (0.05, 0.25)
    """Of each patch, as a part of the frame's width and height."""
    factor_range: Annotated[Pair, _within(0, INFINITE), BeforeValidator(_both)] = (0.4, 1.6)
    """The brightness in the middle of a patch."""

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        height, width = frames.shape[-2:]
        down = torch.linspace(0, 1, height, dtype=frames.dtype, device=frames.device)[:, None]
        across = torch.linspace(0, 1, width, dtype=frames.dtype, device=frames.device)
        light = frames.new_ones((height, width))
        for _ in range(draw.integer(*self.num_patches)):
            y, x = draw.uniform(0, 1), draw.uniform(0, 1)
            sigma, factor = draw.uniform(*self.sigma_range), draw.uniform(*self.factor_range)
            light = light * (1 + (factor - 1) * torch.exp(-((down - y) ** 2 + (across - x) ** 2) / (2 * sigma**2)))
        return (frames * light).clamp(0, 1)


class RandomShadow(Kind):
    """A vertical band, a third to two thirds of the width, that is darker or brighter and has soft edges."""

    opacity: Annotated[Pair, _within(0, 1), BeforeValidator(_both)] = (0.3, 0.6)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        width = frames.shape[-1]
        opacity, share = draw.uniform(*self.opacity), draw.uniform(1 / 3, 2 / 3)
        begin = draw.uniform(0, 1) * (1 - share) * width
        sign = 1.0 if draw.integer(0, 1) else -1.0
        place = torch.arange(width, dtype=frames.dtype, device=frames.device) + 0.5
        soft = min(8.0, share * width / 2)  # the pixels over which an edge fades
        inside = torch.minimum(place - begin, begin + share * width - place)
        band = (inside / soft + 0.5).clamp(0, 1)
        return (frames * (1 + sign * opacity * band)).clamp(0, 1)


class CoarseDropout(Kind):
    """Rectangles that hide what is behind them."""

    max_holes: int = Field(default=8, ge=1)
    max_height_frac: float = Field(default=0.07, gt=0, le=1)
    max_width_frac: float = Field(default=0.07, gt=0, le=1)
    fill_value: float = Field(default=0.0, ge=0, le=1)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        height, width = frames.shape[-2:]
        frames = frames.clone()
        for _ in range(draw.integer(1, self.max_holes)):
            tall = max(1, round(draw.uniform(0, self.max_height_frac) * height))
            wide = max(1, round(draw.uniform(0, self.max_width_frac) * width))
            top, left = draw.integer(0, height - tall), draw.integer(0, width - wide)
            frames[..., top : top + tall, left : left + wide] = self.fill_value
        return frames


class GammaCorrection(Kind):
    """Another exposure: values to a power whose logarithm is uniform, so that as many get brighter as darker."""

    gamma: Annotated[Pair, _within(1e-6, INFINITE), BeforeValidator(_log_symmetric)] = (0.5, 2.0)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        low, high = (math.log(end) for end in self.gamma)
        return frames.clamp(0, 1).pow(math.exp(draw.uniform(low, high)))


class PlanckianJitter(Kind):
    """Light of another colour temperature, in kelvin: red and blue are scaled, green stays.

    Zini et al., "Planckian Jitter: countering the color-crippling effects of color jitter" (2022).
    """

    temperature: Annotated[Whole, _within(3000, 15000), BeforeValidator(_both)] = (3000, 15000)

    def apply(self, frames: torch.Tensor, draw: Draw) -> torch.Tensor:
        kelvin = draw.integer(*self.temperature)
        if frames.shape[1] != 3:
            return frames
        red, green, blue = (np.interp(kelvin, _KELVIN, column) for column in zip(*_BLACK_BODY, strict=True))
        return (frames * frames.new_tensor([red / green, 1.0, blue / green]).reshape(3, 1, 1)).clamp(0, 1)


KINDS: dict[str, type[Kind]] = {
    kind.__name__: kind
    for kind in (
        CoarseDropout,
        ColorJitter,
        GammaCorrection,
        GaussianNoise,
        GaussianPatchBrightness,
        Identity,
        JPEGCompression,
        MotionBlur,
        PlanckianJitter,
        RandomAffine,
        RandomShadow,
        SharpnessJitter,
    )
}

_KELVIN = np.arange(3000, 15001, 500)
# Red, green and blue of a black body at these temperatures, as the paper's authors tabulate them.
_BLACK_BODY = (
    (0.6743, 0.4029, 0.0013),
    (0.6281, 0.4241, 0.1665),
    (0.5919, 0.4372, 0.2513),
    (0.5623, 0.4457, 0.3154),
    (0.5376, 0.4515, 0.3672),
    (0.5163, 0.4555, 0.4103),
    (0.4979, 0.4584, 0.4468),
    (0.4816, 0.4604, 0.4782),
    (0.4672, 0.4619, 0.5053),
    (0.4542, 0.4630, 0.5289),
    (0.4426, 0.4638, 0.5497),
    (0.4320, 0.4644, 0.5681),
    (0.4223, 0.4648, 0.5844),
    (0.4135, 0.4651, 0.5990),
    (0.4054, 0.4653, 0.6121),
    (0.3980, 0.4654, 0.6239),
    (0.3911, 0.4655, 0.6346),
    (0.3847, 0.4656, 0.6444),
    (0.3787, 0.4656, 0.6532),
    (0.3732, 0.4656, 0.6613),
    (0.3680, 0.4655, 0.6688),
    (0.3632, 0.4655, 0.6756),
    (0.3586, 0.4655, 0.6820),
    (0.3544, 0.4654, 0.6878),
    (0.3503, 0.4653, 0.6933),
)


def _brighten(frames: torch.Tensor, factor: float) -> torch.Tensor:
    return (frames * factor).clamp(0, 1)


def _contrast(frames: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(frames, _grey(frames).mean(dim=(-3, -2, -1), keepdim=True), factor)


def _saturate(frames: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(frames, _grey(frames), factor)


def _blend(frames: torch.Tensor, other: torch.Tensor, factor: float) -> torch.Tensor:
    return (factor * frames + (1 - factor) * other).clamp(0, 1)


def _grey(frames: torch.Tensor) -> torch.Tensor:
    """The luma of ITU-R BT.601, [n, 1, height, width]."""
    if frames.shape[1] != 3:
        return frames
    red, green, blue = frames.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _turn_hue(frames: torch.Tensor, turn: float) -> torch.Tensor:
    """Every colour's hue moved by a part of the circle; value and saturation (of HSV) stay."""
    if frames.shape[1] != 3:
        return frames
    red, green, blue = frames.unbind(1)
    value, low = frames.amax(1), frames.amin(1)
    chroma = value - low
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = torch.remainder(hue + 6 * turn, 6)
    channels = []
    for start in (5, 3, 1):  # the textbook's f(n) = v - v s max(0, min(k, 4 - k, 1)) with k = (n + h / 60) mod 6
        place = torch.remainder(start + sixths, 6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)


def _convolved(frames: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Each channel by itself, without padding."""
    count, channels, height, width = frames.shape
    flat = frames.reshape(count * channels, 1, height, width)
    done = F.conv2d(flat, kernel[None, None])
    return done.reshape(count, channels, *done.shape[-2:])


def _through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [height, width, channels]."""
    from PIL import Image

    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(flat)).save(encoded, "jpeg", quality=quality)
    with Image.open(encoded) as image:
        return np.asarray(image).reshape(picture.shape)
