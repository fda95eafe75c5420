"""Rule 110 for many examples at once: `batch` reads the same random words as `Rule110.example` and gives the same examples.

Dimension letters: B examples, S strings, W words of 64 cells that hold a row, C cells of a row, A cells asked for.
"""
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.splits import SPLITS, belongs, draw_members, mix64
from sleepnet.tasks.rule110.automaton import history
from sleepnet.tasks.rule110.layout import CELLS, DEPTH, ONE, QUERY, ZERO, Layout

_ENUMERABLE = 24  # up to this width, baselines are scored on every state of the test split
_SAMPLE = 2**18
_ROWS = 2**14  # that whole rows are scored on


def batch(task: Layout, key: tuple[int, int], index: np.ndarray) -> dict[str, Any]:
    """Returns the examples at `index`, uint64 [B], stacked."""
    B, S, (least, most) = len(index), task.strings, task.step_range
    steps = np.full(B, least)
    if most > least:
        words = philox.words(key, index, DEPTH, 0, 1)[:, 0]
        depths = np.broadcast_to(task.depths(key[1], index.astype(np.int64)), B).astype(np.uint64)
        steps += philox.multiply_high(words, depths).astype(np.int64)
    cells_BxSxC = _cells(task, _states(task, key, index))
    tokens, targets = np.full((B, task.seq_len), PAD, np.int32), np.full((B, task.seq_len), PAD, np.int32)
    answer = np.full((B, task.seq_len), -1, np.int32)
    rows = np.empty((B, S, task.unit), np.int32)
    if task.ranged:
        rows[:, :, 0] = (task.first_depth + steps - least)[:, None]
    if task.named:
        rows[:, :, -task.width - 1] = task.query
    rows[:, :, -task.width :] = ZERO + cells_BxSxC
    tokens[:, task.context - S * task.unit : task.context] = rows.reshape(B, -1)
    if task.chain_of_thought:
        chain_BxSxW = _chains(task, cells_BxSxC, steps)
        targets[:, task.context :] = chain_BxSxW.reshape(B, -1)
        tokens_BxSxW = np.where(chain_BxSxW == PAD, PAD, np.roll(chain_BxSxW, 1, axis=2))
        tokens_BxSxW[:, :, 0] = task.query
        tokens[:, task.context :] = tokens_BxSxW.reshape(B, -1)
        asked_BxSxA = np.stack([task.asked(t) for t in range(task.step_range[1] + 1)])[steps]
        answer[np.arange(B)[:, None, None], asked_BxSxA] = _groups(task)
    else:
        seen = _history(task, cells_BxSxC.reshape(-1, task.width), task.wanted)
        label_BxSxA = seen[np.repeat(steps, S), :, np.arange(B * S)].reshape(B, S, task.cells)
        asked = task.asked(0)
        tokens[:, asked], targets[:, asked], answer[:, asked] = task.query[:, None], ZERO + label_BxSxA.astype(np.int32), _groups(task)
    return {
        "tokens": tokens,
        "targets": targets,
        "loss_mask": targets != PAD,
        "answer": answer,
        "difficulty": {"steps": np.repeat(steps[:, None], task.answers, 1).astype(np.int32)},
    }


def _groups(task: Layout) -> np.ndarray:
    """Returns the answer that each cell asked for belongs to: [1 or S, 1 or A]."""
    return np.arange(task.strings)[:, None] if task.graded == "rows" else np.arange(task.cells)[None]


def _chains(task: Layout, cells_BxSxC: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns the rows after 1, 2, … `steps` [B] steps as tokens, one after the other, padded: int32 [B, S, most · C]."""
    B, S, C = cells_BxSxC.shape
    seen = _history(task, cells_BxSxC.reshape(-1, C), np.arange(C))[1:]
    chain_BxSxW = ZERO + seen.transpose(2, 0, 1).reshape(B, S, -1).astype(np.int32)
    return np.where(np.arange(task.written) < steps[:, None, None] * C, chain_BxSxW, PAD)


def steps_of(task: Layout, tokens: np.ndarray, most: int) -> np.ndarray:
    """Returns what stands at each cell after 0 … `most` steps, and what each query's answer then is: int32 [B, most + 1, T]; see `Task.steps_of`."""
    B, S, C = len(tokens), task.strings, task.width
    rows = tokens[:, task.context - S * task.unit : task.context].reshape(B, S, task.unit)
    cells = (rows[:, :, -C:] == ONE).astype(np.uint8).reshape(B * S, C)
    seen = history(cells, rule=task.rule, steps=most, boundary=task.boundary, wanted=np.arange(C)).transpose(2, 0, 1).reshape(B, S, most + 1, C)
    if task.ranged:
        last = task.step_range[0] + rows[:, :, :1, None] - task.first_depth
        seen = np.take_along_axis(seen, np.minimum(np.arange(most + 1)[:, None], last), axis=2)
    told, seen = np.zeros((B, most + 1, task.seq_len), np.int32), np.swapaxes(ZERO + seen.astype(np.int32), 1, 2)
    at = task.context + (np.arange(S) - S)[:, None] * task.unit + task.unit - C + np.arange(C)
    told[:, :, at] = seen
    if not task.chain_of_thought:
        told[:, :, task.asked(0)] = seen[..., task.wanted]
    return told


def _states(task: Layout, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """Returns the rows' first states, packed: uint64 [B, S, W], cell 0 in the highest bit."""
    W = -(-task.width // 64)
    last = np.uint64(philox.MASK64 << (64 * W - task.width) & philox.MASK64)

    def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = philox.words(key, index[row], CELLS, attempt, task.strings * W)
        state = state.reshape(len(row), task.strings, W).copy()
        state[..., -1] &= last
        return state, _fingerprints(state)

    return draw_members(propose, len(index), key[1], task.strings * W)


def _fingerprints(state: np.ndarray) -> np.ndarray:
    """Returns the 64-bit fingerprint of packed states, uint64 [..., W], by which they are assigned to splits."""
    fingerprint = np.zeros(state.shape[:-1], np.uint64)
    for w in range(state.shape[-1]):
        fingerprint = mix64(fingerprint ^ state[..., w])
    return fingerprint


def _cells(task: Layout, state: np.ndarray) -> np.ndarray:
    """Unpacks states, uint64 [..., W], to cells, uint8 [..., C]."""
    return np.unpackbits(state.astype(">u8").view(np.uint8), axis=-1)[..., : task.width]


def _history(task: Layout, cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the cells wanted after 0, 1, … steps: uint8 [most + 1, A, rows]."""
    return history(cells, rule=task.rule, steps=task.step_range[1], boundary=task.boundary, wanted=wanted)


def baselines(task: Layout) -> dict[str, Any]:
    """Returns what guessing scores: rules fitted on training rows, scored on test rows."""
    trained = _states(task, (0, SPLITS["train"]), np.arange(_SAMPLE // task.strings))
    groups = [_cells(task, trained).reshape(-1, task.width), _test_cells(task)]
    labels = [_history(task, cells, task.wanted[:1])[:, 0] for cells in groups]  # on a ring the others have its law
    codes = [_seven_cells(task, cells) for cells in groups]

    def fitted(codes: list[np.ndarray], t: int) -> float:
        """The likelier label of each code among training rows, scored on the test rows."""
        count, one = np.bincount(codes[0], minlength=256), np.bincount(codes[0], weights=labels[0][t], minlength=256)
        return float(((2 * one > count)[codes[1]] == labels[1][t]).mean())

    def whole(codes: list[np.ndarray], t: int) -> float:
        """How often all cells of a row are right by `fitted`'s rule, each read from its own neighbourhood."""
        cells = groups[1][:_ROWS]
        count, one = np.bincount(codes[0], minlength=256), np.bincount(codes[0], weights=labels[0][t], minlength=256)
        rule, right = 2 * one > count, np.ones(len(cells), bool)
        seen = history(cells, rule=task.rule, steps=t, boundary=task.boundary, wanted=task.wanted)[t]
        for i in range(task.cells):
            turned = _seven_cells(task, np.roll(cells, -i, axis=1)) if codes[1].any() else 0
            right &= rule[turned] == seen[i]
        return float(right.mean())

    rows = task.graded == "rows"
    nearby = "The likelier label given the depth and the seven cells around the one asked for."
    return {
        name: _score(task, meaning, functools.partial(fitted, of), functools.partial(whole, of) if rows else None) if of else
        _score(task, meaning, lambda t: 0.5, (lambda t: 0.5**task.cells) if rows else None)
        for name, meaning, of in (
            ("chance", "Every label by the toss of a coin.", None),
            ("constant", "The likelier label at this depth, always.", [c * 0 for c in codes]),
            ("seven_cells", nearby, codes),
        )
    }


def _seven_cells(task: Layout, cells: np.ndarray) -> np.ndarray:
    """Numbers what stands in the cell asked for and the three either side; beyond a zero boundary stands nothing."""
    around = np.pad(cells, ((0, 0), (3, 3)), mode="wrap" if task.boundary == "periodic" else "constant")
    return np.packbits(around[:, task.cell : task.cell + 7], axis=1)[:, 0]


def _score(task: Layout, meaning: str, right: Callable[[int], float], whole: Callable[[int], float] | None) -> dict[str, Any]:
    """Scores a guess that gets each label right with probability `right(t)`: the rows are independent; and a row's cells with `whole(t)`, where they are one answer."""
    least, most = task.step_range
    by = {t: {"label": p, "exact": whole(t) if whole else p**task.strings} for t in range(least, most + 1) for p in [right(t)]}
    mean = {metric: sum(score[metric] for score in by.values()) / len(by) for metric in ("label", "exact")}
    return {"meaning": meaning, **mean, "by": {"steps": by}}


def _test_cells(task: Layout) -> np.ndarray:
    """Returns all states of the test split, or a sample of all states where they are too many: uint8 [rows, C]."""
    if task.width > _ENUMERABLE:
        return _cells(task, philox.words((0, SPLITS["test"]), np.arange(_SAMPLE), CELLS, 0, -(-task.width // 64)))
    parts = []
    for a in range(0, 2**task.width, 2**20):
        state = np.arange(a, min(a + 2**20, 2**task.width), dtype=np.uint64)[:, None] << np.uint64(64 - task.width)
        parts.append(_cells(task, state[belongs(_fingerprints(state), SPLITS["test"])]))
    return np.concatenate(parts)
