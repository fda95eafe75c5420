"""S out of and into transformers' cache."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from sleepnet.errors import UsageError
from sleepnet.hf import cache, check, load

GOLDEN = check.GOLDENS / "qwen3_5_text"


@pytest.fixture(scope="module")
def model():
    return load(GOLDEN, window=16)[0]


def drawn(model, rows=2):
    """A state at the beginning of a window, of random numbers."""
    draw = np.random.default_rng(0)
    blank = model.init_state(rows)
    layers = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), leaf.dtype), blank.fast_weights)
    return dataclasses.replace(blank, fast_weights=layers, window=dataclasses.replace(blank.window, fast_weights=layers))


def test_there_and_back_is_the_same_state(model):
    state = drawn(model)
    states = cache.states_of(state, model.config)
    assert {index: (weights.shape, tail.shape) for index, (weights, tail) in states.items()} == {0: ((2, *model.config.state_shape), (2, model.config.conv_channels, 4))}
    again = cache.state_from(states, model)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_tail_is_turned_and_its_oldest_token_left_out():
    keeping, _ = load(check.GOLDENS / "qwen3_5_text", window=16, sleep={"keep_tails": True, "eviction": "sliding"})
    state = keeping.init_state(1)
    tail = jnp.arange(3.0)[None, :, None] + 10 * jnp.arange(float(keeping.config.conv_channels))[None, None]
    state = dataclasses.replace(state, window=dataclasses.replace(state.window, conv_tails=(tail,)), conv_tails=(tail,))
    _, there = cache.states_of(state, keeping.config)[0]
    np.testing.assert_array_equal(there[0, 2], [0, 20, 21, 22])
    np.testing.assert_array_equal(cache.state_from(cache.states_of(state, keeping.config), keeping).conv_tails[0], tail)


def test_what_would_be_lost_or_is_anothers_is_refused(model):
    state = drawn(model)
    within = dataclasses.replace(state, window=dataclasses.replace(state.window, length=jnp.int32(3)))
    with pytest.raises(UsageError, match="stands within a window"):
        cache.states_of(within, model.config)
    with pytest.raises(UsageError, match="layer 0 holds no fast weights"):
        cache.state_from({}, model)
    with pytest.raises(UsageError, match="give the cache of the same model"):
        cache.state_from({0: (np.zeros((1, 1, 2, 3), np.float32), np.zeros((1, 3, 4), np.float32))}, model)
    with pytest.raises(UsageError, match="blocks that were put in"):
        cache.states_of(state, dataclasses.replace(model.config, no_mlp=(0,)))


@pytest.mark.hf
def test_logits_that_follow_are_those_of_torch_both_ways(model):
    """Asked for by `pytest -m hf` alone: read here and sleep, go on there; read there, go on here."""
    import torch
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = load_file(GOLDEN / "golden.safetensors")["tokens"].astype(np.int32)
    first, more = tokens[:, :7], tokens[:, 7:]
    _, state = model.wake(jnp.asarray(first), model.init_state(2))
    slept = model.sleep(state, 1)
    ours, _ = model.wake(jnp.asarray(more), slept)
    held = transformers.DynamicCache(config=theirs.config)
    cache.fill(held, slept, model.config)
    with torch.no_grad():
        there = theirs(torch.from_numpy(more).long(), cache=held, use_cache=True).logits.numpy()
        found = check.difference(ours, there)
        assert found.passed and found.logit > 1, str(found)
        empty = theirs(torch.from_numpy(more).long()).logits.numpy()
        assert np.abs(there - empty).max() > 30 * found.bar  # S makes a difference
        held = theirs(torch.from_numpy(first).long(), use_cache=True)
    back = cache.taken(getattr(held, "cache", None) or held.past_key_values, model)
    np.testing.assert_allclose(back.fast_weights.layers[0], slept.fast_weights.layers[0], atol=5e-5)
