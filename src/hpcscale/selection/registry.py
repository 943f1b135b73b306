"""Find a selection method by the name in the YAML file."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from hpcscale.config.sweep import MethodConfig
from hpcscale.plugins import checked, installed, load_class
from hpcscale.selection.method import SelectionMethod

GROUP = "hpcscale.selection"


def available() -> dict[str, EntryPoint]:
    """Installed methods by name."""
    return installed(GROUP)


def load_method(config: MethodConfig) -> SelectionMethod:
    """The method with its parameters checked.

    Raises ConfigError for an unknown method, a plug-in that does not load, or wrong parameters.
    """
    place = f"selection `{config.name}`"
    found: type[SelectionMethod] = load_class(
        GROUP, config.method, SelectionMethod, "method", available(), f"{place}: "
    )
    return found(checked(found.Params, config.params, place))
