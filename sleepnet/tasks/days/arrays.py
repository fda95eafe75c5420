"""The days for many examples at once: `batch` reads the same random words as `Days.example` and gives the same examples.

Dimension letters: B examples, D days, F facts of a day, K tokens of a key, V digits of a value, Q questions, T tokens of an example.
"""
import functools
from typing import Any

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.days.layout import ABOUT, ASK, ASKED, CONTENT, END, FOR, GIVE, HAS, IS, KEYS, KINDS, NAME, NOTE, ORDER, REPLAY, TEMPLATE, TEMPLATES, TURN, TWICE, VALUES, WHOSE, ZERO, Layout
from sleepnet.tasks.machinery import philox, turns
from sleepnet.tasks.machinery.draws import distinct
from sleepnet.tasks.machinery.splits import TRAIN, draw_members, mix64

_KEY, _VALUE = -2, -3  # in a template: where the key and the value stand
_TEMPLATES = ((_KEY, IS, _VALUE), (_VALUE, FOR, _KEY), (NOTE, _KEY, HAS, _VALUE))
_QUESTIONS = {"asked": (ASK, _KEY, _VALUE), "paraphrased": (ABOUT, _KEY, GIVE, _VALUE), "reversed": (WHOSE, _VALUE, _KEY), "two_hop": (TWICE, _KEY, _VALUE)}


def batch(task: Layout, key: tuple[int, int], index: np.ndarray) -> dict[str, Any]:
    """Returns the examples at `index`, uint64 [B], stacked."""
    B, row = len(index), np.arange(len(index))[:, None]
    if task.by_heart:
        keys_DxF, values_DxF = (array[0] for array in content(task))
        keys_BxDxF, values_BxDxF = (np.broadcast_to(array, (B, *array.shape)) for array in (keys_DxF, values_DxF))
        day_B, number = turns.turns(task, key, index, turn=TURN, replay=REPLAY)
        day_BxQ, kind_BxQ, fact_BxQ = _asked(task, key, number, day_B)
    else:
        keys_BxDxF, values_BxDxF = _fresh(task, key, index)
        day_B, number = None, index
        day_BxQ, kind_BxQ, fact_BxQ = _asked(task, key, number, None)
    tokens, targets, answer = np.full((B, task.seq_len), PAD, np.int32), np.full((B, task.seq_len), PAD, np.int32), np.full((B, task.seq_len), -1, np.int32)
    words = lambda day, fact: (_key_words(task, keys_BxDxF[row, day, fact]), _value_words(task, values_BxDxF[row, day, fact]))
    for shown in range(task.told_days):
        day_Bx1 = day_B[:, None] if task.told == "today" else np.full((B, 1), shown)
        order, template = _presented(task, key, number, day_Bx1[:, 0])
        key_BxFxK, value_BxFxV = words(day_Bx1, order)
        text = _filled(np.stack([_sentence(_TEMPLATES[t], key_BxFxK, value_BxFxV, task.fact_tokens) for t in range(TEMPLATES)]), template)
        at = shown * task.day_tokens + task.places[:, None] + np.arange(task.fact_tokens)
        tokens[:, at.reshape(-1)] = text.reshape(B, -1)
    key_BxQxK, value_BxQxV = words(day_BxQ, fact_BxQ)
    before_BxQxK = _key_words(task, keys_BxDxF[row, (day_BxQ - 1) % task.days, np.maximum(fact_BxQ - task.named, 0)])
    key_BxQxK = np.where((kind_BxQ == KINDS.index("two_hop"))[..., None], before_BxQxK, key_BxQxK)
    asked = [_question(task, kind, key_BxQxK, value_BxQxV, key[1] == TRAIN) for kind in KINDS]
    where = slice(task.first_asked, task.seq_len)
    for field, (array, blank) in enumerate(((tokens, PAD), (targets, PAD), (answer, False))):
        chosen = _filled(np.stack([each[field] for each in asked]), kind_BxQ)
        if field == 2:
            chosen = np.where(chosen, np.arange(task.questions)[:, None], -1)
        array[:, where] = chosen.reshape(B, -1)
    return {
        "tokens": tokens,
        "targets": targets,
        "loss_mask": targets != PAD,
        "answer": answer,
        "difficulty": {"day": (day_BxQ + 1).astype(np.int32), "question": kind_BxQ.astype(np.int32)},
    }


def _filled(candidates: np.ndarray, which: np.ndarray) -> np.ndarray:
    """candidates [n, …, W], which [...] → the chosen ones [..., W]."""
    return np.take_along_axis(candidates, which[None, ..., None], axis=0)[0]


def _key_words(task: Layout, key: np.ndarray) -> np.ndarray:
    """Returns the tokens of keys [...], those of two names below names², else a value above it: int64 [..., K], PAD behind the shorter ones."""
    out = np.full((*key.shape, task.key_tokens), PAD, np.int64)
    first, second = np.divmod(key, task.names)
    named = (key < task.names**2)[..., None]
    out[..., :2] = NAME + np.stack([first, second], -1)
    if task.links:
        digits = np.full_like(out, PAD)
        digits[..., : task.digits] = _value_words(task, np.maximum(key - task.names**2, 0))
        out = np.where(named, out, digits)
    return out


def _value_words(task: Layout, value: np.ndarray) -> np.ndarray:
    return ZERO + value[..., None] // 10 ** np.arange(task.digits - 1, -1, -1) % 10


def _sentence(template: tuple[int, ...], key: np.ndarray, value: np.ndarray, width: int) -> np.ndarray:
    """Returns the words of a template, those of a short key moved up, PAD behind them: int64 [..., width]."""
    words = np.concatenate([{_KEY: key, _VALUE: value}.get(word, np.full((*key.shape[:-1], 1), word, np.int64)) for word in template], -1)
    words = np.take_along_axis(words, np.argsort(words == PAD, axis=-1, kind="stable"), -1)
    return np.concatenate([words, np.full((*key.shape[:-1], width - words.shape[-1]), PAD, np.int64)], -1)


def _question(task: Layout, kind: str, key: np.ndarray, value: np.ndarray, learns_keys: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, targets and what is graded of a kind of question, [..., question_tokens] each."""
    template = _QUESTIONS[kind]
    words, place = _sentence(template, key, value, task.question_tokens), np.arange(task.question_tokens)
    length = lambda array: (array != PAD).sum(-1, keepdims=True)
    end, first = length(words) - 1, length(words) - length(key if template[-1] == _KEY else value)
    graded = (place >= first - 1) & (place < end)
    labelled = (place < end) if learns_keys and kind == "asked" else graded
    following = np.concatenate([words[..., 1:], np.full((*key.shape[:-1], 1), PAD)], -1)
    return words, np.where(labelled, following, np.where(place == end, END, PAD)), graded


def _presented(task: Layout, key: tuple[int, int], number: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns in which order a day's facts are told, and by which templates: int64 [B, F] each."""
    F = task.facts
    order = philox.order(philox.words(key, number, ORDER, day, F), np.full(len(number), F))
    return order, philox.multiply_high(philox.words(key, number, TEMPLATE, day, F), np.uint64(TEMPLATES)).astype(np.int64)


def _asked(task: Layout, key: tuple[int, int], number: np.ndarray, day_B: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns day, kind and fact of every question: int64 [B, Q] each; the days are drawn where none is given."""
    Q, A = task.questions, len(task.asks)
    spans = np.array([task.of_kind(kind) for kind in task.asks])
    if day_B is not None and key[1] != TRAIN:  # all questions of a day, one after the other
        period = A * task.facts * task.named * max(task.links, 1)
        nth = (number // np.uint64(task.days) % np.uint64(period)).astype(np.int64)[:, None] * Q + np.arange(Q)
        which = nth % A
        fact = spans[which, 0] + nth // A % spans[which, 1]
    else:
        words = philox.words(key, number, ASKED, 0, 3 * Q).reshape(-1, Q, 3)
        which = philox.multiply_high(words[..., 0], np.uint64(A)).astype(np.int64)
        fact = spans[which, 0] + philox.multiply_high(words[..., 1], spans[which, 1].astype(np.uint64)).astype(np.int64)
    day = philox.multiply_high(words[..., 2], np.uint64(task.days)).astype(np.int64) if day_B is None else np.broadcast_to(day_B[:, None], which.shape)
    return day, np.array([KINDS.index(kind) for kind in task.asks])[which], fact


@functools.cache
def content(task: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a stream says: keys and values, int64 [1, D, F], see `_world`."""
    return _world(task, (task.content, CONTENT), np.zeros(1, np.uint64), np.zeros(1, np.int64))


def recalled(task: Layout) -> np.ndarray:
    """Returns `Days.recalled`."""
    keys, values = (array[0] for array in content(task))
    words = _sentence(_QUESTIONS["asked"], _key_words(task, keys), _value_words(task, values), task.question_tokens)[..., 1:]
    end = np.arange(words.shape[-1]) == (words != PAD).sum(-1, keepdims=True)
    return np.where(end, END, words).astype(np.int32)


def _world(task: Layout, key: tuple[int, int], index: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns keys and values, int64 [rows, D, F]; a key is two names, first · names + second, or names² + the value of the day before that it is."""
    n, drawn = task.days * task.facts, []
    for stream, bound in ((KEYS, task.names**2), (VALUES, 10**task.digits)):
        read = lambda row, draws: philox.multiply_high(philox.words(key, index[row], stream, attempt[row], draws), np.uint64(bound)).astype(np.int64)  # noqa: B023
        drawn.append(distinct(read, np.full(len(index), n), n, n + n * n // bound).reshape(len(index), task.days, task.facts))
    keys, values = drawn
    keys[:, :, task.named :] = task.names**2 + np.roll(values, 1, axis=1)[:, :, : task.links]
    return keys, values


def _fresh(task: Layout, key: tuple[int, int], index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns fresh days for each example, as `_world`."""
    def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys, values = _world(task, key, index[row], attempt)
        fact = mix64(mix64(keys.astype(np.uint64)) ^ values.astype(np.uint64))
        # a sum over facts is the same in any order
        return np.stack([keys, values], 1)[:, None], mix64(fact.sum((1, 2), dtype=np.uint64))[:, None]

    found = draw_members(propose, len(index), key[1], 2 * task.days * task.facts)[:, 0]
    return found[:, 0], found[:, 1]
