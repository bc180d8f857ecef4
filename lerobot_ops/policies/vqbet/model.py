"""VQ-BeT (Lee et al. 2024, https://arxiv.org/abs/2403.03181): the last observations in, one of many likely chunks out.

A training has two phases. In the first, `n_vqvae_training_steps` long, chunks of actions are learned as pairs of codes.
In the second these stay, and a transformer learns which codes come next and how to correct what they stand for.
State-dict names and shapes are LeRobot's. Shapes below: B batch, S observed steps, P chunks from the present step on,
Q = S - 1 + P queries for a chunk, W actions of a chunk, A action, D width.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.rgb_encoder import RgbEncoder
from lerobot_ops.policies.vqbet.codes import LAYERS
from lerobot_ops.policies.vqbet.config import TOKENS_PER_STEP, VQBeTConfig
from lerobot_ops.policies.vqbet.gpt import GPT
from lerobot_ops.policies.vqbet.head import Prediction, VQBeTHead
from lerobot_ops.policies.vqbet.mlp import mlp
from lerobot_ops.processors.features import ACTION, STATE
from lerobot_ops.processors.steps import Batch


class VQBeTPolicy(Policy):
    """The network and its two phases of training."""

    config: VQBeTConfig

    def __init__(self, config: VQBeTConfig, *, pretrained_backbone: bool = True) -> None:
        super().__init__(config)
        self.vqbet = VQBeT(config, config.pretrained_backbone_weights if pretrained_backbone else None)
        self.steps_made = 0
        self.codes_are_learned: bool | None = None  # unknown until the buffer is read, for which a device has to wait
        self.register_load_state_dict_post_hook(_forget_phase)

    @property
    def discretized(self) -> bool:
        """Whether the first phase is over."""
        if self.codes_are_learned is None:
            self.codes_are_learned = bool(self.vqbet.action_head.vqvae_model.discretized.item())
        return self.codes_are_learned

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        chunks = batch[ACTION].unfold(1, self.config.action_chunk_size, 1).transpose(-1, -2)  # (B, Q, W, A)
        if self.discretized:
            return self.vqbet.action_head.loss(self.vqbet(batch, Draws()), chunks.flatten(0, 1))
        loss, error, codes = self.vqbet.action_head.vqvae_model(chunks.transpose(0, 1).flatten(0, 1))
        if self.training:
            self.steps_made += 1
            if self.steps_made >= self.config.n_vqvae_training_steps:
                self.vqbet.action_head.vqvae_model.freeze()
                self.codes_are_learned = True
        return loss, {**_variety(codes, self.config.vqvae_n_embed), "recon_l1_error": error}

    def resume(self, step: int) -> None:
        self.steps_made = step

    @torch.no_grad()
    def predict_chunk(self, batch: Batch, draws: Draws | None = None) -> Tensor:
        """The actions (B, W, A) from the present one on.

        Observations are (B, S, ...), or (B, ...) where one step is all that is seen. `draws` chooses the codes.
        """
        if not self.discretized:
            warnings.warn("this VQ-BeT is still in its first phase: it has learned codes, not to act", stacklevel=2)
        actions = self.vqbet(batch, draws or Draws()).actions
        chunks: Tensor = actions.unflatten(0, (-1, self.vqbet.queries))[:, self.config.n_obs_steps - 1]
        return chunks

    def check_adaptable(self) -> None:
        if not self.discretized:
            raise ConfigError(
                "this VQ-BeT is still in its first phase: it has no codes yet that an adapter could choose from",
                field="policy.path",
                fix="train it beyond n_vqvae_training_steps first, or train all of it, without --peft",
            )

    def adapts(self, name: str, module: nn.Module) -> bool:
        return type(module) is nn.Linear and "vqvae_model" not in name

    def parameter_groups(self) -> list[dict[str, Any]]:
        net, head = self.vqbet, self.vqbet.action_head
        decayed, others = net.policy.decayed()
        seeing = (net.rgb_encoder, net.state_projector, net.rgb_feature_projector)
        decayed += [parameter for module in seeing for parameter in module.parameters()]
        decayed += [net.action_token, *head.map_to_cbet_preds_offset.parameters()]
        if self.config.sequentially_select:
            decayed += head.map_to_cbet_preds_primary_bin.parameters()
            decayed += head.map_to_cbet_preds_secondary_bin.parameters()
        else:
            decayed += head.map_to_cbet_preds_bin.parameters()
        codes = [*head.vqvae_model.encoder.parameters(), *head.vqvae_model.decoder.parameters()]
        own = {"weight_decay": self.config.optimizer_vqvae_weight_decay, "lr": self.config.optimizer_vqvae_lr}
        return [{"params": decayed}, {"params": codes, **own}, {"params": others, "weight_decay": 0.0}]


class VQBeT(nn.Module):
    """Observations -> tokens -> features of the queries -> the head's Prediction."""

    def __init__(self, config: VQBeTConfig, weights: str | None) -> None:
        super().__init__()
        self.config = config
        self.queries = config.n_obs_steps - 1 + config.n_action_pred_token
        _, height, width = config.image_features[config.camera].shape
        self.rgb_encoder = RgbEncoder(
            config.vision_backbone,
            (height, width),
            points=config.spatial_softmax_num_keypoints,
            resize=None,
            crop=config.crop_shape,
            crop_is_random=config.crop_is_random,
            use_group_norm=config.use_group_norm,
            weights=weights,
        )
        self.action_token = nn.Parameter(torch.randn(1, 1, config.gpt_input_dim))
        self.state_projector = mlp(config.input_features[STATE].shape[0], config.gpt_input_dim)
        self.rgb_feature_projector = mlp(self.rgb_encoder.features, config.gpt_input_dim)
        self.policy = GPT(config)
        self.action_head = VQBeTHead(config)
        # which action each query's chunk holds: nothing here reads it, checkpoints hold it
        steps = torch.arange(self.queries).unsqueeze(1) + torch.arange(config.action_chunk_size)
        self.register_buffer("select_target_actions_indices", steps)

    def forward(self, batch: Batch, draws: Draws) -> Prediction:
        predicted: Prediction = self.action_head(self._features(batch), draws)
        return predicted

    def _features(self, batch: Batch) -> Tensor:
        """The features (B, Q, D) of the queries: one after every observation, then those for later chunks."""
        state: Tensor = batch[STATE] if batch[STATE].ndim == 3 else batch[STATE].unsqueeze(1)
        size, steps = state.shape[:2]
        if steps != self.config.n_obs_steps:
            raise ValueError(f"observations have {steps} steps, and n_obs_steps is {self.config.n_obs_steps}")
        frames = batch[self.config.camera].reshape(size * steps, *batch[self.config.camera].shape[-3:])
        seen = self.rgb_feature_projector(self.rgb_encoder(frames)).unflatten(0, (size, steps))
        query = self.action_token.expand(size, steps, -1)
        tokens = torch.stack([seen, self.state_projector(state), query], dim=2).flatten(1, 2)  # (B, 3 S, D)
        later = self.config.n_action_pred_token - 1
        features = self.policy(torch.cat([tokens, self.action_token.expand(size, later, -1)], dim=1))
        at_steps = features[:, TOKENS_PER_STEP - 1 : TOKENS_PER_STEP * steps : TOKENS_PER_STEP]
        return torch.cat([at_steps, features[:, TOKENS_PER_STEP * steps :]], dim=1)


def _variety(codes: Tensor, count: int) -> dict[str, Tensor]:
    """How many codes, and how many pairs of them, a batch's codes (N, L) make use of."""
    numbers = torch.arange(LAYERS, device=codes.device) * count
    single = torch.bincount((codes + numbers).flatten(), minlength=LAYERS * count)
    pairs = torch.bincount(codes[:, 0] * count + codes[:, 1], minlength=count * count)
    return {"n_different_codes": (single > 0).sum(), "n_different_combinations": (pairs > 0).sum()}


def _forget_phase(policy: nn.Module, _: Any) -> None:
    assert isinstance(policy, VQBeTPolicy)
    policy.codes_are_learned = None
