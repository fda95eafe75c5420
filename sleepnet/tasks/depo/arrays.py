"""Depo for many examples at once: `batch` reads the same random words as `Depo.example` and gives the same examples.

Dimension letters: B examples, N most nodes, M queries, P most tokens of a name, T tokens of an example.
"""
import functools
from typing import Any

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.depo.layout import ANS, EDGE, EDGES, FIRST_NAME, HOPS, NAMES, SIZE, STARTS, Layout
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.splits import SPLITS, TRAIN, draw_members, mix64

_SAMPLE = 1000  # cycles the baselines average over, where no formula serves


def batch(task: Layout, key: tuple[int, int], index: np.ndarray) -> dict[str, Any]:
    """Returns the examples at `index`, uint64 [B], stacked."""
    size = _sizes(task, key, index)
    letters_BxNxP, length_BxN = spell(task, _cycles(task, key, index, size))
    B, N, M, P = len(index), task.nodes, task.queries, task.name_tokens[1]
    row = np.arange(B)[:, None]
    # one column more than T: what must be predicted at t is the token at t + 1
    tokens, label = np.full((B, task.seq_len + 1), PAD, np.int32), np.full((B, task.seq_len + 1), -2, np.int32)

    order_BxN = philox.order(philox.words(key, index, EDGES, 0, N), size)
    node = np.stack([order_BxN, (order_BxN + 1) % size[:, None]], -1).reshape(B, 2 * N)
    written = (np.arange(P) < length_BxN[row, node][..., None]) & (np.arange(2 * N) < 2 * size[:, None])[..., None]
    written = written.reshape(B, -1)
    _write(tokens, letters_BxNxP[row, node].reshape(B, -1), written, task.edge_tokens - written.sum(1))

    start = philox.order(philox.words(key, index, STARTS, 0, N), size)[:, :M]
    start = np.pad(start, ((0, 0), (0, M - start.shape[1])))
    told = _hops(task, key, index)
    k = np.full_like(told, task.asked) if task.asked else told
    reply = (start + k) % size[:, None]
    asked = np.arange(M) < size[:, None]

    text = np.empty((B, M, 2 + 2 * P), np.int32)
    written = np.ones(text.shape, bool)
    text[..., 0], text[..., 1 + P] = task.query_token(told), ANS
    for first, name in ((1, start), (2 + P, reply)):
        text[..., first : first + P] = letters_BxNxP[row, name]
        written[..., first : first + P] = np.arange(P) < length_BxN[row, name][..., None]
    written = (written & asked[..., None]).reshape(B, -1)
    # what each token is as a label: of its query's answer, -1 for `<ans>`, -2 for none
    kind = np.full(text.shape[1:], -2, np.int32)
    kind[:, 1 + P], kind[:, 2 + P :] = -1, np.arange(M)[:, None]
    begin = np.full(B, task.edge_tokens)
    _write(tokens, text.reshape(B, -1), written, begin)
    _write(label, np.broadcast_to(kind.ravel(), written.shape), written, begin)

    label = label[:, 1:]
    return {
        "tokens": tokens[:, :-1].copy(),
        "targets": np.where(label > -2, tokens[:, 1:], np.int32(PAD)),
        "loss_mask": label > -2,
        "answer": np.maximum(label, -1),
        "difficulty": {
            "k": np.where(asked, k, -1).astype(np.int32),
            "n": np.where(asked, size[:, None], -1).astype(np.int32),
        },
    }


def steps_of(task: Layout, tokens: np.ndarray, most: int) -> np.ndarray:
    """Returns, at the second name of each edge, the name 0 … `most` hops on from it: int32 [B, most + 1, T]; see `Task.steps_of`.

    Names end together: of a longer one there is room for its last letters alone. Where edges fill several windows, a way is told as far as edges of its own
    and earlier windows lead: who sleeps over one window has not read the next.
    """
    B, P, row = len(tokens), task.name_tokens[1], np.arange(len(tokens))[:, None]
    edges = tokens[:, : task.edge_tokens]
    ends = edges >= FIRST_NAME + task.names
    count = ends.sum(1)  # names that are written, two an edge
    end = np.argsort(~ends, axis=1, kind="stable")[:, : 2 * task.nodes]  # where each ends
    begins = np.concatenate([edges.shape[1] - (edges != PAD).sum(1)[:, None], end[:, :-1] + 1], 1)
    at = end[:, :, None] - np.arange(P)  # from the last letter back
    inside = (at >= begins[:, :, None]) & (np.arange(2 * task.nodes)[:, None] < count[:, None, None])
    letters = np.where(inside, np.take_along_axis(edges, np.maximum(at, 0).reshape(B, -1), 1).reshape(at.shape), PAD)
    code = (letters.astype(np.int64) * (task.vocab_size ** np.arange(P))).sum(2)
    first, second = code[:, ::2], code[:, 1::2]  # of a missing edge 0
    after = (second[:, :, None] == first[:, None, :]).argmax(2)  # the edge that goes on from where this one leads
    told, edge = np.zeros((B, most + 1, task.seq_len), np.int32), np.broadcast_to(np.arange(task.nodes), second.shape)
    window = end[:, 1::2] // task.window
    known = np.ones_like(window, bool)
    for step in range(most + 1):
        held, known = letters[row, 2 * edge + 1], known & (window[row, edge] <= window)
        b, e, p = np.nonzero(inside[:, 1::2] & (held != PAD) & known[:, :, None])
        told[b, step, at[:, 1::2][b, e, p]] = held[b, e, p]
        edge = after[row, edge]
    return told


def _write(out: np.ndarray, values: np.ndarray, written: np.ndarray, begin: np.ndarray) -> None:
    """Writes the marked values of each row side by side into `out`, from column `begin` [B] on."""
    place = np.cumsum(written, 1) + (begin - 1 + np.arange(len(out)) * out.shape[1])[:, None]
    out.ravel()[place[written]] = values[written]


def _sizes(task: Layout, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """Returns n of each example: int64 [B]."""
    if key[1] != TRAIN or task.nodes_law == "fixed":
        return np.full(len(index), task.nodes)
    unit = philox.words(key, index, SIZE, 0, 1)[:, 0] >> np.uint64(11)
    return task.min_nodes + np.searchsorted(task.size_thresholds, unit.astype(np.int64), "right")


def _hops(task: Layout, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """Returns k of each query: int64 [B, M]."""
    words = philox.words(key, index, HOPS, 0, task.queries)
    if key[1] == TRAIN:
        most = np.broadcast_to(task.most_hops(index.astype(np.int64)), len(index)).astype(np.uint64)
        return 1 + philox.multiply_high(words, most[:, None]).astype(np.int64)
    known = np.array(task.test_hops)
    return known[philox.multiply_high(words, np.uint64(len(known))).astype(np.int64)]


def _cycles(task: Layout, key: tuple[int, int], index: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns the names' numbers along each cycle: int64 [B, N], of which the first n count."""

    def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cycle, n = _distinct(task, key, index[row], attempt, size[row]), size[row][:, None]
        node = mix64(cycle.astype(np.uint64))
        after = np.roll(node, -1, axis=1)
        np.put_along_axis(after, n - 1, node[:, :1], axis=1)
        edge = np.where(np.arange(task.nodes) < n, mix64(node * np.uint64(EDGE) + after), np.uint64(0))
        # a sum over edges is the same wherever the cycle is entered
        return cycle[:, None], mix64(edge.sum(1, dtype=np.uint64))[:, None]

    return draw_members(propose, len(index), key[1], _first_draws(task))[:, 0]


def _distinct(task: Layout, key: tuple[int, int], index: np.ndarray, attempt: Any, size: np.ndarray) -> np.ndarray:
    """Draws names until n are distinct; returns their numbers in the order of drawing: int64 [B, N]."""
    out = np.zeros((len(index), task.nodes), np.int64)
    waiting, draws = np.arange(len(index)), _first_draws(task)
    while len(waiting):
        number = _numbers(task, philox.words(key, index[waiting], NAMES, attempt[waiting], draws))
        narrow = number.astype(np.uint16) if task.first_number[-1] <= 2**16 else number  # sorts faster
        order = np.argsort(narrow, axis=1, kind="stable")
        ordered = np.take_along_axis(narrow, order, 1)
        repeated = np.zeros(number.shape, bool)
        np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
        rank = np.cumsum(~repeated, axis=1) - 1
        r, c = np.nonzero(~repeated & (rank < task.nodes))
        out[waiting[r], rank[r, c]] = number[r, c]
        waiting, draws = waiting[rank[:, -1] + 1 < size[waiting]], 2 * draws
    return out


@functools.cache
def _first_draws(task: Layout) -> int:
    """Returns how many names to draw at first so that most examples need no more; the result does not depend on it."""
    counts = [float(b - a) for a, b in zip(task.first_number, task.first_number[1:])]
    draws, goal = task.nodes, min(task.nodes + 4, task.first_number[-1] - 0.25)
    while sum(count * (1 - (1 - 1 / (len(counts) * count)) ** draws) for count in counts) < goal:
        draws += 1
    return draws


def _numbers(task: Layout, words: np.ndarray) -> np.ndarray:
    """Draws a name from each word, as `Depo._number` does."""
    first = np.array(task.first_number)
    lengths = np.uint64(len(first) - 1)
    choice = philox.multiply_high(words, lengths).astype(np.int64)
    count = np.diff(first).astype(np.uint64)[choice]
    return first[choice] + philox.multiply_high(words * lengths, count).astype(np.int64)


def spell(task: Layout, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the names' tokens, int32 [..., P], of which the first `length` count, and length, int64 [...]."""
    least, most = task.name_tokens
    extra = np.searchsorted(task.first_number, numbers, "right") - 1
    rest, length = numbers - np.array(task.first_number)[extra], least + extra
    letters = np.empty((*numbers.shape, most), np.int32)
    for p in range(most):
        rest, letter = np.divmod(rest, task.names)
        letters[..., p] = FIRST_NAME + letter + task.names * (length == p + 1)
    return letters, length


def baselines(task: Layout) -> dict[str, Any]:
    """Returns what guessing scores on the test split: averages over a fixed sample of cycles of N nodes."""
    index, (N, V) = np.arange(_SAMPLE, dtype=np.uint64), (task.nodes, task.names)
    numbers = _distinct(task, (0, SPLITS["test"]), index, np.zeros_like(index), np.full(_SAMPLE, N))
    letters, length = spell(task, numbers)
    lengths, counts = np.unique(length, return_counts=True)
    tokens = length.mean()

    def right_tokens(share: np.ndarray) -> float:
        """Mean probability of a right token, where `share` [..., P + 1] is how many names agree with 0, 1, … tokens."""
        step = share[..., 1:] / np.maximum(share[..., :-1], 1)
        return float((step * (np.arange(step.shape[-1]) < length[..., None])).sum() / length.sum())

    def score(label: float, exact: float) -> dict[str, float]:
        return {"label": float(label), "exact": float(exact)}

    def over_all_names() -> np.ndarray:
        least, most = task.name_tokens
        agree = np.zeros((*length.shape, most + 1))
        for p in range(most + 1):
            agree[..., p] = sum(V ** (m - p) for m in range(max(least, p + 1), most + 1))
        np.put_along_axis(agree, length[..., None], 1, axis=-1)
        return agree

    prefix = np.empty((*length.shape, letters.shape[-1] + 1), np.uint64)
    prefix[..., 0] = mix64(index)[:, None]
    for p in range(letters.shape[-1]):
        prefix[..., p + 1] = mix64(prefix[..., p] + letters[..., p].astype(np.uint64))
    _, place, times = np.unique(prefix, return_inverse=True, return_counts=True)
    in_context = times[place].reshape(prefix.shape)

    def among_others(k: int) -> dict[str, float]:
        if k % N == 0:
            return score(1, 1)
        return score(right_tokens(in_context - (prefix == np.roll(prefix, k, axis=1))), 1 / (N - 1))

    chance = score(right_tokens(over_all_names()), 1 / task.first_number[-1])
    constant = score(max(1, tokens - 1) / tokens / V, max(c / counts.sum() / float(V) ** m for m, c in zip(lengths, counts)))
    return {
        name: {"meaning": meaning, **mean, "by": {"k": by, "n": {N: mean}}}
        for name, meaning, by in (
            ("chance", "Any of all names, alike.", {k: chance for k in task.tested}),
            ("constant", "The likeliest token, or the likeliest name, always.", {k: constant for k in task.tested}),
            (
                "in_context",
                "Any name of the context but the query's own, alike; its own where k is a multiple of n.",
                {k: among_others(k) for k in task.tested},
            ),
        )
        for mean in [{metric: sum(s[metric] for s in by.values()) / len(by) for metric in ("label", "exact")}]
    }
