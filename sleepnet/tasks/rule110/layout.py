"""Rule 110's arguments, and where everything stands that follows from them: what both paths to an example read."""
import dataclasses
from typing import Any

import numpy as np

from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, whole
from sleepnet.tasks.machinery.splits import TRAIN

ZERO, ONE, QUERY = 1, 2, 3
CELLS, DEPTH = range(2)  # streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(Task):
    """Rows and queries in tokens.

    Attributes:
      rule: the automaton's number, 0 … 255.
      width: cells of a row.
      strings: rows of an example.
      follow_passes: t is N − 1 of whoever sleeps, `at`: nobody tells it but the passes. Where no N is known, t is `steps`.
      steps: how often the rule is applied: a number, or (lo, hi), drawn uniformly per example and shown as a token.
      boundary: "periodic", or "zero". With zeros Rule 110's first cell is absorbing: answering 1 is right almost always.
      cell: the cell that is asked for, or the first of them.
      cells: how many are asked for, counted to the right round the ring.
      chain_of_thought: write the rows on the way after the query: learned, not graded. Of several rows each is told by its name.
      window: L; None: one row, with its name and t where they are written.
      graded: what an answer is: "cells", a cell of all rows; or "rows", all cells asked for of a row.
      steps_rise: training examples before the largest t drawn grows by one, for each of the last growths up to `steps[1]`;
        empty: the whole range throughout. A curriculum over the order of the training examples alone.
    """

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
    follow_passes: bool = False
    graded: str = "cells"

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
        choice("graded", self.graded, ("cells", "rows"))
        require(isinstance(self.follow_passes, bool), f"follow_passes={self.follow_passes!r} must be True or False")
        told = "steps" if ranged else "chain_of_thought" if self.chain_of_thought else ""
        require(not (self.follow_passes and told), f"follow_passes=True lets the passes say how many steps, which {told}={getattr(self, told or 'steps')!r} tells too: use one number and no chain")
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
            answers=self.strings if self.graded == "rows" else self.cells, seq_len=length, vocab_size=self.first_depth + (steps[1] - steps[0] + 1 if ranged else 0),
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
