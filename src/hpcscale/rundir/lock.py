"""One sweep at a time in a run directory, on one machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcscale.errors import ClusterError, ConfigError
from hpcscale.rundir.layout import LOCK


@contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Lock the run directory, so that no second sweep on this machine uses it.

    Raises ConfigError where it cannot be written, ClusterError where another sweep has the lock.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = open(run_dir / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(
            f"root: {run_dir} cannot be written ({error.strerror}); choose another with "
            "--set root=DIR"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ClusterError(
                f"another sweep (process {handle.read().strip() or 'unknown'}) runs in {run_dir}; "
                f"watch it with `hpcscale status {run_dir} --follow`"
            ) from None
        except OSError:
            # Some parallel file systems have no locks; tasks are still checked for liveness.
            pass
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
