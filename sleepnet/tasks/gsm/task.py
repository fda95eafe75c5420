"""GSM-Infinite-style problems: a few sentences of a long text lead to a number, the others lead nowhere.

After the idea of Zhou et al., GSM-Infinite, arXiv 2502.05252, written anew, and in the layout of Lee et al., arXiv 2605.26099. A
text names quantities and says what each equals:

    What is the number of jars in Ashford? The number of bags in Dalton equals 3. The number of jars in Ashford equals 2 more than
    the number of bags in Dalton. The number of tins in Upton equals 4 times the number of jars in Ashford. Answer: → 5

`ops` counts the quantities that the sentences on the way to the answer refer to, each time. "The number of containers in P" is
the sum over all containers in P that the text gives a number for; with `depth=3`, "the number of coins in P" is the sum over
all "coins in each jar in P" times "jars in P". In reverse one leaf "is not known", a total is told, and the leaf is asked for.

    PAD … PAD question sentence sentence … sentence Answer:             windows of L from the left; the last one predicts
    PAD … PAD sentence … sentence | PAD … PAD question Answer:          question="last", answer_alone=True
    … sentence Solution: The number of bags in Dalton = 3 . … Answer:   chain_of_thought=True

A size for a CPU, 128 tokens in windows of 32: ops=(1, 3), length=(60, 120), places=8, things=8, limit=60, fillers="alike", window=32.
"""
import dataclasses
import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Grammar, Task
from sleepnet.tasks.gsm.fillers import Filler
from sleepnet.tasks.gsm.graph import LARGEST_CONSTANT, Die, die
from sleepnet.tasks.gsm.guesses import guesses
from sleepnet.tasks.gsm.problem import Names, Problem, draw_problem, fingerprint, name_all
from sleepnet.tasks.gsm.reader import Name, Reading, sentences, spelt
from sleepnet.tasks.gsm.text import Writer, longest_name, longest_problem, longest_solution, shortest_sentence
from sleepnet.tasks.gsm.words import ANSWER, MOST_PARTS, MOST_PLACES, MOST_THINGS, SOLUTION, Vocabulary
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, risen, rising, span, tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, SPLITS, TRAIN, belongs, empty_split
from sleepnet.tasks.registry import register

_SIZE, _PROBLEM, _NAMES, _FILLERS, _ORDER, _SAMPLE = range(6)  # streams
_NAMINGS = 256  # of one problem, before another is drawn
_MOST_OPS = 8  # of the sizes reported; with more a number above 1,000 is too often on the way
_PER_CELL = 1500  # problems of each number of ops that the baselines are counted over


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gsm(Task):
    """Follow the sentences that lead to a quantity. One answer group, a number of one token, graded by `ops` and by `reverse`.

    An instance, of which no other split has the same, is the question with the sentences that the answer hangs on, whatever
    their order and whatever stands between: other fillers make no new problem. The names belong to it: without them one op
    makes a few dozen problems, and to hold one out would be to hold out a sum.

    Attributes:
      ops: a number, or (least, most), drawn uniformly per example; 0: the text tells the answer, which has but to be found.
      ops_rise: training examples before the most ops drawn grow by one, for each of the last growths up to `ops[1]`; empty: the
        whole range throughout. A curriculum over the order of the training examples alone.
      depth: 2: towns and containers; 3: also what lies in each container.
      direction: "forward", "reverse", or "both", drawn evenly per example. In reverse the answer is one of 1 … 4, as a leaf is.
      question: "first" or "last".
      chain_of_thought: write the solution step by step before the answer: learned, not graded.
      length: (least, most) tokens of question and sentences. A length is drawn uniformly and filled; a rest too short for any
        sentence stays out. A problem that is longer than the length drawn gets no filler.
      fillers: "plain": of other towns, containers and contents than the problem, and not about it; "alike": of the same words
        in the same forms, many of them about the problem's quantities. Only what reverse adds stands in the problem alone: the
        sentence of what is not known, and the total told.
      places, things, parts: how many towns, containers and contents a problem is made of; plain fillers are made of as many others.
      limit: the largest number; problems with larger ones on the way are drawn again.
      answer_alone: let all sentences sleep: the last window holds the answer, with the question if it stands last, and no more.
      window: L.
    """

    name: ClassVar[str] = "gsm"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("ops", "reverse")
    axis_words: ClassVar[Mapping[str, str]] = {"ops": "operations on the way to the answer", "reverse": "0 forward, 1 reverse"}

    ops: int | tuple[int, int] = (1, 8)
    ops_rise: tuple[int, ...] = ()
    depth: int = 2
    direction: str = "forward"
    question: str = "first"
    chain_of_thought: bool = False
    length: tuple[int, int] = (2000, 3300)
    fillers: str = "plain"
    places: int = 32
    things: int = 16
    parts: int = 16
    limit: int = 1000
    answer_alone: bool = False
    window: int = 2000

    def __post_init__(self) -> None:
        least, most = span("ops", self.ops, 0, _MOST_OPS)
        rise = rising("ops_rise", self.ops_rise, most - least + 1)
        depth = whole("depth", self.depth, 2, 3)
        choice("direction", self.direction, ("forward", "reverse", "both"))
        require(least or self.direction == "forward", f"direction={self.direction!r} hides a number that others follow from; use ops from 1 on, or direction='forward'")
        choice("question", self.question, ("first", "last"))
        choice("fillers", self.fillers, ("plain", "alike"))
        for key in ("chain_of_thought", "answer_alone"):
            require(isinstance(getattr(self, key), bool), f"{key}={getattr(self, key)!r} must be True or False")
        places, things = whole("places", self.places, 4, MOST_PLACES), whole("things", self.things, 4, MOST_THINGS)
        parts, window = whole("parts", self.parts, 1, MOST_PARTS), whole("window", self.window, 1)
        limit = whole("limit", self.limit, 10 * max(most, 1), 1000)
        length = self.length
        require(isinstance(length, (list, tuple)) and len(length) == 2, f"length={length!r} must be a pair (least, most), such as (60, 120)")
        shortest = whole("length[0]", length[0], 1)
        longest = whole("length[1]", length[1], shortest)
        fits = max(longest_problem(most, depth), shortest + shortest_sentence() - 1)
        require(longest >= fits, f"length={(shortest, longest)} can't hold every problem of ops={most}; use length=({shortest}, {fits})")
        named, sentences = (places - places // 4) * things, longest // shortest_sentence()
        require(
            named >= sentences,
            f"places={places} with things={things} name {named} quantities outside totals, fewer than the {sentences} sentences of "
            f"length={(shortest, longest)}; raise places or things",
        )

        tail = 1 + (longest_solution(most, depth, self.direction != "forward") if self.chain_of_thought else 0)
        tail += (longest_name(depth) + 3) * (self.question == "last" and self.answer_alone)
        require(tail <= window, f"window={window} can't hold the {tail} tokens from which the answer follows; use window={tail}")
        windows = -(-(longest + (0 if self.answer_alone else tail)) // window)
        predicts = (False,) * windows + (True,) if self.answer_alone else (False,) * (windows - 1) + (True,)
        self._set(
            ops=most if least == most else (least, most), ops_rise=rise, length=(shortest, longest), window=window, limit=limit,
            depth=depth, places=places, things=things, parts=parts, predicts=predicts, seq_len=windows * window + tail * self.answer_alone, vocab_size=len(self._vocabulary.words), answers=1,
        )
        self._check_splits(named * (named - 1 if least else LARGEST_CONSTANT))

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        times = 2 if self.fillers == "plain" else 1
        return Vocabulary(times * self.places, times * self.things, times * self.parts * (self.depth == 3), self.limit)

    @functools.cached_property
    def _writer(self) -> Writer:
        return Writer(self._vocabulary)

    @property
    def _range(self) -> tuple[int, int]:
        """(least, most) ops."""
        return self.ops if isinstance(self.ops, tuple) else (self.ops, self.ops)

    def most_ops(self, index: Any) -> Any:
        """Returns the most ops of the training example at `index` (a number or an array)."""
        least, most = self._range
        return least - 1 + risen(self.ops_rise, most - least + 1, index)

    def _names(self, fillers: bool = False) -> Names:
        """Returns names to take: of a problem, or of plain fillers."""
        return Names(*(range(fillers * count, count + fillers * count) for count in (self.places, self.things, self.parts)))

    @property
    def answer_marker(self) -> int:
        return self._vocabulary.tokens(ANSWER)[-1]

    @property
    def opening(self) -> int | None:
        alone = self.chain_of_thought and self.answer_alone and self.question == "first"
        return self._vocabulary.tokens(SOLUTION)[0] if alone else None

    @property
    def grammar(self) -> Grammar | None:
        told = self.chain_of_thought and self.direction == "forward"
        words = [self._vocabulary.tokens(word)[0] for word in "The = . + - × ( )".split()]
        return Grammar(*words[:3], self._vocabulary.number, *words[3:]) if told else None

    def milestones(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.grammar is None:
            return super().milestones(tokens)
        rows, most = len(tokens), self._range[1] + 1
        names, values = np.full((rows, most, longest_name(self.depth) - 1), PAD, np.int32), np.full((rows, most), PAD, np.int32)
        needs = np.zeros((rows, most, most), bool)
        for row, reading in enumerate(map(self._read, tokens)):
            core, known = reading.core(), {}
            for at, name in enumerate(core):
                words = self._vocabulary.tokens(spelt(name))
                names[row, at, : len(words)] = words
                values[row, at] = self._vocabulary.number + reading.value(name, 0, known)
                needs[row, at, [core.index(other) for other in reading.needs(name)]] = True
        return names, values, needs

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        size = die(philox.stream(key, index, _SIZE))
        (least, most), (shortest, longest) = self._range, self.length
        ops = least + size((int(self.most_ops(index)) if key[1] == TRAIN else most) - least + 1)
        reverse = bool(size(2)) if self.direction == "both" else self.direction == "reverse"
        # a rest that is too short for any sentence stays out
        shortest += shortest_sentence() - 1
        room = shortest + size(longest - shortest + 1)

        problem, names = self._member(key, index, ops, reverse)
        write, alike = self._writer, self.fillers == "alike"
        question, sentences = write.question(problem), write.sentences(problem)
        words = philox.stream(key, index, _FILLERS)
        filler = Filler(
            die(words), problem, names if alike else self._names(True), ops=range(least, most + 1), depth=self.depth, limit=self.limit, alike=alike
        )
        filler.fill(room - len(question) - sum(map(len, sentences)))
        sentences += map(write.sentence, filler.statements)
        places = list(itertools.islice(philox.stream(key, index, _ORDER), len(sentences)))
        text = [token for at in sorted(range(len(sentences)), key=places.__getitem__) for token in sentences[at]]
        tail = write.solution(problem) if self.chain_of_thought else []
        learned = len(tail)  # of a solution all but its first word, and what follows it
        tail = tail + self._vocabulary.tokens(ANSWER)
        text, tail = (question + text, tail) if self.question == "first" else (text, question + tail)

        tokens, sleeps = np.full(self.seq_len, PAD, np.int32), self.predicts.count(False) * self.window
        if self.answer_alone:
            tokens[sleeps - len(text) : sleeps] = text
        else:
            tail = text + tail
        tokens[self.seq_len - len(tail) :] = tail
        targets, answer = np.full(self.seq_len, PAD, np.int32), np.full(self.seq_len, -1, np.int32)
        targets[-1 - learned :] = [*tokens[self.seq_len - learned :], self._vocabulary.number + problem.answer]
        answer[-1] = 0
        return {
            "tokens": tokens,
            "targets": targets,
            "loss_mask": targets != PAD,
            "answer": answer,
            "difficulty": {"ops": np.array([ops], np.int32), "reverse": np.array([reverse], np.int32)},
        }

    def _member(self, key: tuple[int, int], index: int, ops: int, reverse: bool) -> tuple[Problem, Names]:
        """Returns the first problem of the split that this example's words give, and the names it takes."""
        for attempt in range(0, MAX_ATTEMPTS, _NAMINGS):
            problem = self._draw(die(philox.stream(key, index, _PROBLEM, attempt)), ops, reverse)
            roles, throw = problem.roles(), die(philox.stream(key, index, _NAMES, attempt))
            for _ in range(_NAMINGS):
                names = self._names()
                found = name_all(throw, problem.statements, names)
                if belongs(fingerprint(roles, found), key[1]):
                    return problem.named(found), names
        raise empty_split(key[1])

    def _draw(self, throw: Die, ops: int, reverse: bool) -> Problem:
        """Returns a problem without names."""
        totals = self._names().most_closed
        return draw_problem(throw, ops, depth=self.depth, reverse=reverse, totals=totals, things=self.things, limit=self.limit)

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        # a graph is drawn step by step: there is no vectorised path, and hundreds of long examples a second are enough
        examples = [self.example(seed, split, int(index)) for index in self._indices(indices)]
        stacked = {field: np.stack([example[field] for example in examples]) for field in ("tokens", "targets", "loss_mask", "answer")}
        difficulty = {axis: np.stack([example["difficulty"][axis] for example in examples]) for axis in self.difficulty_axes}
        return {**stacked, "difficulty": difficulty}

    most_steps = None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        # as for examples, there is no vectorised path
        told = np.zeros((len(batch["tokens"]), most + 1, self.seq_len), np.int32)
        for row, tokens in enumerate(batch["tokens"]):
            reading, values = self._read(tokens), {}
            for name, place in self._sentences(tokens):
                since = reading.rounds(name)
                if since <= most and 0 <= reading.value(name, 0, values) <= self.limit:
                    told[row, int(since) :, place] = self._vocabulary.number + values[name]
        return told

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        told = np.zeros((most + 1, self.seq_len), np.int32)
        for step, known in enumerate(self._read(tokens).rounds_of_all(most)):
            for name, place in self._sentences(tokens):
                if 0 <= known.get(name, -1) <= self.limit:
                    told[step, place] = self._vocabulary.number + known[name]
        return told

    def _sentences(self, tokens: np.ndarray) -> list[tuple[Name, int]]:
        """Returns what each sentence that ends in a window which sleeps is about, and where its full stop stands."""
        return [(name, at) for name, at in sentences([self.token(token) for token in tokens.tolist()]) if not self.predicts[at // self.window]]

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        targets = np.full(self.seq_len, PAD, np.int32)
        if self.chain_of_thought:
            start = int(np.flatnonzero(tokens == self._vocabulary.tokens(SOLUTION)[0])[0])
            targets[start:-1] = tokens[start + 1 :]
        targets[-1] = self._vocabulary.number + self._read(tokens).answer()
        return targets

    def _read(self, tokens: np.ndarray) -> Reading:
        return Reading(self._vocabulary.text(tokens))

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {self._read(tokens).instance()}

    # What guessing scores.

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        (least, most), reverses = self._range, {"forward": [0], "reverse": [1], "both": [0, 1]}[self.direction]
        # as the examples have it, all values of ops and of reverse are as frequent
        problems = {cell: self._sample(*cell) for cell in itertools.product(range(least, most + 1), reverses)}
        return guesses(problems, self.difficulty_axes, self.limit)

    def _sample(self, ops: int, reverse: int) -> list[Problem]:
        """Returns fresh problems without names: answers do not depend on these, nor on the split."""
        throw = die(philox.stream((0, SPLITS["test"]), ops, _SAMPLE, reverse))
        return [self._draw(throw, ops, bool(reverse)) for _ in range(_PER_CELL)]

    # For readers.

    def token(self, number: int) -> str:
        return self._vocabulary.words[number]

    def explain(self) -> str:
        least, most = self._range
        reverse = "one number is said not to be known, what follows from it is told, and that number, 1 … 4, is asked for"
        parts = ' "The number of coins in P" is the sum, over the containers there, of how many they are times the coins told of in each.'
        return (
            'A text says what some quantities equal: a number, or [so many more than | so many times] another, the sum of two or their '
            'difference. "The number of containers in P" is the sum over all containers in P that the text gives a number for.'
            f"{parts if self.depth == 3 else ''} The question, which stands {self.question}, asks for one quantity"
            + {"forward": "", "reverse": f": {reverse}", "both": f"; in every second text {reverse}"}[self.direction]
            + f". The answer hangs on sentences that refer {least if least == most else f'{least} … {most}'} times to another quantity, "
            f"a sum to all that it adds{tell_rise(self.ops_rise)}; it needs none of the others, which "
            + ("are about other towns and containers." if self.fillers == "plain" else "are of the same words, and may be about its quantities.")
            + f" Question and sentences have {self.length[0]} … {self.length[1]} tokens; paddings stand before them. At `{ANSWER}` the number, one "
            f"token, must be predicted{', and before it the solution step by step' if self.chain_of_thought else ''}."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        reading = self._read(example["tokens"])
        lines = [f"Question: {reading.question}", f"Answer: {self.token(int(example['targets'][-1]))}", "It follows in this order:"]
        return "\n".join(lines + [f"  {line}" for line in reading.steps()])
