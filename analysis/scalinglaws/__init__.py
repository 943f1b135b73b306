"""Scaling laws of any table of losses: fits with their uncertainty, and figures.

``analyse`` does all of it for a table or a finished sweep; ``Analysis`` holds the parts. The
package knows nothing of hpcscale or torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "analyse": "api",
    "Analysis": "analysis",
    "Options": "analysis",
    "read_losses": "read",
    "fit_law": "estimation",
    "LAWS": "laws",
    "Law": "laws",
    "register": "laws",
    "AnalysisError": "errors",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a name on first use, because scipy and pandas take most of a second to import."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
