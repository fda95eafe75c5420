"""The TPU kernels of both rules, interpreted on a CPU: the table of rule_table.py, then what only a kernel can get wrong.

Interpreting compiles for seconds a shape, so the default run takes the rows of few shapes; `-m slow` takes all.
"""
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from rule_table import CASES, MIDDLE, NAMES, ORACLES, PACKED_CASES, RESETS, STRONG, Case, assert_close, check, check_split, cotangents, told, with_gradients

from sleepnet_kernels import mosaic, mosaic_kernels, numerics
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import pallas_tpu as delta_kernel
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import pallas_tpu as hebbian_kernel

RULES = {"delta": delta_api.gated_delta_rule, "hebbian": hebbian_api.gated_hebbian_rule}
KERNELS = {"delta": delta_kernel.gated_delta_rule, "hebbian": hebbian_kernel.gated_hebbian_rule}
# One head a step and two groups of heads; MIDDLE has three chunks of these, the last one padded.
BLOCKS = mosaic.Blocks(chunk=16, heads=1, backward_heads=1, vmem_mib=32)
INTERPRETED = {rule: functools.partial(kernel, interpret=True) for rule, kernel in KERNELS.items()}
FAST = (
    "moderate decay", "no decay", "decay 50", *STRONG, "identical keys, beta 1, no decay", "correlated keys, beta 1, slow decay", "beta 2", "every third beta 0",
)
FAST_BF16 = ("bf16", "bf16, correlated keys", "bf16, identical keys, beta 1, no decay", "three heads share a key")
EXPORTED = (Shape(2, 256, 8, 128, 128), Shape(1, 1, 3, 64, 32), Shape(2, 1000, 16, 64, 128))
both_rules = pytest.mark.parametrize("rule", list(RULES))


def table():
    for rule in KERNELS:
        for name in CASES:
            fast = name in FAST or rule == "delta" and name in FAST_BF16
            yield pytest.param(rule, name, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize("rule, name", table())
def test_matches_the_oracle(rule, name):
    check(rule, CASES[name], INTERPRETED[rule], blocks=BLOCKS)


@both_rules
@pytest.mark.parametrize("name", RESETS)
def test_from_a_hard_reset_on_all_is_as_in_a_call_of_its_own(rule, name):
    check(rule, PACKED_CASES[name], INTERPRETED[rule], by_decay=True, blocks=BLOCKS)


@pytest.mark.slow
@both_rules
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk, heads, tokens", [(16, 1, 15), (16, 2, 16), (16, 3, 17), (32, 2, 33), (64, 3, 64), (128, 6, 257), (48, 2, 100)])
def test_matches_the_oracle_with_other_blocks(rule, dtype, chunk, heads, tokens):
    blocks = mosaic.Blocks(chunk, heads, heads, 32)
    check(rule, Case(Shape(1, tokens, 6, 32, 130), dtype), INTERPRETED[rule], blocks=blocks)
    check(rule, Case(Shape(1, tokens, 6, 32, 130), dtype, told(decay=0.0, beta=1.0, correlation=0.9)), INTERPRETED[rule], blocks=blocks)


@pytest.mark.parametrize("size, dtype, bound", [(16, "float32", 1e-6), (128, "float32", 1e-6), (16, "bfloat16", 1e-4), (128, "bfloat16", 2e-4)])
def test_the_inverse_on_correlated_keys(size, dtype, bound):
    k = np.asarray(arguments(Shape(1, size, 1, 32, 1), correlation=0.9)["k"], np.float64)[0, :, 0]
    strict_lower = np.tril(k @ k.T, -1)
    inverse = mosaic_kernels.unit_lower_inverse(jnp.asarray(strict_lower + 7.0 * np.eye(size), jnp.float32)[None], jnp.dtype(dtype), wide=True)
    assert numerics.rms_ratio(inverse[0], np.linalg.inv(np.eye(size) + strict_lower)) < bound


# XLA starts as many threads as it may use cores, or NPROC: with one, the two interpreted cores wait for each other for ever.
ONE_THREAD = "NPROC" not in os.environ and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1


@pytest.mark.slow
@pytest.mark.skipif(ONE_THREAD, reason="the interpreter's two cores need two threads: set NPROC=2")
@both_rules
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_written_before_it_is_read_and_by_one_core(rule, dtype, capfd):
    watched = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan", num_cores_or_threads=2)
    check(rule, Case(MIDDLE, dtype), KERNELS[rule], blocks=BLOCKS, interpret=watched)
    assert "RACE" not in "".join(capfd.readouterr())


def exported(function, shape, dtype):
    given = jax.eval_shape(lambda: arguments(shape, dtype))
    return jax.export.export(jax.jit(function), platforms=["tpu"])(*(given[name] for name in NAMES)).mlir_module()


def loss(function):
    return lambda *given: sum(jnp.sum(x.astype(jnp.float32)) for x in function(*given))


@both_rules
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [EXPORTED[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in EXPORTED[1:])], ids=str)
def test_lowers_for_a_tpu(rule, dtype, shape):
    lowered = exported(jax.value_and_grad(loss(KERNELS[rule]), argnums=range(6)), shape, dtype)
    assert lowered.count("tpu_custom_call") == 2


def test_a_batched_kernel_lowers_for_a_tpu():
    twice = lambda *given: jax.vmap(loss(KERNELS["delta"]))(*(jnp.stack([x, x]) for x in given)).sum()
    assert exported(jax.grad(twice, argnums=range(6)), EXPORTED[0], "bfloat16").count("tpu_custom_call") == 2


@both_rules
def test_none_lowers_for_the_platform_asked_for(rule):
    def call(q, k, v, log_decay, beta, state):
        return RULES[rule](q, k, v, log_decay=log_decay, beta=beta, initial_state=state)

    assert "tpu_custom_call" in exported(call, MIDDLE, "float32")
    assert "custom_call" not in jax.jit(call).lower(*arguments(MIDDLE).values()).as_text()


@both_rules
def test_a_kernel_by_name_runs_or_raises(rule):
    given = arguments(MIDDLE)
    q, k, v = (given.pop(name) for name in "qkv")
    interpreted = RULES[rule](q, k, v, **given, implementation="pallas_tpu_interpret")
    for one, other in zip(interpreted, RULES[rule](q, k, v, **given)):
        assert numerics.rms_ratio(one, other) < 1e-5
    with pytest.raises(ValueError, match=r"'pallas_tpu' can't run float32\[2, 36, 2, 8\], .* on cpu: it is made for tpu alone"):
        RULES[rule](q, k, v, **given, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="a chunk must be a multiple of 16 tokens, given 24"):
        KERNELS[rule](q, k, v, *given.values(), blocks=mosaic.Blocks(24, 1, 1, 32))


def test_the_table_of_block_sizes_has_a_default():
    assert mosaic.blocks_for("a device that nobody has seen", "bfloat16", delta=True) == mosaic.Blocks(128, 8, 8, 32)
    chunks = {(kind, delta): mosaic.blocks_for(kind, "float32", delta=delta).chunk for kind in ("another", "TPU7x") for delta in (True, False)}
    assert chunks == {("another", True): 64, ("another", False): 64, ("TPU7x", True): 64, ("TPU7x", False): 128}


@pytest.mark.slow
@both_rules
def test_chunk_size_does_not_matter(rule):
    given = arguments(MIDDLE)
    sizes = [mosaic.Blocks(c, 2, 1, 32) for c in (16, 48)]
    one, other = (with_gradients(INTERPRETED[rule], blocks=blocks)(given, *cotangents(MIDDLE)) for blocks in sizes)
    assert_close(one, other, numerics.FLOAT32)


@pytest.mark.slow
@both_rules
def test_a_split_sequence_equals_one_call(rule):
    given = arguments(Shape(2, 32, 2, 8, 12))
    call = jax.jit(functools.partial(INTERPRETED[rule], blocks=BLOCKS))
    check_split(call, given, 9)


@pytest.mark.slow
@both_rules
def test_eight_passes_match_the_oracle(rule):
    def passes(function):
        def run(q, k, v, log_decay, beta, state):
            body = lambda state, _: function(q, k, v, log_decay, beta, state)[::-1]
            state, outputs = jax.lax.scan(body, state, length=8)
            return outputs[-1], state

        return run

    given, shape = arguments(Shape(2, 16, 2, 8, 12), beta=0.9, correlation=0.9), Shape(2, 16, 2, 8, 12)
    one = with_gradients(passes(functools.partial(INTERPRETED[rule], blocks=BLOCKS)))(given, *cotangents(shape))
    assert_close(one, with_gradients(passes(ORACLES[rule]))(given, *cotangents(shape)), numerics.FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("rule, dtype", [("delta", "bfloat16"), ("hebbian", "float32")])
def test_vmap_equals_one_at_a_time(rule, dtype):
    pair = [arguments(MIDDLE, dtype, seed=seed) for seed in (0, 1)]
    call = with_gradients(INTERPRETED[rule], blocks=BLOCKS)
    together = jax.jit(jax.vmap(call, in_axes=(0, None, None)))(jax.tree.map(lambda *x: jnp.stack(x), *pair), *cotangents(MIDDLE))
    for i, given in enumerate(pair):
        assert_close({name: x[i] for name, x in together.items()}, call(given, *cotangents(MIDDLE)), numerics.tolerance(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.save_only_these_names("chunk_states", "chunk_inverses")])
def test_remat_changes_no_gradient_and_the_named_residuals_spare_the_walk(policy):
    call = functools.partial(INTERPRETED["delta"], blocks=BLOCKS)
    remat, given = jax.checkpoint(call, policy=policy), arguments(MIDDLE)
    assert_close(with_gradients(remat)(given, *cotangents(MIDDLE)), with_gradients(call)(given, *cotangents(MIDDLE)), numerics.FLOAT32)
    kernel = jax.checkpoint(functools.partial(KERNELS["delta"], blocks=BLOCKS), policy=policy)
    # Forward, its repetition unless what it saves is named, and backward.
    assert exported(jax.value_and_grad(loss(kernel), argnums=range(6)), MIDDLE, "float32").count("tpu_custom_call") == (3 if policy is None else 2)


@both_rules
def test_two_runs_are_equal_to_the_bit(rule):
    given = arguments(MIDDLE)
    one, other = (with_gradients(INTERPRETED[rule], blocks=BLOCKS)(given, *cotangents(MIDDLE)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@both_rules
def test_what_is_not_finite_stays_in_its_row(rule):
    given = arguments(MIDDLE)
    clean = with_gradients(INTERPRETED[rule], blocks=BLOCKS)(given, *cotangents(MIDDLE))
    dirty = with_gradients(INTERPRETED[rule], blocks=BLOCKS)(given | {"v": given["v"].at[0].set(jnp.nan)}, *cotangents(MIDDLE))
    for name in clean:
        np.testing.assert_array_equal(dirty[name][1], clean[name][1], err_msg=name)
    assert not np.isfinite(dirty["output"][0]).all()


@pytest.mark.slow
def test_batch_and_heads_may_be_sharded():
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr


def sharded():
    """Compares shards over four rows and two groups of heads with the whole, in a process of its own with eight devices."""
    mesh = jax.make_mesh((4, 2), ("batch", "heads"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec("batch", None, "heads")
    state_spec = jax.sharding.PartitionSpec("batch", "heads")
    given = arguments(Shape(4, 20, 2, 8, 12))
    for call in (functools.partial(INTERPRETED["delta"], blocks=BLOCKS), functools.partial(INTERPRETED["hebbian"], blocks=BLOCKS)):
        specs = {"in_specs": (*[spec] * 5, state_spec), "out_specs": (spec, state_spec)}
        cut = jax.shard_map(call, mesh=mesh, check_vma=False, **specs)
        actual = with_gradients(cut)(given, *cotangents(Shape(4, 20, 2, 8, 12)))
        assert actual["output"].sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), 4), actual["output"].sharding
        assert_close(actual, with_gradients(call)(given, *cotangents(Shape(4, 20, 2, 8, 12))), numerics.FLOAT32)


if __name__ == "__main__":
    assert jax.device_count() == 8
    sharded()
