"""Depo: multi-hop retrieval on a directed cycle whose edges are given in random order.

After Allen-Zhu, Physics of Language Models, part 4.1 (Depo1 and Depo2), in the layout of Lee et al., arXiv 2605.26099.
n distinct names form one directed cycle. The context lists its n edges in random order, each as `name next_name` with no
separators; then come up to `queries` questions `<query_k> name <ans> answer`, whose answer lies k steps on.

A name has `name_tokens` = (least, most) tokens out of `names` letters; its last token is shifted by `names`, so names
are prefix-free. Duplicates are drawn again. Edges are padded on the left and queries on the right:

    PAD … PAD  edge edge … edge | query query … query PAD … PAD
    ^ a whole number of windows   ^ one window or less; more where all names are as long and no query is cut
"""
import bisect
import dataclasses
import functools
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.depo import arrays
from sleepnet.tasks.depo.layout import ANS, BOS, EDGE, EDGES, FIRST_NAME, HOPS, NAMES, SIZE, STARTS, Layout
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import tell_rise, whole
from sleepnet.tasks.machinery.splits import MAX_ATTEMPTS, TRAIN, belongs, empty_split, mix64_int
from sleepnet.tasks.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Depo(Layout):
    """Follow a cycle k steps from a node. One answer group per query, graded by `k` and by the cycle's size `n`.

    There is a loss where `<ans>` or an answer token must be predicted; only answer tokens are graded.
    Training draws k ~ U[1, hops] and n by `nodes_law`; validation and test draw k ~ U(test_hops) and have n = nodes.
    """

    name: ClassVar[str] = "depo"
    version: ClassVar[int] = 1
    difficulty_axes: ClassVar[tuple[str, ...]] = ("k", "n")
    axis_words: ClassVar[Mapping[str, str]] = {"k": "k, hops asked for", "n": "n, names on the cycle"}
    added: ClassVar[Mapping[str, Any]] = {"asked": None, "follow_passes": False}

    # The plain path: one example, to be read.

    def example(self, seed: int, split: str, index: int) -> dict[str, Any]:
        key, index = self._key(seed, split), whole("index", index, 0, philox.MASK64)
        n, cycle = self._cycle(key, index)
        names = [self.spell(number) for number in cycle]
        edge_words, start_words, hop_words = (philox.stream(key, index, s) for s in (EDGES, STARTS, HOPS))

        context = []
        for i in _order(edge_words, n):
            context += names[i] + names[(i + 1) % n]
        edges = self.edge_tokens
        tokens = [PAD] * (edges - len(context)) + context

        is_label, answer, ks = [False] * edges, [-1] * edges, []
        for group, start in enumerate(_order(start_words, n)[: self.queries]):
            word = next(hop_words)
            if key[1] == TRAIN:
                k = 1 + philox.below(word, int(self.most_hops(index)))
            else:
                k = self.test_hops[philox.below(word, len(self.test_hops))]
            token, k = self.query_token(k), self.asked or k
            name, reply = names[start], names[(start + k) % n]
            tokens += [token] + name + [ANS] + reply
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
        if key[1] == TRAIN and self.nodes_law == "inverse":
            n = self.min_nodes + bisect.bisect_right(self.size_thresholds, next(philox.stream(key, index, SIZE)) >> 11)
        for attempt in range(MAX_ATTEMPTS):
            words, cycle = philox.stream(key, index, NAMES, attempt), []
            while len(cycle) < n:
                number = self._number(next(words))
                if number not in cycle:
                    cycle.append(number)
            nodes = [mix64_int(number) for number in cycle]
            edges = (mix64_int((a * EDGE + b) & philox.MASK64) for a, b in zip(nodes, nodes[1:] + nodes[:1]))
            if belongs(mix64_int(sum(edges) & philox.MASK64), key[1]):
                return n, cycle
        raise empty_split(key[1])

    def _number(self, word: int) -> int:
        """Draws a name: its length from the upper part of the word, its letters from what remains."""
        least, most = self.name_tokens
        choice, rest = divmod(word * (most - least + 1), 2**64)
        return self.first_number[choice] + philox.below(rest, self.names ** (least + choice))

    def spell(self, number: int) -> list[int]:
        """Returns a name's tokens."""
        extra = bisect.bisect_right(self.first_number, number) - 1
        number -= self.first_number[extra]
        letters = []
        for _ in range(self.name_tokens[0] + extra):
            number, letter = divmod(number, self.names)
            letters.append(FIRST_NAME + letter)
        letters[-1] += self.names
        return letters

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        return arrays.batch(self, self._key(seed, split), self._indices(indices))

    @property
    def follows_passes(self) -> bool:
        return self.follow_passes

    def at(self, passes: int) -> Task:
        return dataclasses.replace(self, asked=max(passes - 1, 1), follow_passes=False) if self.follow_passes else self

    most_steps = None

    def steps_of(self, batch: Mapping[str, np.ndarray], most: int) -> np.ndarray:
        return arrays.steps_of(self, batch["tokens"], most)

    def solve_steps(self, tokens: np.ndarray, most: int) -> np.ndarray:
        told, places, ends = np.zeros((most + 1, len(tokens)), np.int32), [], []  # ends: places of each name's tokens
        for t, word in enumerate(tokens[: self.edge_tokens].tolist()):
            places += [t] * (word != PAD)
            if word >= FIRST_NAME + self.names:
                ends, places = [*ends, places], []
        spelt = lambda places: tuple(tokens[places].tolist())
        for own in ends[1::2]:
            # who sleeps over this name's window has read no later one
            after = {spelt(a): spelt(b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b[-1] // self.window <= own[-1] // self.window}
            node = spelt(own)
            for step in range(most + 1):
                for place, letter in zip(reversed(own), reversed(node)):
                    told[step, place] = letter
                node = after.get(node, ())
        return told

    def solve(self, tokens: np.ndarray) -> np.ndarray:
        last, query = FIRST_NAME + self.names, FIRST_NAME + 2 * self.names
        words, targets = tokens.tolist(), np.full(len(tokens), PAD, np.int32)
        after = self._read_edges(words)
        for t in range(len(words)):
            if words[t] >= query:
                end = next(e for e in range(t, len(words)) if last <= words[e] < query)
                node = tuple(words[t + 1 : end + 1])
                for _ in range(self.asked or words[t] - query + 1):
                    node = after[node]
                targets[end : end + 1 + len(node)] = [ANS, *node]
        return targets

    def _read_edges(self, words: list[int]) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Returns which name stands beside which before the first query."""
        nodes, name = [], []
        for word in itertools.takewhile(lambda word: word < FIRST_NAME + 2 * self.names, words):
            name += [word] * (word != PAD)
            if word >= FIRST_NAME + self.names:
                nodes.append(tuple(name))
                name = []
        return dict(zip(nodes[::2], nodes[1::2], strict=True))

    def instances(self, tokens: np.ndarray) -> set[Hashable]:
        return {frozenset(self._read_edges(tokens.tolist()).items())}

    @functools.cached_property
    def _baselines(self) -> dict[str, Any]:
        return arrays.baselines(self)

    # For readers.

    def token(self, number: int) -> str:
        if number < FIRST_NAME:
            return {PAD: "PAD", BOS: "<bos>", ANS: "<ans>"}[number]
        hop = number - self.query_token(1) + 1
        if hop > 0 and (self.asked or self.follow_passes):
            return "<query>"
        return f"<query_{hop}>" if hop > 0 else str(number - FIRST_NAME + 1)

    def explain(self) -> str:
        least, most = self.name_tokens
        size = f"n = {self.nodes}"
        if self.nodes_law == "inverse":
            size = f"n of {self.min_nodes} … {self.nodes}, p ∝ 1 / (n + √{self.nodes})"
        length = f"{least}" if least == most else f"{least} … {most}"
        if self.asked or self.follow_passes:
            k = f"k = {self.asked}" if self.asked else "k = N − 1 of a sleep with N passes, at least 1 (1 where no N is known)"
            drawn, tested, query = k, k, "query"
        else:
            drawn, tested, query = f"k drawn from 1 … {self.hops}{tell_rise(self.hops_rise)}", f"k drawn from {', '.join(map(str, self.test_hops))}", "query_k"
        return (
            f"One directed cycle over n distinct names. Its n edges come in random order, each as `name next_name` with "
            f"nothing between them. A name has {length} token{'s' * (most > 1)} of {self.names} letters, written 1 … {self.names}; its last "
            f"token is written {self.names} higher. Then up to {self.queries} queries `<{query}> name <ans> answer`, with "
            f"distinct names: the answer is the name k steps on. Training: {size}; {drawn}. "
            f"Validation and test: n = {self.nodes}; {tested}. Edges fill {self.edge_tokens} "
            f"tokens, padded on the left; queries {self.seq_len - self.edge_tokens}, padded on the right."
        )

    def narrate(self, example: Mapping[str, Any]) -> str:
        queries, names = example["tokens"][self.edge_tokens :], []
        for token in queries[queries != PAD]:
            if token >= self.query_token(1):
                names.append([self.asked or int(token) - self.query_token(1) + 1, "", ""])
                column = 1
            elif token == ANS:
                column = 2
            else:
                names[-1][column] += (" " if names[-1][column] else "") + self.token(int(token))
        return "\n".join(f"Query {i + 1}: {k} step{'s' * (k != 1)} after ({a}) comes ({b})." for i, (k, a, b) in enumerate(names))


def _order(words: Iterator[int], size: int) -> list[int]:
    """Returns a random permutation of 0..size-1: the places of `size` words, sorted by word."""
    drawn = [next(words) for _ in range(size)]
    return sorted(range(size), key=drawn.__getitem__)
