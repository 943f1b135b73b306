"""The errors that a user can cause or meet; everything else is a bug of ours.

Every message says what happened, names the value and the place, and ends with the way out.
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
    """Another rank failed, and its message is the one worth reading."""


class TrainingError(HpcscaleError, RuntimeError):
    """Training cannot go on, for example because the loss is not finite."""


class ClusterError(HpcscaleError, RuntimeError):
    """The site, the scheduler or the container runtime refuses what was asked."""


class TaskError(HpcscaleError, RuntimeError):
    """A task's inputs are missing or invalid, or a task failed."""


class Preempted(BaseException):
    """The task was asked to stop; it saved its state and can go on later.

    Not an Exception, as KeyboardInterrupt is none: it can come up anywhere, and who handles
    errors there (a library that tries the next reader, say) must not take it for one.
    """

    exit_code: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: try again
