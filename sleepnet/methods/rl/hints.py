"""Terms of Mem-π: whether to give a hint, and which, learnt apart (arXiv 2605.21463; no code was released, so formulas and constants are a *reconstruction*).

    r_0 = R(x, ∅);   m_j ~ π(· | x, GEN);   r_j = R(x, m_j) − c |m_j|;   Δ = mean_j r_j − r_0
    L = L_decision + L_content;   the decision's token is no part of L_content, the hint's tokens none of L_decision

Letters: B contexts, G hints of each, T tokens of one. Log-probabilities and rewards are float32; rewards have no gradient.
"""
import jax
import jax.numpy as jnp

from sleepnet.errors import UsageError
from sleepnet.methods.rl import advantages, policy

GATES = ("none", "gain", "sample")


def decision_exact(generate_logp: jax.Array, gain: jax.Array) -> jax.Array:
    """−Δ π(GEN | x), [B]: both branches are known, so that the expected reward's gradient needs no sample and no ratio. It fades as π goes to 0 or 1."""
    return -jax.lax.stop_gradient(gain) * jnp.exp(generate_logp)


def decision_score(generate_logp: jax.Array, abstain_logp: jax.Array, without: jax.Array, with_hint: jax.Array) -> jax.Array:
    """−A_GEN log π(GEN | x) − A_ABS log π(ABS | x), [B], A_GEN = Δ / (2 σ + ε) = −A_ABS: its gradient on the logit between both is A_GEN, wherever π is."""
    _, generate, abstain, _ = advantages.two_branches(without, with_hint)
    return -generate * generate_logp - abstain * abstain_logp


def content(logps: jax.Array, before: jax.Array, mask: jax.Array, without: jax.Array, with_hint: jax.Array, gate: str = "gain", low: float = 0.2, high: float = 0.28) -> jax.Array:
    """−(1 / G) Σ_j (1 / |m_j|) Σ_t min(ρ A_j, clip(ρ) A_j), [B].

    Args:
      logps, before: [B, G, T] of the hints' tokens, now and when they were drawn.
      mask: [B, G, T] bool, tokens of a hint.
      without, with_hint: r_0 [B], r_j [B, G].
      gate: which hints are learnt from: gain: those of contexts with Δ > 0; sample: those with r_j > r_0; none: all.
    """
    if gate not in GATES:
        raise UsageError(f"method.arguments.gate={gate!r} is not one of {', '.join(GATES)}")
    gain, _, _, gated = advantages.two_branches(without, with_hint)
    free = advantages.two_branches(jnp.min(with_hint, axis=1) - 1, with_hint)[3]
    weights = {"gain": lambda: gated, "none": lambda: free, "sample": lambda: jnp.where(with_hint > without[:, None], free, 0.0)}[gate]()
    lengths = jnp.maximum(jnp.sum(mask.astype(jnp.float32), axis=-1), 1.0)
    gains = policy.surrogate(logps, before, weights[..., None], low, high)
    return -jnp.mean(jnp.sum(jnp.where(mask, gains, 0.0), axis=-1) / lengths, axis=1)


def regret(without: jax.Array, with_hint: jax.Array, generate: jax.Array) -> jax.Array:
    """What an oracle of the decision would have had more, [B]: max(r_0, r) − what was chosen; with_hint [B], generate [B] bool."""
    return jnp.maximum(without, with_hint) - jnp.where(generate, with_hint, without)


def auroc(scores: jax.Array, positive: jax.Array) -> jax.Array:
    """The chance that a positive has the larger score than a negative, ties counting half; scores [E], positive [E] bool, some of each."""
    more = (scores[:, None] > scores[None, :]).astype(jnp.float32) + 0.5 * (scores[:, None] == scores[None, :]).astype(jnp.float32)
    pairs = positive[:, None] & ~positive[None, :]
    return jnp.sum(jnp.where(pairs, more, 0.0)) / jnp.sum(pairs.astype(jnp.float32))
