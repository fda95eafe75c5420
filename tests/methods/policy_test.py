"""Advantages and terms of a policy's loss: by hand, by properties, and against exact gradients of bandits whose every outcome is counted."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet.methods.rl import advantages, policy

ROWS, GROUP, STEPS = 5, 4, 6
RNG = np.random.default_rng(0)
SCORES = RNG.random((ROWS, GROUP)).astype(np.float32)
COUNTED = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)


def test_group_normalised_by_hand():
    scaled, plain, alone = (np.asarray(jax.jit(of)(SCORES, COUNTED)) for of in (
        advantages.group_normalised, lambda s, c: advantages.group_normalised(s, c, "none"), advantages.leave_one_out,
    ))  # fmt: skip
    for row in range(ROWS):
        kept = COUNTED[row]
        mine = SCORES[row, kept].astype(np.float64)
        deviation = mine.std(ddof=1) if len(mine) > 1 else 0.0
        np.testing.assert_allclose(scaled[row, kept], (mine - mine.mean()) / (deviation + 1e-6) if len(mine) else [], rtol=1e-4)
        np.testing.assert_allclose(plain[row, kept], mine - mine.mean() if len(mine) else [], atol=1e-6)
        others = [np.delete(mine, i).mean() if len(mine) > 1 else mine[i] for i in range(len(mine))]
        np.testing.assert_allclose(alone[row, kept], mine - others, atol=1e-6)
        for found in (scaled, plain, alone):
            assert abs(found[row].sum()) < 1e-4 and (found[row, ~kept] == 0).all()
    same = jnp.full((2, GROUP), 0.3)
    assert (advantages.group_normalised(same, jnp.ones((2, GROUP), bool)) == 0).all()


def steps_by_hand(scores, count, kind, mean=None):
    s = scores[:count].astype(np.float64)
    if kind == "differences":
        return np.array([s[0] - s[-1], *(s[1:] - s[:-1])])
    return s - (s[-1] if kind == "end" else mean)


def test_advantages_of_steps_by_hand_and_what_they_add_up_to():
    scores = RNG.random((ROWS, GROUP, STEPS)).astype(np.float32)
    steps = RNG.integers(1, STEPS + 1, (ROWS, GROUP)).astype(np.int32)
    weights = RNG.integers(1, 9, (ROWS, GROUP, STEPS)).astype(np.float32) * (np.arange(STEPS) < steps[..., None])
    found = jax.jit(lambda *a: (
        advantages.step_differences(a[0], a[1]), advantages.step_differences(a[0], a[1], "code"), advantages.end_differences(a[0], a[1]),
        advantages.batch_centred(a[0], COUNTED, a[2], a[1]), advantages.group_centred(a[0], COUNTED, a[2], a[1]),
    ))(scores, steps, weights)  # fmt: skip
    differences, code, end, batch, group = map(np.asarray, found)
    np.testing.assert_allclose(differences.sum(-1), 0, atol=1e-6)  # telescoping: nothing of how it ended
    means = (scores * weights).sum(-1) / weights.sum(-1)
    for row, g in itertools.product(range(ROWS), range(GROUP)):
        n = steps[row, g]
        pad = lambda values: np.pad(values, (0, STEPS - n))
        np.testing.assert_allclose(differences[row, g], pad(steps_by_hand(scores[row, g], n, "differences")), atol=1e-6)
        np.testing.assert_allclose(end[row, g], pad(steps_by_hand(scores[row, g], n, "end")), atol=1e-6)
        assert (differences[row, g, 0] < 0) == (n > 1 and scores[row, g, n - 1] > scores[row, g, 0])
        np.testing.assert_allclose(code[row, g], pad(scores[row, g, :1]) if n == 1 else differences[row, g], atol=1e-6)
        counted = COUNTED[row, g]
        np.testing.assert_allclose(batch[row, g], counted * pad(steps_by_hand(scores[row, g], n, "mean", means[COUNTED].mean())), atol=1e-6)
        if counted:
            np.testing.assert_allclose(group[row, g], pad(steps_by_hand(scores[row, g], n, "mean", means[row, COUNTED[row]].mean())), atol=1e-6)
    flat = jnp.full((1, 2, STEPS), 0.7)
    assert (advantages.step_differences(flat, jnp.full((1, 2), 4, jnp.int32)) == 0).all()


@pytest.mark.parametrize("group", [3, 6, 10])
def test_rewards_that_are_all_alike_say_nothing_at_all(group):
    """Not even rounding, which a deviation of 0 would make an advantage of."""
    alike = jnp.broadcast_to(jnp.array([[1.0], [0.95], [0.7], [-0.1]]), (4, group))
    of_group, gain, generate, _, content = jax.jit(lambda scores: (advantages.group_normalised(scores, scores > -1), *advantages.two_branches(scores[:, 0], scores)))(alike)
    assert not any(bool(jnp.any(value != 0)) for value in (of_group, gain, generate, content))


def test_two_branches_balance_and_close_the_gate():
    without, with_hint = jnp.array([0.0, 1.0, 0.5]), jnp.array([[1.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.5, 0.5, 0.5]])
    gain, generate, abstain, content = jax.jit(advantages.two_branches)(without, with_hint)
    np.testing.assert_allclose(gain, [2 / 3, -0.5, 0], atol=1e-6)
    assert (generate + abstain == 0).all() and np.sign(generate).tolist() == [1, -1, 0]
    np.testing.assert_allclose(generate[0], (2 / 3) / (2 * np.std([0, 1, 0, 1])), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(content, axis=1), 0, atol=1e-5)
    assert (content[1:] == 0).all() and (content[0] != 0).all()


def test_by_token_gives_each_token_what_its_step_has():
    of_steps, step = jnp.array([[[5.0, 7.0]]]), jnp.array([[[0, 0, 1, 1, 2]]], jnp.int32)
    assert advantages.by_token(of_steps, step).tolist() == [[[5, 5, 7, 7, 7]]]


REWARD = jnp.array([0.1, 0.9, 0.4])
LOGITS = jnp.array([0.3, -0.2, 0.5])


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """A bandit of three arms, all groups of two counted: leave-one-out is without bias; the group's mean is short by 1 − 1/G; dividing by a deviation is another objective."""
    pairs = jnp.array(list(itertools.product(range(3), repeat=2)), jnp.int32)

    def of(advantage):
        def expected(logits):
            law = jax.nn.log_softmax(logits)
            logps = law[pairs]
            chance = jax.lax.stop_gradient(jnp.exp(jnp.sum(logps, axis=1)))
            weights = advantage(REWARD[pairs], jnp.ones(pairs.shape, bool))
            return jnp.sum(chance[:, None] * policy.surrogate(logps, jax.lax.stop_gradient(logps), weights)) / 2
        return jax.grad(expected)(LOGITS)

    exact = jax.grad(lambda logits: jnp.sum(jax.nn.softmax(logits) * REWARD))(LOGITS)
    np.testing.assert_allclose(of(advantages.leave_one_out), exact, atol=1e-6)
    np.testing.assert_allclose(of(lambda s, c: advantages.group_normalised(s, c, "none")), exact / 2, atol=1e-6)


def test_the_clip_holds_what_has_moved_and_leaves_the_first_update_alone():
    gradient = jax.jit(jax.vmap(jax.grad(lambda logp, before, advantage: policy.surrogate(logp, before, advantage, 0.2, 0.28))))
    before = jnp.log(jnp.full((8,), 0.5))
    ratio = jnp.array([1.0, 1.0, 1.3, 1.3, 0.7, 0.7, 1.25, 0.75])  # 1.25 is within 1 + high, beyond 1 + low; .75 beyond 1 − low, within 1 − high
    advantage = jnp.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    np.testing.assert_allclose(gradient(before + jnp.log(ratio), before, advantage), [2, -2, 0, -2.6, 1.4, 0, 2.5, 0], atol=1e-5)


def test_divergences_from_a_reference():
    laws, reference = (jax.nn.log_softmax(jnp.asarray(RNG.normal(size=(4, 7)), jnp.float32)) for _ in range(2))
    exact = np.asarray(policy.kl(laws, reference))
    assert (exact > 0).all() and np.abs(policy.kl(laws, laws)).max() == 0
    estimate = policy.kl_estimate(laws, reference)
    assert (np.asarray(estimate) >= 0).all() and (policy.kl_estimate(laws, laws) == 0).all()
    np.testing.assert_allclose(jnp.sum(jnp.exp(laws) * estimate, axis=-1), exact, atol=1e-5)  # its mean under the policy
    np.testing.assert_allclose(policy.entropy(jnp.full((2, 4), np.log(0.25, dtype=np.float32))), np.log(4), rtol=1e-6)


MASK = jnp.array([[True, True, False], [True, False, False]])
LOGPS, OTHERS = (jnp.asarray(-RNG.random((2, 3)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_npo_weighs_gradient_ascent(beta):
    """Its gradient is gradient ascent's, weighed by 2 π^β / (π^β + π_ref^β): 1 at the reference, between 0 and 2 elsewhere."""
    gradient = lambda reference: jax.grad(lambda logps: jnp.sum(policy.npo(logps, reference, MASK, beta)))(LOGPS)
    ascent = jax.grad(lambda logps: jnp.sum(policy.gradient_ascent(logps, MASK)))(LOGPS)
    np.testing.assert_allclose(gradient(LOGPS), ascent, atol=1e-6)
    mine, theirs = (np.exp(beta * np.where(MASK, part, 0).sum(1)) for part in (LOGPS, OTHERS))
    weight = 2 * mine / (mine + theirs)
    assert ((weight > 0) & (weight < 2) & (np.abs(weight - 1) > 1e-4)).all()
    np.testing.assert_allclose(gradient(OTHERS), weight[:, None] * ascent, rtol=1e-5)
    assert (np.asarray(ascent)[~np.asarray(MASK)] == 0).all()


def test_npo_becomes_gradient_ascent_and_simnpo_knows_no_reference():
    slope = lambda beta: jax.grad(lambda logps: jnp.sum(policy.npo(logps, OTHERS, MASK, beta)))(LOGPS)
    ascent = jax.grad(lambda logps: jnp.sum(policy.gradient_ascent(logps, MASK)))(LOGPS)
    np.testing.assert_allclose(slope(1e-4), ascent, atol=1e-3)
    lengths = np.array([2, 1])
    mean = -np.where(MASK, LOGPS, 0).sum(1) / lengths
    np.testing.assert_allclose(policy.simnpo(LOGPS, MASK, 2.5, 0.3), -2 / 2.5 * np.log(1 / (1 + np.exp(-2.5 * (mean - 0.3)))), rtol=1e-5)
    moved = jax.grad(lambda logps: jnp.sum(policy.simnpo(logps, MASK, 2.5)))(LOGPS)
    assert (np.asarray(moved)[np.asarray(MASK)] > 0).all() and (np.asarray(moved)[~np.asarray(MASK)] == 0).all()


def test_what_is_masked_has_no_gradient():
    mask = jnp.array([[[True, False]]])
    gradient = jax.grad(lambda logps: policy.token_mean(policy.surrogate(logps, jnp.full((1, 1, 2), -0.6), jnp.ones((1, 1, 2))), mask, jnp.ones(())))(jnp.full((1, 1, 2), -0.5))
    assert gradient[0, 0, 0] > 0 and gradient[0, 0, 1] == 0
