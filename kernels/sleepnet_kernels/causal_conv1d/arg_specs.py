"""Shapes and arguments of the causal convolution, shared by tests and benchmarks."""
import jax
import jax.numpy as jnp
import numpy as np

# (batch, tokens, channels, width): T shorter than, equal to and longer than the state, and a training shape.
SHAPES = ((2, 1, 3, 4), (2, 3, 5, 4), (2, 2, 4, 2), (3, 17, 6, 4), (2, 9, 3, 1))
BENCHMARK_SHAPES = ((64, 20, 128, 4), (64, 100, 128, 4))


def arguments(shape: tuple[int, int, int, int], dtype: jax.typing.DTypeLike = jnp.float32, *, seed: int = 0) -> dict[str, jax.Array]:
    """Returns random arguments by name, with a non-zero initial state, for (batch, tokens, channels, width)."""
    b, t, channels, width = shape
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(b, t, channels)), dtype),
        "weight": jnp.asarray(rng.normal(size=(width, channels)), dtype),
        "initial_state": jnp.asarray(rng.normal(size=(b, width - 1, channels)), dtype),
    }
