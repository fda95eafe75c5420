"""Learning to imitate: the reward against a plain program, what a completion owns, advantages that add up to nothing, a loss that is the policy's gradient."""
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seeding_test import STREAM, run_of
from sleepnet import build, decode, methods, tasks
from sleepnet.methods.night import imitation
from sleepnet.models import flops
from sleepnet.train.step import learning_of


def distance(one, other):
    """Levenshtein, a row of the table at a time."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_rewards():
    generator, n, G = np.random.default_rng(0), 6, 50
    lengths = generator.integers(2, n + 1, 8)
    padded = lambda words: [*words, *[0] * (n - len(words))]
    dream = [generator.integers(1, 4, length).tolist() for length in lengths]
    begun = [int(generator.integers(0, length)) for length in lengths]
    said = [[own[:at] + generator.integers(1, 4, generator.integers(1, n - at + 1)).tolist() for _ in range(G - 1)] + [own] for own, at in zip(dream, begun)]
    found = imitation.reward(jnp.asarray([[padded(each) for each in row] for row in said]), jnp.asarray(list(map(padded, dream))), jnp.asarray(begun), 0.3)
    for row, own in enumerate(dream):
        for each, r in zip(said[row], np.asarray(found[row])):
            mine, rest = each[begun[row] :], own[begun[row] :]
            apart, longest = distance(mine, rest), max(len(mine), len(rest))
            near = 1 - apart / longest if apart <= -(-len(own) // 2) else 0.0
            np.testing.assert_allclose(r, 0.3 * (mine == rest) + 0.7 * near, atol=1e-6)
            assert 0 <= r <= 1 + 1e-6 and (r > 1 - 1e-6) == (mine == rest)


def test_completions_keep_what_was_begun_and_advantages_add_up_to_nothing():
    """The loss's gradient is that of −Σ A log π / (G · tokens), an answer's own words alone, from a plain pass over what was said."""
    config = run_of(task={"arguments": {**STREAM, "digits": 3}}, method={"arguments": {"imitate": 0.5, "dreams": 2}})
    task, G = build.task_of(config), 4
    problem = learning_of(config, task).problem
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    dream = np.concatenate([task.recalled[0], task.recalled[1]])
    B, n = dream.shape
    valid = np.ones((B, n), bool)
    valid[0, 1:] = False  # a dream of one word, of which nothing is left to say
    more, earned = jax.jit(lambda params: imitation.completed(problem, params, jax.random.key(1), jnp.asarray(dream), jnp.asarray(valid), G, 0.5, decode.Law(3.0)))(params)
    read, said, weights = (np.asarray(more[key]) for key in ("imitated", "imitations", "imitation_weights"))
    assert read.shape == said.shape == weights.shape == (B, G, n) and earned.shape == (B,) and not weights[0].any() and np.abs(weights[1:]).sum() > 0
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 0, atol=1e-7)
    assert len({said[row, g].tobytes() for row in range(1, B) for g in range(G)}) > B
    for row in range(1, B):
        begun = min(np.flatnonzero(weights[row, g])[0] for g in range(G) if weights[row, g].any()) if weights[row].any() else 1
        assert begun >= 1 and (said[row, :, :begun] == dream[row, :begun]).all() and (read[row, :, 0] == task.ask).all() and (read[row, :, 1:] == said[row, :, :-1]).all()

    @jax.jit
    def by_hand(params):
        model = nnx.merge(problem.graph, params)
        logits = model.wake(jnp.asarray(read.reshape(B * G, n)), model.init_state(B * G))[0]
        said_ = jnp.sum(jax.nn.log_softmax(logits, axis=-1) * jax.nn.one_hot(said.reshape(B * G, n), logits.shape[-1]), axis=-1)
        return -jnp.sum(said_ * weights.reshape(B * G, n))

    mine, hand = (jax.jit(jax.value_and_grad(of))(params) for of in (lambda params: imitation.loss(problem, params, more), by_hand))
    np.testing.assert_allclose(mine[0], hand[0], rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), mine[1], hand[1])


def test_what_imitating_costs():
    config = run_of()
    task, model = build.task_of(config), build.fit(config.model, build.task_of(config))
    cost = lambda **arguments: methods.get("seeding", **arguments).flops(model, task, 2)
    n = task.question_tokens - 1
    each = n * flops.wake_token_flops(model) + 3 * (flops.pass_flops(model, n, context=12) + flops.head_flops(model, n))
    assert cost(imitate=0.5, completions=3) - cost() == 3 * each and tasks.get("days", **STREAM).question_tokens == n + 1
