"""A permutation of 0 … n − 1 that any place of can be asked for alone: nothing is stored, whatever n is."""
import numpy as np

from sleepnet.tasks.machinery.splits import mix64

_ROUNDS = 4  # of a Feistel network: as many as make it indistinguishable from a random one (Luby and Rackoff, 1988), if its rounds were


def shuffled(place: np.ndarray, count: int, key: np.ndarray) -> np.ndarray:
    """Where each place goes to.

    A Feistel network over the smallest square 4ᵇ ≥ n permutes its numbers; what falls beyond n goes through it again until it does not, fewer than four times
    on average (cycle walking; Black and Rogaway, 2002).

    Args:
      place: uint64 [B], from 0 to n − 1.
      count: n ≥ 1.
      key: uint64 [B], which of the permutations; the same for all places of one.

    Returns:
      uint64 [B]; of one key, and all places, each number once.
    """
    half = max(1, (int(count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    out, waiting = place.astype(np.uint64), np.arange(len(place))
    while len(waiting):
        value, word = out[waiting], key[waiting]
        left, right = value >> np.uint64(half), value & low
        for number in range(_ROUNDS):
            word = mix64(word + np.uint64(number))
            left, right = right, left ^ (mix64(word ^ right) & low)
        out[waiting] = left << np.uint64(half) | right
        waiting = waiting[out[waiting] >= count]
    return out
