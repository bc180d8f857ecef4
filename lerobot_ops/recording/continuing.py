"""Whether a recording may go on in a dataset: with the same rate, the same features, and the same robot."""

from collections.abc import Mapping
from typing import Any

from lerobot_ops.datasets.info import DEFAULT_FEATURES, Feature, load_info
from lerobot_ops.errors import DatasetError
from lerobot_ops.recording.config import RecordConfig
from lerobot_ops.recording.frames import Layout
from lerobot_ops.recording.provenance import Provenance
from lerobot_ops.robots.robot import Robot

_CALIBRATION = "calibration"
_NONE = "none"


def check_continuing(config: RecordConfig, robot: Robot, layout: Layout) -> Provenance:
    """What is known of how the dataset was recorded, which is to be continued.

    Raises DatasetError, naming everything that differs, unless an episode of this robot fits into it. The settings of
    cameras may differ from session to session.
    """
    root, provenance = config.dataset.place, Provenance.load(config.dataset.place)
    info = load_info(root)
    before: dict[str, object] = {"rate": f"{info.fps} fps", "robot type": info.robot_type}
    now: dict[str, object] = {"rate": f"{config.dataset.fps} fps", "robot type": robot.name}
    before |= {name: _described(f) for name, f in info.features.items() if name not in DEFAULT_FEATURES}
    now |= {name: _described(Feature.model_validate(dict(own))) for name, own in layout.features.items()}
    if provenance.sessions:
        before |= _flat(provenance.sessions[-1].robot)
        now |= _flat(robot.identity())
    different = {name for name in before.keys() | now.keys() if before.get(name, _NONE) != now.get(name, _NONE)}
    if config.allow_other_calibration:
        different = {name for name in different if not name.endswith(_CALIBRATION)}
    if not different:
        return provenance
    lines = [
        f"  {name}: {before.get(name, _NONE)} in the dataset, {now.get(name, _NONE)} now"
        for name in [*before, *(name for name in now if name not in before)]
        if name in different
    ]
    fix = "record as before, or into another --dataset.root"
    if any(name.endswith(_CALIBRATION) for name in different):
        fix += "; if positions mean the same as with the calibration before: --allow_other_calibration=true"
    if any(name.startswith("timing.") and name not in info.features for name in different):
        fix += "; LeRobot stores no times: --dataset.timing=false"
    raise DatasetError("the dataset was recorded otherwise:\n" + "\n".join(lines), file=root, fix=fix)


def _described(feature: Feature) -> str:
    names = f" {', '.join(map(str, feature.names))}" if isinstance(feature.names, list) else ""
    return f"{feature.dtype}{list(feature.shape)}{names}"


def _flat(identity: Mapping[str, Any], prefix: str = "robot ") -> dict[str, object]:
    """What of a robot's identity the numbers in a dataset depend on."""
    flat: dict[str, object] = {}
    for key, value in identity.items():
        if key == "cameras":
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key} ")
        else:
            flat[prefix + key] = value
    return flat
