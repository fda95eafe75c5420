"""Examples on disk: written once, read back as the same batches that the task generates, bit for bit.

    exported.write(tasks.get("depo"), "data/depo", format="array_record", split="train", count=100_000)
    source = exported.load("data/depo")
    source.batch(seed=0, split="train", start=0, size=64)

A folder holds the examples 0 … count - 1 of one (task, seed, split) and `manifest.json`, which tells the task with its version
and arguments, its spec hash, seed, split, count, format, and the size and sha256 of every file. Formats:

  array_record  a TFDS data set, NAME/VERSION/…: also `tfds.data_source(NAME, data_dir=FOLDER, split=SPLIT)`
  jsonl         one JSON object a line: index, tokens, targets, loss_mask, answer, difficulty
  npz           arrays of many examples, named like the fields; difficulties as `difficulty.AXIS`
"""
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.files import named, write_json
from sleepnet.tasks.base import Task
from sleepnet.tasks.machinery import shards
from sleepnet.tasks.machinery.arguments import choice, require, whole
from sleepnet.tasks.machinery.export_folder import MANIFEST, files, filling, is_free
from sleepnet.tasks.machinery.splits import SPLITS
from sleepnet.tasks.registry import get, task_class

FORMATS = ("array_record", "jsonl", "npz")
_KIND = "examples of a sleepnet task, 1"  # a change of layout raises the number
_KEYS = {"kind": str, "task": dict, "spec_hash": str, "seed": int, "split": str, "count": int, "format": str, "files": dict}


def write(
    task: Task, folder: str | Path, *, format: str, split: str, count: int, seed: int = 0, progress: Callable[[int], None] = lambda more: None
) -> Path:
    """Writes the examples 0 … count - 1 of a split and returns the folder; what is stopped, or fails, leaves nothing of them there.

    A folder that holds exactly these examples already is left as it is.

    Args:
      task: whose examples.
      folder: new, or empty; it may be a mounted volume.
      format: one of `FORMATS`.
      progress: called with how many more examples are written.

    Raises:
      UsageError: an unknown format or split, a count below 1, or a folder that holds something else.
    """
    folder = paths.plain(folder, "folder")
    choice("format", format, FORMATS)
    whole("count", count, 1)
    task.batch(seed, split, 0, 1)  # a bad seed or split is told before a folder is made
    about = {
        "kind": _KIND, "task": task.spec(), "spec_hash": task.spec_hash, "seed": seed, "split": split, "count": count, "format": format,
    }
    if not is_free(folder):
        _require_same(folder, about)
        return folder
    with filling(folder) as part:
        if part is None:
            _require_same(folder, about)
            return folder
        with named(folder):
            _writer(format)(task, part, seed=seed, split=split, count=count, progress=progress)
        write_json(part / MANIFEST, about | {"files": {name: _content(path) for name, path in files(part).items()}})
    return folder


def load(folder: str | Path) -> "Exported":
    """Returns the examples that a folder holds, after a look at every byte of it.

    Raises:
      UsageError: no manifest, one that is damaged or of something else, a damaged file, or examples that the task of this
        version does not generate.
    """
    folder = paths.plain(folder, "folder")
    manifest = _manifest(folder)
    spec = manifest["task"]
    require({"name", "version", "arguments"} <= spec.keys(), f"{folder / MANIFEST} is damaged: its task has no name, version or arguments")
    version = task_class(spec["name"]).version
    require(
        spec["version"] == version,
        f"{folder} was written by version {spec['version']} of task {spec['name']!r}, this is version {version}: export it again",
    )
    task = get(spec["name"], **spec["arguments"])
    require(task.spec_hash == manifest["spec_hash"], f"{folder / MANIFEST} is damaged: its spec_hash is not that of its task")
    there = files(folder)
    for name in sorted(there.keys() ^ manifest["files"].keys()):
        require(name in there, f"{folder} is damaged: {name} is missing; export it again")
        raise UsageError(f"{folder} is damaged: the manifest does not know {name}; export it again")
    for name, path in there.items():
        require(_content(path) == manifest["files"][name], f"{folder} is damaged: {name} is not what the manifest says; export it again")
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    found = Exported(task, folder, **{key: manifest[key] for key in ("seed", "split", "count", "format")}, manifest_hash=digest)
    found.compare((0, found.count - 1))
    return found


class Exported:
    """The examples 0 … count - 1 of (task, seed, split), from a folder; `batch` and `batch_at` are those of `Task`.

    It stands in for the task wherever batches are drawn: `--config.task.folder=FOLDER` trains from it. For grain or PyTorch it is
    a sequence of examples: `grain.MapDataset.source(exported)`. `manifest_hash`, sha256 in hex of the manifest as canonical JSON,
    stands for every byte of the folder; array_record files of one and the same examples differ from export to export.
    """

    def __init__(self, task: Task, folder: Path, *, seed: int, split: str, count: int, format: str, manifest_hash: str):
        self.task, self.folder, self.seed, self.split, self.count, self.format = task, folder, seed, split, count, format
        self.manifest_hash = manifest_hash
        self._read = _reader(format)(task, folder, split=split, count=count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        batch = self._read(np.array([index]))
        return {name: array[0] for name, array in batch.items() if name != "difficulty"} | {
            "difficulty": {axis: value[0] for axis, value in batch["difficulty"].items()}
        }

    def batch_at(self, seed: int, split: str, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the examples at these indices, stacked; raises UsageError where the folder does not hold them."""
        self._require_here(seed, split)
        indices = np.asarray(indices)
        require(indices.ndim == 1 and indices.size > 0 and indices.min() >= 0, "indices must be a row of numbers of at least 0")
        most = int(indices.max())
        require(most < self.count, f"{self.folder} holds {self.count} examples, number {most} is asked for; export with -n {most + 1}")
        return self._read(indices.astype(np.int64))

    def batch(self, seed: int, split: str, start: int, size: int) -> dict[str, Any]:
        """Returns examples start … start + size - 1, stacked."""
        whole("start", start, 0)
        whole("size", size, 1)
        return self.batch_at(seed, split, np.arange(start, start + size))

    def expect(self, task: Task, *, seed: int, split: str, count: int) -> "Exported":
        """Returns itself; raises UsageError unless it holds what a run will ask for, so that the run fails before it starts."""
        if task.spec_hash != self.task.spec_hash:
            differ = [key for key, value in task.arguments.items() if self.task.arguments.get(key) != value]
            other = f"other {', '.join(differ)}" if task.name == self.task.name else f"task {self.task.name!r}, not {task.name!r}"
            raise UsageError(f"{self.folder} holds {other}; export the task of this run")
        self._require_here(seed, split)
        needs = f"the run needs {count} (train.steps · train.batch_size); export with -n {count}"
        require(count <= self.count, f"{self.folder} holds {self.count} examples, {needs}")
        return self

    def _require_here(self, seed: int, split: str) -> None:
        for key, here, asked in (("seed", self.seed, seed), ("split", self.split, split)):
            require(here == asked, f"{self.folder} holds {key} {here}, not {asked}; export another folder with --{key} {asked}")

    def compare(self, indices: Sequence[int]) -> None:
        """Raises UsageError unless these examples are what the task generates."""
        for index in indices:
            got, want = self[index], self.task.example(self.seed, self.split, index)
            pairs = [(got[name], want[name]) for name in want if name != "difficulty"] + [
                (got["difficulty"].get(axis), value) for axis, value in want["difficulty"].items()
            ]
            require(
                all(here is not None and here.dtype == there.dtype and np.array_equal(here, there) for here, there in pairs),
                f"{self.folder}: its example {index} is not that of {self.task.name}, seed {self.seed}, split {self.split}; export it again",
            )


def _writer(format: str) -> Callable[..., None]:
    if format != "array_record":
        return functools.partial(shards.write, format=format)
    from sleepnet.tasks.machinery import tfds_builder  # TFDS takes a second to import

    return tfds_builder.write


def _reader(format: str) -> Callable[..., Callable[[np.ndarray], dict[str, Any]]]:
    """Returns what opens a folder of this format: (task, folder, split, count) → (indices → batch)."""
    if format != "array_record":
        return functools.partial(shards.reader, format=format)
    from sleepnet.tasks.machinery import tfds_builder  # TFDS takes a second to import

    return tfds_builder.reader


def _content(path: Path) -> dict[str, Any]:
    """Returns what a manifest says of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest(folder: Path) -> dict[str, Any]:
    """Returns a folder's manifest; raises UsageError for one that is missing, damaged, or of something else."""
    path = folder / MANIFEST
    require(path.is_file(), f"{folder} holds no exported examples: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged: no JSON ({error})") from error
    good = isinstance(manifest, dict) and manifest.get("kind") == _KIND
    require(good, f"{path} is not of {_KIND.split(',')[0]}, or of another version of its layout")
    for key, kind in _KEYS.items():
        require(isinstance(manifest.get(key), kind), f"{path} is damaged: {key} is missing or no {kind.__name__}")
    for key, known in (("format", FORMATS), ("split", tuple(SPLITS))):
        choice(key, manifest[key], known)
    whole("count", manifest["count"], 1)
    return manifest


def _require_same(folder: Path, about: Mapping[str, Any]) -> None:
    """Raises UsageError unless a folder holds examples about which the manifest says this."""
    require(folder.is_dir(), f"{folder} is a file; give the name of a new folder")
    require((folder / MANIFEST).is_file(), f"{folder} holds other data; nothing is overwritten, give the name of a new folder")
    held = _manifest(folder)
    differ = [key for key in about if held[key] != json.loads(json.dumps(about[key]))]
    told = ", ".join(differ)
    require(not differ, f"{folder} holds examples of another {told}; nothing is overwritten, give the name of a new folder")
    load(folder)
