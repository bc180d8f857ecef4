"""Dropout on a processor: how often, how large, and what goes back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lerobot_ops.policies.dropout import dropout, relu_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_as_many_as_asked_for_are_dropped_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1_000_003)  # no multiple of four, which share a draw
    y = dropout(x, rate)
    assert (y == 0).float().mean().item() == pytest.approx(rate, abs=3e-3)
    assert y.mean().item() == pytest.approx(1, abs=1e-2)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])


def test_nothing_or_everything() -> None:
    x = torch.randn(5, 7)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros_like(x))
    assert torch.equal(relu_dropout(x, 0.0), F.relu(x))


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(400_000), 0.5).view(-1, 4) == 0
    together = (dropped[:, :, None] & dropped[:, None, :]).float().mean(0)
    assert together == pytest.approx(0.25 + 0.25 * torch.eye(4), abs=5e-3)


def test_a_seed_decides() -> None:
    x = torch.randn(100)
    first, other = (dropout(x, 0.3) for _ in range(2) if torch.manual_seed(3))
    assert torch.equal(first, other)
    assert not torch.equal(first, dropout(x, 0.3))


@pytest.mark.parametrize("layer", [dropout, relu_dropout])
def test_gradients_go_back_where_values_came_through(layer) -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weights = nn.Linear(5, 4).double()

    def loss(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return layer(weights(x), 0.4).square().sum()

    assert torch.autograd.gradcheck(loss, x)
