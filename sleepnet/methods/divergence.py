"""How far a student's law is from its teacher's: the generalised Jensen–Shannon divergence of Agarwal et al. (arXiv 2306.13649)."""
import math

import jax
import jax.numpy as jnp


def generalised(teacher: jax.Array, student: jax.Array, beta: float) -> jax.Array:
    """D(p ‖ q) of laws p of the teacher and q of the student over a vocabulary.

    beta = 0: KL(p ‖ q), forward. beta = 1: KL(q ‖ p), reverse. Between: β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q, which divided by β goes to the
    forward one as β → 0, divided by 1 − β to the reverse one as β → 1.

    Args:
      teacher, student: [..., V] float32 log-probabilities, all finite.
      beta: from 0 to 1, static.

    Returns:
      [...] float32, at least 0 but for rounding; 0 where both are equal.
    """
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixed = jnp.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixed) + (1 - beta) * _kl(student, mixed)


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)
