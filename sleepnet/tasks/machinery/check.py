"""Fresh examples against everything that is said of them: the solver, the plain path, the contract, the splits."""
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.base import FIELDS, PAD, Task
from sleepnet.tasks.machinery import steps
from sleepnet.tasks.machinery.screen import Step
from sleepnet.tasks.machinery.splits import SPLITS

_BATCH = 256
_STEPS = 4  # of the computation
_PLAIN = 64  # examples of a split that the plain path draws again: it is some hundred times as slow


class Fault(Exception):
    """What is wrong, and with which example (None: with no single one)."""

    def __init__(self, what: str, example: Mapping[str, Any] | None = None):
        super().__init__(what)
        self.example = example


@dataclasses.dataclass
class Report:
    """How much was compared."""

    examples: int = 0
    labels: int = 0
    answers: int = 0
    plain: int = 0
    instances: int = 0
    everywhere: int | None = None  # instances that all splits have, of what is to be known by heart

    def __str__(self) -> str:
        held = "none in two splits" if self.everywhere is None else f"{self.everywhere:,} of them in every split, to be known by heart: nothing is held out"
        return (
            f"all right: {self.labels:,} labels of {self.answers:,} answers in {self.examples:,} examples are the solver's; {self.plain:,} "
            f"examples equal the plain path's; {self.instances:,} instances, {held}; fields keep the contract"
        )


def check(task: Task, *, count: int, splits: Iterable[str] = tuple(SPLITS), seed: int = 0, progress: Step = lambda more: None) -> Report:
    """Draws `count` fresh examples of each split; all of `splits` are checked, of the others only what no two splits share, or by heart all do.

    Raises:
      Fault: the first thing that is wrong.
    """
    report, splits, met, everywhere = Report(), tuple(splits), {}, {}
    if not isinstance(task, Task):
        raise UsageError(f"task {task.name} has no solver to be checked against: stats counts what stands there")
    for split in SPLITS:
        for start in range(0, count, _BATCH):
            size = min(_BATCH, count - start)
            batch = task.batch(seed, split, start, size)
            if split in splits:
                _check_batch(task, batch, report, lambda row: f"example {start + row} of seed {seed}, split {split}")
                for index in range(start, start + size):
                    if index % max(1, count // _PLAIN) == 0:
                        _check_steps(task, batch, index - start, f"example {index} of seed {seed}, split {split}")
                        _check_plain(task.example(seed, split, index), row_of(batch, index - start), index, seed, split)
                        report.plain += 1
            for row, tokens in enumerate(batch["tokens"]):
                where = (split, start + row)
                for instance in task.instances(tokens):
                    other = met.setdefault(hash(instance), where)
                    everywhere.setdefault(hash(instance), set()).add(split)
                    if other[0] != split and not task.by_heart:
                        what = f"example {where[1]} of split {split} shares an instance with example {other[1]} of split {other[0]}"
                        raise Fault(f"{what}, seed {seed}", row_of(batch, row))
            progress(size)
    report.instances = len(met)
    if task.by_heart:
        report.everywhere = sum(len(seen) == len(SPLITS) for seen in everywhere.values())
    return report


def row_of(batch: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Returns one example of a batch."""
    return {name: batch[name][row] for name in FIELDS} | {"difficulty": {k: v[row] for k, v in batch["difficulty"].items()}}


def _check_batch(task: Task, batch: Mapping[str, Any], report: Report, name) -> None:
    """Raises Fault where a batch breaks the contract, or where the solver says something else."""
    for row, what in broken(task, batch):
        raise Fault(what if row is None else f"{name(row)}: {what}", None if row is None else row_of(batch, row))
    for row in range(len(batch["tokens"])):
        example = row_of(batch, row)
        if what := disagreement(task, example):
            raise Fault(f"{name(row)}: {what}", example)
    report.examples += len(batch["tokens"])
    report.labels += int(batch["loss_mask"].sum())
    report.answers += int((batch["difficulty"][task.difficulty_axes[0]] >= 0).sum())


def _check_plain(want: Mapping[str, Any], got: Mapping[str, Any], index: int, seed: int, split: str) -> None:
    """Raises Fault unless the two paths give the same example, bit for bit."""
    for name in (*FIELDS, *want["difficulty"]):
        pair = [example[name] if name in FIELDS else example["difficulty"].get(name) for example in (want, got)]
        if pair[1] is None or pair[0].dtype != pair[1].dtype or not np.array_equal(*pair):
            raise Fault(f"example {index} of seed {seed}, split {split}: {name} of the vectorised path is not the plain path's", got)


def _check_steps(task: Task, batch: Mapping[str, Any], row: int, name: str) -> None:
    """Raises Fault where the steps that are told of an example are not the solver's."""
    if task.most_steps != 0:
        most = _STEPS if task.most_steps is None else min(_STEPS, task.most_steps)
        told = task.steps_of({key: batch[key][row : row + 1] for key in ("tokens", "targets")}, most)[0]
        if what := steps.disagreement(task, batch["tokens"][row], told):
            raise Fault(f"{name}: the steps of its computation: {what}", row_of(batch, row))


def disagreement(task: Task, example: Mapping[str, Any]) -> str | None:
    """Returns where the solver, from the tokens alone, differs from the targets; None where it agrees."""
    try:
        solved = task.solve(example["tokens"])
    except (LookupError, ValueError, StopIteration, RuntimeError) as error:
        return f"the solver can't read it: {type(error).__name__}: {error}"
    wrong = np.flatnonzero(example["loss_mask"] & (solved != example["targets"]))
    if not wrong.size:
        return None
    said, solver = (task.token(int(array[wrong[0]])) for array in (example["targets"], solved))
    return f"position {wrong[0]}: the target is {said}, the solver says {solver}"


def broken(task: Task, batch: Mapping[str, Any]) -> Iterator[tuple[int | None, str]]:
    """Yields (row, what) for everything in a batch that is against the contract; a row of None is the whole batch."""
    B, T, A = len(batch["tokens"]), task.seq_len, task.answers
    shapes = {name: (batch[name], (B, T), dtype) for name, dtype in FIELDS.items()}
    if tuple(batch["difficulty"]) != task.difficulty_axes:
        yield None, f"difficulty has {', '.join(batch['difficulty'])}, the task is graded by {', '.join(task.difficulty_axes)}"
    shapes |= {f"difficulty {axis}": (value, (B, A), np.int32) for axis, value in batch["difficulty"].items()}
    bad = [name for name, (array, shape, dtype) in shapes.items() if array.shape != shape or array.dtype != dtype]
    yield from ((None, f"{name} is {shapes[name][0].dtype} {shapes[name][0].shape}, not {np.dtype(shapes[name][2])} {shapes[name][1]}") for name in bad)
    if bad:
        return
    tokens, targets, loss, answer = (batch[name] for name in FIELDS)
    sleeps = np.repeat(~np.array(task.predicts), task.window)[:T]
    graded_BxA = (answer[:, None] == np.arange(A)[:, None]).any(-1)
    told = {axis: (value < -1) | ((value >= 0) != graded_BxA) for axis, value in batch["difficulty"].items()}
    for wrong_BxT, what in (
        ((tokens < 0) | (tokens >= task.vocab_size), f"a token outside 0 … {task.vocab_size - 1}"),
        ((targets < 0) | (targets >= task.vocab_size), f"a target outside 0 … {task.vocab_size - 1}"),
        (loss & (targets == PAD), "PAD as a target where there is a loss"),
        (~loss & (targets != PAD), "a target other than PAD where there is no loss"),
        ((answer >= 0) & ~loss, "a graded position without a loss"),
        ((answer < -1) | (answer >= A), f"an answer group outside -1 … {A - 1}"),
        (loss & sleeps, "a loss in a window that sleeps"),
        (~loss.any(1, keepdims=True), "no loss at all"),
        *((wrong, f"difficulty {axis} is there for a group that is not, or missing for one that is") for axis, wrong in told.items()),
    ):
        yield from ((int(row), what) for row in np.flatnonzero(wrong_BxT.any(1))[:1])
