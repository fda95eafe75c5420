"""Drawing without repetition: the plain path and the one for many rows both keep the first draws that differ."""
from collections.abc import Callable, Iterator

import numpy as np

from sleepnet.tasks.machinery import philox


def first_distinct(draws: Iterator[int], count: int) -> list[int]:
    """Returns the first `count` different values, in the order of drawing."""
    kept: dict[int, None] = {}
    while len(kept) < count:
        kept[next(draws)] = None
    return list(kept)


def counts(key: tuple[int, int], index: np.ndarray, stream: int, least: int, most: int) -> np.ndarray:
    """Returns a number of least … most for every example, from the first word of a stream: int64 [B]. No word is read where they are equal."""
    if most == least:
        return np.full(len(index), least)
    return least + philox.multiply_high(philox.words(key, index, stream, 0, 1)[:, 0], np.uint64(most - least + 1)).astype(np.int64)


def distinct(read: Callable[[np.ndarray, int], np.ndarray], count: np.ndarray, width: int, first: int) -> np.ndarray:
    """`first_distinct` for many rows: int64 [rows, width], of which the first `count` [rows] count; the others are 0.

    `read(row, draws)` returns the first `draws` values of each of these rows, int64 [len(row), draws]. At first it is asked
    for `first` of them, and again for twice as many where these did not do: the result does not depend on it.
    """
    out = np.zeros((len(count), width), np.int64)
    waiting, draws = np.arange(len(count)), first
    while len(waiting):
        value = read(waiting, draws)
        new = ~_repeated(value)
        rank = np.cumsum(new, axis=1) - 1
        r, c = np.nonzero(new & (rank < count[waiting][:, None]))
        out[waiting[r], rank[r, c]] = value[r, c]
        waiting, draws = waiting[rank[:, -1] + 1 < count[waiting]], 2 * draws
    return out


def _repeated(value: np.ndarray) -> np.ndarray:
    """Tells of each value whether it stands further left in its row too: bool like `value` [rows, draws], values below 2**48."""
    draws = value.shape[1]
    bits = draws.bit_length()
    # a value and its place in one number: sorting these is several times faster than argsort
    ordered = np.sort(value << bits | np.arange(draws), axis=1)
    r, c = np.nonzero(ordered[:, 1:] >> bits == ordered[:, :-1] >> bits)
    repeated = np.zeros(value.shape, bool)
    repeated[r, ordered[r, c + 1] & ((1 << bits) - 1)] = True
    return repeated
