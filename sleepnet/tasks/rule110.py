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

from sleepnet.tasks import _rule110_arrays, philox
from sleepnet.tasks._rule110_arrays import CELLS, DEPTH, ONE, QUERY, ZERO
from sleepnet.tasks.base import PAD, Task, choice, require, risen, rising, tell_rise, whole
from sleepnet.tasks.registry import register
from sleepnet.tasks.splits import MAX_ATTEMPTS, TRAIN, belongs, empty_split, mix64_int


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule110(Task):
    """Predict cells of an elementary cellular automaton after `steps` steps. An answer group is one cell, of all rows.

    Attributes:
      rule: the automaton's number, 0 … 255.
      width: cells of a row.
      strings: rows of an example.
      steps: how often the rule is applied: a number, or (lo, hi), drawn uniformly per example and shown as a token.
      boundary: "periodic", or "zero". With zeros Rule 110's first cell is absorbing: answering 1 is right almost always.
      cell: the cell that is asked for, or the first of them.
      cells: how many are asked for, counted to the right round the ring.
      chain_of_thought: write the rows on the way after the query: learned, not graded. Of several rows each is told by its name.
      window: L; None: one row, with its name and t where they are written.
      steps_rise: training examples before the largest t drawn grows by one, for each of the last growths up to `steps[1]`;
        empty: the whole range throughout. A curriculum over the order of the training examples alone.
    """

    name: ClassVar[str] = "rule110"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("steps",)
    axis_words: ClassVar[Mapping[str, str]] = {"steps": "t, steps of the automaton"}
    added: ClassVar[Mapping[str, Any]] = {"chain_of_thought": False}

    rule: int = 110
    width: int = 24
    strings: int = 4
    steps: int | tuple[int, int] = 32
    boundary: str = "periodic"
    cell: int = 0
    cells: int = 1
    chain_of_thought: bool = False
    window: int | None = None
    steps_rise: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._set(
            rule=whole("rule", self.rule, 0, 255),
            width=whole("width", self.width, 3),
            strings=whole("strings", self.strings, 1),
            boundary=choice("boundary", self.boundary, ("periodic", "zero")),
        )
        self._set(cell=whole("cell", self.cell, 0, self.width - 1), cells=whole("cells", self.cells, 1, self.width))
        require(self.cells == 1 or self.boundary == "periodic", f"cells={self.cells} needs boundary='periodic', where all cells are alike")
        ranged = isinstance(self.steps, (list, tuple))
        if ranged:
            require(len(self.steps) == 2, f"steps={self.steps!r} must be a number, or a range (least, most)")
            least = whole("steps[0]", self.steps[0], 0)
            steps = (least, whole("steps[1]", self.steps[1], least))
        else:
            steps = whole("steps", self.steps, 0)
        require(ranged or not self.steps_rise, f"steps_rise={self.steps_rise} needs a range of steps, such as steps=(1, {steps})")
        steps_rise = rising("steps_rise", self.steps_rise, steps[1] - steps[0] + 1 if ranged else 1)
        require(isinstance(self.chain_of_thought, bool), f"chain_of_thought={self.chain_of_thought!r} must be True or False")
        self._set(steps=steps, steps_rise=steps_rise)
        window, rows = self.unit if self.window is None else whole("window", self.window, 1), self.strings * self.unit
        if self.chain_of_thought:
            require(self.step_range[0] > 0, f"steps={steps!r} with chain_of_thought=True must be at least 1: without a step no row is written")
        else:
            require(rows % window == 0, f"window={window} must divide the {rows} tokens before the queries")
            key, queries = ("strings", self.strings) if self.cells == 1 else ("cells", self.cells)
            require(queries <= window, f"{key}={queries} queries must fit into one window of {window} tokens")
        self._set(window=window)
        length = self.context + self.strings * self.written if self.chain_of_thought else int(self.asked(0)[-1, -1]) + 1
        self._set(
            answers=self.cells, seq_len=length, vocab_size=self.first_depth + (steps[1] - steps[0] + 1 if ranged else 0),
            predicts=tuple(start >= self.context for start in range(0, length, window)),
        )
        self._check_splits(2**self.width)

    @property
    def step_range(self) -> tuple[int, int]:
        """(least, most) steps."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)

    @property
    def ranged(self) -> bool:
        """Whether t is drawn, and so written before every row."""
        return isinstance(self.steps, tuple)

    @property
    def named(self) -> bool:
        """Whether rows have names, since the place in the window can't tell them apart."""
        return self.strings > 1 and (self.cells > 1 or self.chain_of_thought)

    @property
    def unit(self) -> int:
        """Tokens of a row: t, its name, its cells."""
        return self.ranged + self.named + self.width

    @property
    def context(self) -> int:
        """Tokens before the queries, whole windows."""
        return -(-self.strings * self.unit // self.window) * self.window

    @property
    def written(self) -> int:
        """Tokens of a row's chain of thought, padding included."""
        return self.step_range[1] * self.width

    @property
    def query(self) -> np.ndarray:
        """Each row's query token, [strings]: its name, or one for all where the place in the window tells the row."""
        return QUERY + np.arange(self.strings) * self.named

    @property
    def first_depth(self) -> int:
        """The token of the least t."""
        return int(self.query[-1]) + 1

    def asked(self, steps: int) -> np.ndarray:
        """The positions of the labels that are graded after so many steps, [strings, cells]; without a chain of thought those of the queries."""
        if self.chain_of_thought:
            return self.context + self.written * np.arange(self.strings)[:, None] + (steps - 1) * self.width + self.wanted
        apart = 1 if self.cells == 1 else self.window
        return self.context + apart * np.arange(self.strings)[:, None] + np.arange(self.cells)

    @property
    def wanted(self) -> np.ndarray:
        """The cells asked for, [cells]."""
        return (self.cell + np.arange(self.cells)) % self.width

    def depths(self, split: int, index: Any) -> Any:
        """Returns how many values of t the example at `index` is drawn from (a number or an array)."""
        least, most = self.step_range
        return risen(self.steps_rise, most - least + 1, index) if split == TRAIN else most - least + 1

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
                answer[position] = group
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets != PAD,
            "answer": answer,
            "difficulty": {"steps": np.full(self.cells, steps, np.int32)},
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

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return _rule110_arrays.batch(self, self._key(seed, split), self._indices(indices))

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

    def baselines(self) -> dict[str, Any]:
        return self._baselines

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        return _rule110_arrays.baselines(self)

    # For readers.

    def token(self, number: int) -> str:
        if number >= self.first_depth:
            return f"<t={self.step_range[0] + number - self.first_depth}>"
        return ("PAD", "0", "1")[number] if number < QUERY else f"#{number - QUERY + 1}" if self.named else "?"

    def explain(self) -> str:
        least, most = self.step_range
        steps = f"{least} steps" if least == most else "t steps"
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
