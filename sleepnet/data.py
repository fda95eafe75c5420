"""Training batches through grain: order is a function of the global batch index alone, the iterator's state one integer."""
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks import exported
from sleepnet.tasks.source import Source
from sleepnet.tasks.exported import Exported


def examples(task: Source, folder: str, *, seed: int, count: int) -> Source | Exported:
    """Returns where the first `count` training examples come from: an export of the task in `folder`, or, if that is "", the task.

    Raises:
      UsageError: the folder is damaged, holds another task, other arguments, another seed or split, or fewer examples.
    """
    if not folder:
        return task
    try:
        return exported.load(folder).expect(task, seed=seed, split="train", count=count)
    except UsageError as error:
        raise UsageError(f"task.folder: {error}") from error


class BatchSource:
    """Batch i of a run: examples first + i · batch_size … of the training split, drawn by the task's vectorised path or read from its export.

    `more` gives, of a batch, what a method reads beside the task's own fields; `passes` gives the N of batch i, for a task that follows it. `rows` are the rows of each batch that are drawn here, all if None: which examples a batch holds does not depend on them.
    """

    def __init__(self, task: Source | Exported, *, seed: int, batch_size: int, steps: int, rows: np.ndarray | None = None, first: int = 0,
                 more: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None, passes: Callable[[int], int] | None = None):
        self.task, self.seed, self.batch_size, self.steps, self.first = task, seed, batch_size, steps, first
        self.more, self.passes = more or (lambda batch: {}), passes or (lambda index: 1)
        self.rows = np.arange(batch_size) if rows is None else rows
        of = task.task if isinstance(task, Exported) else task
        self.name, self.fields, self.vocab_size, self.follows_passes = of.name, tuple(of.fields), of.vocab_size, of.follows_passes
        if self.follows_passes and of is not task:
            raise UsageError("task.folder holds targets of one number of passes, and the task follows the passes of the run: leave task.folder empty")

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = self.task.at(self.passes(int(index))) if self.follows_passes else self.task
        batch = task.batch_at(self.seed, "train", self.first + int(index) * self.batch_size + self.rows)
        for key in ("tokens", "targets"):
            least, most = batch[key].min(), batch[key].max()
            if least < 0 or most >= self.vocab_size:
                wrong = f"{key} hold {least if least < 0 else most}, the task's vocabulary is 0 … {self.vocab_size - 1}"
                raise UsageError(f"batch {index} of seed {self.seed}: {wrong}; `python -m sleepnet.tasks check {self.name}` shows an example")
        return {key: batch[key] for key in self.fields} | dict(self.more(batch))


def batches(source: BatchSource, start: int = 0) -> grain.DatasetIterator:
    """Iterates over `source` from batch `start` on, one thread drawing ahead; `get_state()["next_index"]` is where it stands."""
    dataset = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8))
    iterator = iter(dataset)
    iterator.set_state({"next_index": start})
    return iterator
