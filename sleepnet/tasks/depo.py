"""Depo: multi-hop retrieval on a directed cycle whose edges are given in random order.

After Allen-Zhu, Physics of Language Models, part 4.1 (Depo1 and Depo2), in the layout of Lee et al., arXiv 2605.26099.
n distinct names form one directed cycle. The context lists its n edges in random order, each as `name next_name` with no
separators; then come up to `queries` questions `<query_k> name <ans> answer`, whose answer lies k steps on.

A name has `name_tokens` = (least, most) tokens out of `names` letters; its last token is shifted by `names`, so names
are prefix-free. Duplicates are drawn again. Edges are padded on the left and queries on the right:

    PAD … PAD  edge edge … edge | query query … query PAD … PAD
    ^ a whole number of windows   ^ one window, or less
"""
import bisect
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks import philox
from sleepnet.tasks.base import PAD, Task, belongs, draw_members, empty_split, attempts, mix64, mix64_int, require
from sleepnet.tasks.registry import register

BOS, ANS, FIRST_NAME = 1, 2, 3  # BOS is reserved: the published layout, 300 + 60 = 360 tokens, has no room for it
_SIZE, _NAMES, _EDGES, _STARTS, _HOPS = range(5)  # streams
_PAPER_WINDOW = 75
_MOST_NAMES = 2**40  # a name is drawn from one 64-bit word; more names would be drawn unevenly
_EDGE = 0xD6E8FEB86659FD93  # odd: tells the two ends of an edge apart


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Depo(Task):
    """Follow a cycle k steps from a node. One answer group per query, graded by `k` and by the cycle's size `n`.

    There is a loss where `<ans>` or an answer token must be predicted; only answer tokens are graded.
    Training draws k ~ U[1, hops] and n by `nodes_law`; validation and test draw k ~ U(test_hops) and have n = nodes.

    Attributes:
      nodes: N, the most nodes of a cycle.
      hops: K, the most steps of a query.
      queries: M; an example asks min(n, M) queries, with distinct start nodes.
      names: V, the letters names are made of; the vocabulary holds 2V name tokens.
      name_tokens: (least, most) tokens of a name; the length is drawn uniformly, then each letter.
      min_nodes: least n under `nodes_law="inverse"`.
      nodes_law: of n in training: "inverse", p ∝ 1 / (n + √N), or "fixed", n = N.
      test_hops: the k of validation and test; None: the powers of two up to `hops`.
      window: L; None: 75 (the paper's) where the edges fill more than one such window exactly and the queries fit into
        one, else one window for all edges and one for all queries, whichever is longer.
    """

    name: ClassVar[str] = "depo"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k", "n")

    nodes: int = 75
    hops: int = 16
    queries: int = 10
    names: int = 50
    name_tokens: tuple[int, int] = (1, 2)
    min_nodes: int = 3
    nodes_law: str = "inverse"
    test_hops: tuple[int, ...] | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        least, most = lengths = tuple(self.name_tokens)
        hops = tuple(self.test_hops or (2**i for i in range(self.hops.bit_length())))
        edges, asked = self.nodes * 2 * most, self.queries * (2 + 2 * most)
        paper = edges > _PAPER_WINDOW and edges % _PAPER_WINDOW == 0 and asked <= _PAPER_WINDOW
        window = self.window or (_PAPER_WINDOW if paper else max(edges, asked))
        edges = -(-edges // window) * window
        self._set(
            name_tokens=lengths, test_hops=hops, window=window, answers=self.queries,
            vocab_size=FIRST_NAME + 2 * self.names + self.hops, seq_len=edges + asked,
            predicts=(False,) * (edges // window) + (True,),
        )

    @functools.cached_property
    def _first_id(self) -> list[int]:
        """A name is a number: those of `least` tokens come first. [i] is the first number of length least + i."""
        least, most = self.name_tokens
        return [sum(self.names**j for j in range(least, length)) for length in range(least, most + 2)]

    @functools.cached_property
    def _size_thresholds(self) -> list[int]:
        """The law of n, cumulated, in units of 2**-53; without the last entry."""
        if self.nodes_law == "fixed":
            return []
        sizes = np.arange(self.min_nodes, self.nodes + 1)
        weights = 1 / (sizes + np.sqrt(self.nodes))
        return [int(x) for x in np.floor(np.cumsum(weights / weights.sum())[:-1] * 2**53)]

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key = self._key(seed, split)
        n, cycle = self._cycle(key, index)
        names = [self._spell(number) for number in cycle]
        edge_words, start_words, hop_words = (philox.stream(key, index, s) for s in (_EDGES, _STARTS, _HOPS))

        context = []
        for i in _order(edge_words, n):
            context += names[i] + names[(i + 1) % n]
        edges = len(self.predicts[:-1]) * self.window
        tokens = [PAD] * (edges - len(context)) + context

        is_label, answer, ks = [False] * edges, [-1] * edges, []
        for group, start in enumerate(_order(start_words, n)[: self.queries]):
            word = next(hop_words)
            if key[1] == 0:
                k = 1 + philox.below(word, self.hops)
            else:
                k = self.test_hops[philox.below(word, len(self.test_hops))]
            name, reply = names[start], names[(start + k) % n]
            tokens += [self._query(k)] + name + [ANS] + reply
            is_label += [False] * (1 + len(name)) + [True] * (1 + len(reply))
            answer += [-1] * (2 + len(name)) + [group] * len(reply)
            ks.append(k)

        pad, missing = self.seq_len - len(tokens), self.queries - len(ks)
        tokens, is_label, answer = tokens + [PAD] * pad, is_label + [False] * pad, answer + [-1] * pad
        # what must be predicted at t is the token at t + 1
        loss_mask = np.array(is_label[1:] + [False])
        return {
            "tokens": np.array(tokens, np.int32),
            "targets": np.where(loss_mask, tokens[1:] + [PAD], PAD).astype(np.int32),
            "loss_mask": loss_mask,
            "answer": np.array(answer[1:] + [-1], np.int32),
            "difficulty": {
                "k": np.array(ks + [-1] * missing, np.int32),
                "n": np.array([n] * len(ks) + [-1] * missing, np.int32),
            },
        }

    def _cycle(self, key: tuple[int, int], index: int) -> tuple[int, list[int]]:
        """Returns n and the names' numbers along the cycle, for one example."""
        n = self.nodes
        if key[1] == 0 and self.nodes_law == "inverse":
            n = self.min_nodes + bisect.bisect_right(self._size_thresholds, next(philox.stream(key, index, _SIZE)) >> 11)
        for attempt in attempts(key[1]):
            words, cycle = philox.stream(key, index, _NAMES, attempt), []
            while len(cycle) < n:
                number = self._number(next(words))
                if number not in cycle:
                    cycle.append(number)
            nodes = [mix64_int(number) for number in cycle]
            edges = (mix64_int((a * _EDGE + b) & philox.MASK64) for a, b in zip(nodes, nodes[1:] + nodes[:1]))
            if belongs(mix64_int(sum(edges) & philox.MASK64), key[1]):
                return n, cycle
        raise empty_split(key[1])

    def _number(self, word: int) -> int:
        """Draws a name: its length from the upper part of the word, its letters from what remains."""
        least, most = self.name_tokens
        choice, rest = divmod(word * (most - least + 1), 2**64)
        return self._first_id[choice] + philox.below(rest, self.names ** (least + choice))

    def _spell(self, number: int) -> list[int]:
        """Returns a name's tokens."""
        extra = bisect.bisect_right(self._first_id, number) - 1
        number -= self._first_id[extra]
        letters = []
        for _ in range(self.name_tokens[0] + extra):
            number, letter = divmod(number, self.names)
            letters.append(FIRST_NAME + letter)
        letters[-1] += self.names
        return letters

    def _query(self, k: Any) -> Any:
        return FIRST_NAME + 2 * self.names + k - 1

    # The vectorised path: the same words, read for many examples at once.

    def batch_at(self, seed: int, split: str, indices: Any) -> dict[str, Any]:
        key, index = self._key(seed, split), np.asarray(indices, np.uint64)
        size = self._sizes(key, index)
        letters, length = self._spellings(self._cycles(key, index, size))
        B, (M, N, P) = len(index), (self.queries, self.nodes, self.name_tokens[1])
        row = np.arange(B)[:, None]

        order = philox.order(philox.words(key, index, _EDGES, 0, N), size)
        nodes_Bx2N = np.stack([order, (order + 1) % size[:, None]], -1).reshape(B, 2 * N)
        used = (np.arange(P) < length[row, nodes_Bx2N][..., None]) & (np.arange(2 * N) < 2 * size[:, None])[..., None]
        tokens = np.zeros((B, self.seq_len + 1), np.int32)
        edges = len(self.predicts[:-1]) * self.window
        used = used.reshape(B, -1)
        count = used.sum(1)
        place = (np.cumsum(used, 1) + (edges - count - 1 + np.arange(B) * tokens.shape[1])[:, None])[used]
        tokens.ravel()[place] = letters[row, nodes_Bx2N].reshape(B, -1)[used]

        start = philox.order(philox.words(key, index, _STARTS, 0, N), size)[:, :M]
        start = np.pad(start, ((0, 0), (0, M - start.shape[1])))
        words = philox.words(key, index, _HOPS, 0, M)
        if key[1] == 0:
            k = 1 + philox.multiply_high(words, np.uint64(self.hops)).astype(np.int64)
        else:
            k = np.array(self.test_hops)[philox.multiply_high(words, np.uint64(len(self.test_hops))).astype(np.int64)]
        reply = (start + k) % size[:, None]
        asked = np.arange(M) < size[:, None]

        columns = 2 + 2 * P
        text = np.empty((B, M, columns), np.int32)
        used = np.ones((B, M, columns), bool)
        text[..., 0], text[..., 1 + P] = self._query(k), ANS
        text[..., 1 : 1 + P], text[..., 2 + P :] = letters[row, start], letters[row, reply]
        used[..., 1 : 1 + P] = np.arange(P) < length[row, start][..., None]
        used[..., 2 + P :] = np.arange(P) < length[row, reply][..., None]
        used &= asked[..., None]
        used = used.reshape(B, -1)
        place = (np.cumsum(used, 1) + (edges - 1 + np.arange(B) * tokens.shape[1])[:, None])[used]
        tokens.ravel()[place] = text.reshape(B, -1)[used]

        # group of the label a token is: -2 where it is none, -1 where it is `<ans>`
        kind = np.full((M, columns), -2, np.int32)
        kind[:, 1 + P], kind[:, 2 + P :] = -1, np.arange(M)[:, None]
        label = np.full(tokens.shape, -2, np.int32)
        label.ravel()[place] = np.broadcast_to(kind.ravel(), used.shape)[used]
        label = label[:, 1:]
        return {
            "tokens": tokens[:, :-1].copy(),
            "targets": np.where(label > -2, tokens[:, 1:], PAD),
            "loss_mask": label > -2,
            "answer": np.maximum(label, -1),
            "difficulty": {
                "k": np.where(asked, k, -1).astype(np.int32),
                "n": np.where(asked, size[:, None], -1).astype(np.int32),
            },
        }

    def _sizes(self, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
        """Returns n of each example: int64 [B]."""
        if key[1] != 0 or self.nodes_law == "fixed":
            return np.full(len(index), self.nodes)
        words = philox.words(key, index, _SIZE, 0, 1)[:, 0]
        return self.min_nodes + np.searchsorted(self._size_thresholds, (words >> np.uint64(11)).astype(np.int64), "right")

    def _cycles(self, key: tuple[int, int], index: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Returns the names' numbers along each cycle: int64 [B, N], of which the first n count."""

        def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            cycle, n = self._distinct(key, index[row], attempt, size[row]), size[row][:, None]
            used = np.arange(self.nodes) < n
            node = mix64(cycle.astype(np.uint64))
            after = np.roll(node, -1, axis=1)
            np.put_along_axis(after, n - 1, node[:, :1], axis=1)
            # a sum over edges is the same wherever the cycle is entered
            edge = np.where(used, mix64(node * np.uint64(_EDGE) + after), np.uint64(0))
            return cycle[:, None], mix64(edge.sum(1, dtype=np.uint64))[:, None]

        return draw_members(propose, len(index), key[1])[:, 0]

    def _distinct(self, key: tuple[int, int], index: np.ndarray, attempt: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Draws names until n are distinct; returns their numbers in the order of drawing: int64 [B, N]."""
        out = np.zeros((len(index), self.nodes), np.int64)
        waiting, draws = np.arange(len(index)), self._first_draws
        while len(waiting):
            number = self._numbers(philox.words(key, index[waiting], _NAMES, attempt[waiting], draws))
            narrow = number.astype(np.uint16) if self._first_id[-1] <= 2**16 else number  # sorts faster
            order = np.argsort(narrow, axis=1, kind="stable")
            ordered = np.take_along_axis(narrow, order, 1)
            repeated = np.zeros(number.shape, bool)
            np.put_along_axis(repeated[:, :], order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
            rank = np.cumsum(~repeated, axis=1) - 1
            r, c = np.nonzero(~repeated & (rank < self.nodes))
            out[waiting[r], rank[r, c]] = number[r, c]
            waiting, draws = waiting[rank[:, -1] + 1 < size[waiting]], 2 * draws
        return out

    @functools.cached_property
    def _first_draws(self) -> int:
        """How many names to draw at first so that most examples need no more; it has no influence on what is drawn."""
        least, most = self.name_tokens
        each = [(self.names**p, 1 / (most - least + 1)) for p in range(least, most + 1)]
        draws, goal = self.nodes, min(self.nodes + 4, self._first_id[-1] - 0.25)
        while sum(count * (1 - (1 - share / count) ** draws) for count, share in each) < goal:
            draws += 1
        return draws

    def _numbers(self, words: np.ndarray) -> np.ndarray:
        """`_number` on arrays."""
        least, most = self.name_tokens
        lengths = np.uint64(most - least + 1)
        choice = philox.multiply_high(words, lengths).astype(np.int64)
        count = np.array([self.names**p for p in range(least, most + 1)], np.uint64)[choice]
        return np.array(self._first_id)[choice] + philox.multiply_high(words * lengths, count).astype(np.int64)

    def _spellings(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`_spell` on arrays: tokens int32 [..., P], of which the first `length` count, and length int64 [...]."""
        least, most = self.name_tokens
        extra = np.searchsorted(self._first_id, numbers, "right") - 1
        rest, length = numbers - np.array(self._first_id)[extra], least + extra
        letters = np.empty((*numbers.shape, most), np.int32)
        for p in range(most):
            rest, letter = np.divmod(rest, self.names)
            letters[..., p] = FIRST_NAME + letter + self.names * (length == p + 1)
        return letters, length

    def baselines(self) -> dict[str, Any]:
        return {}

    def token(self, number: int) -> str:
        return str(number)

    def explain(self) -> str:
        return ""


def _order(words: Any, size: int) -> list[int]:
    """Returns a random permutation of 0..size-1: the places of `size` words, sorted by word."""
    drawn = [next(words) for _ in range(size)]
    return sorted(range(size), key=drawn.__getitem__)
