"""The phone book for many examples at once: `batch` reads the same random words as `Phonebook.example` and gives the same examples.

Dimension letters: B examples, N entries, D digits, T tokens of an example.
"""
import functools
from typing import Any

import numpy as np

from sleepnet.tasks.base import PAD
from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.draws import distinct
from sleepnet.tasks.machinery.splits import TRAIN, draw_members, mix64
from sleepnet.tasks.phonebook.layout import ASKED, COLON, CONTENT, DIGITS, EPOCH, FIRST_NAME, KEYS, LIST, ZERO, Layout

_WORDS_AT_ONCE = 2**18  # of permutations that are drawn together


def batch(task: Layout, key: tuple[int, int], index: np.ndarray) -> dict[str, Any]:
    """Returns the examples at `index`, uint64 [B], stacked."""
    B, row = len(index), np.arange(len(index))
    tokens, targets = np.full((B, task.seq_len), PAD, np.int32), np.full((B, task.seq_len), PAD, np.int32)
    place = np.zeros(B, np.int64)
    if task.by_heart:
        keys_N, digits_NxD = content(task)
        asked = entries_at(task, key, index)
        asked_key_B, number_BxD, alike = keys_N[asked], digits_NxD[asked], content_alike(task)[asked]
    else:
        keys_BxN, digits_BxNxD = _fresh(task, key, index)
        asked = philox.multiply_high(philox.words(key, index, ASKED, 0, 1)[:, 0], np.uint64(task.entries)).astype(np.int64)
        asked_key_B, number_BxD = keys_BxN[row, asked], digits_BxNxD[row, asked]
        place, alike = task.entries - asked, shared(task, keys_BxN, asked_key_B[:, None])
        for entry, first in enumerate(task.places):
            _write(task, tokens, first, keys_BxN[:, entry], digits_BxNxD[:, entry])
    start = task.first_asked
    _write(task, tokens, start, asked_key_B, number_BxD[:, :-1])
    targets[:, start + 2 :] = ZERO + number_BxD
    return {
        "tokens": tokens,
        "targets": targets,
        "loss_mask": targets != PAD,
        "answer": np.where(targets != PAD, np.int32(0), np.int32(-1)),
        "difficulty": {"place": place[:, None].astype(np.int32), "alike": rounded(alike)[:, None].astype(np.int32)},
    }


def _write(task: Layout, tokens: np.ndarray, first: int, key_B: np.ndarray, digits_BxD: np.ndarray) -> None:
    """Writes an entry into each row, from column `first` on."""
    name, surname = np.divmod(key_B, task.names)
    tokens[:, first], tokens[:, first + 1], tokens[:, first + 2] = FIRST_NAME + name, FIRST_NAME + task.names + surname, COLON
    tokens[:, first + 3 : first + 3 + digits_BxD.shape[1]] = ZERO + digits_BxD


def shared(task: Layout, keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns how many other keys, along the last axis, share a name with the one asked for, which is among them."""
    name, surname = np.divmod(keys, task.names)
    asked_name, asked_surname = np.divmod(asked, task.names)
    return ((name == asked_name) | (surname == asked_surname)).sum(-1) - 1


def rounded(count: np.ndarray) -> np.ndarray:
    """Returns counts down to a power of two; 0 stays."""
    return (1 << np.frexp(count.astype(np.float64))[1]) >> 1


@functools.cache
def content_alike(task: Layout) -> np.ndarray:
    """Returns `alike` of every entry of a book by heart: int64 [N]."""
    keys, of_name, of_surname = content(task)[0], *(np.zeros(task.names, np.int64) for _ in range(2))
    name, surname = np.divmod(keys, task.names)
    np.add.at(of_name, name, 1)
    np.add.at(of_surname, surname, 1)
    return of_name[name] + of_surname[surname] - 2


@functools.cache
def content(task: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is to be known by heart: keys, first name · names + surname, int64 [N], and digits, int64 [N, D]."""
    key, n = (task.content, CONTENT), task.entries
    return _draw(task, key, np.zeros(1, np.uint64), np.zeros(1, np.int64))[0], _below_ten(philox.words(key, np.arange(n), DIGITS, 0, task.digits))


def _draw(task: Layout, key: tuple[int, int], index: np.ndarray, attempt: np.ndarray) -> np.ndarray:
    """Returns keys, none twice in a row: int64 [rows, N]."""

    def read(row: np.ndarray, draws: int) -> np.ndarray:
        words = philox.words(key, index[row], KEYS, attempt[row], draws)
        return philox.multiply_high(words, np.uint64(task.names**2)).astype(np.int64)

    return distinct(read, np.full(len(index), task.entries), task.entries, task.entries + task.entries**2 // task.names**2)


def _below_ten(words: np.ndarray) -> np.ndarray:
    return philox.multiply_high(words, np.uint64(10)).astype(np.int64)


def _fresh(task: Layout, key: tuple[int, int], index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a fresh book for each example: keys int64 [B, N] and digits int64 [B, N, D]."""
    n, digits = task.entries, task.digits

    def propose(row: np.ndarray, attempt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = _draw(task, key, index[row], attempt)
        number = _below_ten(philox.words(key, index[row], DIGITS, attempt, n * digits)).reshape(len(row), n, digits)
        entry = mix64(keys.astype(np.uint64))
        for digit in np.moveaxis(number, -1, 0):
            entry = mix64(entry ^ digit.astype(np.uint64))
        # a sum over entries is the same in any order
        return np.concatenate([keys[..., None], number], -1)[:, None], mix64(entry.sum(1, dtype=np.uint64))[:, None]

    found = draw_members(propose, len(index), key[1], n * (1 + digits))[:, 0]
    return found[..., 0], found[..., 1:]


def entries_at(task: Layout, key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """Returns which entry each example asks for, of a book by heart: int64 [B]. Validation and test go through the list."""
    index = index.astype(np.int64)
    if key[1] != TRAIN:
        return index % task.entries
    share_B, slot = np.broadcast_to(task.shares(index), index.shape), np.empty_like(index)
    for share in np.unique(share_B):
        size, begin = task.in_use(int(share))
        rows = np.flatnonzero(share_B == share)
        epoch, place = np.divmod(index[rows] - begin, size)
        slot[rows] = place if task.order == "fixed" else _shuffled(key, int(share), size, epoch, place)
    return _permutations(key, np.zeros(1, np.uint64), LIST, 0, task.entries)[0][slot]


def _shuffled(key: tuple[int, int], share: int, size: int, epoch: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns what stands at `place` of the permutation of 0..size-1 that each epoch draws: int64 like both."""
    epochs, of = np.unique(epoch, return_inverse=True)
    out, step = np.empty_like(place), max(1, _WORDS_AT_ONCE // size)
    for first in range(0, len(epochs), step):
        rows = np.flatnonzero((of >= first) & (of < first + step))
        out[rows] = _permutations(key, epochs[first : first + step], EPOCH, share, size)[of[rows] - first, place[rows]]
    return out


def _permutations(key: tuple[int, int], index: np.ndarray, stream: int, attempt: int, size: int) -> np.ndarray:
    """Returns a permutation of 0..size-1 for each index: int64 [rows, size]."""
    return philox.order(philox.words(key, index, stream, attempt, size), np.full(len(index), size))
