"""Rule 110: the state of a cellular automaton some steps on, from its first state.

An example is `strings` independent rows of `width` cells, one token a cell, then one query token `?` per row, whose label
is cell `cell` of that row after `steps` applications of `rule`. A cell's neighbourhood has the code
4·left + 2·centre + right, left to right being the order of the text, and its new value is bit `code` of the rule's
number. With `steps=(lo, hi)` each example draws its own number, written as a depth token before every row:

    0 1 1 … | 1 0 0 … | … | ? ? ? ?             T = strings·width + strings,      L = width
    <t> 0 1 1 … | <t> 1 0 0 … | … | ? ? ? ?     T = strings·(width + 1) + strings, L = width + 1

With `cells` above 1 that many neighbouring cells of every row are asked for, in a window per row: its i-th token asks for
the i-th of them. Of several rows each is told by its name, which stands before it and asks for it. On a ring all cells are alike, so a
cell is no easier to tell than with one query; there are more labels to learn from.

    <t> 0 1 1 … | ? ? ? …                                                 L = width + 1, T = L + cells
    <t> #1 0 1 1 … | <t> #2 1 0 0 … | … | #1 #1 #1 … | #2 #2 #2 … | …     L = width + 2, T = (2·strings - 1)·L + cells

With `chain_of_thought` the rows after 1, 2, … t steps are written after the query, each cell predicted at the token before it. Of the last
row the cells asked for are graded. The rows before the query are padded on the left to whole windows, those after it on the right to the most steps:

    PAD … PAD <t> 0 1 1 … | ? 1 1 1 … 1 0 1 … PAD …                       T = context + strings·hi·width
"""
import collections
import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, belongs, empty_split, mix64_int
from sleepnet.tasks.registry import register
from sleepnet.tasks.rule110 import arrays
from sleepnet.tasks.rule110.layout import CELLS, DEPTH, ONE, QUERY, ZERO, Layout


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule110(Layout):
    """Predict cells of an elementary cellular automaton after `steps` steps. An answer group is one cell, of all rows, or all cells of one row."""

    name: ClassVar[str] = "rule110"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("steps",)
    axis_words: ClassVar[Mapping[str, str]] = {"steps": "t, steps of the automaton"}
    added: ClassVar[Mapping[str, Any]] = {"chain_of_thought": False, "follow_passes": False, "graded": "cells"}

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least = self.step_range[0]
        steps = least + philox.below(next(philox.stream(key, index, DEPTH)), int(self.depths(key[1], index)))
        tokens = np.full(self.seq_len, PAD, np.int32)
        targets, answer = np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, -1, np.int32)
        start, asked = self.context - self.strings * self.unit, self.asked(steps)
        for string in range(self.strings):
            cells, chain = self._state(key, index, string), []
            head = [self.first_depth + steps - least] * self.ranged + [self.query[string]] * self.named
            tokens[start + string * self.unit : start + (string + 1) * self.unit] = head + [ONE if cell else ZERO for cell in cells]
            for _ in range(steps):
                cells = self._step(cells)
                chain += [ONE if cell else ZERO for cell in cells]
            if self.chain_of_thought:
                first = self.context + string * self.written
                tokens[first : first + len(chain)] = [self.query[string], *chain[:-1]]
                targets[first : first + len(chain)] = chain
            for group, position in enumerate(asked[string]):
                if not self.chain_of_thought:
                    tokens[position] = self.query[string]
                    targets[position] = ONE if cells[(self.cell + group) % self.width] else ZERO
                answer[position] = string if self.graded == "rows" else group
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets != PAD,
            "answer": answer,
            "difficulty": {"steps": np.full(self.answers, steps, np.int32)},
        }

    def _state(self, key: tuple[int, int], index: int, string: int) -> list[int]:
        """Returns the first state of the split that this row's words give."""
        length = -(-self.width // 64)
        for attempt in range(MAX_ATTEMPTS):
            words = philox.stream(key, index, CELLS, attempt)
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

    @property
    def follows_passes(self) -> bool:
        return self.follow_passes

    def at(self, passes: int) -> Task:
        return dataclasses.replace(self, steps=passes - 1, follow_passes=False) if self.follow_passes else self

    # Steps of the computation.

    @property
    def least_passes(self) -> int:
        return 1 if self.follow_passes else self.step_range[1] + 1

    most_steps = None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        return arrays.steps_of(self, batch["tokens"], most)

    @property
    def chain_shape(self) -> tuple[int, int] | None:
        plain = not (self.chain_of_thought or self.follow_passes) and self.step_range[0] > 0
        return (self.step_range[1], self.seq_len - self.context) if plain else None

    def chain(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the queries ask for after 1, 2, … t steps."""
        if self.chain_shape is None:
            return super().chain(tokens)
        steps = np.arange(1, self.step_range[1] + 1)[:, None]
        last = self.step_range[0] + tokens[:, self.context - self.strings * self.unit, None, None] - self.first_depth if self.ranged else steps[-1]
        asked, said = tokens[:, None, self.context :], arrays.steps_of(self, tokens, self.step_range[1])[:, 1:, self.context :]
        return np.where(steps <= last, asked, PAD).astype(np.int32), np.where(steps <= last, said, PAD).astype(np.int32)

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        told, words = np.zeros((most + 1, len(tokens)), np.int32), self._words(tokens)
        for row, cells in enumerate(self._read_rows(words)):
            start = self.context - (self.strings - row) * self.unit + self.unit - self.width
            asked = next((int(word[3:-1]) for word in words if word.startswith("<t=")), most)
            state = [int(cell) for cell in cells]
            for step in range(most + 1):
                told[step, start : start + self.width] = [(ZERO, ONE)[cell] for cell in state]
                if not self.chain_of_thought:
                    told[step, self.asked(0)[row]] = [(ZERO, ONE)[state[(self.cell + group) % self.width]] for group in range(self.cells)]
                state = self._step(state) if step < asked else state
        return told

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return arrays.batch(self, self._key(seed, split), self._indices(indices))

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        table = {tuple(f"{code:03b}"): bit for code, bit in zip(range(7, -1, -1), f"{self.rule:08b}")}
        words, targets = self._words(tokens), np.full(len(tokens), PAD, np.int32)
        steps = next((int(word[3:-1]) for word in words if word.startswith("<t=")), self.steps)
        rows = self._read_rows(words)
        chains = [""] * len(rows)
        for i, row in enumerate(rows):
            for _ in range(steps):
                around = f"{row[-1]}{row}{row[0]}" if self.boundary == "periodic" else f"0{row}0"
                row = "".join(map(table.__getitem__, zip(around, around[1:], around[2:])))
                chains[i] += row
            rows[i] = row
        asked = collections.Counter()  # how often each query stood further left
        for t in range(self.context, len(words)):
            if self.chain_of_thought and words[t][0] in "?#":
                chain = chains[int(words[t].strip("?#") or 1) - 1]
                targets[t : t + len(chain)] = [(ZERO, ONE)[int(cell)] for cell in chain]
            elif not self.chain_of_thought and words[t] != "PAD":
                row, cell = (asked[words[t]], 0) if self.cells == 1 else (int(words[t].strip("?#") or 1) - 1, asked[words[t]])
                asked[words[t]] += 1
                targets[t] = (ZERO, ONE)[int(rows[row][(self.cell + cell) % self.width])]
        return targets

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return set(self._read_rows(self._words(tokens)))

    def _words(self, tokens: np.ndarray) -> list[str]:
        """Returns tokens as a reader would write them."""
        return [self.token(token) for token in tokens.tolist()]

    def _read_rows(self, words: list[str]) -> list[str]:
        """Returns the first rows of cells."""
        text = "".join(word for word in words[: self.context] if word in "01")
        return [text[a : a + self.width] for a in range(0, len(text), self.width)]

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        return arrays.baselines(self)

    # For readers.

    def token(self, number: int) -> str:
        if number >= self.first_depth:
            return f"<t={self.step_range[0] + number - self.first_depth}>"
        return ("PAD", "0", "1")[number] if number < QUERY else f"#{number - QUERY + 1}" if self.named else "?"

    def explain(self) -> str:
        least, most = self.step_range
        steps = f"{least} steps" if least == most else "t steps"
        if self.follow_passes:
            steps = f"N − 1 steps, N being the passes of the sleep ({least} where no N is known),"
        drawn = "" if least == most else f" t is drawn from {least} … {most} and written before every row{tell_rise(self.steps_rise)}."
        queries, asked = "then one `?` per row", f"The label of a `?` is cell {self.cell} of its row"
        if self.cells > 1:
            queries = f"then {self.cells} queries `?`"
            asked = f"The label of the i-th query is cell {self.cell} + i of its row, round the ring, i from 0,"
        if self.named and not self.chain_of_thought:
            queries = f"row 1 named `#1` before it, then a window per row with its name as the query, {self.cells} times"
        if self.chain_of_thought:
            queries = f"then {'for each its name, ' if self.named else ''}a `{'#1' if self.named else '?'}` and the rows after 1, 2, … steps"
            asked = f"Each cell written is the label of the token before it; {self.cells} of the last row, from cell {self.cell} on, are graded, which is"
        return (
            f"{self.strings} independent row{'s' * (self.strings > 1)} of {self.width} random cells, {queries}. {asked} after {steps} of rule {self.rule}, "
            f"with a {self.boundary} boundary. One step replaces each cell by bit 4·left + 2·centre + right of {self.rule}, from "
            f"its own neighbourhood.{drawn}"
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        steps = int(example["difficulty"]["steps"][0])
        after = f"after {steps} step{'s' * (steps != 1)}"
        what = f"its cell {self.cell} is" if self.cells == 1 else f"its {self.cells} cells from cell {self.cell} on are"
        lines = []
        start = self.context - self.strings * self.unit
        for string, positions in enumerate(self.asked(steps)):
            row = example["tokens"][start + string * self.unit : start + (string + 1) * self.unit][-self.width :]
            cells, labels = ("".join(map(self.token, values)) for values in (row, example["targets"][positions]))
            lines.append(f"Row {string + 1} is {cells}; {after} {what} {labels}.")
        return "\n".join(lines)
