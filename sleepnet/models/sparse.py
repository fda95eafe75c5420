"""Sparse increments of a model's own matrices, shared by all skills or unique to one, and one gate that chooses (after the abstract of SETA, arXiv 2606.07500).

    W(x) = W_0 + Δ · [owner = shared] + Σ_d g_d(x) Δ · [owner = d],    g(x) = gate of h(x), over the days that were learnt

Every entry has one owner at most, so one array Δ holds the shared and all unique increments. h(x) is the root-mean-square normalised mean over the first window,
or the first `reads` tokens, of what the first block gives in the model without increments, which nothing moves; a 1 behind it is the gate's bias. How the paper's
masks and gates are made is not known: all of it is a reconstruction. Letters: D days, n entries of all adapted matrices, H width + 1, B rows, T tokens.
"""
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet.errors import UsageError

SPARSE = "sparse"  # of a model: where they are in the tree of parameters
NOBODY, SHARED = 0, -1  # owners; d from 1 on: the day that the entry is unique to
GATES = ("top1", "soft", "uniform", "told")
Tree = dict[Any, Any]


class Sparse(nnx.Module):
    """What a model has beside its own parameters; all float32.

    Attributes:
      delta: [n] the increments, 0 at first.
      owner: [n] NOBODY, SHARED, or the day from 1 on.
      open: of each matrix [its entries], together [n]: 1 where today may move the increment, else 0.
      gate: [D, H] of which day d is scored, 0 at first.
      mean, variance: [D, H] of the gate's features on each day.
      seen: [] days that were learnt, today's among them.
      overlap, chance: [D] what share of a day's entries had an owner before, and what was to be expected of as many anywhere.
    """

    def __init__(self, days: int, sizes: list[int], width: int):
        zeros = lambda *shape: nnx.Param(jnp.zeros(shape, jnp.float32))
        self.delta, self.owner, self.open = zeros(sum(sizes)), zeros(sum(sizes)), nnx.List([zeros(size) for size in sizes])
        self.gate, self.mean, self.variance = zeros(days, width + 1), zeros(days, width + 1), zeros(days, width + 1)
        self.seen, self.overlap, self.chance = zeros(), zeros(days), zeros(days)


def places(params: Tree, names: str) -> list[tuple[tuple, tuple[int, int], int, int]]:
    """(keys, shape, first, behind the last) of each matrix whose dotted name matches, in the vector of entries.

    Raises:
      UsageError: there is none.
    """
    found, at = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path({key: value for key, value in params.items() if key != SPARSE}):
        if leaf.ndim == 2 and re.search(names, jax.tree_util.keystr(path, simple=True, separator=".")):
            found.append((tuple(key.key for key in path), leaf.shape, at, at := at + leaf.size))
    if not found:
        raise UsageError(f"model.sparse.names={names!r} matches no matrix of the model: name some such as 'mlp.up.kernel'")
    return found


def vector(params: Tree, where: list) -> jax.Array:
    """[n] the model's own entries at `places`."""
    def at(keys):
        leaf = params
        for key in keys:
            leaf = leaf[key]
        return leaf

    return jnp.concatenate([jnp.reshape(at(keys), -1) for keys, *_ in where])


def beside(params: Tree, where: list, added: jax.Array) -> Tree:
    """The parameters with the vector `added` [n] on top of their entries at `places`."""
    def put(tree, keys, more):
        return {**tree, keys[0]: put(tree[keys[0]], keys[1:], more) if len(keys) > 1 else tree[keys[0]] + more}

    for keys, shape, first, last in where:
        params = put(params, keys, added[first:last].reshape(shape))
    return params


def increment(leaves: Tree, gate_D: jax.Array) -> jax.Array:
    """[n] what is on top where the gate says [D]: shared entries whole, those of day d as far as it is open."""
    share = jnp.concatenate([jnp.zeros((1,)), gate_D, jnp.ones((1,))])  # the last: of SHARED, which counts from the end
    return leaves["delta"] * share[leaves["owner"].astype(jnp.int32)]


def gate_of(leaves: Tree, kind: str, features_H: jax.Array, first_token: jax.Array, told_from: int) -> jax.Array:
    """[D] how far each day's increments count for one row: they add up to 1 over the days that were learnt and are 0 elsewhere, all 0 before the first."""
    day = jnp.arange(leaves["gate"].shape[0], dtype=jnp.int32)
    seen = day < leaves["seen"].astype(jnp.int32)
    if kind == "uniform":
        return jnp.where(seen, 1 / jnp.maximum(leaves["seen"], 1), 0.0)
    if kind == "told":
        return (seen & (day == first_token - told_from)).astype(jnp.float32)
    scores = jnp.where(seen, leaves["gate"] @ features_H, -jnp.inf)
    if kind == "top1":
        return (seen & (day == jnp.argmax(scores))).astype(jnp.float32)
    return jnp.where(jnp.any(seen), jax.nn.softmax(scores, where=seen), 0.0)


def opened(leaves: Tree) -> jax.Array:
    """[n] bool: what may move today."""
    return jnp.concatenate([leaves["open"][matrix] for matrix in sorted(leaves["open"])]) > 0


def top_share(utility: jax.Array, sizes: list[int], share: float) -> jax.Array:
    """[n] bool: of each matrix the ⌈share · its entries⌉ of largest utility [n]; of equal ones the first."""
    masks, first = [], 0
    for size in sizes:
        masks.append(jnp.zeros((size,), bool).at[jax.lax.top_k(utility[first : first + size], math.ceil(share * size))[1]].set(True))
        first += size
    return jnp.concatenate(masks)


def overlap(mask: jax.Array, used: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(|M ∩ U| / |M|, chance |U| / n, standard deviation of chance) of boolean masks [n]; chance is of |M| entries drawn alike with replacement.

    Raises:
      UsageError: masks of different models, whose matrices differ.
    """
    if mask.shape != used.shape:
        raise UsageError(f"masks of {mask.size} and of {used.size} entries have no overlap: both must be of one model and one model.sparse.names")
    many = jnp.sum(mask.astype(jnp.float32))
    q = jnp.mean(used.astype(jnp.float32))
    return jnp.sum((mask & used).astype(jnp.float32)) / many, q, jnp.sqrt(q * (1 - q) / many)


def divided(leaves: Tree, mask: jax.Array, split: str, kappa: float) -> Tree:
    """The next day begun: who owns the entries of its mask [n] bool, and which of them may move.

    split: "overlap": entries that another day owns become shared where more of them are than chance has, by three standard deviations, and more than `kappa`; else
    they stay with it. "all_shared": all of the mask. "all_unique": none. What becomes shared takes its value along.
    """
    owner, day = leaves["owner"], leaves["seen"] + 1
    used = owner != NOBODY
    o, q, s = overlap(mask, used)
    shares = {"overlap": (o > q + 3 * s) & (o > kappa), "all_shared": jnp.ones((), bool), "all_unique": jnp.zeros((), bool)}[split]
    common = mask & (used | (split == "all_shared")) & shares
    own = mask & ~used & ~common
    at = jnp.arange(leaves["overlap"].shape[0], dtype=jnp.int32) == leaves["seen"].astype(jnp.int32)
    ends = np.cumsum([0, *(leaves["open"][matrix].size for matrix in sorted(leaves["open"]))])
    may = (common | own).astype(jnp.float32)
    return {
        **leaves,
        "owner": jnp.where(common, jnp.float32(SHARED), jnp.where(own, day, owner)),
        "open": {matrix: may[first:last] for matrix, first, last in zip(sorted(leaves["open"]), ends, ends[1:])},
        "seen": day,
        "overlap": jnp.where(at, o, leaves["overlap"]),
        "chance": jnp.where(at, q, leaves["chance"]),
    }


def only_open(params: Tree) -> Tree:
    """The parameters; of the sparse ones a gradient goes to open increments and to today's row of the gate alone."""
    leaves = params[SPARSE]
    row = _today(leaves)
    cut = lambda leaf, where: jnp.where(where, leaf, jax.lax.stop_gradient(leaf))
    kept = jax.tree.map(jax.lax.stop_gradient, leaves)
    return {**params, SPARSE: {**kept, "delta": cut(leaves["delta"], opened(leaves)), "gate": cut(leaves["gate"], row)}}


def moved(before: Tree, after: Tree) -> Tree:
    """`after`, whatever an optimiser made of it, with all that may not move as it was, bit for bit."""
    if SPARSE not in before:
        return after
    old, new = before[SPARSE], after[SPARSE]
    return {**after, SPARSE: {**old, "delta": jnp.where(opened(old), new["delta"], old["delta"]), "gate": jnp.where(_today(old), new["gate"], old["gate"])}}


def _today(leaves: Tree) -> jax.Array:
    return (jnp.arange(leaves["gate"].shape[0], dtype=jnp.int32) == leaves["seen"].astype(jnp.int32) - 1)[:, None]
