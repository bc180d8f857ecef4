"""Setting up what is on the desk: which port an arm is on, ids of its motors, its calibration."""

import glob
import os
import time
from pathlib import Path

from pydantic import Field
from pydantic_core import to_json

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError, DeviceError, PrerequisiteError
from lerobot_ops.motors import tables
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.so_arm import ask
from lerobot_ops.robots.registry import AnyRobotConfig, make_robot
from lerobot_ops.robots.robot import Robot
from lerobot_ops.teleoperators.registry import AnyTeleoperatorConfig, make_teleoperator
from lerobot_ops.teleoperators.teleoperator import Teleoperator

SETTLE_S = 3.0
"""So long the system may take to notice that a cable was pulled."""


class FindPortConfig(Config):
    """List the serial ports, and find an arm's by pulling its cable."""

    ports: list[str] = Field(default_factory=list)
    """Paths or patterns of ports to look at; by default all that the system lists."""
    unplug: bool = True
    """Ask for the arm's cable to be pulled; otherwise the ports are only listed."""
    scan: bool = False
    """Also ask which motors answer on each port; nothing moves."""
    baudrates: list[int] = [tables.DEFAULT_BAUDRATE]
    """Rates of a scan; each takes a second or more where nothing answers."""
    as_json: bool = False


class SerialDevice(Config):
    """A serial port."""

    port: str
    """Its path, which may change when devices are plugged in again."""
    lasting: str | None = None
    """A path that stays the same, if there is one."""
    usb: str | None = None
    """Vendor and product, as `lsusb` shows them."""
    description: str = ""
    serial_number: str | None = None
    usable: bool = True
    """Whether this user may open it."""
    motors: dict[int, list[str]] = Field(default_factory=dict)
    """Per rate the ids and models that answered."""
    problem: str | None = None
    """Why it could not be scanned."""

    def __str__(self) -> str:
        parts = [self.port, self.usb, self.description, self.serial_number and f"serial {self.serial_number}"]
        lines = ["  ".join(part for part in parts if part)]
        lines += [f"  stays the same: {self.lasting}"] if self.lasting else []
        lines += [] if self.usable else ["  no permission: sudo usermod -aG dialout $USER, and log in again"]
        lines += [f"  {rate} baud: {', '.join(motors) or 'nothing answers'}" for rate, motors in self.motors.items()]
        lines += ["  " + self.problem.replace("\n", "\n  ")] if self.problem else []
        return "\n".join(lines)


class SetUpConfig(Config):
    """One device: a robot or a teleoperator."""

    robot: AnyRobotConfig | None = None
    teleop: AnyTeleoperatorConfig | None = None


def list_ports(config: FindPortConfig) -> list[SerialDevice]:
    """The serial ports, with the motors that answer if `scan` is set."""
    devices = _named(config.ports) if config.ports else _listed()
    return [_scanned(device, config.baudrates) for device in devices] if config.scan else devices


def find_port(config: FindPortConfig) -> SerialDevice:
    """Ask the operator to pull the arm's cable, and say which port that was; raises DeviceError if it was not one."""
    before = {device.port: device for device in list_ports(config.model_copy(update={"scan": False}))}
    ask("pull the USB cable of the arm, then press ENTER ")
    until = time.monotonic() + SETTLE_S
    gone: list[str] = []
    while not gone and time.monotonic() < until:
        time.sleep(0.1)
        now = {device.port for device in list_ports(config.model_copy(update={"scan": False}))}
        gone = [port for port in before if port not in now]
    if len(gone) != 1:
        raise DeviceError(
            "the port cannot be told" if gone else "no port disappeared",
            found=f"gone: {', '.join(gone) or 'none'}, of {', '.join(before) or 'none'}",
            expected="one port that disappears",
            fix="pull the data cable of one arm, at the computer's end, and try again",
        )
    return before[gone[0]]


def show_ports(devices: list[SerialDevice], as_json: bool) -> str:
    """What is shown of `devices`."""
    if as_json:
        return to_json(devices, indent=2).decode()
    return "\n".join(map(str, devices)) or "no serial port was found; is the arm's USB cable plugged in?"


def calibrate(config: SetUpConfig) -> None:
    """Ask the operator to move the joints; motors and file then hold the calibration."""
    device = _device(config, "calibrate")
    device.connect(calibrate=False)
    try:
        device.calibrate()
    finally:
        device.disconnect()


def setup_motors(config: SetUpConfig) -> None:
    """Give a new arm's motors their ids and rate, one at a time."""
    device = _device(config, "setup-motors")
    try:
        device.setup_motors()
    finally:
        device.disconnect()


def _device(config: SetUpConfig, command: str) -> Robot | Teleoperator:
    if (config.robot is None) == (config.teleop is None):
        raise ConfigError(
            "one device is set up at a time",
            found="a robot and a teleoperator" if config.robot else "none",
            fix=f"lerobot-ops {command} --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=my_arm, "
            "or --teleop.type=so101_leader and so on",
        )
    if config.robot is not None:
        return make_robot(config.robot.without_cameras())
    assert config.teleop is not None
    return make_teleoperator(config.teleop)


def _listed() -> list[SerialDevice]:
    try:
        from serial.tools.list_ports import comports
    except ImportError:
        raise PrerequisiteError("serial ports need pyserial", fix="pip install 'lerobot-ops[hardware]'") from None
    return [
        SerialDevice(
            port=port.device,
            lasting=_lasting(port.device),
            usb=None if port.vid is None else f"{port.vid:04x}:{port.pid:04x}",
            description=port.description if port.description != "n/a" else "",
            serial_number=port.serial_number,
            usable=os.access(port.device, os.R_OK | os.W_OK),
        )
        for port in sorted(comports())
    ]


def _named(patterns: list[str]) -> list[SerialDevice]:
    paths = {path for pattern in patterns for path in glob.glob(pattern) if Path(path).is_char_device()}
    return [
        SerialDevice(port=path, lasting=_lasting(path), usable=os.access(path, os.R_OK | os.W_OK))
        for path in sorted(paths)
    ]


def _lasting(port: str) -> str | None:
    links = sorted(Path("/dev/serial/by-id").glob("*"))
    return next((str(link) for link in links if link.resolve() == Path(port).resolve()), None)


def _scanned(device: SerialDevice, baudrates: list[int]) -> SerialDevice:
    models = {model.number: name for name, model in tables.MODELS.items()}
    motors: dict[int, list[str]] = {}
    bus = FeetechMotorsBus(device.port, {})
    try:
        bus.connect(handshake=False)
        for rate in baudrates:
            bus.set_baudrate(rate)
            found = bus.broadcast_ping()
            motors[rate] = [f"id {each} {models.get(number, number)}" for each, number in sorted(found.items())]
    except DeviceError as error:
        return device.model_copy(update={"problem": str(error)})
    finally:
        bus.disconnect(disable_torque=False)
    return device.model_copy(update={"motors": motors})
