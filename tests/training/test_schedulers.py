"""Learning-rate schedules: LeRobot's values, which `data/schedules.json` holds, and where a resumed training is."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from lerobot_ops.errors import CheckpointError
from lerobot_ops.policies.schedules import DiffuserSchedule, Schedule
from lerobot_ops.training.schedulers import load_scheduler, make_scheduler, write_scheduler

RECORDED = json.loads((Path(__file__).parent / "data/schedules.json").read_text())


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['type']}-{case['fields']}")
def test_factors_are_lerobots(case: dict) -> None:
    schedule: Schedule = TypeAdapter(Schedule).validate_python({"type": case["type"], **case["fields"]})
    found = [schedule.factor(step, case["steps"]) for step in RECORDED["probe"]]
    assert found == pytest.approx(case["factors"], rel=1e-12, abs=1e-12)


def optimizer_of_two_groups() -> torch.optim.Optimizer:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.Adam([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.5}], lr=1.0)


def test_every_group_keeps_its_own_rate_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    schedule = DiffuserSchedule(num_warmup_steps=4)
    optimizer = optimizer_of_two_groups()
    scheduler = make_scheduler(optimizer, schedule, 20)
    rates = []
    for step in range(20):
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert rates[-1] == [schedule.factor(step, 20), 0.5 * schedule.factor(step, 20)]
        optimizer.step()
        scheduler.step()
        if step == 6:
            write_scheduler(scheduler.state_dict(), tmp_path)
            state = optimizer.state_dict()

    resumed = optimizer_of_two_groups()
    again = make_scheduler(resumed, schedule, 20)
    resumed.load_state_dict(state)
    load_scheduler(again, tmp_path)
    for expected in rates[7:]:
        assert [group["lr"] for group in resumed.param_groups] == expected
        resumed.step()
        again.step()

    (tmp_path / "scheduler_state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"scheduler_state\.json"):
        load_scheduler(again, tmp_path)
