"""Arguments of the rule with a decay per key channel, shared by tests and benchmarks."""
import jax
import jax.numpy as jnp
import numpy as np

from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule.arg_specs import BENCHMARK_SHAPES, Shape

__all__ = ["BENCHMARK_SHAPES", "Shape", "arguments"]


def arguments(
    shape: Shape, dtype: jax.typing.DTypeLike = jnp.float32, *, decay: float = 0.3, slow: str = "",
    strong: tuple[float, ...] = (), share: float = 0.25, seed: int = 0, **told
) -> dict[str, jax.Array]:
    """Returns the gated delta rule's arguments, each channel with a decay of its own.

    Args:
      shape: the sizes.
      dtype: of q, k and v.
      decay: mean of -log_decay; exactly that everywhere where it is 0 or above 1.
      slow: "channels" or "tokens": all but every third of them decay by a thousandth of a nat at most instead.
      strong, share: as `gated_delta_rule.arg_specs.arguments`, drawn for each channel by itself.
      seed: of the generator.
      **told: as `gated_delta_rule.arg_specs.arguments` is told.
    """
    made = arg_specs.arguments(shape, dtype, decay=decay, seed=seed, **told)
    rng = np.random.default_rng([seed, 1])
    size = (shape.b, shape.t, shape.h, shape.dk)
    each = np.full(size, decay) if decay == 0 or decay > 1 else decay * rng.uniform(0, 2, size)
    if slow:
        index = np.arange(shape.dk) if slow == "channels" else np.arange(shape.t)[:, None, None]
        each = np.where(index % 3 == 1, each, 1e-3 * rng.uniform(size=size))
    return made | {"log_decay": arg_specs.with_strong(jnp.asarray(-each, jnp.float32), strong, share, [seed, 3])}
