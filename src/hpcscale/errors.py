"""The errors that a user can cause or meet; every other exception is a bug.

Every message says what happened, names the value and the place, and ends with the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class HpcscaleError(Exception):
    """Base of the errors that the command line prints without a traceback."""

    exit_code: ClassVar[int] = 2


class ConfigError(HpcscaleError, ValueError):
    """The YAML file, an override or a command-line value is wrong."""


class DataError(HpcscaleError, ValueError):
    """A corpus, token store or selection is missing, broken or too small."""


class CheckpointError(HpcscaleError, RuntimeError):
    """A model or checkpoint is missing, broken or of the wrong shape."""


class OtherRankFailed(CheckpointError):
    """Another rank failed; read that rank's message."""


class TrainingError(HpcscaleError, RuntimeError):
    """Training cannot continue, for example because the loss is not finite."""


class ClusterError(HpcscaleError, RuntimeError):
    """The site, the scheduler or the container runtime refuses a request."""


class TaskError(HpcscaleError, RuntimeError):
    """A task's inputs are missing or invalid, or a task failed."""


class Preempted(BaseException):
    """The task was asked to stop; it saved its state and can continue later.

    Like KeyboardInterrupt, it is not an Exception: it can be raised anywhere, and code that handles
    errors there (a library that tries the next reader, for example) must not handle it.
    """

    exit_code: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: try again
