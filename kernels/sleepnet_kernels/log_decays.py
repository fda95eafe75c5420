"""Sums of log-decays over the tokens of a chunk, and differences of them that hold however strong a decay is, −∞ included.

Derivation: gated_delta_rule/README.md, section "Strong decay". Dimension letters as in chunked.py; X is any leading axes.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sleepnet_kernels import segments

# exp of it is exactly zero in float32: what decays by more decays as much.
FLOOR = -128.0
# A sum that has not fallen so low is exact to 1e-5, after some additions whose results are off by 2e-6 at most.
EXACT = -64.0


def cumulated(log_decay_XxC: jax.Array, segments_XxC: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns the sums G of the log-decay up to each token, from its segment's beginning on, and what rounding has lost of them.

    What is lost counts from where G falls below EXACT: with ordinary decays it is zero.
    """
    log_decay_XxC = jnp.maximum(log_decay_XxC, FLOOR)
    before = lambda x: jnp.concatenate([jnp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)
    if segments_XxC is None:
        g = jnp.cumsum(log_decay_XxC, axis=-1)
        past_CxC = jnp.tril(jnp.ones((g.shape[-1],) * 2, jnp.float32))
        lost = jnp.einsum("...j,ij->...i", log_decay_XxC - (g - before(g)), past_CxC, precision=jax.lax.Precision.HIGHEST)
    else:
        g = segments.sums(log_decay_XxC, segments_XxC)
        g_before = jnp.where(segments_XxC == before(segments_XxC), before(g), 0.0)
        lost = segments.sums(log_decay_XxC - (g - g_before), segments_XxC)
    return g, jnp.where(g < EXACT, lost, 0.0)


def between(later: Sequence[jax.Array], earlier: Sequence[jax.Array]) -> jax.Array:
    """Returns the log-decay after a token and up to a later one, from the terms of the cumulated one at each: G alone, or as `cumulated` has them."""
    first, *rest = (one - other for one, other in zip(later, earlier, strict=True))
    return sum(rest, first)


def of_pairs(sums_XxC: Sequence[jax.Array]) -> jax.Array:
    """Returns the log-decay after token j and up to token i, [..., C, C]; of no meaning above the diagonal."""
    return between([x[..., :, None] for x in sums_XxC], [x[..., None, :] for x in sums_XxC])


def gradient(log_decay: jax.Array, d_log_decay: jax.Array) -> jax.Array:
    """Returns a gradient with exactly zero where the decay leaves nothing, of which sums would leave what they round."""
    return jnp.where(log_decay < FLOOR, 0.0, d_log_decay)
