"""What may change: a model's parameters cut in two before any gradient is taken, the trainable ones and the frozen rest, and put together again.

    kind       trainable                                   frozen
    all        the parameters                              nothing
    named      those whose dotted name matches             the others
    entries    [k] values of each of these, "entries"      the parameters, and where the values belong
    newest_expert  all experts, of which only the one born last gets a gradient and moves; see `sleepnet.models.experts`
    sparse     the sparse increments and their gate, of which only what is open today gets a gradient and moves; see `sleepnet.models.sparse`
    heads      those projections whose name matches; W      the parameters, and which channels
               acts as it was but for chosen channels
    low_rank   A [in, r] and B [r, out] of each matrix     the parameters; W acts as W + alpha / r · A B, B = 0 at first (Hu et al., arXiv 2106.09685)
               and, whole, what `also` names               (of these: as they were)

The optimiser sees the trainable tree alone: what is frozen has no state and gets no gradient, and no update can touch a bit of it. (Masked optimisers
do: `optax.masked` passes raw gradients on, `optax.selective_transform` turns −0.0 into +0.0.) The cut is made in weight space, by name, so that no
model, remat, scan or kernel knows of it; that W + A B is formed whole costs as much as reading W once more. FLOPs are told as if all were trained, which
is more than is spent: no weight's gradient is made of what is frozen, and nothing is differentiated below the first block that changes; of whole blocks
`sleepnet.models.flops.adapted_flops` tells what is.
"""
import dataclasses
import difflib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet import seeds
from sleepnet.config import AdaptersConfig
from sleepnet.errors import UsageError
from sleepnet.models import experts, sparse

Tree = dict[Any, Any]

# last parts of names of leaves that take a parameter's place in the trainable tree
LOW_RANK, ENTRIES = ("low_rank_a", "low_rank_b"), "entries"
_PROJECTION = re.compile(r"\.mixer\.(q|k|v|out)\.kernel$")
_BESIDE = {"newest_expert": rf"(^|\.){experts.EXPERTS}\.", "sparse": rf"^{sparse.SPARSE}\."}


def split(config: AdaptersConfig, params: Tree, seed: int, channels: Mapping[str, np.ndarray] | None = None) -> tuple[Tree, Tree]:
    """(trainable, frozen) of whole parameters, nested dicts of float32 arrays; `seed` draws A, and which entries.

    `channels`: of kind heads, a projection's name → which of its channels change, bool as `head_channels` makes them; none of one that is not there; None: all.

    Raises:
      UsageError: `adapters.names` matches nothing that can change so, or a rank is larger than a matrix.
    """
    if config.kind == "all":
        return params, {}
    config = _by_name(config)
    chosen = check(config, params)
    if config.kind == "named":
        return _made(chosen, lambda name, leaf: leaf), _made([each for each in _leaves(params) if not re.search(config.names, each[1])], lambda name, leaf: leaf)
    if config.kind == "entries":
        places = _made(chosen, lambda name, leaf: _places(seed, name, leaf.size, config.share))
        values = _made(chosen, lambda name, leaf: {ENTRIES: jnp.reshape(leaf, -1)[_places(seed, name, leaf.size, config.share)]})
        return values, {"parameters": params, "places": places}
    if config.kind == "heads":
        of = lambda name, leaf: jnp.asarray((channels or {}).get(name, np.full(_channels(name, leaf.shape), channels is None)))
        return _made(chosen, lambda name, leaf: leaf), {"parameters": params, "channels": _made(chosen, of)}
    factors = _made(chosen, lambda name, leaf: _factors(seed, name, leaf.shape, config.rank))
    return _joined(factors, _made(_also(config, params), lambda name, leaf: leaf)), {"parameters": params}


def check(config: AdaptersConfig, params: Tree) -> list[tuple[tuple, str, Any]]:
    """(keys, dotted name, leaf) of what is adapted, of parameters or of their shapes; [] where all changes.

    Raises:
      UsageError: as `split`; names the nearest name, of a parameter or of what holds some.
    """
    if config.kind == "all":
        return []
    config = _by_name(config)
    beside = {name for _, name, _ in _also(config, params)}
    fit = {"low_rank": lambda name, leaf: leaf.ndim == 2 and name not in beside, "heads": lambda name, leaf: channel_axis(name) is not None}.get(config.kind, lambda name, leaf: True)
    able = [each for each in _leaves(params) if fit(*each[1:])]
    chosen = [each for each in able if re.search(config.names, each[1])]
    if not chosen:
        parts = [name.split(".") for _, name, _ in able]
        known = dict.fromkeys(".".join(words[:k]) for words in parts for k in range(1, len(words) + 1))
        plain = re.sub(r"[\\^$()]", "", config.names)
        close = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
        told = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; they are called {', '.join('.'.join(words) for words in parts[:4])}, …"
        raise UsageError(f"adapters.names={config.names!r} matches no {dict(low_rank='matrix', heads='projection of a mixer').get(config.kind, 'parameter')} of the model{told}")
    for _, name, leaf in chosen if config.kind == "low_rank" else ():
        if config.rank > min(leaf.shape):
            raise UsageError(f"adapters.rank={config.rank} is more than {name} has, {tuple(leaf.shape)}: set it to {min(leaf.shape)} or less, or adapters.kind to 'named'")
    return chosen


def _also(config: AdaptersConfig, params: Tree) -> list[tuple[tuple, str, Any]]:
    """What changes whole beside the factors."""
    found = [each for each in _leaves(params) if config.also and re.search(config.also, each[1])]
    if config.also and not found:
        raise UsageError(f"adapters.also={config.also!r} matches no parameter of the model; leave it empty, or name one such as 'block_tokens'")
    return found


def whole(config: AdaptersConfig, trainable: Tree, frozen: Tree) -> Tree:
    """The model's parameters: inverse of `split`, for any values of the trainable tree. Differentiable with respect to it."""
    if config.kind == "all":
        return trainable
    if config.kind == "named":
        return _joined(trainable, frozen)
    if config.kind == "newest_expert":
        return _joined(experts.only_newest(trainable), frozen)
    if config.kind == "sparse":
        return _joined(sparse.only_open(trainable), frozen)
    if config.kind == "entries":
        put = lambda leaf, at, new: jnp.reshape(leaf, -1).at[at].set(new[ENTRIES], unique_indices=True, indices_are_sorted=True).reshape(leaf.shape)
        return _replaced(frozen["parameters"], lambda leaf, *path: put(leaf, _at(frozen["places"], path), _at(trainable, path)), trainable)
    if config.kind == "heads":
        pick = lambda name, leaf, at, new: jnp.where(at[:, None] if channel_axis(name) == 0 else at, new, leaf)
        return _replaced(frozen["parameters"], lambda leaf, *path: pick(".".join(map(str, path)), leaf, _at(frozen["channels"], path), _at(trainable, path)), trainable)
    scale = config.alpha / config.rank
    product = lambda new: jnp.matmul(*(new[part] for part in LOW_RANK), precision=jax.lax.Precision.HIGHEST)
    beside = lambda leaf, new: leaf + jnp.asarray(scale, leaf.dtype) * product(new) if isinstance(new, dict) else new
    return _replaced(frozen["parameters"], lambda leaf, *path: beside(leaf, _at(trainable, path)), trainable)


def moved(config: AdaptersConfig, before: Tree, after: Tree) -> Tree:
    """The trainable tree after an update, what of it may not change as it was."""
    return sparse.moved(before, experts.moved(before, after, newest_alone=config.kind == "newest_expert"))


def channel_axis(name: str) -> int | None:
    """Along which axis heads lie of a mixer's projection: 1 of q, k and v, 0 of out; None of any other parameter."""
    found = _PROJECTION.search(name)
    return None if found is None else int(found[1] != "out")


def head_channels(slices: Iterable[str], heads: int, params: Tree) -> dict[str, np.ndarray]:
    """A projection's name → which of its channels these heads' slices, "NAME#head", are: a bool each."""
    found: dict[str, np.ndarray] = {}
    size = {name: _channels(name, leaf.shape) for _, name, leaf in _leaves(params) if channel_axis(name) is not None}
    for each in slices:
        name, _, head = each.rpartition("#")
        of_head = np.arange(size[name]) * heads // size[name] == int(head)
        found[name] = found.get(name, np.zeros(size[name], bool)) | of_head
    return found


def _channels(name: str, shape: tuple[int, ...]) -> int:
    return shape[channel_axis(name)]


def base_name(name: str) -> tuple[str, str]:
    """(name of the parameter, what of an adapter it is: "" for the parameter itself) of a leaf of the trainable tree."""
    base, _, last = name.rpartition(".")
    return (base, last) if last in (*LOW_RANK, ENTRIES) else (name, "")


def _by_name(config: AdaptersConfig) -> AdaptersConfig:
    """What changes by its name; of experts and increments all, since which of them may move changes as a run goes on."""
    return dataclasses.replace(config, kind="named", names=_BESIDE[config.kind]) if config.kind in _BESIDE else config


def _leaves(tree: Tree) -> Iterator[tuple[tuple, str, Any]]:
    """(keys, dotted name, leaf) in tree order."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(key.key for key in path), jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _made(chosen: list, make: Callable[[str, Any], Any]) -> Tree:
    """Nested dicts with `make(name, leaf)` at the place of each chosen leaf."""
    tree: Tree = {}
    for path, name, leaf in chosen:
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = make(name, leaf)
    return tree


def _at(tree: Tree, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _joined(one: Tree, other: Tree) -> Tree:
    """Two trees without a common leaf as one."""
    both = lambda a, b: _joined(a, b) if isinstance(a, dict) and isinstance(b, dict) else a
    return {key: both(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key)) for key in sorted({**one, **other}, key=_order)}


def _order(key: Any) -> tuple[bool, Any]:
    return isinstance(key, str), key


def _replaced(tree: Tree, change: Callable[..., Any], where: Tree, path: tuple = ()) -> Tree:
    """`tree` with `change(leaf, *keys)` in place of each leaf that `where` has something for."""
    if not isinstance(tree, dict):
        return change(tree, *path)
    return {key: _replaced(value, change, where[key], (*path, key)) if key in where else value for key, value in tree.items()}


def _places(seed: int, name: str, size: int, share: float) -> np.ndarray:
    """Ascending numbers of a share of a parameter's entries, at least one: a function of (seed, name)."""
    count = max(1, round(share * size))
    return np.sort(np.random.default_rng((seed, zlib.crc32(name.encode()))).choice(size, count, replace=False)).astype(np.int32)


def _factors(seed: int, name: str, shape: tuple[int, int], rank: int) -> dict[str, jax.Array]:
    """A ~ N(0, 1 / in), of (seed, name) alone, and B = 0."""
    key = jax.random.fold_in(seeds.key(seed), zlib.crc32(name.encode()))
    return dict(zip(LOW_RANK, (jax.random.normal(key, (shape[0], rank), jnp.float32) / np.float32(np.sqrt(shape[0])), jnp.zeros((rank, shape[1]), jnp.float32))))
