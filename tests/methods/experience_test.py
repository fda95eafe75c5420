"""Experience: the sampler says what the scorer reads; a sample hangs on its key, row and number alone; the prompt is read once; nothing of the reference is seen."""
import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, decode, tasks
from sleepnet.config import RunConfig, from_dict, parse
from sleepnet.errors import UsageError
from sleepnet.methods.base import Problem
from sleepnet.methods.rl import experience

EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments" / "seeds" / "exprl.py"
ROWS, GROUP = 2, 3
GSM = {"ops": 0, "length": (8, 28), "places": 4, "things": 4, "limit": 10, "window": 28, "answer_alone": True, "chain_of_thought": True}
VALUES = {
    "task": {"name": "gsm", "arguments": GSM},
    "model": {"pattern": "AG", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "window_positions": False, "sleep": {"passes": 2}},
}  # fmt: skip
LAW = decode.Law(0.8)


@pytest.fixture(scope="module")
def made():
    """The problem, parameters, tokens, and the program that draws: (tokens, key) → what was said, and its laws read again."""
    config = from_dict(RunConfig, VALUES)
    task = build.task_of(config)
    graph, params = nnx.split(jax.jit(lambda: build.model_of(config, task))(), nnx.Param)
    problem = Problem(graph, task)
    tokens = jnp.asarray(task.batch(0, "train", 0, ROWS)["tokens"])

    @jax.jit
    def draw(tokens, key):
        state = experience.opened(problem, params, tokens, 2)
        said = experience.drawn(problem, params, state, key, group=GROUP, steps=experience.room(task), law=LAW)
        return said, LAW.log_probs(experience.read_again(problem, params, state, said))

    return problem, params, tokens, draw


def test_the_sampler_says_what_the_scorer_reads(made):
    problem, _, tokens, draw = made
    said, laws = draw(tokens, jax.random.key(0))
    again = np.where(said.valid, experience.chosen(laws, said.tokens), 0)
    np.testing.assert_allclose(said.logps, again, atol=2e-5)
    assert said.tokens.shape == (ROWS, GROUP, experience.room(problem.task)) and (said.lengths == jnp.sum(said.valid, axis=-1)).all()
    assert len({row.tobytes() for row in np.asarray(said.tokens).reshape(ROWS * GROUP, -1)}) == ROWS * GROUP


def test_a_sample_is_a_function_of_its_key_its_row_and_its_number(made):
    problem, params, tokens, draw = made
    said = draw(tokens, jax.random.key(0))[0]
    assert (draw(tokens, jax.random.key(1))[0].tokens != said.tokens).any()

    @jax.jit
    def one(tokens, row, number):
        state = experience.opened(problem, params, tokens, 2)
        return experience.drawn(problem, params, state, jax.random.key(0), group=2, steps=experience.room(problem.task), law=LAW, row=row, number=number)

    for row, number in ((0, 0), (1, 0), (1, 1)):
        np.testing.assert_array_equal(one(tokens[row : row + 1], row, number).tokens[0], said.tokens[row, number : number + 2])
    twice = np.asarray(one(jnp.repeat(tokens[:1], 2, axis=0), 0, 0).tokens)
    assert (twice[0] != twice[1]).any(axis=1).all(), "rows of one prompt say something else"


def test_nothing_of_the_reference_is_read(made):
    problem, _, tokens, draw = made
    other = tokens.at[:, experience.prompt_tokens(problem.task) :].set(1)
    np.testing.assert_array_equal(draw(other, jax.random.key(0))[0].tokens, draw(tokens, jax.random.key(0))[0].tokens)


def test_cut_ends_behind_the_first_marker():
    tokens = jnp.array([[[4, 9, 5, 9, 6], [4, 4, 4, 4, 9], [9, 3, 1, 1, 1], [1, 2, 3, 4, 5]]], jnp.int32)
    said = experience.cut(tokens, jnp.full(tokens.shape, -0.5), marker=9)
    assert said.tokens.tolist() == [[[4, 9, 5, 0, 0], [4, 4, 4, 4, 9], [9, 3, 0, 0, 0], [1, 2, 3, 4, 5]]]
    assert said.answers.tolist() == [[5, -1, 3, -1]] and said.ended.tolist() == [[True, False, True, False]] and said.lengths.tolist() == [[3, 5, 2, 5]]
    assert said.logps.tolist() == (-0.5 * np.asarray(said.valid)).tolist()


def test_what_forking_saves_is_what_the_page_says():
    """Prompts cost once, continuations G times, drawn and learnt from: counted at the size of experiments/seeds/exprl.py, and what reading all anew for each would cost."""
    config = parse(runpy.run_path(str(EXPERIMENT))["get_config"]("base"))
    task, group, saved = tasks.get("gsm", **{**config.task.arguments, "ops": (1, 2), "ops_rise": ()}), 8, {}
    for passes in (1, 4, 8):
        model = build.fit(dataclasses.replace(config.model, sleep=dataclasses.replace(config.model.sleep, passes=passes)), task)
        prompt, said = experience.prompt_flops(model, task, passes), experience.said_flops(model, task, experience.room(task))
        # drawing takes a reading of the prompt and of the chain, a gradient three of each
        saved[passes] = group * (prompt + said) / (prompt + group * said)
        assert experience.again_flops(model, task, experience.room(task)) == said
    told = f"{saved[1]:.1f} × less than with the prompt read for each chain at N = 1, {saved[4]:.1f} × at N = 4, {saved[8]:.1f} × at N = 8"
    assert told in EXPERIMENT.with_suffix(".md").read_text(encoding="utf-8"), told


def test_a_task_whose_prompt_does_not_sleep_is_refused(made):
    problem, params, _, _ = made
    model = nnx.merge(problem.graph, params).config
    experience.check(problem.task, model)
    awake = build.task_of(from_dict(RunConfig, {**VALUES, "task": {"name": "gsm", "arguments": {**GSM, "answer_alone": False}}}))
    with pytest.raises(UsageError, match="answer_alone=True"):
        experience.check(awake, model)
    with pytest.raises(UsageError, match="window_positions=True"):
        experience.check(problem.task, dataclasses.replace(model, window_positions=True))
    with pytest.raises(UsageError, match="predict_passes=2"):
        experience.check(problem.task, dataclasses.replace(model, sleep=dataclasses.replace(model.sleep, predict_passes=2)))
