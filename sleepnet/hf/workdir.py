"""What `import` writes, and `export` reads: our parameters by name, with all that is needed to write the original folder again.

    imported.json              tree version, family, model, where it came from (files with sha256), names and dtypes of its tensors
    weights-00001.safetensors  … our parameters
    config.json, tokenizer.json, … of the source, byte for byte
"""
import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as in_bytes

from sleepnet import paths, released
from sleepnet.config import ModelConfig, from_dict, to_dict
from sleepnet.errors import UsageError
from sleepnet.files import named, read_json, write_bytes, write_json
from sleepnet.hf import insertion, plan as plans
from sleepnet.hf.folder import ALONG, INDEX, PREFIX, PUT_IN, WHOLE, Folder, blocks_put_in

RECORD, VERSION = released.RECORD, 1
_SHARD, _OURS = 2 << 30, 128 << 20  # bytes of a file, about, of those exported and those imported; so many are held twice while one is written
_FIX = "the folder is damaged: import it again"
# dtypes of tensors read → of those written: what was quantised comes back as the numbers it meant
_STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q4_1": "float32", "Q8_0": "float32"}


def is_one(folder: str | Path) -> bool:
    """Whether `import` has written this folder."""
    return released.is_one(paths.plain(folder, "folder"))


def record(folder: str | Path) -> dict[str, Any]:
    """imported.json; raises UsageError where it is damaged, or a newer version's."""
    path = paths.plain(folder, "folder") / RECORD
    found = read_json(path, _FIX)
    if found.get("version") != VERSION or not all(isinstance(found.get(key), dict) for key in ("model", "files", "tensors")):
        raise UsageError(f"{path} is of version {found.get('version')!r}, this package reads {VERSION}; {_FIX}")
    return found


def read(folder: str | Path, changes: Mapping[str, Any]) -> tuple[ModelConfig, Iterator[tuple[str, np.ndarray]]]:
    """(configuration with some keys changed, parameters one by one) of a folder that `import` has written."""
    known, path = record(folder), paths.plain(folder, "folder")
    config = from_dict(ModelConfig, plans.changed(known["model"], changes), "model.")
    return config, _parameters(path, known, plans.shapes_of(config))


def _parameters(path, known, shapes):
    held = Held(path, known["files"])
    for name in shapes:
        if name in plans.OWN and name not in known["files"]:
            continue
        if name not in known["files"]:
            raise UsageError(f"{path}: parameter {name} is missing; {_FIX}")
        value = held.read(name)
        if value.shape != shapes[name].shape:
            raise UsageError(f"{path}: parameter {name} has shape {list(value.shape)}, the model asks for {list(shapes[name].shape)}; {_FIX}")
        yield name, value.astype(shapes[name].dtype, copy=False)


class Held(Folder):
    """Tensors by name in files that a table names."""

    def __init__(self, path: Path, files: Mapping[str, str]):
        self.path, self._file_of = path, {name: path / Path(file).name for name, file in files.items()}


def write(out: str | Path, source: Folder, plan: plans.Plan, values: Iterable[tuple[str, np.ndarray]]) -> Path:
    """Writes an imported model; the folder is whole or not there. `plan` is the source's.

    Raises:
      UsageError: `out` is not empty.
    """
    with filling(out) as part:
        files = shards(part, "weights", values, _OURS)
        along(source, part)
        write_json(part / RECORD, {
            "version": VERSION, "family": plan.kind, "model": to_dict(plan.config), "files": files, "source": str(source.path), "origin": source.origin(),
            "tensors": {name: {"dtype": source.dtypes[name], "shape": source.shapes[name]} for item in plan.items for name in item.theirs}, "left_out": sorted({what for _, what in plan.left_out}),
        })
    return paths.plain(out, "out")


def export(folder: str | Path, out: str | Path) -> list[str]:
    """Writes the folder that transformers opens, in the names and dtypes of the source; lines for a reader.

    Raises:
      UsageError: `folder` was not imported, or `out` is not empty.
    """
    if not is_one(folder):
        raise UsageError(f"{folder} has no {RECORD}: export takes what `python -m sleepnet.hf import` has written")
    known, path = record(folder), paths.plain(folder, "folder")
    config, family = from_dict(ModelConfig, known["model"], "model."), plans.names()[known["family"]]
    with filling(out) as part:
        along(source := Folder(path), part)
        tensors = {name: tensor for name, tensor in known["tensors"].items() if not name.startswith(PREFIX)}
        save(part, theirs(family, config, _parameters(path, known, plans.shapes_of(config)), tensors))
        ours = {name: shape for name, shape in plans.shapes_of(config).items() if insertion.within(config, name)}
        if put_in := dict(_parameters(path, known, ours)):
            write_bytes(part / PUT_IN, blocks_put_in(_unsaid(config, plans.config_of(source, family, {}, config.tied)), put_in))
    told = [f"{what} was not imported, and is not in {out}" for what in known.get("left_out", ()) if "once more" not in what and "follow from" not in what]
    return told + ([f"blocks {', '.join(map(str, config.no_mlp))} were put in: they are in {PUT_IN}, and what transformers opens is the model without them"] if put_in else [])


def _unsaid(config: ModelConfig, said: ModelConfig) -> dict[str, Any]:
    """Keys in which a model is another than its config.json says."""
    here, there = to_dict(config), to_dict(said)
    return {key: {name: each for name, each in value.items() if each != there[key][name]} if isinstance(value, dict) else value for key, value in here.items() if value != there[key]}


def theirs(family, config: ModelConfig, values: Iterable[tuple[str, np.ndarray]], tensors: Mapping[str, Any] | None) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, value) of every tensor, spelled and typed as the source's `tensors` were; None: the first spelling, as they are kept here."""
    waiting, held = {}, {}
    shapes = None if tensors is None else {name: tuple(each["shape"]) for name, each in tensors.items()}
    for item in plans.spelled(family, config, plans.shapes_of(config), shapes):
        waiting |= {name: item for name in item.ours}
    for name, value in values:
        item = waiting.get(name)
        if item is None:
            continue
        held[name] = value
        if all(each in held for each in item.ours):
            arrays = item.row.layout.theirs(config, [np.asarray(held.pop(each)) for each in item.ours])
            for their, array in zip(item.theirs, arrays, strict=True):
                yield their, np.ascontiguousarray(array).astype(_STORED[tensors[their]["dtype"]] if tensors else array.dtype, copy=False)


def save(folder: Path, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """model.safetensors, or several with their index."""
    files = shards(folder, "model", values, _SHARD)
    made = sorted(set(files.values()))
    if len(made) == 1:
        os.rename(folder / made[0], folder / WHOLE)
        return
    total = {name: f"model-{made.index(file) + 1:05}-of-{len(made):05}.safetensors" for name, file in files.items()}
    for index, file in enumerate(made):
        os.rename(folder / file, folder / f"model-{index + 1:05}-of-{len(made):05}.safetensors")
    write_json(folder / INDEX, {"metadata": {"total_size": sum((folder / file).stat().st_size for file in set(total.values()))}, "weight_map": total})


def shards(folder: Path, stem: str, values: Iterable[tuple[str, np.ndarray]], most: int) -> dict[str, str]:
    """Writes tensors as they come, a file whenever `most` bytes have; name → file."""
    files, held, size = {}, {}, 0

    def put():
        name = f"{stem}-{len(set(files.values())) + 1:05}.safetensors"
        write_bytes(folder / name, in_bytes(held, metadata={"format": "pt"}))
        files.update(dict.fromkeys(held, name))

    for name, value in values:
        if held and size + value.nbytes > most:
            put()
            held, size = {}, 0
        held[name] = np.ascontiguousarray(value)
        size += value.nbytes
    if held:
        put()
    return files


def along(source: Folder, part: Path) -> None:
    """What goes along with the weights."""
    for name in ALONG:
        if (held := source.beside(name)) is not None:
            write_bytes(part / name, held)


@contextlib.contextmanager
def filling(out: str | Path) -> Iterator[Path]:
    """A folder to fill, which is moved to `out` at the end; on an error nothing is there.

    Raises:
      UsageError: `out` is a file, or a folder that is not empty.
    """
    path = paths.plain(out, "out")
    if path.is_file() or path.is_dir() and any(path.iterdir()):
        raise UsageError(f"--out={out} is not empty: give a new folder, nothing is overwritten")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with named(path):
            part.mkdir()
            yield part
            if path.is_dir():
                path.rmdir()
            os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
