from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from lerobot_ops.errors import CheckpointError, ConfigError, PrerequisiteError
from lerobot_ops.policies import make_policy
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.resnet import FrozenBatchNorm2d, ResNet, channels_last, fold_norms, load_imagenet


@pytest.mark.parametrize(
    ("name", "dilate", "shape", "parameters"),
    [
        ("resnet18", False, (512, 3, 4), 11_176_512 - 9_600),
        ("resnet34", False, (512, 3, 4), 21_284_672 - 17_024),
        ("resnet50", False, (2048, 3, 4), 23_508_032 - 53_120),
        ("resnet50", True, (2048, 6, 8), 23_508_032 - 53_120),
    ],
)
def test_sizes(name: str, dilate: bool, shape: tuple[int, ...], parameters: int) -> None:
    """Parameters are torchvision's without the classifier and batch normalisation's, which are constants here."""
    network = ResNet(name, dilate_last=dilate)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 96, 128)).shape[1:] == shape


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = ResNet("resnet18").state_dict()
    save_file(
        {**tensors, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "r.safetensors"
    )
    config = ACTConfig(
        input_features={"observation.image": {"type": "VISUAL", "shape": [3, 64, 64]}},
        output_features={"action": {"type": "ACTION", "shape": [2]}},
        pretrained_backbone_weights=str(tmp_path / "r.safetensors"),
    )
    loaded = make_policy(config).state_dict()
    assert all(torch.equal(loaded[f"model.backbone.{name}"], tensor) for name, tensor in tensors.items())
    assert config.portable().pretrained_backbone_weights is None
    with pytest.raises(CheckpointError, match="another network"):
        load_imagenet(ResNet("resnet50"), str(tmp_path / "r.safetensors"))


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'ResNet18_Weights\.IMAGENET1K_V1'"):
        load_imagenet(ResNet("resnet18"), "ResNet18_Weights.IMAGENET1K_V7")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="pretrained_backbone_weights=null"):
        load_imagenet(ResNet("resnet18"), "ResNet18_Weights.IMAGENET1K_V1")


def test_folded_normalisations_predict_the_same() -> None:
    torch.manual_seed(0)
    backbone = ResNet("resnet18", dilate_last=True).eval()
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    frames = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = backbone(frames)
        fold_norms(backbone)
        channels_last(backbone)
        assert not [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
        torch.testing.assert_close(backbone(frames), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_training_computes_what_prediction_does_and_its_gradients(name: str) -> None:
    """In training constant normalisations scale weights, and large images are laid out in another way."""
    torch.manual_seed(0)
    network = ResNet(name, dilate_last=True).double()
    for norm in network.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2), norm.weight.uniform_(0.3, 0.8)
    images = torch.rand(5, 3, 224, 240, dtype=torch.float64, requires_grad=True)
    found = []
    for training in (False, True):
        network.train(training)
        features = network(images)
        wanted = [images, *network.parameters()]
        found.append([features, *torch.autograd.grad(features.square().mean(), wanted)])
    for predicted, trained in zip(*found, strict=True):
        torch.testing.assert_close(predicted, trained, rtol=1e-9, atol=1e-12)
