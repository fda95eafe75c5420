"""The public op."""
import jax
import jax.numpy as jnp

from sleepnet_kernels import dispatch
from sleepnet_kernels.causal_conv1d import reference, xla

IMPLEMENTATIONS = {
    "reference": dispatch.Implementation(reference.causal_conv1d),
    "xla": dispatch.Implementation(xla.causal_conv1d),
}


def causal_conv1d(
    x: jax.Array, weight: jax.Array, *, initial_state: jax.Array | None = None, implementation: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Convolves each channel with its own W past inputs, the present one included.

        y_t = sum_i weight[i] * x_{t - (W - 1) + i}        i = 0 .. W - 1

    Inputs from before the sequence come from `initial_state`. There is no activation and no bias inside.

    Args:
      x: [B, T, C], floating point.
      weight: [W, C]; the last tap weighs the present token. Products and sums are in float32.
      initial_state: [B, W - 1, C] in x's dtype, the last inputs before x; zeros where None.
      implementation: None chooses; "reference" walks token by token, "xla" adds W shifted products. A named one runs or raises.

    Returns:
      y [B, T, C] in x's dtype, and the final state [B, W - 1, C]: the last W - 1 inputs, those of the initial state included
      where T < W - 1.

    Raises:
      ValueError: a shape does not fit or the implementation is unknown.
      TypeError: an argument is not floating point, or initial_state is not in x's dtype.

    Source: the short convolution of Gu, Dao, "Mamba", arXiv:2312.00752, section 3.4.
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    for name, array, letters in (("x", x, "B, T, C"), ("weight", weight, "W, C")):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"causal_conv1d: {name} must be floating point, given {array.dtype.name}")
        if array.ndim != letters.count(",") + 1 or 0 in array.shape:
            raise ValueError(f"causal_conv1d: {name} must have shape [{letters}], none of them 0, given {list(array.shape)}")
    (b, _, channels), width = x.shape, weight.shape[0]
    if weight.shape[1] != channels:
        raise ValueError(f"causal_conv1d: weight must have shape {[width, channels]}, given {list(weight.shape)}")
    state = jnp.zeros((b, width - 1, channels), x.dtype) if initial_state is None else jnp.asarray(initial_state)
    if state.shape != (b, width - 1, channels):
        raise ValueError(f"causal_conv1d: initial_state must have shape {[b, width - 1, channels]}, given {list(state.shape)}")
    if state.dtype != x.dtype:
        raise TypeError(f"causal_conv1d: initial_state must be {x.dtype.name} like x, given {state.dtype.name}")
    return dispatch.choose("causal_conv1d", IMPLEMENTATIONS, implementation, "xla", x, weight, state)(x, weight, state)
