"""What a model may be given: tokens and states that are none of its own are refused by name, where JAX would clamp, broadcast or fail far from here."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet.config import ModelConfig
from sleepnet.state import State


def check_tokens(tokens: Any, vocab_size: int) -> None:
    """Sees that `tokens` are whole numbers [B, T], B and T at least 1, from 0 to V − 1.

    Values are looked at where there are some, outside `jit`; within it a token outside the vocabulary makes NaN of all that depends on it.

    Raises:
      ValueError: they are not.
    """
    shape, dtype = getattr(tokens, "shape", None), getattr(tokens, "dtype", None)
    if shape is None or len(shape) != 2 or 0 in shape or not jnp.issubdtype(dtype, jnp.integer):
        given = type(tokens).__name__ if shape is None else f"{dtype}{list(shape)}"
        raise ValueError(f"tokens must be an array of whole numbers [B, T], of at least one sequence and one token, not {given}")
    if isinstance(tokens, jax.core.Tracer) or not getattr(tokens, "is_fully_addressable", True):
        return
    values = np.asarray(tokens)
    for token in (int(values.min()), int(values.max())):
        if not 0 <= token < vocab_size:
            raise ValueError(f"tokens hold {token}, the model's vocabulary is 0 … {vocab_size - 1}: other data, or a model of another task")


def check_mask(valid: Any, shape: tuple[int, int]) -> None:
    """Sees that a mask of tokens, where there is one, is bool [B, T].

    Raises:
      ValueError: it is not.
    """
    if valid is not None and (getattr(valid, "shape", None) != shape or getattr(valid, "dtype", None) != bool):
        raise ValueError(f"valid must be bool{list(shape)}, one a token, not {getattr(valid, 'dtype', type(valid).__name__)}{list(getattr(valid, 'shape', ()))}")


def check_batch_size(batch_size: Any) -> None:
    """Refuses, with a ValueError, what is no whole number of at least 1."""
    if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number of at least 1")


def check_state(state: State, config: ModelConfig, batch_size: int | None = None) -> None:
    """Sees that `state` is of a model with this configuration, and of B sequences where B is given; shapes alone are looked at.

    Raises:
      ValueError: it is not; names the first part that differs.
    """
    held, slots = state.window.tokens.shape[0], state.window.kv_cache.valid.shape[-1]
    if batch_size is not None and held != batch_size:
        raise ValueError(f"tokens of {batch_size} sequences and a state of {held}: give one of init_state({batch_size})")
    if not config.full_cache or slots < config.window:  # without evictions the cache has grown with every window
        slots = config.survivors + config.window
    attention, fast = config.pattern.count("A"), config.pattern.count("G")
    entries = ((held, slots, *config.entry_shape),) * attention
    tails = ((held, config.conv_width - 1, config.conv_channels),) * fast
    window, weights = state.window, ((held, *config.state_shape),) * fast
    for name, arrays, wanted in (
        ("fast_weights", state.fast_weights.layers, weights),
        ("window.fast_weights", window.fast_weights.layers, weights),
        ("window.tokens", (window.tokens,), ((held, config.window),)),
        ("window.conv_tails", window.conv_tails, tails),
        ("conv_tails", state.conv_tails, tails if config.sleep.keep_tails else ()),
        ("window.kv_cache.keys", window.kv_cache.keys, entries),
        ("window.kv_cache.values", window.kv_cache.values, entries),
        ("window.kv_cache.valid", (window.kv_cache.valid,), ((held, slots),)),
    ):
        found = tuple(array.shape for array in arrays)
        if found != wanted:
            tell = lambda shapes: ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes)) or "none"
            raise ValueError(f"a state of another model: {len(found)} {name} of {tell(found)}, this model's are {len(wanted)} of {tell(wanted)}")
