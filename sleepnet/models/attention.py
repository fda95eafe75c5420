"""Causal softmax attention over a window, with RoPE and QK-norm."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain
from sleepnet.models.linear import Linear, together
from sleepnet.models.norms import rms_norm
from sleepnet.models.rope import rope


@dataclasses.dataclass(frozen=True)
class Seats:
    """Tokens that do not stand one behind the other, in a cache that keeps its keys after RoPE; see `sleepnet.models.visible`.

    Attributes:
      positions_T: int32, where each of T tokens stands for RoPE, whatever its slot.
      visible_TxM: bool, the slots that each may see of those before it.
    """

    positions_T: np.ndarray
    visible_TxM: np.ndarray


def attend(
    q_BxTxHxD, k_BxMxHxD, v_BxMxHxD, valid_BxM, first, *, reach: int, theta: float, rotated: bool = False, seats: Seats | None = None
) -> jax.Array:
    """Attention of T queries at slots `first`, `first` + 1 … over M slots.

    Query slot i sees key slot j where j ≤ i, i − j < reach, j is valid and, with `seats`, visible. Softmax in float32; a query that sees nothing gets 0.

    Args:
      q_BxTxHxD: queries after QK-norm, before RoPE.
      k_BxMxHxD: keys after QK-norm, before RoPE unless `rotated`.
      v_BxMxHxD: values.
      valid_BxM: bool; False for PAD and unwritten slots.
      first: int32 scalar, slot of the first query.
      reach: slots a query can see, its own included.
      theta: RoPE base.
      rotated: keys are stored after RoPE.
      seats: of the queries, where they are not the slots'; of rotated keys alone.

    Returns:
      [B, T, H, D] in the dtype of v.

    Raises:
      ValueError: seats, and keys that are not rotated.
    """
    if seats is not None and not rotated:
        raise ValueError("seats are of a cache that keeps its keys after RoPE: eviction='none'")
    key_slots = jnp.arange(k_BxMxHxD.shape[1], dtype=jnp.int32)
    query_slots = jnp.arange(q_BxTxHxD.shape[1], dtype=jnp.int32) + first
    q = rope(q_BxTxHxD, query_slots if seats is None else jnp.asarray(seats.positions_T), theta)
    k = k_BxMxHxD if rotated else rope(k_BxMxHxD, key_slots, theta)
    scores_BxHxTxM = jnp.einsum("bthd,bmhd->bhtm", q, k, preferred_element_type=jnp.float32) * (q.shape[-1] ** -0.5)
    distance_TxM = query_slots[:, None] - key_slots[None, :]
    near_TxM = (distance_TxM >= 0) & (distance_TxM < reach)
    if seats is not None:
        near_TxM = near_TxM & jnp.asarray(seats.visible_TxM)
    seen_Bx1xTxM = near_TxM[None, None] & valid_BxM[:, None, None, :]
    scores_BxHxTxM = jnp.where(seen_Bx1xTxM, scores_BxHxTxM, -1e30)
    weights_BxHxTxM = jnp.where(seen_Bx1xTxM, jax.nn.softmax(scores_BxHxTxM, axis=-1), 0.0).astype(v_BxMxHxD.dtype)
    return jnp.einsum("bhtm,bmhd->bthd", weights_BxHxTxM, v_BxMxHxD)


class Attention(nnx.Module):
    """Multi-head attention; q and k are RMS-normalised per head with a learned scale (QK-norm)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        inner = config.heads * config.head_dim
        self.q = Linear(config.width, inner, rngs=rngs)
        self.k = Linear(config.width, inner, rngs=rngs)
        self.v = Linear(config.width, inner, rngs=rngs)
        self.out = Linear(inner, config.width, rngs=rngs, scale=config.output_scale, axes=("tensor", None))
        self.q_scale = nnx.Param(jnp.ones((config.head_dim,), jnp.float32))
        self.k_scale = nnx.Param(jnp.ones((config.head_dim,), jnp.float32))
        self.config = config

    def project(self, x_BxTxD: jax.Array, first, seats: Seats | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of tokens at slots `first` …, or on `seats`: [B, T, H, D] each, before RoPE.

        A full cache gets its keys after RoPE: no eviction moves a slot, and turning all of them for every token would cost more than reading them.
        """
        heads = lambda x: rearrange(x, "b t (h d) -> b t h d", h=self.config.heads)
        q, k, v = (constrain(heads(x), BATCH, None, "tensor", None) for x in together(x_BxTxD, self.q, self.k, self.v))
        q, k = rms_norm(q, self.q_scale[...]), rms_norm(k, self.k_scale[...])
        if self.config.full_cache:
            k = rope(k, jnp.arange(k.shape[1], dtype=jnp.int32) + first if seats is None else jnp.asarray(seats.positions_T), self.config.rope_theta)
        return q, k, v

    def read(self, q, k_BxMxHxD, v_BxMxHxD, valid_BxM, first, seats: Seats | None = None) -> jax.Array:
        """`attend` and the projection back, [B, T, D]."""
        full = self.config.full_cache
        reach = k_BxMxHxD.shape[1] if full else self.config.window
        mixed = attend(q, k_BxMxHxD, v_BxMxHxD, valid_BxM, first, reach=reach, theta=self.config.rope_theta, rotated=full, seats=seats)
        return self.out(rearrange(mixed, "b t h d -> b t (h d)"))
