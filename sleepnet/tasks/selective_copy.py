"""Selective copying: what was written among the blanks, in order? Memory without depth.

After Poli et al., Mechanistic design and scaling of hybrid architectures (MAD), arXiv 2403.17844, and Gu and Dao's Mamba. The
context holds n random letters, one after the other at random places among blanks; the i-th `?` asks for the i-th letter:

    PAD … PAD . . b . . . a . c … . | ? ? ? … PAD    T = context + copies
    ^ whole windows of L that sleep   ^ n queries, padded on the right; without padding both fill `length` tokens

MAD writes one copy token and then blanks where this has one `?` a letter, scatters the blanks less evenly (none follow the
last letter) and has no PAD: its V = 16 are 14 letters, blank and copy token.
"""
import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import require, span, whole
from sleepnet.tasks.machinery.draws import counts, distinct, first_distinct
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register

BLANK, QUERY, FIRST_LETTER = 1, 2, 3
_SIZE, _LETTERS, _PLACES = range(3)  # streams
_ENOUGH = 1000  # strings: of fewer, some lengths might have none in a split that holds 1/64


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveCopy(Task):
    """Copy the letters among the blanks, in order. One answer group, the whole string, graded by `copies`, its length.

    An instance, of which no other split has the same, is the string of letters, wherever they stand.

    Attributes:
      length: tokens of context and queries, without padding.
      copies: n: a number, or (least, most), drawn uniformly per example.
      letters: how many letters there are.
      window: L; None: a quarter of the context where that is whole and holds the queries, else all of it.
    """

    name: ClassVar[str] = "selective_copy"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("copies",)
    axis_words: ClassVar[Mapping[str, str]] = {"copies": "letters to copy"}

    length: int = 256
    copies: int | tuple[int, int] = 16
    letters: int = 14
    window: int | None = None

    def __post_init__(self) -> None:
        length, letters = whole("length", self.length, 2), whole("letters", self.letters, 2)
        least, most = span("copies", self.copies, 1)
        places = length - most
        require(places >= most, f"length={length} leaves {max(places, 0)} places for copies={most} letters; use length={2 * most}")
        made = f"copies={least} of letters={letters} make {letters**least} strings"
        require(letters**least >= _ENOUGH, f"{made}, too few to hold some out; use copies={math.ceil(math.log(_ENOUGH, letters))} or more")
        if self.window is None:
            window = places // 4 if places % 4 == 0 and places // 4 >= most else places
        else:
            window = whole("window", self.window, 1)
        require(most <= window, f"copies={most} queries must fit into one window of {window} tokens; use window={most} or more")
        windows = -(-places // window)
        self._set(
            length=length, letters=letters, copies=most if least == most else (least, most), window=window, answers=1,
            vocab_size=FIRST_LETTER + letters, seq_len=windows * window + most, predicts=(False,) * windows + (True,),
        )

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) letters."""
        return self.copies if isinstance(self.copies, tuple) else (self.copies, self.copies)

    @property
    def _context(self) -> int:
        """Tokens before the queries, padding included."""
        return self.seq_len - self._range[1]

    @property
    def _places(self) -> int:
        """Tokens of the context that are letters or blanks: those at its right end."""
        return self.length - self._range[1]

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least, most = self._range
        n = least + philox.below(next(philox.stream(key, index, _SIZE)), most - least + 1)
        string = self._string(key, index, n)
        context = [PAD] * (self._context - self._places) + [BLANK] * self._places
        drawn = (philox.below(word, self._places) for word in philox.stream(key, index, _PLACES))
        for place, letter in zip(sorted(first_distinct(drawn, n)), string):
            context[self._context - self._places + place] = letter
        rest = [PAD] * (most - n)
        answer = np.array([-1] * self._context + [0] * n + [-1] * len(rest), np.int32)
        return {
            "tokens": np.array(context + [QUERY] * n + rest, np.int32),
            "targets": np.array([PAD] * self._context + string + rest, np.int32),
            "loss_mask": answer >= 0,
            "answer": answer,
            "difficulty": {"copies": np.array([n], np.int32)},
        }

    def _string(self, key: tuple[int, int], index: int, n: int) -> list[int]:
        """Returns the first string of the split that this example's words give."""
        for attempt in range(MAX_ATTEMPTS):
            words = philox.stream(key, index, _LETTERS, attempt)
            string, fingerprint = [FIRST_LETTER + philox.below(next(words), self.letters) for _ in range(n)], 0
            for letter in string:
                fingerprint = mix64_int(fingerprint ^ letter)
            if belongs(fingerprint, key[1]):
                return string
        raise empty_split(key[1])

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        B, (least, most) = len(index), self._range
        n = counts(key, index, _SIZE, least, most)
        string_BxN = self._strings(key, index, n)
        asked = string_BxN > PAD
        tokens, targets = np.full((B, self.seq_len), PAD, np.int32), np.full((B, self.seq_len), PAD, np.int32)
        tokens[:, self._context - self._places : self._context] = BLANK
        # unasked letters sort behind all others
        place = np.sort(np.where(asked, self._places_at(key, index, n), self._places), axis=1)
        r, c = np.nonzero(asked)
        tokens[r, self._context - self._places + place[r, c]] = string_BxN[r, c]
        tokens[:, self._context :], targets[:, self._context :] = np.where(asked, QUERY, PAD), string_BxN
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets > PAD,
            "answer": np.where(targets > PAD, np.int32(0), np.int32(-1)),
            "difficulty": {"copies": n[:, None].astype(np.int32)},
        }

    def _strings(self, key: tuple[int, int], index: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Returns the letters, padded on the right: int64 [B, most]."""
        most = self._range[1]

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            letters = FIRST_LETTER + philox.multiply_high(philox.words(key, index[row], _LETTERS, attempt, most), np.uint64(self.letters))
            letters[np.arange(most) >= n[row][:, None]] = PAD
            fingerprint = np.zeros(len(row), np.uint64)
            for column in letters.T:
                fingerprint = np.where(column == PAD, fingerprint, mix64(fingerprint ^ column))
            return letters[:, None].astype(np.int64), fingerprint[:, None]

        return draw_members(propose, len(index), key[1], most)[:, 0]

    def _places_at(self, key: tuple[int, int], index: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Returns the letters' places, in the order of drawing: int64 [B, most], of which the first n count."""

        def read(row: np.ndarray, draws: int) -> np.ndarray:
            return philox.multiply_high(philox.words(key, index[row], _PLACES, 0, draws), np.uint64(self._places)).astype(np.int64)

        most = self._range[1]
        return distinct(read, n, most, most + 4)

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        letters = iter(self._read(tokens))
        return np.array([next(letters) if token == QUERY else PAD for token in tokens.tolist()], np.int32)

    def _read(self, tokens: np.ndarray) -> list[int]:
        """Returns the letters, read from an example's tokens."""
        return [token for token in tokens.tolist() if token not in (PAD, BLANK, QUERY)]

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {tuple(self._read(tokens))}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        least, most = self._range
        V, sizes, found = self.letters, range(least, most + 1), {}
        for name, meaning, label, exact in (
            ("chance", "Any of all letters, alike.", lambda n: 1 / V, lambda n: V**-n),
            ("constant", "One letter, always: all are alike.", lambda n: 1 / V, lambda n: V**-n),
            # right by its own place, or by another with the same letter; all strings' 1 / orders add up to the number of bags
            (
                "unordered",
                "The context's letters, in a random order.",
                lambda n: 1 / n + (n - 1) / n / V,
                lambda n: math.comb(n + V - 1, n) / V**n,
            ),
        ):
            by = {n: {"label": label(n), "exact": exact(n)} for n in sizes}
            mean = {metric: sum(score[metric] for score in by.values()) / len(by) for metric in ("label", "exact")}
            found[name] = {"meaning": meaning, **mean, "by": {"copies": by}}
        return found

    # For readers.

    def token(self, number: int) -> str:
        if number < FIRST_LETTER:
            return ("PAD", ".", "?")[number]
        return chr(ord("a") + number - FIRST_LETTER) if self.letters <= 26 else f"a{number - FIRST_LETTER + 1}"

    def explain(self) -> str:
        least, most = self._range
        n = f"{most}" if least == most else f"n of {least} … {most}"
        return (
            f"{n} random letters out of {self.letters} stand at random places among {self._places} places, blanks (.) elsewhere; then one `?` "
            f"per letter, and the label of the i-th is the i-th letter. The context is padded on the left, the queries on the right."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        letters = [self.token(int(token)) for token in example["targets"][example["loss_mask"]]]
        return f"The {len(letters)} letters are, in order: {' '.join(letters)}."
