"""MQAR, multi-query associative recall: which value stood beside this key? Memory without depth.

After Arora et al., Zoology, arXiv 2312.04927. The context lists n pairs `key value`; no key and no value comes twice. Then
come S = length/2 − pairs slots of two tokens. A query is a key in the first place of a slot; its label is the key's value:

    PAD … PAD  key value key value … | key ~ ~ ~ ~ ~ key ~ …     T = padding + length
    ^ whole windows of L that sleep  ^ 2·S tokens in windows that predict, the last maybe shorter

Slot x of 1 … S is asked with a probability ∝ x**(power − 1), one after the other, none twice: the gaps at which words
recur in text follow a power law. What is not asked (~) is a random token other than the example's keys, or PAD.
"""
import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, span, whole
from sleepnet.tasks.machinery.draws import counts, distinct, first_distinct
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register

_SIZE, _KEYS, _VALUES, _ASKED, _SLOTS, _NOISE = range(6)  # streams


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mqar(Task):
    """Recall the value beside a key, many times. One answer group per query, graded by the `gap` and by the number of `pairs`.

    `gap` is the x above, down to a power of two. Keys are the tokens from 1 below vocabulary // 2, values those from there on.
    An instance, of which no other split has the same, is the set of pairs: in whatever order, and whatever is asked.

    Attributes:
      vocabulary: V, PAD included.
      length: tokens of pairs and slots, without padding; even.
      pairs: n: a number, or (least, most), drawn uniformly per example.
      queries: how many keys are asked for; None: as many as there are pairs at least.
      power: a of the power law, 0 … 1; 1 is uniform.
      noise: what stands where nothing is asked: "random" or "pad".
      window: L, even; None: one window for all pairs and one for all slots, whichever is longer.
    """

    name: ClassVar[str] = "mqar"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("gap", "pairs")
    axis_words: ClassVar[Mapping[str, str]] = {"gap": "gap from pairs to query (slots)", "pairs": "key–value pairs"}

    vocabulary: int = 8192
    length: int = 64
    pairs: int | tuple[int, int] = 4
    queries: int | None = None
    power: float = 0.01
    noise: str = "random"
    window: int | None = None

    def __post_init__(self) -> None:
        V, length = whole("vocabulary", self.vocabulary, 4), whole("length", self.length, 4)
        least, most = span("pairs", self.pairs, 1)
        queries = whole("queries", least if self.queries is None else self.queries, 1, least)
        good = isinstance(self.power, (int, float)) and not isinstance(self.power, bool) and 0 <= self.power <= 1
        require(good, f"power={self.power!r} must be a number from 0 to 1")
        choice("noise", self.noise, ("random", "pad"))
        require(length % 2 == 0, f"length={length} must be even: pairs and slots have two tokens")
        require(most < V // 2, f"pairs={most} are more than the {V // 2 - 1} keys of vocabulary={V}; use vocabulary={2 * most + 2}")
        slots = length // 2 - most
        fix = f"use length={2 * (most + queries)}"
        require(slots >= queries, f"length={length} leaves {max(slots, 0)} slots after pairs={most} for queries={queries}; {fix}")
        window = whole("window", max(2 * most, 2 * slots) if self.window is None else self.window, 2)
        require(window % 2 == 0, f"window={window} would cut a pair; use window={window + 1}")
        context = -(-2 * most // window) * window
        self._set(
            vocabulary=V, length=length, pairs=most if least == most else (least, most), queries=queries, power=float(self.power),
            window=window, answers=queries, vocab_size=V, seq_len=context + 2 * slots,
            predicts=(False,) * (context // window) + (True,) * -(-2 * slots // window),
        )
        self._check_splits(math.comb(self._keys, least) * math.perm(V - self._first_value, least))

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) pairs."""
        return self.pairs if isinstance(self.pairs, tuple) else (self.pairs, self.pairs)

    @property
    def _first_value(self) -> int:
        """The first token that is a value."""
        return self.vocabulary // 2

    @property
    def _keys(self) -> int:
        """How many keys there are."""
        return self._first_value - 1

    @property
    def _slots(self) -> int:
        """S."""
        return self.length // 2 - self._range[1]

    @property
    def _context(self) -> int:
        """Tokens before the slots, padding included."""
        return self.seq_len - 2 * self._slots

    @functools.cached_property
    def _thresholds(self) -> list[int]:
        """The power law, cumulated, in units of 2**-53; without the last entry."""
        weights = [x ** (self.power - 1) for x in range(1, self._slots + 1)]
        total = math.fsum(weights)
        return [int(part / total * 2**53) for part in itertools.accumulate(weights)][:-1]

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least, most = self._range
        n = least + philox.below(next(philox.stream(key, index, _SIZE)), most - least + 1)
        pairs = self._pairs(key, index, n)

        # the keys are left out by stepping over them
        tokens, noise = [PAD] * (self._context - 2 * n) + [token for pair in pairs for token in pair], philox.stream(key, index, _NOISE)
        for _ in range(2 * self._slots):
            token = 1 + philox.below(next(noise), self.vocabulary - 1 - n)
            for taken, _ in sorted(pairs):
                token += token >= taken
            tokens.append(token if self.noise == "random" else PAD)
        targets, answer, gaps = [PAD] * self.seq_len, [-1] * self.seq_len, []
        drawn = (bisect.bisect_right(self._thresholds, word >> 11) for word in philox.stream(key, index, _SLOTS))
        words = list(itertools.islice(philox.stream(key, index, _ASKED), n))
        asked = sorted(range(n), key=words.__getitem__)
        for group, slot in enumerate(first_distinct(drawn, self.queries)):
            position = self._context + 2 * slot
            tokens[position], targets[position] = pairs[asked[group]]
            answer[position] = group
            gaps.append(1 << (slot + 1).bit_length() - 1)
        return {
            "tokens": np.array(tokens, np.int32),
            "targets": np.array(targets, np.int32),
            "loss_mask": np.array(answer) >= 0,
            "answer": np.array(answer, np.int32),
            "difficulty": {"gap": np.array(gaps, np.int32), "pairs": np.full(self.queries, n, np.int32)},
        }

    def _pairs(self, key: tuple[int, int], index: int, n: int) -> list[tuple[int, int]]:
        """Returns the first pairs of the split that this example's words give."""
        for attempt in range(MAX_ATTEMPTS):

            def draws(stream: int, first: int, count: int) -> Iterator[int]:
                return (first + philox.below(word, count) for word in philox.stream(key, index, stream, attempt))

            keys = first_distinct(draws(_KEYS, 1, self._keys), n)
            values = first_distinct(draws(_VALUES, self._first_value, self.vocabulary - self._first_value), n)
            pairs = list(zip(keys, values))
            if belongs(mix64_int(sum(mix64_int(k << 32 | v) for k, v in pairs) & philox.MASK64), key[1]):
                return pairs
        raise empty_split(key[1])

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        B, (least, most) = len(index), self._range
        n = counts(key, index, _SIZE, least, most)
        pairs_BxNx2, row = self._pairs_at(key, index, n), np.arange(B)[:, None]

        tokens = np.full((B, self.seq_len), PAD, np.int32)
        if self.noise == "random":
            words = philox.words(key, index, _NOISE, 0, 2 * self._slots)
            noise = 1 + philox.multiply_high(words, (self.vocabulary - 1 - n).astype(np.uint64)[:, None]).astype(np.int32)
            used = np.where(np.arange(most) < n[:, None], pairs_BxNx2[..., 0], self.vocabulary)
            for taken in np.sort(used, axis=1).T.astype(np.int32):
                noise += noise >= taken[:, None]
            tokens[:, self._context :] = noise
        # pairs stand at the right end of the context, so those of fewer start later
        place = np.arange(most) - n[:, None]
        r, c = np.nonzero(place < 0)
        for part in (0, 1):
            tokens[r, self._context + 2 * place[r, c] + part] = pairs_BxNx2[r, c, part]

        asked = philox.order(philox.words(key, index, _ASKED, 0, most), n)[:, : self.queries]
        slot = self._slots_at(key, index)
        position = self._context + 2 * slot
        tokens[row, position] = pairs_BxNx2[row, asked, 0]
        targets, answer = np.full((B, self.seq_len), PAD, np.int32), np.full((B, self.seq_len), -1, np.int32)
        targets[row, position] = pairs_BxNx2[row, asked, 1]
        answer[row, position] = np.arange(self.queries)
        _, exponent = np.frexp(slot + 1.0)
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": answer >= 0,
            "answer": answer,
            "difficulty": {"gap": (1 << exponent - 1).astype(np.int32), "pairs": np.repeat(n[:, None], self.queries, 1).astype(np.int32)},
        }

    def _pairs_at(self, key: tuple[int, int], index: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Returns keys and values: int64 [B, most, 2], of which the first n count."""
        most = self._range[1]

        def draw(row: np.ndarray, attempt: np.ndarray, stream: int, first: int, count: int) -> np.ndarray:
            def read(part: np.ndarray, draws: int) -> np.ndarray:
                words = philox.words(key, index[row[part]], stream, attempt[part], draws)
                return first + philox.multiply_high(words, np.uint64(count)).astype(np.int64)

            return distinct(read, n[row], most, most + most * most // count)

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            keys = draw(row, attempt, _KEYS, 1, self._keys)
            values = draw(row, attempt, _VALUES, self._first_value, self.vocabulary - self._first_value)
            pair = mix64((keys << 32 | values).astype(np.uint64)) * (np.arange(most) < n[row][:, None])
            # a sum over pairs is the same in any order
            return np.stack([keys, values], -1)[:, None], mix64(pair.sum(1, dtype=np.uint64))[:, None]

        return draw_members(propose, len(index), key[1], 2 * most)[:, 0]

    def _slots_at(self, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """Returns the slots asked, from 0: int64 [B, queries]."""

        def read(row: np.ndarray, draws: int) -> np.ndarray:
            words = philox.words(key, index[row], _SLOTS, 0, draws)
            return np.searchsorted(self._thresholds, (words >> np.uint64(11)).astype(np.int64), "right")

        return distinct(read, np.full(len(index), self.queries), self.queries, 2 * self.queries)

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        beside = self._read(tokens)
        return np.array([PAD] * self._context + [beside.get(int(token), PAD) for token in tokens[self._context :]], np.int32)

    def _read(self, tokens: np.ndarray) -> dict[int, int]:
        """Returns the pairs, read from an example's tokens."""
        context = [token for token in tokens[: self._context].tolist() if token != PAD]
        return dict(zip(context[::2], context[1::2], strict=True))

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {frozenset(self._read(tokens).items())}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        least, most = self._range
        sizes, values = range(least, most + 1), self.vocabulary - self._first_value
        gaps = [1 << e for e in range(self._slots.bit_length())]
        found = {}
        for name, meaning, right in (
            ("chance", "Any of all values, alike.", lambda n: 1 / values),
            ("constant", "One value, always: all are alike.", lambda n: 1 / values),
            ("in_context", "Any value of the context, alike.", lambda n: 1 / n),
        ):
            by = {n: {"label": right(n), "exact": right(n)} for n in sizes}
            mean = dict.fromkeys(("label", "exact"), sum(map(right, sizes)) / len(sizes))
            found[name] = {"meaning": meaning, **mean, "by": {"gap": dict.fromkeys(gaps, mean), "pairs": by}}
        return found

    # For readers.

    def token(self, number: int) -> str:
        return "PAD" if number == PAD else f"k{number}" if number < self._first_value else f"v{number - self._first_value + 1}"

    def explain(self) -> str:
        least, most = self._range
        pairs = f"{most}" if least == most else f"{least} … {most}"
        between = "a random token that is none of the example's keys" if self.noise == "random" else "PAD"
        return (
            f"{pairs} pairs `key value`, no key and no value twice, padded on the left; then {self._slots} slots of two tokens. "
            f"{self.queries} slots hold a key in their first place, and its label is the key's value. Elsewhere stands {between}. "
            f"Slot x of 1 … {self._slots} is asked with a probability ∝ x**({self.power:g} − 1), and the gap is x, down to a power of "
            f"two. Keys are k1 … k{self._keys}, values v1 … v{self.vocabulary - self._first_value}."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        lines = []
        for position in np.flatnonzero(example["loss_mask"]):
            key, value = (self.token(int(example[field][position])) for field in ("tokens", "targets"))
            lines.append(f"Slot {(position - self._context) // 2 + 1} asks for {key}, which stood beside {value}.")
        return "\n".join(lines)
