"""Products in a group for many examples at once: `batch` reads the same random words as `Group.example` and gives the same examples.

Dimension letters: B examples, K most elements of a word.
"""
from typing import Any

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.group.elements import times
from sleepnet.tasks.group.layout import ELEMENTS, LENGTH, Layout
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.splits import draw_members, mix64


def batch(task: Layout, key: tuple[int, int], index: np.ndarray) -> dict[str, Any]:
    """Returns the examples at `index`, uint64 [B], stacked."""
    B, (least, most) = len(index), task.length_range
    k = np.full(B, most if task.running else least)
    if most > least and not task.running:
        lengths = np.broadcast_to(task.lengths(key[1], index.astype(np.int64)), B).astype(np.uint64)
        k += philox.multiply_high(philox.words(key, index, LENGTH, 0, 1)[:, 0], lengths).astype(np.int64)
    word_BxK = _words(task, key, index, k)
    tokens = np.full((B, task.seq_len), PAD, np.int32)
    tokens[:, task.context - most : task.context] = word_BxK
    targets, answer = np.full((B, task.seq_len), PAD, np.int32), np.full((B, task.seq_len), -1, np.int32)

    multiplied = np.arange(most) >= most - (task.asked or most)
    k = np.full(B, task.asked) if task.asked else k
    product_BxK = products(task.group, np.where(multiplied, word_BxK, PAD))
    if task.running:
        targets[:] = product_BxK
        answer[:, least - 1 :] = np.arange(most - least + 1)
        k = np.broadcast_to(np.arange(least, most + 1), (B, task.answers))
    else:
        at = (most - k + 1 if task.chain_of_thought else np.full(B, most - 1))[:, None] + np.arange(task.seq_len - task.context)
        said = np.where(at < most, np.take_along_axis(product_BxK, np.minimum(at, most - 1), 1), PAD)
        tokens[:, task.context], tokens[:, task.context + 1 :] = task.query, np.where(at < most - 1, said, PAD)[:, :-1]
        targets[:, task.context :], answer[:, task.context :] = said, np.where(at == most - 1, 0, -1)
    return {
        "tokens": tokens,
        "targets": targets,
        "loss_mask": targets > PAD,
        "answer": answer,
        "difficulty": {"k": k.reshape(B, task.answers).astype(np.int32)},
    }


def products(group: str, word_BxK: np.ndarray) -> np.ndarray:
    """The tokens of the products up to each element, int64 [B, K]; PAD multiplies as the neutral element."""
    table, product, product_BxK = times(group), np.zeros(len(word_BxK), np.int64), np.empty(word_BxK.shape, np.int64)
    for place in range(word_BxK.shape[1]):
        product_BxK[:, place] = product = table[product, word_BxK[:, place]]
    return product_BxK


def steps_of(task: Layout, tokens: np.ndarray, most: int) -> np.ndarray:
    """Returns `Task.steps_of`: spans that double, as a parallel scan has them, or grow by one. One that reaches its window's start takes all before it along."""
    word, table = tokens[:, : task.context].astype(np.int64), times(task.group)
    within = np.arange(task.context) % task.window
    told, whole_word = np.zeros((len(word), most + 1, task.seq_len), np.int32), products(task.group, word)
    span = word  # of each place the product of the elements that end there and this step reaches
    for step in range(most + 1):
        reach = task.reach(min(step, 62))
        if step and reach <= task.window:
            further = reach - task.reach(step - 1)
            earlier = np.pad(span, ((0, 0), (further, 0)))[:, : task.context]
            span = table[earlier, span if task.spans == "doubling" else word]  # across a window's start only where `whole_word` takes its place below
        held = np.where((within < reach) & (step > 0), whole_word, span)
        told[:, step, : task.context] = np.where(word == PAD, PAD, held)
        if not task.chain_of_thought:
            told[:, step, task.context] = held[:, -1]
    return told


def _words(task: Layout, key: tuple[int, int], index: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Returns the words' tokens, padded on the left: int64 [B, most]."""
    most = task.length_range[1]

    def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        words = philox.words(key, index[row], ELEMENTS, attempt, most)
        tokens = 1 + philox.multiply_high(words, np.uint64(task.size))
        tokens[np.arange(most) < most - k[row][:, None]] = PAD
        fingerprint = np.zeros(len(row), np.uint64)
        for column in tokens.T:
            fingerprint = np.where(column == PAD, fingerprint, mix64(fingerprint ^ column))
        return tokens[:, None].astype(np.int64), fingerprint[:, None]

    return draw_members(propose, len(index), key[1], most)[:, 0]
