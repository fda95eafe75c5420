"""Masked cross entropy and the two accuracies: per label, and exact (a whole answer)."""
import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array, loss_mask: jax.Array, count: jax.Array | None = None, at: np.ndarray | None = None) -> jax.Array:
    """Mean of −log softmax(logits)[target] over the positions of `loss_mask`.

    Args:
      logits: [B, T, V] float32.
      targets: [B, T] int32.
      loss_mask: [B, T] bool, at least one True.
      count: float32 scalar to divide by instead of the number of positions; the losses of a batch's parts, each divided by the count of
        the whole, add up to the loss of the whole, and a part may have no position.
      at: the places, of all T, that `logits` [B, P, V] are of; every label is at one of them. None: all.
    """
    losses = everywhere(optax.softmax_cross_entropy_with_integer_labels(logits, places(targets, at)), at, targets.shape[1])
    count = jnp.sum(loss_mask.astype(jnp.float32)) if count is None else count
    return jnp.sum(jnp.where(loss_mask, losses, 0.0)) / count


def weighted_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array, count: jax.Array) -> jax.Array:
    """Σ w_t · −log softmax(logits)[target_t] / count; where w is the loss mask and count its sum, `cross_entropy` bit for bit.

    Args:
      logits: [B, T, V] float32.
      targets: [B, T] int32.
      weights: [B, T] float32, at least 0; a token of weight 0 has exactly no gradient.
      count: float32 scalar.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(jnp.where(weights > 0, weights * losses, 0.0)) / count


def places(values: jax.Array, at: np.ndarray | None) -> jax.Array:
    """[B, P] of values [B, T] at places [P]; all of them if None."""
    return values if at is None else values[:, at]


def everywhere(values: jax.Array, at: np.ndarray | None, length: int) -> jax.Array:
    """[B, T] of values [B, P] at places [P], 0 elsewhere; the values themselves if None."""
    return values if at is None else jnp.zeros((len(values), length), values.dtype).at[:, at].set(values)


def grade(logits: jax.Array, targets: jax.Array, answer: jax.Array, answers: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What was right in each answer.

    Args:
      logits: [B, T, V].
      targets: [B, T] int32.
      answer: [B, T] int32, number of the answer that a position belongs to, −1 for none.
      answers: A, answers in an example.

    Returns:
      right [B, A] int32 tokens right in each answer, tokens [B, A] int32 tokens in it, exact [B, A] bool: all right, and at least one.
    """
    return tally(jnp.argmax(logits, axis=-1).astype(jnp.int32) == targets, answer, answers)


def tally(hit: jax.Array, answer: jax.Array, answers: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`grade` of what is known to be right: `hit` [B, T] bool."""
    member = answer[:, :, None] == jnp.arange(answers, dtype=jnp.int32)[None, None, :]
    tokens = jnp.sum(member.astype(jnp.int32), axis=1)
    right = jnp.sum((member & hit[:, :, None]).astype(jnp.int32), axis=1)
    return right, tokens, (right == tokens) & (tokens > 0)
