"""Gradients with beta as a factor are divided by it in the kernels: what stands in for a beta of zero there."""
import jax
import jax.numpy as jnp

# Beside 1 it is lost in float32 and bfloat16, and a gradient times it is still a normal number.
LEAST = 2.0**-64


def never_zero(beta: jax.Array) -> jax.Array:
    """Returns beta, or LEAST where it is smaller than that."""
    return jnp.where((beta < LEAST) & (beta > -LEAST), LEAST, beta)
