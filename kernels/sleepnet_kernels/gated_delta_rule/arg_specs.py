"""Shapes and arguments of the gated rules, shared by tests and benchmarks."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """One call's sizes.

    Attributes:
      b, t, h: batch, tokens, heads.
      dk, dv: key and value width.
      shared: how many heads of v, of h in all, share one head of q and k.
    """

    b: int
    t: int
    h: int
    dk: int
    dv: int
    shared: int = 1

    @property
    def groups(self):
        return self.h // self.shared

    def __str__(self):
        return f"{self.b},{self.t},{self.h},{self.dk},{self.dv}" + (f",{self.shared}" if self.shared > 1 else "")


# Windows of a small model asleep (short, wide batches), then the two shapes the CPU targets are stated at.
BENCHMARK_SHAPES = (
    Shape(64, 20, 2, 32, 32),
    Shape(64, 24, 2, 32, 32),
    Shape(64, 40, 2, 32, 32),
    Shape(64, 60, 2, 32, 32),
    Shape(64, 100, 2, 32, 32),
    Shape(32, 100, 4, 32, 32),
    Shape(8, 512, 4, 64, 64),
)
# A sleep: one window of a small batch, of which N passes run one after the other, so that batch and heads are all there is side by side.
SLEEP_SHAPES = (
    Shape(1, 24, 2, 32, 32),
    Shape(8, 24, 2, 32, 32),
    Shape(8, 128, 2, 32, 32),
    Shape(8, 512, 2, 32, 32),
    Shape(2, 2048, 2, 32, 32),
    Shape(8, 24, 4, 64, 64),
    Shape(8, 128, 4, 64, 64),
    Shape(4, 512, 4, 64, 64),
    Shape(1, 2048, 8, 64, 64),
)


def with_strong(log_decay: jax.Array, strong: tuple[float, ...], share: float, seed) -> jax.Array:
    """Returns log-decays [B, T, ...] of which a share, drawn for each row and head by itself, is one of `strong` instead."""
    if not strong:
        return log_decay
    rng = np.random.default_rng(seed)
    return jnp.where(rng.random(log_decay.shape) < share, jnp.asarray(rng.choice(strong, log_decay.shape), jnp.float32), log_decay)


def arguments(
    shape: Shape, dtype: jax.typing.DTypeLike = jnp.float32, *, decay: float = 0.3, beta: float | None = None,
    correlation: float = 0.0, silent: int = 0, strong: tuple[float, ...] = (), share: float = 0.25, state: bool = True, seed: int = 0,
) -> dict[str, jax.Array]:
    """Returns random arguments by name, keys and queries of norm 1.

    Args:
      shape: the sizes.
      dtype: of q, k and v.
      decay: mean of -log_decay; log_decay is exactly -decay everywhere where decay is 0 or above 1.
      beta: the write strength everywhere; uniform in [0, 1) where None.
      correlation: cosine between any two keys (1: identical keys).
      silent: where not 0, every so many tokens beta is exactly 0.
      strong: log-decays, -inf among them, that some tokens have instead.
      share: how many of all tokens these are.
      state: whether there is a non-zero initial state.
      seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    tokens, by_group = (shape.b, shape.t, shape.h), (shape.b, shape.t, shape.groups)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    common, own = unit(rng.normal(size=(shape.b, 1, shape.groups, shape.dk))), unit(rng.normal(size=(*by_group, shape.dk)))
    k = unit(np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own)
    exact_decay = decay == 0 or decay > 1
    made = {
        "q": jnp.asarray(unit(rng.normal(size=(*by_group, shape.dk))), dtype),
        "k": jnp.asarray(k, dtype),
        "v": jnp.asarray(rng.normal(size=(*tokens, shape.dv)), dtype),
        "log_decay": jnp.asarray(-np.full(tokens, decay) if exact_decay else -decay * rng.uniform(0, 2, tokens), jnp.float32),
        "beta": jnp.asarray(rng.uniform(size=tokens) if beta is None else np.full(tokens, beta), jnp.float32),
    }
    made["log_decay"] = with_strong(made["log_decay"], strong, share, [seed, 3])
    if silent:
        made["beta"] = made["beta"].at[:, ::silent].set(0.0)
    if state:
        made["initial_state"] = jnp.asarray(rng.normal(size=(shape.b, shape.h, shape.dk, shape.dv)), jnp.float32)
    return made
