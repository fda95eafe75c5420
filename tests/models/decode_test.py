"""The decoder against `forward` on what it wrote, its laws against NumPy and against counts, and what a finished row may not lose."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from sleepnet import decode
from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.decode import FREE, GREEDY, Law
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.state import fork

V, L, B, N = 7, 6, 5, 2
STEPS = 2 * L + 1  # two whole windows and a token
STATIC = ("graph", "at", "steps", "law", "stop", "passes")
write, read = jax.jit(decode.write, static_argnames=STATIC), jax.jit(decode.read, static_argnames=("graph", "at", "passes"))


@functools.cache
def split(eviction="sliding", pattern="AG", positions=True):
    sleep = SleepConfig(passes=N, eviction=eviction)
    config = ModelConfig(vocab_size=V, window=L, pattern=pattern, width=16, heads=2, head_dim=4, mlp_width=0, window_positions=positions, sleep=sleep)
    return nnx.split(Hybrid(config, nnx.Rngs(4)), nnx.Param)


def begin(model, rows):
    return nnx.merge(*model).init_state(rows)


def tokens(seed, *shape):
    return np.random.default_rng(seed).integers(1, V, shape).astype(np.int32)


PROMPT, FIRST, KEYS = tokens(0, B, 2 * L), tokens(1, B), jax.random.split(jax.random.key(2), B)
PARTLY = np.where(np.random.default_rng(3).random((B, STEPS)) < 0.3, tokens(4, B, STEPS), FREE)


@functools.cache
def asleep(eviction="sliding"):
    """The state of B rows behind two windows that slept."""
    model = split(eviction)
    return read(*model, begin(model, B), PROMPT, at=0, passes=N)[1]


@pytest.mark.parametrize("eviction", ["sliding", "none"])
def test_log_probabilities_are_those_of_forward_on_what_was_written(eviction):
    graph, params = split(eviction)
    said = write(graph, params, asleep(eviction), FIRST, KEYS, at=0, steps=STEPS, law=Law(), forced_BxT=PARTLY)
    forward = jax.jit(lambda params, tokens: nnx.merge(graph, params).forward(tokens, passes=N, predicts=(False, False, True, True, True)))
    laws = jax.nn.log_softmax(forward(params, np.concatenate([PROMPT, FIRST[:, None], said.tokens[:, :-1]], axis=1))[:, 2 * L :])
    assert said.logps.dtype == jnp.float32 and laws.std() > 0.3
    np.testing.assert_allclose(said.logps, np.take_along_axis(laws, said.tokens[..., None], axis=-1)[..., 0], atol=1e-6)
    free, told, drawn = PARTLY == FREE, np.asarray(said.tokens), np.asarray(said.drawn)
    assert (told == np.where(free, drawn, PARTLY)).all() and (told != drawn).any() and np.asarray(said.valid).all()
    draw = lambda row, t: int(jax.random.categorical(jax.random.fold_in(KEYS[row], t), laws[row, t]))
    assert [[draw(row, t) for t in range(0, STEPS, 3)] for row in range(B)] == drawn[:, ::3].tolist(), "each with its own key and place"
    np.testing.assert_array_equal(said.last, told[:, -1])
    assert int(said.state.window.length) == STEPS % L


def test_a_row_says_alone_what_it_says_in_a_batch():
    state = asleep()
    given = dict(at=0, steps=STEPS, law=Law())
    together = write(*split(), state, FIRST, KEYS, forced_BxT=PARTLY, **given)
    row = jax.tree.map(lambda leaf: leaf[3:4] if leaf.ndim else leaf, state)
    alone = write(*split(), row, FIRST[3:4], KEYS[3:4], forced_BxT=PARTLY[3:4], **given)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[3])
    np.testing.assert_allclose(alone.logps[0], together.logps[3], atol=1e-6)
    assert len({tuple(row) for row in np.asarray(together.drawn).tolist()}) == B


def test_noise_that_is_drawn_before_a_window_is_that_of_its_steps(monkeypatch):
    """A vocabulary too large for a window's noise at once says the same, bit for bit."""
    model, given = split(pattern="G"), dict(at=L - 2, steps=4, law=Law(top_k=3))
    state = read(*model, begin(model, B), PROMPT[:, : L - 2], at=0, passes=1)[1]
    early = write(*model, state, FIRST, KEYS, **given)
    monkeypatch.setattr(decode, "_AT_ONCE", 0)
    late = jax.jit(functools.partial(decode.write, model[0], **given))(model[1], state, FIRST, KEYS)
    np.testing.assert_array_equal(early.tokens, late.tokens)
    np.testing.assert_array_equal(early.logps, late.logps)


def test_tokens_come_as_often_as_the_law_has_them():
    """Pairs of tokens, all of them counted, on both sides of a border."""
    graph, params = model = split()
    law, count = Law(temperature=0.8, top_k=5), 8000
    start = fork(read(*model, begin(model, 1), PROMPT[:1, : L - 1], at=0)[1], count)
    said = write(*model, start, np.full(count, 2, np.int32), jax.random.split(jax.random.key(5), count), at=L - 1, steps=2, law=law)
    every = np.concatenate([np.repeat(PROMPT[:1, : L - 1], V, 0), np.full((V, 1), 2, np.int32), np.arange(V, dtype=np.int32)[:, None]], axis=1)
    logits = jax.jit(lambda params: nnx.merge(graph, params).forward(every, predicts=(True, True)))(params)[:, L - 1 :]
    each = np.exp(by_numpy(np.asarray(logits, np.float64), law))
    expected = (each[0, 0][:, None] * each[:, 1]).ravel() * count
    np.testing.assert_allclose(np.exp(said.logps[:, 0]), each[0, 0][said.tokens[:, 0]], rtol=1e-5)
    found = np.bincount(np.asarray(said.tokens[:, 0] * V + said.tokens[:, 1]), minlength=V * V)
    assert (expected > 5).sum() > 20 and not found[expected == 0].any() and (expected == 0).sum() == V * V - 25
    assert stats.chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-3


def by_numpy(logits, law):
    """What `Law` says of itself, token by token: log-probabilities, float64."""
    out = np.full(logits.shape, -np.inf)
    for at in np.ndindex(logits.shape[:-1]):
        p = np.exp((logits[at] - logits[at].max()) / law.temperature) if law.temperature else np.arange(len(logits[at])) == logits[at].argmax()
        if law.top_k:
            p = np.where([(p > one).sum() < law.top_k for one in p], p, 0)
        p = p / p.sum()
        p = np.where([p[p > one].sum() < law.top_p for one in p], p, 0)
        out[at] = np.log(p / p.sum(), where=p > 0, out=out[at])
    return out


LAWS = [GREEDY, Law(), Law(0.3), Law(2.0), Law(top_k=1), Law(top_k=4), Law(top_k=99), Law(top_p=0.3), Law(top_p=0.9), Law(1e-3), Law(0.7, 5, 0.8), Law(top_p=1e-9)]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_laws_are_those_written_plainly(law):
    logits = np.random.default_rng(6).normal(size=(40, 9), scale=2).astype(np.float32)
    logits[:10] = np.round(logits[:10])  # ties
    wanted, found = by_numpy(logits.astype(np.float64), law), np.asarray(law.log_probs(jnp.asarray(logits)))
    assert found.dtype == np.float32 and (np.isneginf(wanted).any() or (law.temperature > 0 and law.top_k % 99 == 0 and law.top_p == 1))
    kept = wanted > -80
    np.testing.assert_array_equal(found > -80, kept)
    np.testing.assert_allclose(found[kept], wanted[kept], rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda logits: law.log_probs(logits)[0, jnp.argmax(logits[0])])(jnp.asarray(logits))
    assert np.isfinite(gradient).all()


# Rows that finish

END, OTHERS = 5, dict(law=Law(temperature=1.5, top_p=0.95), stop=(6, 5))
SCRIPT = np.array([[END] + 7 * [FREE], [1, 2, 6, *5 * [FREE]], [3, 1, 2, 3, 4, END, 1, 1], 8 * [1], [1, 1, 2, FREE, FREE, FREE, FREE, END]], np.int32)


@functools.cache
def in_parts():
    """Eight tokens at once; and as two, two within the window and four over its end."""
    whole = write(*split(), asleep(), FIRST, KEYS, at=0, steps=8, forced_BxT=SCRIPT, **OTHERS)
    parts, at, state, last, done = [], 0, asleep(), FIRST, np.zeros(B, bool)
    for steps in (3, 2, 3):
        parts.append(write(*split(), state, last, KEYS, at=at, steps=steps, forced_BxT=SCRIPT[:, at : at + steps], since=at, done_B=done, **OTHERS))
        state, last, at = parts[-1].state, parts[-1].last, at + steps
        done = np.isin(last, OTHERS["stop"])
    return whole, parts


def test_a_row_stops_at_once_in_a_window_at_its_end_or_not_at_all():
    said, _ = in_parts()
    ends = [0, 2, L - 1, 7]
    for row, time in enumerate([*ends, None]):
        told, valid, logps = (np.asarray(part[row]) for part in (said.tokens, said.valid, said.logps))
        count = 1 + (next((t for t, token in enumerate(told) if token in OTHERS["stop"]), 7) if time is None else time)
        assert valid.tolist() == [True] * count + [False] * (8 - count) and not told[count:].any() and not logps[count:].any()
        assert np.where(SCRIPT[row, :count] == FREE, told[:count], SCRIPT[row, :count]).tolist() == told[:count].tolist() and told[:count].all()
        assert int(said.last[row]) == told[count - 1]


def test_a_call_goes_on_where_another_ended():
    whole, parts = in_parts()
    for name in ("tokens", "drawn", "valid", "logps"):
        joined = np.concatenate([np.asarray(getattr(part, name), np.float32) for part in parts], axis=1)
        np.testing.assert_allclose(np.asarray(getattr(whole, name), np.float32), joined, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(whole.last, parts[-1].last)


def test_what_a_finished_row_remembers_stays_bit_for_bit():
    before, within, over = (part.state.window for part in in_parts()[1])
    for old, new, later in zip(before.fast_weights.layers, within.fast_weights.layers, over.fast_weights.layers, strict=True):
        np.testing.assert_array_equal(old[:2], new[:2])
        np.testing.assert_array_equal(old[:2], later[:2])
        assert (old[3] != new[3]).any() and (new[3] != later[3]).any()
    for old, new in zip(before.conv_tails, within.conv_tails, strict=True):
        np.testing.assert_array_equal(old[:2], new[:2])
        assert np.asarray(old[:2]).any(axis=(1, 2)).all() and (old[3] != new[3]).any()
    np.testing.assert_array_equal(before.kv_cache.valid[:2], within.kv_cache.valid[:2])
    seen = np.asarray(before.kv_cache.valid[:2])
    for old, new in zip((*before.kv_cache.keys, *before.kv_cache.values), (*within.kv_cache.keys, *within.kv_cache.values), strict=True):
        np.testing.assert_array_equal(np.asarray(old[:2])[seen], np.asarray(new[:2])[seen])
    attended = np.asarray(over.kv_cache.valid).sum(axis=1)
    assert attended[0] < attended[1] < attended[3]


def test_a_row_that_has_finished_reads_on_as_if_it_had_not_waited():
    """Without attention and positions the gap leaves no trace."""
    model = split("hard", "G", False)
    said = write(*model, begin(model, 1), FIRST[:1], KEYS[:1], at=0, steps=4, stop=(END,), forced_BxT=np.array([[1, END, FREE, FREE]], np.int32))
    logits, _ = read(*model, said.state, np.array([[said.last[0], 3]], np.int32), at=4)
    alone, _ = read(*model, begin(model, 1), np.array([[FIRST[0], 1, END, 3]], np.int32), at=0)
    np.testing.assert_allclose(logits[0], alone[0, 2:], atol=1e-6)


def test_gradients_of_forked_rows_that_are_read_are_those_of_forward_over_repeated_prompts():
    graph, params = split()
    prompt, after, weights = PROMPT[:2, :L], tokens(9, 6, L + 2), np.random.default_rng(10).normal(size=(6, L + 1)).astype(np.float32)

    def score(logits):
        logps = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), after[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(logps * weights)

    def forked(params):
        state = decode.read(graph, params, nnx.merge(graph, params).init_state(2), prompt, at=0, passes=N)[1]
        return score(decode.read(graph, params, fork(state, 3), after, at=0)[0])

    def repeated(params):
        whole = np.concatenate([np.repeat(prompt, 3, axis=0), after], axis=1)
        return score(nnx.merge(graph, params).forward(whole, passes=N, predicts=(False, True, True))[:, L:])

    found, wanted = (jax.jit(jax.value_and_grad(of))(params) for of in (forked, repeated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max())), found, wanted)
    assert np.abs(wanted[1]["blocks"][1]["mixer"]["v"]["kernel"][...]).max() > 0.1


# What goes wrong

def test_logits_that_are_no_numbers_are_told():
    graph, params = split()
    said = write(graph, jax.tree.map(lambda leaf: leaf * jnp.nan, params), begin((graph, params), 2), FIRST[:2], KEYS[:2], at=0, steps=2, law=Law(top_p=0.5))
    assert (said.tokens == FREE).all() and (said.drawn == FREE).all() and np.isnan(said.logps).all() and not said.last.any()
    assert np.isnan(GREEDY.log_probs(jnp.array([0.0, jnp.nan]))).all()


def test_rows_that_stand_elsewhere_are_told():
    model = split()
    state = read(*model, begin(model, 2), PROMPT[:2, :3], at=0)[1]
    for at in (2, 4):
        with pytest.raises(UsageError, match=f"at={at}, but the rows of this state stand at 3"):
            decode.read(*model, state, PROMPT[:2, :1], at=at)
    assert np.isnan(read(*model, state, PROMPT[:2, : L + 1], at=4)[0]).all()
    assert np.isnan(write(*model, state, FIRST[:2], KEYS[:2], at=2, steps=L, law=Law()).logps).all()


GIVEN = dict(first_B=FIRST, keys_B=KEYS, at=0, steps=2)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(at=L), f"at={L} must be a static whole number from 0 to {L - 1}: the window is full, end it with model.sleep"),
        (dict(at=-1), "at=-1 must be a static whole number"),
        (dict(steps=0), "steps=0 must be a whole number of at least 1"),
        (dict(stop=(V,)), f"stop=\\({V},\\) must be tokens from 0 to {V - 1}"),
        (dict(keys_B=None), f"keys: none for {B} rows: give one a row"),
        (dict(keys_B=KEYS[:1]), f"keys: 1 for {B} rows"),
        (dict(forced_BxT=PARTLY), f"forced has shape \\[{B}, {STEPS}\\], for {B} rows and 2 steps"),
        (dict(first_B=FIRST + V), "tokens hold .*, the model's vocabulary is 0 … 6"),
        (dict(first_B=FIRST[:2], keys_B=KEYS[:2]), f"tokens of 2 sequences and a state of {B}"),
    ],
)
def test_what_can_not_be_written_is_refused(change, message):
    model = split()
    with pytest.raises(ValueError, match=message):
        decode.write(*model, begin(model, B), **{**GIVEN, **change})


@pytest.mark.parametrize(
    "values, message",
    [
        ((-0.1,), "temperature=-0.1 must be a number of at least 0"), ((float("nan"),), "temperature=nan"), ((True,), "temperature=True"),
        ((1.0, -1), "top_k=-1 must be a whole number"), ((1.0, 1.5), "top_k=1.5"), ((1.0, 0, 0), "top_p=0 must be above 0"), ((1.0, 0, 1.1), "top_p=1.1"),
    ],
)  # fmt: skip
def test_what_is_no_law_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Law(*values)
