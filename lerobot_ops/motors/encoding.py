"""Values as a register's bytes: sign and magnitude, and the order of bytes of each protocol."""

from lerobot_ops.motors.tables import Protocol, Register


def encode(value: int, register: Register, protocol: Protocol) -> bytes:
    """The bytes that `register` holds for `value`; ValueError if it has no room for it.

    A register with a sign bit holds the magnitude below that bit, as Feetech's firmware wants it; others are unsigned.
    """
    lowest, highest = limits(register)
    if not lowest <= value <= highest:
        raise ValueError(f"{value} is not in {lowest} to {highest}")
    if value < 0 and register.sign_bit is not None:
        value = -value | 1 << register.sign_bit
    return value.to_bytes(register.size, "big" if protocol else "little")


def decode(data: bytes, register: Register, protocol: Protocol) -> int:
    """The value of a register's bytes."""
    value = int.from_bytes(data, "big" if protocol else "little")
    if register.sign_bit is not None and value >> register.sign_bit & 1:
        return -(value & (1 << register.sign_bit) - 1)
    return value & (1 << register.sign_bit) - 1 if register.sign_bit is not None else value


def limits(register: Register) -> tuple[int, int]:
    """The lowest and the highest value that `register` has room for."""
    if register.sign_bit is None:
        return 0, (1 << 8 * register.size) - 1
    highest = (1 << register.sign_bit) - 1
    return -highest, highest
