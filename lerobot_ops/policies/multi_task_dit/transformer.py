"""The transformer of Multi-task DiT: a noisy chunk of actions in, its noise, its clean form or its velocity out.

Every block is modulated by the time and the observation (adaptive layer norm with a gate, initialised to do nothing:
Peebles & Xie, https://arxiv.org/abs/2212.09748); positions are rotations of queries and keys. State-dict names and
shapes are LeRobot's. Shapes below: B batch, T horizon, A action, D width, C features of the observation.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.multi_task_dit.config import MultiTaskDiTConfig


class DiffusionTransformer(nn.Module):
    """(noisy actions (B, T, A), times (B,), observation (B, C)) -> (B, T, A)."""

    def __init__(self, config: MultiTaskDiTConfig, observation_features: int) -> None:
        super().__init__()
        width, time = config.hidden_dim, config.timestep_embed_dim
        self.time_mlp = nn.Sequential(
            TimeEmbedding(time), nn.Linear(time, 2 * time), nn.GELU(), nn.Linear(2 * time, time), nn.GELU()
        )
        self.input_proj = nn.Linear(config.action_dim, width)
        self.pos_embedding: Tensor | None = None
        if config.use_positional_encoding:
            self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, config.horizon, width))
        conditions = time + observation_features
        self.transformer_blocks = nn.ModuleList(Block(config, conditions) for _ in range(config.num_layers))
        self.output_proj = nn.Linear(width, config.action_dim)

    def forward(self, actions: Tensor, time: Tensor, observation: Tensor) -> Tensor:
        conditions = torch.cat([self.time_mlp(time), observation], dim=-1)
        hidden = self.input_proj(actions)
        if self.pos_embedding is not None:
            hidden = hidden + self.pos_embedding[:, : hidden.shape[1]]
        for block in self.transformer_blocks:
            hidden = block(hidden, conditions)
        predicted: Tensor = self.output_proj(hidden)
        return predicted


class TimeEmbedding(nn.Module):
    """Times (B,) -> sines and cosines (B, D) of geometrically spaced frequencies, from 1 to 1/10,000."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pairs = width // 2

    def forward(self, time: Tensor) -> Tensor:
        powers = torch.arange(self.pairs, device=time.device) * -(math.log(10000) / (self.pairs - 1))
        angles = time[:, None] * powers.exp()[None]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Block(nn.Module):
    """Attention and a perceptron, both shifted, scaled and gated by the conditions."""

    def __init__(self, config: MultiTaskDiTConfig, conditions: int) -> None:
        super().__init__()
        width = config.hidden_dim
        self.rotary = config.use_rope
        if self.rotary:
            self.attn = RotaryAttention(config)
        else:
            self.multihead_attn = nn.MultiheadAttention(
                width, config.num_heads, dropout=config.dropout, batch_first=True
            )
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        modulation = nn.Linear(conditions, 6 * width)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)

    def forward(self, hidden: Tensor, conditions: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            part.unsqueeze(1) for part in self.adaLN_modulation(conditions).chunk(6, dim=1)
        )
        seen = self.norm1(hidden) * (1 + scale_a) + shift_a
        attended = self.attn(seen) if self.rotary else self.multihead_attn(seen, seen, seen, need_weights=False)[0]
        hidden = hidden + gate_a * attended
        worked: Tensor = self.mlp(self.norm2(hidden) * (1 + scale_m) + shift_m)
        return hidden + gate_m * worked


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are turned by their position (Su et al., https://arxiv.org/abs/2104.09864)."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: MultiTaskDiTConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.heads, self.dropout = config.num_heads, config.dropout
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        side = width // config.num_heads
        frequencies = 1.0 / (config.rope_base ** (torch.arange(0, side, 2).float() / side))
        angles = torch.outer(torch.arange(config.horizon, dtype=torch.float32), frequencies)
        angles = torch.cat([angles, angles], dim=-1)  # the first half of a head turns with the second
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        heads = self.qkv_proj(hidden).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, side)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(self._turned(query), self._turned(key), value, dropout_p=dropout)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return projected

    def _turned(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        length = heads.shape[-2]
        quarter_turn = torch.cat([-second, first], dim=-1)
        return heads * self.cosines[:length].to(heads.dtype) + quarter_turn * self.sines[:length].to(heads.dtype)
