"""What a book or string by heart says, drawn once more by numpy's own generator alone: the solver's memory, no code of which makes examples."""
import functools

import numpy as np

_NUMBER_OF_CONTENT, _KEYS, _DIGITS = 3, 0, 1  # what the words are drawn under; other numbers would make another book


@functools.cache
def numbers(content: int, entries: int, digits: int, names: int) -> dict[tuple[int, int], str]:
    """Returns the whole book: (first name, surname), both from 0, → its number."""
    keys: dict[tuple[int, int], str] = {}
    words = _words(content, 0, _KEYS)
    while len(keys) < entries:
        keys.setdefault(divmod(_scaled(words, names * names), names), "")
    for place, key in enumerate(keys):
        words = _words(content, place, _DIGITS)
        keys[key] = "".join(str(_scaled(words, 10)) for _ in range(digits))
    return keys


def _words(content: int, place: int, field: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([content, _NUMBER_OF_CONTENT], np.uint64), counter=np.array([0, field, 0, place], np.uint64))


def _scaled(words: np.random.Philox, bound: int) -> int:
    """Returns the next word as a number of 0 … bound − 1."""
    return int(words.random_raw()) * bound // 2**64
