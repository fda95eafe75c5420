"""Problems of gsm: a graph with names and values, and a question."""
import dataclasses

from sleepnet.tasks.gsm.graph import Die, Statement, draw_graph
from sleepnet.tasks.gsm.words import PART, PARTS, THING, kind_of, name_of
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.splits import mix64_int

Affine = tuple[int, int]  # (a, b): a + b·x, x being the hidden number


@dataclasses.dataclass(slots=True)
class Problem:
    """A question, the statements its answer hangs on, and no other.

    Attributes:
      statements: first the quantity at the top, which no other needs.
      values: of every quantity.
      asked: the quantity that the question asks for: the top, or in reverse a leaf.
      reverse: whether the leaf's number is hidden and the top's is told.
    """

    statements: list[Statement]
    values: dict[int, int]
    asked: int
    reverse: bool

    @property
    def top(self) -> int:
        """The quantity that no other needs."""
        return self.statements[0].subject

    @property
    def answer(self) -> int:
        """The value asked for."""
        return self.values[self.asked]

    def numbers(self) -> list[int]:
        """Returns the numbers that its sentences say."""
        said = [s.number for s in self.statements if s.number and not (self.reverse and s.subject == self.asked)]
        return said + [self.values[self.top]] * self.reverse

    def named(self, names: dict[int, int]) -> "Problem":
        """Returns the problem with other names."""
        statements = [dataclasses.replace(s, subject=names[s.subject], sources=[names[source] for source in s.sources]) for s in self.statements]
        return Problem(statements, {names[old]: value for old, value in self.values.items()}, names[self.asked], self.reverse)

    def roles(self) -> list[tuple[int, int]]:
        """Returns of each quantity 64 bits that do not depend on names: how it is computed, all the way down."""
        found: dict[int, int] = {}
        for s in reversed(self.statements):
            hidden = self.reverse and s.subject == self.asked
            form = ("", "more", "times").index(s.prefix) << 2 | ("", "sum", "difference").index(s.join)
            told = self.values[self.top] if self.reverse and s.subject == self.top else 0
            code = (0 if hidden else s.number) << 5 | form << 1 | hidden
            # the sum over sources is the same in any order, and of a difference the larger comes first
            found[s.subject] = mix64_int((mix64_int(told << 8 | code) + sum(found[source] for source in s.sources)) & philox.MASK64)
        return list(found.items())


def fingerprint(roles: list[tuple[int, int]], names: dict[int, int]) -> int:
    """Returns 64 bits that are the same for problems of the same question and sentences, whatever the order of these."""
    return mix64_int(sum([mix64_int(role ^ names[quantity]) for quantity, role in roles]) & philox.MASK64)


@dataclasses.dataclass(slots=True)
class Names:
    """Which names are taken: no two quantities share one, and in a closed town none is named that its total does not count.

    Attributes:
      places, things, parts: ranges of the numbers to draw from.
    """

    places: range
    things: range
    parts: range
    taken: set[int] = dataclasses.field(default_factory=set)
    closed: set[int] = dataclasses.field(default_factory=set)

    @property
    def most_closed(self) -> int:
        """How many towns may be closed; the others have room for all other quantities."""
        return len(self.places) // 4

    def close(self, die: Die) -> int:
        """Returns a town that was open, and is closed now."""
        place = self._open(die)
        self.closed.add(place)
        return place

    def _open(self, die: Die) -> int:
        while True:
            place = self.places[die(len(self.places))]
            if place not in self.closed:
                return place

    def single(self, die: Die, kind: int) -> int:
        """Takes a free name of a THING or PART in an open town."""
        while True:
            part = self.parts[die(len(self.parts))] if kind == PART else 0
            name = name_of(kind, self._open(die), self.things[die(len(self.things))], part)
            if name not in self.taken:
                self.taken.add(name)
                return name

    def members(self, die: Die, total: Statement, place: int) -> tuple[int, list[int]]:
        """Takes names for a total and its members in a closed town; returns them."""
        pairs = kind_of(total.subject) == PARTS
        part, things = self.parts[die(len(self.parts))] if pairs else 0, []
        while len(things) < len(total.sources) // (1 + pairs):
            thing = self.things[die(len(self.things))]
            if thing not in things:
                things.append(thing)
        names = [name_of(kind, place, thing, part * (kind == PART)) for thing in things for kind in ((THING, PART) if pairs else (THING,))]
        self.taken.update(names)
        return name_of(kind_of(total.subject), place, 0, part), names


def name_all(die: Die, statements: list[Statement], names: Names) -> dict[int, int]:
    """Returns a name for every quantity of a graph; totals come first, so that their towns have no other quantity."""
    found: dict[int, int] = {}
    for s in statements:
        if s.total:
            found[s.subject], members = names.members(die, s, names.close(die))
            found.update(zip(s.sources, members))
    for s in statements:
        if s.subject not in found:
            found[s.subject] = names.single(die, kind_of(s.subject))
    return found


def evaluate(statement: Statement, values: dict[int, int], limit: int) -> bool:
    """Adds a statement's value, and puts the larger source of a difference first; False where it is above `limit` or can't be."""
    sources = statement.sources
    terms = [values[source] for source in sources]
    if kind_of(statement.subject) == PARTS:
        value = sum(count * each for count, each in zip(terms[::2], terms[1::2]))
    elif statement.join == "difference":
        if terms[0] < terms[1]:
            sources.reverse()
        value = abs(terms[0] - terms[1])
    else:
        value = sum(terms) if sources else statement.number
    if statement.prefix == "more":
        value += statement.number
    elif statement.prefix == "times":
        value *= statement.number
    values[statement.subject] = value
    return value <= limit


def affine(problem: Problem) -> dict[int, Affine] | None:
    """Returns every quantity as a + b·x, x being the hidden number (b is 0 without one); None where a product is none of these."""
    forms: dict[int, Affine] = {}
    for s in reversed(problem.statements):
        a, b = s.number if not s.sources else 0, 0
        if problem.reverse and s.subject == problem.asked:
            a, b = 0, 1
        terms = [forms[source] for source in s.sources]
        if kind_of(s.subject) == PARTS:
            if any(count[1] and each[1] for count, each in zip(terms[::2], terms[1::2])):
                return None
            terms = [(c[0] * e[0], c[0] * e[1] + c[1] * e[0]) for c, e in zip(terms[::2], terms[1::2])]
        elif s.join == "difference":
            terms[1] = (-terms[1][0], -terms[1][1])
        a, b = a + sum(t[0] for t in terms), b + sum(t[1] for t in terms)
        if s.prefix == "more":
            a += s.number
        elif s.prefix == "times":
            a, b = a * s.number, b * s.number
        forms[s.subject] = (a, b)
    return forms


def draw_problem(die: Die, ops: int, *, depth: int, reverse: bool, totals: int, things: int, limit: int) -> Problem:
    """Returns a problem without names: no number on the way is above `limit`, and in reverse there is one solution."""
    while True:
        statements, values = draw_graph(die, ops, depth=depth, reverse=reverse, totals=totals, things=things), {}
        leaves = [s.subject for s in statements if not s.sources]
        asked = leaves[die(len(leaves))] if reverse else statements[0].subject
        if not all(evaluate(s, values, limit) for s in reversed(statements)):
            continue
        problem = Problem(statements, values, asked, reverse)
        forms = affine(problem) if reverse else {problem.top: (0, 1)}
        if forms is not None and forms[problem.top][1] and max(abs(part) for form in forms.values() for part in form) <= limit:
            return problem
