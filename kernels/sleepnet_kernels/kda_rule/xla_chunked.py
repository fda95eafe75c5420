"""The rule with a decay per key channel in chunks, in plain XLA: one `lax.scan`, an analytic backward; runs on every platform.

Derivation: README.md beside this file. Dimension letters as in `../chunked.py`; arrays inside a chunk are [B, H, C, ...].
"""
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from sleepnet_kernels.chunked import UNROLLED_CHUNKS, product_of, put_chunk, take_chunk
from sleepnet_kernels.kda_rule.halving import applied, decays, halves, log_decay_gradient, lower, product, whole
from sleepnet_kernels.rule_arguments import shared_heads
from sleepnet_kernels.segments import restarts


# Fastest on a CPU; larger chunks store fewer states.
CHUNK = 8


def kda_rule(q, k, v, log_decay, beta, initial_state, segment_ids=None, *, chunk_size: int = CHUNK):
    """The public op's mathematics over chunks of `chunk_size` tokens, a power of two."""
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"kda_rule: a chunk must be a power of two of tokens, given {chunk_size}")
    tokens = q.shape[1]
    padding = -tokens % chunk_size

    def padded(x):
        # Zero keys, values, beta and log-decay leave the state as it is.
        return jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)) if padding else x

    if segment_ids is not None:
        # All that is decayed is multiplied with products of per-token decays: with a factor of exactly zero the state restarts.
        log_decay = jnp.where(restarts(segment_ids)[..., None, None], -jnp.inf, log_decay.astype(jnp.float32))
    operands = (*shared_heads(q, k, v), v, log_decay.astype(jnp.float32), beta.astype(jnp.float32))
    output, final_state = _walk(chunk_size, *(padded(x) for x in operands), initial_state)
    return output[:, :tokens], final_state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(c, *operands_and_state):
    output, final_state, _, _ = _forward(c, *operands_and_state)
    return output, final_state


def _scores(levels, q, k):
    """The products of queries with the keys of their chunk, decayed, [B, H, C, C]."""
    dtype, f32 = q.dtype, jnp.float32
    scores = jnp.sum(q.astype(f32) * k.astype(f32), axis=-1)[..., None, None]
    for until, since in levels:
        size = since.shape[-2]
        k_until, q_since = (until * halves(k, size)[0].astype(f32)).astype(dtype), (since * halves(q, size)[1].astype(f32)).astype(dtype)
        scores = lower(scores[..., 0::2, :, :], product(q_since, k_until), scores[..., 1::2, :, :])
    return scores[..., 0, :, :]


def _inverse(levels, k, beta):
    """(I + A)^-1 of the chunk, A what keys find of earlier keys times beta, by doubling diagonal blocks, [B, H, C, C] in float32."""
    dtype, f32 = k.dtype, jnp.float32
    inverse = jnp.ones((*beta.shape, 1, 1), f32)
    for until, since in levels:
        k_left, k_right = (x.astype(f32) for x in halves(k, since.shape[-2]))
        strict = halves(beta[..., None], since.shape[-2])[1] * product((since * k_right).astype(dtype), (until * k_left).astype(dtype))
        left, right = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        inverse = lower(left, -applied(right, applied(strict, left)), right)
    return inverse[..., 0, :, :]


def _forward(c, q_all, k_all, v_all, log_decay_all, beta_all, initial_state_BxHxKxV):
    """Walks the chunks; returns output, final state, the state before each chunk, and each chunk's inverse, transposed."""
    f32 = jnp.float32

    def chunk(carry, index):
        state_BxHxKxV, output_BxTxHxV = carry
        q, k, v, log_decay, beta = [jnp.swapaxes(take_chunk(x, index, c), 1, 2) for x in (q_all, k_all, v_all, log_decay_all, beta_all)]
        levels, since, until = decays(log_decay)
        q_since, k_since, k_until = [(d * x.astype(f32)).astype(q.dtype) for d, x in ((since, q), (since, k), (until, k))]
        inverse = _inverse(levels, k, beta)
        error = v.astype(f32) - product_of("bhik,bhkv->bhiv", k_since, state_BxHxKxV)
        update = product_of("bhij,bhjv->bhiv", inverse.astype(k.dtype), beta[..., None] * error)
        output = product_of("bhik,bhkv->bhiv", q_since, state_BxHxKxV)
        output += product_of("bhij,bhjv->bhiv", _scores(levels, q, k).astype(q.dtype), update)
        k_until_BxHxKxC = jnp.swapaxes(k_until, -1, -2)
        next_state_BxHxKxV = since[..., -1, :, None] * state_BxHxKxV + product_of("bhkj,bhjv->bhkv", k_until_BxHxKxC, update)
        return (next_state_BxHxKxV, put_chunk(output_BxTxHxV, output, index)), (state_BxHxKxV, jnp.swapaxes(inverse, -1, -2))

    chunks = v_all.shape[1] // c
    carry = (initial_state_BxHxKxV, jnp.zeros_like(v_all))
    (final_state, output), (states, inverses_t) = jax.lax.scan(chunk, carry, jnp.arange(chunks), unroll=chunks <= UNROLLED_CHUNKS)
    return output, final_state, states, inverses_t


def _walk_fwd(c, *operands_and_state):
    output, final_state, states, inverses_t = _forward(c, *operands_and_state)
    states, inverses_t = checkpoint_name(states, "chunk_states"), checkpoint_name(inverses_t, "chunk_inverses")
    return (output, final_state), (operands_and_state[:-1], states, inverses_t)


def _walk_bwd(c, residuals, cotangents):
    """Walks the chunks in reverse, recomputing all but the states and the inverses."""
    operands, states, inverses_t = residuals
    d_output_all, d_final_state_BxHxKxV = cotangents
    f32, dtype = jnp.float32, operands[0].dtype

    def chunk(carry, xs):
        d_next_BxHxKxV, gradients_BxTxH = carry
        index, state_BxHxKxV, inverse_t = xs
        q, k, v, log_decay, beta, d_output = [jnp.swapaxes(take_chunk(x, index, c), 1, 2) for x in (*operands, d_output_all)]
        levels, since, until = decays(log_decay)
        q32, k32 = q.astype(f32), k.astype(f32)
        q_since, k_since, k_until = [(d * x).astype(dtype) for d, x in ((since, q32), (since, k32), (until, k32))]
        error = v.astype(f32) - product_of("bhik,bhkv->bhiv", k_since, state_BxHxKxV)
        update = product_of("bhij,bhjv->bhiv", (jnp.swapaxes(inverse_t, -1, -2) * beta[..., None, :]).astype(dtype), error)

        # What the chunk exchanges with its state.
        scores_t = jnp.swapaxes(_scores(levels, q, k), -1, -2).astype(dtype)
        d_update = product_of("bhji,bhiv->bhjv", scores_t, d_output) + product_of("bhjk,bhkv->bhjv", k_until, d_next_BxHxKxV)
        d_scaled_error = product_of("bhji,bhiv->bhjv", inverse_t.astype(dtype), d_update)
        d_v = beta[..., None] * d_scaled_error
        d_q = since * product_of("bhiv,bhkv->bhik", d_output, state_BxHxKxV)
        d_k_since = -since * product_of("bhiv,bhkv->bhik", d_v.astype(dtype), state_BxHxKxV)
        d_k_until = until * product_of("bhjv,bhkv->bhjk", update.astype(dtype), d_next_BxHxKxV)
        d_since, d_until = q32 * d_q + k32 * d_k_since, k32 * d_k_until
        kept_BxHx1xK = since[..., -1:, :] * jnp.sum(state_BxHxKxV * d_next_BxHxKxV, axis=-1)[..., None, :]
        d_since = d_since.at[..., -1:, :].add(kept_BxHx1xK)
        reads = [jnp.swapaxes(x, -1, -2) for x in (q_since, k_since)]
        d_state_BxHxKxV = since[..., -1, :, None] * d_next_BxHxKxV + product_of("bhki,bhiv->bhkv", reads[0], d_output)
        d_state_BxHxKxV -= product_of("bhki,bhiv->bhkv", reads[1], d_v)

        # Of a token with itself, then level by level.
        d_own = jnp.sum(d_output.astype(f32) * update, axis=-1, keepdims=True)
        d_q, d_k = d_q + d_own * k32, d_k_since + d_k_until + d_own * q32
        d_beta = jnp.sum(d_scaled_error * error, axis=-1)
        d_levels = []
        for until, since in levels:
            size = since.shape[-2]
            (_, q_right), (k_left, k_right), (_, beta_right) = halves(q32, size), halves(k32, size), halves(beta[..., None], size)
            update_left = halves(update, size)[0].astype(dtype)
            q_since, k_since, k_until = [(d * x).astype(dtype) for d, x in ((since, q_right), (since, k_right), (until, k_left))]
            d_scores = product(halves(d_output, size)[1], update_left).astype(dtype)
            d_strict = -product(halves(d_scaled_error, size)[1].astype(dtype), update_left)
            d_found = applied(d_strict.astype(dtype), k_until)
            d_pairs = (beta_right * d_strict).astype(dtype)
            d_q_right, d_k_right = since * applied(d_scores, k_until), since * beta_right * d_found
            d_k_left = until * (applied(jnp.swapaxes(d_scores, -1, -2), q_since) + applied(jnp.swapaxes(d_pairs, -1, -2), k_since))
            d_levels.append((k_left * d_k_left, q_right * d_q_right + k_right * d_k_right))
            d_beta_right = jnp.sum(since * k_right * d_found, axis=-1, keepdims=True)
            d_q += whole(jnp.zeros_like(d_q_right), d_q_right)
            d_k += whole(d_k_left, d_k_right)
            d_beta += whole(jnp.zeros_like(d_beta_right), d_beta_right)[..., 0]
        gradients = (d_q, d_k, d_v, log_decay_gradient(d_levels, d_since, d_until), d_beta)
        return (d_state_BxHxKxV, tuple(put_chunk(x, d, index) for x, d in zip(gradients_BxTxH, gradients))), None

    chunks = d_output_all.shape[1] // c
    carry = (d_final_state_BxHxKxV, tuple(jnp.zeros_like(x) for x in operands))
    xs = (jnp.arange(chunks), states, inverses_t)
    (d_initial_state, gradients), _ = jax.lax.scan(chunk, carry, xs, reverse=True, unroll=chunks <= UNROLLED_CHUNKS)
    return (*gradients, d_initial_state)


_walk.defvjp(_walk_fwd, _walk_bwd)
