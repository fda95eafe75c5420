"""The GPU kernels of both rules in JAX's GPU interpreter on a CPU, and lowered for CUDA; no GPU is needed or used.

Interpreting compiles for seconds a shape, so the default run takes few cases of one shape; `-m slow` takes all.
"""
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from rule_table import CASES, NAMES, STRONG, Case, assert_close, check, cotangents, told, with_gradients

from sleepnet_kernels import mosaic_gpu, mosaic_gpu_kernels, mosaic_gpu_ops, numerics, platform_bound
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import pallas_gpu as delta_kernel
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import pallas_gpu as hebbian_kernel

if hasattr(plgpu, "InterpretGPUParams"):
    InterpretGPUParams = plgpu.InterpretGPUParams
else:  # JAX 0.10 has it nowhere else
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

RULES = {"delta": delta_api, "hebbian": hebbian_api}
KERNELS = {"delta": delta_kernel.gated_delta_rule, "hebbian": hebbian_kernel.gated_hebbian_rule}
INTERPRETED = {rule: functools.partial(kernel, interpret=InterpretGPUParams()) for rule, kernel in KERNELS.items()}
# Two chunks, the second one padded; two blocks of columns, the second one padded; two heads.
SMALL = Shape(1, 66, 2, 8, 72)
FAST = {
    "delta": {
        "moderate decay": {}, "decay 50": {"decay": 50.0}, "correlated keys, beta 1, slow decay": {"decay": 0.01, "beta": 1.0, "correlation": 0.9},
        "identical keys, beta 1, no decay": {"decay": 0.0, "beta": 1.0, "correlation": 1.0}, "every third beta 0": {"silent": 3},
        "decay of every strength": dict(STRONG["decay of every strength"].told),
    },
    "hebbian": {"moderate decay": {}},
}
both_rules = pytest.mark.parametrize("rule", list(RULES))


@pytest.mark.parametrize("rule, name", [(rule, name) for rule, cases in FAST.items() for name in cases])
def test_matches_the_oracle(rule, name):
    check(rule, Case(SMALL, "bfloat16", told(**FAST[rule][name])), INTERPRETED[rule])


@pytest.mark.slow
@both_rules
@pytest.mark.parametrize("name", list(CASES))
def test_matches_the_oracle_in_bfloat16(rule, name):
    check(rule, dataclasses.replace(CASES[name], dtype="bfloat16"), INTERPRETED[rule])


@pytest.mark.slow
@both_rules
@pytest.mark.parametrize("shape", [Shape(2, 130, 1, 128, 128), Shape(1, 63, 3, 64, 128), Shape(1, 64, 4, 100, 64, 2), Shape(1, 257, 1, 128, 64)], ids=str)
def test_matches_the_oracle_at_other_shapes(rule, shape):
    check(rule, Case(shape, "bfloat16"), INTERPRETED[rule])
    check(rule, Case(shape, "bfloat16", told(decay=0.01, beta=1.0, correlation=0.9)), INTERPRETED[rule])


@pytest.mark.slow
@both_rules
def test_memory_is_written_before_it_is_read_and_without_races(rule, capfd):
    watched = InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
    check(rule, Case(SMALL, "bfloat16"), KERNELS[rule], interpret=watched)
    assert "RACE" not in "".join(capfd.readouterr())


@pytest.mark.slow
@both_rules
def test_two_runs_are_equal_to_the_bit_and_what_is_not_finite_stays_in_its_head(rule):
    given = arguments(SMALL, "bfloat16")
    call = with_gradients(INTERPRETED[rule])
    one, other = (call(given, *cotangents(SMALL)) for _ in range(2))
    dirty = call(given | {"v": given["v"].at[:, :, 0].set(jnp.nan)}, *cotangents(SMALL))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        heads = 1 if name in ("final_state", "d_initial_state") else 2
        np.testing.assert_array_equal(jnp.take(dirty[name], 1, heads), jnp.take(one[name], 1, heads), err_msg=name)
    assert not np.isfinite(dirty["output"][:, :, 0]).any()


@pytest.mark.slow
def test_a_split_sequence_equals_one_call():
    given = arguments(Shape(2, 80, 1, 8, 12), "bfloat16")
    call = jax.jit(INTERPRETED["delta"])
    whole_output, whole_state = call(*given.values())
    state, outputs = given.pop("initial_state"), []
    for part in (slice(0, 33), slice(33, 80)):
        output, state = call(*(x[:, part] for x in given.values()), state)
        outputs.append(output)
    together = {"output": jnp.concatenate(outputs, axis=1), "final_state": state}
    assert_close(together, {"output": whole_output, "final_state": whole_state}, numerics.BFLOAT16)


def exported(function, shape):
    given = jax.eval_shape(lambda: arguments(shape, "bfloat16"))
    return jax.export.export(jax.jit(function), platforms=["cuda"])(*(given[name] for name in NAMES)).mlir_module()


def loss(function):
    return lambda *given: sum(jnp.sum(x.astype(jnp.float32)) for x in function(*given))


@pytest.mark.parametrize(
    "rule, shape", [("delta", Shape(2, 1000, 16, 128, 128)), *(pytest.param("hebbian", Shape(1, 1, 2, 32, 100), marks=pytest.mark.slow),)]
)
def test_lowers_for_cuda(rule, shape):
    # Inverses and scores, the walk, the walk in reverse, and the gradients of a chunk.
    lowered = exported(jax.value_and_grad(loss(KERNELS[rule]), argnums=range(6)), shape)
    assert lowered.count("custom_call @mosaic_gpu") == 4


@pytest.mark.slow
def test_a_batched_kernel_lowers_for_cuda():
    # Lowered alone: the interpreter of JAX 0.10 loses count of barriers under vmap.
    twice = lambda *given: jax.vmap(loss(KERNELS["delta"]))(*(jnp.stack([x, x]) for x in given)).sum()
    assert exported(jax.grad(twice, argnums=range(6)), SMALL).count("custom_call @mosaic_gpu") == 4


@pytest.mark.slow
@pytest.mark.parametrize("policy, launches", [(None, 6), (("chunk_states", "chunk_inverses", "chunk_scores", "chunk_updates"), 4)])
def test_the_named_residuals_spare_the_walk(policy, launches):
    policy = None if policy is None else jax.checkpoint_policies.save_only_these_names(*policy)
    remat = jax.checkpoint(KERNELS["delta"], policy=policy)
    assert exported(jax.value_and_grad(loss(remat), argnums=range(6)), SMALL).count("custom_call @mosaic_gpu") == launches


@both_rules
def test_none_never_chooses_it_and_by_name_it_runs_or_raises(rule):
    given = arguments(SMALL, "bfloat16")
    public, (q, k, v) = getattr(RULES[rule], f"gated_{rule}_rule"), (given.pop(name) for name in "qkv")
    call = lambda q, k, v, given: public(q, k, v, **given)
    lowered = jax.export.export(jax.jit(call), platforms=["cuda"])(q, k, v, given).mlir_module()
    assert "custom_call @mosaic_gpu" not in lowered

    def refused(q, k, v, message):
        with pytest.raises(ValueError, match=message):
            public(q, k, v, **given, implementation="pallas_gpu")

    refused(q, k, v, r"'pallas_gpu' can't run bfloat16\[1, 66, 2, 8\], .* on cpu: it is made for cuda alone")
    refused(*(x.astype(jnp.float32) for x in (q, k, v)), message=r"can't run float32\[1, 66, 2, 8\], .*: q, k and v must be bfloat16")
    wide = jnp.zeros((1, 66, 2, 129), jnp.bfloat16)
    assert mosaic_gpu.refuses(wide, wide, v, *given.values()) == "widths of keys and values must be at most 128"


@pytest.mark.parametrize("capability, refused", [("8.0", True), ("9.0", False), ("10.0", True)])
def test_another_gpu_than_hopper_is_refused_where_it_is_lowered_for(capability, refused, monkeypatch):
    """By the device that the program is lowered for; which GPU is here says nothing of an export."""
    given = arguments(SMALL, "bfloat16").values()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [types.SimpleNamespace(compute_capability="8.0", platform="gpu")])
    assert mosaic_gpu.refuses(*given) is None
    assert mosaic_gpu.refuses(*given, segment_ids=jnp.zeros((1, 66), jnp.int32)) == "it has no segment_ids; 'xla_chunked' has"
    kernel = delta_api.KERNELS["pallas_gpu"]
    where = platform_bound.Bound(kernel.platform, "the rule", kernel.refuses_device)

    def lowered(export):
        backend = types.SimpleNamespace(devices=lambda: [types.SimpleNamespace(compute_capability=capability)])
        module = types.SimpleNamespace(
            platforms=("cuda",), backend=backend, get_backend=lambda optional: backend, lowering_parameters=types.SimpleNamespace(for_export=export)
        )
        return platform_bound._lower_bound(types.SimpleNamespace(platforms=None, module_context=module), "x", where=where)

    assert lowered(export=True) == ["x"]
    if not refused:
        assert lowered(export=False) == ["x"]
    else:
        with pytest.raises(ValueError, match=f"the rule on cuda: the tensor cores of Hopper, .* and this GPU has {capability}"):
            lowered(export=False)


class Memory:
    """A block of shared memory, written whole."""

    dtype = jnp.dtype(jnp.bfloat16)

    def __setitem__(self, _, x):
        self.block = x

    def __getitem__(self, _):
        return self.block


class WithoutMemory(mosaic_gpu_ops.Ops):
    def stage(self, ref, x):
        ref[...] = x.astype(ref.dtype)


def test_the_inverse_on_correlated_keys():
    c, low, ops = mosaic_gpu.C, Memory(), WithoutMemory(plain=True)
    k = np.asarray(arguments(Shape(1, c, 1, 32, 1), correlation=0.9)["k"], np.float64)[0, :, 0]
    strict_lower = np.tril(k @ k.T, -1)
    mosaic_gpu_kernels.unit_lower_inverse(ops, jnp.asarray(strict_lower, jnp.float32), *ops.positions(c), low, Memory())
    # Rounded to bfloat16, 1.7e-3; without the refinement 8e-3.
    assert numerics.rms_ratio(low.block.astype(jnp.float32), np.linalg.inv(np.eye(c) + strict_lower)) < 2.5e-3
