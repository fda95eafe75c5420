"""Choosing an implementation: `None` may choose, a named one runs or raises with the reason."""
import dataclasses
from collections.abc import Callable, Mapping

import jax


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
      run: the function, with the op's positional arguments and state.
      refuses: called with the same arguments; returns why it can't run them, or None where it can.
    """

    run: Callable
    refuses: Callable[..., str | None] = lambda *arguments: None


def choose(op: str, known: Mapping[str, Implementation], name: str | None, default: str, *arguments) -> Callable:
    """Returns the function to call for `name`, or for `default` where `name` is None.

    Raises:
      ValueError: `name` is not in `known`, or it can't run these arguments: the message has shapes, dtypes, platform and reason.
    """
    name = default if name is None else name
    if name not in known:
        raise ValueError(f"{op}: unknown implementation {name!r}; known: {', '.join(sorted(known))}")
    reason = known[name].refuses(*arguments)
    if reason is not None:
        given = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in arguments if a is not None)
        raise ValueError(f"{op}: implementation {name!r} can't run {given} on {jax.default_backend()}: {reason}")
    return known[name].run
