"""Attention and RoPE against numpy loops in float64: reach, validity, positions, and queries that see nothing."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.models.attention import Attention, Seats, attend
from sleepnet.models.norms import l2_norm, rms_norm
from sleepnet.models.rope import rope

H, D, THETA = 2, 6, 50.0


def turned(x, position):
    """RoPE as complex numbers: pair i is x[i] + i·x[i + D/2], turned by position · theta^(−2i/D)."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * position * THETA ** (-2.0 * np.arange(half) / x.shape[-1]))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def by_loops(q, k, v, valid, first, reach):
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        i = first + t
        seen = [j for j in range(k.shape[1]) if j <= i and i - j < reach and valid[b, j]]
        if seen:
            scores = np.array([turned(q[b, t, h], i) @ turned(k[b, j, h], j) for j in seen]) / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights @ v[b, seen, h] / weights.sum()
    return out


def drawn(seed, queries, slots):
    generator = np.random.default_rng(seed)
    q, k, v = (generator.normal(size=(2, n, H, D)) * 2 for n in (queries, slots, slots))
    return q, k, v, generator.random((2, slots)) < 0.7


def in_float32(q, k, v, valid):
    return (*(jnp.asarray(a, jnp.float32) for a in (q, k, v)), jnp.asarray(valid))


@pytest.mark.parametrize("queries, slots, first, reach", [(5, 5, 0, 5), (3, 9, 4, 4), (1, 9, 8, 5), (5, 9, 4, 5)])
def test_attention_is_the_loop_over_what_each_query_sees(queries, slots, first, reach):
    q, k, v, valid = drawn(queries, queries, slots)
    valid[0, :6] = False  # the first queries of row 0 see nothing
    run = jax.jit(attend, static_argnames=("reach", "theta"))
    got = run(*in_float32(q, k, v, valid), jnp.int32(first), reach=reach, theta=THETA)
    wanted = by_loops(q, k, v, valid, first, reach)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    blind = [not any(valid[b, max(0, first + t - reach + 1):first + t + 1]) for b in range(2) for t in range(queries)]
    assert not np.asarray(got).reshape(2 * queries, -1)[blind].any()


def test_on_seats_it_is_the_loop_over_what_is_visible_from_where_a_token_stands():
    q, k, v, valid = drawn(4, 3, 8)
    places, where = np.array([0, 1, 2, 3, 4, 2, 7, 3]), np.array([2, 7, 3], np.int32)
    visible = np.random.default_rng(5).random((3, 8)) < 0.6
    turned_k = np.stack([turned(k[:, j], places[j]) for j in range(8)], axis=1)
    got = attend(*in_float32(q, turned_k, v, valid), 5, reach=8, theta=THETA, rotated=True, seats=Seats(where, visible))
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = [j for j in range(5 + t + 1) if valid[b, j] and visible[t, j]]
        scores = np.array([turned(q[b, t, h], where[t]) @ turned_k[b, j, h] for j in seen]) / np.sqrt(D)
        wanted = np.exp(scores - scores.max()) @ v[b, seen, h] / np.exp(scores - scores.max()).sum() if seen else np.zeros(D)
        np.testing.assert_allclose(got[b, t, h], wanted, atol=2e-5)
    given = dict(reach=8, theta=THETA, rotated=True)
    plain = attend(*in_float32(q, turned_k, v, valid), 5, **given)
    np.testing.assert_array_equal(plain, attend(*in_float32(q, turned_k, v, valid), 5, **given, seats=Seats(np.arange(5, 8, dtype=np.int32), np.ones((3, 8), bool))))
    with pytest.raises(ValueError, match="seats are of a cache that keeps its keys after RoPE"):
        attend(*in_float32(q, k, v, valid), 5, reach=8, theta=THETA, seats=Seats(where, visible))


def test_what_is_not_seen_has_exactly_no_gradient():
    q, k, v, valid = drawn(0, 4, 4)
    valid[:] = [True, False, True, True]
    # query 2 of 4 with reach 2 sees slots 1 and 2, and 1 is not valid
    read = lambda k, v: jnp.sum(attend(in_float32(q, k, v, valid)[0], k, v, jnp.asarray(valid), 0, reach=2, theta=THETA)[:, 2])
    for gradient in jax.grad(read, argnums=(0, 1))(*in_float32(q, k, v, valid)[1:3]):
        assert not gradient[:, (0, 1, 3)].any()
        assert bool(jnp.isfinite(gradient).all())
    assert bool(jax.grad(read, argnums=1)(*in_float32(q, k, v, valid)[1:3])[:, 2].any())


def test_rope_is_a_turn_of_complex_numbers_and_knows_only_distances():
    x = np.random.default_rng(3).normal(size=(2, 5, H, D))
    positions = np.array([0, 1, 7, 8, 100])
    got = rope(jnp.asarray(x, jnp.float32), jnp.asarray(positions, jnp.int32), THETA)
    wanted = np.stack([turned(x[:, t], p) for t, p in enumerate(positions)], axis=1)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    near, far = (jnp.einsum("bthd,bshd->bhts", *(rope(jnp.asarray(a, jnp.float32), jnp.arange(5) + by, THETA) for a in (x, x[::-1]))) for by in (0, 40))
    np.testing.assert_allclose(near, far, atol=1e-4)


def test_the_sum_of_bfloat16_attention_is_float32_inside():
    q, k, v, valid = drawn(1, 6, 6)
    half = [a.astype(jnp.bfloat16) for a in in_float32(q, k, v, valid)[:3]]
    got = attend(*half, jnp.asarray(valid), 0, reach=6, theta=THETA)
    wanted = by_loops(*(np.asarray(a, np.float64) for a in half), valid, 0, 6)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, atol=0.06)


def test_queries_and_keys_are_normalised_per_head():
    config = ModelConfig(vocab_size=4, window=4, width=8, heads=H, head_dim=D)
    attention = Attention(config, nnx.Rngs(0))
    attention.q_scale[...] = jnp.arange(1.0, D + 1)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    q, k, v = attention.project(x, 0)
    raw = (np.asarray(x, np.float64) @ np.asarray(attention.q.kernel[...], np.float64)).reshape(2, 3, H, D)
    raw /= np.sqrt(np.mean(raw**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(q, raw * np.arange(1.0, D + 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.mean(np.square(k), axis=-1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(v, (x @ attention.v.kernel[...]).reshape(2, 3, H, D), rtol=1e-5, atol=1e-6)


def test_norms_are_float32_inside():
    """In bfloat16 the sum of 512 squares would stand still at 256."""
    x = jnp.ones((1, 512), jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(rms_norm(x), np.float32), 1.0)
    np.testing.assert_allclose(np.asarray(l2_norm(x), np.float32), 512**-0.5, rtol=4e-3)
    assert rms_norm(x).dtype == l2_norm(x).dtype == jnp.bfloat16
    assert not bool(jnp.isnan(jax.grad(lambda a: jnp.sum(l2_norm(a) + rms_norm(a)))(jnp.zeros((1, 4)))).any())
