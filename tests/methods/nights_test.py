"""One night after another: dreams in other words, rehearsal of days before, fine-tuning beside it, its anchor by hand; killed within a night, and lengthened."""
import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seeding_test import NIGHT, ROWS, STREAM, VALUES, batch_of, run_of
from sleepnet import adapters, build, methods, tasks
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.night import by_night, dreams, seeding
from sleepnet.models import experts
from sleepnet.origin import named
from sleepnet.train import loop
from sleepnet.train.step import draw, learning_of, make_step
from train_test import compiled_once, lines, parameters  # noqa: F401, fixtures among them


@pytest.mark.parametrize("kind", ["asked", "paraphrased"])
def test_a_dream_in_other_words_is_the_tasks_own_question(kind):
    """Against the examples that the task makes, keys of two names and keys of digits."""
    arguments = {**STREAM, "days": 3, "facts": 4, "links": 2, "digits": 3, "names": 9, "window": 16, "told": "nothing", "asks": (kind,)}
    task = tasks.get("days", **arguments)
    batch, n = task.batch(0, "test", 0, 12), task.recalled.shape[-1]  # days take turns, each goes through its facts
    words = np.stack([task.recalled[row % 3, row // 3] for row in range(12)])
    other = None if kind == "asked" else jnp.full((12,), kind == "paraphrased")
    sequence, learnt = map(np.asarray, dreams.put(task, jnp.asarray(words), jnp.asarray(words != 0), jnp.zeros((), bool), other))
    ends = batch["targets"] == task.end
    for row in range(12):
        last = int(np.flatnonzero(ends[row])[0])
        assert sequence[row, : last + 1].tolist() == batch["tokens"][row, : last + 1].tolist() and last < sequence.shape[1] == n + (other is not None)
        assert np.flatnonzero(learnt[row]).tolist() == np.flatnonzero(batch["loss_mask"][row]).tolist()


def learnt(method, arguments, *, count, steps=2 * NIGHT):
    """learning, frozen, the step, and params, optimiser's state and numbers after each step."""
    config = run_of(method={"name": method, "arguments": arguments}, model={"experts": {"count": count, "rank": 2}})
    made = build.task_of(config)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        learning = learning_of(config, made)
        trainable, frozen = adapters.split(config.adapters, nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, made), nnx.Param)[1])()), 0)
        state, step, states = jax.jit(learning.begin, static_argnums=1)(trainable, ROWS), make_step(learning), []
        for at in range(steps + 1):
            states.append(jax.tree.map(np.asarray, state))
            if at < steps:
                state, numbers = step(state, frozen, batch_of(made, at), draw(0, "", at), 2)
                assert np.isfinite([float(value) for value in numbers.values()]).all()
    return learning, frozen, states


def test_days_before_are_rehearsed_from_the_second_night_on():
    """In night n by (n − 1) / n of the rows, whose teacher is what one expert for all nights was at dusk, with S = 0; words of keys count."""
    config = run_of(method={"arguments": {"rehearse": True, "own": 0.0, "dreams": 2, "grow": False}})
    task = build.task_of(config)
    learning = learning_of(config, task)
    method, problem = learning.method, learning.problem
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    fresh = lambda seed: jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(seed), leaf.shape), adapters.split(config.adapters, experts.grow(params), 0)[0])
    born = lambda tree: {"blocks": {0: {"experts": {**tree["blocks"][0]["experts"], "born": jnp.asarray([1.0, 0.0])}}}}
    now, dusk = (by_night.with_part(params, born(fresh(seed))) for seed in (1, 2))
    start = by_night.part_of(method.memory(ROWS, born(fresh(1)))["start"], dusk)

    @jax.jit
    def of(step, nth):
        batch, key = batch_of(task, 0), jax.random.fold_in(jax.random.key(3), nth)
        ready, memory = method.prepare(problem, now, {"step": step, "start": start}, batch, key, 2)
        model = nnx.merge(problem.graph, dusk)
        from_nothing = jax.nn.log_softmax(model.wake(ready["sequence"], model.init_state(ROWS))[0], axis=-1)
        return jnp.max(jnp.abs(from_nothing - ready["law"]), axis=(1, 2)) < 1e-4, ready["answers"][:, 0], memory

    first, second = ([of(np.int32(step), np.uint32(nth)) for nth in range(20)] for step in (1, NIGHT + 1))
    share = lambda found: np.mean([np.asarray(rows) for rows, _, _ in found])
    assert share(first) == 0 and 0.3 < share(second) < 0.7 and all(np.asarray(counted).all() for _, counted, _ in (*first, *second))
    same = lambda memory, other: all(np.array_equal(leaf, named(by_night.part_of(start, other))[name]) for name, leaf in named(memory["start"]).items())
    dawn = of(np.int32(NIGHT), np.uint32(0))[2]  # a night begins: what the expert is now will be rehearsed in it
    assert int(dawn["step"]) == NIGHT + 1 and same(dawn, now) and not same(dawn, dusk) and same(second[0][2], dusk)


@pytest.mark.parametrize("most", [1.0, 0.75, 0.5, 0.0])
def test_today_keeps_its_share_however_many_days_there_were(most):
    """Counted over evenly spaced chances; at most 1 the first night has none and the n-th (n − 1) / n."""
    chance = jnp.arange(1200, dtype=jnp.float32) / 1200
    for night in range(12):
        old = np.asarray(seeding.of_before(chance, jnp.float32(night), most))
        assert old.mean() == pytest.approx(min(night / (night + 1), most), abs=2 / 1200)


@pytest.mark.parametrize("most", [1.0, 0.75, 0.5])
def test_even_dreams_weigh_all_days_alike(most):
    """A life of twelve nights: of what is to be asked today takes a share, the days before keep theirs; weighed so that each ends with a twelfth, else today has too much of it."""
    chance = jnp.arange(1200, dtype=jnp.float32) / 1200
    law, plain = np.zeros(12), np.zeros(12)
    for night in range(12):
        old = seeding.of_before(chance, jnp.float32(night), most)
        weights = np.asarray(seeding.even_weights(old, jnp.float32(night), most))
        of_old = float((weights * np.asarray(old)).mean())
        assert of_old + float((weights * ~np.asarray(old)).mean()) == pytest.approx(1, abs=1e-2)
        law = of_old * law + (1 - of_old) * (np.arange(12) == night)
        plain = float(old.mean()) * plain + (1 - float(old.mean())) * (np.arange(12) == night)
    assert law == pytest.approx(np.full(12, 1 / 12), abs=2e-2)
    assert (plain == pytest.approx(law, abs=2e-2)) == (most == 1) and (most == 1 or plain[0] < 0.05)


def test_even_dreams_weigh_words_of_keys_alone():
    """Those of earlier days' rows more than those of today's; the loss is the mean over words so weighed."""
    config = run_of(method={"arguments": {"rehearse": True, "own": 0.0, "dreams": 2, "rephrase": 0.5, "rehearsed": 0.25, "even": True}})
    task = build.task_of(config)
    learning = learning_of(config, task)
    method, problem = learning.method, learning.problem
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    draw_of = jax.jit(lambda nth: method.prepare(problem, params, {"step": np.int32(NIGHT)}, batch_of(task, 0), jax.random.fold_in(jax.random.key(5), nth), 2)[0])
    ready = next(ready for nth in range(50) if len(np.unique((ready := draw_of(np.uint32(nth)))["weights"])) == 3)  # few rows: not each draw has both kinds
    weights, learnt, words = (np.asarray(ready[name]) for name in ("weights", "answers", "sequence"))
    key = np.arange(words.shape[1])[None] < np.asarray(task.key_length(jnp.asarray(words[:, 1:2])))  # behind the word that asks
    asked = words[:, :1] == task.ask
    assert asked.any() and not asked.all() and (learnt & asked & key).any() and (weights[~(asked & key)] == 1).all()
    assert {round(float(weight), 4) for weight in np.unique(weights[asked & key & learnt])} <= {2.0, round(0.5 / 0.75, 4)} and (weights[asked & key & learnt] != 1).all()

    def mean(ready):
        return float(jax.jit(lambda ready: method.loss(problem, params, ready, 2, method.count(ready))[0])(ready))

    alone = [{**ready, "answers": ready["answers"] & (jnp.asarray(weights) == value), "weights": jnp.ones_like(ready["weights"])} for value in np.unique(weights)]
    parts = [mean(each) * int(np.asarray(each["answers"]).sum()) for each in alone]
    assert len(alone) == 3 and sum(part > 1e-3 for part in parts) == 2  # a newborn says what its teacher of earlier days does
    assert mean(ready) == pytest.approx(sum(value * part for value, part in zip(np.unique(weights), parts)) / learnt.sum(), rel=1e-4)
    for arguments in ({}, {"rehearse": True, "rehearsed": 0.0}):
        with pytest.raises(UsageError, match="rehearse=True"):
            methods.get("seeding", even=True, **arguments)


@functools.cache
def anchored():
    return learnt("fine_tuning", {"learns": "questions", "anchor": 3.0, "sampled": 2, "grow": False}, count=1)


def test_an_anchor_holds_what_mattered():
    """F and the penalty by hand: row by row, from the model's own forward pass over a task that tells nothing."""
    learning, frozen, states = anchored()
    task, problem = learning.problem.task, learning.problem
    alone = dataclasses.replace(task, told="nothing")

    @jax.jit
    def by_hand(params, at):
        batch = at
        def likelihood(params, row):
            model = nnx.merge(problem.graph, learning.whole(params, frozen))
            logits = model.forward(batch["tokens"][row : row + 1, task.first_asked :], passes=1, predicts=alone.predicts)
            logps = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), batch["targets"][row : row + 1, task.first_asked :, None], axis=-1)[..., 0]
            return jnp.sum(jnp.where(batch["loss_mask"][row : row + 1, task.first_asked :], logps, 0.0))
        gradients = [jax.grad(likelihood)(params, row) for row in range(2)]
        loss = -sum(likelihood(params, row) for row in range(ROWS)) / jnp.sum(batch["loss_mask"].astype(jnp.float32))
        return jax.tree.map(lambda one, other: (one**2 + other**2) / 2, *gradients), loss

    zero = lambda tree: all(not np.any(leaf) for leaf in jax.tree.leaves(tree))
    memories = [state.opt_state["memory"] for state in states]
    assert zero(memories[1]["today"]) and zero(memories[NIGHT]["matters"]) and not zero(memories[NIGHT]["today"]) and zero(memories[NIGHT + 1]["today"])
    F, _ = by_hand(states[NIGHT - 1].params, batch_of(task, NIGHT - 1))  # the first night's last step
    for name, leaf in named(memories[NIGHT + 1]["matters"]).items():
        if not name.endswith("born"):
            np.testing.assert_allclose(leaf, named(F)[name], rtol=1e-4, atol=1e-9, err_msg=name)
    # the second night's second step: the penalty has this F, and where the night began
    at, batch = NIGHT + 1, batch_of(task, NIGHT + 1)
    _, plain = by_hand(states[at].params, batch)
    memory = memories[at]
    penalty = 1.5 * sum(float(np.sum(F * (new - old) ** 2)) for F, new, old in zip(*map(jax.tree.leaves, (memory["matters"], states[at].params, states[NIGHT].params))))
    _, numbers = make_step(learning)(jax.tree.map(jnp.asarray, states[at]), frozen, batch, draw(0, "", at), 2)
    assert penalty > 1e-6 and float(numbers["loss"]) == pytest.approx(float(plain) + penalty, rel=1e-5)


def test_text_is_learnt_word_by_word():
    config = run_of(method={"name": "fine_tuning", "arguments": {}})
    task, method = build.task_of(config), methods.of(config)
    batch = batch_of(task, 0)
    text, words, mask = map(np.asarray, method._read(task, batch))
    lived = [task.token(int(word)) for word in text[0] if word]
    assert text.shape == (ROWS, task.first_asked) and len(lived) >= 5 * task.facts
    assert [task.token(int(word)) for word in words[0][mask[0]]] == lived[1:] and not words[~mask].any()


def test_words_that_are_known_do_not_count():
    """By the model's own forward pass over a task that tells nothing; all count where all are known."""
    config = run_of(method={"name": "fine_tuning", "arguments": {"learns": "questions", "grow": False}})
    task = build.task_of(config)
    learning, batch = learning_of(config, task), batch_of(task, 0)
    model = jax.jit(lambda: build.model_of(config, task))()
    asked = {name: np.asarray(batch[name])[:, task.first_asked :] for name in ("tokens", "targets", "loss_mask")}
    laws = jax.nn.softmax(model.forward(jnp.asarray(asked["tokens"]), passes=1, predicts=dataclasses.replace(task, told="nothing").predicts), axis=-1)
    known = np.take_along_axis(np.asarray(laws), asked["targets"][..., None], axis=-1)[..., 0]
    params, mask = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]), asked["loss_mask"]
    middle = float(np.median(known[mask]))
    for threshold, want in ((middle, mask & (known < middle)), (float(known[mask].min()) / 2, mask)):
        method = dataclasses.replace(learning.method, threshold=threshold)
        ready, _ = method.prepare(learning.problem, params, (), batch, None, 1)
        assert np.asarray(ready["learnt"]).tolist() == want.tolist() and want.any()


@pytest.mark.parametrize("arguments", [
    {"own": 0.5, "dreams": 2, "rehearse": True, "grow": False, "rephrase": 0.5},
    pytest.param({"own": 0.5, "dreams": 2}, marks=pytest.mark.slow),
    pytest.param({"own": 0.0, "dreams": 2, "dreaming": ROWS, "dreamt": 2, "questions": 2, "best": 1, "lucky": 0, "inner_steps": 2, "metric": "likelihood"}, marks=pytest.mark.slow),
])  # fmt: skip
def test_killed_within_a_night_or_lengthened_it_ends_as_unbroken(compiled_once, arguments, tmp_path):  # noqa: F811
    """Whole runs: checkpoints of every step, the last two of a copy removed; and one that first ended within the second night, whatever rates fall by then."""
    config = run_of(method={"name": "dreaming" if "dreaming" in arguments else "seeding", "arguments": arguments}, model={"experts": {"count": 2, "rank": 2}})
    told = lambda **values: dataclasses.replace(config, train=dataclasses.replace(config.train, save_every=1, keep=9, eval_every=0, log_every=1, **values))
    unbroken, killed, longer = (tmp_path / name for name in ("unbroken", "killed", "longer"))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Adam, within a step that dreams
        loop.train(told(steps=2 * NIGHT), unbroken, quiet=True)
        shutil.copytree(unbroken, killed)
        for step in (2 * NIGHT - 1, 2 * NIGHT):
            shutil.rmtree(killed / "checkpoints" / str(step))
        (killed / "result.json").unlink()
        loop.train(told(steps=2 * NIGHT), killed, quiet=True)
        loop.train(told(steps=2 * NIGHT - 1), longer, quiet=True)
        loop.train(told(steps=2 * NIGHT), longer, quiet=True)
    for folder in (killed, longer):
        assert [line for line in lines(folder) if line["split"] == "train"] == lines(unbroken), folder
        one, other = parameters(folder), parameters(unbroken)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{folder.name}: {name}")


@pytest.mark.parametrize("changes, message", [
    ({"task": {"name": "days", "arguments": {**STREAM, "order": "mixed"}}}, "order='mixed' has no night of one day: set method.arguments.grow=False"),
    ({"method": {"name": "fine_tuning", "arguments": {"anchor": 1.0, "sampled": 5}}}, "sampled=5 is more than train.batch_size=4"),
    ({"model": {**VALUES["model"], "experts": {"count": 1}}}, "train.steps=4 are 2 nights, and model.experts.count=1 has no expert for each"),
    ({"method": {"name": "fine_tuning", "arguments": {"learns": "dreams"}}}, "learns='dreams' is not one of text, questions"),
    ({"method": {"name": "fine_tuning", "arguments": {"threshold": 1.0}}}, "threshold=1.0 must be 0, or lie between 0 and 1"),
    ({"method": {"name": "fine_tuning", "arguments": {"anchor": -1.0}}}, "anchor=-1.0 must be at least 0"),
])  # fmt: skip
def test_what_can_not_be_is_refused(changes, message):
    config = from_dict(RunConfig, {**VALUES, "method": {"name": "fine_tuning", "arguments": {}}, **changes})
    with pytest.raises(UsageError, match=message):
        methods.of(config).check(config, build.task_of(config))
