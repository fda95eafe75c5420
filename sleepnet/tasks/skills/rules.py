"""Rule tables of elementary cellular automata that overlap by so many of their eight entries; rows that show each entry; what guessing scores.

A table is a number from 0 to 255: bit 4 a + 2 b + c is the cell that follows on the neighbours a b c. A row is of WIDTH cells, the row that follows of the WIDTH − 2
with two neighbours. Letters: S skills, B rows, W cells of a row.
"""
import functools
import itertools

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.turns import permutation

ENTRIES, WIDTH = 8, 10
CELLS = WIDTH - 2
_ATTEMPTS = 1000
_FEWEST = 2  # entries of either cell that a table has: with fewer a guess is nearly right


@functools.cache
def tables(key: tuple[int, int], first: int, flips: int, count: int, overlap: int) -> tuple[int, ...]:
    """`count` tables, each of which agrees with the one before it in exactly `overlap` entries; all different unless all entries agree.

    `first`, `flips`: numbers of streams of words; `key` as `philox.stream` takes it.

    Raises:
      UsageError: there are not so many.
    """
    found: list[int] = []
    words = philox.stream(key, 0, first)
    while not found:
        table = philox.below(next(words), 2**ENTRIES)
        found = [table] if _mixed(table) else []
    for attempt in range(_ATTEMPTS * count):
        if len(found) == count:
            break
        places = permutation(philox.stream(key, 0, flips, attempt), ENTRIES)[: ENTRIES - overlap]
        table = found[-1] ^ sum(1 << place for place in places)
        if _mixed(table) and (overlap == ENTRIES or table not in found):
            found.append(table)
    if len(found) < count:
        raise UsageError(f"days={count}: there are not so many different tables of which each agrees with the one before in overlap={overlap} entries; set days to {len(found)} or less, or another overlap")
    return tuple(found)


def _mixed(table: int) -> bool:
    return _FEWEST <= table.bit_count() <= ENTRIES - _FEWEST


@functools.cache
def showing() -> np.ndarray:
    """Every row of WIDTH cells in which each of the eight neighbourhoods stands once: int64 [n], a row as a number, its first cell the highest bit."""
    numbers = np.arange(2**WIDTH)
    return numbers[[len(set(row)) == ENTRIES for row in neighbours(numbers).tolist()]]


def neighbours(rows: np.ndarray) -> np.ndarray:
    """Rows as numbers [...] → the neighbourhoods 0 … 7 of the cells that follow, int64 [..., CELLS]."""
    return rows[..., None] >> np.arange(CELLS - 1, -1, -1) & (ENTRIES - 1)


def after(table: np.ndarray | int, rows: np.ndarray) -> np.ndarray:
    """The cells that follow on rows [...] as numbers by tables [...]: int64 [..., CELLS]."""
    return np.asarray(table)[..., None] >> neighbours(rows) & 1


def guessed(tables: tuple[int, ...]) -> dict[str, list[tuple[float, float]]]:
    """Baseline → (per label, exact) of each table, over all rows: chance, the best constant cell, the table before (of the first: the last)."""
    rows = np.arange(2**WIDTH)
    constant = []
    for table in tables:
        cells = after(table, rows)
        constant.append((max(float((cells == cell).mean()) for cell in (0, 1)), max(float((cells == cell).all(-1).mean()) for cell in (0, 1))))
    before = []
    for table, other in zip(tables, itertools.chain(tables[-1:], tables)):
        same = after(table, rows) == after(other, rows)
        before.append((float(same.mean()), float(same.all(-1).mean())))
    return {"chance": [(0.5, 0.5**CELLS)] * len(tables), "constant": constant, "before": before}
