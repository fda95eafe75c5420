"""Low-rank increments that learn within a step and are gone behind it: copies of a model, isolated from each other and from the model itself.

The model's own parameters are an argument of these functions and nothing of them is given back. Letters: K copies, r rank.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sleepnet import adapters
from sleepnet.config import AdaptersConfig

MLP = r"\.mlp\.(gate|up|down)\.kernel$"


def born(params: Any, rank: int, names: str = MLP) -> tuple[Any, Callable[[Any], Any]]:
    """Factors A [in, r] and B [r, out] of each matrix whose dotted name matches, B = 0, A the same for all copies; and what makes the parameters, W + A B, of them."""
    config = AdaptersConfig(kind="low_rank", names=names, rank=rank, alpha=float(rank))
    factors, frozen = adapters.split(config, params, 0)
    return factors, lambda factors: adapters.whole(config, factors, frozen)


def learnt(loss: Callable[[Any], jax.Array], factors: Any, optimizer: optax.GradientTransformation, steps: int) -> Any:
    """The factors behind so many steps down `loss`, a float32 scalar of factors."""

    def one(carry, _):
        factors, state = carry
        updates, state = optimizer.update(jax.grad(loss)(factors), state, factors)
        return (optax.apply_updates(factors, updates), state), None

    return jax.lax.scan(one, (factors, optimizer.init(factors)), None, length=steps)[0][0]


def each_learnt(loss: Callable[[Any, Any], jax.Array], factors: Any, given: Any, optimizer: optax.GradientTransformation, steps: int) -> Any:
    """The factors of K copies, [K, …] each, that begin alike and learn side by side: copy k from `loss(factors, given's k-th)` alone; leaves of `given` are [K, …]."""
    return jax.vmap(lambda mine: learnt(lambda factors: loss(factors, mine), factors, optimizer, steps))(given)


def best_and_lucky(key: jax.Array, value: jax.Array, best: int, lucky: int) -> jax.Array:
    """Numbers of the `best` of largest `value` [m], float32, and of as many more as `lucky` says, drawn among the others: int32 [best + lucky], none twice."""
    first = jax.lax.top_k(value, best)[1]
    chance = jax.random.uniform(key, value.shape).at[first].set(-1.0)
    return jnp.concatenate([first, jax.lax.top_k(chance, lucky)[1]])
