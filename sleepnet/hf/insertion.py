"""Fast-weight blocks put into a model that was trained without them: a mixer alone, that is silent at first, so that the model says what it said."""
import re
from collections.abc import Iterator, Mapping
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
_TAP = 0.1  # of a convolution that lets a token through, see `_like_attention`
OUT = "mixer.out.kernel"  # by which a block speaks to the rest


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


def first_values(config: ModelConfig, like: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, value) of every parameter of the blocks put in: as any fresh model's, and zero where a block speaks to the rest.

    Args:
      config: of the model with them.
      like: what `beside` names, by name; then a block reads and writes as that attention does, see `_like_attention`.
    """
    for index in config.no_mlp:
        block = Block(config.pattern[index], config, nnx.Rngs(jax.random.fold_in(seeds.key(_SEED), index)), has_mlp=False)
        leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.split(block, nnx.Param)[1]))
        values = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
        silent = {OUT: jnp.zeros_like(values[OUT])} if like is None else _like_attention(config, {name: like[at] for name, at in beside(config, index).items()})
        for name, leaf in {**values, **silent}.items():
            yield f"blocks.{index}.{name}", np.asarray(leaf)


def beside(config: ModelConfig, index: int) -> dict[str, str]:
    """Name within a block → name of the parameter of the attention that block `index`, put in, stands before: the next one of the model's own.

    Raises:
      UsageError: there is none, or it can't be taken over: its heads, norm, biases or gate are none that a fast-weight block has.
    """
    after = next((at for at in range(index + 1, len(config.pattern)) if config.pattern[at] == "A"), None)
    if after is None:
        raise UsageError(f"--like=attention: no attention stands behind block {index}, which is put in there; insert further down, or leave --like out")
    same = config.key_shape == config.value_shape == (config.heads, config.head_dim) and config.norms_of("A")[0] and config.norms_of("G")[0]
    if not same or config.attention_gate or config.qkv_bias or config.conv != "fixed" or config.qk_norm != "none":
        raise UsageError("--like=attention takes over plain attention, without biases, a gate or norms of q and k, into blocks G with as many heads as wide: leave --like out")
    return {name: f"blocks.{after}.{name}" for name in ("mixer_norm.scale", *(f"mixer.{part}.kernel" for part in ("q", "k", "v", "out")))}


def _like_attention(config: ModelConfig, held: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """First values by which a block reads and writes as an attention: its norm, q, k, v (shared ones once for each head) and projection back; the
    convolution gives the token itself, so little of it that SiLU is all but linear (lengths are normalised behind it); and the gate is shut: silu(0) = 0
    silences the block, and what opens it has a gradient at once. Ours; the paper draws its blocks fresh."""
    heads, kept = config.heads, config.entry_shape[0]
    wide = lambda kernel: np.repeat(kernel.reshape(len(kernel), kept, -1), heads // kept, axis=1).reshape(len(kernel), -1)
    made = dict(held) | {f"mixer.{part}.kernel": wide(np.asarray(held[f"mixer.{part}.kernel"])) for part in ("k", "v")}
    taps = np.zeros((config.conv_width, config.conv_channels), np.float32)
    taps[-1] = _TAP
    return made | {"mixer.conv": taps, "mixer.gate.kernel": np.zeros((config.width, heads * config.head_dim), np.float32)}
