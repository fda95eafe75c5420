"""Knowledge seeding: divergences by hand; a night moves one expert and nothing else; the teacher knows nothing of the student; controls; what is refused."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import adapters, build, methods, tasks
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.divergence import generalised
from sleepnet.models import experts, flops
from sleepnet.origin import named
from sleepnet.train.step import _key, draw
import lives

ROWS, NIGHT = 4, 2
STREAM = {"kind": "stream", "days": 2, "facts": 2, "links": 0, "names": 4, "digits": 2, "per_day": ROWS * NIGHT, "window": 12}
VALUES = {
    "task": {"name": "days", "arguments": STREAM},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 2}, "experts": {"count": 2, "rank": 2}},
    "adapters": {"kind": "newest_expert"}, "method": {"name": "seeding", "arguments": {"own": 0.5, "dreams": 2}},
    "optim": {"warmup": 1, "adam_rate": 0.05, "weight_decay": 0.1}, "train": {"steps": 2 * NIGHT, "batch_size": ROWS},
}  # fmt: skip


def run_of(**changes) -> RunConfig:
    merged = {**VALUES, **{key: {**VALUES[key], **value} for key, value in changes.items()}}
    return from_dict(RunConfig, merged)


def batch_of(task, step):
    batch = task.batch(0, "train", ROWS * step, ROWS)
    return {key: jnp.asarray(batch[key]) for key in ("tokens", "targets", "loss_mask", "answer")} | {"day": jnp.asarray(batch["difficulty"]["day"])}


@pytest.fixture(scope="module")
def lived():
    """Two nights of two steps: the learning, what is frozen, the step, and params, optimiser's state and numbers after each."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        (learning, state, frozen, step), states = lives.begin(run_of()), []
        for at in range(2 * NIGHT + 1):
            states.append(jax.tree.map(np.asarray, state))
            if at < 2 * NIGHT:
                state, numbers = step(state, frozen, batch_of(learning.problem.task, at), draw(0, "", at), 2)
                assert np.isfinite([float(value) for value in numbers.values()]).all() and float(numbers["loss"]) > 0 and 0 <= float(numbers["dream_coverage"]) <= 1
                assert set(numbers) == {"loss", "gradient_norm", "dream_coverage", "dream_right"}
    return learning, frozen, step, states


@pytest.fixture(scope="module")
def prepared(lived):
    """What a night prepares of its first batch, by the parameters after so many steps and arguments of the method; each a program once."""
    learning, frozen, _, states = lived
    batch, words = batch_of(learning.problem.task, 0), jnp.asarray(draw(0, "", 0))

    @functools.cache
    def program(arguments):
        method = dataclasses.replace(learning.method, **dict(arguments))
        return jax.jit(lambda params: method.prepare(learning.problem, learning.whole(params, frozen), (), batch, _key(words), 2)[0])

    return lambda at, **arguments: jax.tree.map(np.asarray, program(tuple(arguments.items()))(states[at].params))


def expert(state, which):
    return {name: leaf[which].tobytes() for name, leaf in state.params["blocks"][0]["experts"].items()}


def test_a_night_moves_its_expert_and_nothing_else(lived):
    learning, _, _, states = lived
    assert learning.every == NIGHT and set(named(states[0].params)) == {name for name in named(states[0].params) if ".experts." in name}
    assert [state.params["blocks"][0]["experts"]["born"].tolist() for state in states] == [[0, 0], [1, 0], [1, 0], [1, 2], [1, 2]]
    first, second = ([expert(state, which) for state in states] for which in (0, 1))
    for name in ("low_in", "low_out", "gate", "gate_bias"):
        assert first[2][name] != first[0][name] and first[2][name] == first[3][name] == first[4][name], name
        assert second[0][name] == second[1][name] == second[2][name] != second[4][name], name
    # the optimiser began anew: the first step of the second night counts as one
    counts = [[int(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 0] for state in states]
    assert counts[1] == counts[3] and counts[2] == counts[4] != counts[1]


@pytest.mark.parametrize("at", [NIGHT, NIGHT + 1])
def test_stopped_before_or_within_a_night_it_ends_as_unbroken(lived, at):
    """All that a night hangs on is the state that a checkpoint holds, and the number of its step."""
    learning, frozen, step, states = lived
    state = jax.tree.map(jnp.asarray, states[at])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number in range(at, 2 * NIGHT):
            state, _ = step(state, frozen, batch_of(learning.problem.task, number), draw(0, "", number), 2)
    assert all(np.asarray(leaf).tobytes() == named(states[-1])[name].tobytes() for name, leaf in named(state).items())


def test_the_teacher_knows_nothing_of_the_student(lived, prepared):
    """Dreams and laws are those of the model before the night, whatever its expert has learnt; by hand from the state that reading leaves, or from S = 0."""
    learning, frozen, _, states = lived
    task, graph = learning.problem.task, learning.problem.graph
    none, learnt, nothing = prepared(1, own=0.0), prepared(2, own=0.0), prepared(2, own=0.0, teacher="nothing")
    for key in ("sequence", "answers", "law", "dream_coverage"):
        np.testing.assert_array_equal(none[key], learnt[key])
    np.testing.assert_array_equal(none["sequence"], nothing["sequence"])  # the control has the same dreams
    tokens = np.repeat(np.asarray(batch_of(task, 0)["tokens"])[::2], 2, axis=0)  # two dreams a reading

    @jax.jit
    def by_hand(params):
        model = nnx.merge(graph, learning.whole(params, frozen))
        state = model.init_state(ROWS)
        assert task.first_asked == task.window
        slept = model.sleep(model.wake(tokens[:, : task.window], state)[1], passes=2)
        return model.wake(none["sequence"], slept)[0], model.wake(none["sequence"], state)[0]

    with_s, without = (jax.nn.log_softmax(logits, axis=-1) for logits in by_hand(states[0].params))  # no expert is born
    np.testing.assert_allclose(none["law"], with_s, atol=1e-5)
    np.testing.assert_allclose(nothing["law"], without, atol=1e-5)
    assert np.abs(with_s - without).max() > 1e-3
    sequence, answers = none["sequence"], none["answers"]
    assert (sequence[:, 0] == task.ask).all() and not answers[:, :2].any()
    for row in range(ROWS):  # an answer ends with its first END; what follows is PAD and has no loss
        ends = np.flatnonzero(sequence[row] == task.end)
        assert not len(ends) or not answers[row, ends[0] :].any() and not sequence[row, ends[0] + 1 :].any()


def test_true_keys_can_be_asked_and_own_words_completed(lived, prepared):
    """Of own words the student's expert has a say in what is scored; in half of the rows if own = 0.5, as the mean of both."""
    task = lived[0].problem.task
    first, later = (prepared(at, own=0.5, prompts="keys") for at in (0, 4))
    facts = task.recalled[0]
    for keys in (first, later):
        assert [words[1:3].tolist() for words in keys["sequence"]] == [facts[row % 2, :2].tolist() for row in range(ROWS)]
    asked = tasks.get("days", **{**STREAM, "told": "nothing", "asks": ("asked",)}).batch(0, "test", 0, 4)  # day 1, day 2, each its facts
    want = [np.where(asked["targets"][row] == task.end, task.end, np.append(asked["tokens"][row, 1:], 0)) for row in range(4)]
    np.testing.assert_array_equal(np.stack(want)[:, : facts.shape[1]], [task.recalled[row % 2, row // 2] for row in range(4)])


def test_another_day_is_the_same_text_with_other_names_and_digits():
    task = tasks.get("days", **{**STREAM, "days": 3, "facts": 3, "links": 1, "names": 9, "window": 12})
    text = task.batch(0, "train", 0, 6)["tokens"][:, : task.first_asked]
    other = task.another(text)
    for tokens, turned in zip(text, other):
        one, two = (list(map(task.token, map(int, row))) for row in (tokens, turned))
        assert all((a == b) == a.isalpha() for a, b in zip(one, two)) and len(set(zip(one, two))) == len(set(one)) == len(set(two))
    np.testing.assert_array_equal(np.asarray(task.another(jnp.asarray(text))), other)
    first = np.array([[task.recalled[0, 0, 0]], [task.recalled[0, 2, 0]]])  # of a fact of names, and of a link
    assert task.key_length(first).tolist() == [[2], [2]] and tasks.get("days", kind="stream").key_length(first).tolist() == [[2], [4]]


def test_divergences():
    generator = np.random.default_rng(0)
    laws = [jax.nn.log_softmax(jnp.asarray(generator.normal(scale=3, size=(50, 7)), jnp.float32), axis=-1) for _ in range(2)]
    p, q = (np.exp(np.asarray(law, np.float64)) for law in laws)
    kl = lambda p, q: (p * np.log(p / q)).sum(-1)
    for beta in (0.0, 0.3, 1.0):
        mixed = beta * p + (1 - beta) * q
        want = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, beta * kl(p, mixed) + (1 - beta) * kl(q, mixed))
        np.testing.assert_allclose(generalised(*laws, beta), want, rtol=2e-4, atol=1e-5)
        assert np.all(np.asarray(generalised(*laws, beta)) > 0) and np.abs(generalised(laws[0], laws[0], beta)).max() < 1e-6
        logits = jnp.asarray(generator.normal(size=(5, 7)), jnp.float32)
        own = lambda logits: jnp.sum(generalised(jax.nn.log_softmax(jax.lax.stop_gradient(logits), axis=-1), jax.nn.log_softmax(logits, axis=-1), beta))  # noqa: B023
        assert np.abs(jax.grad(own)(logits)).max() < 1e-6
    near = [jax.nn.log_softmax(law / 6, axis=-1) for law in laws]
    p, q = (np.exp(np.asarray(law, np.float64)) for law in near)
    for beta, limit in ((0.01, kl(p, q)), (0.99, kl(q, p))):
        np.testing.assert_allclose(generalised(*near, beta) / min(beta, 1 - beta), limit, rtol=0.05)


def test_what_a_night_costs():
    config = run_of()
    task, model = build.task_of(config), build.fit(config.model, build.task_of(config))
    cost = lambda passes=2, **arguments: methods.get("seeding", **arguments).flops(model, task, passes)
    n = task.question_tokens - 1
    text = flops.pass_flops(model, 12) + flops.sleep_flops(model, 2)
    scored = flops.pass_flops(model, n, context=12) + flops.head_flops(model, n)
    assert cost(own=0.0, dreams=1) == text + n * flops.wake_token_flops(model) + 4 * scored
    assert cost(own=0.5) - cost(own=0.0) == n * flops.wake_token_flops(model) and cost(teacher="another_day", dreams=2) - cost(dreams=2) == text // 2 and cost(3) > cost(2)


@pytest.mark.parametrize("changes, message", [
    ({"model": {"experts": {"count": 1}}}, "train.steps=4 are 2 nights, and model.experts.count=1 has no expert for each: set it to 2 or more"),
    ({"model": {"pattern": "A", "sleep": {"passes": 1}}}, "model.pattern='A' has no fast weights that a night could carry away: add a G"),
    ({"adapters": {"kind": "all"}}, "adapters.kind='all' with method.name='seeding', which moves the newest expert alone"),
    ({"task": {"name": "depo", "arguments": {}}}, "needs task.name='days' with task.arguments.kind='stream' and told='today'"),
    ({"task": {"arguments": {**STREAM, "order": "mixed"}}}, "a night is of one day: task.arguments.order='mixed'"),
    ({"train": {"batch_size": 3}}, "per_day=8 must be a multiple of train.batch_size=3"), ({"train": {"first_example": 4}}, "divide train.first_example=4"),
    ({"method": {"arguments": {"dreams": 3}}}, "train.batch_size=4 must be a multiple of method.arguments.dreams=3"),
    ({"method": {"arguments": {"own": 2.0}}}, "method.arguments.own=2.0 must lie between 0 and 1"), ({"method": {"arguments": {"teacher": "yesterday"}}}, "is not one of today, another_day, nothing"),
])  # fmt: skip
def test_what_can_not_be_is_refused(changes, message):
    config = run_of(**changes)
    with pytest.raises(UsageError, match=message):
        methods.of(config).check(config, build.task_of(config))


def test_a_start_whose_experts_are_taken_is_refused():
    config = run_of()
    params = nnx.to_pure_dict(nnx.split(build.model_of(config, build.task_of(config)), nnx.Param)[1])
    trainable, _ = adapters.split(config.adapters, params, 0)
    method, task = methods.of(config), build.task_of(config)
    method.check_start(config, task, trainable)
    with pytest.raises(UsageError, match="2 nights need as many experts, and of the 2 in the model that this starts from 1 are still asleep"):
        method.check_start(config, task, experts.grow(trainable))


def test_several_readings_teach_together(prepared):
    """The law of two readings is the mean of the two that each row would be taught by alone: its own, and that of the rows that read the other one."""
    one, both = prepared(2, own=0.0, prompts="keys"), prepared(2, own=0.0, prompts="keys", readings=2)
    np.testing.assert_array_equal(one["sequence"][:, :3], both["sequence"][:, :3])  # rows 0 and 2 ask the same key, of different readings
    np.testing.assert_allclose(np.exp(both["law"][:2, :3]), (np.exp(one["law"][:2, :3]) + np.exp(one["law"][2:, :3])) / 2, atol=1e-6)
    assert np.abs(np.exp(one["law"][:2, :3]) - np.exp(both["law"][:2, :3])).max() > 1e-6
