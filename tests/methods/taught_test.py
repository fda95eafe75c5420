"""Taught passes: what tasks tell of their steps, against solvers of their own; the method's labels, weights and refusals; tasks that follow the passes; keys that turn."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sleepnet import build, costs, data, methods, tasks
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.eval.runner import evaluate
from sleepnet.methods import taught
from sleepnet.models.turn import turned
from sleepnet.state import FastWeights
from sleepnet.tasks.base import FIELDS
from sleepnet.train.step import learning_of, make_step

STEPPED = {
    "rule110": dict(width=8, strings=3, steps=4),
    "rule110 told": dict(width=9, strings=2, steps=(1, 5), cells=3),
    "rule110 thought": dict(width=8, strings=2, steps=(1, 3), chain_of_thought=True),
    "rule110 rows": dict(width=10, strings=2, steps=3, cells=10, graded="rows", boundary="periodic"),
    "group": dict(group="A5", length=(2, 9)),
    "group windows": dict(group="S5", length=8, window=3),
    "group thought": dict(group="Z60", length=(2, 8), chain_of_thought=True),
    "group growing": dict(group="A5", length=(2, 9), window=4, spans="growing"),
    "khop": dict(length=30, letters=4, hops=(1, 5), queries=2),
    "khop windows": dict(length=30, letters=4, hops=3, window=10),
    "depo": dict(nodes=6, hops=4, queries=3, names=5, min_nodes=3),
    "depo windows": dict(nodes=8, hops=4, queries=3, names=20, name_tokens=(1, 1), nodes_law="fixed", window=16),
    "depo cut": dict(nodes=8, hops=2, queries=2, names=4, name_tokens=(1, 3), window=16),
    "depo long": dict(nodes=6, hops=2, queries=2, names=3, name_tokens=(2, 3)),
    "variables": dict(chains=2, hops=3, noise=(0, 5), order="shuffled", queries=4),
    "gsm": dict(ops=(1, 4), length=(60, 120), window=128, answer_alone=True),
    "gsm deep": dict(ops=(1, 6), length=(200, 300), window=400, answer_alone=True, fillers="alike", depth=3, direction="both"),
}


@pytest.mark.parametrize("case", STEPPED)
def test_steps_of_many_examples_are_what_a_plain_solver_reads_from_the_tokens(case):
    task = tasks.get(case.split()[0], **STEPPED[case])
    for split in ("train", "test"):
        batch = task.batch(3, split, 0, 12)
        told = task.steps_of(batch, 6)
        assert told.shape == (12, 7, task.seq_len) and told.dtype == np.int32 and 0 <= told.min() and told.max() < task.vocab_size
        assert told[:, :, taught.asleep(task)].any(axis=(1, 2)).all(), "something is told in every example"
        for row, tokens in enumerate(batch["tokens"]):
            np.testing.assert_array_equal(told[row], task.solve_steps(tokens, 6), err_msg=f"{split} {row}")


def test_steps_lead_to_the_answers():
    """Where the computation ends after so many steps, answers are what the last step says."""
    for name, arguments, steps in [
        ("rule110", dict(width=8, strings=3, steps=4), 4), ("rule110", dict(width=9, strings=2, steps=(1, 5), cells=3), 5),
        ("group", dict(group="A5", length=(2, 9)), 4), ("group", dict(group="A5", length=(2, 9), spans="growing"), 8), ("khop", dict(length=30, letters=4, hops=(1, 5), queries=2), 5),
        ("variables", dict(chains=2, hops=3, queries=4), 4),
    ]:  # fmt: skip
        task = tasks.get(name, **arguments)
        batch = task.batch(0, "test", 0, 16)
        np.testing.assert_array_equal(task.steps_of(batch, steps)[:, steps][batch["loss_mask"]], batch["targets"][batch["loss_mask"]])


def test_a_task_without_steps_says_so():
    for task in (tasks.get("mqar"), tasks.get("selective_copy"), tasks.get("group", running=True, length=4)):
        assert task.most_steps == 0
        with pytest.raises(UsageError, match=f"task {task.name}.*(no steps|at most 0 steps)"):
            task.steps_of(task.batch(0, "train", 0, 1), 2)


def config_of(**values):
    base = {
        "task": {"name": "rule110", "arguments": dict(width=12, strings=2, steps=2, follow_passes=True)},
        "model": {"width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 3}},
        "method": {"name": "taught"}, "train": {"steps": 4, "batch_size": 4},
    }  # fmt: skip
    for key, value in values.items():
        place = base
        *path, last = key.split("__")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return from_dict(RunConfig, base)


@pytest.mark.parametrize("values, said", [
    (dict(task__name="mqar", task__arguments={}), "method.name='taught' with N = 3 needs 2 steps of a computation, of which task mqar.* has no steps to tell"),
    (dict(task__arguments=dict(width=12, strings=2, steps=(1, 4))), "model.sleep.passes=3 is too few for task rule110.*use N = 5 or more"),
    (dict(model__pattern="AA", model__sleep__eviction="sliding"), "method.name='taught' teaches passes of a sleep"),
    (dict(model__sleep__gradient="implicit"), "model.sleep.gradient='implicit' with a loss at every pass must be 'full', or 'last'"),
    (dict(method__arguments={"weight": -1.0}), "method.arguments.weight=-1.0 must be at least 0"),
    (dict(method__arguments={"labels": "step"}), "did you mean 'steps'"),
    (dict(method__arguments={"labels": "heads"}), "method.arguments.heads=0 must be at least 1"),
    (dict(method__arguments={"fade_from": 5, "fade_until": 2}), "method.arguments.fade_from=5 must be at least 0 and less than fade_until=2"),
])  # fmt: skip
def test_what_cannot_be_taught_is_refused_by_its_key(values, said):
    with pytest.raises(UsageError, match=said):
        config = config_of(**values)
        learning_of(config, build.task_of(config))


@pytest.fixture(scope="module")
def model():
    """A small model of two strings, its task and a batch with steps."""
    config = config_of(model__turn_keys="windows")
    task = build.task_of(config)
    batch = task.batch(0, "train", 0, 6)
    return build.model_of(config, task), task, batch | {"steps": task.steps_of(batch, 2)}


def test_labels_change_no_logit_and_every_pass_is_read_by_the_models_own_head(model):
    model, task, batch = model
    graph, params = nnx.split(model, nnx.Param)
    of = lambda call: jax.jit(lambda params: call(nnx.merge(graph, params)))(params)
    plain = of(lambda model: model.forward(batch["tokens"], passes=3, predicts=task.predicts))
    logits, hidden, read = of(lambda model: (*model.forward_each(batch["tokens"], passes=3, predicts=task.predicts), model.pass_logits(jnp.ones((2, 8)))))
    np.testing.assert_array_equal(plain, logits)
    assert hidden.shape == (3, 6, 24, 8) and read.shape == (2, task.vocab_size)
    for passes in (1, 2):  # a pass of many is the last of fewer: in the first window, where no earlier S tells them apart
        fewer = of(lambda model: model.forward_each(batch["tokens"], passes=passes, predicts=task.predicts)[1])
        np.testing.assert_allclose(hidden[passes - 1][:, :12], fewer[-1][:, :12], atol=1e-6)


def test_the_loss_is_the_answers_and_the_mean_over_passes_and_places(model):
    model, task, batch = model
    graph, params = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(params)
    method = methods.get("taught", weight=0.5)
    problem = methods.base.Problem(graph, task)
    ready, _ = method.prepare(problem, params, (), batch, None, 3)
    loss, seen = method.loss(problem, params, ready, 3, method.count(ready))
    logits, hidden = model.forward_each(batch["tokens"], passes=3, predicts=task.predicts)
    logp = lambda x: np.asarray(x, np.float64) - np.log(np.exp(np.asarray(x, np.float64)).sum(-1, keepdims=True))
    answer = -np.mean([logp(logits)[b, t, batch["targets"][b, t]] for b, t in np.argwhere(batch["loss_mask"])])
    read = logp(model.pass_logits(hidden))
    passes = -np.mean([[read[j, b, t, batch["steps"][b, j, t]] for b in range(6) for t in range(24)] for j in range(3)])
    np.testing.assert_allclose(loss, answer + 0.5 * passes, rtol=1e-5)
    told = method.tell(problem, ready, seen, method.count(ready))
    np.testing.assert_allclose(told["pass_loss"], passes, rtol=1e-5)
    hit = np.mean([read[j, b, t].argmax() == batch["steps"][b, j, t] for j in range(3) for b in range(6) for t in range(24)])
    np.testing.assert_allclose(told["pass_right"], hit, rtol=1e-5)


def test_labels_of_the_controls(model):
    model, task, batch = model
    problem, asleep = methods.base.Problem(nnx.split(model, nnx.Param)[0], task), taught.asleep(task)
    shown = lambda **arguments: np.asarray(methods.get("taught", **arguments).prepare(problem, {}, (), batch, None, 3)[0]["steps"])
    steps = batch["steps"][:, :, asleep]
    np.testing.assert_array_equal(shown(), steps)
    np.testing.assert_array_equal(shown(labels="reversed"), steps[:, ::-1])
    np.testing.assert_array_equal(shown(labels="wrong_reference")[1:], steps[:-1])
    np.testing.assert_array_equal(methods.get("taught", labels="heads", heads=2).prepare(problem, {}, (), batch, None, 1)[0]["steps"], steps)
    turned_heads = np.asarray(taught.shuffled(jnp.asarray(np.random.default_rng(0).normal(size=(5, 8)), jnp.float32), 2))
    assert turned_heads.shape == (3, 5, 8) and np.allclose(np.linalg.norm(turned_heads, axis=-1), np.linalg.norm(turned_heads[0], axis=-1), rtol=1e-5)


def test_shares_sum_to_one_and_passes_count_alike():
    steps = np.zeros((3, 4, 5), np.int32)
    steps[0, 0, :], steps[1, 1, 2], steps[2, 3, 1:3] = 1, 1, 1
    shares = np.asarray(taught.shares(jnp.asarray(steps)))
    np.testing.assert_allclose(shares.sum(axis=(0, 2)), [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    assert not shares[steps == 0].any() and not np.asarray(taught.shares(jnp.zeros((1, 2, 3), jnp.int32))).any()


def test_a_weight_fades_and_is_carried(model):
    model, task, batch = model
    problem, method = methods.base.Problem(nnx.split(model, nnx.Param)[0], task), methods.get("taught", weight=2.0, fade_from=2, fade_until=4)
    memory, seen = method.memory(6, {}), []
    for _ in range(6):
        ready, memory = method.prepare(problem, {}, memory, batch, None, 3)
        seen.append(float(ready["weight"][0]))
    np.testing.assert_allclose(seen, [2, 2, 2, 1, 0, 0])


def test_microbatches_add_up():
    """One step in two halves moves as one step: shares are of the whole batch."""
    config = config_of(model__sleep__passes=2, task__arguments=dict(width=14, strings=1, steps=1, follow_passes=True))
    task = build.task_of(config)
    learning = dataclasses.replace(learning_of(config, task), optimizer=optax.sgd(lambda count: 0.1))
    batch = task.batch(0, "train", 0, 4)
    batch = {key: jnp.asarray(batch[key]) for key in FIELDS} | {"steps": jnp.asarray(task.steps_of(batch, 1))}
    params = nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1])
    told = []
    for accumulate in (1, 2):
        learning = dataclasses.replace(learning, accumulate=accumulate)
        _, numbers = make_step(learning)(learning.begin(jax.tree.map(jnp.copy, params), 4), {}, batch, None, 2)
        told.append({key: float(value) for key, value in numbers.items()})
    assert told[0]["pass_loss"] > 0
    for key, value in told[0].items():
        np.testing.assert_allclose(told[1][key], value, rtol=1e-5, err_msg=key)


def test_a_task_that_follows_the_passes_asks_what_so_many_steps_lead_to(model):
    model, task, _ = model
    assert task.at(6) == tasks.get("rule110", width=12, strings=2, steps=5)
    plain = tasks.get("rule110", width=12, strings=2, steps=2)
    assert plain.at(9) is plain
    source = data.BatchSource(task, seed=0, batch_size=4, steps=3, passes=lambda step: (3, 6, 2)[step])
    for step, passes in enumerate((3, 6, 2)):
        np.testing.assert_array_equal(source[step]["targets"], task.at(passes).batch(0, "train", 4 * step, 4)["targets"])
    rows = evaluate(model, task, passes=[2, 5], examples=8, batch_size=8)
    alone = [row for n in (2, 5) for row in evaluate(model, tasks.get("rule110", width=12, strings=2, steps=n - 1), passes=[n], examples=8, batch_size=8)]
    assert rows == alone and {row["value"] for row in rows if row["axis"] == "steps"} == {1, 4}


def test_more_passes_may_come_later():
    config = config_of(train__random_passes=(9, 3, 6), train__passes_rise=(2, 3), train__steps=40)
    drawn = [costs.passes_at(config, step) for step in range(40)]
    assert set(drawn[:2]) == {3} and drawn[2] in (3, 6) and {3, 6, 9} == set(drawn[3:])
    each = costs.of_step(config)
    np.testing.assert_allclose(costs.expected(config), (2 * each[3] + (each[3] + each[6]) / 2 + 37 * sum(each.values()) / 3) / 40)
    with pytest.raises(UsageError, match=r"train.passes_rise=\(5, 2\) must be rising numbers of steps, fewer than the 3 values"):
        config_of(train__random_passes=(9, 3, 6), train__passes_rise=(5, 2))


def test_keys_turn_so_that_ages_are_apart():
    """A key spread over all pairs is read at its age and at no other; norms stay."""
    K, V = 8, 3
    key = np.ones(K) / np.sqrt(K)
    state = FastWeights((jnp.asarray(np.einsum("k,v->kv", key, [1.0, 2, 3]), jnp.float32)[None, None],))
    rotation = np.asarray(turned(FastWeights((jnp.eye(K)[None, None],)), K, (0,)).layers[0][0, 0])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(K), atol=1e-6)
    for age in range(K):
        power = np.linalg.matrix_power(rotation, age)
        np.testing.assert_allclose(state.layers[0][0, 0], np.einsum("k,v->kv", power @ key, [1.0, 2, 3]), atol=1e-5)
        np.testing.assert_allclose(power @ key @ key, float(age == 0), atol=1e-5)
        state = turned(state, K, (0,))
