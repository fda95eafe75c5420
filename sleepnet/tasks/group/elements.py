"""The elements of S5, A5, S4 and Z60: their words and their tables."""
import functools
import itertools

import numpy as np

SIZES = {"S5": 120, "A5": 60, "S4": 24, "Z60": 60}
UNORDERED = {"S5": 60, "A5": 60, "S4": 12, "Z60": 1}  # elements of the commutator subgroup: products that only the order of a word tells apart
CYCLIC = SIZES["Z60"]


@functools.cache
def spelling(group: str) -> tuple[str, ...]:
    """The elements' words, in their order."""
    if group == "Z60":
        return tuple(map(str, range(CYCLIC)))
    return tuple("".join(str(image + 1) for image in p) for p in permutations(group))


@functools.cache
def permutations(group: str) -> tuple[tuple[int, ...], ...]:
    """The images of 0 … 4 under each permutation, in their order."""
    inversions = lambda p: sum(a > b for a, b in itertools.combinations(p, 2))
    chosen = {"S5": lambda p: True, "A5": lambda p: inversions(p) % 2 == 0, "S4": lambda p: p[4] == 4}[group]
    return tuple(filter(chosen, itertools.permutations(range(5))))


@functools.cache
def table(group: str) -> np.ndarray:
    """The number of a·b, a applied first: int64 [elements, elements]."""
    if group == "Z60":
        return np.add.outer(np.arange(CYCLIC), np.arange(CYCLIC)) % CYCLIC
    known = permutations(group)
    number = {p: i for i, p in enumerate(known)}
    return np.array([[number[tuple(b[image] for image in a)] for b in known] for a in known])


@functools.cache
def times(group: str) -> np.ndarray:
    """The token of a·b, by the tokens of a and b: int64 [1 + elements, 1 + elements]; PAD multiplies as the neutral element."""
    padded = np.pad(table(group) + 1, (1, 0))
    padded[0], padded[:, 0] = np.arange(len(padded)), np.arange(len(padded))
    return padded
