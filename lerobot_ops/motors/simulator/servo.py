"""One simulated servo: its memory as Feetech's tables have it, and a joint that moves as the memory says.

Time is the caller's: `advance(now)` brings the joint up to `now`, in steps of at most 4 ms, and costs nothing while it
stands still.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lerobot_ops.motors.encoding import decode, encode, limits
from lerobot_ops.motors.tables import (
    ALARMS,
    BAUD_CODES,
    CURRENT_UNIT_MA,
    EEPROM_END,
    LOAD_UNIT_PERCENT,
    MODELS,
    TABLES,
    VOLTAGE_UNIT_V,
)

VOLTAGE, SENSOR, OVERHEAT, OVERCURRENT, OVERLOAD = ALARMS
_STEP_S = 0.004
_LONGEST_S = 5.0
"""A joint that nobody asked for so long has arrived."""
_FASTEST = 3550.0
"""Steps/s without a limit: 52 turns a minute, of the sts3215's data sheet at 7.4 V."""
_QUICKEST = 40000.0
"""Steps/s² without a limit."""
_GAIN = 1.25
"""Of the position's error, per second and unit of P."""
_DROOP = 8.0
"""Steps that a joint hangs below its goal, for each % of load, at P = 1 and without I."""
_STALL_MA, _IDLE_MA = 2400.0, 6.5
_AMBIENT_C, _HEATING_C, _WARMING_S = 25.0, 60.0, 240.0
_CALIBRATE_MIDDLE = 128
_READ_ONLY = frozenset(range(5)) | frozenset(range(56, 71))
_BAUDRATES = {code: rate for rate, code in BAUD_CODES.items()}
_DEFAULTS = {
    "Firmware_Major_Version": 3, "Firmware_Minor_Version": 10, "Return_Delay_Time": 250, "Response_Status_Level": 1,
    "Max_Temperature_Limit": 70, "Max_Voltage_Limit": 80, "Min_Voltage_Limit": 40, "Max_Torque_Limit": 1000,
    "Phase": 12, "Unloading_Condition": 44, "LED_Alarm_Condition": 47, "P_Coefficient": 32, "D_Coefficient": 32,
    "I_Coefficient": 0, "Minimum_Startup_Force": 16, "CW_Dead_Zone": 1, "CCW_Dead_Zone": 1, "Protection_Current": 500,
    "Angular_Resolution": 1, "Protective_Torque": 20, "Protection_Time": 200, "Overload_Torque": 80,
    "Velocity_closed_loop_P_proportional_coefficient": 10, "Over_Current_Protection_Time": 200,
    "Velocity_closed_loop_I_integral_coefficient": 10,
}  # fmt: skip
_DEFAULTS_RAM = {"Torque_Limit": 1000, "Lock": 1, "Moving_Velocity_Threshold": 50, "Maximum_Acceleration": 254}
_OFFSET, _TORQUE, _GOAL = 31, 40, 42
_PRESENT_START, _PRESENT_END = 56, 71


@dataclass(frozen=True)
class Joint:
    """What a servo sits in. Positions are steps of the encoder, before any offset."""

    name: str
    model: str = "sts3215"
    middle: float = 2048.0
    """Where the joint's angle is 0."""
    reach: float | None = 1100.0
    """Steps from the middle to each mechanical stop; None where there is none."""
    gravity: float = 0.0
    """% of the greatest torque that the joint holds when its angle is 0; it falls with the cosine of the angle."""


@dataclass
class Supply:
    """What a chain is fed with."""

    volts: float = 7.4
    drop: float = 0.0
    """V that are missing."""
    resistance: float = 0.05
    """Ohms between the supply and the motors."""


class Servo:
    """A servo with its joint; `angle` and `position` are the truth, whatever its registers say of it."""

    def __init__(self, motor_id: int, joint: Joint, supply: Supply, now: float) -> None:
        self.joint, self.supply = joint, supply
        model = MODELS[joint.model]
        self.protocol, self.resolution = model.protocol, model.resolution
        self.registers = TABLES[model.protocol]
        self.memory = bytearray(256)
        self.position = joint.middle
        """Steps of the encoder, not wrapped."""
        self.velocity = 0.0
        """Steps/s."""
        self.load = 0.0
        """% of the greatest torque, signed."""
        self.current = _IDLE_MA
        """mA."""
        self.temperature = _AMBIENT_C
        """°C."""
        self.hand: Callable[[float], float] | None = None
        """Time (s) to position (steps): somebody who moves the joint while its torque is off."""
        self.forced_alarms = 0
        """Bits that a fault holds on."""
        self._known: dict[str, int] = {}
        """Values of registers, decoded once and forgotten when anything is written."""
        self._latched = 0
        self._strained_since: float | None = None
        self._turns = 0
        self._target: float | None = None
        self._registered: tuple[int, bytes] | None = None
        self._time = now
        self._defaults(motor_id, model.number)
        self._saved = bytes(self.memory[:EEPROM_END])
        self.power_cycle()

    # What is seen from outside

    @property
    def id(self) -> int:
        return self.memory[5]

    @property
    def baudrate(self) -> int:
        return _BAUDRATES.get(self.memory[6], 0)

    @property
    def angle(self) -> float:
        """Degrees from the middle of the joint."""
        return (self.position - self.joint.middle) * 360 / self.resolution

    @property
    def torque(self) -> bool:
        return bool(self.memory[_TORQUE])

    @property
    def error(self) -> int:
        """The error byte of its answers."""
        volts = self.voltage * 10
        error = self._latched | self.forced_alarms
        if not self.get("Min_Voltage_Limit") <= volts <= self.get("Max_Voltage_Limit"):
            error |= VOLTAGE
        return error | OVERHEAT if self.temperature > self.get("Max_Temperature_Limit") else error

    @property
    def voltage(self) -> float:
        """V at its connector."""
        return self.supply.volts - self.supply.drop - self.supply.resistance * self.current / 1000

    def get(self, data_name: str) -> int:
        """A register's value."""
        value = self._known.get(data_name)
        if value is None:
            register = self.registers[data_name]
            held = bytes(self.memory[register.address : register.address + register.size])
            value = decode(held, register, self.protocol)
            if register.address < _PRESENT_START:
                self._known[data_name] = value
        return value

    def set(self, data_name: str, value: int, *, save: bool = False) -> None:
        """Put a value into a register, as if it had always been there."""
        register = self.registers[data_name]
        self.memory[register.address : register.address + register.size] = encode(value, register, self.protocol)
        self._known.pop(data_name, None)
        if save:
            self._saved = bytes(self.memory[:EEPROM_END])

    def power_cycle(self) -> None:
        """Lose what is not in the EEPROM."""
        self._known.clear()
        self.memory[:EEPROM_END] = self._saved
        self.memory[EEPROM_END:] = bytes(len(self.memory) - EEPROM_END)
        for data_name, value in _DEFAULTS_RAM.items():
            if data_name in self.registers:
                self.set(data_name, value)
        self.velocity, self._latched, self._target = 0.0, 0, None
        self._wrap()
        self.set("Goal_Position", self._shown())

    def place(self, angle: float) -> None:
        """Put the joint at an angle (degrees), within its stops."""
        self.position = self._stopped(self.joint.middle + angle * self.resolution / 360)
        self.velocity = 0.0
        self._wrap()

    # Memory, as instructions reach it

    def read(self, address: int, size: int) -> bytes:
        if address < _PRESENT_END and address + size > _PRESENT_START:
            self._show(address, size)
        return bytes(self.memory[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        before = self.memory[_TORQUE]
        if address == _GOAL and len(data) == 2:  # what is written all the time
            self._known.pop("Goal_Position", None)
        else:
            self._known.clear()
        lock = self.registers["Lock"].address
        for at, byte in enumerate(data, address):
            if at < len(self.memory) and at not in _READ_ONLY:
                self.memory[at] = byte
        touched = range(address, address + len(data))
        if not self.memory[lock] and address < EEPROM_END:
            saved = bytearray(self._saved)
            saved[address : address + len(data)] = self.memory[address : min(EEPROM_END, address + len(data))]
            self._saved = bytes(saved[:EEPROM_END])
        if _TORQUE in touched:
            self._switch(before)
        if _GOAL in touched:
            self._aim()
        if _OFFSET in touched:
            self._wrap()

    def register_write(self, address: int, data: bytes) -> None:
        """Keep a writing for `action`."""
        self._registered = (address, data)

    def action(self) -> None:
        if self._registered is not None:
            self.write(*self._registered)
            self._registered = None

    def reset(self) -> None:
        """Everything as it left the factory, but for the id."""
        self._defaults(self.id, MODELS[self.joint.model].number)
        self._saved = bytes(self.memory[:EEPROM_END])
        self.power_cycle()

    # Motion

    def advance(self, now: float) -> None:
        """Bring the joint up to `now` (s)."""
        passed, self._time = max(0.0, now - self._time), now
        if not passed:
            return
        pushed = 0.0
        if self.torque and not self._unloaded:
            left = min(passed, _LONGEST_S)
            while left > 0:
                pushed = self._move(min(left, _STEP_S))
                left -= _STEP_S
                if self.velocity == 0.0 and not pushed:
                    break
        else:
            self.velocity = 0.0
            if self.hand is not None and not self.torque:
                position = self._stopped(self.hand(now))
                self.velocity = (position - self.position) / passed
                self.position = position
                self._wrap()
        self._strain(pushed, passed, now)

    def _move(self, seconds: float) -> float:
        """One step; returns how hard the joint is pushed against a stop, in %."""
        mode = self.get("Operating_Mode") if self.protocol == 0 else 0
        fastest = _FASTEST * min(1000, self.get("Max_Torque_Limit")) / 1000 or 1.0
        limit = self.get("Goal_Velocity")
        quickest = min(_QUICKEST, self.memory[41] * 100.0 or _QUICKEST)
        gap = 0.0
        if mode in (1, 2):
            wanted = float(limit) if mode == 1 else 0.0
            wanted = math.copysign(min(abs(wanted), fastest), wanted)
        else:
            gap = self._goal() - self.position
            if abs(gap) < 0.5 and abs(self.velocity) < 5:
                self.velocity = 0.0
                return 0.0
            fastest = min(fastest, abs(limit) or fastest)
            wanted = min(abs(gap) * self.memory[21] * _GAIN, math.sqrt(2 * quickest * abs(gap)), fastest)
            wanted = math.copysign(wanted, gap)
        change = wanted - self.velocity
        most = quickest * seconds
        self.velocity += math.copysign(min(abs(change), most), change)
        free = self.position + self.velocity * seconds
        if abs(gap) > 0 and (free - self.position) / gap > 1:
            free = self.position + gap
        self.position = self._stopped(free)
        if self.position == free:
            return 0.0
        self.velocity = 0.0
        return math.copysign(min(100.0, abs(gap or 1000) * self.memory[21] / 64), gap or limit)

    def _goal(self) -> float:
        """Where the servo comes to rest, in steps of the encoder: its goal within its limits, less gravity's pull."""
        if self._target is None:
            return self.position
        low, high = self.get("Min_Position_Limit"), self.get("Max_Position_Limit")
        goal = self._target if low == high == 0 else min(high, max(low, self._target))
        droop = 0.0 if self.memory[23] else _DROOP * self._gravity() / max(1, self.memory[21])
        return goal + self._offset + self._turns * self.resolution - droop

    def _gravity(self) -> float:
        return self.joint.gravity * math.cos(math.radians(self.angle)) if self.joint.gravity else 0.0

    def _strain(self, pushed: float, passed: float, now: float) -> None:
        """Load, current and temperature, and what the servo does when they are too much."""
        if self.torque and not self._unloaded:
            self.load = max(-100.0, min(100.0, self._gravity() + pushed + 8 * self.velocity / _FASTEST))
        elif self.torque:
            self.load = max(-self._protective, min(self._protective, self._gravity()))
        else:
            self.load = 0.0
        self.current = _IDLE_MA + _STALL_MA * abs(self.load) / 100
        target = _AMBIENT_C + _HEATING_C * (self.load / 50) ** 2
        self.temperature += (target - self.temperature) * -math.expm1(-passed / _WARMING_S)
        if self.protocol == 0 and abs(self.load) > self.get("Overload_Torque"):
            self._strained_since = now if self._strained_since is None else self._strained_since
            if now - self._strained_since >= self.get("Protection_Time") * 0.01:
                self._latched |= OVERLOAD
        else:
            self._strained_since = None

    @property
    def _unloaded(self) -> bool:
        """Whether an alarm has taken the torque down to the protective one."""
        return bool((self._latched | self.forced_alarms) & self.get("Unloading_Condition"))

    @property
    def _protective(self) -> float:
        return float(self.get("Protective_Torque"))

    @property
    def _offset(self) -> int:
        return self.get("Homing_Offset") if self.protocol == 0 else 0

    def _stopped(self, position: float) -> float:
        if self.joint.reach is None:
            return position
        return min(self.joint.middle + self.joint.reach, max(self.joint.middle - self.joint.reach, position))

    # Registers that follow the joint

    def _wrap(self) -> None:
        """Count whole turns, so that the position that the servo shows is within one."""
        self._turns = math.floor((self.position - self._offset) / self.resolution)

    def _shown(self) -> int:
        shown = round(self.position - self._offset - self._turns * self.resolution)
        return max(0, min(self.resolution - 1, shown))

    def _show(self, address: int, size: int) -> None:
        """Bring those of the registers from `address` on up to date that follow the joint."""
        for data_name, present in _PRESENT.items():
            register = self.registers.get(data_name)
            if register is None or not address - register.size < register.address < address + size:
                continue
            lowest, highest = limits(register)
            value = round(present(self))
            value = abs(value) if register.sign_bit is None else value
            shown = encode(min(highest, max(lowest, value)), register, self.protocol)
            self.memory[register.address : register.address + register.size] = shown

    def _switch(self, before: int) -> None:
        """The torque was written: it clears what was latched, and a servo that is switched on holds where it is."""
        if self.memory[_TORQUE] == _CALIBRATE_MIDDLE and self.protocol == 0:
            self.memory[_TORQUE] = before
            half = self.resolution // 2
            offset = round(self.position) % self.resolution - half  # -2048 has no place in the register
            self.set("Homing_Offset", max(1 - half, offset), save=True)
            self._wrap()
            return
        self._latched, self._strained_since = 0, None
        if self.memory[_TORQUE] and not before:
            self._wrap()
            self._target = None
            self.set("Goal_Position", self._shown())

    def _aim(self) -> None:
        """A goal was written; as in the real ones that switches the torque on."""
        goal = self.get("Goal_Position")
        step = self.protocol == 0 and self.get("Operating_Mode") == 3
        if not self.memory[_TORQUE]:
            self.memory[_TORQUE] = 1
            self._wrap()
        self._target = float(self._shown() + goal if step else goal)

    def _defaults(self, motor_id: int, number: int) -> None:
        self.memory[:] = bytes(len(self.memory))
        for data_name, value in _DEFAULTS.items():
            if data_name in self.registers:
                self.set(data_name, value)
        self.set("Model_Number", number)
        self.set("ID", motor_id)
        self.set("Max_Position_Limit", self.resolution - 1)


_PRESENT: dict[str, Callable[[Servo], float]] = {
    "Present_Position": Servo._shown,
    "Present_Velocity": lambda servo: servo.velocity,
    "Present_Load": lambda servo: servo.load / LOAD_UNIT_PERCENT,
    "Present_Voltage": lambda servo: servo.voltage / VOLTAGE_UNIT_V,
    "Present_Temperature": lambda servo: servo.temperature,
    "Status": lambda servo: servo.error,
    "Moving": lambda servo: abs(servo.velocity) > 5,
    "Present_Current": lambda servo: servo.current / CURRENT_UNIT_MA,
}
