"""Held-out data by what an instance *is*: a fingerprint assigns every instance to one split, whatever seed drew it."""
from collections.abc import Callable
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.machinery.philox import MASK64

SPLITS = {"train": 0, "validation": 1, "test": 2}
TRAIN = SPLITS["train"]
MAX_ATTEMPTS = 4096  # a bucket holding 1/64 of the instances is missed this often with probability 1e-28

_BUCKET_BITS = 6
_HELD_OUT = {SPLITS["test"]: 0, SPLITS["validation"]: 1}  # one bucket of 64 each; train owns the other 62
_WORDS_AT_ONCE = 2**16  # of the candidates that are drawn together: the temporaries stay in the cache
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix64(x: np.ndarray) -> np.ndarray:
    """Scatters uint64 values over 64 bits (splitmix64): neighbours land far apart, distinct values stay distinct."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
    return x ^ (x >> np.uint64(31))


def mix64_int(x: int) -> int:
    """`mix64` of one Python integer."""
    x = (x + _GOLDEN) & MASK64
    x = ((x ^ (x >> 30)) * _MIX[0]) & MASK64
    x = ((x ^ (x >> 27)) * _MIX[1]) & MASK64
    return x ^ (x >> 31)


def belongs(fingerprint: Any, split: int) -> Any:
    """Tells whether instances with these 64-bit fingerprints (uint64 array, or one int) belong to a split."""
    shift = 64 - _BUCKET_BITS
    bucket = fingerprint >> (shift if isinstance(fingerprint, int) else np.uint64(shift))
    return bucket == _HELD_OUT[split] if split in _HELD_OUT else bucket >= len(_HELD_OUT)


def empty_split(split: int) -> UsageError:
    """The error for a split in which no instance was found."""
    name = {number: name for name, number in SPLITS.items()}[split]
    return UsageError(f"split {name!r} is empty: these arguments give too few instances to hold some out; make the task larger")


def draw_members(
    propose: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], rows: int, split: int, width: int
) -> np.ndarray:
    """Draws until every part of every row belongs to the split; each part keeps its first attempt that does.

    `propose(row, attempt)`, both int64 [n], returns values [n, parts, ...] and their fingerprints uint64 [n, parts].
    `width` is about how many words a proposal reads. Returns values [rows, parts, ...].

    Raises:
      UsageError: where `MAX_ATTEMPTS` attempts find no member.
    """
    at_once = 32 if split in _HELD_OUT else 1
    chunk = max(1, _WORDS_AT_ONCE // (at_once * width))
    waiting, found, values, first = np.arange(rows), None, None, 0
    while len(waiting):
        if first >= MAX_ATTEMPTS:
            raise empty_split(split)
        still = []
        for a in range(0, len(waiting), chunk):
            row = waiting[a : a + chunk]
            tries = np.arange(first, first + at_once)
            value, fingerprint = propose(np.repeat(row, at_once), np.tile(tries, len(row)))
            value = value.reshape(len(row), at_once, *value.shape[1:])
            good = belongs(fingerprint, split).reshape(len(row), at_once, -1)
            if values is None:
                values = np.empty((rows, *value.shape[2:]), value.dtype)
                found = np.zeros((rows, good.shape[2]), bool)
            r, p = np.nonzero(good.any(1) & ~found[row])
            values[row[r], p] = value[r, good.argmax(1)[r, p], p]
            found[row[r], p] = True
            still.append(row[~found[row].all(1)])
        waiting, first = np.concatenate(still), first + at_once
    return values
