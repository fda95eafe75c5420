"""What a model remembers, out of and into transformers' cache: a model that slept here is served there.

    cache = transformers.DynamicCache(config=theirs.config)
    hf.cache.fill(cache, memory.state, model.config)       theirs(tokens, cache=cache) reads on from S, as the first tokens of a window
    state = hf.cache.taken(cache, model)                   and back: S, at the beginning of a window

Layouts differ in one thing: [B, H, K, V] float32 is S on both sides; a convolution's tail is the last W − 1 tokens here, [B, W − 1, C], and the last W there, [B, C, W].
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.state import State


def states_of(state: State, config: ModelConfig) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Their layer → (S [B, H, K, V] float32, tail [B, C, W]) of a state at the beginning of a window.

    Raises:
      UsageError: the state stands within a window, whose KV entries would be lost, or holds entries from before; or the model has blocks that were put in.
    """
    if config.no_mlp:
        raise UsageError("the model has blocks that were put in, of which transformers knows nothing: its cache has no place for their S")
    if int(state.window.length) or bool(np.asarray(state.window.kv_cache.valid).any()):
        raise UsageError("the state stands within a window: end it with model.sleep(state, passes), what attention alone has is not taken along")
    blocks = [index for index, kind in enumerate(config.pattern) if kind == "G"]
    tails = [np.pad(np.asarray(tail, np.float32).swapaxes(1, 2), ((0, 0), (0, 0), (1, 0))) for tail in state.window.conv_tails]  # their oldest is never read again
    return {index: (np.asarray(layer), tail) for index, layer, tail in zip(blocks, state.fast_weights.layers, tails, strict=True)}


def state_from(states: dict[int, tuple[np.ndarray, np.ndarray]], model: Hybrid) -> State:
    """A state of `model` at the beginning of a window, from what `states_of` gives; tails are taken where the model keeps any.

    Raises:
      UsageError: another model's: names the first layer that differs.
    """
    config = model.config
    blocks = [index for index, kind in enumerate(config.pattern) if kind == "G"]
    rows = next((layer.shape[0] for layer, _ in states.values()), 1)
    for index in blocks:
        have = states[index][0].shape if index in states else None
        if have != (rows, *config.state_shape):
            raise UsageError(f"layer {index} holds {list(have) if have else 'no fast weights'}, this model's S is {[rows, *config.state_shape]}: give the cache of the same model")
    blank = model.init_state(rows)
    layers = dataclasses.replace(blank.fast_weights, layers=tuple(jnp.asarray(states[index][0], jnp.float32) for index in blocks))
    tails = tuple(jnp.asarray(states[index][1].swapaxes(1, 2)[:, 1:], jnp.dtype(config.dtype)) for index in blocks) if config.sleep.keep_tails else blank.window.conv_tails
    window = dataclasses.replace(blank.window, fast_weights=layers, conv_tails=tails)
    return State(layers, window, tails if config.sleep.keep_tails else ())


def fill(cache: Any, state: State, config: ModelConfig) -> None:
    """Puts S and tails of a state at the beginning of a window into an empty transformers cache; raises UsageError as `states_of`."""
    import torch

    for layer, (weights, tail) in states_of(state, config).items():
        cache.update_conv_state(torch.from_numpy(tail.copy()), layer, conv_kernel_size=config.conv_width)
        cache.update_recurrent_state(torch.from_numpy(weights.copy()), layer)


def taken(cache: Any, model: Hybrid) -> State:
    """The state that a transformers cache holds, without its keys and values: a window has ended there; raises UsageError as `state_from`."""
    to = lambda tensor: tensor.detach().to("cpu").float().numpy()
    blocks = [index for index, kind in enumerate(model.config.pattern) if kind == "G"]
    held = {index: (cache.get_recurrent_state(index), cache.get_conv_state(index)) for index in blocks}
    return state_from(jax.tree.map(to, {index: pair for index, pair in held.items() if pair[0] is not None}), model)
