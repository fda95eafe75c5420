"""Group: the product of a word of group elements. Depth with a tiny memory.

The word problem of a finite group (Barrington; Merrill, Petty and Sabharwal, The Illusion of State, arXiv 2404.08819). k random
elements are written one token each; the label of the query `?` is their product g1·g2·…·gk, g1 applied first:

    PAD … PAD g1 g2 … gk | ?          T = context + 1, the context being whole windows of L that sleep
    PAD … PAD g1 g2 … gk | ? g1·g2 …  `chain_of_thought=True`: the products on the way are written, each predicted at the token before it
    g1 g2 … gk                        `running=True`: what must be predicted at gi is g1·…·gi; nothing sleeps

In S5 (all 120 permutations of five things) and A5 (its 60 even ones) the word problem is complete for NC¹: no fixed number
of parallel steps is known to do. S4 (the 24 of S5 that leave the fifth thing in its place) is soluble, its order counts, and its table is learnt soonest.
In Z60 (adding modulo 60) order does not count, and counting is enough.
"""
import dataclasses
import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.group import arrays
from sleepnet.tasks.group.elements import CYCLIC, UNORDERED, spelling, table
from sleepnet.tasks.group.layout import ELEMENTS, LENGTH, Layout
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, belongs, empty_split, mix64_int
from sleepnet.tasks.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Layout):
    """Multiply k elements of a group. An answer group is one product, graded by `k`.

    Elements are the tokens from 1 on: permutations in the order of their spelling (the word `21345` swaps 1 and 2), or 0 … 59.
    An instance, of which no other split has the same, is the whole word; `running` answers its beginnings too, and the short
    ones among these do recur.
    """

    name: ClassVar[str] = "group"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k",)
    axis_words: ClassVar[Mapping[str, str]] = {"k": "k, elements of the word"}
    added: ClassVar[Mapping[str, Any]] = {"chain_of_thought": False, "spans": "doubling", "asked": None, "follow_passes": False}

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least, most = self.length_range
        k = philox.below(next(philox.stream(key, index, LENGTH)), int(self.lengths(key[1], index))) + (most if self.running else least)
        word = self._word(key, index, k)
        products = list(itertools.accumulate(word[-self.asked :] if self.asked else word, lambda a, b: int(table(self.group)[a, b])))
        if self.running:
            answers, difficulty = [at - least for at in range(1, most + 1)], list(range(least, most + 1))
            tokens, targets, mask, answer = word, products, [True] * most, [max(a, -1) for a in answers]
        else:
            context, said = self.context, products[1 if self.chain_of_thought else -1 :]
            rest = [-1] * (self.seq_len - context - len(said))
            tokens, targets = [-1] * (context - k) + word + [self.query - 1] + said[:-1] + rest, [-1] * context + said + rest
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
        most = self.length_range[1]
        for attempt in range(MAX_ATTEMPTS):
            words = itertools.islice(philox.stream(key, index, ELEMENTS, attempt), most - k, most)
            elements = [philox.below(word, self.size) for word in words]
            fingerprint = 0
            for element in elements:
                fingerprint = mix64_int(fingerprint ^ (element + 1))
            if belongs(fingerprint, key[1]):
                return elements
        raise empty_split(key[1])

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return arrays.batch(self, self._key(seed, split), self._indices(indices))

    # The steps of a solution.

    @property
    def chain_shape(self) -> tuple[int, int] | None:
        return None if self.running or self.chain_of_thought or self.asked or self.follow_passes else (self.length_range[1] - 1, 1)

    def chain(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The products of the first two, three, … k elements, each asked for by `?`."""
        if self.chain_shape is None:
            return super().chain(tokens)
        most = self.length_range[1]
        word_BxK = tokens[:, self.context - most : self.context]
        first_B = np.argmax(word_BxK != PAD, axis=1)
        at = np.minimum(first_B[:, None] + np.arange(1, most), most)  # the element that a step multiplies by; `most`: none is left
        said = np.where(at < most, np.take_along_axis(arrays.products(self.group, word_BxK), np.minimum(at, most - 1), 1), PAD)
        return np.where(said != PAD, self.query, PAD).astype(np.int32)[..., None], said.astype(np.int32)[..., None]

    # Steps of the computation.

    @property
    def follows_passes(self) -> bool:
        return self.follow_passes

    def at(self, passes: int) -> Task:
        return dataclasses.replace(self, asked=min(self.reach(min(passes - 1, 62)), self.length_range[1]), follow_passes=False) if self.follow_passes else self

    @property
    def most_steps(self) -> int | None:
        return 0 if self.running else None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        return arrays.steps_of(self, batch["tokens"], self._count_steps(most))

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        told, words = np.zeros((most + 1, len(tokens)), np.int32), tokens[: self.context].tolist()
        number = {self.token(token): token for token in range(self.vocab_size)}
        for step in range(most + 1):
            for place, token in enumerate(words):
                first = place // self.window * self.window
                behind = place + 1 - (2**step if self.spans == "doubling" else 1 + step)
                start = behind if behind > first else 0 if step else place
                at = list(range(5)) if self.group != "Z60" else 0
                for word in (self.token(t) for t in words[start : place + 1] if t != PAD):
                    at = (at + int(word)) % CYCLIC if self.group == "Z60" else [int(word[i]) - 1 for i in at]
                if token != PAD:
                    told[step, place] = number[str(at) if self.group == "Z60" else "".join(str(i + 1) for i in at)]
            if not self.chain_of_thought:
                told[step, self.context] = told[step, self.context - 1]
        return told

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        products, at = [], list(range(5)) if self.group != "Z60" else 0
        number = {self.token(token): token for token in range(self.vocab_size)}
        for word in self._spelled(tokens)[-self.asked if self.asked else 0 :]:
            # where each of five things lies, or what the sum is
            at = (at + int(word)) % CYCLIC if self.group == "Z60" else [int(word[place]) - 1 for place in at]
            products.append(number[str(at) if self.group == "Z60" else "".join(str(place + 1) for place in at)])
        said = products if self.running else products[1:] if self.chain_of_thought else products[-1:]
        start = 0 if self.running else tokens.tolist().index(self.query)
        return np.array([PAD] * start + said + [PAD] * (len(tokens) - start - len(said)), np.int32)

    def _spelled(self, tokens: np.ndarray) -> list[str]:
        """Returns the elements of the word, up to the query."""
        before = itertools.takewhile(lambda token: token != self.query, tokens.tolist())
        return [self.token(token) for token in before if token != PAD]

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        before = itertools.takewhile(lambda token: token != self.query, tokens.tolist())
        return {tuple(token for token in before if token != PAD)}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        least, most = self.multiplied
        return {
            name: {"meaning": meaning, **score, "by": {"k": {k: score for k in range(least, most + 1)}}}
            for name, meaning, chosen in (
                ("chance", "Any element, alike.", 1 / self.size),
                ("constant", "One element, always: all are alike.", 1 / self.size),
                ("last", "The last element of the word.", 1 / self.size),
                ("unordered", "Any element that agrees with the product but for the order of the factors (in S5 and S4: of its sign).", 1 / UNORDERED[self.group]),
            )
            # one element alone is its own product
            for right in [1.0 if most == 1 and name in ("last", "unordered") else chosen]
            for score in [{"label": right, "exact": right}]
        }

    # For readers.

    def token(self, number: int) -> str:
        return "PAD" if number == PAD else "?" if number == self.query else spelling(self.group)[number - 1]

    def explain(self) -> str:
        least, most = self.length_range
        elements = {
            "S5": "the 120 permutations of 1 … 5 (23145 takes 1 to 2, 2 to 3 and 3 to 1)",
            "A5": "the 60 even permutations of 1 … 5 (23145 takes 1 to 2, 2 to 3 and 3 to 1)",
            "S4": "the 24 permutations of 1 … 5 that leave 5 in its place (23145 takes 1 to 2, 2 to 3 and 3 to 1)",
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
