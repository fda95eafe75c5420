"""Rewards as pure functions, none of them with a gradient; and what is done to each so that it tells nothing.

    exact, levenshtein            of what was said and a reference
    grades, smooth                what a judge says, 1 … 5, as a score from 0 to 1; milestones for it: `sleepnet.methods.rl.judge`
    noisy                         a judge who errs
    length_cost                   what saying it cost
    wrong_reference               the reference of another row: a control of every reward that has one
    random_reward                 the rewards of the batch, dealt anew: a control of every one

Letters: B rows, G things said for each, n tokens of one, m tokens of a reference.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# shares of judgements that were wrong in the paper (ExpRL, arXiv 2606.17024): (false positive + false negative rate) / 2 with the reference, without one, with a wrong one
MISPLACED = {"reference": 0.178, "none": 0.392, "wrong": 0.504}
MAPS = {
    "smooth": (0.0, 0.25, 0.5, 0.75, 1.0),  # (s − 1) / 4
    "extremes": (0.0, 0.0, 0.0, 0.0, 1.0),
    "four_counts": (0.0, 0.0, 0.0, 1.0, 1.0),
    "four_most": (0.0, 0.0, 0.0, 0.8, 1.0),
}


def exact(said: jax.Array, reference: jax.Array) -> jax.Array:
    """1 where all n tokens are right, [B, G] float32; said [B, G, n], reference [B, n]."""
    return jnp.all(said == reference[:, None], axis=-1).astype(jnp.float32)


def edit_distance(said: jax.Array, said_length: jax.Array, reference: jax.Array, reference_length: jax.Array) -> jax.Array:
    """Fewest tokens to put in, take out or replace so that one becomes the other (Levenshtein), int32 [...].

    Args:
      said, reference: int32 [..., n] and [..., m], the same leading axes; what stands behind the lengths is not looked at.
      said_length, reference_length: int32 [...].
    """
    shape = (*reference.shape[:-1], reference.shape[-1] + 1)
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)

    def row(before, given):
        token, at = given  # the at-th token, counted from 1
        replaced = before[..., :-1] + (token[..., None] != reference).astype(jnp.int32)
        least = jnp.minimum(before[..., 1:] + 1, replaced)
        begun = jnp.concatenate([jnp.broadcast_to(at, (*least.shape[:-1], 1)), least], axis=-1)
        after = columns + jax.lax.cummin(begun - columns, axis=begun.ndim - 1)  # what is put in costs 1 a column
        return jnp.where((at <= said_length)[..., None], after, before), None

    tokens = jnp.moveaxis(said, -1, 0)
    last, _ = jax.lax.scan(row, columns, (tokens, jnp.arange(1, len(tokens) + 1, dtype=jnp.int32)))
    return jnp.take_along_axis(last, reference_length[..., None], axis=-1)[..., 0]


def levenshtein(said: jax.Array, said_length: jax.Array, reference: jax.Array, reference_length: jax.Array) -> jax.Array:
    """1 − distance / length of the longer, [B, G] float32: 1 where they are equal, 0 where they share nothing; said [B, G, n], reference [B, m]."""
    group = said.shape[1]
    each = lambda values: jnp.repeat(values[:, None], group, axis=1)
    reference, reference_length = each(reference), each(reference_length)
    longest = jnp.maximum(jnp.maximum(said_length, reference_length), 1)
    return 1 - edit_distance(said, said_length, reference, reference_length).astype(jnp.float32) / longest.astype(jnp.float32)


def grades(share: jax.Array, right: jax.Array) -> jax.Array:
    """A judge's 1 … 5, int32: 1 where no milestone is there; 2 below a third of them; 3 below two thirds; 5 where all are and the answer is right; else 4.

    Args:
      share: of a reference's milestones, float32 [...].
      right: whether the answer is, bool [...].
    """
    third = 1 / 3 - 1e-6  # a third is none below a third
    grade = 1 + (share > 0).astype(jnp.int32) + (share >= third).astype(jnp.int32) + (share >= 2 * third).astype(jnp.int32)
    return jnp.where((share > 1 - 1e-6) & right, 5, jnp.minimum(grade, 4))


def score(grade: jax.Array, how: str = "smooth") -> jax.Array:
    """A grade 1 … 5 as a score, float32, by one of `MAPS`."""
    return jnp.asarray(MAPS[how], jnp.float32)[grade - 1]


def noisy(key: jax.Array, grade: jax.Array, share: float) -> jax.Array:
    """With probability `share` a grade of 1 … 5 drawn evenly instead, independently; int32 as `grade`. share=0: the grades themselves."""
    if not share:
        return grade
    which, what = jax.random.split(key)
    return jnp.where(jax.random.uniform(which, grade.shape) < share, jax.random.randint(what, grade.shape, 1, 6, jnp.int32), grade)


def noise_of(misplaced: float) -> float:
    """The share of drawn grades at which so many judgements are wrong, of a judge who is else right: a drawn grade says "right" (4 or 5) two times of five,
    so (false positives + false negatives) / 2 is half the share. No noise gets beyond ½: all grades are drawn there."""
    return min(1.0, 2 * misplaced)


def misplaced(told: jax.Array, true: jax.Array, counted: jax.Array) -> jax.Array:
    """(False positive + false negative rate) / 2 of grades against true ones, at least 4 being positive; a rate of nothing is 0. float32 scalar."""
    yes, truly = told >= 4, true >= 4
    rate = lambda wrong, of: jnp.sum((wrong & of & counted).astype(jnp.float32)) / jnp.maximum(jnp.sum((of & counted).astype(jnp.float32)), 1.0)
    return (rate(yes, ~truly) + rate(~yes, truly)) / 2


def length_cost(lengths: jax.Array, cost: float) -> jax.Array:
    """−cost · tokens, float32."""
    return -cost * lengths.astype(jnp.float32)


def wrong_reference(reference: Any) -> Any:
    """Each row's reference is that of the batch's next row: a tree of arrays [B, …], B at least 2."""
    return jax.tree.map(lambda values: jnp.roll(values, -1, axis=0), reference)


def random_reward(key: jax.Array, rewards: jax.Array) -> jax.Array:
    """The batch's rewards in an order drawn anew: each is still one that was given, and says nothing of what it is given for."""
    return jax.random.permutation(key, rewards.reshape(-1)).reshape(rewards.shape)


def drawn_anew(key: jax.Array, values: jax.Array, counted: jax.Array) -> jax.Array:
    """As `random_reward` of values of which only those `counted` (bool, at least one) are any: each is drawn from these, whatever its place."""
    pool = jnp.where(counted.reshape(-1), 0.0, -jnp.inf)
    return values.reshape(-1)[jax.random.categorical(key, pool, shape=values.shape)]


def controlled(reward: Callable[..., jax.Array], control: str) -> Callable[..., jax.Array]:
    """`reward(reference, …)` as a control has it: "wrong_reference" or "random_reward", which is called with a key first; "": itself."""
    if control == "wrong_reference":
        return lambda reference, *given: reward(wrong_reference(reference), *given)
    if control == "random_reward":
        return lambda key, reference, *given: random_reward(key, reward(reference, *given))
    return reward
