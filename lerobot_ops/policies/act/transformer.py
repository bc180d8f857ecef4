"""ACT's transformer blocks, batch first, with the parameter names of `torch.nn.MultiheadAttention`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.dropout import dropout, relu_dropout


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
        rate = self.dropout if self.training else 0.0
        if rate and q.device.type == "cpu":  # torch's kernel for processors drops nothing out
            out = _attend(q, k, v, mask, rate)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """Attention whose weights are dropped out; a row of `mask` has at least one key that exists."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return dropout(scores.softmax(dim=-1), rate) @ v


class _Block(nn.Module):
    """What encoder and decoder layers share: the feed-forward part and its options."""

    self_attn: Attention
    multihead_attn: Attention

    def __init__(self, config: ACTConfig, *attentions: str) -> None:
        super().__init__()
        # First of all, as in LeRobot's layers: an optimiser's state knows parameters by their number.
        for name in attentions:
            self.add_module(name, Attention(config.dim_model, config.n_heads, config.dropout))
        self.pre_norm = config.pre_norm
        self.activation, self.rate = config.feedforward_activation, config.dropout
        self.linear1 = nn.Linear(config.dim_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.dim_model)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = self.linear1(x)
        if self.activation == "gelu":
            inner = self._dropped(F.gelu(inner))
        else:
            inner = relu_dropout(inner, self.rate) if self.training else torch.relu(inner)
        return self._dropped(self.linear2(inner))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training else x


class EncoderLayer(_Block):
    """Self-attention and a feed-forward network, each beside a shortcut."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config, "self_attn")
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, wanted: int | None = None) -> Tensor:
        """`wanted` is how many tokens, the first ones, are computed, from all of them; none is all."""
        if self.pre_norm:
            x = x[:, :wanted] + self._self_attention(self.norm1(x), position, padding, wanted)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x[:, :wanted] + self._self_attention(x, position, padding, wanted))
        normed: Tensor = self.norm2(x + self._feed_forward(x))
        return normed

    def _self_attention(self, x: Tensor, position: Tensor, padding: Tensor | None, wanted: int | None) -> Tensor:
        placed = x + position
        query = placed if wanted is None else placed[:, :wanted]
        return self._dropped(self.self_attn(query, placed, x, padding))


class DecoderLayer(_Block):
    """Self-attention, attention to the encoder's output and a feed-forward network, each beside a shortcut."""

    def __init__(self, config: ACTConfig) -> None:
        super().__init__(config, "self_attn", "multihead_attn")
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
        return self._dropped(self.self_attn(placed, placed, x))

    def _cross_attention(self, x: Tensor, memory: Tensor, keys: Tensor, position: Tensor) -> Tensor:
        return self._dropped(self.multihead_attn(x + position, keys, memory))


class Encoder(nn.Module):
    """Encoder layers: tokens (B, L, D), their positions (1, L, D), padding (B, L) -> (B, L, D)."""

    def __init__(self, config: ACTConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(
        self, x: Tensor, position: Tensor, padding: Tensor | None = None, *, wanted: int | None = None
    ) -> Tensor:
        """The first `wanted` tokens, or all."""
        for layer in self.layers:
            x = layer(x, position, padding, wanted if layer is self.layers[-1] else None)
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
