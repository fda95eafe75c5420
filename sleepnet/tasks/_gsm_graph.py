"""Graphs of gsm: which quantity needs which, drawn from the top down until there are so many edges.

A `Statement` says what one quantity equals: [number more than | number times] [a source | the sum of two | the difference of
two], or a number alone. A total (THINGS, PARTS) is one too, but no sentence is written for it: it follows from what is told.
`ops` is the number of edges: of sources, over all statements.
"""
import dataclasses
from collections.abc import Callable, Iterator

from sleepnet.tasks._gsm_words import PART, PARTS, THING, THINGS

LARGEST_CONSTANT = 4
_MOST_MEMBERS, _MOST_PAIRS = 4, 2  # of a total

Die = Callable[[int], int]  # die(n) is one of 0 … n − 1


def die(words: Iterator[int]) -> Die:
    """Returns a die that reads these words."""
    return lambda bound: (next(words) * bound) >> 64


@dataclasses.dataclass(slots=True)
class Statement:
    """What one quantity equals. While a graph is being drawn `subject` is its kind and `sources` are places in the list of all.

    Attributes:
      subject: the quantity's name.
      sources: the quantities that it needs; of PARTS: containers and what is in each, in turn.
      join: "sum" or "difference" where there are two sources, else "".
      prefix: "more", "times" or "".
      number: what the prefix adds or multiplies by; where there are no sources, the value.
    """

    subject: int
    sources: list[int] = dataclasses.field(default_factory=list)
    join: str = ""
    prefix: str = ""
    number: int = 0

    @property
    def total(self) -> bool:
        """Whether it follows from what is told, and has no sentence."""
        return self.subject & 3 in (THINGS, PARTS)


class _Graph:
    """A graph that is drawn from its top down: every quantity waits until it is given sources, or is left as a leaf."""

    def __init__(self, die: Die, ops: int, depth: int, totals: int, things: int):
        self.die, self.left, self.depth, self.totals, self.things = die, ops, depth, totals, things
        self.nodes: list[Statement] = []
        self.order: list[int] = []
        self.waiting: list[int] = []

    def quantity(self, kind: int | None = None) -> int:
        """Adds a quantity that waits."""
        if kind is None:
            kind = (THING, PART)[self.die(2)] if self.depth == 3 else THING
        self.nodes.append(Statement(kind))
        self.waiting.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def total(self) -> int:
        """Adds a total and its members, which wait."""
        pairs = self.depth == 3 and self.die(2)
        self.nodes.append(Statement(PARTS if pairs else THINGS))
        at = len(self.nodes) - 1
        self.order.append(at)
        if pairs:
            kinds = (THING, PART) * (1 + self.die(min(self.left // 2, self.things, _MOST_PAIRS)))
        else:
            kinds = (THING,) * (2 + self.die(min(self.left, self.things, _MOST_MEMBERS) - 1))
        self.nodes[at].sources = [self.quantity(kind) for kind in kinds]
        self.left -= len(kinds)
        self.totals -= 1
        return at

    def source(self, taken: list[int]) -> int:
        """Returns a source: a total, a quantity that waits already, or a new one."""
        roll = self.die(12)
        if roll < 2 and self.totals and self.left >= 2:
            return self.total()
        free = [at for at in self.waiting if at not in taken]
        return free[self.die(len(free))] if roll < 5 and free else self.quantity()

    def grow(self) -> None:
        """Gives one or two sources to a quantity that waits."""
        at = self.waiting.pop(self.die(len(self.waiting)))
        self.order.append(at)
        node, count = self.nodes[at], 1 + (self.left > 1 and self.die(2))
        self.left -= count
        for _ in range(count):
            node.sources.append(self.source(node.sources))
        if count == 2:
            node.join = ("sum", "difference")[self.die(2)]
        node.prefix = ("more", "times", "")[self.die(1 + count)]
        if node.prefix:
            least = 2 if node.prefix == "times" else 1
            node.number = least + self.die(LARGEST_CONSTANT + 1 - least)


def draw_graph(die: Die, ops: int, *, depth: int, reverse: bool, totals: int, things: int) -> list[Statement]:
    """Returns a problem without names, with exactly `ops` edges: a statement's subject is a kind, its sources are places in the list.

    At most `totals` of them are totals, each of at most `things` kinds of container. In reverse the top is a total, except at one op.
    """
    graph = _Graph(die, ops, depth, totals, things)
    if ops >= 2 and totals and (reverse or die(3) == 0):
        graph.total()
    else:
        graph.quantity()
    while graph.left:
        graph.grow()
    for at in graph.waiting:
        graph.nodes[at].number = 1 + die(LARGEST_CONSTANT)
    order = graph.order + graph.waiting
    place = {at: i for i, at in enumerate(order)}
    for node in graph.nodes:
        node.sources = [place[at] for at in node.sources]
    return [graph.nodes[at] for at in order]
