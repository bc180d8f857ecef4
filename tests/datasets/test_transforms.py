"""Image transforms: they change bytes and floats alike, all frames of a window in one way, and say what is misspelt."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import LEROBOT

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.transforms.kinds import KINDS
from lerobot_ops.datasets.transforms.transforms import (
    ImageTransformConfig,
    ImageTransforms,
    ImageTransformsConfig,
    row_generator,
)
from lerobot_ops.errors import ConfigError

FRONT = "observation.images.front"
NEEDED = {"SharpnessJitter": {"sharpness": (0.2, 0.4)}, "RandomAffine": {"degrees": 10, "translate": (0.1, 0.1)}}
NEEDED |= {"ColorJitter": {"brightness": (0.5, 0.7), "contrast": 0.5, "saturation": 0.5, "hue": 0.1}}


def only(kind: str, **kwargs: object) -> ImageTransforms:
    tf = ImageTransformConfig(type=kind, kwargs=kwargs or NEEDED.get(kind, {}))
    return ImageTransforms(ImageTransformsConfig(enable=True, tfs={"it": tf}))


def picture(count: int = 2) -> torch.Tensor:
    """A window of the same frame [count, 3, 48, 64]: a gradient with a bright square."""
    frame = torch.zeros(3, 48, 64, dtype=torch.uint8)
    frame[0], frame[1], frame[2] = torch.arange(64) * 3, 90, torch.arange(48)[:, None] * 5
    frame[:, 8:24, 10:26] = 220
    return frame.expand(count, -1, -1, -1).contiguous()


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"Identity"}))
def test_bytes_change_as_floats_do(kind: str) -> None:
    frames = picture()
    found = only(kind)(frames, seeded())
    assert (found.dtype, found.shape) == (torch.uint8, frames.shape)
    assert not torch.equal(found, frames)
    as_floats = only(kind)(frames / 255, seeded())
    assert as_floats.dtype == torch.float32
    assert float(as_floats.min()) >= 0
    assert float(as_floats.max()) <= 1
    assert (as_floats * 255 - found).abs().max() <= 0.51
    assert torch.equal(frames, picture())  # what was given is as it was


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"Identity", "GaussianNoise"}))
def test_a_window_changes_as_one(kind: str) -> None:
    found = only(kind)(picture(3), seeded(4))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], only(kind)(picture(1)[0], seeded(4)))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
)
def test_any_frame_keeps_its_shape_and_range(kind: str, seed: int, size: tuple[int, int], channels: int) -> None:
    frames = torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=seeded(seed))
    found = only(kind)(frames, seeded(seed))
    assert (found.shape, found.dtype) == (frames.shape, frames.dtype)
    assert torch.equal(found, only(kind)(frames, seeded(seed)))
    half = only(kind)(frames.double() / 255, seeded(seed))
    assert float(half.min()) >= 0
    assert float(half.max()) <= 1


def test_what_the_transforms_do() -> None:
    frames = picture(1)
    grey = only("ColorJitter", saturation=(0, 0))(frames)
    assert (grey[:, 0].int() - grey[:, 1].int()).abs().max() <= 1
    assert torch.equal(only("ColorJitter", brightness=(0.5, 0.5))(frames), (frames / 255 * 0.5 * 255).round().byte())
    assert (only("ColorJitter", hue=(0, 0))(frames).int() - frames.int()).abs().max() <= 1
    third = only("ColorJitter", hue=(1 / 3, 1 / 3))(frames)  # red becomes green, green blue, blue red
    assert (third.int() - frames[:, [2, 0, 1]].int()).abs().max() <= 1
    assert only("ColorJitter", contrast=(0, 0))(frames).unique().numel() == 1
    assert torch.equal(only("SharpnessJitter", sharpness=(1, 1))(frames), frames)
    assert torch.equal(only("RandomAffine", degrees=0)(frames), frames)
    square = torch.rand(3, 32, 32)
    turned = only("RandomAffine", degrees=(90, 90))(square)
    assert torch.equal(turned, square.rot90(-1, (1, 2)))
    assert torch.equal(only("GammaCorrection", gamma=1)(frames), frames)
    assert torch.equal(only("MotionBlur", kernel_size=1)(frames), frames)
    assert (only("GammaCorrection", gamma=(2, 2))(frames) <= frames).all()
    cold = only("PlanckianJitter", temperature=15000)(frames).int() - frames.int()
    assert int(cold[:, 0].max()) <= 0 <= int(cold[:, 2].min())
    assert not cold[:, 1].any()
    holes = only("CoarseDropout", max_holes=3, fill_value=1.0)(torch.zeros(3, 48, 64))
    assert set(holes.unique().tolist()) == {0.0, 1.0}


def test_lerobots_defaults() -> None:
    config = ImageTransformsConfig()
    assert (config.enable, config.max_num_transforms, config.random_order) == (False, 3, False)
    assert [*config.tfs] == ["brightness", "contrast", "saturation", "hue", "sharpness", "affine"]
    assert config.tfs["affine"].kwargs == {"degrees": (-5.0, 5.0), "translate": (0.05, 0.05)}
    assert ImageTransforms(config)(picture()).equal(picture())
    assert not ImageTransforms(config.altered("enable", True))(picture(), seeded(1)).equal(picture())


def test_as_many_are_drawn_as_are_asked_for_by_their_weights() -> None:
    dark = ImageTransformConfig(type="ColorJitter", kwargs={"brightness": (0, 0)})
    never, hardly = dark.altered("weight", 0.0), dark.altered("weight", 1e-9)
    same = ImageTransformConfig()
    config = ImageTransformsConfig(enable=True, max_num_transforms=1, tfs={"a": never, "b": hardly, "c": same})
    transforms = ImageTransforms(config)
    assert all(torch.equal(transforms(picture(), seeded(number)), picture()) for number in range(50))
    both = ImageTransforms(config.altered("max_num_transforms", 9))
    assert not both(picture()).any()


@pytest.mark.parametrize(
    ("tf", "message"),
    [
        ({"type": "ColourJitter"}, r"no such image transform(.|\n)*front.type(.|\n)*did you mean 'ColorJitter'"),
        ({"type": "ColorJitter", "kwargs": {"brigthness": 1}}, r"front.kwargs.brigthness(.|\n)*'brightness'"),
        ({"type": "GaussianNoise", "kwargs": {"std": (9, 3)}}, r"front.kwargs.std(.|\n)*low <= high"),
        ({"type": "MotionBlur", "kwargs": {"kernel_size": (4, 4)}}, "odd number"),
        ({"type": "RandomAffine"}, r"front.kwargs.degrees(.|\n)*Field required"),
    ],
)
def test_what_is_misspelt_is_named(tf: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageTransforms(ImageTransformsConfig(enable=True, tfs={"front": ImageTransformConfig(**tf)}))


def test_items_are_changed_and_batches_are_not() -> None:
    root = LEROBOT / "two_task_h264"
    dark = only("ColorJitter", brightness=(0.5, 0.5))
    deltas = {FRONT: [-1 / 30, 0.0]}
    for as_bytes in (False, True):
        plain = LeRobotDataset(root, delta_timestamps=deltas, return_uint8=as_bytes)
        changed = LeRobotDataset(root, delta_timestamps=deltas, return_uint8=as_bytes, image_transforms=dark)
        assert torch.equal(changed[5][FRONT], dark(plain[5][FRONT]))
        assert changed[5][FRONT].dtype == plain[5][FRONT].dtype
        assert np.array_equal(changed.batch([5])[FRONT], plain.batch([5])[FRONT])


def test_one_row_is_changed_alike_whenever_it_is_read() -> None:
    noise = only("GaussianNoise")
    first, again = (noise(picture(), row_generator(7, 2, 30)) for _ in range(2))
    assert torch.equal(first, again)
    for other in (row_generator(8, 2, 30), row_generator(7, 3, 30), row_generator(7, 2, 31)):
        assert not torch.equal(first, noise(picture(), other))
    assert not torch.equal(first[0], first[1])  # a sensor's noise is new in every frame
