"""Mem-π: what is said and answered against the whole forward pass, the two losses apart, a solver that never changes, policies by hand; what is refused."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, decode, methods, start, tasks
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.rl import gates, hinting, hints
from sleepnet.origin import named
from sleepnet.tasks.hinted import END
from sleepnet.train.step import REFERENCES, draw, gradients, learning_of, make_step, prepared

ROWS, GROUP, ROOM = 4, 3, 2
TASK = {"role": "memory", "nodes": 5, "hops": 3, "names": 6, "room": ROOM}
VALUES = {
    "task": {"name": "hinted", "arguments": TASK}, "method": {"name": "mem_pi", "arguments": {"solver": "runs/solver", "group": GROUP, "tried": 0, "cost": 0.1}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 2}}, "train": {"batch_size": ROWS, "steps": 4}, "start": "runs/memory",
    "optim": {"warmup": 1},
}  # fmt: skip


def run_of(**changes) -> RunConfig:
    return from_dict(RunConfig, {**VALUES, **{key: {**VALUES[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}})


def params_of(config, task, seed):
    drawn = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(dataclasses.replace(config, seed=seed), task), nnx.Param)[1])())
    return jax.tree.map(lambda leaf: 2 * leaf, drawn)  # so that answers differ


@pytest.fixture(scope="module")
def made():
    """(configuration, how its steps are computed, the memory, the solver, a batch)."""
    config = run_of()
    task = build.task_of(config)
    learning = learning_of(config, task)
    batch = task.batch(0, "train", 0, ROWS)
    given = {key: jnp.asarray(value) for key, value in batch.items() if key != "difficulty"} | {key: jnp.asarray(value) for key, value in learning.method.draw(task, config, batch).items()}
    return config, learning, params_of(config, task, 0), params_of(config, task, 1), given


# What is said, and what is answered

def test_a_slot_is_filled_from_its_end():
    tokens, shown = jnp.array([[7, 8, 9], [7, 2, 0], [2, 0, 0]]), jnp.array([[True, True, True], [True, False, False], [False, False, False]])
    assert hinting.in_slot(tokens, shown).tolist() == [[7, 8, 9], [0, 0, 7], [0, 0, 0]]
    assert hinting.with_empty(tokens[:, None]).tolist() == [[[0, 0, 0], row] for row in tokens.tolist()]


@pytest.fixture(scope="module")
def spoken(made):
    """Hints drawn freely and greedily, of the batch and of one whose last rows are others; the greedy ones' logits, and what the solver answers to three slots."""
    _, learning, memory, solver, batch = made
    problem = learning.problem

    @jax.jit
    def speak(memory, solver, tokens, right_hint):
        state, decision = hinting.asked(problem, memory, tokens, 1)
        gives = jnp.array([[True, True, False]] * len(tokens))
        free, greedy = (hinting.drawn(problem, memory, state, jax.random.key(3), gives, law) for law in (decode.Law(), decode.GREEDY))
        slots = jnp.stack([jnp.zeros_like(right_hint), right_hint, free.slots[:, 0]], axis=1)
        return decision, free, greedy, hinting.read_again(problem, memory, state, greedy.tokens), hinting.answers(problem, solver, tokens, slots, 1)

    other = jax.tree.map(lambda values: values.at[2:].set(values[:2]), (batch["tokens"], batch["right_hint"]))
    return jax.tree.map(np.asarray, (speak(memory, solver, batch["tokens"], batch["right_hint"]), speak(memory, solver, *other)))


def test_a_row_says_alone_what_it_says_in_a_batch(spoken):
    (_, free, *_), (_, other, *_) = spoken
    np.testing.assert_array_equal(free.tokens[:2], other.tokens[:2])
    assert (free.tokens[2:] != other.tokens[2:]).any() and (free.tokens[:, 0] != free.tokens[:, 1]).any()  # two hints of one question are two


def test_who_abstains_says_nothing_and_the_others_what_the_reading_says(spoken):
    _, free, greedy, logits, _ = spoken[0]
    for said in (free, greedy):
        assert not said.valid[:, 2].any() and not said.tokens[:, 2].any() and not said.slots[:, 2].any() and said.valid[:, :2, 0].all()
        ends = said.tokens == END
        np.testing.assert_array_equal(said.valid[..., 1], said.valid[..., 0] & ~ends[..., 0])
        np.testing.assert_array_equal(np.asarray(said.lengths), (said.valid & ~ends & (said.tokens != 0)).sum(-1))
    best = logits.argmax(-1)
    np.testing.assert_array_equal(greedy.tokens[greedy.valid], best[greedy.valid])


def test_answers_are_those_of_the_solvers_own_task(made, spoken):
    """R(x, ∅) is the solver with nothing in its slot, R(x, m) the solver with m there: on the task that it was trained on, by the whole forward pass."""
    _, learning, _, solver, batch = made
    answered = spoken[0][-1]
    model = nnx.merge(learning.problem.graph, solver)
    texts = {}
    for column, shares in enumerate(((100, 0, 0), (0, 100, 0))):
        task = learning.problem.task.solver(shares=shares)
        own = task.batch(0, "train", 0, ROWS)
        np.testing.assert_array_equal(own["targets"][:, -1], batch["solution"])
        logits = np.asarray(jax.jit(lambda tokens: model.forward(tokens, passes=1, predicts=task.predicts))(own["tokens"]))  # noqa: B023
        np.testing.assert_array_equal(answered[:, column], logits[:, -1].argmax(-1))
        texts[column] = own["tokens"]
    assert (texts[0] != texts[1]).any(1).all() and len(set(answered.ravel().tolist())) > 1


# The losses

def rewarded(without, with_hint):
    """A prepared batch of two contexts, two hints of two tokens each."""
    with_hint = jnp.asarray(with_hint, jnp.float32)
    return {"without": jnp.asarray(without, jnp.float32), "with_hint": with_hint, "valid": jnp.ones((*with_hint.shape, 2), bool), "given": jnp.ones(with_hint.shape, bool)}


def slopes(batch, **arguments):
    """∂ loss of each context, by the decision's log-probabilities and by the hints' tokens'."""
    method = methods.get("mem_pi", solver="a", **arguments)
    of = method._coupled if method.decision == "coupled" else method._apart
    logits, logps = jnp.array([[0.2, -0.3]] * 2), -jnp.arange(1.0, 9.0, dtype=jnp.float32).reshape(2, 2, 2) / 8
    both = jax.jit(jax.grad(lambda logits, logps: jnp.sum(of(jax.nn.log_softmax(logits, axis=-1), logps, batch)), argnums=(0, 1)))(logits, logps)
    return tuple(map(np.asarray, both))


@pytest.mark.parametrize("form", ["exact", "score"])
def test_a_gain_moves_the_decision_and_a_spread_the_hint_alone(form):
    decision, told = slopes(rewarded([0, 1], [[1, 1], [0, 0]]), decision=form)  # Δ = 1, −1; no spread
    assert decision[0, 1] < 0 < decision[0, 0] and decision[1, 0] < 0 < decision[1, 1] and (told == 0).all()
    decision, told = slopes(rewarded([0.5, 0.5], [[1, 0], [0, 1]]), decision=form, gate="none")  # Δ = 0
    assert (decision == 0).all() and (told[0, 0] < 0).all() and (told[0, 1] > 0).all() and np.abs(told.sum(1)).max() < 1e-6


def test_a_gate_that_is_closed_lets_nothing_through():
    batch = rewarded([1, 0], [[1, 0], [1, 0]])  # Δ = −½, ½
    assert (slopes(batch)[1][0] == 0).all() and (slopes(batch)[1][1] != 0).all()
    assert (slopes(batch, gate="none")[1] != 0).all()
    decision, told = slopes(batch, decision="always")
    assert (decision == 0).all() and (told != 0).all()


def test_coupled_the_decision_hears_of_its_hint():
    """One chain: where of two hints one is good, the decision for it rises and falls at once; an abstention is its decision alone."""
    batch = rewarded([0, 0], [[1, 0], [1, 0]])
    batch["given"] = jnp.array([[True, True], [True, False]])
    batch["valid"] = batch["valid"] & batch["given"][..., None]
    decision, told = slopes(batch, decision="coupled")
    assert np.abs(decision[0]).max() < 1e-6 and decision[1, 1] < 0 < decision[1, 0] and (told[1, 1] == 0).all()
    np.testing.assert_allclose(told[:, 0], np.full((2, 2), -1 / 2 / 3 / np.sqrt(2) * np.sqrt(2) * np.sqrt(0.5)), rtol=1e-4)


def test_hints_cost_nothing_at_first():
    method = methods.get("mem_pi", solver="a", cost=0.2, free=10, rising=20)
    at = lambda method, step: float(method.cost_at({**method.memory(1, None), "step": jnp.int32(step)}))
    assert [round(at(method, step), 6) for step in (0, 9, 10, 19, 29, 500)] == [0, 0, 0.01, 0.1, 0.2, 0.2]
    assert at(methods.get("mem_pi", solver="a"), 0) == pytest.approx(0.05)


@pytest.fixture(scope="module")
def stepped(made):
    """What a batch is made into, and its gradient: of rewards that are the solver's, and of one that is right whatever stands in its slot; in one program."""
    config, learning, memory, solver, batch = made
    method = dataclasses.replace(learning.method, cost=0.0, kl_weight=0.0, decision="score")
    learning = dataclasses.replace(learning, method=method)
    frozen = {REFERENCES: {"solver": solver, "anchor": memory}}

    @jax.jit
    def compute(frozen, ignores):
        state = learning.begin(memory, ROWS)
        ready, after = prepared(learning, state, frozen, batch, jnp.asarray(draw(0, "", 0)), 1)
        right = jnp.where(ignores, jnp.ones_like(ready["right"]), ready["right"])
        ready = ready | {"right": right, "without": right[:, 0], "with_hint": right[:, 1:]}
        return (ready, after, *gradients(learning, state.params, frozen, ready, 1))

    with jax.numpy_rank_promotion("allow"):
        return jax.tree.map(np.asarray, (compute(frozen, False), compute(frozen, True)))


def test_what_a_step_hears_of(made, spoken, stepped):
    ready, after, loss, grads, told = stepped[0]
    np.testing.assert_array_equal(ready["right"][:, 0], spoken[0][-1][:, 0] == np.asarray(made[4]["solution"]))
    assert set(told) == {*made[1].method.tells, "exact", "answered"} and int(told["answered"]) == ROWS * (GROUP + 1) and int(after["step"]) == 1
    np.testing.assert_array_equal(ready["without"], ready["right"][:, 0])
    np.testing.assert_array_equal(ready["with_hint"], ready["right"][:, 1:])
    assert told["kl"] == pytest.approx(0, abs=1e-5) and np.isfinite(loss) and 0 < told["gives"] < 1
    assert not any("solver" in name for name in named(grads)), "the solver has no gradient"


def test_a_solver_that_ignores_its_slot_teaches_nothing(stepped):
    """Δ = 0 and c = 0: no gradient at all, bit for bit."""
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(stepped[1][3])) and stepped[1][2] == 0


@pytest.mark.slow  # compiles a step of the loop; the gradients that it is made of are above
def test_a_step_moves_the_memory_and_leaves_the_solver_bit_for_bit(made):
    _, learning, memory, solver, batch = made
    frozen = jax.tree.map(jnp.array, {REFERENCES: {"solver": solver, "anchor": memory}})
    before = {name: np.asarray(leaf).tobytes() for name, leaf in named(frozen).items()}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        step = make_step(learning)
        state = learning.begin(jax.tree.map(jnp.array, memory), ROWS)
        for number in range(2):
            state, _ = step(state, frozen, batch, jnp.asarray(draw(0, "", number)), 2)
    assert before == {name: np.asarray(leaf).tobytes() for name, leaf in named(frozen).items()}
    assert any((np.asarray(leaf) != np.asarray(memory_leaf)).any() for leaf, memory_leaf in zip(jax.tree.leaves(state.params), jax.tree.leaves(memory)))


# Policies

def test_the_nearest_text_asks_the_same_and_tells_most_of_the_same_pairs(made):
    """Against pairs as sets, one text at a time; then by hand."""
    task = made[1].problem.task
    own, known = (task.batch(0, split, 0, count)["tokens"] for split, count in (("validation", 20), ("train", 300)))
    begin, n = task.predicts.count(False) * task.window, task.nodes
    pairs = lambda row: {tuple(pair) for pair in row[begin - 2 * n : begin].reshape(n, 2).tolist()}
    rank = lambda row, other: ((row[begin : begin + 2] == other[begin : begin + 2]).all(), len(pairs(row) & pairs(other)))
    found = np.asarray(hinting.nearest(task, jnp.asarray(own), jnp.asarray(known)))
    want = [max(range(len(known)), key=lambda i: (rank(row, known[i]), -i)) for row in own]
    assert found.tolist() == want and len(set(want)) > 5 and any(rank(row, known[i])[0] and rank(row, known[i])[1] for row, i in zip(own, want))
    other = own.copy()
    other[:, begin] = own[:, begin] + 1  # the whole cycle is there, but another question
    first = np.asarray(hinting.nearest(task, jnp.asarray(own[:1]), jnp.asarray(np.concatenate([other[:1], own[:1]]))))
    assert first.tolist() == [1]


SEEN = {
    "generate": np.array([0.9, 0.8, 0.1, 0.2], np.float32), "without": np.array([False, True, False, True]), "own_hint": np.array([True, False, True, True]),
    "right_hint": np.array([True, True, True, True]), "random_hint": np.array([False, False, True, False]), "other_hint": np.array([False, True, True, True]),
    "near_hint": np.array([True, False, False, False]), "near_length": np.array([1, 1, 0, 1], np.float32), "own_length": np.array([1, 2, 1, 1], np.float32), "right_length": np.ones(4, np.float32),
}  # fmt: skip


def test_policies_by_hand():
    told = gates.told(SEEN, 0.1)
    assert set(told) == set(gates.NAMES) and all(type(value) is float for value in told.values())
    by_hand = {
        "never": (0.5, 0, 0.5), "always": (0.75, 1, 0.75 - 0.5 / 4), "learned": (0.5, 0.5, 0.5 - 0.3 / 4), "oracle_gate": (1, 0.5, 1 - 0.2 / 4), "oracle_content": (0.75, 0.5, 0.75 - 0.2 / 4),
        "oracle": (1, 0.5, 1 - 0.2 / 4), "random_hint": (0.25, 0.5, 0.25 - 0.3 / 4), "wrong_reference": (0.5, 0.5, 0.5 - 0.3 / 4), "retrieval": (0.25, 1, 0.25 - 0.3 / 4),
    }  # fmt: skip
    for policy, numbers in by_hand.items():
        assert [told[f"{policy}_{number}"] for number in gates.NUMBERS] == pytest.approx(numbers), policy
    assert told["regret"] == pytest.approx(told["oracle_gate_reward"] - told["learned_reward"]) and told["regret"] == pytest.approx((0 + 1.2 + 0.9 + 0) / 4)
    assert told["auroc"] == 0.5 and told["given_solved"] == told["given_failed"] == 0.5 and told["hint_tokens"] == 1.25
    assert told["auroc_pays"] == (2 + 0 + 0 + 0) / 4  # of questions 1 and 3 against 2 and 4: .9 and .1 against .8 and .2
    assert gates.told(SEEN, 2.0)["oracle_gate_given"] == 0  # no hint is worth two answers
    assert gates.told({**SEEN, "generate": np.array([0.9, 0.1, 0.8, 0.2], np.float32)}, 0.1)["auroc"] == 1


def test_nothing_is_left_to_tell_apart():
    told = gates.told({**SEEN, "without": np.ones(4, bool)}, 0.0)
    assert told["auroc"] == 0.5 and told["given_failed"] == 0 and told["regret"] == pytest.approx(0.25)


# What is refused

@pytest.mark.parametrize("arguments, message", [
    ({"solver": ""}, "solver='' names nobody"),
    ({"decision": "exakt"}, "did you mean 'exact'"),
    ({"group": 1}, "group=1 has nothing"),
    ({"decision": "coupled", "gate": "none"}, "which has no gate"),
    ({"cost": -0.1}, "cost=-0.1"),
    ({"anchor": ""}, "kl_weight=0.01"),
    ({"temperature": 0.0}, "temperature"),
    ({"clip_high": 0.0}, "clip_high be positive"),
    ({"looked": 1}, "looked at least 2"),
])  # fmt: skip
def test_what_no_method_is(arguments, message):
    with pytest.raises(UsageError, match=message):
        methods.get("mem_pi", **{"solver": "runs/solver", **arguments})


def test_a_solver_must_be_one_that_reads_what_the_memory_says(made):
    config, learning, *_ = made
    task, method, model = learning.problem.task, learning.method, dataclasses.replace(config.model, sleep=dataclasses.replace(config.model.sleep, passes=1))
    check = lambda known, model=model: method.check_reference("solver", config, task, known, model)
    check(task.solver(shares=(0, 100, 0)))
    method.check_reference("anchor", config, task, tasks.get("rule110"), model)
    for known, message in ((tasks.get("depo"), "depo.*, which has no slot"), (task, "role=memory.*, which has no slot"), (task.solver(room=1), "task.arguments.room=1, here it is 2")):
        with pytest.raises(UsageError, match=message):
            check(known)
    with pytest.raises(UsageError, match="solver_passes=1, but runs/solver sleeps N = 2 passes"):
        check(task.solver(), config.model)
    with pytest.raises(UsageError, match="model.beta_max=2.0, the memory 1.0"):
        check(task.solver(), dataclasses.replace(model, beta_max=2.0))


def test_runs_that_nothing_can_be_learnt_from_are_refused(made, monkeypatch):
    config, learning, *_ = made
    method = dataclasses.replace(learning.method, tried=8)
    method.check(config, learning.problem.task)
    for task, message in ((learning.problem.task.solver(), "asks no memory"), (tasks.get("depo"), "asks no memory")):
        with pytest.raises(UsageError, match=message):
            method.check(config, task)
    with pytest.raises(UsageError, match="train.batch_size=1"):
        dataclasses.replace(method, control="wrong_reference").check(run_of(train={"batch_size": 1}), learning.problem.task)
    seen = {"without": np.array([True, False]), "right_hint": np.array([False, True])}
    monkeypatch.setattr(type(method), "seen", lambda *_: seen)
    with pytest.raises(UsageError, match="answers 0.500 of 8 questions with the right hint and 0.500 without one"):
        method.check_model(config, learning.problem, {})
    seen["right_hint"] = np.ones(2, bool)
    method.check_model(config, learning.problem, {})


def test_a_reference_is_looked_at_before_it_is_read(made, monkeypatch):
    """Of a solver of another task the task is told, not that its tensors have another shape."""
    config, learning, *_ = made
    monkeypatch.setattr(start, "_learnt", lambda key, where: (tasks.get("depo"), config.model))
    with pytest.raises(UsageError, match="method.arguments.solver=runs/solver was trained on depo.*, which has no slot for a hint"):
        start.find(config, learning.problem.task, start.Path("nowhere"))
