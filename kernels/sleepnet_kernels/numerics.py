"""How far an implementation may be from its oracle, and how that is measured."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Largest accepted `rms_ratio`, for outputs and states on one side and gradients on the other."""

    output: float
    gradient: float


# Design decisions, not knobs: loosening one needs a written reason in the README.md beside this file.
FLOAT32 = Tolerance(output=1e-5, gradient=1e-5)
BFLOAT16 = Tolerance(output=5e-3, gradient=1e-2)
BFLOAT16_CORRELATED_KEYS = Tolerance(output=3e-2, gradient=3e-2)


def tolerance(dtype: jax.typing.DTypeLike, *, correlated_keys: bool = False) -> Tolerance:
    """Returns the tolerance for operands of `dtype` (float32 or bfloat16).

    Args:
      dtype: of q, k and v.
      correlated_keys: whether neighbouring keys have a cosine around .9, where bf16 rounding is amplified by the inverse.

    Raises:
      ValueError: for any other dtype.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return FLOAT32
    if jnp.dtype(dtype) == jnp.bfloat16:
        return BFLOAT16_CORRELATED_KEYS if correlated_keys else BFLOAT16
    raise ValueError(f"no tolerance is agreed for {jnp.dtype(dtype).name}; known: bfloat16, float32")


def rms_ratio(actual: jax.typing.ArrayLike, expected: jax.typing.ArrayLike) -> float:
    """Returns RMS(actual - expected) / RMS(expected), in float64; 0 where both are exactly zero or empty.

    A non-finite entry on either side gives infinity, so that a comparison with a tolerance fails.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: actual {actual.shape}, expected {expected.shape}")
    if actual.size == 0:
        return 0.0
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    difference, scale = np.sqrt(np.mean((actual - expected) ** 2)), np.sqrt(np.mean(expected**2))
    return 0.0 if difference == 0 else float(difference / max(scale, np.finfo(np.float64).tiny))
