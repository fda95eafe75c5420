"""The bodies of the TPU kernels: one chunk of C tokens of H heads a grid step, the state carried in scratch memory.

Derivation: gated_delta_rule/README.md, section "On a TPU". Dimension letters as in chunked.py, except that H counts the heads of
one grid step; they lead every array, so that each product is one dot_general batched over heads.
"""
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from sleepnet_kernels import log_decays
from sleepnet_kernels.betas import never_zero

# Contracted axes of products batched over the leading axis: plain, right side transposed, left side transposed.
NN, NT, TN = (2, 1), (2, 2), (1, 1)


def dot(a, b, axes, *, wide):
    """Returns a product in float32 of operands in one dtype; float32 operands are not rounded. `wide`: see `kernel_arguments`."""
    if wide:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dimensions = (((axes[0],), (axes[1],)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def heads_of(ref, heads):
    """Reads [C, H * D] as [H, C, D]; D is a multiple of the lanes, so nothing moves."""
    width = ref.shape[-1] // heads
    return jnp.stack([ref[:, h * width : (h + 1) * width] for h in range(heads)])


def store_heads(ref, x_HxCxD):
    """Writes [H, C, D] as [C, H * D]."""
    width = x_HxCxD.shape[-1]
    for h in range(x_HxCxD.shape[0]):
        ref[:, h * width : (h + 1) * width] = x_HxCxD[h].astype(ref.dtype)


def columns(*rows_HxC):
    """Turns per-token rows into columns [H, C, 1], with one transposition for all of them."""
    heads = rows_HxC[0].shape[0]
    stacked_CxR = jnp.concatenate(rows_HxC, axis=0).T
    pick = lambda i: jnp.stack([stacked_CxR[:, i * heads + h : i * heads + h + 1] for h in range(heads)])
    return [pick(i) for i in range(len(rows_HxC))]


def rows(*columns_HxCx1):
    """Turns columns into rows [H, C], with one transposition for all of them."""
    heads = columns_HxCx1[0].shape[0]
    stacked_RxC = jnp.concatenate([x[h] for x in columns_HxCx1 for h in range(heads)], axis=1).T
    return [stacked_RxC[i * heads : (i + 1) * heads] for i in range(len(columns_HxCx1))]


def token_masks(c):
    """Returns whether token i may read token j: [1, C, C] with i >= j, and with i > j."""
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (1, c, c), axis) for axis in (1, 2))
    return i >= j, i > j


def gates_of(gates_ref, dtype):
    """Returns rows [H, C]: the terms that the cumulated log-decay is the sum of, beta, and how often the state restarted, None where rows are not packed."""
    g_HxC, beta_HxC, *more = (gates_ref[row] for row in range(gates_ref.shape[0]))
    sums_HxC = [g_HxC, more.pop(0)] if dtype == jnp.float32 else [g_HxC]
    return sums_HxC, beta_HxC, more[0] if more else None


def since_and_until(sums_HxC, segments_HxC):
    """Returns the decay from the chunk's beginning up to a token, and after it up to the chunk's end, as rows [H, C].

    Both are zero across a restart, so that a later segment does not see the state before, nor the state after an earlier one.
    """
    g_HxC = sums_HxC[0]
    since_HxC = jnp.exp(g_HxC if segments_HxC is None else jnp.where(segments_HxC == 0.0, g_HxC, -jnp.inf))
    until_HxC = log_decays.between([jnp.broadcast_to(x[:, -1:], x.shape) for x in sums_HxC], sums_HxC)
    if segments_HxC is not None:
        last_HxC = jnp.broadcast_to(segments_HxC[:, -1:], g_HxC.shape)
        until_HxC = jnp.where(segments_HxC == last_HxC, until_HxC, -jnp.inf)
    return since_HxC, jnp.exp(until_HxC)


def within_segment(past_1xCxC, segments_HxC):
    """Returns whether token i may read token j: as before, and in the same segment where rows are packed."""
    if segments_HxC is None:
        return past_1xCxC
    # One row stands for all heads, which are packed alike.
    row_1xC = segments_HxC[:1]
    (column_1xCx1,) = columns(row_1xC)
    return past_1xCxC & (column_1xCx1 == row_1xC[:, None, :])


def between_tokens(sums_HxC, sums_HxCx1, past_CxC):
    """Returns exp(G_i - G_j) where i >= j, else 0: the mask comes before exp, which overflows above the diagonal."""
    return jnp.exp(jnp.where(past_CxC, log_decays.between(sums_HxCx1, [x[:, None, :] for x in sums_HxC]), -jnp.inf))


def kept_state(since_HxC, width):
    """Returns the decay over the whole chunk as a row [H, 1, width], to scale a state with."""
    return jnp.broadcast_to(since_HxC[:, -1:], (since_HxC.shape[0], width))[:, None, :]


def unit_lower_inverse(a_HxCxC, dtype, *, wide):
    """Returns (I + A)^-1 in float32 for A [H, C, C], of which only what is below the diagonal is read.

    Doubles diagonal blocks with products in `dtype`. In bfloat16 one refinement follows, X + X (I - (I + A) X), whose residual
    is exact to float32: X is rounded before, and A goes in as two bfloat16 parts.
    """
    c = a_HxCxC.shape[-1]
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (1, c, c), axis) for axis in (1, 2))
    eye_CxC = jnp.where(i == j, 1.0, 0.0).astype(jnp.float32)

    def joins(size):
        # In one pair of blocks, in different halves of it, below the diagonal.
        return ((i ^ j) < 2 * size) & ((i ^ j) >= size) & (i > j)

    inverse = eye_CxC - jnp.where(joins(1), a_HxCxC, 0.0)
    for level in range(1, math.ceil(math.log2(c))):
        low = inverse.astype(dtype)
        inner = dot(jnp.where(joins(2**level), a_HxCxC, 0.0).astype(dtype), low, NN, wide=wide)
        inverse -= dot(low, inner.astype(dtype), NN, wide=wide)
    if dtype == jnp.float32:
        return inverse
    low = inverse.astype(dtype)
    a_HxCxC = jnp.where(i > j, a_HxCxC, 0.0)
    a_high = a_HxCxC.astype(dtype)
    a_rest = (a_HxCxC - a_high.astype(jnp.float32)).astype(dtype)
    residual = eye_CxC - low.astype(jnp.float32) - dot(a_high, low, NN, wide=wide) - dot(a_rest, low, NN, wide=wide)
    return low.astype(jnp.float32) + dot(low, residual.astype(dtype), NN, wide=wide)


def forward(q_ref, k_ref, v_ref, gates_ref, initial_ref, output_ref, final_ref, *rest, delta, save, wide):
    """Writes the chunk's output, at the last chunk the final state, and where `save` the state before it and its inverse."""
    state_ref, residual_refs = rest[-1], rest[:-1]
    n, heads, width = pl.program_id(2), state_ref.shape[0], state_ref.shape[-1]
    product = functools.partial(dot, wide=wide)

    @pl.when(n == 0)
    def _():
        state_ref[...] = initial_ref[...]

    q, k, v = (heads_of(ref, heads) for ref in (q_ref, k_ref, v_ref))
    dtype, c = q.dtype, q.shape[1]
    state_HxKxV = state_ref[...]
    low_state = state_HxKxV.astype(dtype)
    sums, beta, segments = gates_of(gates_ref, dtype)
    since, until = since_and_until(sums, segments)
    *sums_HxCx1, since_HxCx1 = columns(*sums, since)
    between = between_tokens(sums, sums_HxCx1, within_segment(token_masks(c)[0], segments))
    # Queries and keys side by side: what they are multiplied with is loaded once.
    qk_and_kk = product(jnp.concatenate([q, k], axis=1), k, NT) if delta else product(q, k, NT)
    reads = product(jnp.concatenate([q, k], axis=1), low_state, NN) if delta else product(q, low_state, NN)
    scored = between * (never_zero(beta) if delta else beta)[:, None, :]
    if delta:
        inverse = unit_lower_inverse(qk_and_kk[:, c:] * scored, dtype, wide=wide).astype(dtype)
        error = v.astype(jnp.float32) - since_HxCx1 * reads[:, c:]
        update = product(inverse, error.astype(dtype), NN).astype(dtype)
    else:
        update = v
    store_heads(output_ref, since_HxCx1 * reads[:, :c] + product((qk_and_kk[:, :c] * scored).astype(dtype), update, NN))
    k_until_HxKxC = (jnp.swapaxes(k, 1, 2).astype(jnp.float32) * (until * beta)[:, None, :]).astype(dtype)
    next_state_HxKxV = kept_state(since, width) * state_HxKxV + product(k_until_HxKxC, update, NN)
    state_ref[...] = next_state_HxKxV
    if save:
        residual_refs[0][...] = low_state
        if delta:
            residual_refs[1][...] = inverse

    @pl.when(n == pl.num_programs(2) - 1)
    def _():
        final_ref[...] = next_state_HxKxV


def backward(q_ref, k_ref, v_ref, gates_ref, *rest, delta, wide):
    """Walks the chunks in reverse with the gradient of the state in scratch memory; writes the gradients of one chunk.

    Of the gates it writes three rows: what the cumulated decay gets from reading and from between tokens, what it gets from
    writing (with the state's own decay in the last place, where writing has none), and the gradient of beta.
    """
    state_in, inverse_in, (d_output_ref, d_final_ref) = rest[0], rest[1] if delta else None, rest[1 + delta : 3 + delta]
    d_q_ref, d_k_ref, d_v_ref, d_gates_ref, d_initial_ref, d_state_ref = rest[3 + delta :]
    n, heads, width = pl.program_id(2), d_state_ref.shape[0], d_state_ref.shape[-1]
    product = functools.partial(dot, wide=wide)

    @pl.when(n == 0)
    def _():
        d_state_ref[...] = d_final_ref[...]

    q, k, v, d_output = (heads_of(ref, heads) for ref in (q_ref, k_ref, v_ref, d_output_ref))
    dtype, c = q.dtype, q.shape[1]
    low_state, d_next_HxKxV = state_in[...], d_state_ref[...]
    low_d_next = d_next_HxKxV.astype(dtype)
    sums, beta, segments = gates_of(gates_ref, dtype)
    since, until = since_and_until(sums, segments)
    beta = never_zero(beta) if delta else beta
    *sums_HxCx1, since_HxCx1, until_HxCx1, beta_HxCx1 = columns(*sums, since, until, beta)
    past_CxC, strict_CxC = token_masks(c)
    between = between_tokens(sums, sums_HxCx1, within_segment(past_CxC, segments))
    scored = between * beta[:, None, :]
    qk_and_kk = product(jnp.concatenate([q, k], axis=1), k, NT) if delta else product(q, k, NT)
    qk = qk_and_kk[:, :c]
    if delta:
        kk, k_state = qk_and_kk[:, c:], product(k, low_state, NN)
        error = v.astype(jnp.float32) - since_HxCx1 * k_state
        update_exact = product(inverse_in[...], error.astype(dtype), NN)
        update = update_exact.astype(dtype)
    else:
        update, update_exact = v, v.astype(jnp.float32)

    # Through the output and its scores.
    d_scores = product(d_output, update, NT)
    d_reads = since_HxCx1 * product(d_output, low_state, NT)
    d_qk = (d_scores * scored).astype(dtype)
    through_scores = d_scores * qk * between
    through_between = jnp.where(strict_CxC, through_scores, 0.0)
    d_since = q.astype(jnp.float32) * d_reads
    if not delta:
        d_since = jnp.sum(d_since, axis=-1, keepdims=True)

    # Through the next state. The update is before beta, so that beta scales what it is multiplied with.
    d_written = until_HxCx1 * product(k, low_d_next, NN)
    d_update = product((qk * scored).astype(dtype), d_output, TN) + beta_HxCx1 * d_written
    written = jnp.sum(update_exact * d_written, axis=-1, keepdims=True)
    d_k = (until_HxCx1 * beta_HxCx1) * product(update, low_d_next, NT) + product(d_qk, q, TN)
    since_d_output = (since_HxCx1 * d_output.astype(jnp.float32)).astype(dtype)
    d_state_HxKxV = kept_state(since, width) * d_next_HxKxV + product(q, since_d_output, TN)

    if delta:
        d_error = product(inverse_in[...], d_update.astype(dtype), TN)
        low_d_error = d_error.astype(dtype)
        pairs = product(low_d_error, update, NT)
        # The error's gradient has beta as a factor; the rest of it times the update is beta's own, without a difference of large sums.
        d_beta_row = jnp.sum(jnp.where(past_CxC & ~strict_CxC, pairs, 0.0), axis=1) / beta
        d_strict = -jnp.where(strict_CxC, pairs, 0.0) * between
        through_kk = d_strict * kk
        through_between += through_kk
        d_kk = d_strict * beta[:, None, :]
        d_k_state = -since_HxCx1 * product(low_d_error, low_state, NT)
        # One sum along the lanes for queries and keys.
        d_since = jnp.sum(d_since + k.astype(jnp.float32) * d_k_state, axis=-1, keepdims=True)
        d_state_HxKxV -= product(k, (since_HxCx1 * d_error).astype(dtype), TN)
        d_k += d_k_state + product((d_kk + jnp.swapaxes(d_kk, 1, 2)).astype(dtype), k, NN)
        d_v = d_error
    else:
        d_beta_row = jnp.sum(through_scores, axis=1)
        d_v = d_update
    through_between *= beta[:, None, :]
    read = d_since + jnp.sum(through_between, axis=-1, keepdims=True)
    read_row, written_row = rows(read, written)
    kept = since[:, -1:] * jnp.sum(jnp.sum(low_state.astype(jnp.float32) * d_next_HxKxV, axis=1), axis=-1, keepdims=True)
    last_1xC = jax.lax.broadcasted_iota(jnp.int32, (1, c), 1) == c - 1
    store_heads(d_q_ref, d_reads + product(d_qk, k, NN))
    store_heads(d_k_ref, d_k)
    store_heads(d_v_ref, d_v)
    d_gates_ref[0] = read_row - jnp.sum(through_between, axis=1)
    d_gates_ref[1] = jnp.where(last_1xC, kept, beta * written_row)
    d_gates_ref[2] = d_beta_row if delta else d_beta_row + written_row
    d_state_ref[...] = d_state_HxKxV

    @pl.when(n == pl.num_programs(2) - 1)
    def _():
        d_initial_ref[...] = d_state_HxKxV
