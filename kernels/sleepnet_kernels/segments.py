"""Rows packed with several sequences: where the state restarts, and sums over the tokens of a chunk that restart with it.

A chunk has N of a row's chunks beside it and C tokens; `segments` counts restarts within each chunk from its first token on, so
that 0 is what still sees the state before the chunk. Everything is masked by selection, never by a large negative number:
what a segment holds reaches no other one, to the bit.
"""
import jax
import jax.numpy as jnp

from sleepnet_kernels.argument_checks import WrongDtype


def checked_segment_ids(op: str, segment_ids: jax.typing.ArrayLike, shape: tuple[int, int]) -> jax.Array:
    """Returns the ids as an array of `shape` [B, T]; TypeError where they are not int32, ValueError where there is not one a token."""
    ids = jnp.asarray(segment_ids)
    if ids.dtype != jnp.int32:
        raise WrongDtype(f"{op}: segment_ids must be int32, given {ids.dtype.name}: number the sequences of each row")
    if ids.shape != shape:
        raise ValueError(f"{op}: segment_ids must have shape {list(shape)}, one id a token, given {list(ids.shape)}")
    return ids


def restarts(segment_ids_BxT: jax.Array) -> jax.Array:
    """Returns whether the state restarts before a token, [B, T]: where its id is not the previous token's, never at the first."""
    return jnp.pad(segment_ids_BxT[:, 1:] != segment_ids_BxT[:, :-1], [(0, 0), (1, 0)])


def decay_within(log_decay_BxTxH: jax.Array, segment_ids_BxT: jax.Array) -> jax.Array:
    """Returns the log-decay with zero where there is nothing to decay: at the first token of every segment but a row's first."""
    return jnp.where(restarts(segment_ids_BxT)[..., None], jnp.zeros_like(log_decay_BxTxH), log_decay_BxTxH)


def by_chunk(segment_ids_BxT: jax.Array, c: int) -> jax.Array:
    """Returns how often the state restarted within the chunk up to a token, [B, N, C] in int32; padding goes on with the last segment."""
    b, t = segment_ids_BxT.shape
    restarts_BxNxC = jnp.pad(restarts(segment_ids_BxT), [(0, 0), (0, -t % c)]).reshape(b, -1, c)
    return jnp.cumsum(restarts_BxNxC, axis=-1, dtype=jnp.int32)


def same(segments_XxC: jax.Array) -> jax.Array:
    """Returns whether tokens i and j are of one segment, [..., C, C]."""
    return segments_XxC[..., :, None] == segments_XxC[..., None, :]


def sums(x_XxC: jax.Array, segments_XxC: jax.Array, *, reverse: bool = False) -> jax.Array:
    """Returns cumulated sums along the last axis that restart with the segment; leading axes of 1 in `segments` are repeated."""
    i, j = jnp.arange(x_XxC.shape[-1])[:, None], jnp.arange(x_XxC.shape[-1])[None, :]
    order_CxC = (i <= j if reverse else i >= j).reshape((1,) * (x_XxC.ndim - 1) + (len(i), len(i)))
    return jnp.sum(jnp.where(order_CxC & same(segments_XxC), x_XxC[..., None, :], jnp.zeros((), x_XxC.dtype)), axis=-1)
