"""Mem-π's terms: the exact decision against a hundred thousand samples, gates that are closed, positions that know nothing of each other."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet.errors import UsageError
from sleepnet.methods.rl import hints

WITHOUT = jnp.array([0.0, 1.0, 0.5])
WITH = jnp.array([[1.0, 0.0, 1.0, 0.9], [0.4, 0.0, 1.0, 0.2], [0.5, 0.5, 0.5, 0.5]])
GAIN = jnp.mean(WITH, axis=1) - WITHOUT
LOGITS = jnp.array([[0.3, -0.4], [1.2, 0.1], [0.0, 0.5]])  # ABS, GEN


def both(logits):
    law = jax.nn.log_softmax(logits, axis=-1)
    return law[:, 1], law[:, 0]


def test_the_exact_decision_is_what_samples_say():
    exact = np.asarray(jax.jit(jax.grad(lambda logits: jnp.sum(hints.decision_exact(both(logits)[0], GAIN))))(LOGITS))
    law = np.asarray(jax.nn.softmax(LOGITS, axis=-1))
    rng, draws = np.random.default_rng(0), 100_000
    for row in range(3):
        generate = rng.random(draws) < law[row, 1]
        reward = np.where(generate, rng.choice(np.asarray(WITH[row]), draws), float(WITHOUT[row])) - float(WITHOUT[row])
        score = np.eye(2)[generate.astype(int)] - law[row]
        sampled = -reward[:, None] * score
        np.testing.assert_allclose(exact[row], sampled.mean(0), atol=3 * sampled.std(0).max() / np.sqrt(draws) + 1e-6)


def test_the_score_form_does_not_saturate_and_the_exact_one_does():
    """Their gradients on the logit between the branches: A_GEN, and Δ π (1 − π)."""
    slope = lambda of: np.asarray(jax.jit(jax.grad(lambda gap: jnp.sum(of(jax.nn.log_sigmoid(gap), jax.nn.log_sigmoid(-gap)))))(jnp.array([-6.0, 6.0, 0.0])))
    sure = slope(lambda generate, abstain: hints.decision_score(generate, abstain, WITHOUT, WITH))
    fading = slope(lambda generate, abstain: hints.decision_exact(generate, GAIN))
    deviation = np.std(np.concatenate([WITHOUT[:, None], WITH], axis=1), axis=1)
    np.testing.assert_allclose(sure, -np.asarray(GAIN) / (2 * deviation + 1e-6), rtol=1e-4, atol=1e-6)
    chance = 1 / (1 + np.exp([6.0, -6.0, 0.0]))
    np.testing.assert_allclose(fading, -np.asarray(GAIN) * chance * (1 - chance), rtol=1e-3, atol=1e-6)


MASK = jnp.array(np.random.default_rng(1).random((3, 4, 2)) < 0.7).at[..., 0].set(True)
LOGPS = jnp.asarray(-np.random.default_rng(2).random((3, 4, 2)), jnp.float32)


@pytest.mark.parametrize("gate", hints.GATES)
def test_content_is_learnt_behind_its_gate_alone(gate):
    slope = np.asarray(jax.jit(jax.grad(lambda logps: jnp.sum(hints.content(logps, LOGPS, MASK, WITHOUT, WITH, gate))))(LOGPS))
    lengths = np.asarray(MASK).sum(-1)
    for row, g, t in itertools.product(range(3), range(4), range(2)):
        mine = np.asarray(WITH[row])
        weight = (mine[g] - mine.mean()) / (mine.std() + 1e-6)
        opened = {"none": True, "gain": float(GAIN[row]) > 0, "sample": mine[g] > float(WITHOUT[row])}[gate]
        by_hand = -weight / lengths[row, g] / 4 if opened and MASK[row, g, t] else 0.0
        assert slope[row, g, t] == pytest.approx(by_hand, abs=1e-5)
    if gate == "gain":
        assert (slope[1:] == 0).all() and (slope[0][np.asarray(MASK)[0]] != 0).all()


def test_decision_and_content_know_nothing_of_each_other():
    """One sequence, the decision's token first: each loss has exactly no gradient at the other's positions."""
    law = jnp.asarray(-np.random.default_rng(3).random((3, 4, 3)), jnp.float32)
    decision = lambda law: jnp.sum(hints.decision_exact(law[:, 0, 0], GAIN))
    told = lambda law: jnp.sum(hints.content(law[..., 1:], LOGPS, MASK, WITHOUT, WITH))
    one, other = jax.jit(lambda law: (jax.grad(decision)(law), jax.grad(told)(law)))(law)
    assert (one[..., 1:] == 0).all() and (other[..., 0] == 0).all() and (one[:2, 0, 0] != 0).all() and (other[0, :, 1:] != 0).any()


def test_a_solver_that_ignores_the_hint_teaches_nothing():
    """R(x, m) = R(x, ∅) and c = 0: Δ = 0, no gradient of either."""
    same = jnp.repeat(WITHOUT[:, None], 4, axis=1)
    zero = jax.jit(lambda: (
        jax.grad(lambda l: jnp.sum(hints.decision_exact(both(l)[0], jnp.mean(same, axis=1) - WITHOUT)))(LOGITS),
        jax.grad(lambda l: jnp.sum(hints.decision_score(*both(l), WITHOUT, same)))(LOGITS),
        jax.grad(lambda l: jnp.sum(hints.content(l, LOGPS, MASK, WITHOUT, same)))(LOGPS),
    ))()  # fmt: skip
    assert all((leaf == 0).all() for leaf in zero)


def test_regret_and_auroc_by_hand():
    assert hints.regret(WITHOUT, jnp.array([1.0, 0.4, 0.5]), jnp.array([False, True, True])).tolist() == pytest.approx([1, 0.6, 0])
    scores, positive = np.array([0.1, 0.4, 0.4, 0.9, 0.2], np.float32), np.array([False, True, False, True, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert float(hints.auroc(jnp.asarray(scores), jnp.asarray(positive))) == pytest.approx(np.mean(pairs))
    with pytest.raises(UsageError, match="gate='open'"):
        hints.content(LOGPS, LOGPS, MASK, WITHOUT, WITH, "open")
