"""Feetech's serial servos, over `feetech-servo-sdk`: STS and SMS (protocol 0), SCS (protocol 1)."""

import math
from collections.abc import Iterable, Mapping
from enum import IntEnum

from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean
from lerobot_ops.motors import tables
from lerobot_ops.motors.bus import Motors, MotorsBus, MotorStatus
from lerobot_ops.motors.chain import SETUP_RETRIES, FeetechChain
from lerobot_ops.motors.encoding import decode, encode
from lerobot_ops.motors.motor import Motor, MotorCalibration
from lerobot_ops.motors.normalization import normalize as to_unit
from lerobot_ops.motors.normalization import unnormalize
from lerobot_ops.motors.port import DEFAULT_TIMEOUT_MS
from lerobot_ops.motors.tables import Protocol, Register
from lerobot_ops.motors.wire import MOST_IDS, sync_write_packet

_RELEASES = 3
"""How often a release is repeated: its first copy may end the packet that a dead process left unfinished."""
_FULL_ANGLE_PHASE = 0x10
"""The bit of `Phase` that lets positions of the sts3215 leave one turn."""


class OperatingMode(IntEnum):
    """Values of the register `Operating_Mode`."""

    POSITION = 0
    VELOCITY = 1
    PWM = 2
    STEP = 3


class FeetechMotorsBus(MotorsBus):
    """Feetech motors on one port. `protocol_version` is 0 for STS and SMS, 1 for SCS.

    Alarms that motors report with their answers (overload, voltage, temperature) do not make a reading or writing fail:
    a motor with an alarm must still be read, and its torque taken off. `alarms` has them.
    """

    def __init__(
        self,
        port: str,
        motors: Mapping[str, Motor],
        calibration: Mapping[str, MotorCalibration] | None = None,
        protocol_version: Protocol = 0,
    ) -> None:
        super().__init__(port, motors, calibration)
        self.protocol_version = protocol_version
        self._table = tables.TABLES[protocol_version]
        for name, motor in self.motors.items():
            model = tables.MODELS.get(motor.model)
            if model is None:
                raise ConfigError(
                    "there is no such motor",
                    field=name, found=motor.model, fix=did_you_mean(motor.model, tables.MODELS),
                )  # fmt: skip
            if model.protocol != protocol_version:
                raise ConfigError(
                    f"motor {name!r} speaks another protocol", found=f"{motor.model}: protocol {model.protocol}",
                    expected=protocol_version, fix="put motors of different protocols on ports of their own",
                )  # fmt: skip
            if not 0 <= motor.id < MOST_IDS:
                raise ConfigError("a motor's id is out of range", field=name, found=motor.id, expected="0 to 252")
        self._chain = FeetechChain(port, {motor.id: name for name, motor in self.motors.items()}, protocol_version)

    # Connecting

    @property
    def is_connected(self) -> bool:
        return self._chain.port.is_open

    def connect(self, handshake: bool = True) -> None:
        self._chain.open()
        try:
            if handshake:
                with self._chain.unhurried():
                    self._handshake()
        except BaseException:
            self._chain.close()
            raise

    def disconnect(self, disable_torque: bool = True) -> None:
        try:
            if self.is_connected and disable_torque:
                self.disable_torque(num_retry=5)
        finally:
            self._chain.close()

    def set_baudrate(self, baudrate: int) -> None:
        with self._chain.lock:
            self._chain.port.set_baudrate(baudrate)

    def get_baudrate(self) -> int:
        """The rate that the bus talks at."""
        return self._chain.port.baudrate

    def set_timeout(self, timeout_ms: float | None = None) -> None:
        with self._chain.lock:
            self._chain.port.timeout_ms = DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms

    # Registers

    def ping(self, motor: str, num_retry: int = 0) -> int | None:
        return self._chain.ping(self._id(motor), num_retry)

    def broadcast_ping(self, num_retry: int = 0) -> dict[int, int]:
        found: dict[int, int] = {}
        for _ in range(1 + num_retry):
            found = found or self._chain.models()
        return found

    def read(self, data_name: str, motor: str, *, normalize: bool = True, num_retry: int = 0) -> float:
        register = self._register(data_name)
        data = self._chain.read(self._id(motor), register, num_retry, data_name)
        return self._value(data_name, register, motor, data, normalize)

    def write(self, data_name: str, motor: str, value: float, *, normalize: bool = True, num_retry: int = 0) -> None:
        register, motor_id = self._register(data_name), self._id(motor)
        data = self._data(data_name, register, motor, value, normalize)
        self._chain.write(motor_id, register, data, num_retry, data_name)

    def sync_read(
        self, data_name: str, motors: Motors = None, *, normalize: bool = True, num_retry: int = 0
    ) -> dict[str, float]:
        ids, register = {name: self.motors[name].id for name in self.names(motors)}, self._register(data_name)
        found = self._chain.read_many(list(ids.values()), register, num_retry, data_name)
        return {name: self._value(data_name, register, name, found[each], normalize) for name, each in ids.items()}

    def sync_write(
        self, data_name: str, values: float | Mapping[str, float], *, normalize: bool = True, num_retry: int = 0
    ) -> None:
        if not isinstance(values, Mapping):
            values = dict.fromkeys(self.motors, values)
        register = self._register(data_name)
        data = {
            self._id(name): self._data(data_name, register, name, value, normalize) for name, value in values.items()
        }
        if data:
            self._chain.sync_write(register, data, num_retry, data_name)

    # Torque

    def enable_torque(self, motors: Motors = None, num_retry: int = 0) -> None:
        for name in self.names(motors):
            self.write("Torque_Enable", name, 1, num_retry=num_retry)
            self.write("Lock", name, 1, num_retry=num_retry)

    def disable_torque(self, motors: Motors = None, num_retry: int = 0) -> None:
        names = self.names(motors)
        problems: list[DeviceError] = []
        with self._chain.lock:
            try:  # all at once: asking each to confirm takes long where one is silent
                self.sync_write("Torque_Enable", dict.fromkeys(names, 0))
            except DeviceError as error:
                problems.append(error)
            for data_name in ("Torque_Enable", "Lock"):
                for name in names:
                    try:
                        self.write(data_name, name, 0, num_retry=num_retry)
                    except DeviceError as error:
                        problems.append(error)
        if problems:
            raise problems[0]

    def release_packets(self) -> bytes:
        off = {motor.id: b"\0" for motor in self.motors.values()}
        release = sync_write_packet(self._table["Torque_Enable"].address, off)
        lock = sync_write_packet(self._table["Lock"].address, dict.fromkeys(off, b"\1"))
        return (release + lock) * _RELEASES

    # Calibration

    @property
    def is_calibrated(self) -> bool:
        if self.calibration.keys() != self.motors.keys():
            return False
        held = self.read_calibration()
        return all(
            (held[name].range_min, held[name].range_max) == (entry.range_min, entry.range_max)
            and (self.protocol_version == 1 or held[name].homing_offset == entry.homing_offset)
            for name, entry in self.calibration.items()
        )

    def read_calibration(self) -> dict[str, MotorCalibration]:
        lows, highs = self._plain("Min_Position_Limit"), self._plain("Max_Position_Limit")
        offsets = self._plain("Homing_Offset") if self.protocol_version == 0 else dict.fromkeys(self.motors, 0)
        return {
            name: MotorCalibration(motor.id, 0, offsets[name], lows[name], highs[name])
            for name, motor in self.motors.items()
        }

    def write_calibration(self, calibration: Mapping[str, MotorCalibration], cache: bool = True) -> None:
        """Write offsets and limits into the motors, with the torque off: an arm that holds would jump."""
        names = self.names(list(calibration))
        with self._chain.unhurried():
            self.disable_torque(names, SETUP_RETRIES)
        for name in names:
            entry = calibration[name]
            if self.protocol_version == 0:
                self._set("Homing_Offset", name, entry.homing_offset)
            self._set("Min_Position_Limit", name, entry.range_min)
            self._set("Max_Position_Limit", name, entry.range_max)
        if cache:
            self.calibration = dict(calibration)

    def reset_calibration(self, motors: Motors = None) -> None:
        whole = {
            name: MotorCalibration(self.motors[name].id, 0, 0, 0, self._resolution(name) - 1)
            for name in self.names(motors)
        }
        self.write_calibration(whole, cache=False)
        self.calibration = {name: entry for name, entry in self.calibration.items() if name not in whole}

    def set_half_turn_homings(self, motors: Motors = None) -> dict[str, int]:
        self._register("Homing_Offset")
        self.reset_calibration(motors)
        positions = self._positions(self.names(motors))
        offsets = {name: position - (self._resolution(name) - 1) // 2 for name, position in positions.items()}
        for name, offset in offsets.items():
            self._set("Homing_Offset", name, offset)
        return offsets

    # Setting up

    def configure_motors(
        self, return_delay_time: int = 0, maximum_acceleration: int = 254, acceleration: int = 254
    ) -> None:
        wanted = {"Return_Delay_Time": return_delay_time, "Acceleration": acceleration}
        if self.protocol_version == 0:
            wanted["Maximum_Acceleration"] = maximum_acceleration
        for data_name, value in wanted.items():
            for name, held in self._plain(data_name).items():
                if held != value:  # the EEPROM wears out by writing
                    self._set(data_name, name, value)
        for name, phase in self._plain("Phase").items():
            if self.motors[name].model == "sts3215" and phase & _FULL_ANGLE_PHASE:
                self._set("Phase", name, phase & ~_FULL_ANGLE_PHASE)

    @classmethod
    def scan_port(
        cls, port: str, protocol_version: Protocol = 0, baudrates: Iterable[int] = tables.SCAN_BAUDRATES
    ) -> dict[int, list[int]]:
        """The ids that answer on a port, by baud rate; rates at which nobody answers are left out."""
        bus = cls(port, {}, protocol_version=protocol_version)
        bus.connect(handshake=False)
        found = {}
        try:
            for rate in baudrates:
                bus.set_baudrate(rate)
                found[rate] = bus._chain.present()
        finally:
            bus.disconnect(disable_torque=False)
        return {rate: ids for rate, ids in found.items() if ids}

    def setup_motor(self, motor: str, initial_baudrate: int | None = None, initial_id: int | None = None) -> None:
        target, rate = self._id(motor), tables.DEFAULT_BAUDRATE
        if not self.is_connected:
            self.connect(handshake=False)
        with self._chain.lock, self._chain.unhurried():
            try:
                found = self._find_single(motor, initial_baudrate, initial_id)
                for data_name, motor_id, value in (
                    ("Torque_Enable", found, 0),
                    ("Lock", found, 0),
                    ("ID", found, target),
                    ("Baud_Rate", target, tables.BAUD_CODES[rate]),
                ):
                    self._chain.write(motor_id, self._register(data_name), bytes([value]), SETUP_RETRIES, data_name)
            finally:
                self.set_baudrate(rate)
            self._chain.write(target, self._register("Lock"), b"\1", SETUP_RETRIES, "Lock")

    # Health

    def status(self, motors: Motors = None, num_retry: int = 0) -> dict[str, MotorStatus]:
        ids = {name: self.motors[name].id for name in self.names(motors)}
        first = self._table["Present_Load"]
        last = self._table.get("Present_Current", self._table["Present_Temperature"])
        block = Register(first.address, last.address + last.size - first.address)
        found = self._chain.read_many(list(ids.values()), block, num_retry, "Present_Load")
        return {name: self._status(found[each], block.address) for name, each in ids.items()}

    @property
    def alarms(self) -> dict[str, tuple[str, ...]]:
        errors = list(self._chain.errors.items())
        names = self._chain.names
        return {names[each]: tables.alarms(error) for each, error in errors if error and each in names}

    # Inside

    def _handshake(self) -> None:
        found = {name: self._chain.ping(motor.id, SETUP_RETRIES) for name, motor in self.motors.items()}
        missing = [f"{name} (id {self.motors[name].id})" for name, number in found.items() if number is None]
        others = {
            f"{name} (id {motor.id})": found[name]
            for name, motor in self.motors.items()
            if found[name] not in (None, tables.MODELS[motor.model].number)
        }
        if missing:
            answered = [str(self.motors[name].id) for name, number in found.items() if number is not None]
            fix = "check the cables of the first that is missing, and that each motor has an id of its own"
            if not answered:
                fix = (
                    "check that the power supply is on, that the bus cable is in the adapter, and that it is this port"
                )
            raise DeviceError(
                f"motors are missing: {', '.join(missing)}",
                file=self.port, found=f"answers from ids {', '.join(answered)}" if answered else "no answer at all",
                expected=f"{len(self.motors)} motors at {self.get_baudrate()} baud",
                fix=f"{fix}; motors that were never set up need `lerobot-ops setup-motors`",
            )  # fmt: skip
        if others:
            numbers = {model.number: name for name, model in tables.MODELS.items()}
            raise DeviceError(
                "motors are of another model",
                file=self.port, field="Model_Number",
                found=", ".join(f"{who}: {numbers.get(number or 0, number)}" for who, number in others.items()),
                expected=", ".join(sorted({motor.model for motor in self.motors.values()})),
                fix="check that this is the right arm, and the models in its settings",
            )  # fmt: skip
        self._compare_firmware()

    def _compare_firmware(self) -> None:
        parts = [self._plain(f"Firmware_{part}_Version") for part in ("Major", "Minor")]
        versions = {name: f"{parts[0][name]}.{parts[1][name]}" for name in self.motors}
        if len(set(versions.values())) > 1:
            raise DeviceError(
                "motors have different firmware",
                file=self.port, field="Firmware_Major_Version, Firmware_Minor_Version",
                found=", ".join(f"{name}: {version}" for name, version in versions.items()),
                expected="the same version in every motor",
                fix="bring all to one version with Feetech's FD software (Windows), one motor at a time",
            )  # fmt: skip

    def _find_single(self, motor: str, rate: int | None, motor_id: int | None) -> int:
        """The id of the one motor on the bus; the bus then talks at its rate."""
        for each in tables.SCAN_BAUDRATES if rate is None else (rate,):
            self.set_baudrate(each)
            found = self._chain.present(motor_id)
            if len(found) > 1:
                raise DeviceError(
                    "several motors are plugged in", file=self.port, found=f"ids {found} at {each} baud",
                    expected="one", fix=f"plug in {motor!r} alone: a motor gets its id while no other listens",
                )  # fmt: skip
            if found:
                number = self._chain.ping(found[0], SETUP_RETRIES)
                model = tables.MODELS[self.motors[motor].model]
                if number != model.number:
                    raise DeviceError(
                        f"the motor that is plugged in is no {self.motors[motor].model}", file=self.port,
                        field="Model_Number", found=number, expected=model.number, fix="plug in the right motor",
                    )  # fmt: skip
                return found[0]
        raise DeviceError(
            f"no motor answers, so {motor!r} cannot be set up",
            file=self.port, found="silence at every baud rate" if rate is None else f"silence at {rate} baud",
            fix="check that the power supply is on, and that the adapter's cable is in the motor",
        )  # fmt: skip

    def _status(self, data: bytes, start: int) -> MotorStatus:
        def part(data_name: str) -> int:
            register = self._table[data_name]
            at = register.address - start
            return decode(data[at : at + register.size], register, self.protocol_version)

        return MotorStatus(
            voltage=round(part("Present_Voltage") * tables.VOLTAGE_UNIT_V, 1),
            temperature=part("Present_Temperature"),
            load=round(part("Present_Load") * tables.LOAD_UNIT_PERCENT, 1),
            current=part("Present_Current") * tables.CURRENT_UNIT_MA if "Present_Current" in self._table else None,
        )

    def _plain(self, data_name: str) -> dict[str, int]:
        with self._chain.unhurried():
            found = self.sync_read(data_name, normalize=False, num_retry=SETUP_RETRIES)
        return {name: int(value) for name, value in found.items()}

    def _set(self, data_name: str, motor: str, value: int) -> None:
        with self._chain.unhurried():
            self.write(data_name, motor, value, num_retry=SETUP_RETRIES)

    def _id(self, motor: str) -> int:
        return self.motors[self.names(motor)[0]].id

    def _resolution(self, motor: str) -> int:
        return tables.MODELS[self.motors[motor].model].resolution

    def _register(self, data_name: str) -> Register:
        register = self._table.get(data_name)
        if register is None:
            raise ConfigError(
                f"motors of protocol {self.protocol_version} have no such register",
                found=data_name, fix=did_you_mean(data_name, self._table),
            )  # fmt: skip
        return register

    def _value(self, data_name: str, register: Register, motor: str, data: bytes, normalize: bool) -> float:
        value = decode(data, register, self.protocol_version)
        if not normalize or data_name not in tables.NORMALIZED:
            return value
        return to_unit(value, self.motors[motor].norm_mode, self._calibration_of(motor), self._resolution(motor))

    def _data(self, data_name: str, register: Register, motor: str, value: float, normalize: bool) -> bytes:
        if not math.isfinite(value):
            raise DeviceError(f"the value for motor {motor!r} is no number", field=data_name, found=value)
        if normalize and data_name in tables.NORMALIZED:
            mode, calibration = self.motors[motor].norm_mode, self._calibration_of(motor)
            value = unnormalize(value, mode, calibration, self._resolution(motor))
        try:
            return encode(int(value), register, self.protocol_version)
        except ValueError as error:
            raise DeviceError(
                f"the value for motor {motor!r} does not fit its register", field=data_name, found=str(error)
            ) from None
