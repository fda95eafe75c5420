"""What the convolution and its step accept, checked once for both."""
import jax
import jax.numpy as jnp

from sleepnet_kernels.argument_checks import WrongDtype, refuse_cut_time


def checked(op: str, x, weight, initial_state, *, one_token: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x, weight and the state as arrays, a missing state as zeros; of `one_token` x lacks the axis T.

    Raises:
      ValueError: a shape does not fit; the message names the argument, what was expected and what was given.
      TypeError: an argument is not floating point, or the state is not in x's dtype.
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    for name, array, letters in (("x", x, "B, C" if one_token else "B, T, C"), ("weight", weight, "W, C")):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise WrongDtype(f"{op}: {name} must be floating point, given {array.dtype.name}")
        if array.ndim != letters.count(",") + 1 or 0 in array.shape:
            raise ValueError(f"{op}: {name} must have shape [{letters}], none of them 0, given {list(array.shape)}")
    b, channels, width = x.shape[0], x.shape[-1], weight.shape[0]
    if weight.shape[1] != channels:
        raise ValueError(f"{op}: weight must have shape {[width, channels]}, given {list(weight.shape)}")
    if not one_token:
        refuse_cut_time(op, "x", x)
    state = jnp.zeros((b, width - 1, channels), x.dtype) if initial_state is None else jnp.asarray(initial_state)
    if state.shape != (b, width - 1, channels):
        raise ValueError(f"{op}: initial_state must have shape {[b, width - 1, channels]}, given {list(state.shape)}")
    if state.dtype != x.dtype:
        raise WrongDtype(f"{op}: initial_state must be {x.dtype.name} like x, given {state.dtype.name}")
    return x, weight, state
