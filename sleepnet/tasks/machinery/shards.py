"""Exports as plain files: shards of many examples, as numpy archives or as JSON lines."""
import functools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.base import FIELDS, Task
from sleepnet.tasks.machinery.arguments import require

_SHARD_BYTES = 2**25  # of arrays; a reader holds two shards. Other shards are another layout, see `exported._KIND`
_AT_ONCE = 512  # examples between two steps of the progress bar


def shard_examples(task: Task) -> int:
    """Returns how many examples a shard holds."""
    each = 13 * task.seq_len + 4 * task.answers * len(task.difficulty_axes)
    return max(1, _SHARD_BYTES // each)


def flat(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a batch without nesting: a difficulty is called `difficulty.AXIS`."""
    return {name: batch[name] for name in FIELDS} | {f"difficulty.{axis}": value for axis, value in batch["difficulty"].items()}


def nested(arrays: dict[str, np.ndarray], task: Task) -> dict[str, Any]:
    """The inverse of `flat`."""
    return {name: arrays[name] for name in FIELDS} | {"difficulty": {axis: arrays[f"difficulty.{axis}"] for axis in task.difficulty_axes}}


def write(task: Task, folder: Path, *, seed: int, split: str, count: int, progress: Callable[[int], None], format: str) -> None:
    """Writes the examples 0 … count - 1 into `folder`."""
    size = shard_examples(task)
    for shard, first in enumerate(range(0, count, size)):
        stop, parts = min(first + size, count), []
        for start in range(first, stop, _AT_ONCE):
            parts.append(flat(task.batch(seed, split, start, min(_AT_ONCE, stop - start))))
            progress(len(parts[-1]["tokens"]))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        path = folder / _name(shard, -(-count // size), split, format)
        if format == "npz":
            np.savez_compressed(path, **arrays)
        else:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(_line(first + row, arrays, row, task) for row in range(stop - first))


def reader(task: Task, folder: Path, *, split: str, count: int, format: str) -> Callable[[np.ndarray], dict[str, Any]]:
    """Returns a function from indices, int64 [B], to the batch of these examples."""
    size = shard_examples(task)
    names = [_name(shard, -(-count // size), split, format) for shard in range(-(-count // size))]

    @functools.lru_cache(maxsize=2)  # reading in order opens each shard once
    def shard(number: int) -> dict[str, np.ndarray]:
        path = folder / names[number]
        try:
            arrays = _read_npz(path) if format == "npz" else _read_lines(path, task)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} can't be read ({error}); export it again") from error
        expected = min(size, count - number * size)
        require(len(arrays["tokens"]) == expected, f"{path} holds {len(arrays['tokens'])} examples, not {expected}; export it again")
        return arrays

    def read(indices: np.ndarray) -> dict[str, Any]:
        numbers = indices // size
        out = {name: np.empty((len(indices), *array.shape[1:]), array.dtype) for name, array in shard(int(numbers[0])).items()}
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            for name, array in shard(int(number)).items():
                out[name][rows] = array[indices[rows] - number * size]
        return nested(out, task)

    return read


def _name(shard: int, shards: int, split: str, format: str) -> str:
    return f"{split}-{shard:05d}-of-{shards:05d}.{format}"


def _line(index: int, arrays: dict[str, np.ndarray], row: int, task: Task) -> str:
    values = nested({name: array[row].tolist() for name, array in arrays.items()}, task)
    return json.dumps({"index": index} | values, separators=(",", ":")) + "\n"


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def _read_lines(path: Path, task: Task) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    arrays = {name: np.array([row[name] for row in rows], dtype) for name, dtype in FIELDS.items()}
    return arrays | {f"difficulty.{a}": np.array([row["difficulty"][a] for row in rows], np.int32) for a in task.difficulty_axes}
