"""Distillation from oneself: the reference as text, its law and the loss by the model's forward pass over all windows, what is refused."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rewards_test import ROWS, problems, solved, words_of

from exprl_test import VALUES
from sleepnet import build, methods
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.rl import experience, self_distill
from sleepnet.train.step import REFERENCES, draw, gradients, learning_of, prepared


def run_of(**arguments) -> RunConfig:
    return from_dict(RunConfig, {**VALUES, "method": {"name": "self_distill", "arguments": {"group": 3, **arguments}}})


def test_a_reference_says_what_the_answer_hangs_on():
    """Each quantity once, with sympy's value, behind those that it follows from by a parser of its own."""
    task, _, milestones, _ = problems()
    text = self_distill.sentences(np.asarray(milestones.names), np.asarray(milestones.values), task.grammar, task.window)
    for row in range(ROWS):
        _, values, core = solved(row)
        said = [sentence.strip() for sentence in " ".join(words_of(task, text[row])).split(".") if sentence.strip()]
        assert len(said) == len(core) == len(set(said)) and text[row].shape == (task.window,) and text[row, -1] == task.grammar.stop
        place = {name: said.index(f"The number of {name[0]} in {name[1]} = {values[name]}") for name in core}
        assert all(place[other] < place[name] for name, needs in core.items() for other in needs)


@pytest.mark.parametrize("beta, control", [(1.0, "wrong_reference"), pytest.param(0.0, "", marks=pytest.mark.slow)])
def test_loss_is_how_far_one_is_from_oneself_who_knows(beta, control):
    """Both laws by `forward`: over the problem's window and the chain's, and over both with the reference's between them, or that of the next row."""
    config = run_of(beta=beta, control=control)
    task = build.task_of(config)
    learning = learning_of(config, task)
    model = jax.jit(lambda: build.model_of(config, task))()
    params = jax.tree.map(lambda leaf: leaf * 1.5, nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))
    batch = task.batch(0, "train", 0, 2)
    batch = {key: jnp.asarray(value) for key, value in batch.items() if key != "difficulty"} | {key: jnp.asarray(value) for key, value in learning.method.draw(task, config, batch).items()}
    state = learning.begin(params, 2)

    @jax.jit
    def step(params):
        ready, _ = prepared(learning, state, {REFERENCES: {}}, batch, jnp.asarray(draw(0, "", 0)), 1)
        return (ready, *gradients(learning, params, {REFERENCES: {}}, ready, 1))

    ready, loss, grads, told = step(params)
    assert set(told) == {*learning.method.tells, "exact", "answered"} and float(told["apart"]) == pytest.approx(float(loss)) and float(loss) > 1e-5
    assert any(float(jnp.max(jnp.abs(leaf))) > 1e-6 for leaf in jax.tree.leaves(grads))
    of = nnx.merge(learning.problem.graph, params)
    L, T = task.window, ready["said"].shape[-1]

    @jax.jit
    def law(text, said):
        sequence = jnp.concatenate([text, jnp.full((1, 1), task.opening, jnp.int32), said[None, :-1]], axis=1)
        asleep = text.shape[1] // L
        return jax.nn.log_softmax(of.forward(sequence, passes=1, predicts=(False,) * asleep + (True,))[0, asleep * L :] / 0.8, axis=-1)

    total = 0.0
    for row in range(2):
        problem = batch["tokens"][row : row + 1, :L]
        for g in range(3):
            valid = np.asarray(ready["valid"][row, g])
            alone, knowing = (np.asarray(law(text, ready["said"][row, g])) for text in (problem, jnp.concatenate([problem, batch["reference"][None, (row + bool(control)) % 2]], axis=1)))
            np.testing.assert_allclose(np.asarray(ready["laws"][row, g])[valid], knowing[valid], atol=2e-4)
            p, q = (alone, knowing) if beta == 1 else (knowing, alone)
            total += (np.exp(p) * (p - q)).sum(-1)[valid].sum()
    assert T == task.seq_len - L and float(loss) == pytest.approx(total / float(np.sum(ready["valid"])), rel=1e-3)


def test_a_teacher_of_its_own_reads_the_problem_once_more():
    config = run_of()
    task, method = build.task_of(config), methods.of(config)
    model = build.fit(config.model, task)
    assert dataclasses.replace(method, teacher="start").flops(model, task, 1) - method.flops(model, task, 1) == experience.prompt_flops(model, task, 1)


def test_a_reference_that_has_no_room_is_refused(monkeypatch):
    config = run_of()
    task, method = build.task_of(config), methods.of(config)
    method.check(config, task)
    with pytest.raises(UsageError, match="train.batch_size=1"):
        alone = from_dict(RunConfig, {**VALUES, "train": {"batch_size": 1, "steps": 4}, "method": {"name": "self_distill", "arguments": {"control": "wrong_reference"}}})
        methods.of(alone).check(alone, task)
    monkeypatch.setattr(type(task), "milestones", lambda self, tokens: (np.zeros((1, 4, 5), np.int32), None, None))
    with pytest.raises(UsageError, match="a reference of 36 tokens is longer than the window that it is read in: set task.arguments.window to 36 or more"):
        method.check(config, task)
