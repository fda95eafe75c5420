"""What is being lowered for decides who may run: every rule by name and by None, for platforms that are not here, for several at once, and for this one."""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sleepnet_kernels
from sleepnet_kernels import dispatch
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape, arguments

SHAPE = Shape(1, 20, 2, 8, 12)
RULES = ("gated_delta_rule", "gated_hebbian_rule", "delta_rule", "hebbian_rule")
FOR = {"pallas_tpu": "tpu", "pallas_gpu": "cuda"}
GIVEN = r"bfloat16\[1, 20, 2, 8\], bfloat16\[1, 20, 2, 8\], bfloat16\[1, 20, 2, 12\], float32\[1, 20, 2\], float32\[1, 20, 2\], float32\[1, 2, 8, 12\]"


def made(rule="gated_delta_rule", dtype="bfloat16"):
    given = arguments(SHAPE, dtype)
    return {name: given[name] for name in given if name in inspect.signature(getattr(sleepnet_kernels, rule)).parameters}


def call(given, rule="gated_delta_rule", name=None):
    given = dict(given)
    return getattr(sleepnet_kernels, rule)(given.pop("q"), given.pop("k"), given.pop("v"), **given, implementation=name)


def loss(given, **how):
    return sum(jnp.sum(x.astype(jnp.float32)) for x in call(given, **how))


def pair(given):
    return jax.tree.map(lambda x: jnp.stack([x, x]), given)


def lowered(function, given, *platforms):
    return jax.export.export(jax.jit(function), platforms=platforms)(jax.eval_shape(lambda: given))


def text(function, given, *platforms):
    return lowered(function, given, *platforms).mlir_module()


def refused(name, platform, rule="gated_delta_rule"):
    return pytest.raises(ValueError, match=f"^{rule}: implementation '{name}' can't run {GIVEN} on {platform}: it is made for {FOR[name]} alone; None chooses")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name, kernel", [("pallas_tpu", "tpu_custom_call"), ("pallas_gpu", "custom_call @mosaic_gpu")])
def test_a_named_kernel_is_lowered_for_its_platform_and_for_no_other(rule, name, kernel):
    by_name, given = functools.partial(call, rule=rule, name=name), made(rule)
    assert kernel in text(by_name, given, FOR[name])
    for platforms in (["cpu"], ["rocm"], [FOR[name], "cpu"]):
        with refused(name, platforms[-1], rule):
            lowered(by_name, given, *platforms)
    for at_once in (by_name, jax.jit(by_name)):
        with refused(name, "cpu", rule):
            at_once(given)


@pytest.mark.parametrize("change", [
    lambda f: jax.grad(lambda given: sum(jnp.sum(x.astype(jnp.float32)) for x in f(given))),
    lambda f: lambda given: jax.vmap(f)(pair(given)),
    lambda f: jax.checkpoint(lambda given: f(given)),
    lambda f: lambda given: jax.lax.scan(lambda state, _: (f(given | {"initial_state": state})[1], None), given["initial_state"], length=3),
    lambda f: jax.shard_map(f, mesh=jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)), in_specs=jax.P("x"), out_specs=jax.P("x"), check_vma=False),
], ids=["grad", "vmap", "checkpoint", "scan", "shard_map"])
def test_so_it_is_within_a_transformation(change):
    within, given = change(functools.partial(call, name="pallas_tpu")), made()
    assert "tpu_custom_call" in text(within, given, "tpu")
    with refused("pallas_tpu", "cpu"):
        lowered(within, given, "cpu")
    with refused("pallas_tpu", "cpu"):
        jax.jit(within)(given)


def test_a_mesh_of_this_machine_does_not_decide():
    with jax.set_mesh(jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert "tpu_custom_call" in text(functools.partial(call, name="pallas_tpu"), made(), "tpu")
        with refused("pallas_tpu", "cpu"):
            jax.jit(functools.partial(call, name="pallas_tpu"))(made())


def test_shapes_alone_need_no_platform():
    assert jax.eval_shape(functools.partial(call, name="pallas_tpu"), made())[0].shape == (1, 20, 2, 12)


@pytest.mark.parametrize("function, kernels", [(call, 1), (jax.grad(loss), 2), (lambda given: jax.vmap(call)(pair(given)), 1)], ids=["forward", "grad", "vmap"])
def test_none_is_lowered_for_several_platforms_at_once(function, kernels):
    """With the kernels in it for a TPU; run here, it is what it is alone, bit for bit."""
    given = made(dtype="float32")
    both = lowered(function, given, "cpu", "tpu", "cuda")
    assert both.mlir_module().count("tpu_custom_call") == kernels
    if function is call:
        for one, other in zip(jax.jit(both.call)(given), jax.jit(function)(given)):
            np.testing.assert_array_equal(one, other)


def test_a_kernel_made_for_this_platform_runs_and_has_gradients():
    """Through the same gate."""
    kernel = dispatch.Implementation(lambda x, y: jnp.sin(x) * y, platform="cpu")
    x, y = jnp.arange(3.0), jnp.ones(3)
    run = dispatch.choose("op", {"mine": kernel}, "mine", "mine", x, y)
    for function in (run, jax.jit(run), jax.vmap(run)):
        np.testing.assert_allclose(function(x, y), np.sin(np.arange(3.0)), rtol=1e-6)
    (dx, dy), tangent = jax.grad(lambda x, y: run(x, y).sum(), argnums=(0, 1))(x, y), jax.jvp(run, (x, y), (y, y))[1]
    np.testing.assert_allclose(dx, np.cos(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(dy, np.sin(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(tangent, np.cos(np.arange(3.0)) + np.sin(np.arange(3.0)), rtol=1e-6)
