"""Training: hooks, checkpoints and launching."""

from .errors import CheckpointFileError, ConfigError, NonFiniteLossError, UserError
from .hooks import *  # noqa: F403
from .runner import SSLRunner

__all__ = [
    "CheckpointFileError",
    "ConfigError",
    "NonFiniteLossError",
    "SSLRunner",
    "UserError",
]
