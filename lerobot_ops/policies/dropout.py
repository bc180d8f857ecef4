"""Dropout on a processor, where drawing a number for every element takes longer than the layers around it.

Sixteen random bits decide about an element, four elements share one draw of torch's generator, and what was dropped is
kept as bytes or not at all. The probability is met to within 2**-17. Elsewhere it is torch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_STEPS = 2**16


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero elements with this probability, and scale the others so that their mean stays."""
    if not _is_ours(x, rate):
        return F.dropout(x, rate)
    dropped: Tensor = _Dropout.apply(x, rate)
    return dropped


def relu_dropout(x: Tensor, rate: float) -> Tensor:
    """`dropout(relu(x))`; nothing but the result is kept for the way back."""
    if not _is_ours(x, rate):
        return F.dropout(torch.relu(x), rate)
    dropped: Tensor = _ReluDropout.apply(x, rate)
    return dropped


def _is_ours(x: Tensor, rate: float) -> bool:
    return x.device.type == "cpu" and 0 < rate < 1 and not torch.compiler.is_compiling()


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        dropped = _chosen(x, rate)
        ctx.save_for_backward(dropped)
        ctx.scale = 1 / (1 - rate)
        return torch.where(dropped, 0, x).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (dropped,) = ctx.saved_tensors
        return torch.where(dropped, 0, gradient).mul_(ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.scale = 1 / (1 - rate)
        out = torch.relu(x).masked_fill_(_chosen(x, rate), 0).mul_(ctx.scale)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors  # zero wherever no gradient goes back
        return torch.ops.aten.threshold_backward(gradient, out, 0).mul_(ctx.scale), None


def _chosen(x: Tensor, rate: float) -> Tensor:
    """True with the probability `rate`, in the shape of `x`."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[: x.numel()].view(x.shape) < round(rate * _STEPS) - _STEPS // 2
