"""Small policies with many of the options, whose weights, inputs and random numbers follow from names and seeds alone.

So LeRobot's policy and ours can be built alike, and only what they compute needs to be kept. Needs numpy and torch.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 3
TASK = {"task": ["push the disc to its place", "pull it back"]}
"""Of the two rows that are acted on."""
STEPS = 9
"""Observations that are shown one after the other."""
CAMERA, OTHER = "observation.images.front", "observation.images.side"
STATE, GOAL = "observation.state", "observation.environment_state"

DIFFUSION: dict[str, Any] = {"type": "diffusion", "horizon": 8, "n_action_steps": 4, "down_dims": [8, 16]}
DIFFUSION |= {"kernel_size": 3, "diffusion_step_embed_dim": 8, "num_train_timesteps": 10, "n_groups": 4}
DIFFUSION |= {"spatial_softmax_num_keypoints": 4, "pretrained_backbone_weights": None}
VQBET: dict[str, Any] = {"type": "vqbet", "n_obs_steps": 2, "action_chunk_size": 3, "n_action_pred_token": 3}
VQBET |= {"crop_shape": None, "vqvae_n_embed": 4, "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8}
VQBET |= {"gpt_block_size": 12, "gpt_input_dim": 16, "gpt_output_dim": 24, "gpt_hidden_dim": 16, "gpt_n_layer": 2}
VQBET |= {"gpt_n_head": 2, "spatial_softmax_num_keypoints": 4, "dropout": 0.0, "pretrained_backbone_weights": None}

VECTORS, ONE, TWO = (STATE, GOAL), (STATE, CAMERA), (CAMERA, STATE, OTHER, GOAL)

CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "diffusion": (VECTORS, DIFFUSION),
    "diffusion one step": (VECTORS, DIFFUSION | {"n_obs_steps": 1}),
    "diffusion three steps": (VECTORS, DIFFUSION | {"n_obs_steps": 3, "n_action_steps": 6}),
    "diffusion ddim sample": (
        VECTORS,
        DIFFUSION | {"noise_scheduler_type": "DDIM", "num_inference_steps": 4, "prediction_type": "sample"},
    ),
    "diffusion ddim linear": (
        VECTORS,
        DIFFUSION | {"noise_scheduler_type": "DDIM", "beta_schedule": "linear", "clip_sample_range": 0.7},
    ),
    "diffusion ddpm few": (VECTORS, DIFFUSION | {"num_inference_steps": 3, "beta_schedule": "scaled_linear"}),
    "diffusion sample unclipped": (VECTORS, DIFFUSION | {"prediction_type": "sample", "clip_sample": False}),
    "diffusion masked": (VECTORS, DIFFUSION | {"do_mask_loss_for_padding": True}),
    "diffusion bias only": (VECTORS, DIFFUSION | {"use_film_scale_modulation": False, "kernel_size": 5}),
    "diffusion one stage": (VECTORS, DIFFUSION | {"down_dims": [16], "gradient_checkpointing": True}),
    "diffusion three stages": (VECTORS, DIFFUSION | {"down_dims": [8, 16, 32]}),
    "diffusion cameras": (TWO, DIFFUSION | {"crop_shape": [40, 33]}),
    "diffusion shared encoder": (
        TWO,
        DIFFUSION | {"use_separate_rgb_encoder_per_camera": False, "use_group_norm": True, "crop_is_random": False},
    ),
    "diffusion resized": (ONE, DIFFUSION | {"resize_shape": [40, 50], "crop_ratio": 0.9}),
    "diffusion resized only": (ONE, DIFFUSION | {"resize_shape": [33, 64], "crop_shape": [20, 20]}),
    "diffusion resnet50": (ONE, DIFFUSION | {"vision_backbone": "resnet50", "crop_shape": [33, 33]}),
    "vqbet": (ONE, VQBET),
    "vqbet codes": (ONE, VQBET | {"n_vqvae_training_steps": 2}),
    "vqbet sequential": (ONE, VQBET | {"sequentially_select": True, "crop_shape": [35, 41]}),
    "vqbet group norm": (ONE, VQBET | {"use_group_norm": True, "crop_shape": [32, 32], "crop_is_random": False}),
    "vqbet one step": (ONE, VQBET | {"n_obs_steps": 1, "n_action_pred_token": 1, "action_chunk_size": 1}),
    "vqbet resnet34": (ONE, VQBET | {"vision_backbone": "resnet34", "bet_softmax_temperature": 1.0}),
}

TINY_CLIP = str(Path(__file__).parents[1] / "data/_hf/tiny-clip")
ACT: dict[str, Any] = {"type": "act", "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1}
ACT |= {"n_vae_encoder_layers": 1, "latent_dim": 4, "chunk_size": 5, "n_action_steps": 4}
ACT |= {"pretrained_backbone_weights": None}
DIT: dict[str, Any] = {"type": "multi_task_dit", "horizon": 8, "n_action_steps": 4, "hidden_dim": 16, "num_layers": 2}
DIT |= {"num_heads": 2, "timestep_embed_dim": 8, "num_train_timesteps": 10, "dropout": 0.0}
DIT |= {"vision_encoder_name": TINY_CLIP, "text_encoder_name": TINY_CLIP, "tokenizer_max_length": 12}
DIT |= {"image_resize_shape": [64, 64], "image_crop_shape": None}

EXCHANGED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "act": (TWO, ACT),
    "act ensemble": (VECTORS, ACT | {"n_action_steps": 1, "temporal_ensemble_coeff": 0.01}),
    "multi_task_dit": (ONE, DIT),
    "multi_task_dit flow": (
        (CAMERA, STATE, OTHER),
        DIT | {"objective": "flow_matching", "num_integration_steps": 3, "use_rope": False},
    ),
    **{name: CASES[name] for name in ("diffusion", "diffusion cameras", "vqbet", "vqbet sequential")},
}
"""Policies of all types, whose checkpoints go from one to the other and back."""

ADAPTED: dict[str, list[str]] = {
    "act": ["linear1", "action_head"],
    "diffusion": ["cond_encoder.1", "conv1.block.0"],
    "vqbet": ["c_attn", "c_proj"],
    "multi_task_dit": ["qkv_proj", "q_proj", "v_proj"],
}
"""Those that get adapters too, and LeRobot's choice of their layers."""

FEATURES: dict[str, dict[str, Any]] = {
    STATE: {"type": "STATE", "shape": [3]},
    GOAL: {"type": "ENV", "shape": [2]},
    CAMERA: {"type": "VISUAL", "shape": [3, 47, 52]},
    OTHER: {"type": "VISUAL", "shape": [3, 47, 52]},
}


def config_values(name: str) -> dict[str, Any]:
    """The fields of the case's configuration."""
    inputs, values = (CASES | EXCHANGED)[name]
    outputs = {"action": {"type": "ACTION", "shape": [2]}}
    return {**values, "input_features": {key: FEATURES[key] for key in inputs}, "output_features": outputs}


def stats() -> dict[str, dict[str, np.ndarray]]:
    """Statistics of a dataset with all features."""
    found = {}
    for key, size in (("action", 2), (STATE, 3), (GOAL, 2)):
        found[key] = {"min": np.full(size, -2.0), "max": np.full(size, 3.0)}
        found[key] |= {"mean": np.linspace(0.1, 0.5, size), "std": np.linspace(0.5, 1.5, size)}
    frames = {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.2)}
    return found | dict.fromkeys((CAMERA, OTHER), frames)


def fill(policy: torch.nn.Module) -> None:
    """Weights, statistics and codebooks, each drawn from its own name; the codes of VQ-BeT count as learned."""
    learned = dict(policy.named_parameters())
    for name, tensor in policy.state_dict().items():
        if name.endswith(("running_var", "cluster_size")):
            tensor.copy_(_numbers(name, tensor).abs() + 0.5)
        elif name in learned or name.endswith(("running_mean", "_codebook.embed", "_codebook.embed_avg")):
            fan_in = int(np.prod(tensor.shape[1:])) if tensor.ndim > 1 else 1
            tensor.copy_(_numbers(name, tensor) / fan_in**0.5)
        elif name.endswith(("discretized", "freeze_codebook")):
            tensor.fill_(True)


def batch(name: str, *, training: bool) -> dict[str, torch.Tensor]:
    """What the case's policy reads, with the steps that it sees; frames as a preprocessor leaves them."""
    values = config_values(name)
    steps = values.get("n_obs_steps", 2)
    made = {
        key: _numbers(key, torch.empty(BATCH, steps, *feature["shape"])).clamp(-1, 1)
        for key, feature in values["input_features"].items()
    }
    if not training:
        return made
    length = values.get("horizon") or steps - 1 + values["n_action_pred_token"] + values["action_chunk_size"] - 1
    made["action"] = _numbers("action", torch.empty(BATCH, length, 2)).clamp(-1, 1)
    made["action_is_pad"] = torch.arange(length) >= torch.tensor([[length], [length - 2], [3]])
    return made


@contextlib.contextmanager
def known_draws() -> Iterator[None]:
    """Replace torch's random numbers by a sequence that is always the same."""
    generator = np.random.default_rng(0)

    def randn(*shape: Any, **options: Any) -> torch.Tensor:
        size = options.get("size", shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        return torch.from_numpy(generator.standard_normal(tuple(size)).astype(np.float32))

    def randint(*bounds: Any, **options: Any) -> torch.Tensor:
        low, high, size = (*bounds, options.get("low"), options.get("high"), options.get("size"))[:3]
        low, high = options.get("low", low), options.get("high", high)
        return torch.from_numpy(generator.integers(low, high, tuple(options.get("size", size))))

    def multinomial(chances: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        ends = chances.double().cumsum(-1)
        drawn = torch.from_numpy(generator.random((len(chances), 1))) * ends[:, -1:]
        return (ends < drawn).sum(-1, keepdim=True).clamp(max=chances.shape[-1] - 1)

    replaced: dict[str, Callable[..., Any]] = {"randn": randn, "randint": randint, "multinomial": multinomial}
    originals = {key: getattr(torch, key) for key in replaced}
    try:
        for key, function in replaced.items():
            setattr(torch, key, function)
        yield
    finally:
        for key, function in originals.items():
            setattr(torch, key, function)


def compute(name: str, policy: torch.nn.Module, chunk: Callable[[dict], torch.Tensor]) -> dict[str, Any]:
    """What the policy says: a chunk, a loss and its gradients' norms; where codes are learned, three losses."""
    with known_draws():
        found: dict[str, Any] = {"chunk": chunk(batch(name, training=False)).flatten().tolist()}
    policy.train()
    if name == "vqbet codes":
        for key, tensor in policy.state_dict().items():
            if key.endswith(("discretized", "freeze_codebook")):
                tensor.fill_(False)
        policy.load_state_dict(policy.state_dict())
    with known_draws():
        losses = []
        for _ in range(3 if name == "vqbet codes" else 1):
            policy.zero_grad()
            loss, parts = policy(batch(name, training=True))
            loss.backward()
            losses.append(loss.item())
    found["losses"] = losses
    found["parts"] = {key: float(value) for key, value in (parts or {}).items()}
    norms = {key: p.grad.norm().item() for key, p in policy.named_parameters() if p.grad is not None}
    found["gradients"] = {"count": len(norms), "norm": float(np.sqrt(sum(norm**2 for norm in norms.values())))}
    return found


def _numbers(name: str, like: torch.Tensor) -> torch.Tensor:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(like.shape))
    return torch.from_numpy(draw).to(torch.float32)
