"""What every op refuses with a ValueError that names the argument, what it got and what it wanted; and what is not finite stays in its row."""
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from rule_table import MIDDLE

import sleepnet_kernels
from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape
from sleepnet_kernels.kda_rule import arg_specs as kda_arg_specs
from sleepnet_kernels.momentum_rule import arg_specs as momentum_arg_specs

ARGUMENTS = {"kda_rule": kda_arg_specs.arguments, "momentum_rule": momentum_arg_specs.arguments}
RULES = ("gated_delta_rule", "gated_hebbian_rule", "delta_rule", "hebbian_rule", "kda_rule", "momentum_rule")
every_rule = pytest.mark.parametrize("rule", RULES)


def made(rule, shape=MIDDLE, dtype="float32"):
    """Returns arguments by name, as the public op takes them."""
    given = ARGUMENTS.get(rule, arg_specs.arguments)(shape, dtype)
    return {name: given[name] for name in given if name in inspect.signature(getattr(sleepnet_kernels, rule)).parameters}


def call(rule, given):
    given = dict(given)
    return getattr(sleepnet_kernels, rule)(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def refused(rule, change, message):
    given = made(rule)
    given |= {name: new(given[name]) for name, new in change.items()}
    with pytest.raises(ValueError, match=f"^{rule}: {message}$"):
        call(rule, given)


@every_rule
def test_a_wrong_rank(rule):
    refused(rule, {"q": lambda q: q[0]}, r"q must have shape \[B, T, G, K\], given \[36, 2, 8\]")
    refused(rule, {"beta": lambda beta: beta[..., None]}, r"beta must have shape \[2, 36, 2\], given \[2, 36, 2, 1\]")


@every_rule
def test_mismatched_heads_and_widths(rule):
    refused(rule, {"v": lambda v: jnp.concatenate([v, v[:, :, :1]], axis=2)}, r"v must have a whole multiple of q's 2 heads, given \[2, 36, 3, 12\]")
    refused(rule, {"k": lambda k: k[..., :7]}, r"k must have shape \[2, 36, 2, 8\], given \[2, 36, 2, 7\]")


@every_rule
def test_a_wrong_dtype(rule):
    refused(rule, {"v": lambda v: v.astype(jnp.int32)}, "v must be floating point, given int32")
    refused(rule, {"initial_state": lambda state: state.astype(jnp.bfloat16)}, "initial_state must be float32, given bfloat16: .*")
    mixed = made(rule) | {"k": made(rule)["k"].astype(jnp.bfloat16)}
    with pytest.raises(ValueError, match=r"can't run float32\[2, 36, 2, 8\], bfloat16\[2, 36, 2, 8\], .*\]: q, k and v must all be float32 or all be bfloat16"):
        call(rule, mixed)


@every_rule
def test_no_tokens(rule):
    nothing = lambda x: x[:, :0]
    tokens = {name: nothing for name in made(rule) if name != "initial_state"}
    refused(rule, tokens, r"q must have at least one token, given \[2, 0, 2, 8\]")


@every_rule
def test_a_decay_that_grows_where_its_numbers_are_there(rule):
    for name in {"log_decay", "log_momentum"} & made(rule).keys():
        refused(rule, {name: lambda x: x.at[1, 3].set(0.5)}, f"{name} must be at most 0, given 0.5: .*")
        refused(rule, {name: lambda x: x.astype(jnp.bfloat16).at[1, 3].set(0.5)}, f"{name} must be at most 0, given 0.5: .*")
        refused(rule, {name: lambda x: x.at[0, 2].set(-jnp.inf).at[1, 3].set(jnp.nan)}, f"{name} must be at most 0, given nan: .*")
        positive = made(rule) | {name: jnp.full_like(made(rule)[name], 0.5)}
        # Traced, its numbers can't be seen.
        assert jax.eval_shape(functools.partial(call, rule), positive)[0].shape == (2, 36, 2, 12)


def described(given, cut):
    """Describes arguments on a mesh of devices that need not be there, one of them cut along its second axis."""
    mesh = AbstractMesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    at = lambda name: NamedSharding(mesh, PartitionSpec(None, "x") if name == cut else PartitionSpec())
    return mesh, {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at(name)) for name, x in given.items()}


@every_rule
@pytest.mark.parametrize("cut", ["q", "beta"])
def test_a_sharded_time_axis(rule, cut):
    mesh, given = described(made(rule), cut)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match=f"^{rule}: {cut} must have all 36 tokens of a row on one device, given 18 a device: shard batch and heads"):
        jax.eval_shape(functools.partial(call, rule), given)


def test_a_sharded_time_axis_of_the_convolution():
    mesh, given = described({"x": jnp.zeros((2, 8, 3)), "weight": jnp.zeros((4, 3))}, "x")
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match="^causal_conv1d: x must have all 8 tokens of a row on one device, given 4 a device: shard batch and heads"):
        jax.eval_shape(lambda given: sleepnet_kernels.causal_conv1d(**given), given)


@every_rule
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_rows_may_be_sharded_and_within_a_shard_map_nothing_is_cut(rule, kind):
    mesh, by_rows = AbstractMesh((2,), ("x",), axis_types=(kind,)), PartitionSpec("x")
    given = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, by_rows)) for name, x in made(rule).items()}
    with jax.sharding.use_abstract_mesh(mesh):
        sharded = jax.shard_map(functools.partial(call, rule), mesh=mesh, in_specs=by_rows, out_specs=by_rows, check_vma=False)
        assert jax.eval_shape(sharded, given)[0].shape == (2, 36, 2, 12)


# The others have such a test of their own, or compile what the gated rules do.
@pytest.mark.parametrize(
    "rule, name",
    [
        pytest.param(rule, name, marks=() if rule == "momentum_rule" else pytest.mark.slow)
        for rule in RULES
        for name in ("q", "k", "v", "log_decay", "beta", "initial_state")
        if name in inspect.signature(getattr(sleepnet_kernels, rule)).parameters
    ],
)
def test_what_is_not_finite_stays_in_its_row(rule, name):
    """In outputs, states and every gradient."""
    shape = Shape(2, 20, 2, 8, 12)
    given = made(rule, shape)
    both = compiled(rule)
    clean, dirty = both(given), both(given | {name: given[name].at[0, :1].set(jnp.nan)})
    for one, other in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty)):
        np.testing.assert_array_equal(one[1], other[1])
    assert not np.isfinite(dirty[0][0][0]).all()


@functools.cache
def compiled(rule):
    """Returns a jitted call: arguments -> (output, final state), and their sum's gradients by name."""

    def both(given):
        result, pullback = jax.vjp(functools.partial(call, rule), given)
        return result, pullback(jax.tree.map(jnp.ones_like, result))

    return jax.jit(both)
