"""A task as a TFDS data set in array_record files, written and read without TensorFlow."""
import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sleepnet import files
from sleepnet.errors import UsageError, first_line
from sleepnet.tasks.base import FIELDS, Task
from sleepnet.tasks.machinery.arguments import require

_AT_ONCE = 512  # examples drawn together


class TaskBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The examples 0 … count - 1 of one split; TFDS calls the data set by the task's name, its major version is the task's."""

    code_path = None  # nothing is downloaded: no checksums beside this file, which TFDS finds by a package it does not require

    def __init__(self, task: Task, *, seed: int, split: str, count: int, data_dir: Path, progress: Callable[[int], None] = lambda more: None):
        self.name, self.VERSION = task.name, tfds.core.Version(f"{task.version}.0.0")
        self._task, self._seed, self._split, self._count, self._progress = task, seed, split, count, progress
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # made here and not by dataset_info_from_configs, which wants packages that TFDS does not require
        row = {name: tfds.features.Tensor(shape=(self._task.seq_len,), dtype=dtype) for name, dtype in FIELDS.items()}
        grades = {axis: tfds.features.Tensor(shape=(self._task.answers,), dtype=np.int32) for axis in self._task.difficulty_axes}
        features = tfds.features.FeaturesDict(row | {"difficulty": tfds.features.FeaturesDict(grades)})
        return tfds.core.DatasetInfo(builder=self, description=self._task.explain(), features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for start in range(0, self._count, _AT_ONCE):
            batch = self._task.batch(self._seed, self._split, start, min(_AT_ONCE, self._count - start))
            for row in range(len(batch["tokens"])):
                grades = {axis: value[row] for axis, value in batch["difficulty"].items()}
                yield start + row, {name: batch[name][row] for name in FIELDS} | {"difficulty": grades}
            self._progress(len(batch["tokens"]))


def write(task: Task, folder: Path, *, seed: int, split: str, count: int, progress: Callable[[int], None]) -> None:
    """Writes the data set under `folder`/NAME/VERSION."""
    tfds.disable_progress_bar()  # ours counts all of the work
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            TaskBuilder(task, seed=seed, split=split, count=count, data_dir=folder, progress=progress).download_and_prepare()
        except RuntimeError as error:  # of array_record
            if number := files.full(error):
                raise OSError(number, os.strerror(number)) from error
            raise
    shutil.rmtree(folder / "downloads", ignore_errors=True)  # made, and empty


def reader(task: Task, folder: Path, *, split: str, count: int) -> Callable[[np.ndarray], dict[str, Any]]:
    """Returns a function from indices, int64 [B], to the batch of these examples."""
    place = folder / task.name / f"{task.version}.0.0"
    try:
        # with the features that the task has: TFDS would import whatever module the folder's features.json names
        source = TaskBuilder(task, seed=0, split=split, count=count, data_dir=folder).as_data_source(split=split)
    except (OSError, ValueError, KeyError, AssertionError, NotImplementedError, tfds.core.DatasetNotFoundError) as error:
        raise UsageError(f"{place} holds no split {split!r} that TFDS can read ({first_line(error)}); export it again") from error
    require(len(source) == count, f"{place} holds {len(source)} examples, not {count}; export it again")

    def read(indices: np.ndarray) -> dict[str, Any]:
        rows = source.__getitems__(indices.tolist())
        grades = {axis: np.stack([row["difficulty"][axis] for row in rows]) for axis in task.difficulty_axes}
        return {name: np.stack([row[name] for row in rows]) for name in FIELDS} | {"difficulty": grades}

    return read
