"""ExpRL: what the published rules add up to, what is masked, controls, what is refused; and a step of it on a model."""
import dataclasses
import itertools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rewards_test import ROWS, problems, spoilt_chains

from sleepnet import build, decode, methods
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.eval import pass_at_k
from sleepnet.eval.runner import evaluate
from sleepnet.methods import base
from sleepnet.methods.rl import advantages, experience, judge
from sleepnet.study import resolve
from sleepnet.study.spec import parse as parse_study
from sleepnet.train.step import REFERENCES, draw, gradients, learning_of, prepared

GROUP = 6


@pytest.fixture(scope="module")
def read():
    """A task and a batch of it as the method reads them, chains right and spoilt, the last of each group cut."""
    task, batch, milestones, chains = problems()
    tokens = spoilt_chains(0, chains)
    lengths = (tokens != 0).sum(-1)
    tokens[:, 5, lengths[:, 5].max() :] = 0
    valid = np.arange(tokens.shape[-1]) < lengths[..., None]
    ended = np.ones((ROWS, GROUP), bool)
    ended[:, 5] = False
    answers = np.where(ended, np.take_along_axis(tokens, lengths[..., None] - 1, axis=-1)[..., 0], -1)
    said = experience.Experience(jnp.asarray(tokens), jnp.zeros(tokens.shape), jnp.asarray(valid), jnp.asarray(ended), jnp.asarray(answers))
    given = {"targets": jnp.asarray(batch["targets"])} | {f"milestone_{name}": getattr(milestones, name) for name in ("names", "values", "needs")}
    return task, given, said


def judged(read, seed=0, counted=None, **arguments):
    task, given, said = read
    method = methods.get("exprl", **arguments)
    counted = jnp.ones((ROWS, GROUP), bool) if counted is None else counted
    return jax.tree.map(np.asarray, jax.jit(lambda key: method.judgement(task, given, said, counted, key))(jax.random.key(seed)))


def test_outcomes_by_hand(read):
    """5 for right chains, 1 … 4 for others; 0 for one that was cut; the same advantage for every token, none in all."""
    task, given, said = read
    told = judged(read)
    right = np.asarray(said.answers) == np.asarray(given["targets"])[:, -1:]
    assert (told["rewards"][:, 0] == 1).all() and (told["rewards"][:, 5] == 0).all() and set(np.unique(told["rewards"])) <= {0, 0.25, 0.5, 0.75, 1}
    assert (told["rewards"][~right] <= 0.75).all() and (told["misplaced"] == 0).all()
    np.testing.assert_allclose(told["advantages"], np.asarray(advantages.group_normalised(jnp.asarray(told["rewards"]), jnp.ones((ROWS, GROUP), bool)))[..., None] + 0 * told["advantages"], atol=1e-6)
    sparse = judged(read, reward="exact")
    np.testing.assert_array_equal(sparse["rewards"], right)
    np.testing.assert_allclose(sparse["advantages"][..., 0].sum(1), 0, atol=1e-4)
    masked = judged(read, counted=said.ended, truncated="mask")
    assert (masked["advantages"][:, 5] == 0).all()
    np.testing.assert_allclose(masked["advantages"][..., 0].sum(1), 0, atol=1e-4)


@pytest.mark.parametrize("which", ["prefix", "step"])
def test_process_telescopes_and_with_the_outcome_it_does_not(read, which):
    task, _, said = read
    process, both = judged(read, advantage="process", judged=which), judged(read, advantage="process+outcome", judged=which)
    outcome = judged(read)
    np.testing.assert_allclose(both["advantages"], process["advantages"] + outcome["advantages"], atol=1e-5)
    tokens = np.asarray(said.tokens)
    first = np.cumsum(tokens == task.grammar.stop, axis=-1) - (tokens == task.grammar.stop)
    for row, g in itertools.product(range(ROWS), range(GROUP)):
        valid = np.asarray(said.valid)[row, g]
        of_steps = [process["advantages"][row, g][valid & (first[row, g] == step)] for step in range(first[row, g][valid].max() + 1)]
        assert all(len(set(values.tolist())) == 1 for values in of_steps)
        assert abs(sum(values[0] for values in of_steps)) < 1e-6
    moved = np.abs(process["advantages"][:, 0]).sum(-1)
    assert (moved > 0).all() and (process["advantages"][:, 5] == 0).all()


def test_controls_know_nothing_of_the_chain_they_grade(read):
    own, wrong, dealt = judged(read), judged(read, control="wrong_reference"), judged(read, control="random_reward")
    assert wrong["rewards"].max() <= 0.25 < own["rewards"].max()
    assert sorted(dealt["rewards"].ravel()) == sorted(own["rewards"].ravel()) and (dealt["rewards"] != own["rewards"]).any()
    noisy = judged(read, noise=1.0)
    assert (noisy["rewards"] != own["rewards"]).any() and (judged(read, noise=1.0, seed=1)["rewards"] != noisy["rewards"]).any()
    steps = judged(read, control="random_reward", advantage="process")
    assert (steps["advantages"] != judged(read, advantage="process")["advantages"]).any()


def test_who_knows_no_reference_checks_sums_alone(read):
    """As good for another problem's chain as for its own; the right answer is not looked at."""
    task, given, said = read
    told, process = judged(read, reward="sound"), judged(read, reward="sound", advantage="process")
    shares = np.asarray(judge.sound_shares(said.tokens, said.valid, task.grammar))[..., -1]
    ended = np.asarray(said.ended)
    assert (told["rewards"][ended & (shares == 1)] == 1).all() and (told["rewards"][~ended] == 0).all() and (told["rewards"][shares < 1] < 1).all()
    blind = task, {"targets": given["targets"] * 0}, said
    np.testing.assert_array_equal(judged(blind, reward="sound")["rewards"], told["rewards"])
    assert (judged(read, reward="sound", advantage="process", judged="step")["advantages"] != process["advantages"]).any()


def test_a_silent_batch_stands_where_that_is_asked_for():
    batch = {"advantages": jnp.zeros((2, 3, 4))}
    assert methods.get("exprl").moves(batch) is None and not bool(methods.get("exprl", silence="stand").moves(batch))
    assert bool(methods.get("exprl", silence="stand").moves({"advantages": batch["advantages"].at[1, 0, 0].set(-0.1)}))


def test_what_reads_as_none_is_masked(read, monkeypatch):
    """A chain with a sentence that is none counts for nothing: no advantage, and no part of its group's mean; without the mask it is judged as it stands."""
    task, given, said = read
    tokens = np.asarray(said.tokens).copy()
    tokens[:, 1, 0] = task.grammar.stop  # the first sentence has no beginning
    said = dataclasses.replace(said, tokens=jnp.asarray(tokens))
    problem = base.Problem(None, task)
    for how in ("mask", "zero"):
        method = methods.get("exprl", unparsable=how, anchor="", kl_weight=0.0)
        monkeypatch.setattr(type(method), "drawn_of", lambda *_: (said, said.answers == given["targets"][:, -1:]))
        ready = jax.jit(lambda key: method.prepare(problem, None, (), {"tokens": said.tokens[:, 0], **given}, key, 1)[0])(jax.random.key(0))  # noqa: B023
        reads = np.asarray(judge.reads_throughout(said.tokens, said.valid, task.grammar))
        masked = (np.asarray(ready["weights"]) == 0).all(-1)
        assert not reads[:, 1].any() and reads[:, 0].all()
        assert (masked == (~reads if how == "mask" else False)).all() and not np.asarray(ready["advantages"])[masked].any()
        np.testing.assert_allclose(np.asarray(ready["advantages"])[..., 0].sum(1), 0, atol=1e-4)  # the mean is of those that count


GSM = {"ops": 0, "length": (8, 28), "places": 4, "things": 4, "limit": 10, "window": 28, "answer_alone": True, "chain_of_thought": True}
VALUES = {
    "task": {"name": "gsm", "arguments": GSM}, "method": {"name": "exprl", "arguments": {"group": 3, "tried": 0, "advantage": "process+outcome", "kl_weight": 0.5}},
    "model": {"pattern": "AG", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "window_positions": False}, "train": {"batch_size": 2, "steps": 4}, "start": "runs/base",
}  # fmt: skip


def run_of(**changes) -> RunConfig:
    return from_dict(RunConfig, {**VALUES, **{key: {**VALUES[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}})


def test_a_step_on_a_model():
    """Unended chains have no gradient where they are masked; at π = π_0 the divergence is 0; with equal scores all gradients are."""
    config = run_of()
    task = build.task_of(config)
    learning = learning_of(config, task)
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    batch = task.batch(0, "train", 0, 2)
    batch = {key: jnp.asarray(value) for key, value in batch.items() if key != "difficulty"} | {key: jnp.asarray(value) for key, value in learning.method.draw(task, config, batch).items()}
    state = learning.begin(params, 2)

    @jax.jit
    def step(anchor, scale, heavier):
        frozen = {REFERENCES: {"anchor": anchor}}
        ready, _ = prepared(learning, state, frozen, batch, jnp.asarray(draw(0, "", 0)), 1)
        ready["advantages"] = jnp.where(ready["valid"], scale * ready["advantages"] + heavier, 0.0)
        return (ready, *gradients(learning, params, frozen, ready, 1))

    ready, loss, grads, told = step(params, 0.0, 0.0)
    assert set(told) == {*learning.method.tells, "exact", "answered"} and int(told["answered"]) == 6
    assert abs(float(told["kl"])) < 1e-6 and 0 < float(told["length"]) <= experience.room(task) and float(told["entropy"]) > 1
    ended, scores = np.asarray(ready["ended"]), np.asarray(ready["rewards"])
    assert float(told["cut"]) == pytest.approx(1 - ended.mean()) and float(told["silent"]) == pytest.approx((scores.max(1) == scores.min(1)).mean()) and (scores[~ended] == 0).all()
    assert all(float(jnp.max(jnp.abs(leaf))) < 1e-6 for leaf in jax.tree.leaves(grads))  # no advantage, at the reference
    other = jax.tree.map(lambda leaf: leaf * 1.1, params)
    assert float(step(other, 0.0, 0.0)[3]["kl"]) > 0 and float(step(params, 0.0, 1.0)[1]) == pytest.approx(-1.0, abs=1e-5)


def test_pass_at_k_is_that_of_all_choices():
    for chains, right, k in itertools.product((6,), range(7), (1, 2, 5, 6)):
        picks = list(itertools.combinations(range(chains), k))
        assert pass_at_k.estimate(chains, right, k) == pytest.approx(sum(min(pick) < right for pick in picks) / len(picks)), (right, k)
    told = pass_at_k.told(np.array([0, 64, 1]), 64)
    assert told["coverage"] == told["pass_at"]["64"] == pytest.approx(2 / 3) and told["pass_at"]["1"] == pytest.approx((1 + 1 / 64) / 3)
    assert list(pass_at_k.told(np.array([1]), 20)["pass_at"]) == ["1", "4", "16"]
    with pytest.raises(ValueError, match="pass@4"):
        pass_at_k.estimate(2, 1, 4)


@pytest.mark.slow  # three programs of a model; the formula alone is above
def test_pass_at_k_of_a_model_does_not_hang_on_the_batch():
    config = run_of()
    task = build.task_of(config)
    model = build.model_of(config, task)
    rows = evaluate(model, task, passes=[1], examples=3, batch_size=2, chains=5, keep_answers=True)
    graph, params = nnx.split(model, nnx.Param)
    batch = task.batch(0, "test", 0, 3)
    right = pass_at_k.right(graph, params, batch["tokens"], batch["targets"], np.int32(0), np.int32(0), task=task, passes=1, chains=5, law=decode.Law())
    assert rows[0]["chains"] == 5 and rows[0]["pass_at"] == pass_at_k.told(np.asarray(right), 5)["pass_at"] and list(rows[0]["pass_at"]) == ["1", "4"]
    assert rows[0]["right_chains"] == np.asarray(right).tolist() and "right_chains" not in evaluate(model, task, passes=[1], examples=1, batch_size=1, chains=5)[0]
    with pytest.raises(UsageError, match="answer_alone=True"):
        evaluate(model, build.task_of(run_of(task={"arguments": {**GSM, "answer_alone": False}})), passes=[1], examples=1, batch_size=1, chains=5)


@pytest.mark.parametrize("arguments, message", [
    ({"group": 1}, "group=1 has nothing"),
    ({"reward": "exact", "advantage": "end"}, "reward='exact' tells of none"),
    ({"advantage": "procces"}, "did you mean"),
    ({"noise": 1.5}, "noise=1.5"),
    ({"temperature": 0.0}, "temperature=0.0"),
    ({"clip_low": 1.0}, "clip_low must lie between 0 and 1"),
    ({"graded": -1}, "tried and graded"),
    ({"anchor": ""}, "kl_weight=0.001"),
    ({"reward": "sound", "control": "wrong_reference"}, "knows no reference"),
    ({"reward": "exact", "unparsable": "mask"}, "reads no sentence"),
])  # fmt: skip
def test_what_no_method_is(arguments, message):
    with pytest.raises(UsageError, match=message):
        methods.get("exprl", **arguments)


def test_runs_that_nothing_can_be_learnt_from_are_refused(monkeypatch):
    config = run_of()
    task, method = build.task_of(config), methods.of(config)
    method.check(config, task)
    with pytest.raises(UsageError, match="answer_alone=True"):
        method.check(config, build.task_of(run_of(task={"arguments": {**GSM, "answer_alone": False}})))
    with pytest.raises(UsageError, match="train.batch_size=1"):
        dataclasses.replace(method, control="wrong_reference").check(run_of(train={"batch_size": 1}), task)
    with pytest.raises(UsageError, match="direction='forward'"):
        method.check(config, build.task_of(run_of(task={"arguments": {**GSM, "direction": "reverse", "ops": 1, "length": (8, 60), "window": 80}})))
    none = lambda self, problem, params, tokens, targets, key, passes: (None, jnp.zeros((len(tokens), self.group), bool))
    monkeypatch.setattr(type(method), "drawn_of", none)
    with pytest.raises(UsageError, match="answers none of 16 problems of gsm.* in 64 chains"):
        dataclasses.replace(method, tried=16).check_model(config, learning_of(config, task).problem, {})


@pytest.mark.parametrize("file, which, arms", [("exprl", "decisive", ("sleep4", "once")), ("exprl", "decisive", ("exprl_outcome", "sft_native", "sft_foreign")), ("mem_pi", "decisive", ("decoupled05", "score2")), ("mem_pi", "all", ("decoupled05", "once"))])
def test_arms_that_are_said_to_cost_as_much_do(file, which, arms):
    """FLOPs of each phase, within half a percent."""
    made = runpy.run_path(str(Path(__file__).resolve().parents[2] / "experiments" / "seeds" / f"{file}.py"))["get_config"](which)
    made.arms = [arm for arm in made.arms if arm["name"] in arms]
    made.reference = arms[0]
    first, *others = [[resolve.train_flops(config) for config in chain] for chain in resolve.chains(parse_study(made)).values()]
    assert others and all(each == pytest.approx(first, rel=5e-3) for each in others)
