"""Graphs of gsm: which quantity needs which, drawn from the top down until there are so many edges.

A `Statement` says what one quantity equals: [number more than | number times] [a source | the sum of two | the difference of
two], or a number alone. A total (THINGS, PARTS) is one too, but no sentence is written for it: it follows from what is told.
`ops` is the number of edges: of sources, over all statements.
"""
import dataclasses
from collections.abc import Callable, Iterator

from sleepnet.tasks.gsm.words import PART, PARTS, THING, THINGS

LARGEST_CONSTANT = 4
_MOST_MEMBERS, _MOST_PAIRS = 4, 2  # of a total

Die = Callable[[int], int]  # die(n) is one of 0 … n − 1


def die(words: Iterator[int]) -> Die:
    """Returns a die that reads these words."""
    return lambda bound: (next(words) * bound) >> 64


@dataclasses.dataclass(slots=True)
class Statement:
    """What one quantity equals.

    Attributes:
      subject: the quantity's name; in a graph without names a number that ends in its kind as a name does.
      sources: the quantities that it needs; of PARTS: containers and what is in each, in turn.
      join: "sum" or "difference" where there are two sources, else "".
      prefix: "more", "times" or "".
      number: what the prefix adds or multiplies by; where there are no sources, the value.
      total: whether it follows from what is told, and has no sentence.
    """

    subject: int
    sources: list[int] = dataclasses.field(default_factory=list)
    join: str = ""
    prefix: str = ""
    number: int = 0
    total: bool = False


class _Graph:
    """A graph that is drawn from its top down: every quantity waits until it is given sources, or is left as a leaf."""

    def __init__(self, die: Die, ops: int, depth: int, totals: int, things: int):
        self.die, self.left, self.depth, self.totals, self.things = die, ops, depth, totals, things
        self.drawn = 0
        self.order: list[Statement] = []
        self.waiting: list[int] = []

    def new(self, kind: int) -> int:
        """Returns a number for a quantity."""
        self.drawn += 1
        return self.drawn << 2 | kind

    def quantity(self, kind: int | None = None) -> int:
        """Adds a quantity that waits."""
        if kind is None:
            kind = (THING, PART)[self.die(2)] if self.depth == 3 else THING
        self.waiting.append(self.new(kind))
        return self.waiting[-1]

    def total(self) -> int:
        """Adds a total and its members, which wait."""
        pairs = self.depth == 3 and self.die(2)
        statement = Statement(self.new(PARTS if pairs else THINGS), total=True)
        self.order.append(statement)
        if pairs:
            kinds = (THING, PART) * (1 + self.die(min(self.left // 2, self.things, _MOST_PAIRS)))
        else:
            kinds = (THING,) * (2 + self.die(min(self.left, self.things, _MOST_MEMBERS) - 1))
        statement.sources = [self.quantity(kind) for kind in kinds]
        self.left -= len(kinds)
        self.totals -= 1
        return statement.subject

    def source(self, taken: list[int]) -> int:
        """Returns a source: a total, a quantity that waits already, or a new one."""
        roll = self.die(12)
        if roll < 2 and self.totals and self.left >= 2:
            return self.total()
        free = [quantity for quantity in self.waiting if quantity not in taken] if roll < 5 else []
        return free[self.die(len(free))] if free else self.quantity()

    def grow(self) -> None:
        """Gives one or two sources to a quantity that waits."""
        statement, count = Statement(self.waiting.pop(self.die(len(self.waiting)))), 1 + (self.left > 1 and self.die(2))
        self.order.append(statement)
        self.left -= count
        for _ in range(count):
            statement.sources.append(self.source(statement.sources))
        if count == 2:
            statement.join = ("sum", "difference")[self.die(2)]
        statement.prefix = ("more", "times", "")[self.die(1 + count)]
        if statement.prefix:
            least = 2 if statement.prefix == "times" else 1
            statement.number = least + self.die(LARGEST_CONSTANT + 1 - least)


def draw_graph(die: Die, ops: int, *, depth: int, reverse: bool, totals: int, things: int) -> list[Statement]:
    """Returns statements about quantities without names, with exactly `ops` edges; whatever one needs stands behind it.

    At most `totals` of them are totals, each of at most `things` kinds of container. In reverse the top is a total, except at one op.
    """
    graph = _Graph(die, ops, depth, totals, things)
    if ops >= 2 and totals and (reverse or die(3) == 0):
        graph.total()
    else:
        graph.quantity()
    while graph.left:
        graph.grow()
    return graph.order + [Statement(quantity, number=1 + die(LARGEST_CONSTANT)) for quantity in graph.waiting]
