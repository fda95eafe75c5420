"""The gated delta rule with momentum in chunks, in plain XLA: one `lax.scan`, differentiated by JAX; runs on every platform.

Derivation: README.md beside this file. Arrays inside a chunk are [B, H, C, ...]; i is the reading token, j the written one.
"""
import jax
import jax.numpy as jnp

from sleepnet_kernels import log_decays, segments
from sleepnet_kernels.chunked import product_of, put_chunk, take_chunk, unit_lower_inverse
from sleepnet_kernels.rule_arguments import shared_heads


def momentum_rule(q, k, v, log_decay, log_momentum, beta, applied, initial_state, segment_ids=None, *, chunk_size: int = 16):
    """The public op's mathematics over chunks of `chunk_size` tokens; the backward keeps the states before each chunk and repeats the rest."""
    tokens, c = q.shape[1], chunk_size
    padding = -tokens % c

    def padded(x):
        # Zero everything leaves state and momentum as they are.
        return jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)) if padding else x

    segments_BxNxC = None
    if segment_ids is not None:
        log_decay, log_momentum = (segments.decay_within(x, segment_ids) for x in (log_decay, log_momentum))
        segments_BxNxC = segments.by_chunk(segment_ids, c)
    gates = (x.astype(jnp.float32) for x in (log_decay, log_momentum, beta, applied))
    operands = [padded(x) for x in (*shared_heads(q, k, v), v, *gates)]

    @jax.checkpoint
    def chunk(carry, index):
        *states, output_BxTxHxV = carry
        segments_Bx1xC = None if segments_BxNxC is None else jax.lax.dynamic_slice_in_dim(segments_BxNxC, index, 1, axis=1)
        output, *states = _chunk(segments_Bx1xC, *(jnp.swapaxes(take_chunk(x, index, c), 1, 2) for x in operands), *states)
        return (*states, put_chunk(output_BxTxHxV, output, index)), None

    carry = (*jnp.split(initial_state, 2, axis=2), jnp.zeros_like(operands[2]))
    (*states, output), _ = jax.lax.scan(chunk, carry, jnp.arange((tokens + padding) // c))
    return output[:, :tokens], jnp.concatenate(states, axis=2)


@jax.custom_vjp
def _between(log_decay_BxHxC, segments_Bx1xC):
    """Returns exp of the decay since the chunk began, and from after token j to token i, zero above the diagonal and across a restart."""
    sums = log_decays.cumulated(log_decay_BxHxC, segments_Bx1xC)
    since_BxHxC, c = sums[0], log_decay_BxHxC.shape[-1]
    past_CxC = jnp.tril(jnp.ones((c, c), bool))[None, None]
    if segments_Bx1xC is not None:
        past_CxC &= segments.same(segments_Bx1xC)
        since_BxHxC = jnp.where(segments_Bx1xC == 0, since_BxHxC, -jnp.inf)
    # The mask comes before exp: above the diagonal the difference is positive and overflows.
    return jnp.exp(since_BxHxC), jnp.exp(jnp.where(past_CxC, log_decays.of_pairs(sums), -jnp.inf))


def _between_fwd(log_decay_BxHxC, segments_Bx1xC):
    decays = _between(log_decay_BxHxC, segments_Bx1xC)
    return decays, decays


def _between_bwd(decays, cotangents):
    """A token's log-decay scales what is read from it on of what was written before it; left to JAX, the sums of rows and columns cancel."""
    d_since, d_between = (decay * cotangent for decay, cotangent in zip(decays, cotangents))
    from_CxC = jnp.triu(jnp.ones((d_since.shape[-1],) * 2, jnp.float32))
    d_written_before = jnp.tril(product_of("si,bhij->bhsj", from_CxC, d_between), -1)
    return (jnp.sum(d_written_before, axis=-1) + product_of("si,bhi->bhs", from_CxC, d_since), None)


_between.defvjp(_between_fwd, _between_bwd)


def _chunk(segments_Bx1xC, q, k, v, log_decay, log_momentum, beta, applied, state_BxHxKxV, momentum_BxHxKxV):
    """Output, state and momentum after one chunk."""
    kept, kept_between = _between(log_decay, segments_Bx1xC)
    carried, carried_between = _between(log_momentum, segments_Bx1xC)
    into_state = kept_between * applied[..., None, :]
    before = jnp.tril(into_state, -1)
    # What a write, and the chunk's first momentum, are worth in the state that token i reads, and in the one it corrects.
    read, corrected = (product_of("bhil,bhlj->bhij", x, carried_between) for x in (into_state, before))
    read_first, corrected_first = (jnp.sum(x * carried[..., None, :], axis=-1) for x in (into_state, before))
    found = kept[..., None] * product_of("bhik,bhkv->bhiv", k, state_BxHxKxV) + corrected_first[..., None] * product_of("bhik,bhkv->bhiv", k, momentum_BxHxKxV)
    inverse = unit_lower_inverse(beta[..., None] * product_of("bhik,bhjk->bhij", k, k) * corrected)
    update = product_of("bhij,bhjv->bhiv", inverse.astype(k.dtype), beta[..., None] * (v.astype(jnp.float32) - found))
    output = kept[..., None] * product_of("bhik,bhkv->bhiv", q, state_BxHxKxV) + read_first[..., None] * product_of("bhik,bhkv->bhiv", q, momentum_BxHxKxV)
    output += product_of("bhij,bhjv->bhiv", (product_of("bhik,bhjk->bhij", q, k) * read).astype(q.dtype), update)
    k_BxHxKxC = jnp.swapaxes(k, -1, -2)
    writes = [product_of("bhkj,bhjv->bhkv", k_BxHxKxC, x[..., -1, :, None] * update) for x in (read, carried_between)]
    last = lambda x: x[..., -1, None, None]
    next_state = last(kept) * state_BxHxKxV + last(read_first) * momentum_BxHxKxV + writes[0]
    return output, next_state, last(carried) * momentum_BxHxKxV + writes[1]
