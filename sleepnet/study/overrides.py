"""Differences from a run's configuration, keyed by dotted keys."""
import copy
from collections.abc import Mapping
from typing import Any

from sleepnet import config as run_config, scalars
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError, nearest

# sections whose `arguments` are free: what they name knows which there are, and another one has others
_NAMED = ("task", "method")


def given(values: Any) -> dict[str, Any]:
    """Overrides as a config file gives them, nested or dotted: dotted key → value, numpy's numbers as Python's."""
    return flatten(scalars.python(values.to_dict() if hasattr(values, "to_dict") else values or {}))


def apply(base: RunConfig, *overrides: Mapping[str, Any]) -> RunConfig:
    """`base` with the values of some dotted keys changed, the later overrides over the earlier; where they name another task or method, its arguments are theirs alone.

    Raises:
      UsageError: a key that does not exist (names the nearest), or a value that is refused.
    """
    values = copy.deepcopy(run_config.to_dict(base))
    for each in overrides:
        for section in _NAMED:
            if each.get(f"{section}.name", before := values.get(section, {}).get("name")) != before:
                values[section]["arguments"] = {}
        for key, value in each.items():
            *sections, last = key.split(".")
            place = values
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            free = len(sections) == 2 and sections[0] in _NAMED and sections[1] == "arguments"
            if not isinstance(place, dict) or (last not in place and not free):
                raise UsageError(f"unknown config key {key!r}{nearest(key, flatten(run_config.to_dict(base)))}")
            place[last] = value
    return run_config.from_dict(RunConfig, values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections → dotted keys."""
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
