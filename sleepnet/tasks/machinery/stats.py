"""What a task's examples look like in numbers: difficulties, lengths, labels, and what guessing scores."""
import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sleepnet.tasks.base import PAD, Task
from sleepnet.tasks.machinery.screen import Step
from sleepnet.tasks.source import Source

SPLITS = ("train", "test")  # validation has the law of test
_BATCH = 256
_ROWS = 16  # of a histogram: more values share rows
_BAR = 24  # characters of the longest bar
_LABELS = 8  # the commonest


@dataclasses.dataclass
class Stats:
    """Counts over the examples of one split.

    Attributes:
      difficulty: {axis: {value: answers}}.
      labels: {token: graded positions it is the label of}.
      lengths: {tokens other than PAD: examples}.
    """

    difficulty: dict[str, Counter]
    labels: Counter = dataclasses.field(default_factory=Counter)
    lengths: Counter = dataclasses.field(default_factory=Counter)


def collect(task: Task, *, count: int, seed: int = 0, progress: Step = lambda more: None) -> dict[str, Stats]:
    """Counts over the first `count` examples of each of `SPLITS`."""
    found = {}
    for split in SPLITS:
        stats = found[split] = Stats({axis: Counter() for axis in task.difficulty_axes})
        for start in range(0, count, _BATCH):
            size = min(_BATCH, count - start)
            batch = task.batch(seed, split, start, size)
            for axis, value in batch["difficulty"].items():
                _add(stats.difficulty[axis], value[value >= 0])
            _add(stats.labels, batch["targets"][batch["answer"] >= 0])
            _add(stats.lengths, (batch["tokens"] != PAD).sum(1))
            progress(size)
    return found


def lines(source: Source, *, count: int, seed: int = 0) -> list[str]:
    """What can be counted of a source without answers, in lines: labels, how often the commonest stand there, and what knowing that alone costs."""
    told = [f"{source.name}, version {source.version}, spec {source.spec_hash[:12]}: {count:,} examples of seed {seed} per split"]
    for split in SPLITS:
        labels: Counter = Counter()
        for start in range(0, count, _BATCH):
            batch = source.batch(seed, split, start, min(_BATCH, count - start))
            _add(labels, batch["targets"][batch["loss_mask"]])
        shares = np.array(list(labels.values())) / labels.total()
        common = ", ".join(f"{source.token(token)!r} {n / labels.total():.1%}" for token, n in labels.most_common(_LABELS))
        told.append(f"{split}: {labels.total():,} labels, {labels.total() / count:.1f} of {source.seq_len} an example, {len(labels):,} different ones, the commonest {common}")
        told.append(f"{split}: knowing only how often each stands there costs {-float(shares @ np.log(shares)):.3f} nats a label")
    return told


def _add(counter: Counter, values: np.ndarray) -> None:
    counter.update(dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)))))


def show(task: Task, found: dict[str, Stats], *, count: int, seed: int, console: Console) -> None:
    """Prints the counts as tables, as wide as they need."""
    kinds = " and ".join(f"{len(stats.labels):,}" for stats in found.values())
    tables = {f"answers by {axis}": histogram(axis, [stats.difficulty[axis] for stats in found.values()]) for axis in task.difficulty_axes}
    tables[f"tokens other than PAD, of T = {task.seq_len}"] = _lengths(found)
    tables[f"graded labels: {kinds} different ones, the commonest"] = _labels(task, found)
    tables["what guessing scores on the test split"] = _baselines(task)
    console.print(f"{task.name}, version {task.version}, spec {task.spec_hash[:12]}: {count:,} examples of seed {seed} per split", soft_wrap=True)
    for title, table in tables.items():
        # a line that runs over reads better than words broken in two
        console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum)
        console.print(f"\n{title}", table)


def bins(values: Iterable[int]) -> list[tuple[int, int]]:
    """Returns (least, most) for each row of a histogram: one value each, or neighbours together where there are many."""
    known = sorted(set(values))
    each = -(-len(known) // _ROWS) or 1
    return [(part[0], part[-1]) for part in (known[a : a + each] for a in range(0, len(known), each))]


def histogram(axis: str, counters: Sequence[Counter]) -> Table:
    """One row per bin, with the share of each split and a bar; nothing where a split has none."""
    rows = bins(value for counter in counters for value in counter)
    shares = [[sum(n for v, n in counter.items() if least <= v <= most) / max(1, counter.total()) for least, most in rows] for counter in counters]
    longest = max((share for column in shares for share in column), default=0) or 1
    out = _table(axis)
    for row, (least, most) in enumerate(rows):
        cells = [f"{column[row]:6.1%} {'█' * round(_BAR * column[row] / longest)}" if column[row] else "" for column in shares]
        out.add_row(str(least) if least == most else f"{least} … {most}", *cells)
    return out


def _lengths(found: dict[str, Stats]) -> Table:
    out = _table("")
    lengths = [stats.lengths for stats in found.values()]
    means = [sum(length * n for length, n in counter.items()) / counter.total() for counter in lengths]
    for name, cells in (("least", map(min, lengths)), ("mean", (f"{mean:.1f}" for mean in means)), ("most", map(max, lengths))):
        out.add_row(name, *map(str, cells))
    return out


def _labels(task: Task, found: dict[str, Stats]) -> Table:
    out = _table("label")
    both = sum((stats.labels for stats in found.values()), Counter())
    common = [token for token, _ in both.most_common(_LABELS)]
    share = lambda stats, tokens: f"{sum(stats.labels[token] for token in tokens) / max(1, stats.labels.total()):.1%}"
    for token in common:
        out.add_row(task.token(token), *(share(stats, [token]) for stats in found.values()))
    if len(both) > len(common):
        out.add_row(f"{len(both) - len(common):,} others", *(share(stats, both.keys() - set(common)) for stats in found.values()))
    return out


def _baselines(task: Task) -> Table:
    out = Table("baseline", "label", "exact", "what it guesses", box=box.SIMPLE_HEAD)
    for name, scores in task.baselines().items():
        out.add_row(name, f"{scores['label']:.4f}", f"{scores['exact']:.4f}", scores["meaning"])
    return out


def _table(header: str) -> Table:
    out = Table(box=box.SIMPLE_HEAD)
    out.add_column(header, justify="right")
    for split in SPLITS:
        out.add_column(split)
    return out
