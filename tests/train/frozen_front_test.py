"""What lies below the first block that learns is read and not differentiated: nothing of it is kept for the backward pass, and its cost is that of reading."""
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from jax.extend import core
from jax.interpreters import partial_eval

from sleepnet import adapters, build
from sleepnet.config import RunConfig, from_dict
from sleepnet.models import flops
from sleepnet.train.step import gradients, learning_of

L, WINDOWS = 8, 3  # the first two windows are slept over, by one scan


@functools.cache
def built(below: int, above: int, passes: int):
    """(loss and gradient of a step, its trainable and frozen shapes, batch shapes, model): `below` attention blocks, a block G that learns and one A in the loop, `above` more."""
    pattern = "A" * below + "GA" + "A" * above
    model = {
        "pattern": pattern, "no_mlp": (below,), "width": 16, "heads": 2, "head_dim": 8, "mlp_width": 24, "pad_id": -1, "window_positions": False,
        "sleep": {"passes": passes, "after_predicting": True, "carry": "hidden", "loop_start": below, "loop_stop": below + 2},
    }
    config = from_dict(RunConfig, {
        "task": {"name": "text", "arguments": {"window": L, "windows": WINDOWS}}, "model": model, "adapters": {"kind": "named", "names": rf"^blocks\.{below}\."}, "train": {"batch_size": 2},
    })
    task = build.task_of(config)
    learning, batch = learning_of(config, task), task.batch_at(0, "train", range(2))
    params = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(build.model_of(config, task), nnx.Param)[1]))
    held = jax.eval_shape(lambda params: adapters.split(config.adapters, params, 0), params)
    shapes = {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in batch.items()}
    return learning, *held, shapes, build.fit(config.model, task)


def products(jaxpr: core.Jaxpr) -> int:
    """FLOPs of the matrix products that a program needs, a scan's as often as it turns."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [value for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr))) if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(products(getattr(value, "jaxpr", value)) for value in inner)
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in summed]))
    return total


@functools.cache
def spent(below, above, passes):
    """FLOPs of products of a step's loss and gradient, a sequence; and the same as counted from the configuration."""
    learning, trainable, frozen, batch, model = built(below, above, passes)
    closed = jax.make_jaxpr(lambda *held: gradients(learning, *held, passes))(trainable, frozen, batch)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return products(needed) // 2, flops.adapted_flops(model, (True,) * WINDOWS, L * WINDOWS, passes, trained=(below,))


def kept(below, above, passes):
    """Bytes that the backward pass needs of the forward pass, what is no parameter."""
    learning, trainable, frozen, batch, _ = built(below, above, passes)

    def pull(trainable, frozen, batch):
        loss = lambda trainable: learning.method.loss(learning.problem, learning.whole(trainable, frozen), batch, passes, learning.method.count(batch))[0]
        return jax.vjp(loss, trainable)[1]

    shapes = {leaf.shape for leaf in jax.tree.leaves((trainable, frozen))}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(pull, trainable, frozen, batch)) if leaf.shape not in shapes)


@pytest.mark.parametrize("passes", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_what_lies_below_costs_what_reading_it_costs(passes):
    base, lower = spent(1, 1, passes), spent(2, 1, passes)
    assert lower[0] - base[0] == lower[1] - base[1] == flops.pass_flops(built(1, 1, passes)[-1], L, blocks=(0, 1)) * WINDOWS


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 3])
def test_no_frozen_weight_above_has_a_gradient(passes):
    """Its matrices cost one product back, what it computes of activations alone two; and the backward pass needs nothing of what lies below."""
    base, upper = spent(1, 1, passes), spent(1, 2, passes)
    one, matrices = flops.pass_flops(built(1, 1, passes)[-1], L, blocks=(0, 1)), 2 * L * (4 * 16 * 16 + 3 * 16 * 24)
    assert upper[0] - base[0] == upper[1] - base[1] == WINDOWS * (3 * one - matrices)
    assert kept(1, 1, passes) == kept(2, 1, passes) < kept(1, 2, passes)


def test_a_pass_more_costs_what_the_loop_does():
    """In the loop all is differentiated, the hidden state going round."""
    model = built(1, 1, 2)[-1]
    of = lambda passes: flops.adapted_flops(model, (True,) * WINDOWS, L * WINDOWS, passes, trained=(1,))
    counted = of(3) - of(1)
    frozen = 2 * L * (4 * 16 * 16 + 3 * 16 * 24)  # the attention's matrices and its MLP's: once back
    assert counted == 2 * (WINDOWS - 1) * (3 * flops.pass_flops(model, L, blocks=(1, 3)) - frozen)
    with pytest.raises(ValueError, match="must name blocks"):
        flops.adapted_flops(model, (True,), L, trained=())
