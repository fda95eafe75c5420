"""Cumulated log-decays against sums in float64: differences hold for every strength, and ordinary ones are the sums alone, to the bit."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet_kernels import log_decays

pytestmark = pytest.mark.usefixtures("shipped_compiler")

STRONG = (-3.0, -30.0, -100.0, -127.0, -1e4, -1e6, -np.inf)


def drawn(shape, share, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, rng.choice(STRONG, shape), -rng.uniform(0, 0.2, shape)).astype(np.float32)


def pairs(log_decay):
    """What is left of token j at token i, in float64; nothing where i < j."""
    c = log_decay.shape[-1]
    left = np.zeros((*log_decay.shape, c))
    for j in range(c):
        left[..., j:, j] = np.exp(np.cumsum(np.where(np.arange(j, c) > j, log_decay[..., j:].astype(np.float64), 0.0), axis=-1))
    return left


@pytest.mark.parametrize("c", [1, 32, 128])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.75])
def test_what_stands_between_two_tokens_is_exact(c, share):
    log_decay = drawn((8, 2, c), share)
    if c > 1:
        log_decay[0, 0, : c // 2], log_decay[0, 1, : c // 2] = -100.0, -63.0 / (c // 2)
    sums = jax.jit(log_decays.cumulated)(jnp.asarray(log_decay))
    actual = np.exp(np.where(np.tri(c, dtype=bool), log_decays.of_pairs(sums), -np.inf))
    np.testing.assert_allclose(actual, pairs(log_decay), rtol=1e-5, atol=1e-30)
    until = np.exp(log_decays.between([x[..., -1:] for x in sums], sums))
    np.testing.assert_allclose(until, pairs(log_decay)[..., -1, :], rtol=1e-5, atol=1e-30)


def test_ordinary_decays_are_their_sums_alone():
    log_decay = jnp.asarray(-np.random.default_rng(0).uniform(0, 1, (4, 2, 64)), jnp.float32)
    g, lost = log_decays.cumulated(log_decay)
    assert np.min(g) > -64 and not np.any(lost)
    np.testing.assert_array_equal(g, jnp.cumsum(log_decay, axis=-1))


def test_sums_restart_with_the_segment_whatever_stands_before_it():
    log_decay, begins = drawn((1, 2, 32), 0.25), (0, 5, 6, 21, 32)
    restarts = np.zeros((1, 32), np.int32)
    restarts[0, [5, 6, 21]] = 1
    log_decay[..., [5, 6, 21]] = 0.0
    segments_Bx1xC = jnp.asarray(np.cumsum(restarts, axis=-1, dtype=np.int32))[:, None]
    together = log_decays.cumulated(jnp.asarray(log_decay), segments_Bx1xC)
    for begin, end in zip(begins, begins[1:]):
        alone = np.zeros_like(log_decay)
        alone[..., begin:end] = log_decay[..., begin:end]
        for one, other in zip(together, log_decays.cumulated(jnp.asarray(alone), segments_Bx1xC)):
            np.testing.assert_array_equal(one[..., begin:end], other[..., begin:end])
        actual = log_decays.of_pairs([x[..., begin:end] for x in together])
        actual = np.exp(np.where(np.tri(end - begin, dtype=bool), actual, -np.inf))
        np.testing.assert_allclose(actual, pairs(log_decay[..., begin:end]), rtol=1e-5, atol=1e-30)


def test_what_is_no_number_stays_none():
    log_decay = jnp.asarray([[[-1.0, jnp.nan, -1.0]]])
    np.testing.assert_array_equal(np.isnan(log_decays.cumulated(log_decay)[0]), [[[False, True, True]]])
