"""Advantages: by how much what was done was better than what it is compared with. Pure functions, none of them with a gradient.

Letters: B prompts, G continuations of each, S steps of one, T tokens. Scores are float32. `counted` [B, G] bool: which continuations count; the others neither
enter a mean nor have an advantage.
"""
import jax
import jax.numpy as jnp

_EPS = 1e-6  # beside a standard deviation, as in the authors' code


def group_normalised(scores: jax.Array, counted: jax.Array, scale: str = "std") -> jax.Array:
    """A_i = (s_i − mean_G s) / (std_G s + 1e-6), [B, G]; the deviation is that of a sample (n − 1). scale="none": not divided (arXiv 2503.20783)."""
    mean = _mean(scores, counted)
    apart = jnp.where(counted, scores - mean, 0.0)
    if scale == "none":
        return apart
    n = jnp.sum(counted.astype(jnp.float32), axis=1, keepdims=True)
    std = jnp.sqrt(jnp.sum(apart**2, axis=1, keepdims=True) / jnp.maximum(n - 1, 1.0))
    return apart / (std + _EPS)


def leave_one_out(scores: jax.Array, counted: jax.Array) -> jax.Array:
    """A_i = s_i − the mean of the group's others, [B, G]: unbiased; 0 of one that is alone."""
    n = jnp.sum(counted.astype(jnp.float32), axis=1, keepdims=True)
    total = jnp.sum(jnp.where(counted, scores, 0.0), axis=1, keepdims=True)
    others = (total - scores) / jnp.maximum(n - 1, 1.0)
    return jnp.where(counted & (n > 1), scores - others, 0.0)


def step_differences(scores: jax.Array, steps: jax.Array, single: str = "formula") -> jax.Array:
    """A_t = s_t − s_{t−1} for t > 1 and A_1 = s_1 − s_S, [B, G, S]: they add up to 0 over a continuation's steps.

    So all steps together say nothing of how it ended, and the first of one that ends better than it began is blamed (ours to point out; both are as published).

    Args:
      scores: [B, G, S], of each step.
      steps: [B, G] int32, how many steps there are; what stands behind them is not looked at.
      single: of a continuation of one step A_1 is 0 by the formula, s_1 in the authors' "code".
    """
    there = _there(scores, steps)
    first = scores[..., :1] - _last(scores, steps)
    apart = jnp.concatenate([first, scores[..., 1:] - scores[..., :-1]], axis=-1)
    if single == "code":
        apart = jnp.where(steps[..., None] == 1, scores, apart)
    return jnp.where(there, apart, 0.0)


def end_differences(scores: jax.Array, steps: jax.Array) -> jax.Array:
    """A_t = s_t − s_S, [B, G, S]; arguments as `step_differences`."""
    there = _there(scores, steps)
    return jnp.where(there, scores - _last(scores, steps), 0.0)


def batch_centred(scores: jax.Array, counted: jax.Array, weights: jax.Array, steps: jax.Array) -> jax.Array:
    """A_t = s_t − the batch's mean over continuations of each one's mean over tokens, [B, G, S]; `weights` [B, G, S]: tokens of each step."""
    means = _token_means(scores, weights)
    mean = jnp.sum(jnp.where(counted, means, 0.0)) / jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1.0)
    return _centred(scores, jnp.full_like(means, mean), counted, steps)


def group_centred(scores: jax.Array, counted: jax.Array, weights: jax.Array, steps: jax.Array) -> jax.Array:
    """As `batch_centred`, with the mean of a prompt's own group."""
    return _centred(scores, jnp.broadcast_to(_mean(_token_means(scores, weights), counted), counted.shape), counted, steps)


def two_branches(without: jax.Array, with_hint: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Whether to act, and how well it was done, told apart (a reconstruction of Mem-π, arXiv 2605.21463).

    Args:
      without: r_0, [B], of the branch that abstains.
      with_hint: r_1 … r_G, [B, G], costs taken off.

    Returns:
      gain: Δ = mean_j r_j − r_0, [B].
      generate, abstain: A_GEN = Δ / (2 σ + 1e-6) = −A_ABS, [B] each; σ the deviation of {r_0, r_1 … r_G}.
      content: A_j = 1[Δ > 0] (r_j − mean) / (σ_GEN + 1e-6), [B, G].
    """
    mean = _mean(with_hint, jnp.ones_like(with_hint, bool))[:, 0]
    gain = mean - without
    every = jnp.concatenate([without[:, None], with_hint], axis=1)
    generate = gain / (2 * jnp.std(every, axis=1) + _EPS)
    content = jnp.where(gain[:, None] > 0, (with_hint - mean[:, None]) / (jnp.std(with_hint, axis=1, keepdims=True) + _EPS), 0.0)
    return gain, generate, -generate, content


def by_token(of_steps: jax.Array, step: jax.Array) -> jax.Array:
    """[B, G, T]: to each token what its step has; `step` [B, G, T] int32, its number."""
    return jnp.take_along_axis(of_steps, jnp.minimum(step, of_steps.shape[-1] - 1), axis=-1)


def _mean(scores, counted):
    n = jnp.sum(counted.astype(jnp.float32), axis=1, keepdims=True)
    most = jnp.max(jnp.where(counted, scores, -jnp.inf), axis=1, keepdims=True)
    most = jnp.where(n > 0, most, 0.0)
    # of scores that are all alike it is exactly these: rounding, divided by a deviation of 0, is an advantage
    return most + jnp.sum(jnp.where(counted, scores - most, 0.0), axis=1, keepdims=True) / jnp.maximum(n, 1.0)


def _there(scores, steps):
    return jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) < steps[..., None]


def _last(scores, steps):
    return jnp.take_along_axis(scores, jnp.maximum(steps - 1, 0)[..., None], axis=-1)


def _token_means(scores, weights):
    return jnp.sum(scores * weights, axis=-1) / jnp.maximum(jnp.sum(weights, axis=-1), 1.0)


def _centred(scores, mean, counted, steps):
    there = _there(scores, steps) & counted[..., None]
    return jnp.where(there, scores - mean[..., None], 0.0)
