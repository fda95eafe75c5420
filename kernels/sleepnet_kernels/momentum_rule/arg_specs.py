"""Arguments of the rule with momentum, shared by tests and benchmarks."""
import jax
import jax.numpy as jnp
import numpy as np

from sleepnet_kernels.gated_delta_rule import arg_specs
from sleepnet_kernels.gated_delta_rule.arg_specs import BENCHMARK_SHAPES, Shape

__all__ = ["BENCHMARK_SHAPES", "Shape", "arguments"]


def arguments(
    shape: Shape, dtype: jax.typing.DTypeLike = jnp.float32, *, forgets: float = 0.5,
    strong: tuple[float, ...] = (), share: float = 0.25, seed: int = 0, **told
) -> dict[str, jax.Array]:
    """Returns the gated delta rule's arguments and the momentum's, in the rule's order.

    Args:
      shape: the sizes.
      dtype: of q, k and v.
      forgets: mean of -log_momentum; exactly that everywhere where it is 0 or above 1.
      strong, share: as `gated_delta_rule.arg_specs.arguments`, drawn for state and momentum each by itself.
      seed: of the generator.
      **told: as `gated_delta_rule.arg_specs.arguments` is told.
    """
    made = arg_specs.arguments(shape, dtype, strong=strong, share=share, seed=seed, **told)
    rng = np.random.default_rng([seed, 2])
    tokens = (shape.b, shape.t, shape.h)
    forgotten = np.full(tokens, forgets) if forgets == 0 or forgets > 1 else forgets * rng.uniform(0, 2, tokens)
    order = ("q", "k", "v", "log_decay", "log_momentum", "beta", "applied", "initial_state")
    momentum = 0.3 * rng.normal(size=(shape.b, shape.h, shape.dk, shape.dv))
    log_momentum = arg_specs.with_strong(jnp.asarray(-forgotten, jnp.float32), strong, share, [seed, 4])
    made |= {"log_momentum": log_momentum, "applied": jnp.asarray(rng.uniform(0.5, 1, tokens), jnp.float32)}
    if "initial_state" in made:
        made["initial_state"] = jnp.concatenate([made["initial_state"], jnp.asarray(momentum, jnp.float32)], axis=2)
    return {name: made[name] for name in order if name in made}
