"""Variable tracking: what number does this variable hold, some assignments on? Memory and depth.

After the variable tracking of RULER (Hsieh et al., arXiv 2404.06654). Each of some chains gives a number to a variable and then
copies it from variable to variable, one statement a copy; statements of all chains stand among noise:

    PAD … PAD  the sky is  x7 = 42  grass go we  x3 = x7 … | x3 x9 …      T = context + queries
    ^ whole windows of L that sleep                        ^ queries

RULER asks for all variables that hold a number. Here a query is a variable and its label the number: the same knowledge, but
every question has exactly one answer of one token and one depth, the copies between the variable and its number.
"""
import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, span, tell_rise, whole
from sleepnet.tasks.machinery.draws import counts, distinct, first_distinct
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, draw_members, empty_split, mix64, mix64_int
from sleepnet.tasks.registry import register

FILLERS = ("the", "grass", "is", "green", "sky", "blue", "sun", "yellow", "here", "we", "go", "again")
EQUALS, FIRST_FILLER = 1, 2
FIRST_NAME = FIRST_FILLER + len(FILLERS)
_NOISE, _NAMES, _VALUES, _ORDER, _FILLERS, _ASKED = range(6)  # streams


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Variables(Task):
    """Tell the numbers that variables hold. One answer group per query, graded by `hops` (copies) and `noise` (statements).

    An instance, of which no other split has the same, is the set of assignments, wherever they stand and whatever is asked.
    In an example no variable is assigned twice, and no two chains have the same number.

    Attributes:
      chains: how many numbers are given out.
      hops: copies in each chain; its variables are 0 … `hops` copies away from the number.
      noise: statements of three random filler words: a number, or (least, most), drawn uniformly per example.
      order: of the statements of a chain: "forward", each after what it copies, or "shuffled".
      queries: how many variables are asked for, drawn alike from all.
      names: how many variables there are to draw from.
      values: how many numbers there are to draw from.
      hops_rise: training examples before variables one copy further away are asked for, for each of the last growths up to
        `hops`; empty: all from the start. A curriculum over the order of the training examples alone; the chains do not grow.
      window: L, whole statements; None: a quarter of the context where that fits and holds the queries, else all of it.
    """

    name: ClassVar[str] = "variables"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("hops", "noise")
    axis_words: ClassVar[Mapping[str, str]] = {"hops": "copies between variable and number", "noise": "statements of noise"}

    chains: int = 4
    hops: int = 4
    noise: int | tuple[int, int] = 20
    order: str = "forward"
    queries: int = 10
    names: int = 50
    values: int = 50
    hops_rise: tuple[int, ...] = ()
    window: int | None = None

    def __post_init__(self) -> None:
        chains, hops, queries = whole("chains", self.chains, 1), whole("hops", self.hops, 1), whole("queries", self.queries, 1)
        least, most = span("noise", self.noise, 0)
        choice("order", self.order, ("forward", "shuffled"))
        names, values, used = whole("names", self.names, 1), whole("values", self.values, 1), chains * (hops + 1)
        require(names >= used, f"chains={chains} with hops={hops} use {used} variables, more than names={names}; use names={used}")
        require(values >= chains, f"chains={chains} need as many numbers, more than values={values}; use values={chains}")
        rise = rising("hops_rise", self.hops_rise, hops + 1)
        first = chains * (hops + 1 - len(rise))
        require(queries <= first, f"queries={queries} are more than the {first} variables to ask for at first; use queries={first}")
        context = 3 * (used + most)
        if self.window is None:
            window = context // 4 if context % 12 == 0 and context // 4 >= queries else context
        else:
            window = whole("window", self.window, 3)
        require(window % 3 == 0, f"window={window} would cut a statement; use window={window // 3 * 3 + 3}")
        require(queries <= window, f"queries={queries} must fit into one window of {window} tokens")
        windows = -(-context // window)
        self._set(
            chains=chains, hops=hops, noise=most if least == most else (least, most), queries=queries, names=names, values=values,
            hops_rise=rise, window=window, answers=queries, vocab_size=FIRST_NAME + names + values,
            seq_len=windows * window + queries, predicts=(False,) * windows + (True,),
        )
        self._check_splits(math.perm(names, used) * math.comb(values, chains))

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) statements of noise."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)

    @property
    def _assignments(self) -> int:
        """How many statements assign: number i is of chain i % chains, i // chains copies from the number."""
        return self.chains * (self.hops + 1)

    @property
    def _context(self) -> int:
        """Tokens before the queries, padding included."""
        return self.seq_len - self.queries

    @property
    def _first_value(self) -> int:
        """The token of the number 1."""
        return FIRST_NAME + self.names

    def asked(self, split: int, index: Any) -> Any:
        """Returns how many variables the queries of the example at `index` are drawn from (a number or an array)."""
        return self.chains * (risen(self.hops_rise, self.hops + 1, index) if split == TRAIN else self.hops + 1)

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        least, most = self._range
        noise = least + philox.below(next(philox.stream(key, index, _NOISE)), most - least + 1)
        assignments = self._program(key, index)
        statements = len(assignments) + noise

        # as many words as the longest context takes, of which the right end counts
        fillers = [FIRST_FILLER + philox.below(word, len(FILLERS)) for word in _first(key, index, _FILLERS, 3 * (len(assignments) + most))]
        text = fillers[len(fillers) - 3 * statements :]
        words = _first(key, index, _ORDER, statements)
        place = sorted(range(statements), key=words.__getitem__)[: len(assignments)]
        for chain in range(self.chains):
            places = place[chain :: self.chains]
            for (target, source), at in zip(assignments[chain :: self.chains], sorted(places) if self.order == "forward" else places):
                text[3 * at : 3 * at + 3] = [target, EQUALS, source]

        words = _first(key, index, _ASKED, int(self.asked(key[1], index)))
        asked = sorted(range(len(words)), key=words.__getitem__)[: self.queries]
        answer = np.array([-1] * self._context + list(range(self.queries)), np.int32)
        return {
            "tokens": np.array([PAD] * (self._context - len(text)) + text + [assignments[i][0] for i in asked], np.int32),
            "targets": np.array([PAD] * self._context + [assignments[i % self.chains][1] for i in asked], np.int32),
            "loss_mask": answer >= 0,
            "answer": answer,
            "difficulty": {
                "hops": np.array([i // self.chains for i in asked], np.int32),
                "noise": np.full(self.queries, noise, np.int32),
            },
        }

    def _program(self, key: tuple[int, int], index: int) -> list[tuple[int, int]]:
        """Returns the first assignments of the split that this example's words give: (target, source) each."""
        for attempt in range(MAX_ATTEMPTS):
            draws = (philox.below(word, self.names) for word in philox.stream(key, index, _NAMES, attempt))
            targets = [FIRST_NAME + name for name in first_distinct(draws, self._assignments)]
            draws = (philox.below(word, self.values) for word in philox.stream(key, index, _VALUES, attempt))
            numbers = [self._first_value + value for value in first_distinct(draws, self.chains)]
            assignments = list(zip(targets, numbers + targets))
            if belongs(mix64_int(sum(mix64_int(target << 32 | source) for target, source in assignments) & philox.MASK64), key[1]):
                return assignments
        raise empty_split(key[1])

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        B, (least, most), count = len(index), self._range, self._assignments
        noise = counts(key, index, _NOISE, least, most)
        program_BxSx2, row = self._programs(key, index), np.arange(B)[:, None]
        tokens, targets = np.full((B, self.seq_len), PAD, np.int32), np.full((B, self.seq_len), PAD, np.int32)

        longest, written = 3 * (count + most), 3 * (count + noise)
        fillers = FIRST_FILLER + philox.multiply_high(philox.words(key, index, _FILLERS, 0, longest), np.uint64(len(FILLERS))).astype(np.int32)
        fillers[np.arange(longest) < longest - written[:, None]] = PAD
        tokens[:, self._context - longest : self._context] = fillers
        place = philox.order(philox.words(key, index, _ORDER, 0, count + most), count + noise)[:, :count]
        if self.order == "forward":
            place = np.sort(place.reshape(B, -1, self.chains), axis=1).reshape(B, -1)
        at = (self._context - written)[:, None] + 3 * place
        tokens[row, at], tokens[row, at + 1], tokens[row, at + 2] = program_BxSx2[..., 0], EQUALS, program_BxSx2[..., 1]

        variables = np.broadcast_to(self.asked(key[1], index.astype(np.int64)), B)
        asked = philox.order(philox.words(key, index, _ASKED, 0, count), variables)[:, : self.queries]
        tokens[:, self._context :] = program_BxSx2[row, asked, 0]
        targets[:, self._context :] = program_BxSx2[row, asked % self.chains, 1]
        answer = np.full((B, self.seq_len), -1, np.int32)
        answer[:, self._context :] = np.arange(self.queries)
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": answer >= 0,
            "answer": answer,
            "difficulty": {
                "hops": (asked // self.chains).astype(np.int32),
                "noise": np.repeat(noise[:, None], self.queries, 1).astype(np.int32),
            },
        }

    def _programs(self, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """Returns the assignments: int64 [B, statements, 2], target and source."""

        def draw(row: np.ndarray, attempt: np.ndarray, stream: int, many: int, kinds: int) -> np.ndarray:
            def read(part: np.ndarray, draws: int) -> np.ndarray:
                words = philox.words(key, index[row[part]], stream, attempt[part], draws)
                return philox.multiply_high(words, np.uint64(kinds)).astype(np.int64)

            return distinct(read, np.full(len(row), many), many, many + 3 * many * many // (2 * kinds))

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            target = FIRST_NAME + draw(row, attempt, _NAMES, self._assignments, self.names)
            number = self._first_value + draw(row, attempt, _VALUES, self.chains, self.values)
            source = np.concatenate([number, target[:, : -self.chains]], 1)
            # a sum over assignments is the same in any order
            assignment = mix64((target << 32 | source).astype(np.uint64)).sum(1, dtype=np.uint64)
            return np.stack([target, source], -1)[:, None], mix64(assignment)[:, None]

        return draw_members(propose, len(index), key[1], 2 * self._assignments)[:, 0]

    most_steps = None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        tokens, row = batch["tokens"], np.arange(len(batch["tokens"]))[:, None]
        held = np.broadcast_to(np.arange(self.vocab_size), (len(tokens), self.vocab_size)).copy()
        b, equals = np.nonzero(tokens == EQUALS)
        held[b, tokens[b, equals - 1]] = tokens[b, equals + 1]
        there = np.zeros(tokens.shape, bool)
        there[b, equals + 1], there[:, self._context :] = True, True
        told, at = np.zeros((len(tokens), most + 1, self.seq_len), np.int32), tokens
        for step in range(most + 1):
            told[:, step] = np.where(there, at, PAD)
            at = held[row, at]
        return told

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        held, words = self._read(tokens), list(map(self.token, tokens.tolist()))
        number, told = {self.token(token): token for token in range(self.vocab_size)}, np.zeros((most + 1, len(tokens)), np.int32)
        for place, word in enumerate(words):
            if place >= self._context or words[place - 1] == "=":
                for step in range(most + 1):
                    told[step, place], word = number[word], held.get(word, word)
        return told

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        held, words = self._read(tokens), list(map(self.token, tokens.tolist()))
        answers = {str(value + 1): self._first_value + value for value in range(self.values)}
        found = []
        for word in words[self._context :]:
            while word in held:
                word = held[word]
            found.append(answers[word])
        return np.array([PAD] * self._context + found, np.int32)

    def _read(self, tokens: np.ndarray) -> dict[str, str]:
        """Returns the assignments as words, read from an example's text."""
        words = list(map(self.token, tokens[: self._context].tolist()))
        return {words[i - 1]: words[i + 1] for i, word in enumerate(words) if word == "="}

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {frozenset(self._read(tokens).items())}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        (least, most), found = self._range, {}
        for name, meaning, direct, far in (
            ("chance", "Any of all numbers, alike.", 1 / self.values, 1 / self.values),
            ("constant", "One number, always: all are alike.", 1 / self.values, 1 / self.values),
            ("in_context", "Any number of the context, alike.", 1 / self.chains, 1 / self.chains),
            ("own_number", "The variable's own number, or any of the context where it is a copy.", 1.0, 1 / self.chains),
        ):
            by = {hops: dict.fromkeys(("label", "exact"), far if hops else direct) for hops in range(self.hops + 1)}
            mean = dict.fromkeys(("label", "exact"), (direct + self.hops * far) / (self.hops + 1))
            found[name] = {"meaning": meaning, **mean, "by": {"hops": by, "noise": dict.fromkeys(range(least, most + 1), mean)}}
        return found

    # For readers.

    def token(self, number: int) -> str:
        if number < FIRST_NAME:
            return ("PAD", "=", *FILLERS)[number]
        return f"x{number - FIRST_NAME + 1}" if number < self._first_value else str(number - self._first_value + 1)

    def explain(self) -> str:
        least, most = self._range
        noise = f"{most}" if least == most else f"{least} … {most}"
        order = "each after what it copies" if self.order == "forward" else "in any order"
        return (
            f"{self.chains} chains: each gives a number of 1 … {self.values} to a variable (`x7 = 42`) and copies it {self.hops} times from variable "
            f"to variable (`x3 = x7`), {order}. The statements stand at random places among {noise} of noise, three filler words "
            f"each, padded on the left. Then {self.queries} of the variables x1 … x{self.names} that were assigned; the label of each is "
            f"the number it holds.{tell_rise(self.hops_rise)}"
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        held, lines = self._read(example["tokens"]), []
        for token, hops in zip(example["tokens"][self._context :].tolist(), example["difficulty"]["hops"]):
            path = [self.token(token)]
            while path[-1] in held:
                path.append(held[path[-1]])
            lines.append(f"{' = '.join(path)}: {'no copy' if hops == 0 else '1 copy' if hops == 1 else f'{hops} copies'}.")
        return "\n".join(lines)


def _first(key: tuple[int, int], index: int, stream: int, count: int) -> list[int]:
    """Returns the first words of a stream."""
    return list(itertools.islice(philox.stream(key, index, stream), count))
