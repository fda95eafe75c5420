"""Causal softmax attention over a window, with RoPE and QK-norm."""
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain
from sleepnet.models.linear import Linear, together
from sleepnet.models.norms import factor, first_scale, rms_norm
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
    q_BxTxHxD, k_BxMxGxD, v_BxMxGxD, valid_BxM, first, *, reach: int, theta: float, share: float = 1.0, rotated: bool = False, seats: Seats | None = None
) -> jax.Array:
    """Attention of T queries at slots `first`, `first` + 1 … over M slots; H / G consecutive query heads share a head of the keys and values.

    Query slot i sees key slot j where j ≤ i, i − j < reach, j is valid and, with `seats`, visible. Softmax in float32; a query that sees nothing gets 0.

    Args:
      q_BxTxHxD: queries after QK-norm, before RoPE.
      k_BxMxGxD: keys after QK-norm, before RoPE unless `rotated`.
      v_BxMxGxD: values.
      valid_BxM: bool; False for PAD and unwritten slots.
      first: int32 scalar, slot of the first query.
      reach: slots a query can see, its own included.
      theta: RoPE base.
      share: of the channels that RoPE turns.
      rotated: keys are stored after RoPE.
      seats: of the queries, where they are not the slots'; of rotated keys alone.

    Returns:
      [B, T, H, D] in the dtype of v.

    Raises:
      ValueError: seats, and keys that are not rotated.
    """
    if seats is not None and not rotated:
        raise ValueError("seats are of a cache that keeps its keys after RoPE: eviction='none'")
    key_slots = jnp.arange(k_BxMxGxD.shape[1], dtype=jnp.int32)
    query_slots = jnp.arange(q_BxTxHxD.shape[1], dtype=jnp.int32) + first
    q = rope(q_BxTxHxD, query_slots if seats is None else jnp.asarray(seats.positions_T), theta, share)
    k = k_BxMxGxD if rotated else rope(k_BxMxGxD, key_slots, theta, share)
    scores_BxHxTxM = _scores(q, k) * (q.shape[-1] ** -0.5)
    distance_TxM = query_slots[:, None] - key_slots[None, :]
    near_TxM = (distance_TxM >= 0) & (distance_TxM < reach)
    if seats is not None:
        near_TxM = near_TxM & jnp.asarray(seats.visible_TxM)
    seen_Bx1xTxM = near_TxM[None, None] & valid_BxM[:, None, None, :]
    scores_BxHxTxM = jnp.where(seen_Bx1xTxM, scores_BxHxTxM, -1e30)
    weights_BxHxTxM = jnp.where(seen_Bx1xTxM, jax.nn.softmax(scores_BxHxTxM, axis=-1), 0.0).astype(v_BxMxGxD.dtype)
    return _mixed(weights_BxHxTxM, v_BxMxGxD)


def _scores(q_BxTxHxD, k_BxMxGxD):
    heads = q_BxTxHxD.shape[2], k_BxMxGxD.shape[2]
    if heads[0] == heads[1]:
        return jnp.einsum("bthd,bmhd->bhtm", q_BxTxHxD, k_BxMxGxD, preferred_element_type=jnp.float32)
    # a group's queries in one matrix: einsum over r and t apart lets XLA's CPU compiler turn the scores over, twice as slow
    shared, k_BxGxMxD = rearrange(q_BxTxHxD, "b t (g r) d -> b g (r t) d", g=heads[1]), rearrange(k_BxMxGxD, "b m g d -> b g m d")
    return rearrange(jnp.einsum("bgqd,bgmd->bgqm", shared, k_BxGxMxD, preferred_element_type=jnp.float32), "b g (r t) m -> b (g r) t m", t=q_BxTxHxD.shape[1])


def _mixed(weights_BxHxTxM, v_BxMxGxD):
    heads = weights_BxHxTxM.shape[1], v_BxMxGxD.shape[2]
    if heads[0] == heads[1]:
        return jnp.einsum("bhtm,bmhd->bthd", weights_BxHxTxM, v_BxMxGxD)
    shared, v_BxGxMxD = rearrange(weights_BxHxTxM, "b (g r) t m -> b g (r t) m", g=heads[1]), rearrange(v_BxMxGxD, "b m g d -> b g m d")
    return rearrange(jnp.einsum("bgqm,bgmd->bgqd", shared, v_BxGxMxD), "b g (r t) d -> b t (g r) d", t=weights_BxHxTxM.shape[2])


class Attention(nnx.Module):
    """Attention of H heads over G heads of keys and values; q and k are RMS-normalised with a learned scale (QK-norm), unless `qk_norm` is none."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        inner, shared = config.heads * config.head_dim, math.prod(config.entry_shape)
        self.q = Linear(config.width, inner, rngs=rngs, bias=config.qkv_bias)
        self.k = Linear(config.width, shared, rngs=rngs, bias=config.qkv_bias)
        self.v = Linear(config.width, shared, rngs=rngs, bias=config.qkv_bias)
        self.out = Linear(inner, config.width, rngs=rngs, scale=config.output_scale, axes=("tensor", None))
        if config.attention_gate:
            self.gate = Linear(config.width, inner, rngs=rngs)
        if config.qk_norm != "none":
            each = config.qk_norm == "head"
            self.q_scale = first_scale(config.head_dim if each else inner, config)
            self.k_scale = first_scale(config.head_dim if each else shared, config)
        self.config = config

    def _normed(self, x: jax.Array, scale: nnx.Param) -> jax.Array:
        return rms_norm(x, factor(scale, self.config), self.config.norm_epsilon)

    def project(self, x_BxTxD: jax.Array, first, seats: Seats | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, H, D], keys and values [B, T, G, D] of tokens at slots `first` …, or on `seats`.

        The cache gets its keys after RoPE where no eviction moves a slot: turning all of them for every token would cost more than reading them.
        """
        config = self.config
        heads = lambda x: constrain(rearrange(x, "b t (h d) -> b t h d", d=config.head_dim), BATCH, None, "tensor", None)
        q, k, v = together(x_BxTxD, self.q, self.k, self.v)
        if config.qk_norm == "all":
            q, k = self._normed(q, self.q_scale), self._normed(k, self.k_scale)
        q, k, v = heads(q), heads(k), heads(v)
        if config.qk_norm == "head":
            q, k = self._normed(q, self.q_scale), self._normed(k, self.k_scale)
        if config.keys_turned:
            slots = jnp.arange(k.shape[1], dtype=jnp.int32) + first if seats is None else jnp.asarray(seats.positions_T)
            k = rope(k, slots, config.rope_theta, config.rope_share)
        return q, k, v

    def read(self, x_BxTxD, q, k_BxMxGxD, v_BxMxGxD, valid_BxM, first, seats: Seats | None = None) -> jax.Array:
        """`attend` by queries of `project(x, first, seats)`, the gate and the projection back, [B, T, D]."""
        config, full = self.config, self.config.full_cache
        reach = k_BxMxGxD.shape[1] if full else config.window
        mixed = attend(q, k_BxMxGxD, v_BxMxGxD, valid_BxM, first, reach=reach, theta=config.rope_theta, share=config.rope_share, rotated=config.keys_turned, seats=seats)
        mixed = rearrange(mixed, "b t h d -> b t (h d)")
        return self.out(mixed * jax.nn.sigmoid(self.gate(x_BxTxD)) if config.attention_gate else mixed)
