"""The paper's sender: a level that the day moves, by hand; who teaches then; what it costs, and what can not be."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seeding_test import ROWS, batch_of, run_of
from sleepnet import build, methods
from sleepnet.errors import UsageError
from sleepnet.methods.night import cms, isolated
from sleepnet.models import experts, flops
from sleepnet.origin import named
from sleepnet.train.step import learning_of

RANK, RATE = 2, 0.3


def sends(**arguments):
    return run_of(model={"sleep": {"passes": 1}}, method={"arguments": {"own": 0.0, "dreams": 2, "sender": "cms", "level_rank": RANK, "level_rate": RATE, **arguments}})


@pytest.fixture(scope="module")
def model():
    config = sends()
    task = build.task_of(config)
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    return methods.of(config), learning_of(config, task).problem, experts.grow(params)


@pytest.mark.slow
def test_a_day_moves_its_level_and_the_level_teaches(model):
    """One window, one move: W − rate · A Aᵀ ∂surprise/∂W of the lowest block's MLP, and nothing else; the teacher is this model, with S = 0."""
    method, problem, params = model
    task, batch = problem.task, batch_of(problem.task, 0)
    text = batch["tokens"][::2, : task.first_asked]

    @jax.jit
    def of(params):
        ready, memory = method.prepare(problem, params, (), batch, jax.random.key(0), 1)
        return ready["sequence"], ready["law"], cms.lived(problem, params, text, RANK, RATE, 1)

    @jax.jit
    def by_hand(params, moved, sequence):
        def surprise(params):
            model = nnx.merge(problem.graph, params)
            logps = jax.nn.log_softmax(model.wake(text, model.init_state(len(text)))[0][:, :-1], axis=-1)
            said = jnp.take_along_axis(logps, text[:, 1:, None], axis=-1)[..., 0]
            return -jnp.sum(jnp.where(text[:, 1:] != 0, said, 0.0)) / jnp.sum((text[:, 1:] != 0).astype(jnp.float32))
        model = nnx.merge(problem.graph, moved)
        return jax.grad(surprise)(params), jax.nn.log_softmax(model.wake(sequence, model.init_state(ROWS))[0], axis=-1)

    sequence, law, moved = of(params)
    grads, told = by_hand(params, moved, sequence)
    factors, before, grads, moved = map(named, (isolated.born(params, RANK, cms.LEVEL)[0], params, grads, moved))
    names = {name for name in before if np.asarray(before[name]).tobytes() != np.asarray(moved[name]).tobytes()}
    assert names == {f"blocks.0.mlp.{kind}.kernel" for kind in ("gate", "up", "down")}
    for name in names:
        A, G = np.asarray(factors[f"{name}.low_rank_a"], np.float64), np.asarray(grads[name], np.float64)
        assert np.abs(G).max() > 1e-4
        np.testing.assert_allclose(moved[name] - before[name], -RATE * A @ A.T @ G, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(law, told, atol=1e-5)  # no expert says anything yet


def test_each_window_moves_the_level_in_its_turn(model, monkeypatch):
    _, problem, params = model
    seen, L, text = [], problem.task.window, jnp.arange(6 * problem.task.window, dtype=jnp.int32).reshape(2, -1)
    monkeypatch.setattr(cms, "surprise", lambda problem, params, words: words)
    monkeypatch.setattr(isolated, "learnt", lambda loss, factors, optimizer, moves: (seen.append((loss(factors), factors, moves)), jax.tree.map(lambda leaf: leaf + 1, factors))[1])
    cms.lived(problem, params, text, RANK, RATE, 5)
    for number, (words, factors, moves) in enumerate(seen):
        np.testing.assert_array_equal(words, text[:, number * L : (number + 1) * L])
        assert moves == 5 and {float(leaf.max()) for name, leaf in named(factors).items() if name.endswith("_b")} == {number}
    assert len(seen) == 3


def test_what_a_level_costs_and_what_can_not_be():
    config = sends()
    task, model = build.task_of(config), build.fit(config.model, build.task_of(config))
    cost = lambda **arguments: methods.get("seeding", own=0.0, dreams=2, **arguments).flops(model, task, 1)
    once = flops.pass_flops(model, 12, context=12) + flops.head_flops(model, 12)
    assert cost(sender="cms", level_moves=5) - cost() == (5 * 3 * once - flops.pass_flops(model, 12, context=12)) // 2
    refused = lambda config: methods.of(config).check(config, build.task_of(config))
    with pytest.raises(UsageError, match="readings=2 with sender='cms', whose level all readings move: set it to 1"):
        refused(sends(readings=2))
    with pytest.raises(UsageError, match="sender='s' is not one of fast_weights, cms"):
        refused(sends(sender="s"))
    bare = run_of(model={"pattern": "GG", "no_mlp": (0,), "sleep": {"passes": 1}}, method={"arguments": {"sender": "cms", "dreams": 2}})
    with pytest.raises(UsageError, match="sender='cms' moves a level beside the MLP of block 0"):
        refused(bare)
    plain = run_of(model={"pattern": "A", "sleep": {"passes": 1}}, method={"arguments": {"sender": "cms", "dreams": 2}})
    refused(plain)  # no S is needed
