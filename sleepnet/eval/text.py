"""What a text costs a model, in nats and bits: by distance from the last boundary, by place in the document, for each N, and with nothing kept at all.

Letters: B documents of a batch, T tokens of a document that are read, L of a window, W windows.
"""
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from sleepnet.errors import UsageError
from sleepnet.mesh import constrain
from sleepnet.tasks.text import Text

Row = dict[str, Any]
ALONE, BEFORE = "each window alone", "before training"
_BEFORE = {ALONE: "hard", "sliding cache": "sliding", "full cache": "none"}  # how it reads → model.sleep.eviction
_RESAMPLES, _LEVEL = 1000, 0.95


@functools.partial(jax.jit, static_argnames=("graph", "predicts"))
def _costs(graph, params, tokens_BxT, targets_BxT, *, passes, predicts):
    """−log p of each target, nats, float32 [B, T]."""
    logits = nnx.merge(graph, params).forward(constrain(tokens_BxT), passes=passes, predicts=predicts)
    return constrain(optax.softmax_cross_entropy_with_integer_labels(logits, targets_BxT))


def loss(model: nnx.Module, source: Text, *, passes: int, examples: int, batch_size: int, split: str, seed: int = 0) -> float:
    """Mean nats a label of examples 0 … E − 1 of a split; NaN where a logit is no number."""
    graph, params = nnx.split(model, nnx.Param)
    total, labels = 0.0, 0
    for start in range(0, examples, batch_size):
        batch = source.batch_at(seed, split, np.minimum(np.arange(start, start + batch_size), examples - 1))
        counted = batch["loss_mask"] & (np.arange(start, start + batch_size) < examples)[:, None]
        cost = np.asarray(jax.device_get(_costs(graph, params, batch["tokens"], batch["targets"], passes=np.int32(passes), predicts=source.predicts)), np.float64)
        total, labels = total + float(cost[counted].sum()), labels + int(counted.sum())
    return total / max(labels, 1)


def evaluate(
    models: Mapping[str, tuple[nnx.Module, Sequence[int]]], source: Text, *, documents: int, windows: int, batch_size: int, split: str = "test",
    before: nnx.Module | None = None, progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Reads the beginnings of documents with each model and each of its N, and with its windows each alone: all on the same text.

    With `before`, the model that they were before they were trained to sleep, also with that one: each window alone, with a sliding cache (the newest
    L − 1 entries stay) and with all of its cache, the ceiling.

    One row for each way of reading and bin:
      way, passes, split       the model's name, and its N or ALONE: no window knows what stood before it
      axis, first, last        of the bin: `all`; `behind`, all windows but the first, where memory can tell; `distance`, tokens since the boundary that are in
                               sight, this one among them; `place`, windows of the document, from 1
      labels, documents        it has
      nats, interval           a label, all documents' together, and 95 % by resampling documents: [low, high]
      bits_per_byte            nats · tokens / (bytes · ln 2) over these documents; None where nobody knows their bytes
      saved, saved_interval    nats a label less than the same model's ALONE on the same labels, resampled in pairs
      won, won_interval        likewise less than the ALONE of `before`; only where that is given
      nonfinite                labels whose cost is no number; such a row's nats are None

    Args:
      models: name → model, and its N.
      source: what is read; its window is the models'.
      documents: at most so many, those with the smallest keys.
      windows: W of a document at most.
      batch_size: documents read at a time.
      before: whose KV cache was never emptied in training, of the same window; what it has of fast weights is not asked.
      progress: called with (documents read, documents there are, all ways together).

    Raises:
      UsageError: a count below 1, or a model of another window or vocabulary.
    """
    for key, value in (("documents", documents), ("windows", windows), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{key}={value} must be at least 1")
    for name, model in {**{name: model for name, (model, _) in models.items()}, **({BEFORE: before} if before else {})}.items():
        if model.config.window != source.window or model.config.vocab_size < source.vocab_size:
            raise UsageError(f"{name} has window {model.config.window} and {model.config.vocab_size} tokens, the text {source.window} and {source.vocab_size}: not its text")
    long = type(source)(**{**source.arguments, "windows": windows})
    batch, chosen = long.beginnings(split, documents)
    ways = {(name, f"N = {count}" if count else ALONE): (model, count) for name, (model, passes) in models.items() for count in (0, *passes)}  # 0: each window alone
    ways |= {(BEFORE, told): (_evicting(before, eviction), int(told != ALONE)) for told, eviction in _BEFORE.items()} if before else {}
    found = {}
    for number, (way, (model, count)) in enumerate(ways.items()):
        cut = long.seq_len if count else source.window
        found[way] = _read(model, {key: value.reshape(-1, cut) for key, value in batch.items()}, max(count, 1), batch_size * (long.seq_len // cut)).reshape(len(chosen), long.seq_len)
        if progress:
            progress((number + 1) * len(chosen), len(ways) * len(chosen))
    rate = source.bytes_per_token(chosen)
    rows = []
    for (name, how), cost in found.items():
        alone = {"saved": found[name, ALONE], **({"won": found[BEFORE, ALONE]} if before else {})}
        for axis, start, stop, member in _bins(source.window, windows):
            counted = batch["loss_mask"] & member
            if counted.any():
                told = {"way": f"{name}, {how}", "passes": max(ways[name, how][1], 1), "split": split, "axis": axis, "first": start, "last": stop}
                rows.append(told | _row(cost, alone, counted, rate))
    return rows


def _evicting(model, eviction):
    """The same parameters, another eviction; convolutions remember where it leaves KV entries."""
    _, params = nnx.split(model, nnx.Param)
    keeps = model.config.sleep.keep_tails if eviction == "hard" else "G" in model.config.pattern
    config = dataclasses.replace(model.config, sleep=dataclasses.replace(model.config.sleep, eviction=eviction, keep_tails=keeps))
    return nnx.merge(nnx.split(nnx.eval_shape(lambda: type(model)(config, nnx.Rngs(0))), nnx.Param)[0], params)


def _read(model, batch, passes, batch_size):
    """float64 [rows, T], nats of each target; the last batch is filled up with rows that are read for nothing."""
    graph, params = nnx.split(model, nnx.Param)
    predicts, told = (True,) * -(-batch["tokens"].shape[1] // model.config.window), []
    for start in range(0, len(batch["tokens"]), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(batch["tokens"]) - 1)
        told.append(jax.device_get(_costs(graph, params, batch["tokens"][rows], batch["targets"][rows], passes=np.int32(passes), predicts=predicts)))
    return np.concatenate(told).astype(np.float64)[: len(batch["tokens"])]


def _bins(size, windows):
    """(axis, first, last, which labels, bool [T]) of each bin; both ends are in it."""
    distance, place = np.tile(np.arange(1, size + 1), windows), np.repeat(np.arange(1, windows + 1), size)
    yield "all", 1, windows, place >= 1
    if windows > 1:
        yield "behind", 2, windows, place > 1
    for axis, values, most, among in (("distance", distance, size, place > 1 if windows > 1 else place > 0), ("place", place, windows, place > 0)):
        for start, stop in spans(most):
            yield axis, start, stop, among & (start <= values) & (values <= stop)


def spans(most: int) -> list[tuple[int, int]]:
    """1, 2, 3 … 4, 5 … 8 and so on up to `most`: (first, last) each."""
    ends = [1 << i for i in range((most - 1).bit_length())] + [most] if most > 1 else [1]
    return list(zip([1, *(end + 1 for end in ends)], ends))


def _row(cost, alone, counted, rate):
    """What is told of some labels, bool [documents, T]."""
    labels, bad = counted.sum(axis=1), int((counted & ~np.isfinite(cost)).sum())
    told = {"labels": int(labels.sum()), "documents": int((labels > 0).sum()), "nonfinite": bad}
    if bad or any((counted & ~np.isfinite(other)).any() for other in alone.values()):
        return told | {"nats": None, "interval": None, "bits_per_byte": None} | {f"{key}{end}": None for key in alone for end in ("", "_interval")}
    total = lambda value: np.where(counted, value, 0.0).sum(axis=1)
    mean = lambda sums: float(sums.sum() / labels.sum())
    sums = total(cost)
    told |= {"nats": mean(sums), "interval": _interval(sums, labels), "bits_per_byte": mean(sums) / math.log(2) / rate if rate else None}
    for key, other in alone.items():
        less = total(other - cost)
        told |= {key: mean(less), f"{key}_interval": _interval(less, labels)}
    return told


def _interval(sums, labels, seed=0):
    """95 % of Σ sums / Σ labels, documents drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(0, len(labels), (_RESAMPLES, len(labels)))
    counts = labels[drawn].sum(axis=1)
    ratio = sums[drawn].sum(axis=1)[counts > 0] / counts[counts > 0]
    return [float(end) for end in np.quantile(ratio, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]
