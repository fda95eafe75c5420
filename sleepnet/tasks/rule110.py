"""Rule 110: the state of a cellular automaton some steps on, from its first state.

An example is `strings` independent rows of `width` cells, one token a cell, then one query token `?` per row, whose label
is cell `cell` of that row after `steps` applications of `rule`. A cell's neighbourhood has the code
4·left + 2·centre + right, left to right being the order of the text, and its new value is bit `code` of the rule's
number. With `steps=(lo, hi)` each example draws its own number, written as a depth token before every row:

    0 1 1 … | 1 0 0 … | … | ? ? ? ?             T = strings·width + strings,      L = width
    <t> 0 1 1 … | <t> 1 0 0 … | … | ? ? ? ?     T = strings·(width + 1) + strings, L = width + 1
"""
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks import philox
from sleepnet.tasks.base import PAD, Task, attempts, belongs, draw_members, empty_split, mix64, mix64_int, require
from sleepnet.tasks.registry import register

ZERO, ONE, QUERY, FIRST_DEPTH = 1, 2, 3, 4
_CELLS, _DEPTH = range(2)  # streams
_ENUMERABLE = 24  # up to this width the baselines run over every state of the test split
_SAMPLE = 2**17


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule110(Task):
    """Predict one cell of an elementary cellular automaton after `steps` steps. One answer group: all rows' labels.

    Attributes:
      rule: the automaton's number, 0 … 255.
      width: cells of a row.
      strings: rows of an example.
      steps: how often the rule is applied: a number, or (lo, hi), drawn uniformly per example and shown as a token.
      boundary: "periodic", or "zero". With zeros Rule 110's first cell is absorbing: answering 1 is right almost always.
      cell: the cell that is asked for.
      window: L; None: one row.
    """

    name: ClassVar[str] = "rule110"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("steps",)

    rule: int = 110
    width: int = 24
    strings: int = 4
    steps: int | tuple[int, int] = 32
    boundary: str = "periodic"
    cell: int = 0
    window: int | None = None

    def __post_init__(self) -> None:
        ranged = not isinstance(self.steps, int)
        steps = tuple(self.steps) if ranged else self.steps
        unit = self.width + ranged
        window = self.window or unit
        self._set(
            steps=steps, window=window, answers=1, seq_len=self.strings * (unit + 1),
            vocab_size=FIRST_DEPTH + (steps[1] - steps[0] + 1 if ranged else 0),
            predicts=(False,) * (self.strings * unit // window) + (True,),
        )

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) steps."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key = self._key(seed, split)
        least, most = self._range
        steps = least + philox.below(next(philox.stream(key, index, _DEPTH)), most - least + 1)
        tokens, labels = [], []
        for string in range(self.strings):
            cells = self._state(key, index, string)
            if isinstance(self.steps, tuple):
                tokens.append(FIRST_DEPTH + steps - least)
            tokens += [ONE if cell else ZERO for cell in cells]
            for _ in range(steps):
                cells = self._step(cells)
            labels.append(ONE if cells[self.cell] else ZERO)
        context = len(tokens)
        is_query = np.arange(context + self.strings) >= context
        return {
            "tokens": np.array(tokens + [QUERY] * self.strings, np.int32),
            "targets": np.array([PAD] * context + labels, np.int32),
            "loss_mask": is_query,
            "answer": np.where(is_query, 0, -1).astype(np.int32),
            "difficulty": {"steps": np.array([steps], np.int32)},
        }

    def _state(self, key: tuple[int, int], index: int, string: int) -> list[int]:
        """Returns the first state of the split that this row's words give."""
        length = -(-self.width // 64)
        for attempt in attempts(key[1]):
            words = philox.stream(key, index, _CELLS, attempt)
            row = [next(words) for _ in range((string + 1) * length)][-length:]
            bits = "".join(f"{word:064b}" for word in row)[: self.width]
            fingerprint = 0
            for a in range(0, self.width, 64):
                fingerprint = mix64_int(fingerprint ^ int(bits[a : a + 64].ljust(64, "0"), 2))
            if belongs(fingerprint, key[1]):
                return [int(bit) for bit in bits]
        raise empty_split(key[1])

    def _step(self, cells: list[int]) -> list[int]:
        """Applies the rule once."""
        around = [cells[-1], *cells, cells[0]] if self.boundary == "periodic" else [0, *cells, 0]
        return [
            self.rule >> (4 * left + 2 * centre + right) & 1
            for left, centre, right in zip(around, around[1:], around[2:])
        ]

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Any) -> dict[str, Any]:
        key, index = self._key(seed, split), np.asarray(indices, np.uint64)
        B, (least, most) = len(index), self._range
        steps = np.full(B, least)
        if most > least:
            words = philox.words(key, index, _DEPTH, 0, 1)[:, 0]
            steps += philox.multiply_high(words, np.uint64(most - least + 1)).astype(np.int64)
        cells = self._cells(self._states(key, index))
        history = self._history(cells.reshape(-1, self.width), most)
        label = history[np.repeat(steps, self.strings), np.arange(B * self.strings)].reshape(B, self.strings)

        rows = ZERO + cells.astype(np.int32)
        if isinstance(self.steps, tuple):
            depth = np.broadcast_to((FIRST_DEPTH + steps - least)[:, None, None], (B, self.strings, 1))
            rows = np.concatenate([depth.astype(np.int32), rows], -1)
        context = self.seq_len - self.strings
        tokens = np.full((B, self.seq_len), QUERY, np.int32)
        tokens[:, :context] = rows.reshape(B, -1)
        targets = np.full((B, self.seq_len), PAD, np.int32)
        targets[:, context:] = ZERO + label.astype(np.int32)
        is_query = np.broadcast_to(np.arange(self.seq_len) >= context, tokens.shape).copy()
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": is_query,
            "answer": np.where(is_query, 0, -1).astype(np.int32),
            "difficulty": {"steps": steps[:, None].astype(np.int32)},
        }

    def _states(self, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """Returns the rows' first states, packed: uint64 [B, strings, words], cell 0 in the highest bit."""
        length = -(-self.width // 64)
        last = np.uint64(philox.MASK64 << (64 * length - self.width) & philox.MASK64)

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            state = philox.words(key, index[row], _CELLS, attempt, self.strings * length)
            state = state.reshape(len(row), self.strings, length).copy()
            state[..., -1] &= last
            return state, fingerprints(state)

        return draw_members(propose, len(index), key[1])

    def _cells(self, state: np.ndarray) -> np.ndarray:
        """Unpacks states, uint64 [..., words], to cells, uint8 [..., width]."""
        return np.unpackbits(state.astype(">u8").view(np.uint8), axis=-1)[..., : self.width]

    def _history(self, cells: np.ndarray, steps: int) -> np.ndarray:
        """Returns cell `cell` of each row after 0 … steps applications: uint8 [steps + 1, rows].

        Eight rows share a byte, so a step is a few logical operations over whole machine words.
        """
        rows = len(cells)
        padded = np.ascontiguousarray(np.pad(cells, ((0, -rows % 64), (0, 0))).T)
        packed = np.packbits(padded, axis=1).view(np.uint64)
        around = np.zeros((self.width + 2, packed.shape[1]), np.uint64)
        around[1:-1] = packed
        seen = [around[1 + self.cell].copy()]
        for _ in range(steps):
            if self.boundary == "periodic":
                around[0], around[-1] = around[-2], around[1]
            around[1:-1] = self._apply(around[:-2], around[1:-1], around[2:])
            seen.append(around[1 + self.cell].copy())
        return np.unpackbits(np.stack(seen).view(np.uint8), axis=1)[:, :rows]

    def _apply(self, left: np.ndarray, centre: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Applies the rule to machine words of cells, as a sum modulo 2 of products of the neighbours."""
        new = np.zeros_like(centre)
        for factors in self._products:
            term = np.full_like(centre, philox.MASK64) if not factors else None
            for name in factors:
                cell = {"l": left, "c": centre, "r": right}[name]
                term = cell if term is None else term & cell
            new ^= term
        return new

    @functools.cached_property
    def _products(self) -> list[str]:
        """The rule's polynomial over GF(2): 110 gives c + r + cr + lcr."""
        value = [self.rule >> code & 1 for code in range(8)]
        for bit in (1, 2, 4):
            value = [v ^ value[code ^ bit] if code & bit else v for code, v in enumerate(value)]
        return [
            "".join(n for n, bit in (("l", 4), ("c", 2), ("r", 1)) if code & bit) for code in range(8) if value[code]
        ]

    def baselines(self) -> dict[str, Any]:
        return {}

    def token(self, number: int) -> str:
        return str(number)

    def explain(self) -> str:
        return ""


def fingerprints(state: np.ndarray) -> np.ndarray:
    """Returns the 64-bit fingerprint of packed states, uint64 [..., words], by which they are assigned to splits."""
    fingerprint = np.zeros(state.shape[:-1], np.uint64)
    for w in range(state.shape[-1]):
        fingerprint = mix64(fingerprint ^ state[..., w])
    return fingerprint
