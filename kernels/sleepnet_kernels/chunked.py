"""The chunked form of both fast-weight rules: one `lax.scan` over chunks and an analytic backward.

Derivation: gated_delta_rule/README.md. Dimension letters: N chunks of C tokens, B batch, H heads, T tokens, K key width,
V value width. Inside a chunk, i is the reading token and j the written one; arrays there are [B, H, C, ...].
"""
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from sleepnet_kernels import log_decays, segments

# Up to this many chunks the scan is unrolled: twice as fast forward + backward on a CPU, for half as much compile time again.
UNROLLED_CHUNKS = 4


def default_chunk_size(tokens: int, key_width: int) -> int:
    """Returns the chunk size that measured fastest on a CPU: an even split of a short sequence, so that little is padded."""
    largest = 25 if key_width <= 32 else 32
    if tokens <= UNROLLED_CHUNKS * largest:
        return -(-tokens // -(-tokens // largest))
    return 16 if key_width <= 32 else 32


def chunked_rule(
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay_BxTxH, beta_BxTxH, initial_state_BxHxKxV, segment_ids_BxT=None, *, delta: bool, chunk_size: int
):
    """Runs the gated delta rule (`delta`) or the gated Hebbian rule over chunks of `chunk_size` tokens.

    Returns:
      output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.
    """
    tokens = q_BxTxHxK.shape[1]
    padding = -tokens % chunk_size

    def padded(x):
        # Zero keys, values, beta and log-decay leave the state as it is.
        return jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)) if padding else x

    segments_BxT = None
    if segment_ids_BxT is not None:
        log_decay_BxTxH = segments.decay_within(log_decay_BxTxH, segment_ids_BxT)
        segments_BxT = segments.by_chunk(segment_ids_BxT, chunk_size).reshape(len(segment_ids_BxT), -1)
    decay_and_beta = (log_decay_BxTxH.astype(jnp.float32), beta_BxTxH.astype(jnp.float32))
    operands = [padded(x) for x in (q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, *decay_and_beta)]
    output_BxTxHxV, final_state_BxHxKxV = _walk(delta, chunk_size, segments_BxT, *operands, initial_state_BxHxKxV)
    return output_BxTxHxV[:, :tokens], final_state_BxHxKxV


def unit_lower_inverse(a: jax.Array) -> jax.Array:
    """Returns (I + A)^-1 for A [..., C, C] below the diagonal (the rest is not read), in float32, by doubling diagonal blocks.

    Two neighbouring inverted blocks X1, X2 are joined by the block -X2 A21 X1 below the diagonal. Powers of A are never
    formed: on correlated keys they reach 1e9 and cancel.
    """
    c = a.shape[-1]
    leading = (None,) * (a.ndim - 2)
    row, column = jnp.arange(c)[:, None], jnp.arange(c)[None, :]
    inverse = jnp.eye(c, dtype=jnp.float32)[leading]
    size = 1
    while size < c:
        joins_CxC = (row // (2 * size) == column // (2 * size)) & (row // size > column // size)
        product = a if size == 1 else product_of("...ij,...jk->...ik", inverse, product_of("...ij,...jk->...ik", a, inverse))
        inverse = jnp.where(joins_CxC[leading], -product, inverse)
        size *= 2
    return jnp.broadcast_to(inverse, a.shape)


def product_of(subscripts, a, b):
    """A product with operands in a's dtype and a float32 result; float32 operands are not rounded on any platform."""
    if a.dtype == jnp.float32:
        return jnp.einsum(subscripts, a, b.astype(a.dtype), precision=jax.lax.Precision.HIGHEST)

    def product(a, b):
        return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)

    def widened(a, b):
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    # XLA on a CPU refuses some products of bfloat16 with a float32 result ("Unsupported element type for DotThunk").
    return jax.lax.platform_dependent(a, b.astype(a.dtype), cpu=widened, default=product)


def take_chunk(x_BxTxH, index, c):
    """Cuts chunk `index` out of [B, T, H, ...]; slicing inside the loop is faster than transposing everything before it."""
    return jax.lax.dynamic_slice_in_dim(x_BxTxH, index * c, c, axis=1)


def put_chunk(x_BxTxH, chunk_BxHxC, index):
    """Writes a chunk [B, H, C, ...] into its place in [B, T, H, ...]."""
    chunk_BxCxH = jnp.swapaxes(chunk_BxHxC, 1, 2).astype(x_BxTxH.dtype)
    return jax.lax.dynamic_update_slice_in_dim(x_BxTxH, chunk_BxCxH, index * chunk_BxCxH.shape[1], axis=1)


def _decays(log_decay_BxHxC, segments_Bx1xC):
    """Returns exp of: the decay since the chunk began, between two tokens (zero above the diagonal), and up to the chunk's end.

    Across a restart all three are zero: a later segment does not see the state before the chunk, nor the state after it an earlier one.
    """
    sums = log_decays.cumulated(log_decay_BxHxC, segments_Bx1xC)
    g_BxHxC, c = sums[0], log_decay_BxHxC.shape[-1]
    past_CxC = jnp.tril(jnp.ones((c, c), bool))[None, None]
    if segments_Bx1xC is not None:
        past_CxC &= segments.same(segments_Bx1xC)
    # The mask comes before exp: above the diagonal the difference is positive and overflows.
    between_BxHxCxC = jnp.exp(jnp.where(past_CxC, log_decays.of_pairs(sums), -jnp.inf))
    since_BxHxC = jnp.exp(g_BxHxC if segments_Bx1xC is None else jnp.where(segments_Bx1xC == 0, g_BxHxC, -jnp.inf))
    until_BxHxC = log_decays.between([x[..., -1:] for x in sums], sums)
    if segments_Bx1xC is not None:
        until_BxHxC = jnp.where(segments_Bx1xC == segments_Bx1xC[..., -1:], until_BxHxC, -jnp.inf)
    return since_BxHxC, between_BxHxCxC, jnp.exp(until_BxHxC)


def _segments_at(segments_BxT, index, c):
    return None if segments_BxT is None else take_chunk(segments_BxT, index, c)[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _walk(delta, c, segments_BxT, *operands_and_state):
    output, final_state, _, _ = _forward(delta, c, segments_BxT, *operands_and_state)
    return output, final_state


def _forward(delta, c, segments_BxT, q_all, k_all, v_all, log_decay_all, beta_all, initial_state_BxHxKxV):
    """Walks the chunks; returns output, final state, the state before each chunk, and each chunk's inverse, transposed."""

    def chunk(carry, index):
        state_BxHxKxV, output_BxTxHxV = carry
        at_chunk = [take_chunk(x, index, c) for x in (q_all, k_all, v_all, log_decay_all, beta_all)]
        q, k, v, log_decay, beta = [jnp.swapaxes(x, 1, 2) for x in at_chunk]
        k_BxHxKxC = jnp.moveaxis(at_chunk[1], 1, 3)
        since, between, until = _decays(log_decay, _segments_at(segments_BxT, index, c))
        value = v.astype(jnp.float32)
        if delta:
            inverse = unit_lower_inverse(beta[..., None] * product_of("bhik,bhjk->bhij", k, k) * between)
            error = value - since[..., None] * product_of("bhik,bhkv->bhiv", k, state_BxHxKxV)
            update = product_of("bhij,bhjv->bhiv", inverse.astype(k.dtype), beta[..., None] * error)
            inverse_t = jnp.swapaxes(inverse, -1, -2)
        else:
            update, inverse_t = beta[..., None] * value, None
        scores = (product_of("bhik,bhjk->bhij", q, k) * between).astype(q.dtype)
        output = since[..., None] * product_of("bhik,bhkv->bhiv", q, state_BxHxKxV) + product_of("bhij,bhjv->bhiv", scores, update)
        k_until = (until[..., None, :] * k_BxHxKxC.astype(jnp.float32)).astype(k.dtype)
        next_state_BxHxKxV = since[..., -1:, None] * state_BxHxKxV + product_of("bhkj,bhjv->bhkv", k_until, update)
        return (next_state_BxHxKxV, put_chunk(output_BxTxHxV, output, index)), (state_BxHxKxV, inverse_t)

    chunks = v_all.shape[1] // c
    carry = (initial_state_BxHxKxV, jnp.zeros_like(v_all))
    (final_state, output), (states, inverses_t) = jax.lax.scan(chunk, carry, jnp.arange(chunks), unroll=chunks <= UNROLLED_CHUNKS)
    return output, final_state, states, inverses_t


def _walk_fwd(delta, c, segments_BxT, *operands_and_state):
    output, final_state, states, inverses_t = _forward(delta, c, segments_BxT, *operands_and_state)
    states = checkpoint_name(states, "chunk_states")
    if delta:
        inverses_t = checkpoint_name(inverses_t, "chunk_inverses")
    return (output, final_state), (segments_BxT, operands_and_state[:-1], states, inverses_t)


def _walk_bwd(delta, c, residuals, cotangents):
    """Walks the chunks in reverse, recomputing all but the states and the inverses.

    Scores are computed as [j, i], because a product that contracts its left operand's leading axis is slow on a CPU.
    """
    segments_BxT, operands, states, inverses_t = residuals
    d_output_all, d_final_state_BxHxKxV = cotangents
    f32, dtype = jnp.float32, operands[0].dtype

    def chunk(carry, xs):
        d_next_BxHxKxV, gradients_BxTxH = carry
        index, state_BxHxKxV, inverse_t = xs
        at_chunk = [take_chunk(x, index, c) for x in (*operands, d_output_all)]
        q, k, v, log_decay, beta, d_output = [jnp.swapaxes(x, 1, 2) for x in at_chunk]
        q_BxHxKxC, k_BxHxKxC = [jnp.moveaxis(x, 1, 3).astype(f32) for x in at_chunk[:2]]
        segments_Bx1xC = _segments_at(segments_BxT, index, c)
        since, between, until = _decays(log_decay, segments_Bx1xC)
        between_t = jnp.swapaxes(between, -1, -2)

        error = v.astype(f32)
        if delta:
            kk = product_of("bhik,bhjk->bhij", k, k)
            k_state = product_of("bhik,bhkv->bhiv", k, state_BxHxKxV)
            error -= since[..., None] * k_state
            update = product_of("bhij,bhjv->bhiv", (jnp.swapaxes(inverse_t, -1, -2) * beta[..., None, :]).astype(dtype), error)
        else:
            update = beta[..., None] * error

        # Output and scores.
        kq = product_of("bhjk,bhik->bhji", k, q)
        d_qk = (product_of("bhiv,bhjv->bhij", d_output, update) * between).astype(dtype)
        d_kq = product_of("bhjv,bhiv->bhji", update.astype(dtype), d_output) * between_t
        d_q_read = since[..., None] * product_of("bhiv,bhkv->bhik", d_output, state_BxHxKxV)
        d_q = d_q_read + product_of("bhij,bhjk->bhik", d_qk, k)
        d_since = jnp.sum(q.astype(f32) * d_q_read, -1)
        d_between_t = jnp.triu(d_kq * kq, 1)

        # Next state.
        k_until = (until[..., None] * k.astype(f32)).astype(dtype)
        d_update = product_of("bhji,bhiv->bhjv", (kq * between_t).astype(dtype), d_output) + product_of("bhjk,bhkv->bhjv", k_until, d_next_BxHxKxV)
        d_k_until = until[..., None] * product_of("bhjv,bhkv->bhjk", update.astype(dtype), d_next_BxHxKxV)
        d_k = d_k_until + product_of("bhji,bhik->bhjk", d_kq.astype(dtype), q)
        q_since = (since[..., None, :] * q_BxHxKxC).astype(dtype)
        d_state_BxHxKxV = since[..., -1:, None] * d_next_BxHxKxV + product_of("bhki,bhiv->bhkv", q_since, d_output)

        if delta:
            # Never rounded: on like keys this is a difference of neighbours that are nearly the same.
            d_scaled_error = product_of("bhji,bhiv->bhjv", inverse_t, d_update)
            d_v = beta[..., None] * d_scaled_error
            d_strict = -jnp.tril(product_of("bhiv,bhjv->bhij", d_scaled_error.astype(dtype), update), -1) * between
            d_beta = jnp.sum(d_strict * kk, -1) + jnp.sum(d_scaled_error * error, -1)
            d_kk = beta[..., None] * d_strict
            d_kk_t = jnp.swapaxes(d_kk, -1, -2)
            d_between_t += d_kk_t * kk
            d_k_state = -since[..., None] * d_v
            d_since += jnp.sum(d_k_state * k_state, -1)
            k_since = (since[..., None, :] * k_BxHxKxC).astype(dtype)
            d_state_BxHxKxV -= product_of("bhki,bhiv->bhkv", k_since, d_v)
            d_k += product_of("bhiv,bhkv->bhik", d_k_state.astype(dtype), state_BxHxKxV)
            d_k += product_of("bhij,bhjk->bhik", (d_kk + d_kk_t).astype(dtype), k)
        else:
            d_v = beta[..., None] * d_update
            d_beta = jnp.sum(d_update * error, -1)

        # A token's decay scales what is read from then on and what was written before it; summing each side on its own cancels nothing.
        d_read = d_since + jnp.sum(d_between_t, -2) - jnp.sum(d_between_t, -1)
        d_read = jax.lax.cumsum(d_read, axis=2, reverse=True) if segments_BxT is None else segments.sums(d_read, segments_Bx1xC, reverse=True)
        # Only the last segment's tokens have something written by the end of the chunk: no sum of these crosses a restart.
        d_written = jnp.sum(k.astype(f32) * d_k_until, -1)[..., :-1]
        d_written = jax.lax.cumsum(jnp.pad(d_written, ((0, 0), (0, 0), (1, 0))), axis=2)
        d_kept = since[..., -1] * jnp.sum(state_BxHxKxV * d_next_BxHxKxV, (-2, -1))
        d_log_decay = log_decays.gradient(log_decay, d_read + d_written + d_kept[..., None])
        gradients = (d_q, d_k, d_v, d_log_decay, d_beta)
        return (d_state_BxHxKxV, tuple(put_chunk(x, d, index) for x, d in zip(gradients_BxTxH, gradients))), None

    chunks = d_output_all.shape[1] // c
    carry = (d_final_state_BxHxKxV, tuple(jnp.zeros_like(x) for x in operands))
    xs = (jnp.arange(chunks), states, inverses_t)
    (d_initial_state, gradients), _ = jax.lax.scan(chunk, carry, xs, reverse=True, unroll=chunks <= UNROLLED_CHUNKS)
    return (None, *gradients, d_initial_state)


_walk.defvjp(_walk_fwd, _walk_bwd)
