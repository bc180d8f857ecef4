"""Feetech's registers: where each of them lies, how many bytes it has and how its value is written.

Addresses are those of Feetech's memory tables of the STS/SMS series (protocol 0) and the SCS series (protocol 1);
names are LeRobot's.
"""

from dataclasses import dataclass
from typing import Literal

Protocol = Literal[0, 1]
"""0 is STS/SMS: little-endian, reads many motors at once. 1 is SCS: big-endian, reads one at a time."""

EEPROM_END = 40
"""Registers below keep their value without power, if they are written while `Lock` is 0."""
DEFAULT_BAUDRATE = 1_000_000
SCAN_BAUDRATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200, 14_400, 9_600, 4_800)
"""Rates to look for a motor at, the likely ones first."""
BAUD_CODES = {
    1_000_000: 0,
    500_000: 1,
    250_000: 2,
    128_000: 3,
    115_200: 4,
    57_600: 5,
    38_400: 6,
    19_200: 7,
}
"""Rate to the value of the register `Baud_Rate`."""
NORMALIZED = frozenset({"Goal_Position", "Present_Position"})
"""Registers that have a unit besides the encoder's steps."""

CURRENT_UNIT_MA = 6.5
VOLTAGE_UNIT_V = 0.1
LOAD_UNIT_PERCENT = 0.1


@dataclass(frozen=True)
class Register:
    """A place in a motor's memory."""

    address: int
    size: int
    """Bytes: 1 or 2."""
    sign_bit: int | None = None
    """The bit that says that the value is negative; none where a value cannot be."""


@dataclass(frozen=True)
class Model:
    """A model of motor."""

    number: int
    """Value of its register `Model_Number`."""
    resolution: int
    """Steps of its encoder in one turn."""
    protocol: Protocol


MODELS = {
    "sts3215": Model(777, 4096, 0),
    "sts3250": Model(2825, 4096, 0),
    "sm8512bl": Model(11272, 4096, 0),
    "scs0009": Model(1284, 1024, 1),
}

_BOTH = {
    "Firmware_Major_Version": Register(0, 1),
    "Firmware_Minor_Version": Register(1, 1),
    "Model_Number": Register(3, 2),
    "ID": Register(5, 1),
    "Baud_Rate": Register(6, 1),
    "Return_Delay_Time": Register(7, 1),  # 2 us each
    "Response_Status_Level": Register(8, 1),  # 0: only ping and reading are answered
    "Min_Position_Limit": Register(9, 2),
    "Max_Position_Limit": Register(11, 2),
    "Max_Temperature_Limit": Register(13, 1),
    "Max_Voltage_Limit": Register(14, 1),
    "Min_Voltage_Limit": Register(15, 1),
    "Max_Torque_Limit": Register(16, 2),
    "Phase": Register(18, 1),
    "Unloading_Condition": Register(19, 1),
    "LED_Alarm_Condition": Register(20, 1),
    "P_Coefficient": Register(21, 1),
    "D_Coefficient": Register(22, 1),
    "I_Coefficient": Register(23, 1),
    "Minimum_Startup_Force": Register(24, 2),
    "CW_Dead_Zone": Register(26, 1),
    "CCW_Dead_Zone": Register(27, 1),
    "Torque_Enable": Register(40, 1),
    "Acceleration": Register(41, 1),  # 100 steps/s² each; 0 is without limit
    "Status": Register(65, 1),
    "Moving": Register(66, 1),
}

STS_SMS = _BOTH | {
    "Protection_Current": Register(28, 2),
    "Angular_Resolution": Register(30, 1),
    "Homing_Offset": Register(31, 2, sign_bit=11),
    "Operating_Mode": Register(33, 1),
    "Protective_Torque": Register(34, 1),  # %
    "Protection_Time": Register(35, 1),  # 10 ms each
    "Overload_Torque": Register(36, 1),  # %
    "Velocity_closed_loop_P_proportional_coefficient": Register(37, 1),
    "Over_Current_Protection_Time": Register(38, 1),
    "Velocity_closed_loop_I_integral_coefficient": Register(39, 1),
    "Goal_Position": Register(42, 2, sign_bit=15),
    "Goal_Time": Register(44, 2),
    "Goal_Velocity": Register(46, 2, sign_bit=15),
    "Torque_Limit": Register(48, 2),
    "Lock": Register(55, 1),
    "Present_Position": Register(56, 2, sign_bit=15),
    "Present_Velocity": Register(58, 2, sign_bit=15),
    "Present_Load": Register(60, 2, sign_bit=10),
    "Present_Voltage": Register(62, 1),
    "Present_Temperature": Register(63, 1),
    "Present_Current": Register(69, 2),
    "Goal_Position_2": Register(71, 2),
    "Moving_Velocity": Register(80, 1),
    "Moving_Velocity_Threshold": Register(80, 1),
    "DTs": Register(81, 1),
    "Velocity_Unit_factor": Register(82, 1),
    "Hts": Register(83, 1),
    "Maximum_Velocity_Limit": Register(84, 1),
    "Maximum_Acceleration": Register(85, 1),
    "Acceleration_Multiplier": Register(86, 1),
}

SCS = _BOTH | {
    "Protective_Torque": Register(37, 1),
    "Protection_Time": Register(38, 1),
    "Goal_Position": Register(42, 2),
    "Running_Time": Register(44, 2),
    "Goal_Velocity": Register(46, 2),
    "Lock": Register(48, 1),
    "Present_Position": Register(56, 2),
    "Present_Velocity": Register(58, 2),
    "Present_Load": Register(60, 2),
    "Present_Voltage": Register(62, 1),
    "Present_Temperature": Register(63, 1),
    "Sync_Write_Flag": Register(64, 1),
    "PWM_Maximum_Step": Register(78, 1),
    "Moving_Velocity_Threshold*50": Register(79, 1),
    "DTs": Register(80, 1),
    "Minimum_Velocity_Limit*50": Register(81, 1),
    "Maximum_Velocity_Limit*50": Register(82, 1),
    "Acceleration_2": Register(83, 1),
}

TABLES: dict[Protocol, dict[str, Register]] = {0: STS_SMS, 1: SCS}

ALARMS = {1: "voltage", 2: "angle sensor", 4: "overheated", 8: "overcurrent", 32: "overload"}
"""Bit of a status packet's error byte, and of the register `Status`, to what it means."""


def alarms(error: int) -> tuple[str, ...]:
    """What the error byte of a status packet says."""
    return tuple(name for bit, name in ALARMS.items() if error & bit)
