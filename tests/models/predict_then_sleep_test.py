"""A window that predicts and sleeps: against the token-serial model in numpy, its own streaming form, today's windows, and its cost by hand."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sleep_test as toy
from hybrid_by_hand import by_hand
from hybrid_test import LENGTH, SMALL, TOKENS, Runner, L

from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.errors import UsageError
from sleepnet.models import flops
from sleepnet.sleep import run_passes

ALL = (True,) * -(-LENGTH // L)
CASES = {
    "AG": (SMALL, {"passes": 3}),
    "AG_rewrite": (SMALL, {"passes": 3, "rewrite": True}),
    # blocks before and behind the loop, entries that outlive a window, keys that turn behind every pass
    "AGAG_sliding_middle": ({**SMALL, "pattern": "AGAG", "turn_keys": "passes"}, {"passes": 2, "eviction": "sliding", "loop_start": 1, "loop_stop": 3}),
}
both = pytest.mark.parametrize("case", [*(pytest.param(case, marks=pytest.mark.slow) for case in ("AG", "AG_rewrite")), "AGAG_sliding_middle"])


@functools.cache
def runner(case, **more):
    model, sleep = CASES[case]
    return Runner(model, {**sleep, "after_predicting": True, **more})


@both
def test_each_window_predicts_what_one_behind_sleeping_windows_does(case):
    """What window w says is what it says as the only one with labels, behind w that slept: of that the numpy model has always known."""
    of = runner(case)
    old = dataclasses.replace(of.config, sleep=dataclasses.replace(of.config.sleep, after_predicting=False))
    got, real = of.forward(TOKENS, predicts=ALL), TOKENS != 0
    for w in range(len(ALL)):
        there = slice(w * L, (w + 1) * L)
        wanted = np.stack([by_hand(old, of.params, row[: (w + 1) * L], (False,) * w + (True,), old.sleep.passes)[0][there] for row in TOKENS])
        np.testing.assert_allclose(got[:, there][real[:, there]], wanted[real[:, there]], atol=3e-4)
    once = of.forward(TOKENS, 1, predicts=ALL)
    np.testing.assert_allclose(once[:, :L], got[:, :L], atol=2e-5)  # nothing has slept before the first
    assert np.abs(once - got)[:, L:][real[:, L:]].max() > 1e-2


@both
def test_streamed_token_by_token_with_sleeps_of_n_it_is_forward(case):
    of = runner(case)
    state, told = of.model.init_state(len(TOKENS)), []
    for start in range(0, LENGTH, L):
        for part in (slice(start, start + 2), slice(start + 2, min(start + L, LENGTH))):
            logits, state = of.wake(TOKENS[:, part], state)
            told.append(logits)
        state = of.sleep(state)
    real = TOKENS != 0
    np.testing.assert_allclose(np.concatenate(told, axis=1)[real], of.forward(TOKENS, predicts=ALL)[real], atol=3e-5)


def test_a_value_of_n_does_for_every_n_and_one_pass_is_todays():
    of = runner("AG")
    model, sleep = CASES["AG"]
    today = Runner(model, {**sleep, "passes": 1})
    by_value = jax.jit(lambda params, tokens, passes: of.apply(params, tokens, passes, ALL))
    for passes in (1, 3):
        np.testing.assert_allclose(by_value(of.params, TOKENS, np.int32(passes)), of.forward(TOKENS, passes, ALL), atol=2e-5)
    assert by_value._cache_size() == 1
    np.testing.assert_allclose(of.forward(TOKENS, 1, ALL), today.forward(TOKENS, 1, ALL), atol=2e-5)


def test_later_tokens_of_a_window_get_exactly_no_gradient():
    """The sleep over a window has read the whole of it, and tells later windows alone."""
    of = runner("AG")
    tokens = jnp.asarray([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], jnp.int32)  # every token once: a row of the embedding is a place
    weights = jax.random.normal(jax.random.key(0), (SMALL["vocab_size"],))
    read = lambda embedding: of.apply({**of.params, "embedding": embedding}, tokens, 2, (True, True))[0] @ weights
    jacobian = np.abs(jax.jit(jax.jacrev(read))(of.params["embedding"])).sum(axis=-1)[:, 1:]
    for t in range(2 * L):
        assert not jacobian[t, t + 1:].any() and (jacobian[t, :t + 1] > 0).all()


@pytest.mark.parametrize("config", [SleepConfig(), SleepConfig(gradient="last"), SleepConfig(gradient="last", gradient_passes=2, carry="hidden")], ids=["full", "last", "last_two"])
def test_the_first_pass_is_told_and_has_its_gradient_whatever_the_others_have(config):
    """What is asked of it adds the gradient of one pass to that of the passes without it; on the toy pass of the tests of sleep."""
    told = jax.random.normal(jax.random.key(1), toy.SHAPES[0].shape)
    opened = lambda *given: run_passes(toy.block_pass, *given, passes=4, config=config, opening=True)
    out = opened(*toy.ARGUMENTS)
    toy.assert_close(out[:3], toy.plain(config, 4, *toy.ARGUMENTS))
    toy.assert_close(out[3], toy.block_pass(*toy.ARGUMENTS[:3])[0])
    counted = run_passes(toy.block_pass, *toy.ARGUMENTS, passes=jnp.int32(4), config=config, opening=True)
    toy.assert_close(counted, out)
    both = jax.jit(jax.grad(lambda *given: toy_score(opened(*given)[:3]) + jnp.sum(told * opened(*given)[3]), argnums=(0, 1, 2)))(*toy.ARGUMENTS)
    asleep = toy.graded(lambda *given: toy.ours(config, 4, *given))
    first = jax.jit(jax.grad(lambda *given: jnp.sum(told * toy.block_pass(*given)[0]), argnums=(0, 1, 2)))(*toy.ARGUMENTS[:3])
    toy.assert_close(both, jax.tree.map(jnp.add, tuple(asleep[name] for name in ("weights", "embedding", "start")), first))


def toy_score(out):
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(toy.PROBE)))


@pytest.mark.slow  # its fast twin is the toy's above
def test_the_last_gradient_reaches_what_is_said_and_stops_before_what_is_slept():
    """Of the first window's logits it is the full one, though their pass is a constant to the sleep; of the second's that behind a window that sleeps."""
    model, sleep = CASES["AG"]
    full, last = runner("AG"), runner("AG", gradient="last", gradient_passes=1)
    asleep = Runner(model, {**sleep, "gradient": "last", "gradient_passes": 1})
    weights = jax.random.normal(jax.random.key(0), (SMALL["vocab_size"],))

    def slope(of, predicts, place):
        said = lambda params: jnp.sum((of.apply(params, jnp.asarray(TOKENS[:, L : 3 * L]), 3, predicts) @ weights)[:, place])
        return jax.jit(jax.grad(said))(full.params)

    first, second = slice(0, L), slice(L, 2 * L)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), slope(last, (True, True), first), slope(full, (True, True), first))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), slope(last, (True, True), second), slope(asleep, (False, True), second))


def test_its_cost_by_hand():
    """Four windows: three sleeps of N passes, a fourth that is read once; the head over all; what stands behind the loop twice, where a sleep follows that keeps any of it."""
    whole = ModelConfig(vocab_size=11, window=6, pattern="AGG", sleep=SleepConfig(after_predicting=True))
    middle = dataclasses.replace(whole, sleep=dataclasses.replace(whole.sleep, loop_start=1, loop_stop=2))
    one, span, behind = flops.pass_flops(whole, 6), flops.pass_flops(whole, 6, blocks=(1, 2)), flops.pass_flops(whole, 6, blocks=(2, 3))
    heads = 4 * flops.head_flops(whole, 6)
    assert flops.forward_flops(whole, (True,) * 4, 24, 5) == (3 * 5 + 1) * one + heads
    assert flops.forward_flops(middle, (True,) * 4, 24, 5) == 4 * one + 3 * (4 * span + behind) + heads
    last_keeps_nothing = dataclasses.replace(middle, pattern="AGA")
    once = flops.pass_flops(last_keeps_nothing, 6)
    assert flops.forward_flops(last_keeps_nothing, (True,) * 4, 24, 5) == 4 * once + 3 * 4 * flops.pass_flops(last_keeps_nothing, 6, blocks=(1, 2)) + heads
    assert flops.forward_flops(middle, (True,) * 4, 24, 1) == flops.forward_flops(dataclasses.replace(middle, sleep=SleepConfig()), (True,) * 4, 24, 1)
    assert flops.train_flops(middle, (True,) * 4, 24, 5) == 3 * flops.forward_flops(middle, (True,) * 4, 24, 5)
    last = dataclasses.replace(whole, sleep=dataclasses.replace(whole.sleep, gradient="last", gradient_passes=2))
    assert flops.train_flops(last, (True,) * 2, 12, 5) == (5 + 2 * 3) * one + 3 * one + 3 * 2 * flops.head_flops(whole, 6)


@pytest.mark.parametrize("more, words", [({"predict_passes": 2}, "sleep.predict_passes=2"), ({"gradient": "implicit"}, "sleep.gradient='implicit'")])
def test_what_makes_no_sense_together_is_refused(more, words):
    with pytest.raises(UsageError, match=words):
        SleepConfig(after_predicting=True, **more)


def test_halt_is_refused():
    of = runner("AG")
    with pytest.raises(ValueError, match="after_predicting sleeps N passes"):
        of.model.forward_until(jnp.asarray(TOKENS), predicts=ALL, halt=0.5)
