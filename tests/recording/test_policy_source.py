"""A policy that takes its time leads without a pause, and every action is the one for its tick."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from lerobot_ops.flags import build
from lerobot_ops.recording.frames import Layout, Processors
from lerobot_ops.recording.policy_source import PolicyLeads
from lerobot_ops.robots.robot import Observation
from lerobot_ops.robots.so_follower_config import SO101FollowerConfig

FPS = 20
JOINTS = 6


class Counting:
    """A policy that sees the number of a tick, and says the numbers of the ticks from there on."""

    observation_keys = ["observation.state"]

    def __init__(self, takes: float, n_action_steps: int = 10, last: int = 1) -> None:
        self.takes, self.n_action_steps, self.last = takes, n_action_steps, last
        self.asked: list[int] = []

    def episode(self) -> "Counting":
        return self

    def act(self, seen: Mapping[str, np.ndarray], task: str) -> np.ndarray:
        now = seen["observation.state"]
        if self.last > 1:
            assert now.shape == (self.last, JOINTS)
            now = now[-1]
        self.asked.append(int(now[0]))
        time.sleep(self.takes)
        return now + np.arange(self.n_action_steps, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def layout() -> Layout:
    config = build(SO101FollowerConfig, {"port": "/dev/none", "id": "none"}, source="a test")
    return Layout(config.make(), Processors())


def led(policy: Any, layout: Layout, ticks: int = 40) -> float:
    """Let it lead for so many ticks; returns the seconds that the longest of them waited."""

    def observation(number: int) -> Observation:
        return dict.fromkeys(layout.state_names, float(number))

    source = PolicyLeads(policy, layout, FPS, lambda: None)
    longest = 0.0
    try:
        source.warm_up(observation(0))
        source.begin(observation(0))
        policy.asked.clear()
        due = time.perf_counter()
        for number in range(ticks):
            began = time.perf_counter()
            assert set(source.action(observation(number)).values()) == {float(number)}
            if number:  # nobody can know the first one before
                longest = max(longest, time.perf_counter() - began)
            due += 1 / FPS
            time.sleep(max(0.0, due - time.perf_counter()))
    finally:
        source.close()
    return longest


@pytest.mark.parametrize("last", [1, 2])
def test_a_chunk_is_computed_while_the_one_before_is_carried_out(layout: Layout, last: int) -> None:
    policy = Counting(takes=0.13, last=last)
    assert led(policy, layout) < 0.1
    assert all(5 <= later - earlier < 10 for earlier, later in itertools.pairwise(policy.asked))


def test_a_policy_that_answers_at_once_sees_what_is_there_at_the_end_of_its_chunk(layout: Layout) -> None:
    policy = Counting(takes=0.0)
    led(policy, layout)
    assert policy.asked == [0, 10, 20, 30]


@pytest.mark.parametrize("n_action_steps", [1, 10])
def test_a_policy_that_is_slower_than_its_actions_is_waited_for(layout: Layout, n_action_steps: int) -> None:
    policy = Counting(takes=0.3, n_action_steps=n_action_steps)
    assert led(policy, layout, ticks=n_action_steps + 1) >= 0.3
    assert policy.asked == [0, n_action_steps]
