"""The one tree of errors. A message names the thing, the rule, the value seen, and the way out."""

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "EvaluationError",
    "RunDirectoryError",
    "SchemaError",
    "StitchRLError",
    "StitchRLWarning",
]


class StitchRLError(Exception):
    """Base of every error stitchrl raises on purpose. The command line turns it into exit status 2."""


class DataError(StitchRLError, ValueError):
    """The log holds something that cannot be used as it stands."""


class SchemaError(DataError):
    """The schema is malformed, or does not fit the log."""


class ConfigurationError(StitchRLError, ValueError):
    """A setting is outside its range, unknown, or does not fit the others."""


class EvaluationError(StitchRLError, ValueError):
    """An estimate was asked for that cannot be given."""


class CheckpointError(StitchRLError):
    """A saved file is missing, damaged, or from something else."""


class RunDirectoryError(StitchRLError):
    """The output directory cannot be written, or holds another run."""


class StitchRLWarning(UserWarning):
    """Base of every warning stitchrl gives: the work goes on, but the user should know something about it."""
