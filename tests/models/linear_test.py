"""Projections that read the same input: one product where they are small, each its own where copying them costs more."""
import jax
import numpy as np
import pytest
from flax import nnx

from sleepnet.models import linear


@pytest.mark.parametrize("outputs, joined", [((24, 40), True), ((600, 700), False)])
def test_large_kernels_are_not_copied_to_be_joined(outputs, joined):
    layers = [linear.Linear(256, size, rngs=nnx.Rngs(i), bias=True) for i, size in enumerate(outputs)]
    for i, layer in enumerate(layers):
        layer.bias[...] = jax.random.normal(jax.random.key(i), layer.bias.shape)
    x = jax.random.normal(jax.random.key(9), (2, 3, 256))
    graph, params = nnx.split(layers)
    said = jax.jit(lambda params, x: linear.together(x, *nnx.merge(graph, params)))
    assert ("concatenate" in said.lower(params, x).as_text()) == joined
    for got, layer in zip(said(params, x), layers):
        np.testing.assert_allclose(got, np.asarray(x) @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), rtol=1e-4, atol=1e-4)
