"""What VQ-BeT makes of a token's features: which codes are likely, one choice of them, and how to correct it.

Shapes below: B batch, Q queries for a chunk, N = B Q, W actions of a chunk, A action, K codes of a layer, L = 2 layers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.vqbet.codes import LAYERS, VqVae
from lerobot_ops.policies.vqbet.config import VQBeTConfig
from lerobot_ops.policies.vqbet.mlp import mlp

FOCUS = 2.0
"""How much less a code costs that is predicted well already (focal loss: https://arxiv.org/abs/1708.02002)."""


@dataclass(frozen=True)
class Prediction:
    """The chunks that were predicted, and how."""

    logits: Tensor
    """(N, L, K)"""
    codes: Tensor
    """(N, L), drawn"""
    decoded: Tensor
    """(N, W, A), what the codes stand for"""
    actions: Tensor
    """(N, W, A), that corrected"""


class VQBeTHead(nn.Module):
    """Features (B, Q, D) -> a Prediction."""

    def __init__(self, config: VQBeTConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.gpt_output_dim, config.vqvae_n_embed
        self.vqvae_model = VqVae(config)
        if config.sequentially_select:
            self.map_to_cbet_preds_primary_bin = mlp(width, count)
            self.map_to_cbet_preds_secondary_bin = mlp(width + count, count)
        else:
            self.map_to_cbet_preds_bin = mlp(width, LAYERS * count)
        size = config.action_chunk_size * config.action_dim
        self.map_to_cbet_preds_offset = mlp(width, LAYERS * count * size)

    def forward(self, features: Tensor, draws: Draws) -> Prediction:
        features = features.flatten(0, 1)
        logits, codes = self._choose(features, draws)
        offsets = self.map_to_cbet_preds_offset(features).unflatten(-1, (LAYERS, self.config.vqvae_n_embed, -1))
        chosen = codes[:, :, None, None].expand(-1, -1, 1, offsets.shape[-1])
        offset = offsets.gather(2, chosen).squeeze(2).sum(dim=1)  # (N, W A)
        decoded = self.vqvae_model.decode(codes)
        return Prediction(logits, codes, decoded, decoded + offset.view_as(decoded))

    def loss(self, predicted: Prediction, chunks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the chunks (N, W, A) that were done, and what it is made of."""
        config, codes = self.config, self.vqvae_model.encode(chunks)
        primary, secondary = (_focal_loss(predicted.logits[:, layer], codes[:, layer]) for layer in range(LAYERS))
        classification = primary * config.primary_code_loss_weight + secondary * config.secondary_code_loss_weight
        offset = F.l1_loss(chunks, predicted.actions)
        with torch.no_grad():
            error = (chunks - predicted.actions).abs()
            hits = (codes == predicted.codes).float().mean(dim=0)
            parts = {
                "classification_loss": classification.detach(),
                "offset_loss": offset.detach(),
                "equal_primary_code_rate": hits[0],
                "equal_secondary_code_rate": hits[1],
                "vq_action_error": (chunks - predicted.decoded).abs().mean(),
                "offset_action_error": error.mean(),
                "action_error_max": error.max(),
                "action_mse_error": error.square().mean(),
            }
        return classification + config.offset_loss_weight * offset, parts

    def _choose(self, features: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The codes' logits (N, L, K), and one draw of them (N, L)."""
        if self.config.sequentially_select:
            coarse = self.map_to_cbet_preds_primary_bin(features)
            first = self._draw(coarse, draws)
            given = F.one_hot(first.squeeze(-1), self.config.vqvae_n_embed)
            fine = self.map_to_cbet_preds_secondary_bin(torch.cat([features, given], dim=-1))
            return torch.stack([coarse, fine], dim=1), torch.cat([first, self._draw(fine, draws)], dim=1)
        logits = self.map_to_cbet_preds_bin(features).unflatten(-1, (LAYERS, -1))
        return logits, self._draw(logits.flatten(0, 1), draws).view(-1, LAYERS)

    def _draw(self, logits: Tensor, draws: Draws) -> Tensor:
        return draws.choose(torch.softmax(logits.detach() / self.config.bet_softmax_temperature, dim=-1))


def _focal_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """The mean over (N, K) logits and their codes (N,)."""
    log_chance = F.log_softmax(logits, dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
    return (-((1 - log_chance.exp()) ** FOCUS) * log_chance).mean()
