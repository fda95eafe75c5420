"""The whole model against a token-serial float64 model in numpy, then exact properties: streaming, boundaries, causality, PAD."""
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hybrid_by_hand import by_hand

from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.models.hybrid import Hybrid

L, VOCAB = 5, 11
LAYOUT = (False, False, True, False, True)  # whole windows, the last one token short
LENGTH = 5 * L - 1
PIECES = ((3, 1, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 3))
SMALL = {"vocab_size": VOCAB, "window": L, "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 16}
CASES = {
    "AG": (SMALL, {"passes": 3}),
    "AGAG_sliding_middle": ({**SMALL, "pattern": "AGAG", "turn_keys": "passes"}, {"passes": 2, "eviction": "sliding", "loop_start": 1, "loop_stop": 3}),
    "GG_hebbian": (
        {**SMALL, "pattern": "GG", "rule": "gated_hebbian", "mlp_width": 0, "window_positions": False, "heads": 2, "head_dim": 4, "turn_keys": "passes"},
        {"passes": 3, "carry": "hidden"},
    ),
    "G_kda": ({**SMALL, "pattern": "G", "rule": "kda", "heads": 2, "head_dim": 4, "beta_max": 2.0, "mlp_width": 0}, {"passes": 2}),
    "G_delta": ({**SMALL, "pattern": "G", "rule": "delta", "beta_max": 2.0, "mlp_width": 0}, {"passes": 2}),
    "G_undecayed_hebbian": ({**SMALL, "pattern": "G", "rule": "hebbian", "mlp_width": 0}, {"passes": 2}),
    "G_momentum": ({**SMALL, "pattern": "G", "rule": "momentum", "mlp_width": 0, "head_dim": 4, "turn_keys": "windows"}, {"passes": 2}),
    "G_jet": ({**SMALL, "pattern": "G", "conv": "dynamic", "conv_rank": 3, "conv_bias": True, "width": 16, "mlp_width": 0, "heads": 2, "head_dim": 4}, {"passes": 2}),
    "AA_sliding": ({**SMALL, "pattern": "AA", "heads": 2, "head_dim": 6, "rope_theta": 20.0}, {"passes": 2, "eviction": "sliding", "carry": "hidden"}),
    "GAG_rewrite": ({**SMALL, "pattern": "GAG", "turn_keys": "windows"}, {"passes": 3, "rewrite": True, "loop_start": 1}),
    "GA_none": ({**SMALL, "pattern": "GA"}, {"passes": 2, "eviction": "none"}),
    "GA_sliding_reset": ({**SMALL, "pattern": "GA", "beta_max": 2.0, "conv_width": 2}, {"passes": 3, "eviction": "sliding", "reset_fast_weights": True}),
}
SLOW = ("G_delta", "G_undecayed_hebbian", "G_momentum", "G_jet")
each_case = pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])


def tokens_of_a_test():
    """PAD on the left, inside, at the end and, for one sequence, all over a window that sleeps."""
    tokens = np.random.default_rng(0).integers(1, VOCAB, (2, LENGTH))
    tokens[0, :2] = tokens[1, L + 2] = tokens[0, 2 * L + 1] = tokens[0, -1] = 0
    tokens[1, 3 * L:4 * L] = 0
    return tokens.astype(np.int32)


TOKENS = tokens_of_a_test()


def draw(path, leaf):
    """A parameter away from its start: weights by their inputs, scales and gains around 1, the rest around 0; the same for the same name."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    noise = np.random.default_rng(list(name.encode())).normal(size=leaf.shape)
    if name.endswith("kernel"):
        noise *= leaf.shape[0] ** -0.5
    elif "scale" in name or "gain" in name:
        noise = 1 + 0.2 * noise
    elif "decay" in name:
        noise = 0.5 * noise - 1
    return jnp.asarray(noise, jnp.float32)


class Runner:
    """A model with parameters of its own, and its compiled calls."""

    def __init__(self, model: dict, sleep: dict):
        self.config = ModelConfig(**model, sleep=SleepConfig(**sleep))
        self.graph, state = nnx.split(nnx.eval_shape(lambda: Hybrid(self.config, nnx.Rngs(0))), nnx.Param)
        self.params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))
        of = lambda params: nnx.merge(self.graph, params)
        self.apply = lambda params, tokens, passes, predicts: of(params).forward(tokens, passes=passes, predicts=predicts)
        self.apply_wake = lambda params, tokens, state: of(params).wake(tokens, state)
        self.apply_sleep = lambda params, state, passes: of(params).sleep(state, passes)
        self.jitted = jax.jit(self.apply, static_argnums=(2, 3))
        self.jitted_wake = jax.jit(self.apply_wake)
        self.jitted_sleep = jax.jit(self.apply_sleep, static_argnums=2)

    @property
    def model(self):
        return nnx.merge(self.graph, self.params)

    def forward(self, tokens, passes=None, predicts=LAYOUT):
        return np.asarray(self.jitted(self.params, jnp.asarray(tokens), self.config.sleep.passes if passes is None else passes, predicts))

    def wake(self, tokens, state):
        logits, state = self.jitted_wake(self.params, jnp.asarray(tokens), state)
        return np.asarray(logits), state

    def sleep(self, state, passes=None):
        return self.jitted_sleep(self.params, state, self.config.sleep.passes if passes is None else passes)

    def stream(self, tokens, predicts=LAYOUT, pieces=PIECES):
        """Logits of every window, and the state behind every sleep."""
        state, place, logits, states = self.model.init_state(len(tokens)), 0, [], []
        for labelled, lengths in zip(predicts, pieces):
            parts = []
            for length in lengths:
                part, state = self.wake(tokens[:, place:place + length], state)
                parts.append(part)
                place += length
            logits.append(np.concatenate(parts, axis=1))
            state = self.sleep(state, 1 if labelled else None)
            states.append(state)
        return logits, states


@functools.cache
def runner(case: str) -> Runner:
    return Runner(*CASES[case])


@functools.cache
def streamed(case: str):
    return runner(case).stream(TOKENS)


@functools.cache
def oracle(case: str):
    return [by_hand(runner(case).config, runner(case).params, row, LAYOUT, runner(case).config.sleep.passes) for row in TOKENS]


@each_case
def test_forward_is_algorithm_1(case):
    got = runner(case).forward(TOKENS)
    real = TOKENS != 0
    wanted = np.stack([logits for logits, _ in oracle(case)])
    assert got.dtype == np.float32 and np.abs(wanted[real]).max() > 1
    np.testing.assert_allclose(got[real], wanted[real], atol=3e-4)
    asleep = np.repeat(~np.array(LAYOUT), L)[:LENGTH]
    assert not got[:, asleep].any()


@pytest.mark.parametrize("case", ["AGAG_sliding_middle"])
def test_a_value_of_n_does_for_every_n(case):
    """One program; a sleep from a state as well, one pass of which leaves what `wake` has written."""
    of = runner(case)
    forward, sleep = jax.jit(lambda *given: of.apply(*given, LAYOUT)), jax.jit(lambda *given: of.apply_sleep(*given))
    _, state = of.wake(TOKENS[:, :L], of.model.init_state(len(TOKENS)))
    for passes in (1, of.config.sleep.passes):
        np.testing.assert_allclose(forward(of.params, TOKENS, np.int32(passes)), of.forward(TOKENS, passes), atol=2e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), sleep(of.params, state, np.int32(passes)), of.sleep(state, passes))
    assert forward._cache_size() == sleep._cache_size() == 1


@each_case
def test_waking_token_by_token_and_sleeping_is_forward(case):
    """A window read in uneven pieces, ended by N passes where it sleeps and by one where it predicted."""
    logits, _ = streamed(case)
    whole = runner(case).forward(TOKENS)
    for n, labelled in enumerate(LAYOUT):
        if labelled:
            real = TOKENS[:, n * L:(n + 1) * L] != 0
            np.testing.assert_allclose(logits[n][real], whole[:, n * L:(n + 1) * L][real], atol=2e-5)


@each_case
def test_fast_weights_behind_each_sleep_are_those_of_algorithm_1(case):
    _, states = streamed(case)
    for n, state in enumerate(states):
        for layer, got in enumerate(state.fast_weights.layers):
            wanted = np.stack([ends[n][layer] for _, ends in oracle(case)])
            np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=f"window {n}, layer {layer}")
            np.testing.assert_array_equal(state.window.fast_weights.layers[layer], got)


@each_case
def test_a_sleep_clears_the_window(case):
    config, (_, states) = runner(case).config, streamed(case)
    for n, state in enumerate(states):
        window, P = state.window, (n + 1) * L if config.full_cache else config.survivors
        assert int(window.length) == 0 and not window.tokens.any() and not any(tail.any() for tail in window.conv_tails)
        assert window.kv_cache.valid.shape == (2, P + L) and not window.kv_cache.valid[:, P:].any()
        end = min((n + 1) * L, LENGTH)
        if P and not config.full_cache:
            np.testing.assert_array_equal(window.kv_cache.valid[:, :P], TOKENS[:, end - P:end] != 0)
        assert not any(leaf[:, P:].any() for leaf in (*window.kv_cache.keys, *window.kv_cache.values))


def test_several_windows_that_sleep_are_one_after_the_other():
    """`forward` scans over them; row 1 sleeps three times, and the window behind them reads what they left."""
    run, layout = runner("AG"), (False, False, False, True)
    whole = run.forward(TOKENS[:, :4 * L], predicts=layout)
    logits, _ = run.stream(TOKENS[:, :4 * L], layout, ((3, 1, 1),) * 4)
    real = TOKENS[:, 3 * L:4 * L] != 0
    np.testing.assert_allclose(whole[:, 3 * L:][real], logits[3][real], atol=2e-5)


def test_a_concrete_mask_says_which_windows_predict():
    run = runner("AG")
    mask = np.zeros(TOKENS.shape, bool)
    mask[0, 2 * L + 3] = mask[1, 4 * L] = True  # one row is enough
    program = lambda **which: str(jax.make_jaxpr(lambda params, tokens: nnx.merge(run.graph, params).forward(tokens, **which))(run.params, TOKENS))
    by_mask = program(loss_mask=mask)
    assert by_mask == program(predicts=LAYOUT) and by_mask != program(predicts=(True, *LAYOUT[1:]))


# What crosses a boundary

def cut(state):
    """The state with zeroes for fast weights."""
    blank = jax.tree.map(jnp.zeros_like, state.fast_weights)
    return type(state)(blank, type(state.window)(**{**vars(state.window), "fast_weights": blank}))


EVICTED = np.array([[1, 2, 3, 4, 5], [5, 5, 1, 2, 3]], np.int32)
OTHERS = np.array([[3, 3, 1, 5, 2], [2, 1, 4, 0, 1]], np.int32)
LATER = np.array([[6, 7, 8], [8, 9, 10]], np.int32)  # tokens of their own: their embeddings are other rows


def test_without_s_evicted_tokens_leave_no_bit():
    run = runner("AG")

    def answer(evicted, forget):
        _, state = run.wake(evicted[:, :3], run.model.init_state(2))
        _, state = run.wake(evicted[:, 3:4], state)
        _, state = run.wake(evicted[:, 4:], state)
        state = run.sleep(state)
        return run.wake(LATER, cut(state) if forget else state)[0]

    np.testing.assert_array_equal(answer(EVICTED, True), answer(OTHERS, True))
    assert np.abs(answer(EVICTED, False) - answer(OTHERS, False)).max() > 1e-2


def test_without_s_evicted_tokens_get_exactly_no_gradient():
    run = runner("AG")

    def score(params, state, keep):
        _, state = run.apply_wake(params, jnp.asarray(EVICTED), state)
        state = run.apply_sleep(params, state, 2)
        forgotten = cut(state)
        state = jax.tree.map(lambda a, b: jnp.where(keep, a, b), state, forgotten)
        logits, _ = run.apply_wake(params, jnp.asarray(LATER), state)
        return jnp.sum(logits**2)

    gradient = jax.jit(jax.grad(score))
    rows = lambda keep: np.abs(gradient(run.params, run.model.init_state(2), keep)["embedding"]).sum(axis=1)
    np.testing.assert_array_equal(rows(False)[1:6], 0.0)
    assert (rows(False)[6:] > 0).all() and (rows(True)[1:] > 0).all()


def test_sliding_keeps_what_hard_eviction_drops():
    run = runner("AA_sliding")
    ends = []
    for evicted in (EVICTED, OTHERS):
        state = run.model.init_state(2)
        for piece in (evicted[:, :3], evicted[:, 3:4], evicted[:, 4:]):
            _, state = run.wake(piece, state)
        ends.append(run.wake(LATER, cut(run.sleep(state)))[0])
    assert np.abs(ends[0] - ends[1]).max() > 1e-2


@pytest.mark.parametrize("sleep", [{"eviction": "hard"}, {"eviction": "sliding", "predict_passes": 2}])
def test_later_tokens_of_a_window_get_exactly_no_gradient(sleep):
    run = Runner(SMALL, {"passes": 2, **sleep})
    tokens = jnp.asarray([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], jnp.int32)  # every token once: a row of the embedding is a place
    weights = jax.random.normal(jax.random.key(0), (VOCAB,))

    def read(embedding):
        logits = run.apply({**run.params, "embedding": embedding}, tokens, 2, (False, True))
        return logits[0, L:] @ weights

    jacobian = np.abs(jax.jit(jax.jacrev(read))(run.params["embedding"])).sum(axis=-1)[:, 1:]
    for t in range(L):
        assert not jacobian[t, L + t + 1:].any() and (jacobian[t, L:L + t + 1] > 0).all()
        assert (jacobian[t, :L] > 0).all()  # all of the window that slept


def test_sequences_of_a_batch_are_independent():
    run = runner("AGAG_sliding_middle")
    changed = TOKENS.copy()
    changed[1] = np.random.default_rng(9).integers(0, VOCAB, LENGTH)
    before, after = run.forward(TOKENS), run.forward(changed)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()
    np.testing.assert_allclose(run.forward(TOKENS[::-1])[::-1], before, atol=1e-5)


# PAD

@pytest.mark.parametrize("case", ["GG_hebbian", "AG_placeless"])
def test_left_padding_changes_nothing_of_what_is_written(case):
    run = runner(case) if case in CASES else Runner({**SMALL, "window_positions": False}, {"passes": 3})
    padded = np.array([[0, 0, 3, 4, 5], [0, 0, 9, 1, 9]], np.int32)
    ends = []
    for tokens in (padded, padded[:, 2:]):
        _, state = run.wake(tokens, run.model.init_state(2))
        ends.append(run.sleep(state).fast_weights.layers)
    for a, b in zip(*ends):
        assert float(jnp.abs(a).max()) > 1e-2
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_window_of_pad_leaves_s_as_it_was():
    """Exactly, for N passes and for one; row 1 of the streamed tokens has such a window."""
    _, states = streamed("AG")
    before, after = (state.fast_weights.layers[0] for state in states[2:4])
    np.testing.assert_array_equal(after[1], before[1])
    assert (after[0] != before[0]).any()
    run, state = runner("AG"), states[2]
    for piece in (3, 1, 1):
        _, state = run.wake(np.zeros((2, piece), np.int32), state)
    for passes in (1, 3):
        np.testing.assert_array_equal(run.sleep(state, passes).fast_weights.layers[0], states[2].fast_weights.layers[0])


# One pass, looped predictions, numerics

def test_one_pass_is_the_same_whatever_goes_round_the_loop():
    tokens, layout = TOKENS[:, :2 * L], (False, True)
    wanted = Runner(SMALL, {}).forward(tokens, 1, layout)
    for sleep in ({"carry": "hidden"}, {"gradient": "last"}, {"carry": "hidden", "gradient": "implicit", "remat": True, "reset_fast_weights": True}):
        np.testing.assert_array_equal(Runner(SMALL, sleep).forward(tokens, 1, layout), wanted, err_msg=str(sleep))


def test_more_passes_change_the_answer():
    run, layout = runner("AG"), (False, True)
    assert np.abs(run.forward(TOKENS[:, :2 * L], 1, layout) - run.forward(TOKENS[:, :2 * L], 2, layout)).max() > 1e-3


def test_predictions_can_loop_too():
    run = Runner(SMALL, {"passes": 1, "predict_passes": 3})
    tokens = TOKENS[:, :2 * L]
    wanted = np.stack([by_hand(run.config, run.params, row, (False, True), 1)[0] for row in tokens])
    np.testing.assert_allclose(run.forward(tokens, 1, (False, True))[tokens != 0], wanted[tokens != 0], atol=3e-4)


def test_bfloat16_keeps_fast_weights_and_logits_in_float32():
    full, half = runner("AG"), Runner({**SMALL, "dtype": "bfloat16"}, {"passes": 3})
    begin = half.model.init_state(2)
    logits, awake = jax.eval_shape(half.apply_wake, half.params, TOKENS[:, :2], begin)
    asleep = jax.eval_shape(functools.partial(half.apply_sleep, passes=2), half.params, awake)
    assert logits.dtype == jnp.float32
    for state in (begin, awake, asleep):
        for fast_weights in (state.fast_weights, state.window.fast_weights):
            assert [layer.dtype for layer in fast_weights.layers] == [jnp.float32]
        assert state.window.kv_cache.keys[0].dtype == state.window.conv_tails[0].dtype == jnp.bfloat16
    exact, rough = full.forward(TOKENS), half.forward(TOKENS)
    assert rough.dtype == np.float32 and np.isfinite(rough).all()
    awake = exact.any(axis=-1) & (TOKENS != 0)
    error = np.linalg.norm((rough - exact)[awake]) / np.linalg.norm(exact[awake])
    assert 1e-4 < error < 0.05


# What is refused

def test_an_overfull_window_is_refused():
    model = runner("AG").model
    state = model.init_state(2)
    with pytest.raises(ValueError, match=f"6 tokens on top of 0 overfill the window of {L}: sleep first"):
        model.wake(jnp.ones((2, 6), jnp.int32), state)
    _, state = runner("AG").wake(TOKENS[:, :3], state)
    with pytest.raises(ValueError, match="3 tokens on top of 3"):
        model.wake(jnp.ones((2, 3), jnp.int32), state)


@pytest.mark.parametrize("case", ["AG", "GA_none", "GG_hebbian"])
def test_what_overfills_a_window_where_that_can_not_be_seen_is_nan_and_stays_so(case):
    """Awake and after either sleep; what fits to the last token does not suffer."""
    run = runner(case)
    _, state = run.wake(TOKENS[:, :3], run.model.init_state(2))
    fits, full = run.wake(LATER[:, :2], state)
    assert np.isfinite(fits).all() and np.isfinite(run.wake(LATER[:, :2], run.sleep(full))[0]).all()
    over, spoilt = run.wake(np.ones((2, 3), np.int32), state)
    assert np.isnan(over).all() and np.isnan(run.wake(LATER[:, :2], spoilt)[0]).all()
    for passes in (1, None):
        assert np.isnan(run.wake(LATER[:, :2], run.sleep(spoilt, passes))[0]).all()


def test_a_model_that_loops_where_it_predicts_cannot_wake():
    model = Hybrid(ModelConfig(**SMALL, sleep=SleepConfig(predict_passes=2)), nnx.Rngs(0))
    with pytest.raises(ValueError, match="sleep.predict_passes=2"):
        model.wake(jnp.ones((1, 1), jnp.int32), model.init_state(1))


def test_forward_must_know_which_windows_predict():
    run = runner("AG")
    tokens, mask = jnp.asarray(TOKENS), jnp.ones(TOKENS.shape, bool)
    with pytest.raises(ValueError, match="a concrete loss_mask, or predicts=… under jit"):
        jax.jit(lambda tokens, mask: run.model.forward(tokens, mask))(tokens, mask)
    with pytest.raises(ValueError, match="which windows predict"):
        run.model.forward(tokens)
    with pytest.raises(ValueError, match="predicts has 2 entries, but 24 tokens are 5 windows"):
        run.model.forward(tokens, predicts=(True, True))


def test_a_model_without_vocabulary_or_window_is_refused():
    for missing in ("vocab_size", "window"):
        with pytest.raises(ValueError, match=f"{missing}=0"):
            Hybrid(ModelConfig(**{**SMALL, missing: 0}), nnx.Rngs(0))


def test_a_sleep_of_no_passes_is_refused():
    run = runner("AG")
    with pytest.raises(ValueError, match="passes=0"):
        run.model.sleep(run.model.init_state(1), 0)


def test_the_state_of_a_sequence_is_as_large_as_the_formula_says():
    state = types.SimpleNamespace(**{name: runner(name).model.init_state(3).fast_weights for name in CASES})
    assert state.AG.nbytes == 3 * 8 * 8 * 4 and state.GG_hebbian.nbytes == 2 * 3 * 2 * 4 * 4 * 4 and state.AA_sliding.nbytes == 0
