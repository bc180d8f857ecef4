"""Words that act on simulated arms while they run: one line, one act."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lerobot_ops.errors import ConfigError, OpsError, did_you_mean
from lerobot_ops.motors.simulator.arm import Hand, SimulatedArm
from lerobot_ops.motors.simulator.faults import KINDS, Fault, Kind

HELP = f"""\
[ARM:] fault KIND [motors=a,b] [count=N] [probability=P] [delay_s=S] [volts=V]   {", ".join(KINDS)}
[ARM:] clear             switch all faults off and plug the cable in
[ARM:] unplug | plug     pull the USB cable, put it in
[ARM:] only MOTOR ...    leave only these motors on the chain; without any: all of them
[ARM:] pose MOTOR=DEGREES ...
[ARM:] hand wave | off   move the joints while their torque is off, or let go
[ARM:] power-cycle       take the supply away for a moment
[ARM:] status            angles, torques and faults
help, quit"""


def act(arms: Mapping[str, SimulatedArm], line: str) -> str:
    """Do what `line` says to the arm that it names, or to all; returns what to print. Never raises for a bad line."""
    try:
        name, colon, rest = line.partition(":")
        if colon:
            if name.strip() not in arms:
                raise ConfigError("there is no such arm", found=name.strip(), fix=did_you_mean(name.strip(), arms))
            return _act(arms[name.strip()], rest.split())
        return "\n".join(filter(None, (_act(arm, line.split()) for arm in arms.values())))
    except (OpsError, ValueError) as error:
        return f"error: {error}"


def wave(angles: Mapping[str, float], degrees: float = 20.0, seconds: float = 4.0) -> Hand:
    """A hand that swings every joint about `angles` (degrees), each a little later than the one before."""

    def motion(now: float) -> dict[str, float]:
        swing = {
            name: math.sin(2 * math.pi * now / seconds - number) + math.sin(number)
            for number, name in enumerate(angles)
        }
        return {name: angles[name] + degrees * value for name, value in swing.items()}

    return motion


def _act(arm: SimulatedArm, words: Sequence[str]) -> str:
    match list(words):
        case []:
            return ""
        case ["fault", kind, *settings]:
            arm.fault(_fault(kind, _pairs(settings)))
        case ["clear"]:
            arm.clear_faults()
        case ["unplug"]:
            arm.unplug()
        case ["plug"]:
            arm.plug_in()
        case ["only", *names]:
            arm.on_chain(names or None)
        case ["pose", *settings]:
            arm.pose({name: float(value) for name, value in _pairs(settings).items()})
        case ["hand", "wave"]:
            arm.hand(wave(arm.angles))
        case ["hand", "off"]:
            arm.hand(None)
        case ["power-cycle"]:
            arm.power_cycle()
        case ["status"]:
            return _status(arm)
        case _:
            return f"error: not understood: {' '.join(words)}\n{HELP}"
    return f"{arm.name}: {' '.join(words)}"


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    wrong = [each for each in settings if "=" not in each]
    if wrong:
        raise ConfigError("a setting has no value", found=wrong[0], expected="NAME=VALUE")
    return dict(each.split("=", 1) for each in settings)


def _fault(kind: str, settings: Mapping[str, str]) -> Fault:
    if kind not in KINDS:
        raise ConfigError("there is no such fault", found=kind, fix=did_you_mean(kind, KINDS))
    known: dict[str, Callable[[str], Any]] = {"motors": lambda text: tuple(text.split(",")), "count": int}
    known |= dict.fromkeys(("probability", "delay_s", "volts"), float)
    for name in settings:
        if name not in known:
            raise ConfigError("a fault has no such setting", found=name, fix=did_you_mean(name, known))
    return Fault(cast(Kind, kind), **{name: known[name](text) for name, text in settings.items()})


def _status(arm: SimulatedArm) -> str:
    torques, faults = arm.torques, ", ".join(fault.kind for fault in arm.faults) or "no faults"
    joints = "  ".join(
        f"{name} {angle + 0.0:.1f}°{' on' if torques[name] else ''}" for name, angle in arm.angles.items()
    )
    return f"{arm.name}: {'plugged in' if arm.plugged_in else 'unplugged'}, {faults}; {joints}"
