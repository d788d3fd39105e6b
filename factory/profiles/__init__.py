"""Line and device profiles: TOML in, frozen checked models out; every refusal names file, key and allowed range."""

from factory.profiles.device import DeviceProfile
from factory.profiles.files import SHIPPED, available, engine_device, find_profile, load_device, load_line
from factory.profiles.line import (
    AcceptanceLimits,
    BudgetLimits,
    Classes,
    InputSize,
    InspectionSettings,
    LineProfile,
    SearchSettings,
    SpaceLimits,
)
from factory.profiles.table import NAME
from factory.profiles.training import (
    NO_NOISE,
    Augmentation,
    ScheduleSettings,
    SwapoutSettings,
    TeacherSettings,
    TrainingSettings,
)

__all__ = [
    "NAME",
    "NO_NOISE",
    "SHIPPED",
    "AcceptanceLimits",
    "Augmentation",
    "BudgetLimits",
    "Classes",
    "DeviceProfile",
    "InputSize",
    "InspectionSettings",
    "LineProfile",
    "ScheduleSettings",
    "SearchSettings",
    "SpaceLimits",
    "SwapoutSettings",
    "TeacherSettings",
    "TrainingSettings",
    "available",
    "engine_device",
    "find_profile",
    "load_device",
    "load_line",
]
