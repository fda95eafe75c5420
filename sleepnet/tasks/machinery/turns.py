"""Days of a stream take turns: which day a training example is of follows from its index, whatever the order of training, and so does what is replayed.

A stream has `days`, `per_day` training examples of each, `order` given, shuffled or mixed, `replay` per cent of examples that are of a day before, one of its first `kept`.
"""
from collections.abc import Iterator
from typing import Any

import numpy as np

from sleepnet.tasks.machinery import philox
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.splits import TRAIN

ORDERS = ("given", "shuffled", "mixed")


def checked(stream: Any) -> dict[str, int]:
    """Arguments as they are kept; raises UsageError where one is impossible."""
    choice("order", stream.order, ORDERS)
    per_day, replay, kept = whole("per_day", stream.per_day, 1, 2**40), whole("replay", stream.replay, 0, 100), whole("kept", stream.kept, 1)
    require(not replay or kept <= per_day, f"kept={kept} are more than the per_day={per_day} examples of a day")
    return {"per_day": per_day, "replay": replay, "kept": kept}


def fresh_says_nothing_of(stream: Any, *keys: str) -> None:
    """Where kind is "fresh", raises UsageError if one of `keys`, or of a stream's own arguments, is not at its default: there are no days that take turns."""
    for key in (*keys, "per_day", "order", "replay", "kept") if stream.kind == "fresh" else ():
        require(getattr(stream, key) == getattr(type(stream), key), f"{key}={getattr(stream, key)!r} says nothing where kind='fresh'; leave it out")


def lap(stream: Any, index: Any) -> tuple[Any, Any, Any]:
    """Of the training example at `index`, a number or an array: the lap through all days, the place of its day in it, the number in that day."""
    p, D = stream.per_day, stream.days
    lap, rest = index // (p * D), index % (p * D)
    return (lap, rest % D, rest // D) if stream.order == "mixed" else (lap, rest // p, rest % p)


def turns(stream: Any, key: tuple[int, int], index: np.ndarray, *, turn: int, replay: int) -> tuple[np.ndarray, np.ndarray]:
    """Each example's day, from 0, and the number under which its words are drawn, one for all that it is. `turn`, `replay`: numbers of streams of words."""
    D = np.uint64(stream.days)
    if key[1] != TRAIN:
        return (index % D).astype(np.int64), index
    laps, place, nth = lap(stream, index)
    if stream.replay:
        words = philox.words(key, index, replay, 0, 3)
        again = (philox.multiply_high(words[:, 0], np.uint64(100)) < stream.replay) & (place > 0)
        place, nth = np.where(again, philox.multiply_high(words[:, 1], place), place), np.where(again, philox.multiply_high(words[:, 2], np.uint64(stream.kept)), nth)
    day = place
    if stream.order == "shuffled":
        day = philox.order(philox.words(key, np.zeros(1, np.uint64), turn, 0, stream.days), np.array([stream.days]))[0].astype(np.uint64)[place.astype(np.int64)]
    return day.astype(np.int64), (laps * np.uint64(stream.per_day) + nth) * D + day


def turn_of(stream: Any, key: tuple[int, int], index: int, *, turn: int, replay: int) -> tuple[int, int]:
    """`turns` of one example, by plain numbers."""
    if key[1] != TRAIN:
        return index % stream.days, index
    laps, place, nth = lap(stream, index)
    words = philox.stream(key, index, replay)
    again, back, which = (next(words) for _ in range(3))
    if place and philox.below(again, 100) < stream.replay:
        place, nth = philox.below(back, place), philox.below(which, stream.kept)
    day = permutation(philox.stream(key, 0, turn), stream.days)[place] if stream.order == "shuffled" else place
    return day, (laps * stream.per_day + nth) * stream.days + day


def permutation(words: Iterator[int], size: int) -> list[int]:
    """A random permutation of 0..size-1: the places of `size` words, sorted by word."""
    drawn = [next(words) for _ in range(size)]
    return sorted(range(size), key=drawn.__getitem__)
