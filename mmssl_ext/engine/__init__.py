"""Training: hooks, checkpoints and launching."""

from .errors import CheckpointFileError, ConfigError, NonFiniteLossError, UserError
from .hooks import *  # noqa: F403

__all__ = ["CheckpointFileError", "ConfigError", "NonFiniteLossError", "UserError"]
