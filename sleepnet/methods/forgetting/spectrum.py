"""Where an increment of a matrix lies: off its principal directions, beside what chance would have; and scores of what is worth unlearning.

A *reconstruction* of MAST (arXiv 2606.19222), of which the abstract alone says that attention tensors are ranked by off-principal energy, size of the update and
coupling with the forget gradient. Letters: W what the increment ΔW is added to, m × n; W = U Σ Vᵀ; k directions; all float32.
"""
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sleepnet import adapters
from sleepnet.errors import UsageError

FACTORS = ("off_principal", "magnitude", "coupling")
_EPS = 1e-12


def directions(shape: tuple[int, int], share: float = 0.25) -> int:
    """k = ⌈share · min(m, n)⌉."""
    return math.ceil(share * min(shape))


def off_principal(weights: jax.Array, increment: jax.Array, share: float = 0.25) -> jax.Array:
    """1 − ‖U_kᵀ ΔW V_k‖² / ‖ΔW‖²: 0 where the increment lies in the k largest directions of W, 1 where none of it does, whatever its size."""
    k = directions(weights.shape, share)
    left, _, right = jnp.linalg.svd(weights, full_matrices=False)
    inside = left[:, :k].T @ increment @ right[:k].T
    return 1 - jnp.sum(inside**2) / jnp.maximum(jnp.sum(increment**2), _EPS)


def chance(shape: tuple[int, int], share: float = 0.25) -> float:
    """What `off_principal` is of a random increment, on average: 1 − k² / (m n); .94 of a square matrix at a quarter, so that it hardly ranks."""
    return 1 - directions(shape, share) ** 2 / (shape[0] * shape[1])


def magnitude(weights: jax.Array, increment: jax.Array) -> jax.Array:
    """‖ΔW‖ / ‖W‖."""
    return jnp.linalg.norm(increment) / jnp.maximum(jnp.linalg.norm(weights), _EPS)


def coupling(gradient: jax.Array, increment: jax.Array, cosine: bool = False) -> jax.Array:
    """|⟨∇_W L_forget, ΔW⟩| / ‖∇_W L_forget‖; cosine: divided by ‖ΔW‖, too, since `magnitude` would count twice else."""
    along = jnp.abs(jnp.sum(gradient * increment)) / jnp.maximum(jnp.linalg.norm(gradient), _EPS)
    return along / jnp.maximum(jnp.linalg.norm(increment), _EPS) if cosine else along


def shift(weights: jax.Array, increment: jax.Array) -> jax.Array:
    """‖σ(W + ΔW) − σ(W)‖ / ‖σ(W)‖ of the singular values, largest first."""
    before, after = (jnp.linalg.svd(matrix, compute_uv=False) for matrix in (weights, weights + increment))
    return jnp.linalg.norm(after - before) / jnp.maximum(jnp.linalg.norm(before), _EPS)


def angles(weights: jax.Array, increment: jax.Array, share: float = 0.25) -> jax.Array:
    """[k] principal angles between the k largest left directions of W and of W + ΔW, radians, smallest first."""
    k = directions(weights.shape, share)
    before, after = (jnp.linalg.svd(matrix, full_matrices=False)[0][:, :k] for matrix in (weights, weights + increment))
    return jnp.arccos(jnp.clip(jnp.linalg.svd(before.T @ after, compute_uv=False), 0.0, 1.0))


def slices(name: str, leaf: jax.Array, heads: int) -> dict[str, jax.Array]:
    """A projection cut by heads, {"NAME#head": part}: q, k and v by columns, out by rows; every other leaf is no unit, {}.

    Raises:
      UsageError: heads that do not divide it.
    """
    axis = adapters.channel_axis(name)
    if axis is None:
        return {}
    if leaf.shape[axis] % heads:
        raise UsageError(f"{name} has {leaf.shape[axis]} channels, which {heads} heads do not divide")
    return {f"{name}#{head}": part for head, part in enumerate(jnp.split(leaf, heads, axis=axis))}


def scores(before: Mapping[str, Any], after: Mapping[str, Any], gradients: Mapping[str, Any], *, share: float = 0.25, factors: tuple[str, ...] = FACTORS, ranks: bool = False, cosine: bool = False) -> dict[str, float]:
    """{unit: score}, the product of the factors, or with `ranks` the sum of a unit's ranks by each, so that no factor's scale matters.

    Args:
      before, after: {unit: matrix} of the policy before and after learning from rewards.
      gradients: {unit: matrix} of the forget set's loss at `after`.
    """
    one = {
        "off_principal": lambda w, d, g: off_principal(w, d, share), "magnitude": lambda w, d, g: magnitude(w, d), "coupling": lambda w, d, g: coupling(g, d, cosine),
    }  # fmt: skip
    found = {name: [float(one[factor](before[name], after[name] - before[name], gradients[name])) for factor in factors] for name in before}
    if not ranks:
        product = lambda values: float(jnp.prod(jnp.asarray(values)))
        return {name: product(values) for name, values in found.items()}
    places = [sorted(found, key=lambda name: found[name][i]) for i in range(len(factors))]  # noqa: B023
    return {name: float(sum(place.index(name) for place in places)) for name in found}


def top(scored: Mapping[str, float], share: float) -> list[str]:
    """The share of the units with the largest scores, at least one, largest first; of equal ones the first by name."""
    count = max(1, round(share * len(scored)))
    return sorted(scored, key=lambda name: (-scored[name], name))[:count]
