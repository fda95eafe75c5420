"""A small parser of gsm of its own: a text read back into equations, word by word, and solved by sympy."""
import collections

import sympy

X = sympy.Symbol("x")


class Text:
    """A text read word by word: `rules` has, per quantity, what follows it; quantities are tuples of words."""

    def __init__(self, words):
        self.words, self.at, self.rules, self.unknown, self.sentences = words, 0, collections.defaultdict(list), None, []
        while self.at < len(words):
            start = self.at
            match self.next():
                case "What":
                    self.expect("is")
                    self.asked, self.asked_at = self.quantity(), start
                    self.expect("?")
                case "The":
                    self.at -= 1
                    name = self.quantity()
                    if self.next() == "is":
                        self.expect("not", "known")
                        self.unknown = name
                    else:
                        self.rules[name].append(self.amount())
                    self.expect(".")
                    self.sentences.append((name, tuple(words[start : self.at])))
                case "Solution:" | "Answer:":
                    self.rest = words[start:]
                    break

    def next(self):
        self.at += 1
        return self.words[self.at - 1]

    def expect(self, *words):
        assert tuple(self.next() for _ in words) == words

    def quantity(self):
        assert self.next().lower() == "the"
        self.expect("number", "of")
        name = [self.next()]
        self.expect("in")
        if self.words[self.at] == "each":
            self.at += 1
            name.append(self.next())
            self.expect("in")
        return (*name, self.next())

    def amount(self):
        """Returns (the quantities that it refers to, their expression → an expression)."""
        word = self.words[self.at]
        if word.isdigit():
            number = int(self.next())
            match self.words[self.at]:
                case "more":
                    self.expect("more", "than")
                    names, inner = self.amount()
                    return names, lambda *terms: number + inner(*terms)
                case "times":
                    self.expect("times")
                    names, inner = self.amount()
                    return names, lambda *terms: number * inner(*terms)
            return [], lambda: sympy.Integer(number)
        if self.words[self.at + 1] in ("sum", "difference"):
            sign = 1 if self.words[self.at + 1] == "sum" else -1
            self.at += 3
            first = self.quantity()
            self.expect("and")
            return [first, self.quantity()], lambda a, b: a + sign * b
        return [self.quantity()], lambda a: a

    def told(self):
        return [name for name, _ in self.sentences]

    def rule(self, name):
        """Returns what a quantity follows from: of two sentences the one that is not its number alone."""
        if name == self.unknown:
            return [], lambda: X
        what, *_, town = name
        whole = {other for other in self.told() if other[-1] == town and other != name}
        each = sorted(other for other in whole if other[0] == what and len(other) == 3)
        if len(name) == 2 and what == "containers":
            members = sorted(other for other in whole if len(other) == 2)
            return members, lambda *terms: sum(terms)
        if len(name) == 2 and each:
            counts = [(f"{other[1]}s", town) for other in each]
            return counts + each, lambda *terms: sum(terms[i] * terms[i + len(each)] for i in range(len(each)))
        return max(self.rules[name], key=lambda rule: len(rule[0]))

    def top(self):
        """Returns what everything asked about leads up to: in reverse what is told although it follows, as a second sentence or as a sum."""
        if self.unknown is None:
            return self.asked
        assert self.unknown == self.asked
        told = set(self.told()) - {self.unknown}
        (top,) = [name for name in told if len(self.rules[name]) == 2 or self.rule(name) is not self.rules[name][0]]
        return top

    def core(self):
        """Returns {quantity that the answer hangs on: what it follows from}, in solving order."""
        found = {}

        def visit(name):
            if name not in found:
                needs = self.rule(name)[0]
                for other in needs:
                    visit(other)
                found[name] = needs

        visit(self.top())
        return found

    def solve(self):
        """Returns {quantity that the answer hangs on: its expression in x}, in solving order, and what x may be, if it is asked for."""
        found = {}
        for name, needs in self.core().items():
            found[name] = sympy.expand(self.rule(name)[1](*[found[other] for other in needs]))
        if self.unknown is None:
            return found, None
        (number,) = [rule() for names, rule in self.rules[self.top()] if not names]
        return found, sympy.solve(sympy.Eq(found[self.top()], number), X)

    @property
    def answer(self):
        found, solutions = self.solve()
        if solutions is None:
            return int(found[self.asked])
        (solution,) = solutions
        return int(solution)
