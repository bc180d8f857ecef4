"""ACT's transformer blocks, batch first, with the parameter names of `torch.nn.MultiheadAttention`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.act.config import ACTConfig


class Attention(nn.Module):
    """Multi-head attention: queries (B, Lq, D), keys and values (B, Lk, D) -> (B, Lq, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None) -> Tensor:
        """`padding` (B, Lk) is True where a key does not exist."""
        width = query.shape[-1]
        if query is key:  # one product for both
            both = F.linear(query, self.in_proj_weight[: 2 * width], self.in_proj_bias[: 2 * width])
            q, k = both.chunk(2, dim=-1)
        else:
            q = F.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k = F.linear(key, self.in_proj_weight[width : 2 * width], self.in_proj_bias[width : 2 * width])
        v = F.linear(value, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :])
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if padding is None else ~padding[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


class _Block(nn.Module):
    """What encoder and decoder layers share: the feed-forward part and its options."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.activation: Any = {"relu": F.relu, "gelu": F.gelu}[config.feedforward_activation]
        self.linear1 = nn.Linear(config.dim_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.dim_model)
        self.dropout = nn.Dropout(config.dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class EncoderLayer(_Block):
    """Self-attention and a feed-forward network, each beside a shortcut."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self._self_attention(self.norm1(x), position, padding)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._self_attention(x, position, padding))
        normed: Tensor = self.norm2(x + self._feed_forward(x))
        return normed

    def _self_attention(self, x: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        placed = x + position
        return self.dropout(self.self_attn(placed, placed, x, padding))


class DecoderLayer(_Block):
    """Self-attention, attention to the encoder's output and a feed-forward network, each beside a shortcut."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.multihead_attn = Attention(config.dim_model, config.n_heads, config.dropout)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)
        self.norm3 = nn.LayerNorm(config.dim_model)

    def forward(self, x: Tensor, memory: Tensor, keys: Tensor, position: Tensor) -> Tensor:
        """`memory` is the encoder's output, `keys` the same with its positions added."""
        if self.pre_norm:
            x = x + self._self_attention(self.norm1(x), position)
            x = x + self._cross_attention(self.norm2(x), memory, keys, position)
            return x + self._feed_forward(self.norm3(x))
        x = self.norm1(x + self._self_attention(x, position))
        x = self.norm2(x + self._cross_attention(x, memory, keys, position))
        normed: Tensor = self.norm3(x + self._feed_forward(x))
        return normed

    def _self_attention(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        return self.dropout(self.self_attn(placed, placed, x))

    def _cross_attention(self, x: Tensor, memory: Tensor, keys: Tensor, position: Tensor) -> Tensor:
        return self.dropout(self.multihead_attn(x + position, keys, memory))


class Encoder(nn.Module):
    """Encoder layers: tokens (B, L, D), their positions (1, L, D), padding (B, L) -> (B, L, D)."""

    def __init__(self, config: ACTConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        normed: Tensor = self.norm(x)
        return normed


class Decoder(nn.Module):
    """Decoder layers: queries (B, T, D) that attend to the encoder's output (B, L, D) -> (B, T, D)."""

    def __init__(self, config: ACTConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor, memory_position: Tensor) -> Tensor:
        keys = memory + memory_position
        for layer in self.layers:
            x = layer(x, memory, keys, position)
        normed: Tensor = self.norm(x)
        return normed
