"""A stream of days: each tells facts, and afterwards they are asked for, in four ways. What is to be known once the text is gone?

After the continual learning of Behrouz et al., arXiv 2606.03979, whose streams are of text; the facts here are random, so none can be guessed. A day has F
facts, each a key and a value of digits. A key is two names or, of a link, a value of the day before:

    n5 n61 is 4 0 7 3      4 0 7 3 for n5 n61      note n5 n61 has 4 0 7 3          a fact, by one of three templates
    ask n5 n61 4 0 7 3 END                                                          asked: the value
    about n5 n61 give 4 0 7 3 END                                                   paraphrased
    whose 4 0 7 3 n5 n61 END                                                        reversed: the key
    twice n5 n61 9 9 1 2 END                                                        two hops: the value of the link whose key is the value of n5 n61

Each word of an answer, and END, is predicted at the word before it. A day's text is its facts in an order of their own, in windows that sleep; the questions
stand in a window that predicts, the first at its start. In training the words of an asked key have labels too, so that a model learns what to recall.

"fresh" days are new in every example, endlessly: with them a model learns the skill. A "stream" is one life, drawn from `content`: it is to be known by heart,
and a training example's day follows from its index. What the model reads before the questions is the text of all days, of its own day, or nothing.
"""
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.days import arrays, known
from sleepnet.tasks.days.layout import (
    ABOUT, ASK, ASKED, CONTENT, END, FOR, GIVE, HAS, IS, KEYS, KINDS, NAME, NOTE, ORDER, REPLAY, TEMPLATE, TEMPLATES, TURN, TWICE, VALUES, WHOSE, ZERO, Layout,
)  # fmt: skip
from sleepnet.tasks.machinery import philox, turns
from sleepnet.tasks.machinery.arguments import whole
from sleepnet.tasks.machinery.draws import first_distinct
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, empty_split, mix64_int
from sleepnet.tasks.registry import register

_WORDS = ("PAD", "END", "ask", "about", "give", "whose", "twice", "is", "for", "note", "has")
_MARKERS = {"ask": "asked", "about": "paraphrased", "whose": "reversed", "twice": "two_hop"}

Fact = tuple[int, int]  # key: first name · names + second, or names² + a value; value
Words = list[int]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Days(Layout):
    """Say what a day told. One answer group a question, graded by `day`, from 1, and by `question`: 0 asked, 1 paraphrased, 2 reversed, 3 two hops.

    Validation and test of a stream go through the questions of each day, the days taking turns: of every kind there are as many. The links of the first
    day have values of the last for keys, so two hops from there can be made once all days are told. An instance of fresh days, of which no other split has
    the same, is the set of their facts.
    """

    name: ClassVar[str] = "days"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("day", "question")
    axis_words: ClassVar[Mapping[str, str]] = {"day": "the day that told it", "question": "asked, paraphrased, reversed, two hops"}
    reorders: ClassVar[tuple[str, ...]] = ("order", "replay", "kept")

    @property
    def thinks(self) -> bool:
        return True

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        if self.by_heart:
            days, (today, number) = self._life, turns.turn_of(self, key, index, turn=TURN, replay=REPLAY)
        else:
            days, today, number = self._fresh(key, index), None, index
        tokens, targets, answer = np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, -1, np.int32)
        told = {"all": range(self.days), "today": [today], "nothing": []}[self.told]
        for at, day in enumerate(told):
            order = turns.permutation(philox.stream(key, number, ORDER, day), self.facts)
            templates = philox.stream(key, number, TEMPLATE, day)
            for place, fact in zip(self.places + at * self.day_tokens, order):
                text = self._told(philox.below(next(templates), TEMPLATES), *days[day][fact])
                tokens[place : place + len(text)] = text
        asked = self._asked(key, number, today)
        for group, (day, kind, fact) in enumerate(asked):
            asks, answers = self._question(days, day, kind, fact)
            at, first = self.first_asked + group * self.question_tokens, len(asks)
            words = asks + answers
            tokens[at : at + len(words)] = words
            labelled = 0 if key[1] == TRAIN and kind == "asked" else first - 1
            targets[at + labelled : at + len(words)] = [*words[labelled + 1 :], END]
            answer[at + first - 1 : at + len(words) - 1] = group
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets != PAD,
            "answer": answer,
            "difficulty": {
                "day": np.array([day + 1 for day, _, _ in asked], np.int32),
                "question": np.array([KINDS.index(kind) for _, kind, _ in asked], np.int32),
            },
        }

    def _key_words(self, key: int) -> Words:
        names = self.names
        return [NAME + key // names, NAME + key % names] if key < names**2 else self._value_words(key - names**2)

    def _value_words(self, value: int) -> Words:
        return [ZERO + int(digit) for digit in f"{value:0{self.digits}d}"]

    def _told(self, template: int, key: int, value: int) -> Words:
        key, value = self._key_words(key), self._value_words(value)
        return [[*key, IS, *value], [*value, FOR, *key], [NOTE, *key, HAS, *value]][template]

    def _question(self, days: list[list[Fact]], day: int, kind: str, fact: int) -> tuple[Words, Words]:
        """Returns the words of a question and of its answer."""
        key, value = days[day][fact]
        key, value = self._key_words(key), self._value_words(value)
        if kind == "two_hop":
            key = self._key_words(days[(day - 1) % self.days][fact - self.named][0])
        return {"asked": ([ASK, *key], value), "paraphrased": ([ABOUT, *key, GIVE], value), "reversed": ([WHOSE, *value], key), "two_hop": ([TWICE, *key], value)}[kind]

    @functools.cached_property
    def _life(self) -> list[list[Fact]]:
        return self._world((self.content, CONTENT), 0, 0)

    def _world(self, key: tuple[int, int], index: int, attempt: int) -> list[list[Fact]]:
        """Returns the facts of each day, those with names first."""
        F, D = self.facts, self.days
        draw = lambda stream, bound: first_distinct((philox.below(word, bound) for word in philox.stream(key, index, stream, attempt)), D * F)
        keys, values = draw(KEYS, self.names**2), draw(VALUES, 10**self.digits)
        of = lambda day, fact: keys[day * F + fact] if fact < self.named else self.names**2 + values[(day - 1) % D * F + fact - self.named]
        return [[(of(day, fact), values[day * F + fact]) for fact in range(F)] for day in range(D)]

    def _fresh(self, key: tuple[int, int], index: int) -> list[list[Fact]]:
        """Returns the first days of the split that this example's words give."""
        for attempt in range(MAX_ATTEMPTS):
            days = self._world(key, index, attempt)
            fingerprint = sum(mix64_int(mix64_int(of) ^ value) for day in days for of, value in day)
            if belongs(mix64_int(fingerprint & philox.MASK64), key[1]):
                return days
        raise empty_split(key[1])

    def _asked(self, key: tuple[int, int], number: int, today: int | None) -> list[tuple[int, str, int]]:
        """Returns (day, kind, fact) of each question."""
        asked, words = [], philox.stream(key, number, ASKED)
        for group in range(self.questions):
            drawn, nth = [next(words) for _ in range(3)], number // self.days * self.questions + group
            systematic = today is not None and key[1] != TRAIN
            kind = self.asks[nth % len(self.asks) if systematic else philox.below(drawn[0], len(self.asks))]
            first, many = self.of_kind(kind)
            fact = first + (nth // len(self.asks) % many if systematic else philox.below(drawn[1], many))
            asked.append((philox.below(drawn[2], self.days) if today is None else today, kind, fact))
        return asked

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return arrays.batch(self, self._key(seed, split), self._indices(indices))

    # What a night is made of: how days are recalled, and another day to be told.

    ask: ClassVar[int] = ASK
    about: ClassVar[int] = ABOUT
    give: ClassVar[int] = GIVE
    end: ClassVar[int] = END

    @functools.cached_property
    def recalled(self) -> np.ndarray:
        """What follows on `ask` of each fact of a stream, END behind it: int32 [D, F, question_tokens − 1], PAD behind the shorter ones."""
        return arrays.recalled(self)

    def key_length(self, first: Any) -> Any:
        """How many words a key has that begins with these; of NumPy's or JAX's arrays."""
        return 2 + (first < NAME).astype(first.dtype) * (self.digits - 2)

    def renamed(self, text: Any, digit: Callable[[Any], Any], name: Callable[[Any], Any]) -> Any:
        """The text with each digit and each name another one: functions of their numbers, from 0, that keep them apart. Of NumPy's or JAX's arrays."""
        of_digits, of_names = (mask.astype(text.dtype) for mask in ((text >= ZERO) & (text < NAME), text >= NAME))
        return text + of_digits * (ZERO + digit(text - ZERO) - text) + of_names * (NAME + name(text - NAME) - text)

    def another(self, text: Any) -> Any:
        """The text of another day: each name and each digit turned half round, the same one everywhere. Of NumPy's or JAX's arrays."""
        turned = lambda many: lambda number: (number + (many + 1) // 2) % many
        return self.renamed(text, turned(10), turned(self.names))

    def questions_of(self, kinds: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All true questions of each day of a stream, of these kinds in turn, each as a window has it that begins with it, and its labels: int32 [D, Q, T] each."""
        asked = dataclasses.replace(self, told="nothing", asks=tuple(kinds), questions=1)
        many = len(kinds) * self.facts
        batch = asked.batch_at(0, "test", np.arange(self.days * many))
        by_day = lambda array: array.reshape(many, self.days, -1).swapaxes(0, 1)
        return by_day(batch["tokens"]), by_day(batch["targets"])

    # The solver reads words, or knows a stream by heart.

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        book = {key: value for day in self._known(tokens) for key, value in day.items()}
        whose = {value: key for key, value in book.items() if key[0].startswith("n")}
        targets = np.full(self.seq_len, PAD, np.int32)
        for at in range(self.first_asked, self.seq_len, self.question_tokens):
            words = [self.token(token) for token in tokens[at : at + self.question_tokens].tolist() if token != PAD]
            marker, keyed, said = words[0], 3 if len(words) > 2 and words[1].startswith("n") else 1 + self.digits, []
            if marker == "ask":
                said = book[tuple(words[1:keyed])]
            elif marker == "about":
                said, keyed = book[tuple(words[1:keyed])], keyed + 1
            elif marker == "whose":
                said = whose["".join(words[1:keyed])]
            elif marker == "twice":
                said = book[tuple(book[tuple(words[1:keyed])])]
            numbers = [self._number(word) for word in said]
            targets[at + keyed - 1 : at + keyed + len(numbers)] = [*numbers, END]
            if marker == "ask":
                targets[at : at + keyed - 1] = tokens[at + 1 : at + keyed]
        return targets

    def _known(self, tokens: np.ndarray) -> list[known.Day]:
        if self.by_heart:
            return known.life(self.content, self.days, self.facts, self.links, self.names, self.digits)
        return self._read(tokens[: self.first_asked])

    def _read(self, tokens: np.ndarray) -> list[known.Day]:
        """Returns what the text of days says."""
        days = []
        for start in range(0, len(tokens), self.day_tokens):
            book: known.Day = {}
            for window in range(start, start + self.day_tokens, self.window):
                for at in range(window, window + self.window - self.fact_tokens + 1, self.fact_tokens):
                    words = [self.token(token) for token in tokens[at : at + self.fact_tokens].tolist() if token != PAD]
                    if not words:
                        continue
                    if words[0] == "note":
                        cut = words.index("has")
                        key, value = words[1:cut], words[cut + 1 :]
                    elif "is" in words:
                        cut = words.index("is")
                        key, value = words[:cut], words[cut + 1 :]
                    else:
                        cut = words.index("for")
                        value, key = words[:cut], words[cut + 1 :]
                    book[tuple(key)] = "".join(value)
            days.append(book)
        return days

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        if not self.by_heart:
            return {frozenset(item for day in self._read(tokens[: self.first_asked]) for item in day.items())}
        slots = (tokens[at : at + self.question_tokens] for at in range(self.first_asked, self.seq_len, self.question_tokens))
        return {tuple(slot.tolist()) for slot in slots}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        n, names, length = self.days * self.facts, self.names, self.digits
        chance = lambda kind: (1 / names, names**-2.0) if kind == "reversed" else (0.1, 0.1**length)
        among = lambda kind, label, exact: (lambda rest: (1 / rest + (1 - 1 / rest) * label, 1 / rest + (1 - 1 / rest) * exact))(self.days * self.named if kind == "reversed" else n)
        found = {
            "chance": ("Any digit, or name, alike.", chance),
            "constant": ("One digit, or name, always: all are alike.", chance),
            "told": ("Any value, or key of names, of all days, alike.", lambda kind: among(kind, *chance(kind))),
        }
        return {name: {"meaning": meaning, **self._scores({KINDS.index(kind): score(kind) for kind in self.asks})} for name, (meaning, score) in found.items()}

    def _scores(self, by: dict[int, tuple[float, float]]) -> dict[str, Any]:
        mean = {metric: sum(score[place] for score in by.values()) / len(by) for place, metric in enumerate(("label", "exact"))}
        kinds = {kind: {"label": label, "exact": exact} for kind, (label, exact) in by.items()}
        return {**mean, "by": {"day": dict.fromkeys(range(1, self.days + 1), mean), "question": kinds}}

    # For readers.

    def token(self, number: int) -> str:
        return _WORDS[number] if number < ZERO else str(number - ZERO) if number < NAME else f"n{number - NAME + 1}"

    def _number(self, word: str) -> int:
        return NAME + int(word[1:]) - 1 if word.startswith("n") else ZERO + int(word)

    def explain(self) -> str:
        links = f", of {self.links} of them a value of the day before" if self.links else ""
        what = f"a key of two names out of {self.names}{links}, and a value of {self.digits} random digits. No two have the same key or value."
        asks = f"The questions are {', '.join(self.asks)}, all equally often" if len(self.asks) > 1 else f"All questions are {self.asks[0]}"
        if not self.by_heart:
            return f"{self.days} fresh day{'s' * (self.days > 1)} in every example: {self.facts} facts each, {what} The text of all stands before the questions, in windows that sleep. {asks}."
        told = {"all": "the text of all days", "today": "the text of the day that they are about", "nothing": "nothing at all"}[self.told]
        order = {"given": "one day after the other", "shuffled": "one day after the other, in an order that the seed draws", "mixed": "the days taking turns"}[self.order]
        replay = f", but {self.replay} % of the examples are one of the first {self.kept} of a day before" if self.replay else ""
        return (
            f"A life of {self.days} days, content {self.content}, whatever the seed and the split: {self.facts} facts each, {what} Before the questions stands {told}. {asks}. "
            f"Training has {self.per_day:,} examples a day, {order}{replay}; validation and test go through all questions of each day."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        lines = []
        for group, at in enumerate(range(self.first_asked, self.seq_len, self.question_tokens)):
            words = [self.token(int(token)) for token in example["tokens"][at : at + self.question_tokens] if token != PAD]
            graded = [self.token(int(token)) for token in example["targets"][example["answer"] == group]]
            lines.append(f"Question {group + 1}, {_MARKERS[words[0]]}, day {int(example['difficulty']['day'][group])}: {' '.join(words[: -len(graded)])} → {' '.join(graded)}.")
        return "\n".join(lines)
