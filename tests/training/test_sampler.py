import numpy as np
import pytest

from lerobot_ops.training.sampler import EpisodeAwareSampler

FIRST, LAST = np.array([0, 13, 22]), np.array([13, 22, 39])


def epoch(sampler: EpisodeAwareSampler, number: int) -> list[int]:
    start = number * sampler.batches_per_epoch
    batches = [sampler.batch(step) for step in range(start, start + sampler.batches_per_epoch)]
    return np.concatenate(batches).tolist()


def test_every_epoch_visits_every_frame_once_in_another_order() -> None:
    sampler = EpisodeAwareSampler(FIRST, LAST, batch_size=8, seed=1)
    epochs = [epoch(sampler, number) for number in range(3)]
    assert all(sorted(frames) == list(range(39)) for frames in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(sampler.batch(4)) == 39 % 8


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    asked_in_order = EpisodeAwareSampler(FIRST, LAST, batch_size=8, seed=1)
    batches = [asked_in_order.batch(step) for step in range(12)]
    assert np.array_equal(EpisodeAwareSampler(FIRST, LAST, batch_size=8, seed=1).batch(11), batches[11])
    assert not np.array_equal(EpisodeAwareSampler(FIRST, LAST, batch_size=8, seed=2).batch(11), batches[11])


@pytest.mark.parametrize("drop", [1, 10])
def test_the_last_frames_of_an_episode_can_be_left_out(drop: int) -> None:
    sampler = EpisodeAwareSampler(FIRST, LAST, batch_size=8, seed=1, drop_n_last_frames=drop)
    kept = [frame for start, end in zip(FIRST, LAST, strict=True) for frame in range(start, end - drop)]
    assert sorted(epoch(sampler, 0)) == kept
