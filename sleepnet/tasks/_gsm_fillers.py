"""Sentences that a problem of gsm does not need. They may need its quantities; it needs none of theirs.

Fillers are the statements of further problems, drawn by the very law of the one that is asked, so that kinds, forms and
constants occur as often. Every second of their sources is replaced by a quantity of the same kind that is told already, be it
the asked problem's own. The last of these problems is cut to fit.
"""
from sleepnet.tasks._gsm_graph import LARGEST_CONSTANT, Die, Statement, draw_graph
from sleepnet.tasks._gsm_problem import Names, Problem, evaluate
from sleepnet.tasks._gsm_text import sentence_length, shortest_sentence
from sleepnet.tasks._gsm_words import PARTS, THING, THINGS, kind_of, place_of

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
        """Returns a problem's statements as far as there is room for them; None where they do not come out."""
        ops = self.ops[self.die(len(self.ops))]
        totals, things = self.names.most_closed, len(self.names.things)
        nodes = _cut(draw_graph(self.die, ops, depth=self.depth, reverse=self.reverse, totals=totals, things=things), room)
        fresh = list(self.fresh)
        borrowed = self._borrow(nodes, fresh)
        if borrowed is None:
            return None
        before = set(self.names.taken)
        added = self._name(nodes, borrowed)
        if not all(evaluate(statement, self.values, self.limit) for statement in added):
            for statement in added:
                self.values.pop(statement.subject, None)
            self.names.taken = before
            return None
        self.fresh = fresh
        return added

    def _borrow(self, nodes: list[Statement | None], fresh: list[int]) -> dict[tuple[int, int] | int, int] | None:
        """Chooses what stands for sources: (place of a statement, place of its source) → a name that is told already, or
        place of a total → a town for it, taken from `fresh`. None where a total has neither."""
        borrowed: dict[tuple[int, int] | int, int] = {}
        for at, node in enumerate(nodes):
            if node is None or node.total:
                continue
            for slot, source in enumerate(node.sources):
                total = nodes[source].total
                told = self.known[THINGS] + self.known[PARTS] if total else self.known[nodes[source].subject]
                if told and (self.die(2) or total and not fresh):
                    name = told[self.die(len(told))]
                    if slot == 0 or name != borrowed.get((at, 0)):
                        borrowed[at, slot] = name
                        continue
                if total:
                    if not fresh:
                        return None
                    borrowed[source] = fresh.pop()
        return borrowed

    def _name(self, nodes: list[Statement | None], borrowed: dict[tuple[int, int] | int, int]) -> list[Statement]:
        """Names what was not borrowed; returns the statements, and the totals in use, in solving order."""
        found: dict[int, int] = {}
        for at, node in enumerate(nodes):
            if at in borrowed:
                found[at], members = self.names.members(self.die, node, borrowed[at])
                found.update(zip(node.sources, members))
        for at, node in enumerate(nodes):
            if node is not None and at not in found and not node.total:
                found[at] = self.names.single(self.die, node.subject)
        for at, name in found.items():
            node = nodes[at]
            node.subject = name
            node.sources = [borrowed[at, slot] if (at, slot) in borrowed else found[source] for slot, source in enumerate(node.sources)]
        return [nodes[at] for at in sorted(found, reverse=True)]


def _cut(nodes: list[Statement], room: int) -> list[Statement | None]:
    """Leaves out statements from the front, on which nothing behind them hangs, until the others have at most `room` tokens."""
    for at in reversed(range(len(nodes))):
        if not nodes[at].total:
            room -= sentence_length(nodes[at].subject, [nodes[source].subject for source in nodes[at].sources], nodes[at].prefix)
        if room < 0:
            return [None] * (at + 1) + nodes[at + 1 :]
    return nodes


def _length(statement: Statement) -> int:
    """Returns the tokens of a named statement's sentence."""
    return sentence_length(kind_of(statement.subject), list(map(kind_of, statement.sources)), statement.prefix)
