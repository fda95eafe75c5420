"""Seeds: one range for parameters and data, and the generator that parameters are drawn from."""
import operator
from typing import Any

from sleepnet.errors import UsageError

MOST = (1 << 64) - 1  # the tasks' generator takes no more
_WORD = 32


def check(key: str, seed: Any) -> int:
    """Returns a seed as an int; raises UsageError, naming `key`, unless it is a whole number from 0 to `MOST`."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)  # numpy's integers are integers
    except TypeError:
        number = -1
    if not 0 <= number <= MOST:
        raise UsageError(f"{key}={seed!r} must be a whole number from 0 to {MOST}")
    return number


def key(seed: int) -> Any:
    """A JAX key for every seed: JAX itself takes the lower 32 bits of one and no more.

    Raises:
      UsageError: as `check`.
    """
    import jax  # the tasks, which check seeds as well, do without

    high, low = divmod(check("seed", seed), 1 << _WORD)
    made = jax.random.key(low)
    return jax.random.fold_in(made, high) if high else made


def rngs(seed: int) -> Any:
    """`nnx.Rngs` with parameters of its own for every seed; raises as `check`."""
    from flax import nnx

    return nnx.Rngs(key(seed))
