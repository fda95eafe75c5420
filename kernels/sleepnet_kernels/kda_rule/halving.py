"""What stands between two tokens when each key channel decays on its own: products of pairs of blocks, twice as large at each level.

For tokens j < i there is one level at which j lies in the left and i in the right block of a pair; with m the last token of the
left block, exp(G_i - G_j) = exp(G_i - G_m) exp(G_m - G_j) splits into two factors of at most 1, one of i and one of j, so that
the sum over channels is a matrix product. Dimension letters as in chunked.py; s is the number of tokens in a block, P of pairs.
"""
import jax
import jax.numpy as jnp

from sleepnet_kernels.chunked import product_of

# In blocks smaller than this a product is a multiplication and a sum: calling a matrix product costs a CPU more.
SMALLEST_PRODUCT = 4


def halves(x_CxD: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Cuts [..., C, D] into the left and the right blocks of its pairs, [..., P, s, D] each."""
    pairs = x_CxD.reshape(*x_CxD.shape[:-2], -1, 2, size, x_CxD.shape[-1])
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def whole(left_PxsxD: jax.Array, right_PxsxD: jax.Array) -> jax.Array:
    """Undoes `halves`."""
    pairs = jnp.stack([left_PxsxD, right_PxsxD], axis=-3)
    return pairs.reshape(*pairs.shape[:-4], -1, pairs.shape[-1])


def decays(log_decay_CxK: jax.Array) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array, jax.Array]:
    """Returns, level by level, how much is left of the left blocks at their end and of that in the right ones; then since and until.

    All are products of per-token decays. No difference of cumulated decays is formed, which would lose small decays behind large
    ones, and nothing exceeds 1.

    Args:
      log_decay_CxK: [..., C, K], C a power of two.

    Returns:
      levels: for s = 1, 2, 4 … C / 2: exp(G_m - G_j) and exp(G_i - G_m), each [..., P, s, K].
      since: exp(G_i), [..., C, K].
      until: exp(G_C - G_j), [..., C, K].
    """
    since = jnp.exp(log_decay_CxK)
    until = jnp.ones_like(since)
    levels, size = [], 1
    while size < log_decay_CxK.shape[-2]:
        (since_left, since_right), (until_left, until_right) = halves(since, size), halves(until, size)
        levels.append((until_left, since_right))
        since = whole(since_left, since_right * since_left[..., -1:, :])
        until = whole(until_left * since_right[..., -1:, :], until_right)
        size *= 2
    return levels, since, until


def log_decay_gradient(d_levels, d_since_CxK: jax.Array, d_until_CxK: jax.Array) -> jax.Array:
    """Pulls gradients of the logarithms of what `decays` returns back to log_decay: sums alone, in which nothing cancels.

    Args:
      d_levels: as `levels`.
      d_since_CxK, d_until_CxK: as since and until.
    """
    size = d_since_CxK.shape[-2] // 2
    for d_until, d_since in reversed(d_levels):
        (since_left, since_right), (until_left, until_right) = halves(d_since_CxK, size), halves(d_until_CxK, size)
        # since_right had all of the left block before it, until_left all of the right block behind it.
        d_left = jnp.sum(since_right, axis=-2, keepdims=True)
        d_right = jnp.sum(until_left, axis=-2, keepdims=True)
        last = (jnp.arange(size) == size - 1).astype(d_left.dtype).reshape((1,) * (d_left.ndim - 2) + (size, 1))
        d_since_CxK = whole(since_left + last * d_left, since_right + d_since + last * d_right)
        d_until_CxK = whole(until_left + d_until, until_right)
        size //= 2
    return d_since_CxK


def product(a_sxD: jax.Array, b_rxD: jax.Array) -> jax.Array:
    """`a b^T` of [..., s, D] and [..., r, D], in float32."""
    if a_sxD.shape[-2] >= SMALLEST_PRODUCT:
        return product_of("...id,...jd->...ij", a_sxD, b_rxD)
    return jnp.sum(a_sxD.astype(jnp.float32)[..., :, None, :] * b_rxD.astype(jnp.float32)[..., None, :, :], axis=-1)


def applied(a_sxr: jax.Array, b_rxD: jax.Array) -> jax.Array:
    """`a b` of [..., s, r] and [..., r, D], in float32."""
    if a_sxr.shape[-2] >= SMALLEST_PRODUCT:
        return product_of("...ij,...jd->...id", a_sxr, b_rxD)
    return jnp.sum(a_sxr.astype(jnp.float32)[..., :, :, None] * b_rxD.astype(jnp.float32)[..., None, :, :], axis=-2)


def lower(top_left: jax.Array, bottom_left: jax.Array, bottom_right: jax.Array) -> jax.Array:
    """Joins blocks [..., P, s, s] to [..., P, 2 s, 2 s], zero above the diagonal of blocks."""
    top = jnp.concatenate([top_left, jnp.zeros_like(bottom_left)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([bottom_left, bottom_right], axis=-1)], axis=-2)
