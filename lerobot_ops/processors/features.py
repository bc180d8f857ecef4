"""What a policy reads and writes: typed features, and how each type is normalised. Free of heavy imports."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from lerobot_ops.config import Config

ACTION = "action"
STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"


class FeatureType(StrEnum):
    """What kind of thing a feature is; the name is what LeRobot's JSON holds."""

    STATE = "STATE"
    VISUAL = "VISUAL"
    ENV = "ENV"
    ACTION = "ACTION"
    REWARD = "REWARD"
    LANGUAGE = "LANGUAGE"


class NormalizationMode(StrEnum):
    """How values are scaled before a policy sees them: the formulas are in `normalize`."""

    MEAN_STD = "MEAN_STD"
    MIN_MAX = "MIN_MAX"
    IDENTITY = "IDENTITY"
    QUANTILES = "QUANTILES"
    QUANTILE10 = "QUANTILE10"


class PolicyFeature(Config):
    """One input or output of a policy."""

    type: FeatureType
    shape: tuple[Annotated[int, Field(gt=0)], ...]
    """Without batch or time; cameras are (channels, height, width)."""
