"""Group: the product of a word of group elements. Depth with a tiny memory.

The word problem of a finite group (Barrington; Merrill, Petty and Sabharwal, The Illusion of State, arXiv 2404.08819). k random
elements are written one token each; the label of the query `?` is their product g1·g2·…·gk, g1 applied first:

    PAD … PAD g1 g2 … gk | ?          T = context + 1, the context being whole windows of L that sleep
    PAD … PAD g1 g2 … gk | ? g1·g2 …  `chain_of_thought=True`: the products on the way are written, each predicted at the token before it
    g1 g2 … gk                        `running=True`: what must be predicted at gi is g1·…·gi; nothing sleeps

In S5 (all 120 permutations of five things) and A5 (its 60 even ones) the word problem is complete for NC¹: no fixed number
of parallel steps is known to do. In Z60 (adding modulo 60) order does not count, and counting is enough.
"""
import dataclasses
import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, span, tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register

_LENGTH, _ELEMENTS = range(2)  # streams
_GROUPS, _SPANS = ("S5", "A5", "Z60"), ("doubling", "growing")
_CYCLIC = 60
_SHORTEST = 2  # one element alone is no product, and gives too few words to hold some out


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Task):
    """Multiply k elements of a group. An answer group is one product, graded by `k`.

    Elements are the tokens from 1 on: permutations in the order of their spelling (the word `21345` swaps 1 and 2), or 0 … 59.
    An instance, of which no other split has the same, is the whole word; `running` answers its beginnings too, and the short
    ones among these do recur.

    Attributes:
      group: "S5", "A5" or "Z60".
      length: k: a number, or (least, most), drawn uniformly per example. With `running` words have the most, and products of
        fewer than the least are learned but not graded.
      chain_of_thought: write g1·g2, g1·g2·g3, … after the query, before the answer: learned, not graded. A word of k has k − 1 labels.
      running: ask for the product so far at every element instead of once after the sleep.
      length_rise: training examples before the largest k drawn grows by one, for each of the last growths up to `length[1]`;
        empty: the whole range throughout. A curriculum over the order of the training examples alone.
      window: L; None: the longest word.
      spans: what a step of the computation holds at each element: the product of the 2^j elements that end there (`doubling`, a parallel scan, log k
        steps that look ever further back), or of the j + 1 (`growing`, k − 1 steps that look back by one).
      asked: the label is the product of so many of the word's last elements; None: of all. Words have one length then, and k is `asked`.
      follow_passes: `asked` is as many as the steps of whoever sleeps reach, `at`: the last N of `growing` spans. Where no N is known, all.
    """

    name: ClassVar[str] = "group"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k",)
    axis_words: ClassVar[Mapping[str, str]] = {"k": "k, elements of the word"}
    added: ClassVar[Mapping[str, Any]] = {"chain_of_thought": False, "spans": "doubling", "asked": None, "follow_passes": False}

    group: str = "S5"
    length: int | tuple[int, int] = (2, 20)
    chain_of_thought: bool = False
    running: bool = False
    length_rise: tuple[int, ...] = ()
    window: int | None = None
    spans: str = "doubling"
    asked: int | None = None
    follow_passes: bool = False

    def __post_init__(self) -> None:
        choice("group", self.group, _GROUPS)
        choice("spans", self.spans, _SPANS)
        least, most = span("length", self.length, _SHORTEST)
        for key in ("running", "chain_of_thought", "follow_passes"):
            require(isinstance(getattr(self, key), bool), f"{key}={getattr(self, key)!r} must be True or False")
        require(not (self.running and self.chain_of_thought), "chain_of_thought needs running=False: running words ask for every product already")
        rise = rising("length_rise", self.length_rise, most - least + 1)
        require(not (rise and self.running), "length_rise needs running=False: running words have all one length")
        if self.asked is not None or self.follow_passes:
            key = "follow_passes" if self.follow_passes else "asked"
            alone = least == most and not (self.running or self.chain_of_thought)
            require(alone, f"{key}={getattr(self, key)!r} asks for a product of a word's last elements: use one length, running=False and chain_of_thought=False")
            require(self.asked is None or not self.follow_passes, f"follow_passes=True lets the passes say how many elements are multiplied, which asked={self.asked!r} says too: leave out one")
            require(self.asked is None or whole("asked", self.asked, 1) <= most, f"asked={self.asked!r} is more than the {most} elements of a word")
        window = whole("window", most if self.window is None else self.window, 1)
        windows = -(-most // window)
        tail = most - 1 if self.chain_of_thought else 1
        predicts = (True,) * windows if self.running else (False,) * windows + (True,) * -(-tail // window)
        self._set(
            length=most if least == most else (least, most), length_rise=rise, window=window, predicts=predicts,
            vocab_size=self._size + 2, seq_len=most if self.running else windows * window + tail,
            answers=most - least + 1 if self.running else 1,
        )
        self._check_splits(self._size**least)

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) elements."""
        return self.length if isinstance(self.length, tuple) else (self.length, self.length)

    @property
    def _multiplied(self) -> tuple[int, int]:
        """(least, most) elements that an answer is the product of."""
        return self._range if self.asked is None else (self.asked, self.asked)

    @property
    def _size(self) -> int:
        """How many elements the group has."""
        return {"S5": 120, "A5": 60, "Z60": _CYCLIC}[self.group]

    @property
    def _context(self) -> int:
        """Tokens of the word, padding included."""
        return self.seq_len if self.running else self.predicts.count(False) * self.window

    @property
    def _query(self) -> int:
        """The token `?`."""
        return self._size + 1

    def lengths(self, split: int, index: Any) -> Any:
        """Returns how many values of k the example at `index` is drawn from (a number or an array)."""
        least, most = self._range
        if self.running:
            return 1
        return risen(self.length_rise, most - least + 1, index) if split == TRAIN else most - least + 1

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least, most = self._range
        k = philox.below(next(philox.stream(key, index, _LENGTH)), int(self.lengths(key[1], index))) + (most if self.running else least)
        word = self._word(key, index, k)
        products = list(itertools.accumulate(word[-self.asked :] if self.asked else word, lambda a, b: int(_table(self.group)[a, b])))
        if self.running:
            answers, difficulty = [at - least for at in range(1, most + 1)], list(range(least, most + 1))
            tokens, targets, mask, answer = word, products, [True] * most, [max(a, -1) for a in answers]
        else:
            context, said = self._context, products[1 if self.chain_of_thought else -1 :]
            rest = [-1] * (self.seq_len - context - len(said))
            tokens, targets = [-1] * (context - k) + word + [self._query - 1] + said[:-1] + rest, [-1] * context + said + rest
            mask, answer, difficulty = [target >= 0 for target in targets], [-1] * (context + len(said) - 1) + [0] + rest, [self.asked or k]
        return {
            "tokens": np.array(tokens, np.int32) + np.int32(1),
            "targets": np.array(targets, np.int32) + np.int32(1),
            "loss_mask": np.array(mask),
            "answer": np.array(answer, np.int32),
            "difficulty": {"k": np.array(difficulty, np.int32)},
        }

    def _word(self, key: tuple[int, int], index: int, k: int) -> list[int]:
        """Returns the first word of the split that this example's words give: the numbers of its elements."""
        most = self._range[1]
        for attempt in range(MAX_ATTEMPTS):
            words = itertools.islice(philox.stream(key, index, _ELEMENTS, attempt), most - k, most)
            elements = [philox.below(word, self._size) for word in words]
            fingerprint = 0
            for element in elements:
                fingerprint = mix64_int(fingerprint ^ (element + 1))
            if belongs(fingerprint, key[1]):
                return elements
        raise empty_split(key[1])

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        B, (least, most) = len(index), self._range
        k = np.full(B, most if self.running else least)
        if most > least and not self.running:
            lengths = np.broadcast_to(self.lengths(key[1], index.astype(np.int64)), B).astype(np.uint64)
            k += philox.multiply_high(philox.words(key, index, _LENGTH, 0, 1)[:, 0], lengths).astype(np.int64)
        word_BxK = self._words(key, index, k)
        tokens = np.full((B, self.seq_len), PAD, np.int32)
        tokens[:, self._context - most : self._context] = word_BxK
        targets, answer = np.full((B, self.seq_len), PAD, np.int32), np.full((B, self.seq_len), -1, np.int32)

        multiplied = np.arange(most) >= most - (self.asked or most)
        k = np.full(B, self.asked) if self.asked else k
        product_BxK = self._products(np.where(multiplied, word_BxK, PAD))
        if self.running:
            targets[:] = product_BxK
            answer[:, least - 1 :] = np.arange(most - least + 1)
            k = np.broadcast_to(np.arange(least, most + 1), (B, self.answers))
        else:
            at = (most - k + 1 if self.chain_of_thought else np.full(B, most - 1))[:, None] + np.arange(self.seq_len - self._context)
            said = np.where(at < most, np.take_along_axis(product_BxK, np.minimum(at, most - 1), 1), PAD)
            tokens[:, self._context], tokens[:, self._context + 1 :] = self._query, np.where(at < most - 1, said, PAD)[:, :-1]
            targets[:, self._context :], answer[:, self._context :] = said, np.where(at == most - 1, 0, -1)
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets > PAD,
            "answer": answer,
            "difficulty": {"k": k.reshape(B, self.answers).astype(np.int32)},
        }

    # The steps of a solution.

    @property
    def chain_shape(self) -> tuple[int, int] | None:
        return None if self.running or self.chain_of_thought or self.asked or self.follow_passes else (self._range[1] - 1, 1)

    def chain(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The products of the first two, three, … k elements, each asked for by `?`."""
        if self.chain_shape is None:
            return super().chain(tokens)
        most = self._range[1]
        word_BxK = tokens[:, self._context - most : self._context]
        first_B = np.argmax(word_BxK != PAD, axis=1)
        at = np.minimum(first_B[:, None] + np.arange(1, most), most)  # the element that a step multiplies by; `most`: none is left
        said = np.where(at < most, np.take_along_axis(self._products(word_BxK), np.minimum(at, most - 1), 1), PAD)
        return np.where(said != PAD, self._query, PAD).astype(np.int32)[..., None], said.astype(np.int32)[..., None]

    def _products(self, word_BxK: np.ndarray) -> np.ndarray:
        """The tokens of the products up to each element, int64 [B, K]; PAD multiplies as the neutral element."""
        table, product, product_BxK = _times(self.group), np.zeros(len(word_BxK), np.int64), np.empty(word_BxK.shape, np.int64)
        for place in range(word_BxK.shape[1]):
            product_BxK[:, place] = product = table[product, word_BxK[:, place]]
        return product_BxK

    def _words(self, key: tuple[int, int], index: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Returns the words' tokens, padded on the left: int64 [B, most]."""
        most = self._range[1]

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            words = philox.words(key, index[row], _ELEMENTS, attempt, most)
            tokens = 1 + philox.multiply_high(words, np.uint64(self._size))
            tokens[np.arange(most) < most - k[row][:, None]] = PAD
            fingerprint = np.zeros(len(row), np.uint64)
            for column in tokens.T:
                fingerprint = np.where(column == PAD, fingerprint, mix64(fingerprint ^ column))
            return tokens[:, None].astype(np.int64), fingerprint[:, None]

        return draw_members(propose, len(index), key[1], most)[:, 0]

    # Steps of the computation: spans that double, as a parallel scan has them, or grow by one. A span that reaches its window's start takes all before it along.

    @property
    def follows_passes(self) -> bool:
        return self.follow_passes

    def at(self, passes: int) -> Task:
        return dataclasses.replace(self, asked=min(self._reach(min(passes - 1, 62)), self._range[1]), follow_passes=False) if self.follow_passes else self

    @property
    def most_steps(self) -> int | None:
        return 0 if self.running else None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        self._count_steps(most)
        word, table = batch["tokens"][:, : self._context].astype(np.int64), _times(self.group)
        within = np.arange(self._context) % self.window
        told, whole_word = np.zeros((len(word), most + 1, self.seq_len), np.int32), self._products(word)
        span = word  # of each place the product of the elements that end there and this step reaches
        for step in range(most + 1):
            reach = self._reach(min(step, 62))
            if step and reach <= self.window:
                further = reach - self._reach(step - 1)
                earlier = np.pad(span, ((0, 0), (further, 0)))[:, : self._context]
                span = table[earlier, span if self.spans == "doubling" else word]  # across a window's start only where `whole_word` takes its place below
            held = np.where((within < reach) & (step > 0), whole_word, span)
            told[:, step, : self._context] = np.where(word == PAD, PAD, held)
            if not self.chain_of_thought:
                told[:, step, self._context] = held[:, -1]
        return told

    def _reach(self, step: int) -> int:
        """How many elements a step's spans have."""
        return 1 << step if self.spans == "doubling" else step + 1

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        told, words = np.zeros((most + 1, len(tokens)), np.int32), tokens[: self._context].tolist()
        number = {self.token(token): token for token in range(self.vocab_size)}
        for step in range(most + 1):
            for place, token in enumerate(words):
                first = place // self.window * self.window
                behind = place + 1 - (2**step if self.spans == "doubling" else 1 + step)
                start = behind if behind > first else 0 if step else place
                at = list(range(5)) if self.group != "Z60" else 0
                for word in (self.token(t) for t in words[start : place + 1] if t != PAD):
                    at = (at + int(word)) % _CYCLIC if self.group == "Z60" else [int(word[i]) - 1 for i in at]
                if token != PAD:
                    told[step, place] = number[str(at) if self.group == "Z60" else "".join(str(i + 1) for i in at)]
            if not self.chain_of_thought:
                told[step, self._context] = told[step, self._context - 1]
        return told

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        products, at = [], list(range(5)) if self.group != "Z60" else 0
        number = {self.token(token): token for token in range(self.vocab_size)}
        for word in self._spelled(tokens)[-self.asked if self.asked else 0 :]:
            # where each of five things lies, or what the sum is
            at = (at + int(word)) % _CYCLIC if self.group == "Z60" else [int(word[place]) - 1 for place in at]
            products.append(number[str(at) if self.group == "Z60" else "".join(str(place + 1) for place in at)])
        said = products if self.running else products[1:] if self.chain_of_thought else products[-1:]
        start = 0 if self.running else tokens.tolist().index(self._query)
        return np.array([PAD] * start + said + [PAD] * (len(tokens) - start - len(said)), np.int32)

    def _spelled(self, tokens: np.ndarray) -> list[str]:
        """Returns the elements of the word, up to the query."""
        before = itertools.takewhile(lambda token: token != self._query, tokens.tolist())
        return [self.token(token) for token in before if token != PAD]

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        before = itertools.takewhile(lambda token: token != self._query, tokens.tolist())
        return {tuple(token for token in before if token != PAD)}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        least, most = self._multiplied
        # of the products that only the order of a word tells apart: S5 and A5 have A5's 60, Z60 has one
        unordered = 1 if self.group == "Z60" else 60
        return {
            name: {"meaning": meaning, **score, "by": {"k": {k: score for k in range(least, most + 1)}}}
            for name, meaning, chosen in (
                ("chance", "Any element, alike.", 1 / self._size),
                ("constant", "One element, always: all are alike.", 1 / self._size),
                ("last", "The last element of the word.", 1 / self._size),
                ("unordered", "Any element that agrees with the product but for the order of the factors (in S5: of its sign).", 1 / unordered),
            )
            # one element alone is its own product
            for right in [1.0 if most == 1 and name in ("last", "unordered") else chosen]
            for score in [{"label": right, "exact": right}]
        }

    # For readers.

    def token(self, number: int) -> str:
        return "PAD" if number == PAD else "?" if number == self._query else _spelling(self.group)[number - 1]

    def explain(self) -> str:
        least, most = self._range
        elements = {
            "S5": "the 120 permutations of 1 … 5 (23145 takes 1 to 2, 2 to 3 and 3 to 1)",
            "A5": "the 60 even permutations of 1 … 5 (23145 takes 1 to 2, 2 to 3 and 3 to 1)",
            "Z60": "the numbers 0 … 59, added modulo 60",
        }[self.group]
        if self.running:
            return (
                f"A word of {most} random elements of {self.group}, {elements}. At every element the product so far must be "
                f"predicted, the first applied first; products of {least} … {most} elements are graded. Nothing sleeps."
            )
        k = f"{most}" if least == most else f"k of {least} … {most}"
        asked = f"the product of the last {self.asked}" if self.asked else "their product"
        if self.follow_passes:
            asked = f"the product of the last {'N' if self.spans == 'growing' else '2^(N − 1)'}, N being the passes of the sleep (of all where no N is known)"
        return (
            f"A word of {k} random elements of {self.group}, {elements}, padded on the left; then one `?`, whose label is "
            f"{asked}, the first applied first{', after the products of the first two, three, … of them' * self.chain_of_thought}.{tell_rise(self.length_rise)}"
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        last = example["targets"][np.flatnonzero(example["loss_mask"])[-1]]
        elements = self._spelled(example["tokens"])
        before, multiplied = (elements[: -self.asked], elements[-self.asked :]) if self.asked else ([], elements)
        return f"{' '.join(before)}{' | ' * bool(before)}{' · '.join(multiplied)} = {self.token(int(last))}"


@functools.cache
def _spelling(group: str) -> tuple[str, ...]:
    """The elements' words, in their order."""
    if group == "Z60":
        return tuple(map(str, range(_CYCLIC)))
    return tuple("".join(str(image + 1) for image in p) for p in _permutations(group))


@functools.cache
def _permutations(group: str) -> tuple[tuple[int, ...], ...]:
    """The images of 0 … 4 under each permutation, in their order."""
    inversions = lambda p: sum(a > b for a, b in itertools.combinations(p, 2))
    return tuple(p for p in itertools.permutations(range(5)) if group == "S5" or inversions(p) % 2 == 0)


@functools.cache
def _table(group: str) -> np.ndarray:
    """The number of a·b, a applied first: int64 [elements, elements]."""
    if group == "Z60":
        return np.add.outer(np.arange(_CYCLIC), np.arange(_CYCLIC)) % _CYCLIC
    known = _permutations(group)
    number = {p: i for i, p in enumerate(known)}
    return np.array([[number[tuple(b[image] for image in a)] for b in known] for a in known])


@functools.cache
def _times(group: str) -> np.ndarray:
    """The token of a·b, by the tokens of a and b: int64 [1 + elements, 1 + elements]; PAD multiplies as the neutral element."""
    table = np.pad(_table(group) + 1, (1, 0))
    table[0], table[:, 0] = np.arange(len(table)), np.arange(len(table))
    return table
