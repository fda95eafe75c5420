"""Methods: the registry and whose code it runs; MemFT's weights by hand; a step's randomness; microbatches; a skipped step."""
import dataclasses
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sleepnet import losses, methods, tasks, trust
from sleepnet.config import AdaptersConfig, MethodConfig, RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods import memft
from sleepnet.methods.base import Method
from sleepnet.train.step import Learning, TrainState, _key, draw, make_step

V, T = 5, 6


@dataclasses.dataclass(frozen=True)
class Table:
    """A model of one table of logits, so that a step costs nothing: the problem of every test here."""

    answers: int = 1
    references: dict = dataclasses.field(default_factory=dict)
    memory: object = ()

    @property
    def task(self):
        return type("Task", (), {"answers": self.answers, "predicts": (True,)})()

    def forward(self, params, tokens, passes):
        return params["table"][tokens]

    def predicted(self, params, tokens, passes):
        return self.forward(params, tokens, passes), None


@dataclasses.dataclass(frozen=True)
class Mine(Method):
    """loss = mean of the parameters."""

    scale: float = 1.0

    def loss(self, problem, params, batch, passes, count):
        return self.scale * jnp.mean(params["table"]), {}

    def tell(self, problem, batch, seen, count):
        return {}

    def flops(self, model, task, passes):
        return 1


def batch_of(rows=4, seed=0):
    generator = np.random.default_rng(seed)
    tokens, mask = generator.integers(0, V, (rows, T)), generator.random((rows, T)) < 0.7
    mask[:, -1] = True
    arrays = {"tokens": tokens, "targets": generator.integers(0, V, (rows, T)), "answer": np.where(mask, 0, -1)}
    return {**{key: jnp.asarray(value, jnp.int32) for key, value in arrays.items()}, "loss_mask": jnp.asarray(mask)}


def params_of(seed=1):
    return {"table": jnp.asarray(np.random.default_rng(seed).normal(scale=2, size=(V, V)), jnp.float32)}


def learning_of(method, accumulate=1, optimizer=None):
    return Learning(method, Table(), AdaptersConfig(), optimizer or optax.sgd(lambda count: 0.1, momentum=0.9), accumulate)


def losses_of(params, batch):
    """−log p of every label, in float64."""
    logits = np.asarray(params["table"], np.float64)[np.asarray(batch["tokens"])]
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(logits, np.asarray(batch["targets"])[..., None], axis=-1)[..., 0]


def test_a_method_is_found_by_name_and_checks_its_arguments():
    assert {"answers", "memft"} <= set(methods.names())
    assert methods.get("memft", threshold=np.float32(0.25)) == memft.MemFT(threshold=0.25)
    for name, arguments, message in [
        ("answer", {}, "method.name='answer' is unknown; did you mean 'answers'"), ("memft", {"treshold": 0.5}, "method 'memft' has no argument 'treshold'; did you mean 'threshold'"),
        ("memft", {"threshold": "x"}, "method.arguments.threshold='x' must be a float"), ("memft", {"threshold": 1.0}, "must lie between 0 and 1"),
        ("memft", {"weights": "focus"}, "is not one of over_threshold, sliding, random_mask, focal, top_share"),
        ("self_distill", {"control": "random_reward"}, "control='random_reward' is not one of"), ("self_distill", {"group": 0}, "group=0 must be at least 1"),
        ("self_distill", {"beta": 2.0}, "beta=2.0 must lie between 0 and 1"), ("self_distill", {"temperature": 0.0}, "temperature=0.0 must be positive"),
        ("self_distill", {"graded": -1}, "graded=-1 must be at least 0"), ("foreign", {"graded": -1}, "graded=-1 must be at least 0"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            methods.get(name, **arguments)


def test_a_method_of_ones_own_is_one_class_and_a_saved_config_can_not_name_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_methods", sys.modules[__name__])
    monkeypatch.setattr(trust, "_NAMED", set())
    saved = {"method": {"name": "my_methods:Mine", "arguments": {"scale": 2}}}
    config = from_dict(RunConfig, saved)
    with pytest.raises(UsageError, match="asks for code of the module my_methods .method.name='my_methods:Mine'.*--trust=my_methods"):
        methods.of(config)
    config = RunConfig(method=MethodConfig("my_methods:Mine", {"scale": 2}))
    assert methods.of(config) == Mine(2.0)
    for wrong, message in (("my_methods:Table", "is no subclass of sleepnet.methods.base.Method"), ("my_methods:Method", "is no subclass|lacks flops, loss, tell")):
        with pytest.raises(UsageError, match=message):
            methods.of(RunConfig(method=MethodConfig(wrong)))


def test_weights_of_one_are_cross_entropy_to_the_bit_and_scale_away():
    batch, logits = batch_of(), jnp.asarray(np.random.default_rng(3).normal(size=(4, T, V)), jnp.float32)
    weights = batch["loss_mask"].astype(jnp.float32)
    both = lambda logits: losses.weighted_cross_entropy(logits, batch["targets"], weights, jnp.sum(weights)), lambda logits: losses.cross_entropy(logits, batch["targets"], batch["loss_mask"])
    (one, slope), (other, others_slope) = (jax.value_and_grad(f)(logits) for f in both)
    assert one == other and np.array_equal(slope, others_slope)
    thrice = losses.weighted_cross_entropy(logits, batch["targets"], 3 * weights, jnp.sum(3 * weights))
    np.testing.assert_allclose(thrice, one, rtol=1e-6)
    slope = jax.grad(lambda logits: losses.weighted_cross_entropy(logits, batch["targets"], weights.at[1].set(0.0), 1.0))(logits)
    assert not np.any(slope[1]) and np.any(slope[0])


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_over_the_threshold_is_what_is_not_known(threshold):
    batch, params, method = batch_of(), params_of(), memft.MemFT(threshold=threshold)
    ready, _ = method.prepare(Table(), params, (), batch, None, 1)
    want = (losses_of(params, batch) > -math.log(threshold)) & np.asarray(batch["loss_mask"])
    assert want.any() and not want[np.asarray(batch["loss_mask"])].all()
    np.testing.assert_array_equal(ready["weights"], want)
    assert float(jnp.sum(ready["active_share"])) == pytest.approx(want.sum() / np.asarray(batch["loss_mask"]).sum())
    loss, _ = method.loss(Table(), params, ready, 1, method.count(ready))
    assert float(loss) == pytest.approx(losses_of(params, batch)[want].mean(), rel=1e-5)


def test_a_half_is_known_and_more_is_the_likeliest():
    """p = ½ exactly has weight 0; p > ½ is the argmax, whatever the rest."""
    logits = jnp.zeros((1, 1, 2))
    known = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros((1, 1), jnp.int32))
    assert not memft.MemFT()._weights(known, jnp.ones((1, 1), bool), None).any()
    logits = np.random.default_rng(0).normal(scale=2, size=(2000, V))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows, at = np.nonzero(p > 0.5)
    assert len(rows) > 500 and (logits[rows].argmax(axis=1) == at).all()


def test_the_controls_take_what_they_say():
    batch, params = batch_of(rows=8), params_of()
    known, mask = losses_of(params, batch), np.asarray(batch["loss_mask"])
    weigh = lambda kind, step=0: np.asarray(memft.MemFT(weights=kind).prepare(Table(), params, (), batch, jax.random.key(step), 1)[0]["weights"])
    over, half, focal = weigh("over_threshold"), weigh("top_share"), weigh("focal")
    drawn = [weigh("random_mask", step) for step in range(40)]
    assert {row.sum() for row in drawn} == {over.sum()} and all(not row[~mask].any() for row in drawn)
    assert len({row.tobytes() for row in drawn}) > 35 and (sum(drawn)[mask] > 0).all()
    np.testing.assert_allclose(focal[mask], (1 - np.exp(-known[mask])) ** 2, rtol=1e-5)
    for rows, odd in ((8, 1), (9, 0)):  # labels that can and that can not be halved
        batch = batch_of(rows)
        known, mask, half = losses_of(params, batch), np.asarray(batch["loss_mask"]), weigh("top_share")
        assert mask.sum() % 2 == odd and half.sum() == math.ceil(mask.sum() / 2) and known[half > 0].min() >= known[mask & (half == 0)].max()


def test_the_sliding_window_by_hand():
    """One row: b without an error; from the first wrong digit on decayed, behind the window a hundredth; x grows where a stands, and falls back."""
    n, memory = 120, memft.MemFT(weights="sliding").memory(1, {})
    mask, known = jnp.ones((1, n), bool), jnp.asarray(np.random.default_rng(0).uniform(0.2, 2, (1, n)), jnp.float32)
    b = 1 / (1 + np.exp(-10 * (np.asarray(known[0], np.float64) - math.log(2))))
    wrong = lambda at: jnp.zeros((1, n), bool).at[0, jnp.asarray(at, jnp.int32)].set(True)
    np.testing.assert_allclose(memft.sliding(known, wrong([]), mask, memory)[0][0], b, rtol=1e-5)
    np.testing.assert_allclose(memft.sliding(known, wrong([0]), mask, memory)[0][0][:50], (b * np.exp(-np.arange(n) / 20))[:50], rtol=1e-5)
    growths = []
    for at in [7] * 12 + [30] + [30, 100]:
        weights, memory = memft.sliding(known, wrong([at, 119]), mask, memory)
        growths.append(float(memory["growth"]))
        width, t = 50 * growths[-1], np.arange(n)
        np.testing.assert_allclose(weights[0], np.where(t - at < width, b * np.exp(-np.maximum(t - at, 0) / 20), 0.01 * b), rtol=1e-5)
    assert growths == [1, 1, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4, 1, 1, 1]


def test_a_batch_without_weight_is_the_plain_loss_or_no_step():
    """All labels known: with "skip" parameters, moments and the optimiser's count keep their bytes, with "mean" the step is that of `answers`."""
    known = {**batch_of(), "targets": batch_of()["tokens"]}
    run = lambda method, state, batch: make_step(learning_of(method))(jax.tree.map(jnp.copy, state), {}, batch, None, 1)
    skip, mean, plain = memft.MemFT(when_empty="skip"), memft.MemFT(), methods.get("answers")
    before = run(skip, learning_of(skip).begin(params_of(), 4), batch_of())[0]
    assert not np.array_equal(before.params["table"], params_of()["table"]) and any(np.any(leaf) for leaf in jax.tree.leaves(before.opt_state))
    before = dataclasses.replace(before, params={"table": jnp.eye(V) * 3})
    after, numbers = run(skip, before, known)
    assert int(after.step) == 2 and float(numbers["active_share"]) == 0
    bytes_of = lambda state: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, state.opt_state))]
    assert bytes_of(after) == bytes_of(before)
    assert bytes_of(run(mean, before, known)[0]) == bytes_of(run(plain, before, known)[0])


@pytest.mark.parametrize("kind", memft.KINDS)
def test_microbatches_add_up_to_the_batch(kind):
    """Weights are of the whole batch, however it is cut."""
    batch, words = batch_of(rows=8), draw(3, "heart", 5)
    run = lambda parts: make_step(learning_of(memft.MemFT(weights=kind), parts))(learning_of(memft.MemFT(weights=kind)).begin(params_of(), 8), {}, batch, words, 1)
    (one, told), (four, again) = run(1), run(4)
    ready, _ = memft.MemFT(weights=kind).prepare(Table(), params_of(), memft.MemFT(weights=kind).memory(8, {}), batch, _key(jnp.asarray(words)), 1)
    weights = np.asarray(ready["weights"], np.float64)
    assert float(told["loss"]) == pytest.approx((weights * losses_of(params_of(), batch)).sum() / weights.sum(), rel=1e-5)
    np.testing.assert_allclose(one.params["table"], four.params["table"], atol=1e-6)
    assert told.keys() == again.keys() and all(float(told[key]) == pytest.approx(float(again[key]), rel=1e-5) for key in told)


def test_a_steps_randomness_is_of_seed_phase_and_step():
    method, batch = memft.MemFT(weights="random_mask"), batch_of(rows=8)
    step = make_step(learning_of(method))
    moved = lambda *words: np.asarray(step(learning_of(method).begin(params_of(), 8), {}, batch, draw(*words), 1)[0].params["table"]).tobytes()
    first = moved(0, "", 0)
    assert first == moved(0, "", 0)
    others = [moved(*words) for words in ((1, "", 0), (1 << 32, "", 0), (0, "sft", 0), (0, "", 1))]
    assert len({first, *others}) == 5


def test_a_memory_goes_with_the_optimizers_state_and_without_one_nothing_changes():
    state = learning_of(memft.MemFT(weights="sliding")).begin(params_of(), 1)
    assert set(state.opt_state) == {"optimizer", "memory"}
    plain = learning_of(methods.get("answers")).begin(params_of(), 1)
    assert isinstance(plain, TrainState) and isinstance(plain.opt_state, tuple)


def test_the_sliding_window_follows_a_string_alone():
    task = tasks.get("depo", nodes=5, hops=2)
    with pytest.raises(UsageError, match="weights='sliding' follows one string: it needs task.name='phonebook'"):
        memft.MemFT(weights="sliding").check(RunConfig(), task)


def test_what_a_method_costs_is_counted_with_its_preparation():
    from sleepnet.config import ModelConfig
    from sleepnet.models import flops

    task = tasks.get("depo", nodes=5, hops=2)
    model = ModelConfig(vocab_size=task.vocab_size, window=task.window)
    learnt, read = (of(model, task.predicts, task.seq_len, 4) for of in (flops.train_flops, flops.forward_flops))
    assert methods.get("answers").flops(model, task, 4) == learnt and methods.get("memft").flops(model, task, 4) == learnt + read
