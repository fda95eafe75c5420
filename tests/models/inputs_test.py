"""What a model is given that is none of its own: refused by name where it can be seen, never read as something else where it can't."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import data, seeds, tasks
from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.base import FIELDS

V, L = 6, 4


def make(**more):
    return Hybrid(ModelConfig(**{"vocab_size": V, "window": L, "pattern": "AG", "width": 8, "heads": 1, "head_dim": 4, "mlp_width": 0} | more), seeds.rngs(0))


def shaped(**more):
    """A model without values: what is refused by shape needs none."""
    return nnx.eval_shape(lambda: make(**more))


MODEL = make()
TOKENS = np.array([[1, 2, 3, 4, 5, 1, 2, 3], [5, 4, 3, 2, 1, 5, 4, 3]], np.int32)
OTHERS = {
    "heads": (dict(heads=2), r"1 fast_weights of \[2, 2, 4, 4\], this model's are 1 of \[2, 1, 4, 4\]"),
    "pattern": (dict(pattern="GG"), r"2 fast_weights of \[2, 1, 4, 4\], this model's are 1 of "),
    "no fast weights": (dict(pattern="A", sleep=SleepConfig(passes=1, eviction="none")), "0 fast_weights of none, this model's are 1 of "),
    "attention": (dict(pattern="AAG"), r"2 window.kv_cache.keys of \[2, 4, 1, 4\], this model's are 1 of "),
    "window": (dict(window=8), r"1 window.tokens of \[2, 8\], this model's are 1 of \[2, 4\]"),
    "survivors": (dict(sleep=SleepConfig(eviction="sliding")), r"1 window.kv_cache.keys of \[2, 7, 1, 4\], this model's are 1 of \[2, 4, 1, 4\]"),
    "convolution": (dict(conv="dynamic"), r"1 window.conv_tails of \[2, 3, 4\], this model's are 1 of \[2, 3, 12\]"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_model_is_refused(other):
    changes, words = OTHERS[other]
    state = shaped(**changes).init_state(2)
    for call in (lambda: MODEL.wake(TOKENS[:, :2], state), lambda: MODEL.sleep(state), lambda: jax.eval_shape(MODEL.sleep, state)):
        with pytest.raises(ValueError, match=f"a state of another model: {words}"):
            call()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_state_of_another_batch_is_refused(rows):
    """One row would be broadcast over all sequences of the state."""
    with pytest.raises(ValueError, match=f"tokens of {rows} sequences and a state of 2: give one of init_state\\({rows}\\)"):
        MODEL.wake(np.ones((rows, 2), np.int32), MODEL.init_state(2))


@pytest.mark.parametrize("more", [
    {}, {"pattern": "GG"}, {"conv": "dynamic"}, {"rule": "momentum"}, {"sleep": SleepConfig(eviction="sliding")}, {"sleep": SleepConfig(eviction="none")},
    {"pattern": "AA", "sleep": SleepConfig(passes=1, eviction="none")},
])  # fmt: skip
def test_a_model_takes_every_state_of_its_own(more):
    graph, params = nnx.split(shaped(**more))

    def read(params, tokens):
        model = nnx.merge(graph, params)
        state = model.init_state(2)
        for _ in range(3):
            state = model.sleep(model.wake(tokens, state)[1], 2 if "G" in model.config.pattern else 1)
        return model.wake(tokens, state)[0]

    assert jax.eval_shape(read, params, TOKENS[:, :L]).shape == (2, L, V)


@pytest.mark.parametrize("token", [-1, V, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_a_token_outside_the_vocabulary_is_refused_where_it_is_seen(token, array):
    tokens = TOKENS.copy()
    tokens[1, 2] = token
    known = array(tokens)  # also within a function that is traced
    for call in (
        lambda: MODEL.forward(known, predicts=(False, True)),
        lambda: MODEL.wake(known[:, :L], MODEL.init_state(2)),
        lambda: jax.eval_shape(lambda: MODEL.forward(known, predicts=(False, True))),
    ):
        with pytest.raises(ValueError, match=f"tokens hold {token}, the model's vocabulary is 0 … {V - 1}: other data, or a model of another task"):
            call()


def whole(tokens):
    return MODEL.forward(tokens, predicts=(False, True))


def streamed(tokens):
    """The same in windows: what is read is remembered, so what is no token must not be forgotten either."""
    state = MODEL.sleep(MODEL.wake(tokens[:, :L], MODEL.init_state(2))[1], 2)
    return MODEL.wake(tokens[:, L:], state)[0]


@pytest.mark.parametrize("read", [whole, streamed])
def test_one_that_is_not_seen_makes_nan_of_what_comes_after_and_of_no_other_sequence(read):
    compiled = jax.jit(read)
    good = compiled(TOKENS)
    assert np.isfinite(good).all()
    for token in (-1, V):
        for place in (1, 6):  # in a window that sleeps, and in one that predicts
            bad = TOKENS.copy()
            bad[1, place] = token
            found = compiled(bad)
            np.testing.assert_array_equal(found[0], good[0])
            assert np.isnan(found[1, max(place - L, 0) - L :]).all()


@pytest.mark.parametrize("key, token", [("tokens", -1), ("tokens", V), ("targets", -1), ("targets", V)])
def test_training_data_with_one_are_refused_by_their_batch(key, token):
    batch = {name: np.zeros((3, 4), np.int32) for name in FIELDS}
    batch[key][2, 1] = token
    task = types.SimpleNamespace(name="mine", fields=FIELDS, vocab_size=V, follows_passes=False, batch_at=lambda seed, split, indices: batch)
    source = data.BatchSource(task, seed=5, batch_size=3, steps=9)
    with pytest.raises(UsageError, match=f"batch 7 of seed 5: {key} hold {token}, the task's vocabulary is 0 … {V - 1}; .*tasks check mine"):
        source[7]


@pytest.mark.parametrize("tokens, given", [
    (np.ones((0, 4), np.int32), r"int32\[0, 4\]"), (np.ones((2, 0), np.int32), r"int32\[2, 0\]"), (np.ones(4, np.int32), r"int32\[4\]"),
    (np.ones((1, 4), np.float32), r"float32\[1, 4\]"), (np.ones((1, 4), bool), r"bool\[1, 4\]"), ([[1, 2, 3, 4]], "list"),
])  # fmt: skip
def test_what_are_no_tokens_is_refused(tokens, given):
    for call in (lambda: MODEL.forward(tokens, predicts=(True,)), lambda: MODEL.wake(tokens, MODEL.init_state(1))):
        with pytest.raises(ValueError, match=f"tokens must be an array of whole numbers \\[B, T\\], of at least one sequence and one token, not {given}"):
            call()


def test_a_mask_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match=r"loss_mask has shape \[2, 4\], for \[B, 8\] tokens"):
        MODEL.forward(TOKENS, np.ones((2, 4), bool))


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_no_sequences_are_no_batch(size):
    with pytest.raises(ValueError, match=f"batch_size={size} must be a whole number of at least 1"):
        MODEL.init_state(size)
    with pytest.raises(UsageError, match=f"^size={size} must be a whole number of at least 1$"):
        tasks.get("mqar", pairs=2, length=16, vocabulary=16).batch(0, "test", 0, size)
