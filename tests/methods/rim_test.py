"""Memory blocks: who sees whom, read-outs in one pass against one at a time, the two losses by hand, and what is refused."""
import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import adapters, build, data, methods, tasks
from sleepnet.config import AdaptersConfig, MemoryBlocksConfig, ModelConfig, RunConfig, SleepConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.eval import own_chain, report, runner
from sleepnet.methods import rim
from sleepnet.methods.base import Problem
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid
from sleepnet.models.visible import positions, segments, visible
from sleepnet.tasks.base import FIELDS

TASK = tasks.get("group", group="Z60", length=(2, 4))
L, C = TASK.window, 4
CONFIG = ModelConfig(
    vocab_size=TASK.vocab_size, window=L, pattern="AA", width=16, heads=2, head_dim=8, mlp_width=16, sleep=SleepConfig(passes=1, eviction="none"),
    memory_blocks=MemoryBlocksConfig(count=3, length=1, passes=2),
)  # fmt: skip
RUN = {"task": {"name": "group", "arguments": {"group": "Z60", "length": (2, 4)}}, "model": {"pattern": "AA", "sleep": {"passes": 1, "eviction": "none"}, "memory_blocks": {"count": 3}}}


@pytest.fixture(scope="module")
def model():
    return Hybrid(CONFIG, nnx.Rngs(0))


@pytest.fixture(scope="module")
def batch():
    return {key: jnp.asarray(value) for key, value in TASK.batch(0, "train", 0, 4).items() if key != "difficulty"}


def random_readouts(seed=0, rows=2, count=3, length=2):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, TASK.vocab_size, (rows, 2 * L))
    tokens[:, 1] = 0
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(generator.integers(1, TASK.vocab_size, (rows, count, length)), jnp.int32)


def alone(model, tokens, asked, blocks):
    """Logits of one read-out in a sequence of its own, without a mask."""
    predicts = (False,) * (tokens.shape[1] // L) + (True,)
    return model.forward_until(jnp.concatenate([tokens, asked], axis=1), predicts=predicts, blocks=blocks)[0][:, tokens.shape[1] :]


@pytest.mark.parametrize("leaky", [False, True])
def test_who_sees_whom_is_the_rule_in_words(leaky):
    names = ["x"] * 3 + [("m", k) for k in (1, 2) for _ in range(4)] + [("q", k) for k in (1, 2) for _ in range(2)]
    seen = visible(segments(3, 2, 4, 2), leaky)
    for (i, reader), (j, read) in itertools.product(enumerate(names), repeat=2):
        allowed = read == "x" or reader != "x" and read[0] == "m" and read[1] <= reader[1] or read[0] == "q" and reader[0] == "q" and (leaky or read == reader)
        assert seen[i, j] == (j <= i and allowed), (reader, read)
    assert positions(segments(3, 2, 4, 2)).tolist() == [*range(11), 7, 8, 11, 12]  # q_1 goes on behind m_1's last, 6; q_2 behind m_2's, 10


def test_read_outs_in_one_pass_are_those_of_each_alone(model):
    tokens, asked = random_readouts()
    together = model.readouts(tokens, asked)
    for k in range(3):
        np.testing.assert_allclose(alone(model, tokens, asked[:, k], k + 1), together[:, k], atol=1e-5)
    assert float(jnp.abs(together[:, 0] - together[:, 2]).max()) > 0.1
    np.testing.assert_allclose(model.readouts(tokens, asked[:, :2]), together[:, :2], atol=1e-5)  # later blocks change nothing


def test_no_read_out_hears_another_but_where_they_leak(model):
    tokens, asked = random_readouts()
    other = asked.at[:, 1].set(asked[:, 1] % (TASK.vocab_size - 1) + 1)
    for leaky, moved in ((False, [1]), (True, [1, 2])):
        change = jnp.abs(model.readouts(tokens, other, leaky=leaky) - model.readouts(tokens, asked, leaky=leaky)).max(axis=(0, 2, 3))
        assert np.flatnonzero(change).tolist() == moved


def test_without_blocks_it_is_the_model_without_them_to_the_bit(model):
    tokens, asked = random_readouts()
    plain = Hybrid(dataclasses.replace(CONFIG, memory_blocks=MemoryBlocksConfig()), nnx.Rngs(0))
    params, theirs = (nnx.to_pure_dict(nnx.split(each, nnx.Param)[1]) for each in (model, plain))
    assert params.pop("block_tokens").shape == (3, 16)
    jax.tree.map(np.testing.assert_array_equal, params, theirs)
    whole = jnp.concatenate([tokens, asked[:, 0]], axis=1)
    np.testing.assert_array_equal(alone(model, tokens, asked[:, 0], 0), plain.forward(whole, predicts=(False, False, True))[:, 2 * L :])


@pytest.mark.slow  # a gradient through all read-outs is compiled
def test_block_tokens_are_read_and_are_the_same_for_all(model):
    tokens, asked = random_readouts()
    graph, params = nnx.split(model, nnx.Param)
    total = lambda params, rows: jnp.sum(nnx.merge(graph, params).readouts(tokens[rows], asked[rows])[..., 0])
    slopes = [jax.grad(total)(params, jnp.array(rows))["block_tokens"][...] for rows in ([0], [1], [0, 1])]
    assert np.abs(slopes[2]).max(axis=1).min() > 0  # the first, the middle and the last
    np.testing.assert_allclose(slopes[0] + slopes[1], slopes[2], rtol=1e-4, atol=1e-5)


def law(done, steps, schedule, fade_answer=False, most=5):
    return np.asarray(rim.step_weights(done, jnp.array(steps), most, schedule, fade_answer))


def test_alpha_rises_and_sums_to_one():
    for K in (1, 2, 8):
        rising = rim.answer_weights(K, "rising")
        assert rising.sum() == pytest.approx(1) and (np.diff(rising) > 0).all() and rising[-1] == pytest.approx(2 / (K + 1))
    np.testing.assert_array_equal(rim.answer_weights(4, "last"), [0, 0, 0, 1])
    np.testing.assert_array_equal(rim.answer_weights(4, "equal"), [0.25] * 4)


@pytest.mark.parametrize("schedule", rim.SCHEDULES)
def test_lambda_by_hand(schedule):
    T, most = 4, 5
    for p in (0.0, 0.1, 0.3, 1.0):
        length = {"relative": T, "absolute": most, "constant": 0}[schedule]
        want = [min(max(1 - p * length / t, 0), 1) for t in range(1, T)] + [1]
        np.testing.assert_allclose(law(p, [T], schedule)[0], np.array([*want, 0]) / sum(want), rtol=1e-6)
    np.testing.assert_allclose(law(0.0, [2, 5], schedule), [[0.5, 0.5, 0, 0, 0], [0.2] * 5])
    faded = [law(p, [T], schedule)[0] * sum([min(max(1 - p * length / t, 0), 1) for t in range(1, T)] + [1]) for p in (0.1, 0.3)]
    assert (faded[1] <= faded[0] + 1e-6).all() and all((np.diff(each[:T]) >= -1e-6).all() for each in faded)
    assert not law(1.0, [T], "relative", True).any() and law(0.3, [1], "relative", True)[0, 0] == 1  # all that is left, until nothing is
    assert law(0.3, [2], "relative")[0, 0] > law(0.3, [2], "absolute")[0, 0] == 0


def test_a_group_tells_its_steps():
    batch = TASK.batch(3, "train", 0, 12)
    asked, said = TASK.chain(batch["tokens"])
    assert (asked.shape[1:], said.dtype, asked.dtype) == (TASK.chain_shape, np.int32, np.int32)
    for row in range(12):
        word = [int(TASK.token(token)) for token in batch["tokens"][row, :C] if token]
        sums = [str(sum(word[:n]) % 60) for n in range(2, len(word) + 1)]
        assert [TASK.token(int(token)) for token in said[row, : len(sums), 0]] == sums and not said[row, len(sums) :].any()
        assert ((asked[row] != 0) == (said[row] != 0)).all() and set(asked[row].ravel()) <= {0, TASK.query}
        assert said[row, len(sums) - 1, 0] == batch["targets"][row, -1]
    thinking = tasks.get("group", group="S5", length=(2, 6), chain_of_thought=True)
    plain, written = tasks.get("group", group="S5", length=(2, 6)), thinking.batch(1, "test", 0, 20)
    np.testing.assert_array_equal(plain.chain(plain.batch(1, "test", 0, 20)["tokens"])[1][..., 0], written["targets"][:, 6:])
    for none in (thinking, tasks.get("group", length=4, running=True), tasks.get("depo")):
        with pytest.raises(UsageError, match="does not tell the steps"):
            none.chain(np.zeros((1, none.seq_len), np.int32))


def test_rule_110_tells_its_rows():
    """The rows of a chain of thought, which the plain path writes."""
    for arguments in (dict(steps=3), dict(steps=(1, 4))):
        plain = tasks.get("rule110", width=9, strings=1, cells=9, **arguments)
        batch = plain.batch(3, "train", 0, 12)
        asked, said = plain.chain(batch["tokens"])
        assert asked.shape[1:] == said.shape[1:] == plain.chain_shape == (plain.step_range[1], 9) and asked.dtype == said.dtype == np.int32
        written = tasks.get("rule110", width=9, strings=1, cells=9, chain_of_thought=True, **arguments).batch(3, "train", 0, 12)
        for row, t in enumerate(batch["difficulty"]["steps"][:, 0]):
            np.testing.assert_array_equal(said[row, :t].ravel(), written["targets"][row][written["loss_mask"][row]])
            assert (asked[row, :t] == batch["tokens"][row, plain.context]).all() and not said[row, t:].any() and not asked[row, t:].any()
            np.testing.assert_array_equal(said[row, t - 1], batch["targets"][row, plain.context :])
    for none in (dict(steps=0), dict(steps=2, chain_of_thought=True), dict(steps=2, follow_passes=True)):
        with pytest.raises(UsageError, match="does not tell the steps"):
            tasks.get("rule110", width=9, strings=1, **none).chain(np.zeros((1, 10), np.int32))


def cross_entropies(model, tokens, targets, blocks):
    """−log p of the answer, [B] float64, read out alone."""
    logits = np.asarray(alone(model, tokens[:, :C], tokens[:, C:], blocks), np.float64)[:, 0]
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logits[np.arange(len(logits)), targets]


def loss_of(method, model, batch, memory=()):
    graph, params = nnx.split(model, nnx.Param)
    problem = Problem(graph, TASK)
    ready, memory = method.prepare(problem, params, memory, batch, None, 1)
    loss, seen = method.loss(problem, params, ready, 1, method.count(ready))
    return float(loss), {key: float(value) for key, value in method.tell(problem, ready, seen, method.count(ready)).items()}, memory


def test_the_losses_by_hand(model, batch):
    rows, last = len(batch["tokens"]), batch["targets"][:, -1]
    behind = np.array([cross_entropies(model, batch["tokens"], last, k) for k in range(4)])
    assert loss_of(methods.get("rim", stage=0), model, batch)[0] == pytest.approx(behind[0].mean(), rel=1e-5)
    loss, told, _ = loss_of(methods.get("rim"), model, batch)
    assert loss == pytest.approx((behind[1:] * np.array([1, 2, 3])[:, None] / 6).sum(axis=0).mean(), rel=1e-5)
    assert told.keys() == {"exact", "answered", "readouts_right"} and told["answered"] == rows
    assert loss_of(methods.get("rim", alpha="last"), model, batch)[0] == pytest.approx(behind[3].mean(), rel=1e-5)
    asked, said = TASK.chain(np.asarray(batch["tokens"]))
    steps = np.array([cross_entropies(model, batch["tokens"], said[:, t, 0], t + 1) for t in range(3)])
    method, T = methods.get("rim", stage=1, fade_steps=4), (said[..., 0] != 0).sum(axis=1)
    assert set(T) == {1, 2, 3}
    memory = method.memory(rows, {})
    for taken in range(2):
        p = taken / 4
        law = np.array([[1.0 if t == n else max(0, 1 - p * n / t) * (t < n) for n in T] for t in (1, 2, 3)])
        loss, _, memory = loss_of(method, model, batch | method.draw(TASK, None, batch_of_host(batch)), memory)
        assert loss == pytest.approx((law * steps / law.sum(axis=0)).sum(axis=0).mean(), rel=1e-5)
    leaky = loss_of(methods.get("rim", leaky=True), model, batch)[0]
    assert leaky != pytest.approx(loss_of(methods.get("rim"), model, batch)[0], rel=1e-3)


def batch_of_host(batch):
    return {key: np.asarray(value) for key, value in batch.items()}


def test_what_follows_a_read_out_that_leaks():
    asked, said = jnp.array([[[9, 3, 0]], [[9, 3, 5]]]), jnp.array([[[3, 7, 0]], [[3, 5, 8]]])
    np.testing.assert_array_equal(rim.followed(asked, said, said > 0)[:, 0], [[9, 3, 7, 0], [9, 3, 5, 8]])


def test_a_batch_of_the_run_holds_what_the_method_asks():
    config = from_dict(RunConfig, {**RUN, "method": {"name": "rim", "arguments": {"stage": 1, "fade_steps": 9}}})
    source = data.BatchSource(TASK, seed=0, batch_size=4, steps=2, rows=np.array([1, 3]), more=lambda batch: methods.of(config).draw(TASK, config, batch))
    whole = TASK.chain(TASK.batch(0, "train", 4, 4)["tokens"])
    np.testing.assert_array_equal(source[1]["chain_targets"], whole[1][[1, 3]])
    assert source[1].keys() == {*FIELDS, "chain_tokens", "chain_targets"}


def test_flops_count_every_token_as_often_as_it_is_computed():
    layer = lambda tokens, slots: tokens * 2 * (2 * (4 * 16 * 16 + 3 * 16 * 16) + 4 * slots * 16)  # both blocks
    head = lambda tokens: 2 * tokens * 16 * CONFIG.vocab_size
    x, thought = layer(C, C), layer(9, C + 9)
    assert flops.forward_flops(CONFIG, TASK.predicts, TASK.seq_len) == x + 2 * thought + layer(1, C + 9 + 1) + head(1)
    assert flops.think_flops(CONFIG, 1) == 2 * thought and flops.parameters(CONFIG) == sum(leaf.size for leaf in jax.tree.leaves(nnx.split(Hybrid(CONFIG, nnx.Rngs(0)), nnx.Param)[1]))
    stage2 = 3 * (x + 2 * thought + layer(3, C + 9 + 3) + head(3))
    assert methods.get("rim").flops(CONFIG, TASK, 1) == stage2
    assert methods.get("rim", leaky=True).flops(CONFIG, TASK, 1) == 3 * (x + 2 * thought + layer(6, C + 9 + 6) + head(6))
    assert methods.get("rim", stage=0).flops(CONFIG, TASK, 1) == 3 * (x + layer(1, C + 1) + head(1)) == methods.get("answers").flops(dataclasses.replace(CONFIG, memory_blocks=MemoryBlocksConfig()), TASK, 1)
    one = dataclasses.replace(CONFIG, memory_blocks=MemoryBlocksConfig(count=8, length=1, passes=2))
    assert methods.get("rim", stage=1, schedule="constant").flops(one, TASK, 1) == stage2  # as many blocks as the longest solution has steps: three


def test_grading_is_behind_the_last_block_and_behind_each(model):
    rows = runner.evaluate(model, TASK, passes=[1], examples=24, batch_size=24, keep_answers=True)
    batch, everything = TASK.batch(0, "test", 0, 24), rows[0]
    tokens, target = jnp.asarray(batch["tokens"]), batch["targets"][:, -1]
    right = np.array([np.asarray(alone(model, tokens[:, :C], tokens[:, C:], k)).argmax(axis=-1)[:, 0] == target for k in (1, 2, 3)])
    assert everything["exact_by_block"] == pytest.approx(right.mean(axis=1)) and everything["exact_accuracy"] == pytest.approx(right[2].mean())
    assert everything["any_block"] == pytest.approx(right.any(axis=0).mean()) and everything["blocks"] == 3
    assert sum(row["exact_by_block"][0] * row["answers"] for row in rows[1:]) == pytest.approx(right[0].sum())
    table = report.block_table(rows)
    assert [column.header for column in table.columns][2:] == ["block 1", "block 2", "block 3", "any"]
    exact = jnp.asarray(np.random.default_rng(0).integers(0, 2, (5, 3, 1)))
    from sleepnet.eval import by_block
    half = by_block.told(np.asarray(exact), np.array([[True], [False], [True], [True], [False]]))
    assert half["exact_by_block"] == pytest.approx(np.asarray(exact)[[0, 2, 3], :, 0].mean(axis=0)) and half["any_block"] == pytest.approx(np.asarray(exact)[[0, 2, 3], :, 0].any(axis=1).mean())


def test_factors_and_three_embeddings_change_and_nothing_else(model):
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    config = AdaptersConfig("low_rank", r"blocks\.\d+\.(mixer|mlp)\.|block_tokens", rank=4, also="block_tokens")
    trainable, frozen = adapters.split(config, params, 0)
    jax.tree.map(np.testing.assert_array_equal, adapters.whole(config, trainable, frozen), params)
    moved = adapters.whole(config, jax.tree.map(lambda leaf: leaf + 1, trainable), frozen)
    for path, leaf in jax.tree_util.tree_leaves_with_path(moved):
        name, before = jax.tree_util.keystr(path, simple=True, separator="."), params
        for key in path:
            before = before[key.key]
        changes = name == "block_tokens" or name.endswith("kernel") and name.startswith("blocks.")
        assert changes != (np.asarray(leaf).tobytes() == np.asarray(before).tobytes()), name
    np.testing.assert_array_equal(moved["block_tokens"], params["block_tokens"] + 1)
    assert "low_rank_a" in trainable["blocks"][0]["mixer"]["q"]["kernel"] and trainable.keys() == {"blocks", "block_tokens"}
    with pytest.raises(UsageError, match="adapters.also='blok' matches no parameter"):
        adapters.split(dataclasses.replace(config, also="blok"), params, 0)


@pytest.mark.parametrize("changes, message", [
    ({"model.pattern": "AG", "model.sleep.eviction": "none"}, "model.memory_blocks.count=3 with model.pattern='AG'"),
    ({"model.sleep.eviction": "sliding"}, "with model.sleep.eviction='sliding'"),
    ({"model.sleep.predict_passes": 2}, "with model.sleep.predict_passes=2"),
    ({"model.memory_blocks.count": -1}, "model.memory_blocks.count=-1 must be at least 0"),
    ({"model.memory_blocks.count": 0, "model.memory_blocks.passes": 2}, "model.memory_blocks.passes=2 of no blocks"),
    ({"model.memory_blocks.count": 0}, "method.name='rim' needs model.memory_blocks.count"),
    ({"task.arguments": {"length": 4, "running": True}}, "stand between what sleeps and what predicts"),
    ({"task.name": "depo", "task.arguments": {}, "method.arguments": {"stage": 1, "schedule": "constant"}}, "does not tell the steps"),
    ({"task.arguments": {"length": 4, "window": 1}, "method.arguments": {"leaky": True}}, "a read-out of 2 tokens is longer than a window of 1"),
    ({"method.arguments": {"stage": 3}}, "method.arguments.stage=3"), ({"method.arguments": {"stage": 1}}, "method.arguments.fade_steps=0 must be at least 1"),
    ({"method.arguments": {"alpha": "risin"}}, "did you mean 'rising'"), ({"method.arguments": {"fade_steps": 3}}, "method.arguments.fade_steps=3 is not read with stage=2"),
    ({"method.arguments": {"stage": 1, "fade_steps": 3, "alpha": "last"}}, "method.arguments.alpha='last' is not read with stage=1"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, message):
    values = {**{key: dict(value) for key, value in RUN.items()}, "method": {"name": "rim", "arguments": {}}}
    values["model"] |= {"sleep": dict(values["model"]["sleep"]), "memory_blocks": dict(values["model"]["memory_blocks"])}
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    with pytest.raises(UsageError, match=message):
        config = from_dict(RunConfig, values)
        task = build.task_of(config)
        build.fit(config.model, task)
        methods.of(config).check(config, task)


def test_what_a_model_with_or_without_blocks_can_not_do(model):
    plain = types.SimpleNamespace(config=dataclasses.replace(CONFIG, memory_blocks=MemoryBlocksConfig()))
    with pytest.raises(UsageError, match="blocks=4 of a model without memory blocks"):
        runner.evaluate(plain, TASK, passes=[1], examples=1, batch_size=1, blocks=4)
    with pytest.raises(UsageError, match="can't write token by token"):
        own_chain.check(CONFIG, tasks.get("group", group="Z60", length=(2, 4), chain_of_thought=True))
    with pytest.raises(ValueError, match="memory_blocks.count=3: awake"):
        model.wake(jnp.ones((1, 1), jnp.int32), model.init_state(1))
    with pytest.raises(ValueError, match="longer than the window"):
        model.readouts(jnp.ones((1, L), jnp.int32), jnp.ones((1, 1, L + 1), jnp.int32))
