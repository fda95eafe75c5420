"""The table of cases that every implementation of the fast-weight rules goes through, and how a row of it is checked.

Outputs, final state and every gradient are compared by name. Arguments vary within a few shapes so that little is compiled.
"""
import dataclasses
import functools
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet_kernels import numerics
from sleepnet_kernels.delta_rule import reference as plain_delta_reference
from sleepnet_kernels.gated_delta_rule import reference as delta_reference
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments
from sleepnet_kernels.gated_hebbian_rule import reference as hebbian_reference
from sleepnet_kernels.hebbian_rule import reference as plain_hebbian_reference
from sleepnet_kernels.kda_rule import arg_specs as kda_arg_specs
from sleepnet_kernels.kda_rule import reference as kda_reference
from sleepnet_kernels.momentum_rule import arg_specs as momentum_arg_specs
from sleepnet_kernels.momentum_rule import reference as momentum_reference

ORACLES = {
    "delta": delta_reference.gated_delta_rule, "hebbian": hebbian_reference.gated_hebbian_rule, "kda": kda_reference.kda_rule,
    "delta without decay": plain_delta_reference.delta_rule, "hebbian without decay": plain_hebbian_reference.hebbian_rule,
    "momentum": momentum_reference.momentum_rule,
}
# Rules whose arguments have shapes of their own.
ARGUMENTS = {"kda": kda_arg_specs.arguments, "momentum": momentum_arg_specs.arguments}
# Rules that carry more than one matrix a head, above one another.
STATES = {"momentum": 2}
NAMES = ("q", "k", "v", "log_decay", "beta", "initial_state")
ORDER = (*NAMES[:4], "log_momentum", "beta", "applied", "initial_state")
C = 8
# Five chunks are not unrolled, which compiles faster; the last one is padded.
MIDDLE = Shape(2, 36, 2, 8, 12)
SHARED = Shape(2, 36, 6, 8, 12, shared=3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: a shape, what `arguments` is told, the dtype of q, k and v, and where segments begin in each row of a batch."""

    shape: Shape = MIDDLE
    dtype: str = "float32"
    told: tuple = ()
    begins: tuple[tuple[int, ...], ...] = ()


def told(**keywords):
    return tuple(keywords.items())


# Where sums of log-decays become so large that little is left of their differences, or nothing.
STRONG = {
    "hard resets by decay": Case(told=told(strong=(-np.inf,))),
    "decay 1e4 and 1e6 at times": Case(told=told(strong=(-1e4, -1e6))),
    "decay 100 and 127 mostly": Case(told=told(strong=(-100.0, -127.0), share=0.7, seed=6)),
    "decay of every strength": Case(told=told(strong=(-3.0, -30.0, -100.0, -1e4, -1e6, -np.inf), share=0.4)),
}
# Rows of one sequence, then rows packed with several, which segments_test.py takes through every implementation.
CASES = {
    "moderate decay": Case(),
    "no decay": Case(told=told(decay=0.0)),
    "decay 50": Case(told=told(decay=50.0)),
    "decay .005": Case(told=told(decay=0.005)),
    "decay 5": Case(told=told(decay=5.0)),
    **STRONG,
    "identical keys, beta 1, no decay": Case(told=told(decay=0.0, beta=1.0, correlation=1.0)),
    "correlated keys": Case(told=told(decay=0.0, correlation=0.9)),
    "correlated keys, beta 1, slow decay": Case(told=told(decay=0.01, beta=1.0, correlation=0.9)),
    "beta 2": Case(told=told(beta=1.999)),
    "every third beta 0": Case(told=told(silent=3)),
    "one token": Case(Shape(2, 1, 2, 8, 12)),
    "a chunk less one": Case(Shape(2, C - 1, 2, 8, 12)),
    "a chunk": Case(Shape(2, C, 2, 8, 12)),
    "a chunk and one": Case(Shape(2, C + 1, 2, 8, 12)),
    "100 tokens, wide keys": Case(Shape(1, 100, 1, 12, 8)),
    "three heads share a key": Case(SHARED),
    "three heads share a key, correlated, beta 1": Case(SHARED, told=told(decay=0.01, beta=1.0, correlation=0.9)),
    "bf16": Case(dtype="bfloat16"),
    "bf16, no decay": Case(dtype="bfloat16", told=told(decay=0.0)),
    "bf16, decay 5": Case(dtype="bfloat16", told=told(decay=5.0)),
    "bf16, identical keys, beta 1, no decay": Case(dtype="bfloat16", told=told(decay=0.0, beta=1.0, correlation=1.0)),
    "bf16, correlated keys": Case(dtype="bfloat16", told=told(decay=0.0, correlation=0.9)),
    "bf16, three heads share a key": Case(SHARED, dtype="bfloat16"),
    "bf16, 100 tokens": Case(Shape(1, 100, 1, 12, 8), dtype="bfloat16"),
}
PACKED_CASES = {
    "from 1, from a chunk's begin": Case(begins=((1,), (C,))),
    "about a chunk's begin": Case(begins=((C - 1,), (C + 1,))),
    "about two chunks' begins": Case(begins=((2 * C - 1, 4 * C), (2 * C, 2 * C + 1))),
    "from the middle of a chunk, none": Case(begins=((20,), ())),
    "many in a chunk": Case(begins=((9, 11, 12, 15), (2, 3, 4, 21))),
    "each token by itself": Case(begins=(tuple(range(1, MIDDLE.t)), (MIDDLE.t - 1,))),
    "decay 50": Case(told=told(decay=50.0), begins=((9, 11, 12, 15), (20,))),
    "decay of every strength": Case(told=STRONG["decay of every strength"].told, begins=((9, 11, 12, 15), (2 * C, 20))),
    "identical keys, beta 1, no decay": Case(told=told(decay=0.0, beta=1.0, correlation=1.0), begins=((9, 11, 12, 15), (20,))),
    "100 tokens": Case(Shape(1, 100, 1, 12, 8), begins=((13, 40, 41, 99),)),
    "three heads share a key": Case(SHARED, begins=((2 * C - 1, 2 * C), (21,))),
    "bf16": Case(dtype="bfloat16", begins=((9, 11, 12, 15), (2 * C,))),
}


# What sums that have lost something miss within a few chunks of 8 tokens.
EXACT = numerics.Tolerance(output=2e-6, gradient=2e-6)
# Rows in which a log-decay of -inf can stand for a segment's beginning.
RESETS = ("about a chunk's begin", "about two chunks' begins", "many in a chunk", "each token by itself")


@functools.cache
def with_gradients(function, **static):
    """Returns a jitted function: arguments and cotangents -> output, final state and every gradient, by name."""

    def evaluate(given, d_output, d_final_state):
        packed, names = (given["segment_ids"],) if "segment_ids" in given else (), [name for name in ORDER if name in given]
        (output, final_state), pullback = jax.vjp(lambda *arrays: function(*arrays, *packed, **static), *(given[name] for name in names))
        gradients = pullback((d_output.astype(output.dtype), d_final_state))
        return {"output": output, "final_state": final_state} | {f"d_{name}": g for name, g in zip(names, gradients)}

    return jax.jit(evaluate)


def segment_ids(shape, begins):
    """Returns the id of each token, in order but with gaps."""
    ids = np.zeros((shape.b, shape.t), np.int32)
    for row, positions in enumerate(begins):
        for position in positions:
            ids[row, position:] += 3
    return jnp.asarray(ids)


def one_by_one(rule, given, d_output, d_final_state, begins):
    """Runs the oracle on each segment by itself, the first from the initial state; the state after a row is that of its last one.

    A segment is padded with tokens that leave the state alone, and every other row of the batch holds nothing.
    """
    t, results = d_output.shape[1], {}
    given = {name: np.asarray(x) for name, x in given.items()} | {"d_output": np.asarray(d_output), "d_final_state": np.asarray(d_final_state)}
    for row, positions in enumerate(begins):
        for begin, end in zip((0, *positions), (*positions, t)):
            alone = {name: np.zeros_like(x) for name, x in given.items()}
            for name, x in given.items():
                if name == "initial_state":
                    alone[name][row] = x[row] * (begin == 0)
                elif name == "d_final_state":
                    alone[name][row] = x[row] * (end == t)
                else:
                    alone[name][row, : end - begin] = x[row, begin:end]
            d_alone = alone.pop("d_output"), alone.pop("d_final_state")
            for name, x in with_gradients(ORACLES[rule])(alone, *d_alone).items():
                result = results.setdefault(name, np.zeros(x.shape, np.float32))
                if name == "d_initial_state":
                    result[row] += np.asarray(x[row]) * (begin == 0)
                elif name == "final_state":
                    result[row] += np.asarray(x[row]) * (end == t)
                else:
                    result[row, begin:end] = x[row, : end - begin]
    return results


def cotangents(shape, seed=7, states=1):
    rng = np.random.default_rng(seed)
    d_output = jnp.asarray(rng.normal(size=(shape.b, shape.t, shape.h, shape.dv)), jnp.float32)
    return d_output, jnp.asarray(rng.normal(size=(shape.b, shape.h, states * shape.dk, shape.dv)), jnp.float32)


def assert_close(actual, expected, tolerance):
    ratios = {name: numerics.rms_ratio(actual[name].astype(jnp.float32), expected[name].astype(jnp.float32)) for name in expected}
    bounds = {name: tolerance.gradient if name.startswith("d_") else tolerance.output for name in expected}
    assert not {name: ratio for name, ratio in ratios.items() if not ratio <= bounds[name]}, ratios


def check(rule, case, function, *, by_decay=False, **static):
    """Compares `function`, told `static`, with the oracle of the rule; segments begin with a log-decay of -inf where `by_decay`, else by their ids."""
    given = ARGUMENTS.get(rule, arguments)(case.shape, case.dtype, **dict(case.told))
    packed = {"segment_ids": segment_ids(case.shape, case.begins)} if case.begins and not by_decay else {}
    decays = [name for name in ("log_decay", "log_momentum") if name in given]
    for name, (row, positions) in itertools.product(decays, enumerate(case.begins if by_decay else ())):
        given[name] = given[name].at[row, list(positions)].set(-jnp.inf)
    d_output, d_final_state = cotangents(case.shape, states=STATES.get(rule, 1))
    actual = with_gradients(function, **static)(given | packed, d_output, d_final_state)
    for name in given:
        assert actual[f"d_{name}"].dtype == given[name].dtype
    for name in decays:
        assert not np.any(actual[f"d_{name}"][given[name] == -jnp.inf])
    # The oracle sees the rounded operands but no rounded result.
    exact = {name: x.astype(jnp.float32) for name, x in given.items()}
    d_output = d_output.astype(case.dtype).astype(jnp.float32)
    if case.begins:
        expected = one_by_one(rule, exact, d_output, d_final_state, case.begins)
    else:
        expected = with_gradients(ORACLES[rule])(exact, d_output, d_final_state)
    correlated, strong = dict(case.told).get("correlation", 0.0) > 0, by_decay or "strong" in dict(case.told)
    tolerance = EXACT if strong and case.dtype == "float32" else numerics.tolerance(case.dtype, correlated_keys=correlated)
    assert_close(actual, expected, tolerance)


def check_differentiates(oracle, numpy_loop, given, shape):
    """Compares the gradients of `oracle` with central differences of `numpy_loop`, a float64 walk with the same arguments by name."""
    d_output, d_final_state = cotangents(shape)
    gradients = with_gradients(oracle)(given, d_output, d_final_state)

    def loss(given):
        output, state = numpy_loop(**given)
        return np.sum(output * np.asarray(d_output, np.float64)) + np.sum(state * np.asarray(d_final_state, np.float64))

    for name, x in given.items():
        x = np.asarray(x, np.float64)
        numeric = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            step = np.zeros(x.shape)
            step[index] = 1e-5
            numeric[index] = (loss(given | {name: x + step}) - loss(given | {name: x - step})) / 2e-5
        assert numerics.rms_ratio(gradients[f"d_{name}"], numeric) < 1e-6, name


def in_eight_devices(file):
    """Runs a test file as a script, in a process of its own with eight devices."""
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr


def check_sharded(call, given, states=1):
    """Compares shards over four rows and two groups of heads, of eight devices, with the whole."""
    assert jax.device_count() == 8
    mesh = jax.make_mesh((4, 2), ("batch", "heads"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec, state_spec = jax.sharding.PartitionSpec("batch", None, "heads"), jax.sharding.PartitionSpec("batch", "heads")
    cut = jax.shard_map(call, mesh=mesh, check_vma=False, in_specs=(*[spec] * (len(given) - 1), state_spec), out_specs=(spec, state_spec))
    ends = cotangents(Shape(*given["v"].shape[:3], given["q"].shape[-1], given["v"].shape[-1]), states=states)
    actual = with_gradients(cut)(given, *ends)
    assert actual["output"].sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), 4), actual["output"].sharding
    assert_close(actual, with_gradients(call)(given, *ends), numerics.FLOAT32)


def check_split(call, given, cut):
    """Compares two calls, the second from the state of the first after `cut` tokens, with one."""
    whole_output, whole_state = call(*given.values())
    tokens, state, outputs = [x for name, x in given.items() if name != "initial_state"], given["initial_state"], []
    for part in (slice(0, cut), slice(cut, None)):
        output, state = call(*(x[:, part] for x in tokens), state)
        outputs.append(output)
    assert numerics.rms_ratio(jnp.concatenate(outputs, axis=1), whole_output) < 1e-6
    assert numerics.rms_ratio(state, whole_state) < 1e-6
