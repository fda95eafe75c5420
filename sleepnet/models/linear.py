"""The one projection that every block uses: no bias, weights ~ N(0, scale² / fan_in) in float32, products in `dtype`."""
import jax.numpy as jnp
from flax import nnx


def projection(inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs, scale: float = 1.0) -> nnx.Linear:
    """An `nnx.Linear` of `inputs` to `outputs` channels."""
    init = nnx.initializers.variance_scaling(scale**2, "fan_in", "normal")
    return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=init, dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
