"""The result of a check of `hpcscale doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line. ``passed`` None: the check cannot be made here, and ``measured`` says why.

    fatal: results would be wrong. Where it is False, something is slower, or not available.
    """

    name: str
    passed: bool | None
    measured: str
    bound: str = ""
    remedy: str = ""
    fatal: bool = True

    @property
    def failed(self) -> bool:
        return self.passed is False and self.fatal

    @property
    def word(self) -> str:
        if self.passed is None:
            return "skip"
        return "ok" if self.passed else "FAIL" if self.fatal else "note"

    def line(self) -> str:
        bound = f"  (bound: {self.bound})" if self.bound else ""
        return f"{self.word:<5} {self.name:<18} {self.measured}{bound}"
