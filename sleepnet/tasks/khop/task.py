"""k-hop induction: the letter that followed the previous occurrence, k times over. Depth by log₂ k.

After Sanford, Hsu and Telgarsky, Transformers, parallel computation, and logarithmic depth, arXiv 2402.09268. A string
x_1 … x_n over a few letters has no letter twice in a row; then come queries `<hop_k>`, each with another k:

    x_1 x_2 … x_n | <hop_k> <hop_k'> …      T = n + queries, n being whole windows of L that sleep

One hop goes from place i to the place after the last earlier occurrence of its letter, and the label is the letter found
after k hops from the end:

    hop(i) = max {j ≤ i : x_{j-1} = x_i},   label = x at hop(hop(… hop(n)))

Where a letter has no earlier occurrence there is no answer. Strings in which K hops, the most that may be asked, have none
are drawn again, for every k alike: so all labels are letters, chance is the same at every k, and no string hints at k.
"""
import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.khop import law
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import require, risen, rising, span, tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register

_STRING, _HOPS = range(2)  # streams
_FRACTION = 56  # bits of a word that steps are drawn from: times a number of letters, they still fit into 64
_NOWHERE = {True: 0, False: philox.MASK64}  # in train or not: a fingerprint of another split


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Khop(Task):
    """Follow a string's own repetitions k hops back. One answer group per query, graded by `k`.

    An instance, of which no other split has the same, is the string, whatever k is asked.

    Attributes:
      length: n, letters of the string.
      letters: how many letters there are, 3 … 26.
      hops: k: a number, or (least, most), drawn uniformly per query; an example asks no k twice.
      queries: how many k are asked of one string.
      hops_rise: training examples before the largest k drawn grows by one, for each of the last growths up to `hops[1]`;
        empty: the whole range throughout. A curriculum over the order of the training examples alone.
      window: L; None: the whole string.
    """

    name: ClassVar[str] = "khop"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k",)
    axis_words: ClassVar[Mapping[str, str]] = {"k": "k, hops"}

    length: int = 100
    letters: int = 4
    hops: int | tuple[int, int] = (1, 16)
    queries: int = 1
    hops_rise: tuple[int, ...] = ()
    window: int | None = None

    def __post_init__(self) -> None:
        # two letters could only alternate
        length, letters = whole("length", self.length, 3), whole("letters", self.letters, 3, 26)
        least, most = span("hops", self.hops, 1)
        fit = length
        while law.defined(fit, letters, most) < 0.5:
            fit += 1
        require(fit == length, f"hops={most} are beyond most strings of length={length} over {letters} letters; use length={fit} or fewer hops")
        rise = rising("hops_rise", self.hops_rise, most - least + 1)
        first = most - least + 1 - len(rise)
        queries = whole("queries", self.queries, 1)
        require(queries <= first, f"queries={queries} need as many k, and hops={self.hops!r} begins with {first}; use fewer queries")
        window = whole("window", length if self.window is None else self.window, 1)
        require(length % window == 0, f"window={window} must divide length={length}")
        require(queries <= window, f"queries={queries} must fit into one window of {window} tokens")
        self._set(
            length=length, letters=letters, hops=most if least == most else (least, most), queries=queries, hops_rise=rise,
            window=window, answers=queries, vocab_size=letters + 2 + most - least, seq_len=length + queries,
            predicts=(False,) * (length // window) + (True,),
        )
        self._check_splits(letters * (letters - 1) ** (length - 1))

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) hops."""
        return self.hops if isinstance(self.hops, tuple) else (self.hops, self.hops)

    @property
    def _steps_per_word(self) -> int:
        """How many steps from letter to letter are drawn from a word: they take 32 bits, the others keep them even."""
        return int(32 / math.log2(self.letters - 1))

    def depths(self, split: int, index: Any) -> Any:
        """Returns how many values of k the example at `index` draws from (a number or an array)."""
        least, most = self._range
        return risen(self.hops_rise, most - least + 1, index) if split == TRAIN else most - least + 1

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        string, path = self._string(key, index)
        depths, words = int(self.depths(key[1], index)), philox.stream(key, index, _HOPS)
        order = sorted((next(words), depth) for depth in range(depths))
        ks = [self._range[0] + depth for _, depth in order[: self.queries]]
        answer = np.array([-1] * self.length + list(range(self.queries)), np.int32)
        return {
            "tokens": np.array([1 + letter for letter in string] + [self._query(k) for k in ks], np.int32),
            "targets": np.array([PAD] * self.length + [1 + string[path[k]] for k in ks], np.int32),
            "loss_mask": answer >= 0,
            "answer": answer,
            "difficulty": {"k": np.array(ks, np.int32)},
        }

    def _string(self, key: tuple[int, int], index: int) -> tuple[list[int], list[int]]:
        """Returns the first string of the split that this example's words give, and the places 0, 1, … K hops from its end."""
        bits = (self.letters - 1).bit_length()
        for attempt in range(MAX_ATTEMPTS):
            words, word = philox.stream(key, index, _STRING, attempt), 0
            string = [philox.below(next(words), self.letters)]
            for i in range(self.length - 1):
                word = word if i % self._steps_per_word else next(words) >> 64 - _FRACTION
                step, word = divmod(word * (self.letters - 1), 1 << _FRACTION)
                string.append((string[-1] + 1 + step) % self.letters)
            fingerprint, chunk = 0, 64 // bits
            for a in range(0, self.length, chunk):
                packed = sum(letter << bits * i for i, letter in enumerate(string[a : a + chunk]))
                fingerprint = mix64_int(fingerprint ^ packed)
            path = self._path(string)
            if belongs(fingerprint, key[1]) and len(path) > self._range[1]:
                return string, path
        raise empty_split(key[1])

    def _path(self, string: list[int]) -> list[int]:
        """Returns the places 0, 1, … K hops from the end, counted from 0; fewer where there is no answer."""
        after: dict[int, int] = {}
        hop = []  # of each place: the one after the last earlier occurrence
        for place, letter in enumerate(string):
            hop.append(after.get(letter))
            after[letter] = place + 1
        path = [self.length - 1]
        while len(path) <= self._range[1] and hop[path[-1]] is not None:
            path.append(hop[path[-1]])
        return path

    def _query(self, k: Any) -> Any:
        """Returns the token that asks for k hops (a number or an array)."""
        return 1 + self.letters + k - self._range[0]

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        B, (least, most) = len(index), self._range
        string_BxN, row = self._strings(key, index), np.arange(B)[:, None]
        depths = np.broadcast_to(self.depths(key[1], index.astype(np.int64)), B)
        k = least + philox.order(philox.words(key, index, _HOPS, 0, most - least + 1), depths)[:, : self.queries]
        tokens, targets = np.full((B, self.seq_len), PAD, np.int32), np.full((B, self.seq_len), PAD, np.int32)
        tokens[:, : self.length], tokens[:, self.length :] = string_BxN.astype(np.int32) + 1, self._query(k)
        targets[:, self.length :] = 1 + string_BxN[row, _walk(string_BxN, most)[row, k]].astype(np.int32)
        answer = np.full((B, self.seq_len), -1, np.int32)
        answer[:, self.length :] = np.arange(self.queries)
        return {"tokens": tokens, "targets": targets, "loss_mask": answer >= 0, "answer": answer, "difficulty": {"k": k.astype(np.int32)}}

    def _strings(self, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """Returns the strings' letters, from 0: uint8 [B, n]."""
        count = 1 + -(-(self.length - 1) // self._steps_per_word)
        bits = (self.letters - 1).bit_length()
        chunk = 64 // bits
        shifts = np.uint64(bits) * np.arange(chunk, dtype=np.uint64)

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            words = philox.words(key, index[row], _STRING, attempt, count)
            moves = np.empty((len(row), count - 1, self._steps_per_word), np.uint8)
            word = words[:, 1:] >> np.uint64(64 - _FRACTION)
            for i in range(self._steps_per_word):
                word = word * np.uint64(self.letters - 1)
                moves[..., i] = word >> np.uint64(_FRACTION)
                word &= np.uint64((1 << _FRACTION) - 1)
            first = philox.multiply_high(words[:, 0], np.uint64(self.letters))
            string = np.empty((len(row), self.length), np.uint32)
            string[:, 0], string[:, 1:] = first, 1 + moves.reshape(len(row), -1)[:, : self.length - 1]
            string = (string.cumsum(1, dtype=np.uint32) % np.uint32(self.letters)).astype(np.uint8)
            padded = np.pad(string, ((0, 0), (0, -self.length % chunk))).reshape(len(row), -1, chunk)
            fingerprint = np.zeros(len(row), np.uint64)
            for packed in np.bitwise_or.reduce(padded << shifts, 2).T:
                fingerprint = mix64(fingerprint ^ packed)
            # only what else would be taken is walked through
            member = np.flatnonzero(belongs(fingerprint, key[1]))
            lost = member[_walk(string[member], self._range[1])[:, -1] < 0]
            fingerprint[lost] = _NOWHERE[key[1] == TRAIN]
            return string[:, None], fingerprint[:, None]

        return draw_members(propose, len(index), key[1], count)[:, 0]

    most_steps = None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        string, (B, n) = batch["tokens"][:, : self.length], (len(batch["tokens"]), self.length)
        hop, after, row = np.full((B, n + 1), n), np.full((B, self.letters + 1), n), np.arange(B)
        for place in range(n):
            hop[:, place] = after[row, string[:, place]]
            after[row, string[:, place]] = place + 1
        told, letters = np.zeros((B, most + 1, self.seq_len), np.int32), np.pad(string, ((0, 0), (0, 1)))
        asked = batch["tokens"][:, n:] - self._query(0)
        at, end = np.broadcast_to(np.arange(n), (B, n)), np.full((B, self.queries), n - 1)
        for step in range(most + 1):
            told[:, step, :n], told[:, step, n:] = letters[row[:, None], at], letters[row[:, None], end]
            at, end = hop[row[:, None], at], np.where(step < asked, hop[row[:, None], end], end)
        return told

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        words = [self.token(token) for token in tokens.tolist()]
        string, told = "".join(words[: self.length]), np.zeros((most + 1, len(tokens)), np.int32)

        def letter(place: int, hops: int) -> int:
            for _ in range(hops):
                earlier = string.rfind(string[place], 0, place)
                if earlier < 0:
                    return PAD
                place = earlier + 1
            return int(tokens[place])

        for step in range(most + 1):
            for place in range(self.length):
                told[step, place] = letter(place, step)
            for place in range(self.length, self.seq_len):
                told[step, place] = letter(self.length - 1, min(step, int(words[place][5:-1])))
        return told

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        words = [self.token(token) for token in tokens.tolist()]
        string, targets = "".join(words[: self.length]), [PAD] * self.length
        for query in words[self.length :]:
            place = self.length - 1
            for _ in range(int(query[5:-1])):
                place = string.rindex(string[place], 0, place) + 1
            targets.append(int(tokens[place]))
        return np.array(targets, np.int32)

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {tokens[: self.length].tobytes()}

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        return law.baselines(self.length, self.letters, *self._range)

    # For readers.

    def token(self, number: int) -> str:
        if number > self.letters:
            return f"<hop_{number - self._query(0)}>"
        return "PAD" if number == PAD else chr(ord("a") + number - 1)

    def explain(self) -> str:
        least, most = self._range
        k = f"{most}" if least == most else f"drawn from {least} … {most}"
        several = f"{self.queries} queries `<hop_k>`, no k twice, k" if self.queries > 1 else "a query `<hop_k>`, k"
        return (
            f"A random string of {self.length} letters out of {self.letters}, none twice in a row; then {several} {k}{tell_rise(self.hops_rise)}. A hop "
            f"goes from a place to the one after the last earlier occurrence of its letter. The label is the letter k hops from "
            f"the end of the string."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        string, lines = [int(token) for token in example["tokens"][: self.length]], []
        path = self._path(string)
        for position in range(self.length, self.seq_len):
            k = int(example["tokens"][position]) - self._query(0)
            places = " → ".join(f"{self.token(string[place])} ({place + 1})" for place in path[: k + 1])
            lines.append(f"{k} hop{'s' * (k != 1)} from the end, with places: {places}.")
        return "\n".join(lines)


def _walk(string: np.ndarray, hops: int) -> np.ndarray:
    """Returns the places 0, 1, … `hops` hops from the end of strings [rows, n], from 0: int64 [rows, hops + 1]; -1: no answer."""
    (rows, length), letter = string.shape, string
    place = np.full(rows, length - 1)
    path, columns = [place], np.arange(length, dtype=np.int32)
    for _ in range(hops):
        # at -1 nothing stands further left
        earlier = (letter == letter[np.arange(rows), place][:, None]) & (columns < place[:, None])
        last = length - 1 - earlier[:, ::-1].argmax(1)
        place = np.where(earlier.any(1), last + 1, -1)
        path.append(place)
    return np.stack(path, 1)
