"""Simulated servos on one wire: what each request does to them and what they answer."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lerobot_ops.motors.simulator import packets
from lerobot_ops.motors.simulator.faults import OF_REPLIES, Fault, spoiled
from lerobot_ops.motors.simulator.packets import Request, status_packet
from lerobot_ops.motors.simulator.servo import OVERHEAT, OVERLOAD, Servo, Supply

_DELAY_UNIT_S = 2e-6


@dataclass(frozen=True)
class Reply:
    """Bytes that a servo sends."""

    data: bytes
    after_s: float
    """The pause before them."""
    late_s: float = 0.0
    """How much later than that they come, because of a fault."""


class SimulatedChain:
    """Servos that hear the same requests."""

    def __init__(self, servos: Sequence[Servo], supply: Supply) -> None:
        self.servos, self.supply = list(servos), supply
        self.faults: list[Fault] = []

    def handle(self, request: Request, now: float, baudrate: int) -> list[Reply]:
        """Do what `request` says, at `now` (s); servos set to another rate than `baudrate` do not understand it."""
        listening = [servo for servo in self.servos if servo.baudrate == baudrate]
        for servo in listening:
            servo.advance(now)
        if request.instruction == packets.SYNC_READ:
            return self._sync_read(listening, request.parameters)
        if request.instruction == packets.SYNC_WRITE:
            _sync_write(listening, request.parameters)
            return []
        everyone = request.id == packets.BROADCAST
        addressed = listening if everyone else [servo for servo in listening if servo.id == request.id]
        answers = [(servo, _do(servo, request)) for servo in addressed]
        if everyone:
            if request.instruction != packets.PING:
                return []
            pings = [(servo, data) for servo, data in answers if servo.protocol == 0 and data is not None]
            return self._replies([(servo, servo.id, data) for servo, data in pings])
        heard = [(servo, request.id, data) for servo, data in answers if data is not None]
        return _collided(self._replies(heard))

    def apply(self, faults: Iterable[Fault]) -> None:
        """Let `faults`, and no others, act on servos and supply."""
        self.faults = list(faults)
        self.supply.drop = sum(fault.volts for fault in self.faults if fault.kind == "voltage_drop")
        for servo in self.servos:
            kinds = {fault.kind for fault in self.faults if fault.befalls(servo.joint.name)}
            servo.forced_alarms = (OVERLOAD if "overload" in kinds else 0) | (OVERHEAT if "overheat" in kinds else 0)

    def _sync_read(self, listening: Sequence[Servo], parameters: bytes) -> list[Reply]:
        if len(parameters) < 3:
            return []
        address, size = parameters[0], parameters[1]
        by_id = {servo.id: servo for servo in listening if servo.protocol == 0}
        asked = [by_id[motor_id] for motor_id in parameters[2:] if motor_id in by_id]
        return self._replies([(servo, servo.id, servo.read(address, size)) for servo in asked])

    def _replies(self, answers: Iterable[tuple[Servo, int, bytes]]) -> list[Reply]:
        """Status packets as faults leave them, from the ids that were asked: a new id speaks from the next one on."""
        replies = []
        for servo, motor_id, data in answers:
            reply, late = status_packet(motor_id, servo.error, data), 0.0
            for fault in self.faults:
                if fault.kind in OF_REPLIES and fault.strikes(servo.joint.name):
                    reply = spoiled(fault.kind, reply)
                    late = max(late, fault.delay_s) if fault.kind == "late_reply" else late
            if reply:
                replies.append(Reply(reply, servo.get("Return_Delay_Time") * _DELAY_UNIT_S, late))
        return replies


def _do(servo: Servo, request: Request) -> bytes | None:
    """The data of the servo's answer; None where it gives none."""
    instruction, parameters = request.instruction, request.parameters
    if instruction == packets.PING:
        return b""
    if instruction == packets.READ:
        return servo.read(parameters[0], parameters[1]) if len(parameters) == 2 else None
    answers = b"" if servo.get("Response_Status_Level") else None
    if instruction == packets.WRITE and len(parameters) > 1:
        servo.write(parameters[0], parameters[1:])
    elif instruction == packets.REG_WRITE and len(parameters) > 1:
        servo.register_write(parameters[0], parameters[1:])
    elif instruction == packets.ACTION:
        servo.action()
    elif instruction == packets.RESET:
        servo.reset()
    else:
        return None
    return answers


def _sync_write(listening: Sequence[Servo], parameters: bytes) -> None:
    if len(parameters) < 3:
        return
    address, size = parameters[0], parameters[1]
    by_id = {servo.id: servo for servo in listening}
    for at in range(2, len(parameters) - size, size + 1):
        if (servo := by_id.get(parameters[at])) is not None:
            servo.write(address, parameters[at + 1 : at + 1 + size])


def _collided(replies: list[Reply]) -> list[Reply]:
    """Servos that share an id speak at once: the line is low wherever one of them pulls it low."""
    if len(replies) < 2:
        return replies
    longest = max(len(reply.data) for reply in replies)
    mixed = bytes(map(operator.and_, *(reply.data.ljust(longest, b"\xff") for reply in replies[:2])))
    return [Reply(mixed, replies[0].after_s)]
