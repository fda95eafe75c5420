"""The chunked form of both fast-weight rules: one `lax.scan` over chunks and an analytic backward.

Derivation: gated_delta_rule/README.md. Dimension letters: N chunks of C tokens, B batch, H heads, K key width, V value width.
"""
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


def chunked_rule(q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay_BxTxH, beta_BxTxH, initial_state_BxHxKxV, *, delta: bool, chunk_size: int):
    """Runs the gated delta rule (`delta`) or the gated Hebbian rule over chunks of `chunk_size` tokens.

    Returns:
      output [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32.
    """
    _, t, _, _ = q_BxTxHxK.shape
    padding = -t % chunk_size

    def chunks(x):
        # Zero keys, values, beta and log-decay leave the state as it is.
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(x.shape[0], -1, chunk_size, *x.shape[2:])
        return jnp.moveaxis(x, (1, 3), (0, 2))

    f32 = jnp.float32
    operands = [chunks(x) for x in (q_BxTxHxK, k_BxTxHxK, v_BxTxHxV, log_decay_BxTxH.astype(f32), beta_BxTxH.astype(f32))]
    output_NxBxHxCxV, final_state_BxHxKxV = _walk(delta, *operands, initial_state_BxHxKxV)
    output_BxNxCxHxV = jnp.moveaxis(output_NxBxHxCxV, (0, 2), (1, 3))
    output_BxTxHxV = output_BxNxCxHxV.reshape(output_BxNxCxHxV.shape[0], -1, *output_BxNxCxHxV.shape[3:])[:, :t]
    return output_BxTxHxV.astype(v_BxTxHxV.dtype), final_state_BxHxKxV


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(delta, q_NxBxHxCxK, k_NxBxHxCxK, v_NxBxHxCxV, log_decay_NxBxHxC, beta_NxBxHxC, initial_state_BxHxKxV):
    output, final_state, _ = _forward(delta, q_NxBxHxCxK, k_NxBxHxCxK, v_NxBxHxCxV, log_decay_NxBxHxC, beta_NxBxHxC, initial_state_BxHxKxV)
    return output, final_state


def _dot(subscripts, a, b):
    """A product with operands in a's dtype and a float32 result; float32 operands are not rounded on any platform."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, a, b.astype(a.dtype), precision=precision, preferred_element_type=jnp.float32)


def _decays(log_decay_BxHxC):
    """Returns exp of: the decay since the chunk began, between two tokens (zero above the diagonal), and up to the chunk's end."""
    g_BxHxC = jnp.cumsum(log_decay_BxHxC, axis=-1)
    c = g_BxHxC.shape[-1]
    past_CxC = jnp.tril(jnp.ones((c, c), bool))
    # The mask comes before exp: above the diagonal the difference is positive and overflows.
    between = jnp.exp(jnp.where(past_CxC[None, None], g_BxHxC[..., :, None] - g_BxHxC[..., None, :], -jnp.inf))
    return jnp.exp(g_BxHxC), between, jnp.exp(g_BxHxC[..., -1:] - g_BxHxC)


def unit_lower_inverse(strict_lower: jax.Array) -> jax.Array:
    """Returns (I + A)^-1 for strictly lower triangular A [..., C, C], in float32, by doubling diagonal blocks 1, 2, 4 ...

    Two neighbouring inverted blocks are joined by X <- X - X (A between them) X. Powers of A are never formed: on
    correlated keys they reach 1e9 and cancel.
    """
    c = strict_lower.shape[-1]
    row, column = jnp.arange(c)[:, None], jnp.arange(c)[None, :]
    leading = (None,) * (strict_lower.ndim - 2)
    inverse = None
    size = 1
    while size < c:
        joins = (row // (2 * size) == column // (2 * size)) & (row // size != column // size)
        between = jnp.where(joins[leading], strict_lower, 0.0)
        if inverse is None:
            inverse = jnp.eye(c, dtype=jnp.float32)[leading] - between
        else:
            inverse = inverse - _dot("...ij,...jk->...ik", inverse, _dot("...ij,...jk->...ik", between, inverse))
        size *= 2
    return jnp.broadcast_to(jnp.eye(c, dtype=jnp.float32)[leading], strict_lower.shape) if inverse is None else inverse


def _forward(delta, q, k, v, log_decay, beta, initial_state):
    """Walks the chunks; returns output [N,B,H,C,V], the final state, and (state before each chunk, inverse of each chunk)."""

    def chunk(state_BxHxKxV, xs):
        q, k, v, log_decay, beta = xs
        since, between, until = _decays(log_decay)
        qk = _dot("bhik,bhjk->bhij", q, k) * between
        read = since[..., None] * _dot("bhik,bhkv->bhiv", q, state_BxHxKxV)
        if delta:
            strict = jnp.tril(beta[..., None] * _dot("bhik,bhjk->bhij", k, k) * between, -1)
            inverse = unit_lower_inverse(strict)
            error = v.astype(jnp.float32) - since[..., None] * _dot("bhik,bhkv->bhiv", k, state_BxHxKxV)
            update = _dot("bhij,bhjv->bhiv", inverse.astype(k.dtype), beta[..., None] * error)
        else:
            inverse = None
            update = beta[..., None] * v.astype(jnp.float32)
        output = read + _dot("bhij,bhjv->bhiv", qk.astype(q.dtype), update)
        k_until = (until[..., None] * k.astype(jnp.float32)).astype(k.dtype)
        next_state = since[..., -1:, None] * state_BxHxKxV + _dot("bhik,bhiv->bhkv", k_until, update)
        return next_state, (output.astype(v.dtype), state_BxHxKxV, inverse)

    final_state, (output, states, inverses) = jax.lax.scan(chunk, initial_state, (q, k, v, log_decay, beta))
    return output, final_state, (states, inverses)


def _walk_fwd(delta, q, k, v, log_decay, beta, initial_state):
    output, final_state, (states, inverses) = _forward(delta, q, k, v, log_decay, beta, initial_state)
    states = checkpoint_name(states, "chunk_states")
    if delta:
        inverses = checkpoint_name(inverses, "chunk_inverses")
    return (output, final_state), (q, k, v, log_decay, beta, states, inverses)


def _walk_bwd(delta, residuals, cotangents):
    """Walks the chunks in reverse, recomputing all but the states and the inverses."""
    d_output_NxBxHxCxV, d_final_state_BxHxKxV = cotangents

    def chunk(d_next, xs):
        q, k, v, log_decay, beta, state, inverse, d_out = xs
        dt = k.dtype
        f32 = jnp.float32
        since, between, until = _decays(log_decay)
        qk = _dot("bhik,bhjk->bhij", q, k)
        scores = qk * between
        if delta:
            kk = _dot("bhik,bhjk->bhij", k, k)
            k_state = _dot("bhik,bhkv->bhiv", k, state)
            error = v.astype(f32) - since[..., None] * k_state
            update = _dot("bhij,bhjv->bhiv", inverse.astype(dt), beta[..., None] * error)
        else:
            error = v.astype(f32)
            update = beta[..., None] * error
        k_until = (until[..., None] * k.astype(f32)).astype(dt)
        d_update = _dot("bhij,bhiv->bhjv", scores.astype(dt), d_out) + _dot("bhik,bhkv->bhiv", k_until, d_next)
        d_scores = jnp.tril(_dot("bhiv,bhjv->bhij", d_out, update))
        d_qk = d_scores * between
        through = jnp.tril(d_qk * qk, -1)

        q_state_d = _dot("bhiv,bhkv->bhik", d_out, state) * since[..., None]
        d_q = q_state_d + _dot("bhij,bhjk->bhik", d_qk.astype(dt), k)
        d_since = jnp.sum(q.astype(f32) * q_state_d, -1)
        d_state = since[..., -1:, None] * d_next + _dot("bhik,bhiv->bhkv", (since[..., None] * q.astype(f32)).astype(dt), d_out)
        d_k_until = _dot("bhiv,bhkv->bhik", update.astype(dt), d_next) * until[..., None]
        d_k = _dot("bhij,bhik->bhjk", d_qk.astype(dt), q) + d_k_until
        d_until = jnp.sum(k.astype(f32) * d_k_until, -1)
        if delta:
            d_scaled = _dot("bhij,bhiv->bhjv", inverse.astype(dt), d_update)
            d_strict = -jnp.tril(_dot("bhiv,bhjv->bhij", d_scaled.astype(dt), update), -1)
            unscaled = d_strict * between
            d_beta = jnp.sum(unscaled * kk, -1) + jnp.sum(d_scaled * error, -1)
            d_kk = beta[..., None] * unscaled
            through += d_kk * kk
            d_v = beta[..., None] * d_scaled
            d_k_state = -since[..., None] * d_v
            d_since += jnp.sum(d_k_state * k_state, -1)
            d_state += _dot("bhik,bhiv->bhkv", k, d_k_state)
            d_k += _dot("bhiv,bhkv->bhik", d_k_state.astype(dt), state)
            d_k += _dot("bhij,bhjk->bhik", (d_kk + jnp.swapaxes(d_kk, -1, -2)).astype(dt), k)
        else:
            d_beta = jnp.sum(d_update * error, -1)
            d_v = beta[..., None] * d_update
        # The last token's own `until` is 1 whatever the decay.
        d_until = d_until.at[..., -1].set(0.0)
        d_end = jnp.sum(d_until, -1) + since[..., -1] * jnp.sum(state * d_next, (-1, -2))
        d_g = d_since - d_until + jnp.sum(through, -1) - jnp.sum(through, -2)
        d_g = d_g.at[..., -1].add(d_end)
        d_log_decay = jax.lax.cumsum(d_g, axis=2, reverse=True)
        return d_state, (d_q.astype(dt), d_k.astype(dt), d_v.astype(dt), d_log_decay, d_beta)

    d_initial, gradients = jax.lax.scan(chunk, d_final_state_BxHxKxV, (*residuals, d_output_NxBxHxCxV), reverse=True)
    return (*gradients, d_initial)


_walk.defvjp(_walk_fwd, _walk_bwd)


def default_chunk_size(tokens: int, key_width: int) -> int:
    """Returns the chunk that measured fastest: the whole sequence where it is short, so that little or nothing is padded."""
    largest = 16 if key_width <= 32 else 32
    return min(largest, tokens)
