"""What the fast-weight rules accept, checked once for all of them."""
import jax
import jax.numpy as jnp


def checked(op: str, q, k, v, log_decay, beta, initial_state, *, one_token: bool = False) -> tuple[jax.Array, ...]:
    """Returns the six arguments as arrays, a missing initial state as zeros; of `one_token` all but the state lack the axis T.

    Raises:
      ValueError: a shape does not fit; the message names the argument, what was expected and what was given.
      TypeError: an argument is not floating point, or the initial state is not float32.
    """
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay, "beta": beta}
    if initial_state is not None:
        given["initial_state"] = initial_state
    given = {name: jnp.asarray(array) for name, array in given.items()}
    for name, array in given.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{op}: {name} must be floating point, given {array.dtype.name}")
    leading = ("B",) if one_token else ("B", "T")
    for name, width in (("q", "K"), ("v", "V")):
        if given[name].ndim != len(leading) + 2:
            letters = ", ".join((*leading, "H", width))
            raise ValueError(f"{op}: {name} must have shape [{letters}], given {list(given[name].shape)}")
    *tokens, h, dk = given["q"].shape
    b, dv = tokens[0], given["v"].shape[-1]
    if 0 in tokens[1:]:
        raise ValueError(f"{op}: q must have at least one token, given {list(given['q'].shape)}")
    expected = {
        "k": (*tokens, h, dk), "v": (*tokens, h, dv), "log_decay": (*tokens, h), "beta": (*tokens, h), "initial_state": (b, h, dk, dv),
    }
    for name, shape in expected.items():
        if name in given and given[name].shape != shape:
            raise ValueError(f"{op}: {name} must have shape {list(shape)}, given {list(given[name].shape)}")
    state = given.setdefault("initial_state", jnp.zeros((b, h, dk, dv), jnp.float32))
    if state.dtype != jnp.float32:
        raise TypeError(f"{op}: initial_state must be float32, given {state.dtype.name}: fast weights are never rounded")
    return tuple(given[name] for name in ("q", "k", "v", "log_decay", "beta", "initial_state"))


def refuses_other_dtypes(q, k, v, log_decay, beta, initial_state) -> str | None:
    """Says why a chunked implementation can't run these dtypes; None where it can."""
    del log_decay, beta, initial_state
    dtypes = {q.dtype, k.dtype, v.dtype}
    if dtypes <= {jnp.dtype(jnp.float32)} or dtypes <= {jnp.dtype(jnp.bfloat16)}:
        return None
    return "q, k and v must all be float32 or all be bfloat16"
