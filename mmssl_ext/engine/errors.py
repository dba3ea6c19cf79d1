"""Errors that a user can mend: the tools print their sentence and no traceback."""


class UserError(Exception):
    """Base of the errors whose message is all that the user needs.

    Attributes:
        exit_code: What a tool returns.
        logged: The message stands in the log already.
    """

    exit_code = 2
    logged = False


class ConfigError(UserError):
    """The config, or an option that changes it, cannot be used as it stands."""


class CheckpointFileError(UserError):
    """A checkpoint file is missing, damaged, refused or does not fit the model."""


class NonFiniteLossError(UserError):
    """Training stopped because a loss or a weight is NaN or infinite."""

    exit_code = 3
    logged = True
