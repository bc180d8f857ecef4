"""A causal transformer in the manner of GPT-2 over tokens that are vectors; state-dict names and shapes are LeRobot's.

Shapes below: B batch, L tokens, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.vqbet.config import VQBeTConfig

STD = 0.02
"""Standard deviation of initial weights."""


class GPT(nn.Module):
    """Tokens (B, L, gpt_input_dim) -> (B, L, gpt_output_dim)."""

    def __init__(self, config: VQBeTConfig) -> None:
        super().__init__()
        width = config.gpt_hidden_dim
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Linear(config.gpt_input_dim, width),
                "wpe": nn.Embedding(config.gpt_block_size, width),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.gpt_n_layer)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, config.gpt_output_dim, bias=False)
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # these add up along the layers
                nn.init.normal_(parameter, std=STD / math.sqrt(2 * config.gpt_n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.transformer
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = parts["drop"](parts["wte"](tokens) + parts["wpe"](places))
        for block in parts["h"]:  # type: ignore[attr-defined]
            x = block(x)
        out: Tensor = self.lm_head(parts["ln_f"](x))
        return out

    def decayed(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters whose size costs, and the others: biases, normalisations, positions; each by name."""
        kinds = {f"{prefix}.weight": type(module) for prefix, module in self.named_modules()}
        named = sorted(self.named_parameters())
        linear = {name for name, _ in named if kinds.get(name) is nn.Linear}
        return [p for name, p in named if name in linear], [p for name, p in named if name not in linear]


class Block(nn.Module):
    """Causal attention and a feed-forward network, each beside a shortcut and after a normalisation."""

    def __init__(self, config: VQBeTConfig) -> None:
        super().__init__()
        width = config.gpt_hidden_dim
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(config.dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Attention(nn.Module):
    """Every token attends to itself and to those before it."""

    def __init__(self, config: VQBeTConfig) -> None:
        super().__init__()
        width, length = config.gpt_hidden_dim, config.gpt_block_size
        self.heads, self.dropout = config.gpt_n_head, config.dropout
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(config.dropout)
        # a mask that nothing here reads: checkpoints hold it
        self.register_buffer("bias", torch.ones(length, length).tril().view(1, 1, length, length))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        out: Tensor = self.resid_dropout(self.c_proj(seen.transpose(1, 2).flatten(2)))
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
