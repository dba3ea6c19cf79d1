"""What an online feature is compared with; a method has one target."""

from .base import OwnTarget, StoppedTarget, Target
from .momentum import MomentumTarget
from .teacher import FrozenTeacher

__all__ = ["FrozenTeacher", "MomentumTarget", "OwnTarget", "StoppedTarget", "Target"]
