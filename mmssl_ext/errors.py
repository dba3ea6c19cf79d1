"""Errors that a user can fix: the tools print their sentence and no traceback.

Exit codes of the tools: 0 finished; 1 an error with a traceback; 2 a config, a file or
an option cannot be used; 3 a loss or weight is not finite; 4 the data loader failed;
5 another rank is gone; 75 stopped by a signal with everything saved: run it again with
``--resume`` (EX_TEMPFAIL of sysexits.h); 130 ended by a second Ctrl-C or, of a tool
other than training, by the first.
"""

__all__ = [
    "CheckpointFileError",
    "ConfigError",
    "LoaderError",
    "NonFiniteLossError",
    "Preempted",
    "RankError",
    "UserError",
    "UserTypeError",
    "UserValueError",
]


class UserError(Exception):
    """Base of the errors whose message is all that the user needs.

    Attributes:
        exit_code: What a tool returns.
        logged: The message stands in the log already.
    """

    exit_code = 2
    logged = False


class UserValueError(UserError, ValueError):
    """A value, an image or a file that cannot be used."""


class UserTypeError(UserError, TypeError):
    """A value of a kind that cannot be used."""


class ConfigError(UserError):
    """The config, or an option that changes it, cannot be used as it stands."""


class CheckpointFileError(UserError):
    """A checkpoint file is missing, damaged, refused or does not fit the model."""


class NonFiniteLossError(UserError):
    """Training stopped because a loss or a weight is NaN or infinite."""

    exit_code = 3
    logged = True


class LoaderError(UserError):
    """A batch cannot be loaded: a worker died, raised or does not answer."""

    exit_code = 4


class RankError(UserError):
    """Another rank is gone or does not answer."""

    exit_code = 5


class Preempted(UserError):
    """A signal asked the run to stop; its state is saved."""

    exit_code = 75
