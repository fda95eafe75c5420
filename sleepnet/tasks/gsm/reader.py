"""Reads a text of gsm as a person would, and solves it by substitution. It shares nothing with what wrote the text but the words."""
import math
import re
from collections.abc import Hashable, Iterator

_NAME = r"the number of (\w+) in (?:each (\w+) in )?(\w+)"
_ASKED = re.compile(f"What is {_NAME}\\?")
_SENTENCE = re.compile(f"{_NAME} (?:is not known|equals ([^.]+))\\.")
_AMOUNT = re.compile(r"(?:(\d+) (more than|times) )?(?:(\d+)|(?:the (sum|difference) of )?(the number of .+))")

Name = tuple[str, str, str]  # what, in each of what or "", in which town


class Reading:
    """What a text asks and says.

    Attributes:
      asked: the quantity asked for.
      equals: what the text says of each quantity, in its order: (number, "more than" | "times" | "", "sum" | "difference" | "",
        names) or a number.
      unknown: the quantity that is said not to be known, if any.
    """

    def __init__(self, text: str):
        self.question, text = _ASKED.search(text)[0], text.lower()
        self.asked: Name = _names(self.question.lower())[0]
        self.equals: dict[Name, list] = {}
        self.unknown: Name | None = None
        for found in _SENTENCE.finditer(text):
            what, each, town, amount = found.groups(default="")
            if amount:
                self.equals.setdefault((what, each, town), []).append(_amount(amount))
            else:
                self.unknown = (what, each, town)
        self._rounds: dict[Name, float] = {}
        self.told = set(self.equals) | ({self.unknown} if self.unknown else set())

    def members(self, total: Name) -> list[tuple[Name, ...]]:
        """Returns the products that a total sums: containers one by one, or containers and what each holds."""
        what, each, town = total
        if what == "containers":
            return [(name,) for name in sorted(self.told) if name[1:] == ("", town) and name != total]
        return [((f"{name[1]}s", "", town), name) for name in sorted(self.told) if name[0] == what and name[1] and name[2] == town]

    def needs(self, name: Name) -> list[Name]:
        """Returns what a quantity follows from directly."""
        for amount in self.equals.get(name, ()):
            if not isinstance(amount, int):
                return amount[3]
        known = name == self.unknown or (name in self.equals and name[0] != "containers" and not self.is_total(name))
        return [] if known else [factor for product in self.members(name) for factor in product]

    def is_total(self, name: Name) -> bool:
        """Whether a quantity is a sum over what the text tells."""
        return name[0] == "containers" or (name[1] == "" and any(other[0] == name[0] and other[1] for other in self.told))

    def value(self, name: Name, x: int, known: dict[Name, int]) -> int:
        """Returns a quantity's value where the unknown one is x; `known` remembers values."""
        if name not in known:
            rules = [amount for amount in self.equals.get(name, ()) if not isinstance(amount, int)]
            if name == self.unknown:
                value = x
            elif rules:
                number, prefix, join, names = rules[0]
                values = [self.value(other, x, known) for other in names]
                value = values[0] - values[1] if join == "difference" else sum(values)
                value = value + number if prefix == "more than" else value * number if prefix == "times" else value
            elif self.is_total(name):
                value = 0
                for product in self.members(name):
                    part = 1
                    for factor in product:
                        part *= self.value(factor, x, known)
                    value += part
            else:
                value = self.equals[name][0]
            known[name] = value
        return known[name]

    @property
    def given(self) -> tuple[Name, int] | None:
        """What is told although it follows from other sentences, with its number; None where nothing is unknown."""
        if self.unknown is not None:
            for name, amounts in self.equals.items():
                numbers = [amount for amount in amounts if isinstance(amount, int)]
                if numbers and (len(amounts) > 1 or self.is_total(name)):
                    return name, numbers[0]
        return None

    def answer(self) -> int:
        """Returns the number asked for."""
        if self.given is None:
            return self.value(self.asked, 0, {})
        top, number = self.given
        # the top is a + b·x
        a, a_and_b = self.value(top, 0, {}), self.value(top, 1, {})
        x, rest = divmod(number - a, a_and_b - a)
        if rest or self.value(top, x, {}) != number:
            raise ValueError(f"{number} is not what {top} can be")
        return x

    def rounds(self, name: Name) -> float:
        """Returns after how many rounds a quantity's value is known, all that can be computed in a round being computed at once: 0 where it is told,
        infinity where it hangs on what is not known."""
        if name not in self._rounds:
            needs = self.needs(name)
            self._rounds[name] = math.inf if name == self.unknown else 1 + max(map(self.rounds, needs)) if needs else 0
        return self._rounds[name]

    def rounds_of_all(self, most: int) -> list[dict[Name, int]]:
        """Returns what is known after 0 … `most` rounds, worked out round by round."""
        known: dict[Name, int] = {}
        for name, amounts in self.equals.items():
            if not self.needs(name) and name != self.unknown:
                known[name] = amounts[0]
        rounds = [known]
        totals = {other for name in self.told for other in self.needs(name)} - self.told
        for _ in range(most):
            known = dict(rounds[-1])
            for name in self.told | totals:
                needs = self.needs(name)
                if needs and name not in known and all(need in rounds[-1] for need in needs):
                    known[name] = self.value(name, 0, dict(rounds[-1]))
            rounds.append(known)
        return rounds

    def core(self) -> list[Name]:
        """Returns the quantities that the answer follows from, in solving order."""
        order: dict[Name, None] = {}

        def visit(name: Name) -> None:
            if name not in order:
                for other in self.needs(name):
                    visit(other)
                order[name] = None

        visit(self.given[0] if self.given else self.asked)
        return list(order)

    def steps(self) -> list[str]:
        """Returns the quantities that the answer follows from, in solving order, each with its value."""
        x = self.answer() if self.given else 0
        return [f"{_written(name)}: {self.value(name, x, {})}" for name in self.core()]

    def instance(self) -> Hashable:
        """Returns the question and what the text says of the quantities that the answer follows from, whatever its order."""
        said = (
            (name, amount if isinstance(amount, int) else (*amount[:3], frozenset(amount[3])))
            for name in self.core()
            for amount in self.equals.get(name, ())
        )
        return self.asked, self.unknown, frozenset(said)


def sentences(words: list[str]) -> Iterator[tuple[Name, int]]:
    """Yields the quantity that each sentence is about, and where its full stop stands."""
    start = 0
    for at, word in enumerate(words):
        if word in ("?", "."):
            found = _SENTENCE.search(" ".join(words[start : at + 1]).replace(" .", ".").lower())
            if found:
                yield found.groups(default="")[:3], at
            start = at + 1


def spelt(name: Name) -> str:
    """Returns `number of jars in Ashford`."""
    return f"number of {_written(name)}"


def _written(name: Name) -> str:
    what, each, town = name
    return f"{what} in {f'each {each} in ' if each else ''}{town.capitalize()}"


def _names(text: str) -> list[Name]:
    """Returns the quantities named in a text."""
    return [found.groups(default="") for found in re.finditer(_NAME, text)]


def _amount(text: str):
    """Reads what stands behind `equals`."""
    number, prefix, alone, join, names = _AMOUNT.fullmatch(text).groups(default="")
    return int(alone) if alone else (int(number or 0), prefix, join, _names(names))
