"""hinted: a question about a cycle, as `depo` asks it, with room for a hint; and what a memory that gives the hint is asked.

The context lists a cycle's edges in random order. A *solver* then reads a slot for a hint and the question, and answers; a *memory* reads the question, decides whether
to give a hint, and says it. Both have one vocabulary and window, so that one reads what the other has said:

    solver   PAD … edge edge … edge | PAD … hint <query_k> name <ans>      → the name k steps on
    memory   PAD … edge edge … edge | <query_k> name <hint> hint <end>     → <hint> or <none> behind the question, then the hint
"""
import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.depo.layout import ANS, FIRST_NAME
from sleepnet.tasks.depo.task import Depo
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, tell_rise, whole
from sleepnet.tasks.registry import register

GIVE, ABSTAIN, END = FIRST_NAME, FIRST_NAME + 1, FIRST_NAME + 2  # letters that no name of one token has
EMPTY, RIGHT, WRONG = range(3)
ROLES = ("solver", "memory")
_SLOT = 5  # stream of words, behind depo's


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hinted(Task):
    """Follow a cycle k steps from a node, with a hint, or say the hint. One answer group, graded by `k` and by what stands in the slot: 0 nothing, 1 a right hint, 2 a wrong one.

    A right hint names the last nodes of the way before the answer, so that one step is left; a wrong one as many nodes elsewhere on the cycle. A slot that is not full
    has PAD before the hint, an empty one PAD alone: it is read as no slot is. A memory's decision is drawn evenly, so that what is learnt from examples says nothing of when.

    Attributes:
      role: solver or memory.
      nodes: n, of the cycle.
      hops: K; k ~ U[1, K] in all splits.
      names: V, of one token each.
      room: tokens of the slot.
      told: nodes that a right hint names, or k where that is less.
      shares: per cent of empty slots, of right and of wrong hints; of the solver.
      hops_rise: as depo's.
      window: L; None: the edges', or the question's where that is longer.
    """

    role: str = "solver"
    nodes: int = 8
    hops: int = 4
    names: int = 16
    room: int = 2
    told: int = 1
    shares: tuple[int, int, int] = (50, 35, 15)
    hops_rise: tuple[int, ...] = ()
    window: int | None = None

    name: ClassVar[str] = "hinted"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k", "slot")
    axis_words: ClassVar[Mapping[str, str]] = {"k": "k, hops asked for", "slot": "slot: 0 empty, 1 a right hint, 2 a wrong one"}

    def __post_init__(self) -> None:
        choice("role", self.role, ROLES)
        N, room = whole("nodes", self.nodes, 3), whole("room", self.room, 1)
        require(whole("hops", self.hops, 1) < N, f"hops={self.hops} leads round the cycle of nodes={N}; lower hops, or raise nodes")
        whole("names", self.names, 3)
        require(whole("told", self.told, 1) <= room, f"told={self.told} nodes are longer than the room={room} of the slot; raise room, or lower told")
        require(self.told < N, f"told={self.told} nodes are more than a way on nodes={N} has; lower told")
        shares = self.shares
        good = isinstance(shares, (list, tuple)) and len(shares) == 3 and all(type(share) is int and share >= 0 for share in shares) and sum(shares) == 100
        require(good, f"shares={shares!r} must be per cent of empty slots, right and wrong hints, 100 together, such as (50, 35, 15)")
        asked = room + (3 if self.role == "solver" else 2)
        window = max(2 * N, room + 3) if self.window is None else whole("window", self.window, 1)
        require(room + 3 <= window, f"window={window} can't hold the {room + 3} tokens of a slot with its question; use window={room + 3} or more, or room={max(window - 3, 1)}")
        self._set(window=window, shares=tuple(shares))
        self._set(
            hops_rise=self.depo.hops_rise, answers=1, vocab_size=self.depo.vocab_size, seq_len=self.depo.edge_tokens + asked,
            predicts=(False,) * self.depo.predicts.count(False) + (True,),
        )  # fmt: skip

    @functools.cached_property
    def depo(self) -> Depo:
        """The same cycles and questions without a slot."""
        own = {key: getattr(self, key) for key in ("nodes", "hops", "names", "hops_rise", "window")}
        return Depo(**own, queries=1, name_tokens=(1, 1), nodes_law="fixed", test_hops=tuple(range(1, self.hops + 1)))

    @property
    def edge_tokens(self) -> int:
        """Tokens before the slot or the question, padding included."""
        return self.depo.edge_tokens

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        asked = self.depo.example(seed, split, index)
        context, (query, name, *_) = asked["tokens"][: self.edge_tokens].tolist(), asked["tokens"][self.edge_tokens :].tolist()
        k, after, words = query - self.depo.query_token(1) + 1, self._read_edges(context), philox.stream(self._key(seed, split), index, _SLOT)
        kind, apart = philox.below(next(words), 100), 1 + philox.below(next(words), self.nodes - 1)
        way = [name]
        for _ in range(k):
            way.append(after[way[-1]])
        hint, answer = way[:-1][-self.told :], way[-1]
        if self.role == "memory":
            gives = kind < 50
            said = (hint + [END])[: self.room] if gives else []
            labels = [(GIVE if gives else ABSTAIN), *said]
            tokens = [query, name, labels[0], *(hint if gives else [])][: self.room + 2]
            targets, graded = [PAD] + labels, [False, False] + [True] * len(said[: len(hint)])
            slot = RIGHT
        else:
            slot = EMPTY if kind < self.shares[0] else RIGHT if kind < sum(self.shares[:2]) else WRONG
            for _ in range(apart if slot == WRONG else 0):
                hint = [after[node] for node in hint]
            tokens = [PAD] * self.room + [query, name, ANS]
            if slot != EMPTY:
                tokens[self.room - len(hint) : self.room] = hint
            targets, graded = [PAD] * (self.room + 2) + [answer], [False] * (self.room + 2) + [True]
        fill = lambda values, with_what: np.array(values + [with_what] * (self.seq_len - self.edge_tokens - len(values)))
        behind, before = np.zeros(self.edge_tokens, np.int32), fill(graded, False)
        targets = np.concatenate([behind, fill(targets, PAD)]).astype(np.int32)
        told = bool(before.any())
        return {
            "tokens": np.concatenate([context, fill(tokens, PAD)]).astype(np.int32), "targets": targets, "loss_mask": targets != PAD,
            "answer": np.concatenate([behind - 1, np.where(before, 0, -1)]).astype(np.int32),
            "difficulty": {"k": np.array([k if told else -1], np.int32), "slot": np.array([slot if told else -1], np.int32)},
        }  # fmt: skip

    # The vectorised one.

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        key, index = self._key(seed, split), self._indices(indices)
        asked = self.depo.batch_at(seed, split, indices)["tokens"]
        words, B, E, R = philox.words(key, index, _SLOT, 0, 2), len(index), self.edge_tokens, self.room
        kind = philox.multiply_high(words[:, 0], np.uint64(100)).astype(np.int64)
        apart = 1 + philox.multiply_high(words[:, 1], np.uint64(self.nodes - 1)).astype(np.int64)
        k, way = self._ways(asked, asked[:, E + 1])
        tokens, targets = np.zeros((B, self.seq_len), np.int32), np.zeros((B, self.seq_len), np.int32)
        tokens[:, :E], answer = asked[:, :E], np.full((B, self.seq_len), -1, np.int32)
        if self.role == "memory":
            gives = kind < 50
            hint = np.where(gives[:, None], self._hints(k, way, np.zeros(B, np.int64), left=True), PAD)  # [B, R]
            length = (hint != PAD).sum(1)
            tokens[:, E : E + 2], tokens[:, E + 2] = asked[:, E : E + 2], np.where(gives, GIVE, ABSTAIN)
            tokens[:, E + 3 :], targets[:, E + 1] = hint[:, : R - 1], tokens[:, E + 2]
            targets[:, E + 2 :] = np.where(gives[:, None] & (np.arange(R) == length[:, None]), END, hint)
            answer[:, E + 2 :] = np.where(hint != PAD, 0, -1)
            told, slot = gives, np.full(B, RIGHT)
        else:
            slot = (kind >= self.shares[0]).astype(np.int64) + (kind >= sum(self.shares[:2]))
            hint = self._hints(k, way, np.where(slot == WRONG, apart, 0), left=False)
            tokens[:, E : E + R] = np.where(slot[:, None] == EMPTY, PAD, hint)
            tokens[:, E + R : E + R + 2], tokens[:, -1] = asked[:, E : E + 2], ANS
            targets[:, -1], answer[:, -1], told = way[np.arange(B), k], 0, np.ones(B, bool)
        only = lambda values: np.where(told, values, -1).astype(np.int32)[:, None]
        return {"tokens": tokens, "targets": targets, "loss_mask": targets != PAD, "answer": answer, "difficulty": {"k": only(k), "slot": only(slot)}}

    def _ways(self, tokens: np.ndarray, name: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """k [B], and the nodes 0, 1, … K + n steps from `name` [B] on."""
        row, E = np.arange(len(tokens)), self.edge_tokens
        edges = tokens[:, E - 2 * self.nodes : E].reshape(len(tokens), self.nodes, 2)
        way = [name]
        for _ in range(self.hops + self.nodes):
            way.append(edges[row, (edges[:, :, 0] == way[-1][:, None]).argmax(1), 1])
        return self.asks(tokens), np.stack(way, axis=1)

    def asks(self, tokens: np.ndarray) -> np.ndarray:
        """k of each question, int64 [B], wherever it stands behind the context."""
        behind, first = tokens[:, self.edge_tokens :], self.depo.query_token(1)
        return (np.where(behind >= first, behind, 0).max(1) - first + 1).astype(np.int64)

    def _hints(self, k: np.ndarray, way: np.ndarray, apart: np.ndarray, left: bool) -> np.ndarray:
        """The hint of each row, [B, R], `apart` steps from where it is right; at the left of the slot, or at its right."""
        length, place = np.minimum(k, self.told)[:, None], np.arange(self.room)
        nth = place if left else place - self.room + length
        step = np.clip(k[:, None] - length + nth + apart[:, None], 0, way.shape[1] - 1)
        return np.where((nth >= 0) & (nth < length), np.take_along_axis(way, step, axis=1), PAD).astype(np.int32)

    def oracle(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """What only an oracle knows of a memory's examples: `solution` [B], the right answer, and `right_hint` [B, R], as it stands in a slot; int32 of tokens [B, T]."""
        k, way = self._ways(tokens, tokens[:, self.edge_tokens + 1])
        hint = self._hints(k, way, np.zeros(len(k), np.int64), left=False)
        return {"solution": way[np.arange(len(k)), k].astype(np.int32), "right_hint": hint}

    def solver(self, **changes: Any) -> "Hinted":
        """The same with the role of the solver."""
        return dataclasses.replace(self, role="solver", **changes)

    # The solver that checks.

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        words, targets = tokens.tolist(), np.full(len(tokens), PAD, np.int32)
        after, at = self._read_edges(words[: self.edge_tokens]), next(t for t, word in enumerate(words) if word >= self.depo.query_token(1))
        way = [words[at + 1]]
        for _ in range(words[at] - self.depo.query_token(1) + 1):
            way.append(after[way[-1]])
        if self.role == "solver":
            targets[-1] = way.pop()
            return targets
        targets[at + 1] = words[at + 2]
        if words[at + 2] == GIVE:
            for place, node in enumerate([*way[max(len(way) - 1 - self.told, 0) : -1], END][: self.room]):
                targets[at + 2 + place] = node
        return targets

    def _read_edges(self, words: list[int]) -> dict[int, int]:
        names = [word for word in words if word != PAD]
        return dict(zip(names[::2], names[1::2], strict=True))

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {frozenset(self._read_edges(tokens[: self.edge_tokens].tolist()).items())}

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        ks = range(1, self.hops + 1)
        tokens = {k: min(k, self.told) if self.role == "memory" else 1 for k in ks}
        slots = (RIGHT,) if self.role == "memory" else (EMPTY, RIGHT, WRONG)
        others = self.nodes - (self.role == "solver")
        told = {}
        for name, meaning, share in (
            ("chance", "Any of all names, alike.", 1 / self.names), ("constant", "One name, always.", 1 / self.names),
            ("in_context", "Any name of the context, alike" + (" but the question's own." if self.role == "solver" else "."), 1 / others),
        ):  # fmt: skip
            by = {k: {"label": share, "exact": share ** tokens[k]} for k in ks}
            mean = {metric: sum(scores[metric] for scores in by.values()) / len(by) for metric in ("label", "exact")}
            told[name] = {"meaning": meaning, **mean, "by": {"k": by, "slot": dict.fromkeys(slots, mean)}}
        return told

    # For readers.

    def token(self, number: int) -> str:
        return {GIVE: "<hint>", ABSTAIN: "<none>", END: "<end>"}.get(number) or self.depo.token(number)

    def explain(self) -> str:
        first = f"One directed cycle over {self.nodes} of {self.names} names, its edges in random order, each as `name next_name`. "
        asked = f"k drawn from 1 … {self.hops}{tell_rise(self.hops_rise)}."
        hint = f"the last {self.told} node{'s' * (self.told > 1)} of the way before the answer"
        if self.role == "memory":
            return (
                f"{first}Then the question `<query_k> name`, {asked} Behind it stands whether a hint is given, `<hint>` or `<none>`, drawn evenly in these examples; then the hint, {hint}, "
                f"and `<end>` where less than its room of {self.room} tokens is taken. What a solver would answer is no label here."
            )
        empty, right, wrong = self.shares
        return (
            f"{first}Then a slot of {self.room} tokens for a hint, and the question `<query_k> name <ans>`: the answer is the name k steps on, {asked} "
            f"The slot is empty in {empty} % of the examples; in {right} % it has {hint}; in {wrong} % as many nodes from elsewhere on the cycle."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        words = example["tokens"][self.edge_tokens :].tolist()
        at = next(t for t, word in enumerate(words) if word >= self.depo.query_token(1))
        k, solved = words[at] - self.depo.query_token(1) + 1, self.solve(example["tokens"])[self.edge_tokens :].tolist()
        asks = f"{k} step{'s' * (k != 1)} after ({self.token(words[at + 1])})"
        if self.role == "solver":
            hint = " ".join(self.token(word) for word in words[:at] if word != PAD)
            slot = {EMPTY: "no hint", RIGHT: f"the hint ({hint})", WRONG: f"the wrong hint ({hint})"}[int(example["difficulty"]["slot"][0])]
            return f"With {slot}: {asks} comes ({self.token(solved[-1])})."
        said = [self.token(word) for word in solved[at + 2 :] if word not in (PAD, END)]
        return f"Of what lies {asks}, " + (f"the hint is ({' '.join(said)})." if said else "no hint is given.")
