"""The arguments of tasks: what is no possible value is told in one line, and curricula by rising thresholds."""
from typing import Any

import numpy as np

from sleepnet.errors import UsageError, nearest


def require(condition: bool, message: str) -> None:
    """Raises UsageError unless the condition holds; the message names the key and the fix."""
    if not condition:
        raise UsageError(message)


def whole(key: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns the value of an argument as an int; raises UsageError unless it is one between `least` and `most`."""
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    good = good and value >= least and (most is None or value <= most)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    require(good, f"{key}={value!r} must be a whole number {limits}")
    return int(value)


def span(key: str, value: Any, least: int, most: int | None = None) -> tuple[int, int]:
    """Returns (least, most) of an argument that is a number or a range; raises UsageError unless it is one, within the limits."""
    ends = value if isinstance(value, (list, tuple)) else (value, value)
    require(len(ends) == 2, f"{key}={value!r} must be a number, or a range (least, most)")
    first = whole(key, ends[0], least, most)
    return first, whole(key, ends[1], first, most)


def choice(key: str, value: Any, known: tuple[str, ...]) -> str:
    """Returns the value of an argument; raises UsageError unless it is one of `known`."""
    require(value in known, f"unknown {key}={value!r}{nearest(str(value), known)}")
    return value


def rising(key: str, value: Any, most: int) -> tuple[int, ...]:
    """Returns a curriculum's thresholds: entry i is the number of training examples before difficulty i + 2 may be drawn.

    Raises UsageError unless they are at most `most` − 1 whole numbers, none smaller than the one before.
    """
    listed = isinstance(value, (list, tuple)) and all(isinstance(v, int) and v >= 0 for v in value) and list(value) == sorted(value)
    require(listed, f"{key}={value!r} must be a list of rising numbers of training examples, such as (10000, 30000)")
    require(len(value) < most, f"{key}={value!r} has {len(value)} thresholds; {most} difficulties have at most {most - 1}")
    return tuple(value)


def risen(thresholds: tuple[int, ...], most: int, index: Any) -> Any:
    """Returns how many difficulties the training example at `index` (a number or an array) is drawn from."""
    passed = np.searchsorted(np.array(thresholds, np.int64), index, "right")
    return passed + (most - len(thresholds))


def tell_rise(thresholds: tuple[int, ...]) -> str:
    """Returns a curriculum in words, for the end of a sentence; nothing where there is none."""
    return f" (the largest may grow after {', '.join(f'{t:,}' for t in thresholds)} training examples)" if thresholds else ""
