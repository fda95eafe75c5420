"""A released model's config.json, read so that nothing is guessed: keys that matter are asked for, what a model here has not is refused by its key."""
from collections.abc import Mapping
from typing import Any

from sleepnet.errors import UsageError

_MISSING = object()


class Values:
    """One section of a config.json.

    Args:
      values: the section.
      where: its file, for refusals.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    def get(self, key: str, default: Any = _MISSING, kind: type | tuple[type, ...] = int) -> Any:
        """The value of a key, `default` where it is absent or null.

        Raises:
          UsageError: it is absent and there is no default, or of another type.
        """
        value = self.values.get(key)
        if value is None:
            if default is _MISSING:
                raise UsageError(f"{self.where}: {key} is missing, and a guess would give other logits; add it as the model's authors have it")
            return default
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            names = "/".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise UsageError(f"{self.where}: {key}={value!r} must be of type {names}")
        return value

    def only(self, key: str, wanted: Any, why: str) -> None:
        """Refuses a key that says something else than `wanted`, which an absent one means, too."""
        if self.values.get(key) not in (None, wanted):
            raise UsageError(f"{self.where}: {key}={self.values[key]!r} is not supported, only {wanted!r}: {why}")

    def rope(self, default_share: float = 1.0) -> dict[str, Any]:
        """rope_theta and rope_share, from where transformers 4 has them (top level) or 5 (rope_parameters).

        Raises:
          UsageError: there is no base, in either place, or the frequencies are scaled.
        """
        inner = self.get("rope_parameters", {}, dict)
        for section in (inner, self.get("rope_scaling", {}, dict)):
            kind = section.get("rope_type", section.get("type", "default"))
            if kind not in (None, "default"):
                raise UsageError(f"{self.where}: rotary type {kind!r} is not supported: frequencies that are scaled are not built here yet, only 'default'")
        theta = inner.get("rope_theta", self.values.get("rope_theta"))
        if not isinstance(theta, (int, float)) or isinstance(theta, bool) or not theta > 0:
            raise UsageError(
                f"{self.where}: no rotary base: neither rope_theta nor rope_parameters.rope_theta is a positive number ({theta!r}); it has no default, "
                f"add it as the model's authors have it"
            )
        share = inner.get("partial_rotary_factor", self.values.get("partial_rotary_factor"))
        return {"rope_theta": float(theta), "rope_share": float(default_share if share is None else share)}

    def pattern(self, letters: Mapping[str, str], layers: int) -> str:
        """`layer_types` as letters, one a block."""
        types = self.get("layer_types", kind=list)
        if len(types) != layers:
            raise UsageError(f"{self.where}: layer_types has {len(types)} entries for num_hidden_layers={layers}")
        for kind in types:
            if kind not in letters:
                raise UsageError(f"{self.where}: layer_types has {kind!r}; this family's blocks are {', '.join(letters)}")
        return "".join(letters[kind] for kind in types)
