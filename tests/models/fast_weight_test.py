"""The mixer with each rule: a window at once is the same token by token, and PAD leaves no trace (hybrid_test.py has whole models)."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.fast_weight import FastWeightMixer
from sleepnet.rules import RULES

T, PAD = 7, 3
MIXERS = {rule: {"rule": rule, "beta_max": 2.0} for rule in RULES} | {"jet": {"conv": "dynamic"}}


@pytest.mark.parametrize("name", MIXERS)
def test_a_window_at_once_is_token_by_token_and_pad_leaves_no_trace(name):
    config = ModelConfig(vocab_size=4, window=T, pattern="G", width=16, heads=2, head_dim=4, **MIXERS[name])
    graph, params = nnx.split(FastWeightMixer(config, nnx.Rngs(0)), nnx.Param)
    mix = jax.jit(lambda x, valid, state, tail: nnx.merge(graph, params)(x, valid, state, tail))
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, T, 16)), jnp.float32)
    valid = jnp.ones((2, T), bool).at[1, PAD].set(False)
    begin = jnp.asarray(rng.normal(size=(2, *config.state_shape)), jnp.float32)
    blank = jnp.zeros((2, config.conv_width - 1, config.conv_channels))

    whole, end, last = mix(x, valid, begin, blank)
    state, tail, outputs = begin, blank, []
    for t in range(T):
        output, after, tail = mix(x[:, t:t + 1], valid[:, t:t + 1], state, tail)
        if t == PAD:
            np.testing.assert_array_equal(after[1], state[1])
            assert (after[0] != state[0]).any()
        state = after
        outputs.append(output)
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), whole, atol=2e-6)
    np.testing.assert_allclose(state, end, atol=2e-6)
    np.testing.assert_array_equal(tail, last)
    assert np.abs(end - begin).max() > 0.1
