"""How a model with sparse increments reads: which of them count is chosen row by row, by what the first block says of its beginning. See `sleepnet.models.sparse`."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet.models import sparse
from sleepnet.state import KvCache


def features(model: Any, tokens_BxT: jax.Array) -> jax.Array:
    """[B, H] float32, h of each row: no increment has a say in it."""
    first = tokens_BxT[:, : model.config.sparse.reads or model.config.window]
    window, valid = model.init_state(first.shape[0]).window, model._valid(first)
    slot = window.kv_cache.valid.shape[1] - model.config.window
    cache = KvCache(window.kv_cache.keys, window.kv_cache.values, jax.lax.dynamic_update_slice_in_dim(window.kv_cache.valid, valid, slot, axis=1))
    hidden = model._advance(0, 1, model._embed(first), window.fast_weights, window.conv_tails, cache, valid, slot)[0].astype(jnp.float32)
    mean = jnp.sum(jnp.where(valid[..., None], hidden, 0.0), axis=1) / jnp.maximum(jnp.sum(valid.astype(jnp.float32), axis=1), 1.0)[:, None]
    normed = mean * jax.lax.rsqrt(jnp.mean(jnp.square(mean), axis=-1, keepdims=True) + 1e-6)
    return jnp.concatenate([normed, jnp.ones((len(first), 1))], axis=-1)


def chosen(model: Any, tokens_BxT: jax.Array) -> jax.Array:
    """[B, D] how far each day's increments count in each row; see `sparse.gate_of`."""
    leaves, config = _leaves(model)[2], model.config.sparse
    return jax.vmap(lambda h, first: sparse.gate_of(leaves, config.gate, h, first, config.told_from))(features(model, tokens_BxT), tokens_BxT[:, 0])


def under(model: Any, gate_D: jax.Array) -> Any:
    """The model with increments as one gate [D] lets them in, the same for all rows."""
    graph, params, leaves = _leaves(model)
    where = sparse.places(params, model.config.sparse.names)
    return nnx.merge(graph, sparse.beside(params, where, sparse.increment(leaves, gate_D)))


def forward(model: Any, tokens_BxT: jax.Array, **how: Any) -> tuple[jax.Array, jax.Array]:
    """`Hybrid.forward_until`, each row by its own gate: weights of its own for each row, in one product."""
    valid = how.pop("valid")

    def row(gate_D, tokens_T, valid_T):
        logits, used = under(model, gate_D).ungated_until(tokens_T[None], valid=None if valid_T is None else valid_T[None], **how)
        return logits[0], used[0]

    return jax.vmap(row)(chosen(model, tokens_BxT), tokens_BxT, valid)


def _leaves(model: Any) -> tuple[Any, Any, Any]:
    """Graph, parameters and sparse leaves."""
    graph, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    return graph, params, params[sparse.SPARSE]
