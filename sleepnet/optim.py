"""Muon on the matrices of the blocks, AdamW on the rest, warm-up, constant, linear decay."""
import jax
import jax.numpy as jnp
import optax
from optax import contrib

from sleepnet.config import OptimConfig

ITERATIONS = 5  # of Newton-Schulz
SMALLEST_MATRIX = 8  # narrower ones (the gates' projections) have no spectrum worth equalising


def phases(config: OptimConfig, steps: int) -> tuple[int, int]:
    """Of a run of so many steps: the steps of its warm-up, and the step before which no rate falls."""
    warmup = min(config.warmup, steps)
    return warmup, steps - min(int(round(config.decay * steps)), steps - warmup)


def alike(config: OptimConfig, one: int, other: int) -> int:
    """How many steps have the same rates in runs of `one` and of `other` steps."""
    (warmup, falls), (others_warmup, others_falls) = phases(config, one), phases(config, other)
    if warmup != others_warmup:
        return 0
    return min(one, other) if config.final == 1 else min(falls, others_falls)


def schedule(peak: float, config: OptimConfig, steps: int) -> optax.Schedule:
    """0 → peak over `warmup` steps, constant, then linearly to `final · peak` over the last `decay · steps`."""
    warmup, falls = phases(config, steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1)),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, peak * config.final, max(steps - falls, 1)),
        ],
        [warmup, falls],
    )


def matrices(params) -> object:
    """Muon's dimension numbers for each matrix inside a block; None for embeddings, head, norms, gates, convolutions and what adapts a matrix: factors of one are none."""

    def numbers(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        matrix = "blocks" in name and name.endswith("kernel") and leaf.ndim == 2 and min(leaf.shape) >= SMALLEST_MATRIX
        return contrib.MuonDimensionNumbers() if matrix else None

    return jax.tree_util.tree_map_with_path(numbers, params)


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The whole update rule for a run of `steps` steps.

    Muon's update has the shape factor √max(1, out/in) of its authors; its rate is `learning_rate`, AdamW's `adam_rate`.
    """
    muon = contrib.muon(
        schedule(config.learning_rate, config, steps),
        ns_steps=ITERATIONS,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        adam_learning_rate=schedule(config.adam_rate, config, steps),
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=matrices,
    )
    muon = _in_a_loop(muon)
    return optax.chain(optax.clip_by_global_norm(config.clip), muon) if config.clip else muon


def _in_a_loop(muon: optax.GradientTransformation) -> optax.GradientTransformation:
    """`muon` with its Newton-Schulz iterations as a loop: a fifth to compile, the same numbers, the same state.

    Optax unrolls them where one row of coefficients serves all, and loops where each iteration has a row of its own.
    """
    is_muon = lambda leaf: isinstance(leaf, contrib.MuonState)
    rows = lambda change: lambda state: jax.tree.map(lambda leaf: leaf._replace(ns_coeffs=change(leaf.ns_coeffs)) if is_muon(leaf) else leaf, state, is_leaf=is_muon)
    spread, gather = rows(lambda one: jnp.broadcast_to(one, (ITERATIONS, *one.shape))), rows(lambda all_: all_[0])

    def update(updates, state, params=None):
        updates, state = muon.update(updates, spread(state), params)
        return updates, gather(state)

    return optax.GradientTransformation(muon.init, update)
