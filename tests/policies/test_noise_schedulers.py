"""Our noise schedulers against `diffusers` 0.39: `data/noise_schedulers.npz` holds what its schedulers computed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from lerobot_ops.policies.draws import Draws, SeededDraws
from lerobot_ops.policies.noise_schedulers import BetaSchedule, NoiseScheduler

with np.load(Path(__file__).parent / "data/noise_schedulers.npz") as content:
    RECORDED = {name: torch.from_numpy(content[name]) for name in content.files}
SAMPLED = [name for name in RECORDED if name.count("|") == 4]


class Recorded(Draws):
    def __init__(self, draws: torch.Tensor) -> None:
        self.draws: Iterator[torch.Tensor] = iter(draws)

    def randn(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        return next(self.draws)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampling(name: str) -> None:
    """From the same noise, with the same network, exactly the same actions: 20 levels, all of them or 6."""
    kind, schedule, prediction, clip, count = name.split("|")
    scheduler = NoiseScheduler(
        kind,
        steps=20,
        beta_schedule=schedule,
        prediction_type=prediction,
        clip_sample=clip == "True",
        clip_sample_range=0.8,
    )

    def network(sample: torch.Tensor, level: int) -> torch.Tensor:
        return torch.tanh(sample @ RECORDED["weights"] + 0.1 * level / 20)

    actions = scheduler.denoise(network, RECORDED["start"], int(count), Recorded(RECORDED["noise"]))
    assert torch.equal(actions, RECORDED[name])


@pytest.mark.parametrize("schedule", get_args(BetaSchedule))
def test_adding_noise(schedule: BetaSchedule) -> None:
    scheduler = NoiseScheduler("DDPM", steps=20, beta_schedule=schedule)
    noisy = scheduler.add_noise(RECORDED["start"], RECORDED["noise"][0], torch.tensor([0, 17]))
    assert torch.equal(noisy, RECORDED[f"noisy|{schedule}"])


def test_a_row_draws_the_same_whatever_it_shares_its_batch_with() -> None:
    like, chances = torch.zeros(1), torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    together = SeededDraws([(7, 0), (8, 40)])
    drawn, chosen = together.randn((2, 3, 4), like), together.choose(chances)
    alone = SeededDraws([(8, 40)])
    assert torch.equal(alone.randn((1, 3, 4), like)[0], drawn[1])
    assert torch.equal(alone.choose(chances[3:]), chosen[3:])
    assert not torch.equal(SeededDraws([(8, 50)]).randn((1, 3, 4), like)[0], drawn[1])
