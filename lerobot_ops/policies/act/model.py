"""ACT: one observation in, a chunk of actions out.

Tokens of the robot's state, the environment's state, every camera's feature map and a latent go through a transformer
encoder; a decoder with one learned query per action of the chunk attends to them. In training the latent comes from a
VAE encoder that sees the actions; at inference it is zero, the mean of its prior. State-dict names and shapes are
LeRobot's. Shapes below: B batch, T chunk, A action, D width, L tokens.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.act.transformer import Decoder, Encoder
from lerobot_ops.policies.losses import mean_without_padding
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.resnet import ResNet, channels_last, fold_norms, load_imagenet
from lerobot_ops.processors.features import ACTION, ENVIRONMENT_STATE, STATE
from lerobot_ops.processors.steps import Batch


class ACTPolicy(Policy):
    """ACT with its loss and its temporal ensemble."""

    config: ACTConfig

    def __init__(self, config: ACTConfig, *, pretrained_backbone: bool = True) -> None:
        super().__init__(config)
        self.model = ACT(config)
        if pretrained_backbone and config.image_features and config.pretrained_backbone_weights:
            load_imagenet(self.model.backbone, config.pretrained_backbone_weights)
        self.reset()

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        actions, latent = self.model(batch)
        l1_loss = mean_without_padding(F.l1_loss(actions, batch[ACTION], reduction="none"), batch["action_is_pad"])
        if latent is None:
            return l1_loss, {"l1_loss": l1_loss.detach()}
        mean, log_variance = latent
        kld_loss = (-0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp())).sum(-1).mean()
        parts = {"l1_loss": l1_loss.detach(), "kld_loss": kld_loss.detach()}
        return l1_loss + self.config.kl_weight * kld_loss, parts

    @torch.no_grad()
    def predict_chunk(self, batch: Batch) -> Tensor:
        actions: Tensor = self.model(batch)[0]
        return actions

    def slim(self) -> None:
        for name in [name for name, _ in self.model.named_children() if name.startswith("vae_encoder")]:
            delattr(self.model, name)
        if self.config.image_features:
            fold_norms(self.model.backbone)
            channels_last(self.model.backbone)

    def adapts(self, name: str, module: nn.Module) -> bool:
        # LeRobot's attention is torch's own, which reads the weight of `out_proj` and passes the layer by
        return type(module) is nn.Linear and not name.endswith("out_proj")

    def parameter_groups(self) -> list[dict[str, Any]]:
        backbone = [p for name, p in self.named_parameters() if name.startswith("model.backbone.")]
        others = [p for name, p in self.named_parameters() if not name.startswith("model.backbone.")]
        return [{"params": others}, {"params": backbone, "lr": self.config.optimizer_lr_backbone}]

    def reset(self) -> None:
        super().reset()
        coefficient = self.config.temporal_ensemble_coeff
        self.ensemble = None if coefficient is None else TemporalEnsemble(coefficient)

    def combined(self, chunk: Tensor) -> Tensor:
        return chunk[:, 0] if self.ensemble is None else self.ensemble(chunk)

    @torch.no_grad()
    def select_action(self, batch: Batch) -> Tensor:
        if self.ensemble is None:
            return super().select_action(batch)
        return self.combined(self.predict_chunk(batch))


class ACT(nn.Module):
    """The network: a normalised batch -> actions (B, T, A), and the latent's (mean, log variance) in training."""

    vae_encoder_pos_enc: Tensor

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        self.config = config
        width, inputs = config.dim_model, config.input_features
        self.has_state, self.has_environment = STATE in inputs, ENVIRONMENT_STATE in inputs
        if config.use_vae:
            self.vae_encoder = Encoder(config, config.n_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, width)
            if self.has_state:
                self.vae_encoder_robot_state_input_proj = nn.Linear(inputs[STATE].shape[0], width)
            self.vae_encoder_action_input_proj = nn.Linear(config.action_dim, width)
            self.vae_encoder_latent_output_proj = nn.Linear(width, 2 * config.latent_dim)
            length = 1 + self.has_state + config.chunk_size
            self.register_buffer("vae_encoder_pos_enc", sinusoid(length, width).unsqueeze(0))
        if config.image_features:
            self.backbone = ResNet(config.vision_backbone, dilate_last=config.replace_final_stride_with_dilation)
        self.encoder = Encoder(config, config.n_encoder_layers)
        self.decoder = Decoder(config, config.n_decoder_layers)
        if self.has_state:
            self.encoder_robot_state_input_proj = nn.Linear(inputs[STATE].shape[0], width)
        if self.has_environment:
            self.encoder_env_state_input_proj = nn.Linear(inputs[ENVIRONMENT_STATE].shape[0], width)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, width)
        if config.image_features:
            self.encoder_img_feat_input_proj = nn.Conv2d(self.backbone.channels, width, kernel_size=1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + self.has_state + self.has_environment, width)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, width)
        self.action_head = nn.Linear(width, config.action_dim)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        distribution = self._posterior(batch) if self.config.use_vae and self.training else None
        size = batch[next(iter(self.config.input_features))].shape[0]
        if distribution is None:
            latent = self.encoder_latent_input_proj.weight.new_zeros(size, self.config.latent_dim)
        else:
            mean, log_variance = distribution
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        tokens, positions = self._tokens(batch, latent)
        memory = self.encoder(tokens, positions)
        queries = tokens.new_zeros(size, self.config.chunk_size, self.config.dim_model)
        out = self.decoder(queries, memory, self.decoder_pos_embed.weight.unsqueeze(0), positions)
        return self.action_head(out), distribution

    def _posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The latent's mean and log variance (B, Z each), given what the robot did."""
        actions, padded = batch[ACTION], batch["action_is_pad"]
        tokens = [self.vae_encoder_cls_embed.weight.expand(len(actions), 1, -1)]
        if self.has_state:
            tokens.append(self.vae_encoder_robot_state_input_proj(batch[STATE]).unsqueeze(1))
        always = padded.new_zeros(len(actions), len(tokens))
        tokens.append(self.vae_encoder_action_input_proj(actions))
        mask = torch.cat([always, padded], dim=1)
        out = self.vae_encoder(torch.cat(tokens, dim=1), self.vae_encoder_pos_enc, mask, wanted=1)[:, 0]
        mean, log_variance = self.vae_encoder_latent_output_proj(out).chunk(2, dim=-1)
        return mean, log_variance

    def _tokens(self, batch: Batch, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input (B, L, D) and its positions (1, L, D): latent, states, then the cameras in turn."""
        vectors = [self.encoder_latent_input_proj(latent)]
        if self.has_state:
            vectors.append(self.encoder_robot_state_input_proj(batch[STATE]))
        if self.has_environment:
            vectors.append(self.encoder_env_state_input_proj(batch[ENVIRONMENT_STATE]))
        tokens, positions = [torch.stack(vectors, dim=1)], [self.encoder_1d_feature_pos_embed.weight]
        for name in self.config.image_features:
            features = self.encoder_img_feat_input_proj(self.backbone(batch[name]))  # (B, D, h, w)
            positions.append(sinusoid_2d(features).flatten(1).T)
            tokens.append(features.flatten(2).transpose(1, 2))
        return torch.cat(tokens, dim=1), torch.cat(positions).unsqueeze(0)


class TemporalEnsemble:
    """The weighted average of what successive chunks say about the present step (section IV-B of the paper).

    The prediction of the i-th oldest chunk weighs exp(-coefficient * i), so the oldest weighs most; kept online.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.average: Tensor | None = None
        self.counts = torch.empty(0)

    def __call__(self, chunk: Tensor) -> Tensor:
        """The action (B, A) for the present step, given the chunk (B, T, A) predicted at it."""
        weights = torch.exp(-self.coefficient * torch.arange(chunk.shape[1], device=chunk.device))
        if self.average is None:
            self.average = chunk.clone()
            self.counts = torch.ones(chunk.shape[1], dtype=torch.long, device=chunk.device)
        else:
            total = weights.cumsum(0)
            weight = weights[self.counts].unsqueeze(-1)
            before = total[self.counts - 1].unsqueeze(-1)
            updated = (self.average * before + chunk[:, :-1] * weight) / (before + weight)
            self.average = torch.cat([updated, chunk[:, -1:]], dim=1)
            self.counts = torch.cat([self.counts + 1, self.counts.new_ones(1)])
        action, self.average, self.counts = self.average[:, 0], self.average[:, 1:], self.counts[1:]
        return action


def sinusoid(length: int, width: int) -> Tensor:
    """The positions of a sequence (length, width): sine on even, cosine on odd dimensions."""
    frequencies = 10000 ** (2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) / frequencies
    angles[:, 0::2].sin_()
    angles[:, 1::2].cos_()
    return angles.float()


def sinusoid_2d(features: Tensor) -> Tensor:
    """The positions (D, h, w) of a feature map (B, D, h, w): rows in the first half of D, columns in the second."""
    width, height, columns = features.shape[1] // 2, features.shape[2], features.shape[3]
    rows = _axis(height, width, features.device)[:, None, :].expand(height, columns, width)
    places = _axis(columns, width, features.device)[None, :, :].expand(height, columns, width)
    return torch.cat([rows, places], dim=-1).permute(2, 0, 1)


def _axis(length: int, width: int, device: torch.device) -> Tensor:
    """Positions 1 to `length` scaled to 2 pi, as (length, width): sine and cosine interleaved."""
    places = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    places = places / (places[-1] + 1e-6) * (2 * math.pi)
    frequencies = 10000 ** (2 * (torch.arange(width, dtype=torch.float32, device=device) // 2) / width)
    angles = places.unsqueeze(1) / frequencies
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)
