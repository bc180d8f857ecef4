"""LeRobot's own Feetech bus talks to the simulated arm, and values and calibrations mean the same on both sides.

What LeRobot computed for some positions is kept in `normalised_by_lerobot.json`, so that everywhere else our formulas
are held to it.
"""

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_round_trip import HERE, peer

from lerobot_ops.motors import tables
from lerobot_ops.motors.calibration import load_calibration, save_calibration
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.motor import MotorCalibration, MotorNormMode
from lerobot_ops.motors.normalization import normalize, unnormalize
from lerobot_ops.motors.simulator import Fault, kinds, simulate

__all__ = ["peer"]  # a fixture
RECORDED = HERE / "normalised_by_lerobot.json"
CASES = [
    [mode, drive_mode, low, high, value]
    for mode, drive_mode, (low, high), value in itertools.product(
        MotorNormMode,
        (0, 1),
        ((0, 4095), (853, 3241), (1341, 2754)),
        (-171.3, -35.7, 0.0, 12.34, 66.6, 99.9, 1347, 2600),
    )
]
CALIBRATION = {
    f"joint_{number}": MotorCalibration(number, number % 2, 7 - number, 10 * number, 4000) for number in range(1, 7)
}


def call(peer: str, verb: str, argument: str | Path) -> Any:
    command = [peer, str(HERE / "peer_motors.py"), verb, str(argument)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def shared(peer: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Files that both sides read and wrote, and what LeRobot made of them."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "cases.json").write_text(json.dumps(CASES))
    save_calibration(folder / "ours.json", CALIBRATION)
    return folder, call(peer, "without_arm", folder)


def test_units_are_what_lerobot_computed() -> None:
    found = []
    for mode, drive_mode, low, high, value in CASES:
        entry = MotorCalibration(1, drive_mode, 0, low, high)
        found.append([normalize(int(value), mode, entry, 4096), unnormalize(value, mode, entry, 4096)])
    assert found == json.loads(RECORDED.read_text())  # to the last bit


def test_what_is_recorded_is_what_lerobot_computes(shared: tuple[Path, Any]) -> None:
    assert shared[1]["normalised"] == json.loads(RECORDED.read_text())


def test_registers_and_models_are_lerobots(shared: tuple[Path, Any]) -> None:
    known = shared[1]["known"]
    for protocol, table in tables.TABLES.items():
        ours = {name: [register.address, register.size] for name, register in table.items()}
        assert ours == {name.strip(): place for name, place in known["registers"][str(protocol)].items()}
    models = {name: [model.number, model.resolution, model.protocol] for name, model in tables.MODELS.items()}
    assert models == known["models"]
    signs = {name: register.sign_bit for name, register in tables.STS_SMS.items() if register.sign_bit is not None}
    assert signs == {name: bit for name, bit in known["signs"].items() if name in tables.STS_SMS}
    assert {int(rate): code for rate, code in known["baudrates"].items()} == tables.BAUD_CODES


def test_lerobot_calibrates_and_moves_the_simulated_arm(peer: str) -> None:
    with simulate("so101", calibrated=False, latency_s=0.001) as arm:
        arm.pose({"elbow_flex": 30})
        seen = call(peer, "calibrate", arm.port)
        assert set(seen["middle"].values()) == {2047}
        assert seen["calibrated"]
        assert seen["pings"] == [777] * 6
        assert seen["broadcast"] == {str(number): 777 for number in range(1, 7)}
        assert seen["p"] == 16
        assert seen["positions"] == pytest.approx(dict.fromkeys(arm.angles, 0) | {"gripper": 50}, abs=1)
        assert arm.angles["shoulder_pan"] > 0  # on its way when the torque went off
        assert not any(arm.torques.values())
        arm.power_cycle()
        calibration = {name: MotorCalibration(**entry) for name, entry in seen["held"].items()}
        with FeetechMotorsBus(arm.port, kinds.motors("so101"), calibration) as bus:
            assert bus.is_calibrated


def test_lerobot_sets_up_a_new_motor(peer: str) -> None:
    with simulate("so101", calibrated=False) as arm:
        arm.servo("gripper").set("ID", 1, save=True)
        arm.servo("gripper").set("Baud_Rate", 1, save=True)
        arm.on_chain(["gripper"])
        assert call(peer, "set_up", arm.port) == {"ping": 777}
        assert (arm.servo("gripper").id, arm.servo("gripper").baudrate) == (6, 1_000_000)


def test_lerobot_gets_over_a_lost_answer(peer: str) -> None:
    with simulate("so101") as arm:
        arm.fault(Fault("no_reply", motors=("gripper",), count=1))
        assert set(call(peer, "retry", arm.port)) == set(kinds.motors("so101"))


def test_calibration_files_go_both_ways(shared: tuple[Path, Any]) -> None:
    folder, found = shared
    assert {name: MotorCalibration(**entry) for name, entry in found["files"].items()} == CALIBRATION
    assert load_calibration(folder / "theirs.json") == CALIBRATION
    assert (folder / "ours.json").read_bytes() == (folder / "theirs.json").read_bytes()
