"""The bodies of the GPU kernels: one chunk of C tokens of one head, whose blocks are named in `r`.

Derivation: gated_delta_rule/README.md, section "On a GPU".
"""
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from sleepnet_kernels.betas import never_zero
from sleepnet_kernels.mosaic_gpu_ops import F32, columns, rows


def between_tokens(ops, g_ref, i, j):
    """Returns exp(G_i - G_j) where i >= j, else 0: the mask comes before exp, which overflows above the diagonal."""
    c = i.shape[0]
    return jnp.exp(jnp.where(i >= j, rows(ops.by_row(g_ref), c) - columns(ops.by_column(g_ref), c), -jnp.inf))


def unit_lower_inverse(ops, a_CxC, i, j, low_ref, other_ref):
    """Leaves (I + A)^-1 in `low_ref`, for A strictly below the diagonal.

    Doubles diagonal blocks with products in bfloat16, then refines once, X + X (I - (I + A) X), with a residual that is exact to
    float32: X is rounded before, and A goes in as two bfloat16 parts.
    """
    c = a_CxC.shape[0]
    low = low_ref.dtype
    eye = jnp.where(i == j, 1.0, 0.0).astype(F32)

    def joins(size):
        # In one pair of blocks, in different halves of it; A is zero above the diagonal.
        return ((i ^ j) < 2 * size) & ((i ^ j) >= size)

    inverse = eye - jnp.where(joins(1), a_CxC, 0.0)
    for level in range(1, int(math.log2(c))):
        ops.stage(low_ref, inverse)
        inner = ops.product((jnp.where(joins(2**level), a_CxC, 0.0).astype(low), low_ref))
        ops.stage(other_ref, inner)
        inverse = inverse - ops.product((low_ref, other_ref))
    ops.stage(low_ref, inverse)
    a_high = a_CxC.astype(low)
    a_rest = (a_CxC - a_high.astype(F32)).astype(low)
    rounded = low_ref[...].astype(F32)
    ops.stage(other_ref, eye - rounded - ops.product((a_high, low_ref), (a_rest, low_ref)))
    ops.stage(low_ref, rounded + ops.product((low_ref, other_ref)))


def prepare(ops, r, *, delta):
    """Leaves the scores Q K^T o D and, for the delta rule, the chunk's inverse in `r`."""
    c = r.scores.shape[0]
    i, j = ops.positions(c)
    between = between_tokens(ops, r.g, i, j)
    ops.stage(r.scores, ops.product((r.q, ops.transposed(r.k))) * between)
    if delta:
        a = ops.product((r.k, ops.transposed(r.k))) * between * columns(never_zero(ops.by_column(r.beta)), c)
        unit_lower_inverse(ops, jnp.where(i > j, a, 0.0), i, j, r.inverse, r.other)


def forward(ops, state, r, *, delta):
    """Walks one chunk: leaves the output, the state before it and the update before beta in `r`, and returns the state after it."""
    c, width = r.v.shape
    g_row, beta_row = ops.by_row(r.g), ops.by_row(r.beta)
    since, last = jnp.exp(g_row), r.g[c - 1]
    ops.stage(r.states, state)
    update = r.v[...].astype(F32)
    if delta:
        ops.stage(r.stage, update - rows(since, width) * ops.product((r.k, r.states)))
        update = ops.product((r.inverse, r.stage))
        ops.stage(r.updates, update)
    written = rows(beta_row, width) * update
    ops.stage(r.stage, written)
    read = rows(since, width) * ops.product((r.q, r.states))
    r.output[...] = ops.product((r.scores, r.stage), start=read).astype(r.output.dtype)
    written = rows(jnp.exp(last - g_row), width) * written
    ops.stage(r.stage, written)
    state = ops.product((ops.transposed(r.k), r.stage), start=jnp.exp(last) * state)
    # What rounding left of it goes into the state as well: without it no decay and short keys miss the tolerance.
    ops.stage(r.stage, written - r.stage[...].astype(F32))
    return ops.product((ops.transposed(r.k), r.stage), start=state)


def reverse(ops, d_state, r, *, delta):
    """Walks one chunk in reverse: leaves the gradient of the state after it and of v in `r`, and returns that of the state before it."""
    c, width = r.d_output.shape
    g_row = ops.by_row(r.g)
    since, last = rows(jnp.exp(g_row), width), r.g[c - 1]
    until = rows(jnp.exp(last - g_row), width)
    ops.stage(r.d_states, d_state)
    d_written = ops.product((ops.transposed(r.scores), r.d_output), start=until * ops.product((r.k, r.d_states)))
    beta_row = ops.by_row(r.beta)
    d_v = rows(never_zero(beta_row) if delta else beta_row, width) * d_written
    if delta:
        ops.stage(r.stage, d_v)
        d_v = ops.product((ops.transposed(r.inverse), r.stage))
    r.d_v[...] = d_v.astype(r.d_v.dtype)
    ops.stage(r.stage, since * r.d_output[...].astype(F32))
    reads = [(ops.transposed(r.q), r.stage)]
    if delta:
        ops.stage(r.other, -since * d_v)
        reads.append((ops.transposed(r.k), r.other))
    return ops.product(*reads, start=jnp.exp(last) * d_state)


def gradients(ops, r, *, delta):
    """Leaves one chunk's gradients of q and k in `r`, and four vectors [C] that those of the gates are summed from.

    They are what the cumulated decay of token i gets from reading (`read`), what token j's gets from being read, to be subtracted
    (`was_read`), the product of the update and its gradient through the state after the chunk (`written`), and `d_beta`: with the
    delta rule beta times its gradient, else its gradient through reading alone.
    """
    c, dk = r.q.shape
    i, j = ops.positions(c)
    between = between_tokens(ops, r.g, i, j)
    beta_column = columns(ops.by_column(r.beta), c)

    if delta:
        pairs = ops.product((r.d_v, ops.transposed(r.updates)))
        # The gradient of v has beta as a factor; the rest of it times the update is beta's own, without a difference of large sums.
        r.d_beta[...] = jnp.sum(jnp.where(i == j, pairs, 0.0), axis=0)
        d_strict = jnp.where(i > j, -between * pairs, 0.0)
        ops.stage(r.d_kk, d_strict * beta_column)
        through_keys = d_strict * ops.product((r.k, ops.transposed(r.k)))
    d_scores = ops.product((r.d_output, ops.transposed(r.updates))) * between
    ops.stage(r.d_qk, d_scores * beta_column)
    through = d_scores * ops.product((r.q, ops.transposed(r.k)))
    if delta:
        through = through + through_keys
    else:
        r.d_beta[...] = jnp.sum(through, axis=0)
    through = jnp.where(i > j, through, 0.0) * beta_column
    r.was_read[...] = jnp.sum(through, axis=0)
    read = jnp.sum(through, axis=1)

    g_row = ops.by_row(r.g)
    since, until = rows(jnp.exp(g_row), c), rows(jnp.exp(r.g[c - 1] - g_row), c)

    def part(step, sums):
        # A part of the key's width at a time: with whole rows registers are spilled.
        read, written = sums
        mine = pl.ds(step * c, c)
        q, k, d_q, d_k = (ref.at[:, mine] for ref in (r.q, r.k, r.d_q, r.d_k))
        states, d_states = (ops.transposed(ref.at[mine]) for ref in (r.states, r.d_states))
        d_read = since * ops.product((r.d_output, states))
        read = read + jnp.sum(q[...].astype(F32) * d_read, axis=1)
        ops.stage(d_q, ops.product((r.d_qk, k), start=d_read))
        d_key = until * ops.product((r.updates, d_states))
        written = written + jnp.sum(k[...].astype(F32) * d_key, axis=1)
        d_key = rows(ops.by_row(r.beta), c) * d_key
        pairs = [(ops.transposed(r.d_qk), q)]
        if delta:
            d_read = -since * ops.product((r.d_v, states))
            read = read + jnp.sum(k[...].astype(F32) * d_read, axis=1)
            d_key = d_key + d_read
            pairs += [(r.d_kk, k), (ops.transposed(r.d_kk), k)]
        ops.stage(d_k, ops.product(*pairs, start=d_key))
        return read, written

    r.read[...], r.written[...] = lax.fori_loop(0, dk // c, part, (read, ops.zeros(c)))
