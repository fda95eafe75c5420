"""Low-rank experts beside a block's MLP, allocated at once and asleep until they are grown: memory that a model gains night by night.

After the expanding experts of Behrouz et al. (arXiv 2606.03979); that gates are independent of each other and the MLP is always on is ours: under a softmax, or
among the k largest, a newborn expert would displace older ones though it says nothing yet, and so change the model at birth.

Letters: B batch, T tokens, D width, E experts, r rank.
"""
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.mesh import gathered
from sleepnet.models.linear import matmul

_WIDE = 30.0  # sigmoid of it is 1 in float32
EXPERTS = "experts"  # of a block: where they are in the tree of parameters
Tree = dict[Any, Any]


class Experts(nnx.Module):
    """`Σ_e [born_e > 0] · sigmoid(gate_e · x + bias_e) · alpha / r · silu(x in_e) out_e` for x [B, T, D], root-mean-square normalised.

    Attributes:
      low_in: [E, D, r] float32, ~ N(0, 1 / D).
      low_out: [E, r, D] float32, 0 at first, so that an expert that is born says nothing yet.
      gate, gate_bias: [E, D] and [E] float32, 0 at first.
      born: [E] float32: 0 asleep, n the n-th that was grown. Only `grow` and `prune` change it.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        E, D, r = config.experts.count, config.width, config.experts.rank
        self.low_in = nnx.Param(jax.random.normal(rngs.params(), (E, D, r), jnp.float32) * D**-0.5)
        self.low_out = nnx.Param(jnp.zeros((E, r, D), jnp.float32))
        self.gate = nnx.Param(jnp.zeros((E, D), jnp.float32))
        self.gate_bias = nnx.Param(jnp.zeros((E,), jnp.float32))
        self.born = nnx.Param(jnp.zeros((E,), jnp.float32))
        self.scale = config.experts.alpha / r

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        E, D, r = self.low_in.shape
        whole = lambda leaf, *stored: gathered(leaf[...], (None,) * len(stored), stored).astype(x_BxTxD.dtype)
        into = jnp.moveaxis(whole(self.low_in, None, "fsdp", None), 0, 1).reshape(D, E * r)
        inner = jax.nn.silu(matmul(x_BxTxD, into)).reshape(*x_BxTxD.shape[:-1], E, r)
        gate = jax.nn.sigmoid(matmul(x_BxTxD, whole(self.gate, None, "fsdp").T) + self.gate_bias[...].astype(x_BxTxD.dtype)[None, None])
        open_ = jnp.where((self.born[...] > 0)[None, None], gate, jnp.zeros((), gate.dtype)) * jnp.asarray(self.scale, gate.dtype)
        said = (inner * open_[..., None]).reshape(*x_BxTxD.shape[:-1], E * r)
        return matmul(said, whole(self.low_out, None, None, "fsdp").reshape(E * r, D))


def grow(params: Tree, only_first: bool = False) -> Tree:
    """The parameters with the next free expert of each block born, if `only_first` where none is yet: no logit changes.

    Raises:
      UsageError: a block has none left; under `jit`, where that can't be seen, its last one born goes on.
    """
    def born(leaves: Tree) -> Tree:
        order = leaves["born"]
        free = order == 0
        if not only_first and not isinstance(order, jax.core.Tracer) and not bool(jnp.any(free)):
            raise UsageError(f"all {len(order)} experts are born: allocate more, model.experts.count")
        first = (jnp.cumsum(free.astype(jnp.int32)) == 1) & free & ~(only_first & jnp.any(order > 0))
        return {**leaves, "born": jnp.where(first, jnp.max(order) + 1, order)}

    return _changed(params, change=born)


def prune(params: Tree, number: int | jax.Array | None = None) -> Tree:
    """The parameters without the `number`-th expert that was born, all of them if None: as if it had never been, and free to be born again."""
    def gone(leaves: Tree) -> Tree:
        order = leaves["born"]
        out = order > 0 if number is None else order == number
        blank = lambda name: jnp.where(out.reshape(-1, *(1,) * (leaves[name].ndim - 1)), jnp.zeros((), leaves[name].dtype), leaves[name])
        return {**leaves, **{name: blank(name) for name in ("low_out", "gate", "gate_bias", "born")}}

    return _changed(params, change=gone)


def without_newest(params: Tree) -> Tree:
    """The model before its newest expert was grown, bit for bit, whatever that one has learnt since."""
    return _changed(params, change=lambda leaves: {**leaves, "born": jnp.where(newest(leaves), 0.0, leaves["born"])})


def one_open(params: Tree, key: jax.Array) -> Tree:
    """The parameters with one born expert of each block, drawn at random for each, wide open: its gate 1 whatever is read. None where all are asleep."""
    block = itertools.count()

    def opened(leaves: Tree) -> Tree:
        born = leaves["born"] > 0
        chance = jax.random.uniform(jax.random.fold_in(key, next(block)), born.shape)
        one = born & (jnp.arange(len(born), dtype=jnp.int32) == jnp.argmax(jnp.where(born, chance, -1.0)))
        return {**leaves, "gate": jnp.where(one[:, None], 0.0, leaves["gate"]), "gate_bias": jnp.where(one, _WIDE, leaves["gate_bias"])}

    return _changed(params, change=opened)


def newest(leaves: Tree) -> jax.Array:
    """[E] bool: the expert that was born last, none where all are asleep. `leaves`: of one block's experts."""
    return (leaves["born"] > 0) & (leaves["born"] == jnp.max(leaves["born"]))


def left(params: Tree) -> int | None:
    """How many experts of each block can still be born, the least of all blocks; None of a model without experts."""
    counts: list[int] = []
    _changed(params, change=lambda leaves: (counts.append(int(jnp.sum(leaves["born"] == 0))), leaves)[1])
    return min(counts) if counts else None


def only_newest(params: Tree) -> Tree:
    """The parameters; of those of experts a gradient goes to the newest alone, and to none of `born`."""
    def cut(leaves: Tree) -> Tree:
        one = newest(leaves)
        kept = lambda leaf: jnp.where(one.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jax.lax.stop_gradient(leaf))
        return {name: jax.lax.stop_gradient(leaf) if name == "born" else kept(leaf) for name, leaf in leaves.items()}

    return _changed(params, change=cut)


def moved(before: Tree, after: Tree, newest_alone: bool) -> Tree:
    """`after`, whatever an optimiser made of it, with `born` as it was; or with every expert but the newest as it was, bit for bit."""
    def chosen(new: Tree, old: Tree) -> Tree:
        if not newest_alone:
            return {name: old[name] if name == "born" else leaf for name, leaf in new.items()}
        one = newest(old)
        return {name: leaf if name == "born" else jnp.where(one.reshape(-1, *(1,) * (leaf.ndim - 1)), new[name], leaf) for name, leaf in old.items()}

    return _changed(after, before, change=chosen)


def _changed(tree: Tree, *before: Tree, change: Callable[..., Tree]) -> Tree:
    """The tree with `change(leaves, those before)` in place of each block's experts."""
    if not isinstance(tree, dict):
        return tree
    return {key: (change if key == EXPERTS else functools.partial(_changed, change=change))(value, *(other[key] for other in before)) for key, value in tree.items()}
