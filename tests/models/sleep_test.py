"""The passes of a sleep, on a toy pass: values against a plain loop, gradients against what the docstring says, by dense matrices."""
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from sleepnet.config import SleepConfig
from sleepnet.sleep import UNROLLED_PASSES, run_passes, run_until, settled
from sleepnet.state import FastWeights

B, T, D, K = 2, 3, 4, 2


def block_pass(weights, hidden, fast_weights):
    """Reads S, mixes, writes S: every output depends on every input, and a pass is a contraction."""
    (state,) = fast_weights.layers
    read = jnp.einsum("btk,bkd->btd", hidden @ weights["query"], state[:, 0])
    after = jnp.tanh(hidden @ weights["mix"] + read + weights["bias"][None, None])
    written = 0.5 * state + jnp.einsum("btk,btd->bkd", hidden @ weights["key"], after)[:, None]
    return after, FastWeights((written,)), ((after @ weights["key"],), (2.0 * after,))


def inputs(size=0.3):
    draw = lambda i, *shape: size * jax.random.normal(jax.random.key(i), shape)
    weights = {"query": draw(0, D, K), "mix": draw(1, D, D), "key": draw(2, D, K), "bias": draw(3, D)}
    return types.SimpleNamespace(
        weights=weights, embedding=3 * draw(4, B, T, D), start=FastWeights((3 * draw(5, B, 1, K, D),)), gain=1 + draw(6, D)
    )


GIVEN = inputs()
ARGUMENTS = (GIVEN.weights, GIVEN.embedding, GIVEN.start, GIVEN.gain)
SHAPES = jax.eval_shape(block_pass, *ARGUMENTS[:3])
PROBE = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), SHAPES)


def one_more(config, weights, embedding, start, gain, hidden, state):
    """A pass that is not the first, as the paper and `between_passes` describe it."""
    if config.carry == "reinject":
        hidden = hidden / jnp.sqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + 1e-6) * jnp.broadcast_to(gain, hidden.shape) + embedding
    return block_pass(weights, hidden, start if config.reset_fast_weights else state)


def plain(config, passes, weights, embedding, start, gain):
    """Algorithm 1's inner loop in Python."""
    out = block_pass(weights, embedding, start)
    for _ in range(passes - 1):
        out = one_more(config, weights, embedding, start, gain, *out[:2])
    return out


def ours(config, passes, weights, embedding, start, gain):
    return run_passes(block_pass, weights, embedding, start, gain, passes=passes, config=config)


def graded(run):
    """Gradients, by argument, of a sum over hidden, S and the KV entries with fixed random coefficients."""
    score = lambda *arguments: sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(run(*arguments)), jax.tree.leaves(PROBE)))
    return dict(zip(("weights", "embedding", "start", "gain"), jax.jit(jax.grad(score, argnums=(0, 1, 2, 3)))(*ARGUMENTS)))


def assert_close(got, wanted, rtol=2e-5):
    got, wanted = jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted)
    assert len(got) == len(wanted)
    for (path, a), b in zip(got, wanted):
        scale = max(float(jnp.max(jnp.abs(b))), 1e-3)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=jax.tree_util.keystr(path))


LOOPS = [{"carry": "hidden"}, {"carry": "reinject"}, {"carry": "reinject", "reset_fast_weights": True}]
loops = pytest.mark.parametrize("loop", LOOPS, ids=["hidden", "reinject", "reset"])


@loops
@pytest.mark.parametrize("gradient", ["full", "last", "implicit"])
def test_values_are_those_of_a_plain_loop(loop, gradient):
    config = SleepConfig(gradient=gradient, gradient_passes=2, **loop)
    for passes in (1, 4):
        assert_close(ours(config, passes, *ARGUMENTS), plain(config, passes, *ARGUMENTS), rtol=1e-6)


@loops
def test_a_value_of_n_is_a_loop_of_as_many_passes(loop):
    config = SleepConfig(**loop)
    counted = jax.jit(lambda passes: ours(config, passes, *ARGUMENTS))
    for passes in (1, 2, 5):
        assert_close(counted(jnp.int32(passes)), plain(config, passes, *ARGUMENTS), rtol=1e-6)
    assert counted._cache_size() == 1
    with pytest.raises(ValueError, match="[Rr]everse-mode differentiation"):
        jax.eval_shape(jax.grad(lambda weights, passes: jnp.sum(ours(config, passes, weights, *ARGUMENTS[1:])[0])), GIVEN.weights, jnp.int32(3))


@loops
def test_many_passes_are_a_loop_and_say_the_same(loop):
    config = SleepConfig(**loop)
    assert_close(ours(config, UNROLLED_PASSES + 2, *ARGUMENTS), plain(config, UNROLLED_PASSES + 2, *ARGUMENTS), rtol=1e-6)
    scans = lambda passes: str(jax.make_jaxpr(functools.partial(ours, config, passes))(*ARGUMENTS)).count(f"length={passes - 2}")
    assert scans(UNROLLED_PASSES + 2) == 1


def test_loops_differ_from_the_second_pass_on():
    outs = [plain(SleepConfig(**loop), 2, *ARGUMENTS)[0] for loop in LOOPS]
    assert all(float(jnp.max(jnp.abs(a - b))) > 1e-3 for i, a in enumerate(outs) for b in outs[:i])


@loops
@pytest.mark.parametrize("passes", [1, 4])
def test_full_gradient_is_that_of_a_plain_loop(loop, passes):
    config = SleepConfig(**loop)
    assert_close(graded(functools.partial(ours, config, passes)), graded(functools.partial(plain, config, passes)))


@loops
def test_last_gradient_of_all_passes_is_full(loop):
    last = SleepConfig(gradient="last", gradient_passes=3, **loop)
    wanted = graded(functools.partial(plain, last, 3))
    assert_close(graded(functools.partial(ours, last, 3)), wanted)
    assert_close(graded(functools.partial(ours, dataclasses.replace(last, gradient_passes=7), 3)), wanted)


@loops
@pytest.mark.parametrize("kept", [1, 2])
def test_last_gradient_takes_earlier_passes_as_constants(loop, kept):
    config, passes = SleepConfig(gradient="last", gradient_passes=kept, **loop), 5
    hidden, state, _ = plain(config, passes - kept, *ARGUMENTS)

    def rest(weights, embedding, start, gain, hidden, state):
        for _ in range(kept):
            hidden, state, entries = one_more(config, weights, embedding, start, gain, hidden, state)
        return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves((hidden, state, entries)), jax.tree.leaves(PROBE)))

    weights, embedding, start, gain, to_hidden, to_state = jax.jit(jax.grad(rest, argnums=range(6)))(*ARGUMENTS, hidden, state)
    # "as if those passes had left S and h alone": what reaches h and S there reaches the embedding and the first S
    wanted = {"weights": weights, "embedding": embedding + to_hidden, "start": jax.tree.map(jnp.add, start, to_state), "gain": gain}
    assert_close(graded(functools.partial(ours, config, passes)), wanted)


@loops
@pytest.mark.parametrize("passes", [3])
def test_implicit_gradient_is_its_formula_with_dense_matrices(loop, passes):
    config = SleepConfig(gradient="implicit", **loop)
    end = plain(config, passes, *ARGUMENTS)[:2]
    flat_arguments, to_arguments = ravel_pytree(ARGUMENTS)
    flat_end, to_end = ravel_pytree(end)

    def flat_pass(arguments, at):
        out = one_more(config, *to_arguments(arguments), *to_end(at))
        return ravel_pytree(out[:2])[0], ravel_pytree(out[2])[0]

    dense = jax.jit(jax.jacrev(flat_pass, argnums=(0, 1)))(flat_arguments, flat_end)
    (W, J), (W_entries, J_entries) = jax.tree.map(lambda x: np.asarray(x, np.float64), dense)
    g, g_entries = (np.asarray(ravel_pytree(part)[0], np.float64) for part in (PROBE[:2], PROBE[2]))
    total = W_entries.T @ g_entries
    for i in range(passes):
        total += W.T @ g
        g = J.T @ g + (J_entries.T @ g_entries if i == 0 else 0.0)
    wanted = dict(zip(("weights", "embedding", "start", "gain"), to_arguments(jnp.asarray(total, jnp.float32))))
    to_hidden, to_state = to_end(jnp.asarray(g, jnp.float32))
    if config.carry == "hidden":  # h₀ is the embedding; reinject's first pass is linearised like the others, embedding included
        wanted["embedding"] += to_hidden
    wanted["start"] = jax.tree.map(jnp.add, wanted["start"], to_state)
    assert_close(graded(functools.partial(ours, config, passes)), wanted, rtol=5e-5)


@pytest.mark.parametrize("loop", LOOPS[:2], ids=["hidden", "reinject"])
def test_implicit_gradient_becomes_exact_at_a_fixed_point(loop):
    def error(passes):
        got = ravel_pytree(graded(functools.partial(ours, SleepConfig(gradient="implicit", **loop), passes))["weights"])[0]
        wanted = ravel_pytree(graded(functools.partial(ours, SleepConfig(**loop), passes))["weights"])[0]
        return float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted))

    few, more, many = error(3), error(12), error(60)
    assert many < 1e-4 and many < more < few and few > 1e-2


@pytest.mark.parametrize("gradient", ["full", "last"])
def test_remat_recomputes_and_changes_nothing(gradient):
    config = SleepConfig(gradient=gradient, gradient_passes=2)
    plainly, again = (functools.partial(ours, dataclasses.replace(config, remat=remat), 3) for remat in (False, True))
    assert_close(graded(again), graded(plainly), rtol=1e-6)
    count = lambda run: str(jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(run(*a)[0])))(*ARGUMENTS)).count(" tanh ")
    assert count(again) > count(plainly)


def test_implicit_saves_no_pass():
    """What the backward pass keeps does not grow with N."""
    def residuals(gradient, passes):
        _, pull = jax.vjp(functools.partial(ours, SleepConfig(gradient=gradient), passes), *ARGUMENTS)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert residuals("implicit", 3) == residuals("implicit", 9)
    assert residuals("full", 3) < residuals("full", 9)


def test_integers_may_ride_in_the_weights():
    """A window's tokens are no floats; their cotangent must not break the implicit gradient."""
    def counted(weights, hidden, fast_weights):
        return block_pass(weights[0], hidden * (weights[1] > 0)[..., None].astype(hidden.dtype), fast_weights)

    tokens = jnp.array([[1, 0, 2], [3, 4, 0]], jnp.int32)

    def score(weights, gradient):
        out = run_passes(counted, (weights, tokens), *ARGUMENTS[1:], passes=2, config=SleepConfig(gradient=gradient))
        return jnp.sum(out[0])

    one, two = (jax.grad(score)(GIVEN.weights, gradient) for gradient in ("implicit", "full"))
    assert jax.tree.structure(one) == jax.tree.structure(two) and all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(one))


@pytest.mark.parametrize("passes", [0, -1])
def test_no_pass_at_all_is_refused(passes):
    with pytest.raises(ValueError, match=f"passes={passes}"):
        ours(SleepConfig(), passes, *ARGUMENTS)


# Sleep that ends by itself

def plainly_until(config, most, tolerance):
    """Each sequence alone, in Python: its passes, and what it is left with."""
    outs = []
    for b in range(B):
        one = jax.tree.map(lambda leaf: leaf[b:b + 1], (GIVEN.embedding, GIVEN.start))
        out, used = block_pass(GIVEN.weights, *one), 1
        while used < most:
            before = np.asarray(out[1].layers[0], np.float64)
            out, used = one_more(config, GIVEN.weights, *one, GIVEN.gain, *out[:2]), used + 1
            after = np.asarray(out[1].layers[0], np.float64)
            if np.linalg.norm(after - before) < tolerance * np.linalg.norm(after):
                break
        outs.append((out, used))
    return outs


@loops
@pytest.mark.parametrize("most, tolerance", [(1, 0.5), (3, 1e-9), (40, 0.1), (40, 1e-3), (40, 100.0)])
def test_a_sequence_sleeps_until_its_s_has_settled(loop, most, tolerance):
    config = SleepConfig(**loop)
    *out, used = jax.jit(functools.partial(run_until, block_pass, most=most, tolerance=tolerance, config=config))(*ARGUMENTS)
    wanted = plainly_until(config, most, tolerance)
    np.testing.assert_array_equal(used, [passes for _, passes in wanted])
    for b, (alone, _) in enumerate(wanted):
        assert_close(jax.tree.map(lambda leaf: leaf[b:b + 1], tuple(out)), alone, rtol=1e-5)


def test_sequences_stop_at_passes_of_their_own():
    """Without this the test above would not tell a row's own end from the batch's."""
    ends = {passes for tolerance in (0.3, 0.1, 0.03, 0.01) for _, passes in plainly_until(SleepConfig(carry="hidden"), 40, tolerance)}
    pairs = [[passes for _, passes in plainly_until(SleepConfig(carry="hidden"), 40, tolerance)] for tolerance in (0.3, 0.1, 0.03, 0.01, 1e-3)]
    assert len(ends) > 2 and any(a != b for a, b in pairs)


def test_what_is_settled_is_of_all_layers_together():
    old = FastWeights((jnp.ones((2, 1, 2, 2)), jnp.ones((2, 3, 2, 2))))
    new = FastWeights((jnp.ones((2, 1, 2, 2)), jnp.ones((2, 3, 2, 2)).at[1].add(0.5)))
    # row 1: change² = 12 · .25 = 3 of norm² = 4 + 12 · 2.25 = 31
    np.testing.assert_array_equal(settled(new, old, (3 / 31) ** 0.5 * 1.01), [True, True])
    np.testing.assert_array_equal(settled(new, old, (3 / 31) ** 0.5 * 0.99), [True, False])


@pytest.mark.parametrize("most, tolerance", [(0, 0.1), (4, 0.0), (4, float("nan"))])
def test_an_end_that_can_not_come_is_refused(most, tolerance):
    with pytest.raises(ValueError, match=f"most={most}"):
        run_until(block_pass, *ARGUMENTS, most=most, tolerance=tolerance, config=SleepConfig())


EACH = [SleepConfig(**loop) for loop in LOOPS]


@pytest.mark.parametrize("passes", [1, 2, 5, UNROLLED_PASSES + 2])
@pytest.mark.parametrize("config", EACH, ids=["hidden", "reinject", "reset"])
def test_what_each_pass_writes_is_what_fewer_passes_end_with(config, passes):
    *end, each = run_passes(block_pass, *ARGUMENTS, passes=passes, config=config, each=True)
    assert_close(tuple(end), plain(config, passes, *ARGUMENTS), rtol=1e-6)
    assert each.shape == (passes, B, T, D)
    for j in range(passes):
        np.testing.assert_allclose(each[j], plain(config, j + 1, *ARGUMENTS)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("passes", [1, 4])
def test_with_each_a_last_gradient_goes_one_pass_back_from_every_pass(passes):
    config = SleepConfig(gradient="last")
    weight = jax.random.normal(jax.random.key(3), (passes, B, T, D))
    score = lambda *arguments: jnp.sum(weight * run_passes(block_pass, *arguments, passes=passes, config=config, each=True)[3])
    got = jax.grad(score, argnums=(0, 1, 2, 3))(*ARGUMENTS)
    total = None
    for j in range(passes):  # each pass alone, from constants that came through the embedding and the first S
        if j == 0:
            one = lambda weights, embedding, start, gain: jnp.sum(weight[0] * block_pass(weights, embedding, start)[0])
            grads = jax.grad(one, argnums=(0, 1, 2, 3))(*ARGUMENTS)
        else:
            hidden, state, _ = plain(config, j, *ARGUMENTS)
            one = lambda weights, embedding, start, gain, hidden, state: jnp.sum(weight[j] * one_more(config, weights, embedding, start, gain, hidden, state)[0])
            *grads, to_hidden, to_state = jax.grad(one, argnums=range(6))(*ARGUMENTS, hidden, state)
            grads = (grads[0], grads[1] + to_hidden, jax.tree.map(jnp.add, grads[2], to_state), grads[3])
        total = grads if total is None else jax.tree.map(jnp.add, total, tuple(grads))
    assert_close(got, total)


@pytest.mark.parametrize("passes, config", [(jnp.int32(3), SleepConfig()), (3, SleepConfig(gradient="implicit")), (3, SleepConfig(gradient="last", gradient_passes=2))])
def test_each_is_refused_where_it_has_no_meaning(passes, config):
    with pytest.raises(ValueError, match="each needs a fixed number of passes"):
        run_passes(block_pass, *ARGUMENTS, passes=passes, config=config, each=True)
