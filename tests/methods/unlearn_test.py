"""Unlearning: which chains count, the objective's gradient by hand, strength 0, a part that may move alone; what is refused."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import adapters, build, methods, start
from sleepnet.checkpoint import load_model
from sleepnet.config import AdaptersConfig, RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.forgetting import unlearn
from sleepnet.methods.rl import experience, policy
from sleepnet.origin import named
from sleepnet.train.loop import train
from sleepnet.train.step import REFERENCES, _key, draw, learning_of, make_step

THINGS = ("jars", "bags")
VALUES = {
    "task": {"name": "gsm", "arguments": {"ops": 0, "length": (8, 28), "places": 4, "things": 4, "limit": 10, "window": 28, "answer_alone": True, "chain_of_thought": True}},
    "method": {"name": "unlearn", "arguments": {"forget": THINGS, "retain": ("crates", "baskets"), "retain_weight": 0.5, "group": 3}},
    "model": {"pattern": "AG", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "window_positions": False}, "train": {"batch_size": 4, "steps": 4}, "start": "runs/rl",
    "adapters": {"kind": "named", "names": r"blocks\.0\.mixer\.(q|v)\.kernel"}, "optim": {"weight_decay": 0.1, "warmup": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    config = from_dict(RunConfig, VALUES)
    task = build.task_of(config)
    learning = learning_of(config, task)
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    batch = task.batch(0, "train", 0, 4)
    ready = {key: jnp.asarray(value) for key, value in batch.items() if key != "difficulty"}
    return config, learning, params, ready | {key: jnp.asarray(value) for key, value in learning.method.draw(task, config, batch).items()}


def test_what_is_asked_for_says_what_is_forgotten(made):
    _, learning, _, batch = made
    task = learning.problem.task
    for row, tokens in enumerate(np.asarray(batch["tokens"])):
        question = [task.token(int(token)) for token in tokens if token]
        thing = question[question.index("of") + 1]
        assert bool(batch["forget"][row]) == (thing in THINGS) and bool(batch["retain"][row]) == (thing in ("crates", "baskets"))
    assert batch["forget"].any() and batch["retain"].any()


def test_what_is_easier_is_far_and_never_forgotten(made):
    """By the task's own count of operations, an independent reading of the text: sentences of the solution that compute."""
    config, learning, _, _ = made
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, arguments={**config.task.arguments, "ops": (0, 1), "length": (8, 47), "window": 47}))
    task = build.task_of(config)
    batch = task.batch(0, "train", 0, 64)
    kinds = dataclasses.replace(learning.method, least=1).draw(task, config, batch)
    for row, tokens in enumerate(batch["tokens"]):
        words = [task.token(int(token)) for token in tokens if token]
        thing, sums = words[words.index("of") + 1], any(word in words for word in "+-×")
        assert kinds["far"][row] == (not sums) and kinds["forget"][row] == (sums and thing in THINGS) and kinds["retain"][row] == (thing in ("crates", "baskets"))
    assert 0 < kinds["far"].sum() < 64 and kinds["forget"].any()
    none = {**batch, "difficulty": {axis: np.full_like(value, -1) for axis, value in batch["difficulty"].items()}}
    assert not dataclasses.replace(learning.method, least=1).draw(task, config, none)["far"].any()


def test_a_look_tells_what_is_near_and_what_is_far_apart(made, monkeypatch):
    """Right, and the distance from the anchor, are given: each mean is over its own kind alone."""
    config, learning, params, _ = made
    kinds = {"forget": np.array([1, 0, 0, 0, 0, 1], bool), "far": np.array([0, 1, 1, 1, 0, 0], bool), "retain": np.zeros(6, bool)}
    right, apart = np.array([1, 1, 0, 1, 0, 0], bool), np.array([9.0, 8, 7, 6, 0.5, 5])
    monkeypatch.setattr(unlearn, "_greedy", lambda *_: (right, apart))
    monkeypatch.setattr(unlearn.Unlearn, "_asked", lambda *_: kinds)
    problem = dataclasses.replace(learning.problem, references={"anchor": params})
    assert learning.method.look(config, problem, params) == pytest.approx({
        "forget_exact": 1 / 2, "forget_asked": 2, "near_exact": 0.0, "near_asked": 1, "near_kl": 0.5, "far_exact": 2 / 3, "far_asked": 3,
    })  # fmt: skip


@pytest.mark.parametrize("objective", ["npo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascent", "simnpo"))])
def test_the_loss_is_the_objective_s_over_right_chains(made, objective):
    _, learning, params, batch = made
    method = dataclasses.replace(learning.method, objective=objective)
    rows, steps = 4, 6
    rng = np.random.default_rng(0)
    said = jnp.asarray(rng.integers(1, 9, (rows, 3, steps)), jnp.int32)
    valid = jnp.asarray(np.arange(steps) < rng.integers(2, steps + 1, (rows, 3, 1)))
    right = jnp.asarray(rng.random((rows, 3)) < 0.6)
    forgotten, kept = right & batch["forget"][:, None], right & batch["retain"][:, None]
    old = jnp.asarray(-rng.random((rows, 3, steps)), jnp.float32)
    total = lambda where: jnp.full((rows,), jnp.sum(where.astype(jnp.float32)))
    ready = {
        **batch, "said": said, "said_logps": old, "valid": valid, "ended": right, "answers": said[..., 0], "forgotten": forgotten, "kept": kept, "anchor_logps": old,
        "forgotten_in_all": total(forgotten), "kept_tokens_in_all": total(valid & kept[..., None]),
    }  # fmt: skip
    loss, seen = jax.jit(lambda params: method.loss(learning.problem, params, ready, 1, jnp.ones(())))(params)
    logps = np.where(valid, seen["logps"], 0)
    whole = {"ascent": logps.sum(-1), "npo": policy.npo(seen["logps"], old, valid, 0.1), "simnpo": policy.simnpo(seen["logps"], valid, 0.1)}[objective]
    by_hand = np.asarray(whole)[np.asarray(forgotten)].mean() - 0.5 * logps[np.asarray(kept)].sum() / np.asarray(valid)[np.asarray(kept)].sum()
    assert float(loss) == pytest.approx(by_hand, rel=1e-4)


def test_a_batch_without_right_chains_moves_nothing(made):
    method = made[1].method
    chains = lambda *right: {"forgotten": jnp.asarray(right), "kept": jnp.zeros((2,), bool)}
    assert not bool(method.moves(chains(False, False))) and bool(method.moves(chains(False, True)))


@pytest.mark.slow
def test_what_was_not_chosen_keeps_its_bytes(made):
    config, learning, params, batch = made
    trainable, frozen = adapters.split(config.adapters, params, 0)
    held = frozen | {REFERENCES: {"anchor": params}}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        none = {**batch, "targets": jnp.full_like(batch["targets"], -5)}
        step = make_step(learning)
        copy = lambda: learning.begin(jax.tree.map(jnp.array, trainable), 4)
        stood, numbers = step(copy(), held, none, draw(0, "", 0), 1)
        assert float(numbers["chains_used"]) == 0 and all((a == b).all() for a, b in zip(jax.tree.leaves(stood.params), jax.tree.leaves(trainable)))
        said = jax.jit(lambda: experience.drawn(learning.problem, params, experience.opened(learning.problem, params, batch["tokens"], 1), _key(jnp.asarray(draw(0, "", 0))), group=3, steps=experience.room(learning.problem.task)))()
        right = {**batch, "targets": batch["targets"].at[:, -1].set(jnp.where(said.ended.any(1), jnp.max(said.answers, axis=1), -5))}
        moved, numbers = step(copy(), held, right, draw(0, "", 0), 1)
    if float(numbers["chains_used"]):
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(moved.params), jax.tree.leaves(trainable)))
    whole = learning.whole(moved.params, frozen)
    for name, leaf in _named(whole).items():
        same = leaf.tobytes() == _named(params)[name].tobytes()
        assert same or name in ("blocks.0.mixer.q.kernel", "blocks.0.mixer.v.kernel"), name


def _named(tree):
    return {name: np.asarray(leaf) for name, leaf in named(tree).items()}


HEADS = r"\.mixer\.(q|k|v|out)\.kernel"


def heads_of(learning, config, score, share=0.25, **changes):
    """The method, and a run of it that lets heads' slices change."""
    config = dataclasses.replace(config, adapters=AdaptersConfig("heads", HEADS, share=share))
    return dataclasses.replace(learning.method, score=score, before="runs/sft", **changes), config


def test_scores_choose_the_slices_that_they_say(made, monkeypatch):
    """By size the slice that was changed most; by coupling the one that the gradient lies along; the whole score needs all of it; bottom is the other end."""
    config, learning, params, _ = made
    changed = lambda name, by: jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * by if jax.tree_util.keystr(path, simple=True, separator=".") == name else leaf * 1.01, params)
    q, v, out = (f"blocks.{at}.mixer.{which}.kernel" for at, which in ((0, "q"), (1, "v"), (0, "out")))
    within = lambda before: dataclasses.replace(learning.problem, references={"before": before, "anchor": params})
    chosen = lambda score, before, share=0.125, **changes: (lambda method, run: method.chosen(run, within(before), params))(*heads_of(learning, config, score, share, **changes))
    assert chosen("magnitude", changed(q, 2.0)) == [f"{q}#0"] and chosen("magnitude", changed(out, 3.0)) == [f"{out}#0"]
    along = lambda self, run, problem: jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if v in jax.tree_util.keystr(path, simple=True, separator=".") else leaf * 0, params)
    monkeypatch.setattr(type(learning.method), "gradient", along)
    assert chosen("coupling", changed(q, 2.0)) == chosen("mast", changed(q, 2.0)) == [f"{v}#0"]
    ranked = chosen("mast", changed(q, 2.0), 0.99)
    assert len(ranked) == 8 and set(chosen("bottom", changed(q, 2.0), 0.5)).isdisjoint(ranked[:1])
    drawn = [chosen("random", params, 0.5, pick=pick) for pick in range(4)]
    assert all(len(set(each)) == 4 for each in drawn) and len({tuple(sorted(each)) for each in drawn}) > 1 and drawn[0] == chosen("random", params, 0.5)


def test_reverting_is_drawn_straight_to_what_was_before(made):
    """∇ ½ ‖W − W_before‖² = W − W_before, whatever the batch is cut into."""
    before = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    here = {"a": jnp.array([1.5, 0.0]), "b": jnp.array([[3.0]])}
    method = methods.get("revert", forget=THINGS, before="runs/sft")
    problem = dataclasses.replace(made[1].problem, references={"before": before})
    batch = {"tokens": jnp.zeros((2, 3), jnp.int32)}
    loss, grads = jax.value_and_grad(lambda params: sum(method.loss(problem, params, batch, 1, jnp.asarray(4.0))[0] for _ in range(2)))(here)
    assert float(loss) == pytest.approx((0.5**2 + 2**2) / 2) and grads["a"].tolist() == [0.5, -2.0] and grads["b"].tolist() == [[0.0]]
    assert method.moves(batch) is None and method.draw(None, None, batch) == {}


@pytest.mark.slow  # two programs of a model and a run; what is chosen and what acts is above and in adapters_test
def test_a_run_of_chosen_heads_says_which_and_goes_on(made, tmp_path, monkeypatch):
    config, learning, params, _ = made
    before = jax.tree.map(lambda leaf: leaf * 0.9, params)
    places = {"runs/rl": params, "runs/sft": before}
    monkeypatch.setattr(start, "_elsewhere", lambda key, where: (places[where], {"start": where, "kind": "run", "flops": 0, "tokens": 0, "chain": []}))
    values = {**VALUES, "method": {"name": "unlearn", "arguments": {"forget": THINGS, "score": "magnitude", "before": "runs/sft", "looked": 8, "group": 2}}, "adapters": {"kind": "heads", "names": HEADS, "share": 0.25},
              "train": {"batch_size": 4, "steps": 4, "eval_every": 2, "eval_examples": 4, "save_every": 2, "log_every": 2}, "eval": {"batch_size": 4}, "optim": {"warmup": 1, "decay": 0.0}}  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = from_dict(RunConfig, values)
        train(dataclasses.replace(run, train=dataclasses.replace(run.train, steps=2)), tmp_path / "one", quiet=True)
        train(run, tmp_path / "one", quiet=True)
        chosen = json.loads((tmp_path / "one" / "start.json").read_text())["heads"]
        lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
        loaded = named(nnx.to_pure_dict(nnx.split(load_model(tmp_path / "one").model, nnx.Param)[1]))
    looks = [line for line in lines if line.get("split") == "validation"]
    assert [line["step"] for line in looks] == [0, 2, 4] and all(line["forget_asked"] + line["near_asked"] == 8 and not line["far_asked"] for line in looks) and looks[0]["near_kl"] == pytest.approx(0, abs=1e-6)
    assert len(chosen) == 2
    for name, leaf in named(params).items():
        free = [each for each in chosen if each.startswith(name)]
        assert free or np.asarray(leaf).tobytes() == np.asarray(loaded[name]).tobytes(), name


@pytest.mark.parametrize("arguments, message", [
    ({"forget": ()}, "names nothing to forget"),
    ({"forget": ("bags",), "score": "mist"}, "did you mean 'mast'"),
    ({"forget": ("bags",), "retain": ("crates", "bags"), "retain_weight": 1.0}, "both have bags"),
    ({"forget": ("bags",), "retain": ("crates",)}, "retain_weight=0.0 must be positive"),
    ({"forget": ("bags",), "objective": "nop"}, "did you mean"),
])  # fmt: skip
def test_what_is_refused(made, arguments, message):
    with pytest.raises(UsageError, match=message):
        methods.get("unlearn", **arguments)
    config, learning, _, _ = made
    with pytest.raises(UsageError, match="before, which is empty"):
        methods.get("revert", forget=("bags",))
    nothing, run = heads_of(learning, config, "mast")
    with pytest.raises(UsageError, match="before, which is empty"):
        dataclasses.replace(nothing, before="").check(run, learning.problem.task)
    with pytest.raises(UsageError, match="method.name='unlearn' has no choice|has no choice: set adapters.kind"):
        methods.get("answers").chosen(run, learning.problem, {})
    with pytest.raises(UsageError, match="none asks for jars, bags at least=3: lower least"):
        dataclasses.replace(learning.method, least=3).check(config, learning.problem.task)
    with pytest.raises(UsageError, match="no word 'bag'"):
        dataclasses.replace(learning.method, forget=("bag",)).check(config, learning.problem.task)
