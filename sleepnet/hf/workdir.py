"""What `import` writes, and `export` reads: our parameters by name, with all that is needed to write the original folder again.

    imported.json              tree version, family, model, where it came from (files with sha256), names and dtypes of its tensors
    weights-00001.safetensors  … our parameters
    config.json, tokenizer.json, … of the source, byte for byte
"""
import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
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
# keys that say how a model is used, and those of blocks that were put in, of which sleepnet.safetensors tells
_OF_USE = ("window", "pad_id", "dtype", "weights_dtype", "remat", "sleep", "loop_gain", "output_scale", "decay_start")
_OF_PUT_IN = ("pattern", "no_mlp", "conv", "conv_rank", "conv_bias", "conv_width", "rule", "beta_max", "turn_keys", "key_heads", "value_heads", "key_dim", "value_dim", "scale_queries", "gate_epsilon")
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
    shapes = plans.shapes_of(config)
    return config, _parameters(path, known, shapes, shapes)


def _parameters(path, known, names, shapes):
    held = Held(path, known["files"])
    for name in names:
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
        raise UsageError(f"{folder} has no {RECORD}: export takes what `python -m sleepnet.hf import` has written, and runs that began with it")
    known, path = record(folder), paths.plain(folder, "folder")
    config = from_dict(ModelConfig, known["model"], "model.")
    return put_back(folder, config, lambda names: _parameters(path, known, names, plans.shapes_of(config)), out)


def put_back(folder: str | Path, config: ModelConfig, values: Callable[[Iterable[str]], Iterable[tuple[str, np.ndarray]]], out: str | Path) -> list[str]:
    """`export` of other parameters of a model that began as the imported one in `folder`; `values(names)` gives some, by name.

    Raises:
      UsageError: `out` is not empty; or the model has become one that the family's names and config.json do not say: names the first parameter or key.
    """
    known, path = record(folder), paths.plain(folder, "folder")
    family, source = plans.names()[known["family"]], Folder(path)
    tensors = {name: tensor for name, tensor in known["tensors"].items() if not name.startswith(PREFIX)}
    shapes, said = plans.shapes_of(config), plans.config_of(source, family, {}, config.tied)
    _sayable(config, said, plans.spelled(family, config, shapes, {name: tuple(each["shape"]) for name, each in tensors.items()}), known["family"])
    with filling(out) as part:
        along(source, part)
        save(part, theirs(family, config, values(shapes), tensors))
        if put_in := dict(values([name for name in shapes if insertion.within(config, name)])):
            write_bytes(part / PUT_IN, blocks_put_in(_unsaid(config, said), put_in))
    told = [f"{what} was not imported, and is not in {out}" for what in known.get("left_out", ()) if "once more" not in what and "follow from" not in what]
    return told + ([f"blocks {', '.join(map(str, config.no_mlp))} were put in: they are in {PUT_IN}, and what transformers opens is the model without them"] if put_in else [])


def _sayable(config: ModelConfig, said: ModelConfig, items: Iterable[plans.Item], kind: str) -> None:
    """Refuses a model that has more than its family and the blocks put in, or other numbers than its config.json says."""
    named = {name for item in items for name in item.ours} | ({"loop_gain"} if config.sleep.carry != "reinject" else set())
    if more := next((name for name in plans.shapes_of(config) if name not in named and not insertion.within(config, name)), None):
        raise UsageError(f"the model has {more}, for which a {kind} model has no name: it can't be exported")
    free = (*_OF_USE, *(_OF_PUT_IN if config.no_mlp else ()))
    if other := next((key for key in _unsaid(config, said) if key not in free), None):
        raise UsageError(f"model.{other}={getattr(config, other)!r} is not what config.json of the released model says ({getattr(said, other)!r}): it can't be exported")


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
    except OSError as error:
        if error.filename and Path(error.filename).is_relative_to(part):
            error.filename = str(path)  # what a person knows of
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
