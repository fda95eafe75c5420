"""Sentences that a problem of gsm does not need. They may need its quantities; it needs none of theirs.

Fillers are the statements of further problems, drawn by the very law of the one that is asked, so that kinds, forms and
constants occur as often. Every second of their sources is replaced by a quantity of the same kind that is told already, be it
the asked problem's own.

The last of these problems is cut to fit, and where there is but one the fillers are simpler than the problem: in texts of 60 to
120 tokens a bag of words tells 56 % of sentences right (50 % is guessing); from 350 tokens on, 50 %.
"""
import itertools

from sleepnet.tasks.gsm.graph import LARGEST_CONSTANT, Die, Statement, draw_graph
from sleepnet.tasks.gsm.problem import Names, Problem, evaluate
from sleepnet.tasks.gsm.text import sentence_length, shortest_sentence
from sleepnet.tasks.gsm.words import PARTS, THING, THINGS, kind_of, place_of

_TRIES = 8  # problems that give a number above the limit, before a single sentence is taken instead


class Filler:
    """Draws fillers beside one problem.

    Attributes:
      statements: the fillers so far, in an order in which whatever one needs stands before it.
      values: of all that fillers may need, and of the fillers.
    """

    def __init__(self, die: Die, problem: Problem, names: Names, *, ops: range, depth: int, limit: int, alike: bool):
        self.die, self.names, self.ops, self.depth, self.limit, self.reverse = die, names, ops, depth, limit, problem.reverse
        self.statements: list[Statement] = []
        self.values = dict(problem.values) if alike else {}
        self.known: list[list[int]] = [[], [], [], []]  # names by kind
        for name in self.values:
            self.known[kind_of(name)].append(name)
        # towns of totals are closed before anything is named there; three quarters of all towns stay open
        busy = names.closed.union(map(place_of, names.taken))
        free = [place for place in names.places if place not in busy]
        count = min(names.most_closed - len(names.closed), len(free))
        self.fresh = [free.pop(die(len(free))) for _ in range(count)]
        names.closed.update(self.fresh)

    def fill(self, room: int) -> None:
        """Adds sentences of `room` tokens in all, less a rest that is too short for any."""
        while room >= shortest_sentence():
            added = next(filter(None, (self._problem(room) for _ in range(_TRIES))), None) or [self._single()]
            for statement in added:
                self.known[kind_of(statement.subject)].append(statement.subject)
                if not statement.total:
                    self.statements.append(statement)
                    room -= _length(statement)

    def _single(self) -> Statement:
        """Returns a quantity whose number is told."""
        statement = Statement(self.names.single(self.die, THING), number=1 + self.die(LARGEST_CONSTANT))
        self.values[statement.subject] = statement.number
        return statement

    def _problem(self, room: int) -> list[Statement] | None:
        """Returns a problem's statements as far as there is room for them, in solving order; None where they do not come out."""
        ops = self.ops[self.die(len(self.ops))]
        totals, things = self.names.most_closed, len(self.names.things)
        graph = _cut(draw_graph(self.die, ops, depth=self.depth, reverse=self.reverse, totals=totals, things=things), room)
        fresh = list(self.fresh)
        if not self._name(graph, fresh):
            return None
        added = [s for s in reversed(graph) if s.subject is not None]
        if not all(evaluate(s, self.values, self.limit) for s in added):
            for s in added:
                self.values.pop(s.subject, None)
                self.names.taken.discard(s.subject)
            return None
        self.fresh = fresh
        return added

    def _name(self, graph: list[Statement], fresh: list[int]) -> bool:
        """Puts names in, of new quantities or of such as are told already; a total that nothing needs gets None. `fresh` are
        towns for totals, which are used up. False where a total has neither a town nor a name that is told."""
        totals = {s.subject: s for s in graph if s.total}
        found: dict[int, int | None] = dict.fromkeys(totals)
        borrowed: list[list[int | None]] = []
        for s in graph:
            borrowed.append([])
            for source in s.sources if not s.total else ():
                name = self._borrow(source, source in totals, bool(fresh), borrowed[-1])
                borrowed[-1].append(name)
                if name is None and source in totals:
                    if not fresh:
                        return False
                    found[source], members = self.names.members(self.die, totals[source], fresh.pop())
                    found.update(zip(totals[source].sources, members))
        for s in graph:
            if s.subject not in found:
                found[s.subject] = self.names.single(self.die, kind_of(s.subject))
        for s, names in zip(graph, borrowed):
            s.subject = found[s.subject]
            s.sources = [found[source] if name is None else name for source, name in itertools.zip_longest(s.sources, names)]
        return True

    def _borrow(self, source: int, total: bool, fresh: bool, taken: list[int | None]) -> int | None:
        """Returns a name that is told already and is not taken, to stand for a source; or None, for every second source or
        where there is none. A total without a fresh town always borrows."""
        told = self.known[THINGS] + self.known[PARTS] if total else self.known[kind_of(source)]
        if not told or not (self.die(2) or (total and not fresh)):
            return None
        name = told[self.die(len(told))]
        return None if name in taken else name


def _cut(graph: list[Statement], room: int) -> list[Statement]:
    """Leaves out statements from the front, on which nothing behind them hangs, until the others have at most `room` tokens."""
    for at in reversed(range(len(graph))):
        room -= 0 if graph[at].total else _length(graph[at])
        if room < 0:
            return graph[at + 1 :]
    return graph


def _length(statement: Statement) -> int:
    """Returns the tokens of a statement's sentence."""
    return sentence_length(kind_of(statement.subject), [kind_of(source) for source in statement.sources], statement.prefix)
