"""A stream of skills: cellular automata told by example rows, whose rule tables overlap. What is kept of one where the next one is learnt?

A rule says which cell follows on three neighbours: a table of eight entries, as Rule 110 is one. Each skill of a stream is a rule that agrees with the one before
it in `overlap` of the eight. An example does not name its rule, it shows it; the first row shown has each of the eight neighbourhoods once:

    skill   row 1 0 0 0 1 0 1 1 1 0 next 0 1 1 0 1 1 0 1   row 0 1 … next …   ask 1 1 0 1 0 0 1 0 1 0 next ? ? ? ? ? ? ? ?

The eight cells of `?` are asked for; those at the ends of a row have no two neighbours, and nothing follows on them. All of it is one window that predicts.
"fresh" examples have any of the 256 tables, so that a model can learn to read the rule; a "stream" has its own few, one after the other, drawn from `content`.
Made for SETA (arXiv 2606.07500), of which the abstract is known, not the streams; how much two skills have in common is dialled here.
"""
import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet import seeds
from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox, turns
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register
from sleepnet.tasks.skills import rules
from sleepnet.tasks.skills.rules import CELLS, ENTRIES, WIDTH

SKILL, ROW, NEXT, ASK, BLANK, ZERO = range(1, 7)
NAMED = ZERO + 2  # the first skill's own word
_TABLE, _SHOWN, _ROWS, _TURN, _REPLAY, _FIRST, _FLIPS = range(7)  # streams
_CONTENT = 3  # beside a content's number where the seed has the split's: no split draws these words
_SHOWN_ROWS = 2
_STRIDE = 1 + WIDTH + 1 + CELLS
_ASKED = 1 + _SHOWN_ROWS * _STRIDE
_WORDS = ("PAD", "skill", "row", "next", "ask", "?", "0", "1")


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Skills(Task):
    """Say which row follows. One answer group, its eight cells, graded by `day`, from 1: the skill of a stream, which is the day that it is learnt on.

    An instance, of which no other split has the same, is the table with the rows that are shown and asked.

    Attributes:
      kind: "fresh": any table in every example, to learn the reading from; or "stream": D skills, one after the other.
      days: D; None: 6, of fresh examples 1.
      overlap: entries in which each table of a stream agrees with the one before; the tables all differ, but for 8.
      content: which tables, a number like a seed; neither seed nor split changes them. Nothing of fresh examples.
      tells: whether the first word names the skill, for what is to know it without a look at the rows.
      per_day: training examples of a day: example i is of day i // per_day; behind the last day it is the first's turn again. Of a stream.
      order: of a stream's training: "given", one after the other, "shuffled", in an order that the seed draws, or "mixed", taking turns.
      replay: per cent of training examples that are of a day before instead, one of its first `kept`.
      kept: of each day before; see replay.
      window: L.
    """

    name: ClassVar[str] = "skills"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("day",)
    axis_words: ClassVar[Mapping[str, str]] = {"day": "the day that the skill is learnt on"}
    reorders: ClassVar[tuple[str, ...]] = ("order", "replay", "kept", "tells")

    kind: str = "fresh"
    days: int | None = None
    overlap: int = 4
    content: int = 0
    tells: bool = False
    per_day: int = 3200
    order: str = "given"
    replay: int = 0
    kept: int = 32
    window: int = 64

    def __post_init__(self) -> None:
        kind = choice("kind", self.kind, ("fresh", "stream"))
        stream = kind == "stream"
        days = whole("days", (6 if stream else 1) if self.days is None else self.days, 1, 256)
        require(stream or days == 1, f"days={days} says nothing where kind='fresh': every example has a table of its own; leave it out")
        turns.fresh_says_nothing_of(self, "content", "overlap", "tells")
        require(isinstance(self.tells, bool), f"tells={self.tells!r} must be True or False")
        self._set(
            kind=kind, days=days, overlap=whole("overlap", self.overlap, 0, ENTRIES), content=seeds.check("content", self.content), window=whole("window", self.window, 4),
            **turns.checked(self),
        )  # fmt: skip
        length = _ASKED + _STRIDE
        require(length <= self.window, f"window={self.window} can't hold the {length} tokens of an example; use window={length}")
        self._set(vocab_size=NAMED + days, seq_len=length, answers=1, predicts=(True,))
        self.tables  # noqa: B018 refuses what can't be drawn

    @property
    def stream(self) -> bool:
        return self.kind == "stream"

    @functools.cached_property
    def tables(self) -> tuple[int, ...]:
        """Of a stream, day by day; () of fresh examples."""
        return rules.tables((self.content, _CONTENT), _FIRST, _FLIPS, self.days, self.overlap) if self.stream else ()

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        day, number = turns.turn_of(self, key, index, turn=_TURN, replay=_REPLAY) if self.stream else (0, index)
        for attempt in range(MAX_ATTEMPTS):
            table = self.tables[day] if self.stream else philox.below(next(philox.stream(key, number, _TABLE, attempt)), 2**ENTRIES)
            shown = int(rules.showing()[philox.below(next(philox.stream(key, number, _SHOWN, attempt)), len(rules.showing()))])
            words = philox.stream(key, number, _ROWS, attempt)
            rows = [shown, *(philox.below(next(words), 2**WIDTH) for _ in range(_SHOWN_ROWS))]
            mixed = table
            for row in rows:
                mixed = mix64_int(mixed ^ row)
            if belongs(mixed, key[1]):
                break
        else:
            raise empty_split(key[1])
        tokens, targets, answer = np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, -1, np.int32)
        tokens[0] = NAMED + day if self.tells else SKILL
        for place, row in enumerate(rows):
            cells = [row >> (WIDTH - 1 - i) & 1 for i in range(WIDTH)]
            follow = [table >> (4 * a + 2 * b + c) & 1 for a, b, c in zip(cells, cells[1:], cells[2:])]
            asked, at = place == _SHOWN_ROWS, 1 + place * _STRIDE
            tokens[at : at + _STRIDE] = [ASK if asked else ROW, *(ZERO + cell for cell in cells), NEXT, *([BLANK] * CELLS if asked else (ZERO + cell for cell in follow))]
            if asked:
                targets[at + 2 + WIDTH : at + _STRIDE] = [ZERO + cell for cell in follow]
                answer[at + 2 + WIDTH : at + _STRIDE] = 0
        return {"tokens": tokens, "targets": targets, "loss_mask": targets != PAD, "answer": answer, "difficulty": {"day": np.array([day + 1], np.int32)}}

    # The path for many examples: the same words, read at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        day, number = turns.turns(self, key, index, turn=_TURN, replay=_REPLAY) if self.stream else (np.zeros(len(index), np.int64), index)
        of_day = np.array(self.tables or (0,), np.int64)[day]
        under = lambda row, stream, attempt, count, bound: philox.multiply_high(philox.words(key, number[row], stream, attempt, count), np.uint64(bound)).astype(np.int64)

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            table = of_day[row] if self.stream else under(row, _TABLE, attempt, 1, 2**ENTRIES)[:, 0]
            shown = rules.showing()[under(row, _SHOWN, attempt, 1, len(rules.showing()))[:, 0]]
            drawn = np.concatenate([table[:, None], shown[:, None], under(row, _ROWS, attempt, _SHOWN_ROWS, 2**WIDTH)], axis=1)
            mixed = table.astype(np.uint64)
            for rows in drawn[:, 1:].T.astype(np.uint64):
                mixed = mix64(mixed ^ rows)
            return drawn[:, None], mixed[:, None]

        drawn = draw_members(propose, len(index), key[1], 2 + 2 * _SHOWN_ROWS)[:, 0]
        table, rows = drawn[:, 0], drawn[:, 1:]
        cells, follow = ZERO + (rows[..., None] >> np.arange(WIDTH - 1, -1, -1) & 1), ZERO + rules.after(table[:, None], rows)
        tokens, targets, answer = np.full((len(index), self.seq_len), PAD, np.int32), np.full((len(index), self.seq_len), PAD, np.int32), np.full((len(index), self.seq_len), -1, np.int32)
        tokens[:, 0] = NAMED + day if self.tells else SKILL
        for place in range(_SHOWN_ROWS + 1):
            asked, at = place == _SHOWN_ROWS, 1 + place * _STRIDE
            tokens[:, at], tokens[:, at + 1 + WIDTH] = ASK if asked else ROW, NEXT
            tokens[:, at + 1 : at + 1 + WIDTH] = cells[:, place]
            tokens[:, at + 2 + WIDTH : at + _STRIDE] = BLANK if asked else follow[:, place]
        targets[:, -CELLS:], answer[:, -CELLS:] = follow[:, -1], 0
        return {"tokens": tokens, "targets": targets, "loss_mask": targets != PAD, "answer": answer, "difficulty": {"day": (day + 1).astype(np.int32)[:, None]}}

    # The solver reads the rule off the rows that are shown.

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        words = [self.token(int(token)) for token in tokens]
        rule: dict[str, str] = {}
        for at, word in enumerate(words):
            if word == "row":
                row, follow = words[at + 1 : at + 1 + WIDTH], words[at + 2 + WIDTH : at + _STRIDE]
                rule |= {"".join(row[i : i + 3]): cell for i, cell in enumerate(follow)}
        asked = words[words.index("ask") + 1 :][:WIDTH]
        targets = np.full(self.seq_len, PAD, np.int32)
        targets[-CELLS:] = [_WORDS.index(rule["".join(asked[i : i + 3])]) for i in range(CELLS)]
        return targets

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {tokens[1:].tobytes()}

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        meanings = {"chance": "Either cell alike.", "constant": "One cell always, the better one.", "before": "By the table of the day before."}
        found = rules.guessed(self.tables or tuple(range(2**ENTRIES)))
        if not self.stream:
            found = {name: [tuple(np.mean(scores, axis=0).tolist())] for name, scores in found.items() if name != "before"}
        named = lambda score: {"label": score[0], "exact": score[1]}
        mean = lambda scores: named(np.mean(scores, axis=0).tolist())
        return {name: {"meaning": meanings[name], **mean(scores), "by": {"day": {day: named(score) for day, score in enumerate(scores, 1)}}} for name, scores in found.items()}

    # For readers.

    def token(self, number: int) -> str:
        return _WORDS[number] if number < NAMED else f"s{number - NAMED + 1}"

    def explain(self) -> str:
        shown = f"{_SHOWN_ROWS} rows of {WIDTH} cells with the {CELLS} that follow, in the first of which each entry of the rule's table stands once"
        if not self.stream:
            return f"Every example has one of the {2**ENTRIES} rules, and shows {shown}. Then a row is asked."
        order = {"given": "one day after the other", "shuffled": "one day after the other, in an order that the seed draws", "mixed": "the days taking turns"}[self.order]
        replay = f", but {self.replay} % of the examples are one of the first {self.kept} of a day before" if self.replay else ""
        named = "The first word names the skill." if self.tells else "No word names the skill."
        return (
            f"A stream of {self.days} skills, content {self.content}: rules {', '.join(map(str, self.tables))}, each of which agrees with the one before in {self.overlap} of {ENTRIES} entries. "
            f"An example shows {shown}; then a row is asked. {named} Training has {self.per_day:,} examples a day, {order}{replay}."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        word = lambda array: "".join(self.token(int(token)) for token in array)
        day = f"Day {int(example['difficulty']['day'][0])}: o" if self.stream else "O"
        return f"{day}n {word(example['tokens'][_ASKED + 1 : _ASKED + 1 + WIDTH])} follows {word(example['targets'][-CELLS:])}."
