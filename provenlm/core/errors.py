"""Define the errors that a user can cause.

Each message is one line that names the place, the fault and what is allowed.

    ProvenlmError
    ├── ConfigError       a value of params.yaml or of the command line
    ├── DataError         a source, record, token file or audit
    ├── CheckpointError   a model folder or a checkpoint
    └── StageError        a stage that failed or was cancelled

Commands and stages print the message of a ProvenlmError and exit with status 1; every other exception is a fault of the program.
"""


class ProvenlmError(Exception):
    """Report a mistake that the user can correct."""


class ConfigError(ProvenlmError):
    """Report a value of params.yaml or of the command line that is not allowed."""


class DataError(ProvenlmError):
    """Report a source, record or file that is missing, damaged or unsuitable."""


class CheckpointError(ProvenlmError):
    """Report a model folder or checkpoint that is missing, damaged or wrong."""
