"""Accuracy of a model on a task by test-time passes and by difficulty, with intervals, baselines and cost.

Letters: B examples of a batch, E of the evaluation, T tokens of an example, A answers of an example.
"""
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sleepnet import losses
from sleepnet.decode import Law
from sleepnet.errors import UsageError
from sleepnet.eval import by_block, own_chain as own, paired, pass_at_k, recalled
from sleepnet.eval.intervals import wilson
from sleepnet.mesh import constrain
from sleepnet.methods.rl import experience
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.base import PAD, Task

Row = dict[str, Any]


def evaluate(
    model: nnx.Module,
    task: Task,
    *,
    passes: Sequence[int],
    examples: int,
    batch_size: int,
    seed: int = 0,
    split: str = "test",
    halt: float = 0.0,
    own_chain: bool = False,
    keep_answers: bool = False,
    recall: bool = False,
    blocks: int | None = None,
    chains: int = 0,
    draw: int = 0,
    law: Law = Law(),
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Reads examples 0 … E − 1 of a split with every N of `passes`, by Algorithm 1, and grades them.

    One row for each N and difficulty value, and one with axis "all":
      passes, split, axis, value       N; the value is None where the axis is "all"
      answers, tokens_graded           what the accuracies are shares of
      label_accuracy, label_interval   right tokens, [low, high] at 95 %; see `wilson` for what the interval assumes:
      exact_accuracy, exact_interval   answers with every token right     tokens of one answer are not independent
      nonfinite_answers                answers with a logit that is no number; the tokens there count as wrong
      baselines                        {name: {"label", "exact"}} of guessing, as the task tells them for this value
      tokens                           tokens read with this N, PAD included
      flops_sleep, flops_wake_token    of one sequence, see `sleepnet.models.flops`
      flops                            of everything read with this N
      halt, passes_used                with `halt` alone: itself, and the mean passes of a sleep, of the examples these answers belong to
      own_chain_label_accuracy, own_chain_label_interval, own_chain_exact_accuracy, own_chain_exact_interval
                                       with `own_chain` alone: the same after a chain of thought that the model wrote itself
      tokens_awake                     with `own_chain` alone: mean tokens of a sequence, without PAD, in windows that predict
      label_loss                       with `recall` alone, as all below, where the axis is "all": mean −log p of the right tokens, nats, what stands before each
                                       being right; None where a logit is no number
      own_chain_leading                with `own_chain` besides: tokens of the model's own chain before the first wrong one of an answer, all answers together
      own_chain_leading_unsure, own_chain_exact_unsure    of these, and of tokens of answers that are right as a whole, those with p < ½
      blocks, flops_blocks             of a model with memory blocks alone: K; FLOPs of reading them, of one sequence, before anything is asked;
      exact_by_block, any_block        exact accuracy of read-outs behind block 1, … K, and the share of answers that are right behind any of them
      chains, pass_at, coverage        with `chains` alone: itself; {k: pass@k}, see `sleepnet.eval.pass_at_k`; share of examples with a right one
      right_chains                     with `chains` and `keep_answers` alone: how many of them are right, of each of these examples in the test's order
      right_answers                    with `keep_answers` alone: which of these answers were exact, in the test's order, as `paired.pack` writes it
    Rows of one axis split the same answers by that axis alone.

    Args:
      model: has `config` (a ModelConfig) and `forward(tokens, passes=N, predicts=…)`, N an int32 scalar; parameters and hashable values only.
      task: what it is graded on.
      passes: N, each ≥ 1; each is asked what the task asks of so many, where it follows them.
      examples: E ≥ 1.
      batch_size: examples read at a time; the result does not depend on it.
      seed: of the examples.
      split: "test", "validation" or "train". Baselines are of the test split's law, so "train" has none.
      halt: a sequence's sleep ends once S changes by less than this share of itself, and N bounds it; 0: every sleep has N passes.
      own_chain: grade besides what follows the model's own chain of thought, see `sleepnet.eval.own_chain`; everywhere else it stands there right.
      blocks: K memory blocks that are read; the model's own if None.
      chains: drawn of each example, of which pass@k is made; 0: none.
      draw: number of the draw: the same number draws the same, another one chains of their own.
      law: what these are drawn from.
      keep_answers: rows say which answers were right, so that two models can be compared answer by answer.
      recall: rows say what the answers cost and how far they are right; no part of it changes the rest.
      progress: called with (examples read, examples there are, all N together) after each batch.

    Raises:
      UsageError: a count below 1, a halt with nothing to end, a model whose vocabulary or window is not the task's, a chain of thought that can't be written,
        or memory blocks that there can't be.
    """
    _check(model.config, task, passes, examples, batch_size, halt)
    if task.follows_passes:
        told = dict(examples=examples, batch_size=batch_size, seed=seed, split=split, halt=halt, own_chain=own_chain, keep_answers=keep_answers, recall=recall, blocks=blocks, chains=chains, draw=draw, law=law)
        step = lambda i: progress and (lambda done, total: progress(i * total + done, len(passes) * total))
        return [row for i, count in enumerate(passes) for row in evaluate(model, task.at(count), passes=[count], **told, progress=step(i))]
    if own_chain:
        own.check(model.config, task)
    if chains:
        experience.check(task, model.config)
    config = by_block.chosen(model.config, task, blocks)
    blocks = config.memory_blocks.count
    graph, params = nnx.split(model, nnx.Param)
    graded = {count: [] for count in passes}
    known: dict[int, list] = {count: [] for count in passes}
    difficulty, awake, behind, drawn = [], [], {count: [] for count in passes}, {count: [] for count in passes}
    batch_size = min(batch_size, examples)
    for done, valid, batch in _batches(task, seed, split, examples, batch_size):
        arrays = tuple(batch[key] for key in ("tokens", "targets", "loss_mask", "answer"))
        # of several processes, each has the whole batch
        arrays = jax.device_put(arrays) if jax.process_count() == 1 else arrays
        told = dict(predicts=task.predicts, answers=task.answers, halt=np.float32(halt) if halt else None)
        pending = {count: _grade(graph, params, arrays[0], arrays[1], arrays[3], passes=np.int32(count), blocks=blocks or None, **told) for count in graded}
        if blocks:
            sleeps = dict(context=task.predicts.count(False) * task.window, answers=task.answers, blocks=blocks)
            for count in graded:
                behind[count].append(by_block.grade(graph, params, arrays[0], arrays[1], arrays[3], passes=np.int32(count), **sleeps)[:valid])
        if chains:
            sampled = functools.partial(pass_at_k.right, graph, params, *arrays[:2], np.int32(done - valid), np.int32(draw), task=task, chains=chains, law=law)
            for count in graded:
                drawn[count].append(sampled(passes=count)[:valid])
        if own_chain:
            write = functools.partial(own.grade, graph, params, *arrays, marker=task.answer_marker, **told)
            pending = {count: (*values, *write(passes=np.int32(count))) for count, values in pending.items()}
            awake.append((batch["tokens"] != PAD)[:valid, np.repeat(task.predicts, task.window)[: task.seq_len]].sum(axis=1))
        for count, values in jax.device_get(pending).items():
            cost_BxT, *values = [value[:valid] for value in values]
            hit_BxT = values.pop() if own_chain else None
            graded[count].append(values)
            if recall:
                known[count].append(recalled.counts(cost_BxT, hit_BxT, batch["answer"][:valid], task.answers))
        difficulty.append({axis: values[:valid] for axis, values in batch["difficulty"].items()})
        if progress is not None:
            progress(done * len(graded), examples * len(graded))
    axes = {axis: np.concatenate([part[axis] for part in difficulty]) for axis in task.difficulty_axes}
    baselines = {} if split == "train" else task.baselines()
    rows = []
    asleep = task.predicts.count(False)
    for count, parts in graded.items():
        right, tokens, exact, bad, used_E, *after_own = [np.concatenate(column) for column in zip(*parts)]
        used_E, counts = used_E / max(asleep, 1), (right, tokens, exact, bad, *after_own)
        cost = _cost(config, task, float(used_E.mean()) if halt else count, examples)
        told = {"halt": halt} if halt else {}
        means = ({"passes_used": used_E} if halt else {}) | ({"tokens_awake": np.concatenate(awake)} if own_chain else {})
        sums = {key: np.concatenate([part[key] for part in known[count]]) for key in known[count][0]} if recall else {}
        graded_rows = _rows(counts, axes, baselines, means, keep_answers, sums, np.concatenate(jax.device_get(behind[count])) if blocks else None, _sampled(drawn[count], chains, keep_answers))
        rows += [{"passes": count, "split": split} | told | row | cost for row in graded_rows]
    return rows


def _check(config, task: Task, passes: Sequence[int], examples: int, batch_size: int, halt: float) -> None:
    if not 0 <= halt < 1:
        raise UsageError(f"halt={halt} must be at least 0 and below 1: a share of the norm of S")
    for key, values in (("passes", passes), ("examples", [examples]), ("batch_size", [batch_size])):
        if not values or min(values) < 1:
            raise UsageError(f"{key}={','.join(map(str, values))} must be at least 1")
    if halt and max(passes) == 1:
        raise UsageError(f"halt={halt} may end a sleep before its last pass, but passes=1 has no pass to leave out: give more passes, or halt=0")
    if halt and "G" not in config.pattern:
        raise UsageError(f"halt={halt} waits for fast weights to settle, of which the model ({config.pattern!r}) has none: give halt=0")
    if config.vocab_size < task.vocab_size:
        raise UsageError(f"the model knows {config.vocab_size} tokens (vocab_size), task {task.name} has {task.vocab_size}: not its task")
    if config.window != task.window:
        raise UsageError(f"the model's window is {config.window}, task {task.name} has {task.window}: not its task, or other arguments")


def _batches(task: Task, seed: int, split: str, examples: int, batch_size: int) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """(examples read after it, rows that count, batch); the last batch is filled up with its last example."""
    for start in range(0, examples, batch_size):
        stop = min(start + batch_size, examples)
        yield stop, stop - start, task.batch_at(seed, split, np.minimum(np.arange(start, start + batch_size), examples - 1))


# At module level, by a static graph and with N as a value: another evaluation of the same model compiles nothing, nor does another N
@functools.partial(jax.jit, static_argnames=("graph", "predicts", "answers", "blocks"))
def _grade(graph, params, tokens_BxT, targets_BxT, answer_BxT, *, passes, predicts, answers, halt, blocks=None):
    """−log p of the targets, float32 [B, T]; [B, A] int32 each: right tokens, tokens, whether all are right, tokens with a logit that is no number; and passes asleep, [B]."""
    model, at = nnx.merge(graph, params), None
    if blocks is not None:
        logits_BxTxV, used_B = model.forward_until(tokens_BxT, passes=passes, predicts=predicts, blocks=blocks)
    elif halt is None and isinstance(model, Hybrid) and model.spares(predicts):
        (logits_BxTxV, at), used_B = model.predicted_logits(tokens_BxT, passes=passes, predicts=predicts), jnp.zeros(tokens_BxT.shape[:1], jnp.int32)
    elif halt is None:
        logits_BxTxV, used_B = model.forward(tokens_BxT, passes=passes, predicts=predicts), jnp.zeros(tokens_BxT.shape[:1], jnp.int32)
    else:
        logits_BxTxV, used_B = model.forward_until(tokens_BxT, passes=passes, predicts=predicts, halt=halt)
    targets_BxT, answer_BxT = (losses.places(values, at) for values in (targets_BxT, answer_BxT))  # of the P places, where only these have logits
    finite_BxT = jnp.all(jnp.isfinite(logits_BxTxV), axis=-1)
    cost_BxT = jnp.where(finite_BxT, optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, targets_BxT), jnp.nan)
    targets_BxT = jnp.where(finite_BxT, targets_BxT, -1)  # argmax takes NaN for the largest: it must not hit by chance
    right, tokens, exact = losses.grade(logits_BxTxV, targets_BxT, answer_BxT, answers)
    _, finite_tokens, _ = losses.grade(logits_BxTxV, targets_BxT, jnp.where(finite_BxT, answer_BxT, -1), answers)
    cost_BxT = losses.everywhere(cost_BxT, at, tokens_BxT.shape[1])
    return tuple(constrain(counts) for counts in (cost_BxT, right, tokens, exact.astype(jnp.int32), tokens - finite_tokens, used_B))


def _rows(
    counts: Sequence[np.ndarray],
    axes: Mapping[str, np.ndarray],
    baselines: Mapping[str, Any],
    means: Mapping[str, np.ndarray] = MappingProxyType({}),
    keep_answers: bool = False,
    recall: Mapping[str, np.ndarray] = MappingProxyType({}),
    behind_ExKxA: np.ndarray | None = None,
    sampled: Callable[[np.ndarray], Row] = lambda chosen_ExA: {},
) -> Iterator[Row]:
    """Rows of one N; `counts` as `_grade` and `own_chain.grade` return them, `axes` are [E, A], `means` [E] are told as means over the answers, `recall` is of `recalled.counts`."""
    asked_ExA = counts[1] > 0
    mean = lambda chosen_ExA: {key: float(np.average(values, weights=chosen_ExA.sum(axis=1))) for key, values in means.items()}
    blocks = lambda chosen_ExA: {} if behind_ExKxA is None else by_block.told(behind_ExKxA, chosen_ExA)
    known = recalled.told(recall, asked_ExA, int(counts[1].sum(dtype=np.int64)))
    told = {**_row(counts, asked_ExA, keep_answers), **blocks(asked_ExA), **sampled(asked_ExA), **known, **mean(asked_ExA)}
    yield {"axis": "all", "value": None, **told, "baselines": {name: _scores(b) for name, b in baselines.items()}}
    for axis, values_ExA in axes.items():
        for value in np.unique(values_ExA[asked_ExA]):
            by = {name: b["by"].get(axis, {}).get(int(value)) for name, b in baselines.items()}
            known = {name: _scores(scores) for name, scores in by.items() if scores is not None}
            chosen_ExA = asked_ExA & (values_ExA == value)
            yield {"axis": axis, "value": int(value), **_row(counts, chosen_ExA, keep_answers), **blocks(chosen_ExA), **sampled(chosen_ExA), **mean(chosen_ExA), "baselines": known}


def _sampled(drawn: Sequence[jax.Array], chains: int, keep: bool) -> Callable[[np.ndarray], Row]:
    """What rows say of chains that were drawn, by which answers they are of; nothing without chains."""
    right_E = np.concatenate(jax.device_get(list(drawn))) if chains else None
    return lambda chosen_ExA: pass_at_k.told(right_E[chosen_ExA.any(axis=1)], chains, keep=keep) if chains else {}


def _scores(baseline: Mapping[str, Any]) -> dict[str, float]:
    return {"label": float(baseline["label"]), "exact": float(baseline["exact"])}


def _row(counts: Sequence[np.ndarray], chosen_ExA: np.ndarray, keep_answers: bool = False) -> Row:
    """The two accuracies over the chosen answers."""
    right, tokens, exact, bad, *after_own = (array[chosen_ExA] for array in counts)
    answers, tokens_graded = len(tokens), int(tokens.sum(dtype=np.int64))
    share = lambda part, whole: part / whole if whole else 0.0
    kept = {"right_answers": paired.pack(exact)} if keep_answers else {}

    def accuracies(right, exact, prefix=""):
        right, exact = int(right.sum(dtype=np.int64)), int(exact.sum(dtype=np.int64))
        return {
            f"{prefix}label_accuracy": share(right, tokens_graded),
            f"{prefix}label_interval": list(wilson(right, tokens_graded)),
            f"{prefix}exact_accuracy": share(exact, answers),
            f"{prefix}exact_interval": list(wilson(exact, answers)),
        }

    told = {"answers": answers, "tokens_graded": tokens_graded, **accuracies(right, exact), "nonfinite_answers": int((bad > 0).sum())}
    return told | (accuracies(*after_own, "own_chain_") if after_own else {}) | kept


def _cost(config, task: Task, passes: float, examples: int) -> Row:
    """Cost is linear in the passes, so that of a mean is the mean of the costs."""
    between = lambda of: round(of(1) + (passes - 1) * (of(2) - of(1)))
    last_sleep = max((i for i, labelled in enumerate(task.predicts) if not labelled), default=0)
    thought = {"blocks": config.memory_blocks.count, "flops_blocks": flops.think_flops(config, task.predicts.count(False))} if config.memory_blocks.count else {}
    return thought | {
        "tokens": examples * task.seq_len,
        "flops_sleep": between(lambda n: flops.sleep_flops(config, n, last_sleep)),
        "flops_wake_token": flops.wake_token_flops(config, len(task.predicts) - 1),
        "flops": between(lambda n: examples * flops.forward_flops(config, task.predicts, task.seq_len, n)),
    }
