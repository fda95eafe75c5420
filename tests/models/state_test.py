"""The state between two calls: shapes, dtypes, bytes, and what an eviction keeps."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet.state import FastWeights, KvCache, State, fork, new_window


def numbered(batch_size, slots, layers=2, heads=1, head_dim=2):
    """A cache whose entry at slot j is 100 · layer + j, keys positive and values negative."""
    fill = lambda sign: tuple(
        jnp.broadcast_to(sign * (100.0 * layer + jnp.arange(slots, dtype=jnp.float32))[None, :, None, None], (batch_size, slots, heads, head_dim))
        for layer in range(layers)
    )
    return KvCache(fill(1.0), fill(-1.0), jnp.broadcast_to((jnp.arange(slots) % 3 != 0)[None], (batch_size, slots)))


def test_fast_weights_start_at_zero_in_float32():
    state = FastWeights.zeros(3, ((2, 4, 8), (1, 4, 4)))
    assert [layer.shape for layer in state.layers] == [(3, 2, 4, 8), (3, 1, 4, 4)]
    assert all(layer.dtype == jnp.float32 and not layer.any() for layer in state.layers)
    assert state.nbytes == 4 * (3 * 2 * 4 * 8 + 3 * 4 * 4)


def test_an_empty_cache_holds_nothing_valid():
    cache = KvCache.empty(2, 5, 3, 1, 4, jnp.bfloat16)
    assert [leaf.shape for leaf in (*cache.keys, *cache.values)] == [(2, 5, 1, 4)] * 6
    assert all(leaf.dtype == jnp.bfloat16 for leaf in (*cache.keys, *cache.values)) and not cache.valid.any()


def test_append_and_newest_keep_order_and_entries():
    cache = numbered(2, 7)
    newest = cache.newest(3)
    for layer in range(2):
        np.testing.assert_array_equal(newest.keys[layer][0, :, 0, 0], [100 * layer + j for j in (4, 5, 6)])
        np.testing.assert_array_equal(newest.values[layer][1, :, 0, 1], [-100 * layer - j for j in (4, 5, 6)])
    np.testing.assert_array_equal(newest.valid[0], [True, True, False])
    joined = newest.append(cache)
    np.testing.assert_array_equal(joined.keys[1][1, :, 0, 0], [104, 105, 106, *range(100, 107)])
    assert joined.valid.shape == (2, 10)


def test_the_hard_eviction_keeps_no_slot():
    newest = numbered(2, 7).newest(0)
    assert newest.keys[0].shape == (2, 0, 1, 2) and newest.valid.shape == (2, 0)


def test_a_new_window_is_blank_behind_its_survivors():
    fast_weights = FastWeights((jnp.ones((2, 1, 2, 2)),))
    window = new_window(fast_weights, numbered(2, 3), length=4, tail_shape=(3, 6), dtype=jnp.bfloat16)
    assert window.tokens.shape == (2, 4) and window.tokens.dtype == jnp.int32 and not window.tokens.any()
    assert int(window.length) == 0 and window.fast_weights is fast_weights
    assert [tail.shape for tail in window.conv_tails] == [(2, 3, 6)] and window.conv_tails[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(window.kv_cache.keys[1][0, :, 0, 0], [100, 101, 102, 0, 0, 0, 0])
    np.testing.assert_array_equal(window.kv_cache.valid[0], [False, True, True, False, False, False, False])


def test_a_state_is_a_pytree_that_names_its_leaves():
    fast_weights = FastWeights((jnp.ones((2, 1, 2, 2)),))
    state = State(fast_weights, new_window(fast_weights, numbered(2, 0), length=4, tail_shape=(3, 6), dtype=jnp.float32))
    names = {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert {"fast_weights.layers.0", "window.tokens", "window.length", "window.conv_tails.0", "window.kv_cache.valid"} <= names
    twice = jax.tree.map(lambda leaf: leaf, state)
    assert type(twice) is State and type(twice.window.kv_cache) is KvCache


def test_a_fork_repeats_rows_one_after_the_other_and_leaves_scalars():
    fast_weights = FastWeights((jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, 1, 2, 2)),))
    cache = numbered(2, 3)
    cache = KvCache(cache.keys, cache.values, jnp.array([[True, False, True], [False, True, True]]))
    state = State(fast_weights, new_window(fast_weights, cache, length=4, tail_shape=(3, 6), dtype=jnp.float32))
    forked = fork(state, 3)
    assert forked.window.length.shape == () and type(forked) is State
    assert forked.fast_weights.layers[0][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    for one, many in zip(jax.tree.leaves(state), jax.tree.leaves(forked), strict=True):
        if one.ndim:
            np.testing.assert_array_equal(many, np.asarray(one)[[0, 0, 0, 1, 1, 1]])
    jax.tree.map(np.testing.assert_array_equal, fork(state, 1), state)
    with pytest.raises(ValueError, match="count=0: a state can be forked into 1 or more"):
        fork(state, 0)
