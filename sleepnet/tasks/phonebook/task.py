"""A phone book: ten digits for a name. To be known by heart, a random book or one long string; or a fresh one, to be looked up.

After Parametric Memory Law and MemFT, arXiv 2605.30260: what does a model's capacity to memorise follow, where content is random
and so can't be guessed? An entry is a key of two names, a colon, digits. A question is an entry whose digits must be predicted:

    n7 s12 : 5 0 3 …                                        "book", "string": T = 2 + digits, windows of L that predict
             ^ at each place the next digit, the last at the last but one

    PAD … PAD entry … entry | … | n7 s12 : 5 0 3 …          "context", asleep: windows of L that sleep, then the question
    entry entry … entry n7 s12 : 5 0 3 …                    "context", awake: one window

The content of a book or a string is drawn from the argument `content`, so all splits ask for the same: nothing is held out, and
what is measured is recall. Validation and test go through the list, n examples being all of it; of training the seed decides the
order. All kinds have the same tokens and the same question, so a model that has learnt to look numbers up in fresh books knows
what is asked of it, and nothing of the content. Answers count as a model writes them itself: `python -m sleepnet.eval --own_chain`.
"""
import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import tell_rise, whole
from sleepnet.tasks.machinery.draws import first_distinct
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, empty_split, mix64_int
from sleepnet.tasks.phonebook import arrays, known
from sleepnet.tasks.phonebook.layout import ASKED, COLON, CONTENT, DIGITS, EPOCH, FIRST_NAME, KEYS, LIST, ZERO, Layout
from sleepnet.tasks.registry import register

Entry = tuple[int, list[int]]  # key, first name · names + surname; digits


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Phonebook(Layout):
    """Say the number of a name: by heart, or from a fresh book. One answer group, all digits, graded by `place` and by `alike`.

    `place` is 1 for the last entry of a fresh book, 2 for the one before it, …, and 0 by heart. `alike` is how many other entries share a name
    with the one asked for, down to a power of two. An instance of a fresh book, of which no other split has the same, is the set of its entries; of
    what is to be known by heart it is an entry, and all splits have the same.
    """

    name: ClassVar[str] = "phonebook"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("place", "alike")
    axis_words: ClassVar[Mapping[str, str]] = {"place": "entries back from the question", "alike": "other entries with one of the names"}
    reorders: ClassVar[tuple[str, ...]] = ("order", "share_rise")

    @property
    def thinks(self) -> bool:
        return self.digits > 1

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        if self.by_heart:
            listed, book, asked, place = [], self._content, self._entry(key, index), 0
        else:
            listed = book = self._fresh(key, index)
            asked = philox.below(next(philox.stream(key, index, ASKED)), self.entries)
            place = self.entries - asked
        tokens, targets = np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, PAD, np.int32)
        for first, entry in zip(self.places if listed else (), listed):
            text = self._write(*entry)
            tokens[first : first + len(text)] = text
        text = self._write(*book[asked])
        tokens[self.first_asked :] = text[:-1]
        targets[-self.digits :] = text[-self.digits :]
        name, surname = divmod(book[asked][0], self.names)
        alike = sum(name == a or surname == b for a, b in (divmod(other, self.names) for other, _ in book)) - 1
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets != PAD,
            "answer": np.where(targets != PAD, 0, -1).astype(np.int32),
            "difficulty": {"place": np.array([place], np.int32), "alike": np.array([1 << alike.bit_length() >> 1], np.int32)},
        }

    def _write(self, key: int, digits: list[int]) -> list[int]:
        """Returns an entry's tokens."""
        name, surname = divmod(key, self.names)
        return [FIRST_NAME + name, FIRST_NAME + self.names + surname, COLON, *(ZERO + digit for digit in digits)]

    @functools.cached_property
    def _content(self) -> list[Entry]:
        """The book that is to be known by heart."""
        key = (self.content, CONTENT)
        keys = first_distinct((philox.below(word, self.names**2) for word in philox.stream(key, 0, KEYS)), self.entries)
        return [(of, self._digits(philox.stream(key, entry, DIGITS))) for entry, of in enumerate(keys)]

    def _digits(self, words: Iterator[int]) -> list[int]:
        return [philox.below(next(words), 10) for _ in range(self.digits)]

    def _fresh(self, key: tuple[int, int], index: int) -> list[Entry]:
        """Returns the first book of the split that this example's words give."""
        for attempt in range(MAX_ATTEMPTS):
            words = philox.stream(key, index, DIGITS, attempt)
            keys = first_distinct((philox.below(word, self.names**2) for word in philox.stream(key, index, KEYS, attempt)), self.entries)
            book, fingerprint = [(of, self._digits(words)) for of in keys], 0
            for of, digits in book:
                fingerprint += functools.reduce(lambda mixed, digit: mix64_int(mixed ^ digit), digits, mix64_int(of))
            if belongs(mix64_int(fingerprint & philox.MASK64), key[1]):
                return book
        raise empty_split(key[1])

    def _entry(self, key: tuple[int, int], index: int) -> int:
        """Returns which entry the example asks for: in training the shuffled list, again and again, else the list as it is."""
        if key[1] != TRAIN:
            return index % self.entries
        share = int(self.shares(index))
        size, begin = self.in_use(share)
        epoch, place = divmod(index - begin, size)
        if self.order == "shuffled":
            place = _permutation(philox.stream(key, epoch, EPOCH, share), size)[place]
        return _permutation(philox.stream(key, 0, LIST), self.entries)[place]

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return arrays.batch(self, self._key(seed, split), self._indices(indices))

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        book = known.numbers(self.content, self.entries, self.digits, self.names) if self.by_heart else self._read(tokens[: self.first_asked])
        targets = np.full(self.seq_len, PAD, np.int32)
        targets[self.first_asked + 2 :] = [ZERO + int(digit) for digit in book[self._asked(tokens)]]
        return targets

    def _asked(self, tokens: np.ndarray) -> tuple[int, int]:
        """Returns the names asked for, from 0."""
        name, surname = tokens[self.first_asked : self.first_asked + 2].tolist()
        return name - FIRST_NAME, surname - FIRST_NAME - self.names

    def _read(self, tokens: np.ndarray) -> dict[tuple[int, int], str]:
        """Returns what a listed book says."""
        words, book = [self.token(token) for token in tokens.tolist() if token != PAD], {}
        for first in range(0, len(words), self.entry_tokens):
            name, surname, _, *digits = words[first : first + self.entry_tokens]
            book[int(name[1:]) - 1, int(surname[1:]) - 1] = "".join(digits)
        return book

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {self._asked(tokens)} if self.by_heart else {frozenset(self._read(tokens[: self.first_asked]).items())}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        n, digits, by_heart = self.entries, self.digits, self.by_heart
        scores = {"chance": ("Any digit, alike.", 0.1, 0.1**digits), "constant": ("One digit, always: all are alike.", 0.1, 0.1**digits)}
        if by_heart:
            number_NxD = arrays.content(self)[1]
            often = np.bincount(number_NxD.ravel(), minlength=10)
            digit = int(often.argmax())
            scores["constant"] = (f"The commonest digit, always: {digit}.", often[digit] / often.sum(), (number_NxD == digit).all(1).mean())
        if by_heart and n > 1:
            # how much of the other numbers each number has right
            agree = np.stack([np.bincount(column, minlength=10)[column] for column in number_NxD.T]).mean(0) / n
            _, times = np.unique(number_NxD, axis=0, return_counts=True)
            scores["one_number"] = ("One number of the book, always, the best of each kind.", agree.max(), times.max() / n)
        elif not by_heart:
            scores["in_context"] = ("Any number of the fresh book, alike.", 1 / n + (1 - 1 / n) / 10, 1 / n + (1 - 1 / n) * 0.1**digits)
        alike = np.unique(arrays.rounded(arrays.content_alike(self))) if by_heart else np.unique(arrays.rounded(np.arange(n)))
        places = [0] if by_heart else range(1, n + 1)
        found = {}
        for name, (meaning, label, exact) in scores.items():
            mean = {"label": float(label), "exact": float(exact)}
            by = {"place": dict.fromkeys(places, mean), "alike": dict.fromkeys(alike.tolist(), mean)}
            found[name] = {"meaning": meaning, **mean, "by": by}
        return found

    # For readers.

    def token(self, number: int) -> str:
        if number < FIRST_NAME:
            return "PAD" if number == PAD else ":" if number == COLON else str(number - ZERO)
        surname, name = divmod(number - FIRST_NAME, self.names)
        return f"{'ns'[surname]}{name + 1}"

    def explain(self) -> str:
        key = f"a key of two names out of {self.names} and {self.names}, a colon, {self.digits} random digit{'s' * (self.digits > 1)}"
        asks = f"The question is {'the' if self.entries == 1 else 'an'} entry, whose digits must be predicted, each at the token before it."
        if not self.by_heart:
            where = "in windows that sleep, none cut in two" if self.listed == "asleep" else "before the question in its window"
            return f"A fresh book in every example, to be looked up: {self.entries} entries, each {key}. They stand {where}. {asks}"
        what = f"A string to be known by heart: one entry, {key}" if self.kind == "string" else f"A book to be known by heart: {self.entries} entries, each {key}"
        epoch = "in another order each time" if self.order == "shuffled" else "in the same order each time"
        rise = tell_rise(self.share_rise).replace("the largest may grow", "another fifth of the shuffled list joins")
        presented = (
            f"Training goes through the list again and again, {epoch}{rise}; validation and test go through it as it is, {self.entries:,} examples being all of it."
        )
        return f"{what}: {self.bits:,.0f} bits, content {self.content}, whatever the seed and the split. {asks} {presented if self.entries > 1 else 'All examples are the same.'}"

    def narrate(self, example: Mapping[str, Any]) -> str:
        name, surname = (self.token(int(token)) for token in example["tokens"][self.first_asked : self.first_asked + 2])
        number = "".join(self.token(int(token)) for token in example["targets"][example["loss_mask"]])
        return f"The number of {name} {surname} is {number}."


def _permutation(words: Iterator[int], size: int) -> list[int]:
    """Returns a random permutation of 0..size-1: the places of `size` words, sorted by word."""
    drawn = [next(words) for _ in range(size)]
    return sorted(range(size), key=drawn.__getitem__)
