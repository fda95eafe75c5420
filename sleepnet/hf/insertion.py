"""Fast-weight blocks put into a model that was trained without them: a mixer alone, whose projection back is zero at first, so that the model says what it said."""
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import seeds
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.models.block import Block

_KINDS = {"G": "fixed", "Jet": "dynamic"}  # word → model.conv
_SEED = 0  # of the first values of everything but the projection back
FILE, PREFIX = "sleepnet.safetensors", "sleepnet."  # of an exported folder, where transformers looks for neither


def inserted(values: dict[str, Any], given: str) -> dict[str, Any]:
    """Keys of ModelConfig with blocks put in, `given` as "G:4,8,12": one behind the 4th, one behind the 8th, one behind the 12th block of the model; 0 is before the first.

    Raises:
      UsageError: no such kind, a place that the model does not have or that is named twice, or Jet blocks in a model whose own convolutions are fixed.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:,\d+)*)", given)
    if not found or found[1] not in _KINDS:
        raise UsageError(f"--insert={given} must be {' or '.join(_KINDS)}, and places, such as G:4,8,12")
    kind, places = found[1], sorted(map(int, found[2].split(",")))
    blocks = values["pattern"]
    if places[-1] > len(blocks):
        raise UsageError(f"--insert={given}: place {places[-1]} is behind the last of {len(blocks)} blocks; they are 0 to {len(blocks)}")
    if len(set(places)) < len(places):
        raise UsageError(f"--insert={given} names a place twice")
    if "G" in blocks and _KINDS[kind] != values.get("conv", "fixed"):
        raise UsageError(f"--insert={given}: the model's own fast-weight blocks have another convolution; insert G")
    pattern, alone = "", []
    for place in range(len(blocks) + 1):
        if place in places:
            alone.append(len(pattern))
            pattern += "G"
        pattern += blocks[place:place + 1]
    return {**values, "pattern": pattern, "no_mlp": tuple(alone), "conv": _KINDS[kind]}


def within(config: ModelConfig, name: str) -> bool:
    """Whether a parameter, by its dotted name, is of a block that was put in."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return bool(found) and int(found[1]) in config.no_mlp


def names(config: ModelConfig) -> str:
    """The regular expression for `adapters.names` that lets these blocks alone change."""
    return rf"^blocks\.({'|'.join(map(str, config.no_mlp))})\."


def first_values(config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(name, value) of every parameter of the blocks put in: as any fresh model's, and zero where a block speaks to the rest."""
    for index in config.no_mlp:
        block = Block(config.pattern[index], config, nnx.Rngs(jax.random.fold_in(seeds.key(_SEED), index)), has_mlp=False)
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.split(block, nnx.Param)[1])):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            yield f"blocks.{index}.{name}", np.asarray(jnp.zeros_like(leaf) if name == "mixer.out.kernel" else leaf)
