"""What the fast-weight rules accept, checked once for all of them."""
import jax
import jax.numpy as jnp

from sleepnet_kernels import segments
from sleepnet_kernels.argument_checks import WrongDtype, refuse_cut_time, refuse_positive


def checked(
    op: str, q, k, v, log_decay, beta, initial_state, segment_ids=None, *, one_token: bool = False, per_channel: bool = False
) -> tuple[jax.Array, ...]:
    """Returns the six arguments as arrays, a missing initial state as zeros, and the segment ids after them where there are any.

    Of `one_token` all but the state lack the axis T.

    log_decay has one value a head, or one a key channel where `per_channel`.

    Raises:
      ValueError: a shape does not fit, log_decay is seen to be positive or NaN or the axis of tokens to be sharded; the message names the
        argument, what was expected and what was given.
      TypeError: an argument is not floating point, the initial state is not float32, or the segment ids are not int32.
    """
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay, "beta": beta}
    if initial_state is not None:
        given["initial_state"] = initial_state
    given = {name: jnp.asarray(array) for name, array in given.items()}
    for name, array in given.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise WrongDtype(f"{op}: {name} must be floating point, given {array.dtype.name}")
    leading = ("B",) if one_token else ("B", "T")
    for name, heads, width in (("q", "G", "K"), ("v", "H", "V")):
        if given[name].ndim != len(leading) + 2:
            letters = ", ".join((*leading, heads, width))
            raise ValueError(f"{op}: {name} must have shape [{letters}], given {list(given[name].shape)}")
    *tokens, groups, dk = given["q"].shape
    b, h, dv = tokens[0], *given["v"].shape[-2:]
    if 0 in tokens[1:]:
        raise ValueError(f"{op}: q must have at least one token, given {list(given['q'].shape)}")
    if not groups or h % groups:
        raise ValueError(f"{op}: v must have a whole multiple of q's {groups} heads, given {list(given['v'].shape)}")
    decays = (*tokens, h, dk) if per_channel else (*tokens, h)
    expected = {
        "k": (*tokens, groups, dk), "v": (*tokens, h, dv), "log_decay": decays, "beta": (*tokens, h), "initial_state": (b, h, dk, dv),
    }
    for name, shape in expected.items():
        if name in given and given[name].shape != shape:
            raise ValueError(f"{op}: {name} must have shape {list(shape)}, given {list(given[name].shape)}")
    if not one_token:
        refuse_positive(op, "log_decay", given["log_decay"])
        for name in ("q", "k", "v", "log_decay", "beta"):
            refuse_cut_time(op, name, given[name])
    state = given.setdefault("initial_state", jnp.zeros((b, h, dk, dv), jnp.float32))
    if state.dtype != jnp.float32:
        raise WrongDtype(f"{op}: initial_state must be float32, given {state.dtype.name}: fast weights are never rounded")
    arguments = tuple(given[name] for name in ("q", "k", "v", "log_decay", "beta", "initial_state"))
    return arguments if segment_ids is None else (*arguments, segments.checked_segment_ids(op, segment_ids, tuple(tokens)))


def undecayed(op: str, q, k, v, beta, initial_state, segment_ids=None, *, one_token: bool = False) -> tuple[jax.Array, ...]:
    """As `checked`, of a rule without decay: zeros for its log_decay."""
    return checked(op, q, k, v, jnp.zeros(jnp.shape(v)[:-1], jnp.float32), beta, initial_state, segment_ids, one_token=one_token)


def shared_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns q and k with as many heads as v, the last axis but one: v's heads h r … h r + r - 1 share head h."""
    repeats = v.shape[-2] // q.shape[-2]
    return (q, k) if repeats == 1 else (jnp.repeat(q, repeats, axis=-2), jnp.repeat(k, repeats, axis=-2))


def refuses_other_dtypes(q, k, v, log_decay, beta, initial_state, segment_ids=None) -> str | None:
    """Says why a chunked implementation can't run these dtypes; None where it can."""
    del log_decay, beta, initial_state, segment_ids
    dtypes = {q.dtype, k.dtype, v.dtype}
    if dtypes <= {jnp.dtype(jnp.float32)} or dtypes <= {jnp.dtype(jnp.bfloat16)}:
        return None
    return "q, k and v must all be float32 or all be bfloat16"
