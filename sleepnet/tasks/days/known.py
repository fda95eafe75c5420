"""What the days of a stream say, drawn once more by numpy's own generator alone: the solver's memory, no code of which makes examples."""
import functools

import numpy as np

_NUMBER_OF_CONTENT, _KEYS, _VALUES = 3, 0, 1  # what the words are drawn under; other numbers would make another life

Day = dict[tuple[str, ...], str]  # words of a key → value


@functools.cache
def life(content: int, days: int, facts: int, links: int, names: int, digits: int) -> list[Day]:
    """Returns each day: the words of a key, two names or the digits of a value of the day before, → its value."""
    keys, values = _different(content, _KEYS, names * names, days * facts), _different(content, _VALUES, 10**digits, days * facts)
    told = []
    for day in range(days):
        facts_of = {}
        for place in range(facts):
            if place < facts - links:
                first, second = divmod(keys[day * facts + place], names)
                key = (f"n{first + 1}", f"n{second + 1}")
            else:
                key = tuple(f"{values[(day - 1) % days * facts + place - (facts - links)]:0{digits}d}")
            facts_of[key] = f"{values[day * facts + place]:0{digits}d}"
        told.append(facts_of)
    return told


def _different(content: int, field: int, bound: int, count: int) -> list[int]:
    words, found = np.random.Philox(key=np.array([content, _NUMBER_OF_CONTENT], np.uint64), counter=np.array([0, field, 0, 0], np.uint64)), {}
    while len(found) < count:
        found.setdefault(int(words.random_raw()) * bound // 2**64)
    return list(found)
