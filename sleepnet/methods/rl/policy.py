"""Terms of a loss on what a policy has said: the clipped policy gradient, divergences from a frozen reference, and unlearning.

Letters: R rows (any leading axes), T tokens, V vocabulary. Log-probabilities are float32. `mask` [R, T] bool: tokens that count; the others have exactly no gradient.
"""
import jax
import jax.numpy as jnp


def surrogate(logps: jax.Array, before: jax.Array, advantages: jax.Array, low: float = 0.2, high: float = 0.28) -> jax.Array:
    """min(ρ A, clip(ρ, 1 − low, 1 + high) A), ρ = exp(logps − before), [R, T]: to be made large. Where ρ = 1 its gradient is REINFORCE's, A ∇ log π."""
    ratio = jnp.exp(logps - before)
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)


def kl(laws: jax.Array, reference: jax.Array) -> jax.Array:
    """KL(π ‖ π_0) = Σ_v π (log π − log π_0), exact, [R, T] of laws [R, T, V] in logarithms."""
    return jnp.sum(jnp.exp(laws) * (laws - reference), axis=-1)


def kl_estimate(logps: jax.Array, reference: jax.Array) -> jax.Array:
    """e^δ − δ − 1, δ = log π_0 − log π of the token that was drawn, [R, T]: low variance, at least 0, without bias as a number; its gradient as a loss has one."""
    apart = reference - logps
    return jnp.expm1(apart) - apart


def entropy(laws: jax.Array) -> jax.Array:
    """−Σ_v π log π, [R, T] nats."""
    return -jnp.sum(jnp.where(laws > -jnp.inf, jnp.exp(laws) * laws, 0.0), axis=-1)


def token_mean(values: jax.Array, mask: jax.Array, count: jax.Array) -> jax.Array:
    """Σ over the tokens of `mask` / count: a share of the mean over all tokens, where count is how many those are."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / count


def row_sum(logps: jax.Array, mask: jax.Array) -> jax.Array:
    """log π(y | x), [R]: over the tokens of `mask`."""
    return jnp.sum(jnp.where(mask, logps, 0.0), axis=-1)


def gradient_ascent(logps: jax.Array, mask: jax.Array) -> jax.Array:
    """log π(y | x), [R]: made small, y is forgotten. Without bound: it wants a limit of steps."""
    return row_sum(logps, mask)


def npo(logps: jax.Array, reference: jax.Array, mask: jax.Array, beta: float) -> jax.Array:
    """(2 / β) log(1 + (π / π_ref)^β), [R] (arXiv 2404.05868). As β → 0 its gradient is that of gradient ascent; a row's weight is 2 π^β / (π^β + π_ref^β)."""
    return 2 / beta * jax.nn.softplus(beta * (row_sum(logps, mask) - row_sum(reference, mask)))


def simnpo(logps: jax.Array, mask: jax.Array, beta: float, gamma: float = 0.0) -> jax.Array:
    """−(2 / β) log σ(β (ℓ − γ)), ℓ the mean −log p of a token, [R] (arXiv 2410.07163): no reference, and long rows weigh no more than short ones."""
    length = jnp.maximum(jnp.sum(mask.astype(jnp.float32), axis=-1), 1.0)
    return -2 / beta * jax.nn.log_sigmoid(beta * (-row_sum(logps, mask) / length - gamma))
