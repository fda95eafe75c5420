"""What a run comes from, and what of its model it never changes.

    start.json            of a run that starts from another's end, changes a part of its model alone, or learns from other weights:
                            start       what `config.start` said; "": fresh parameters
                            kind        run, zoo, released or fresh
                            digest      of the parameters that it started with
                            frozen      digest of what it does not change; "": it changes all
                            heads       where the method chose heads' slices that may change: their names
                            flops, tokens   of all runs before it; null where one does not tell
                            chain       those runs, the first first: name, task, method, steps, flops, tokens, digest of the parameters at its end
                            references  where its method names other weights: argument → start, as above, and digest
    frozen.safetensors    all that the run does not change, by name: with it a checkpoint, which holds what changes, is a whole model wherever it is taken
"""
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save as in_bytes

from sleepnet.errors import UsageError
from sleepnet.files import read_json, write_bytes, write_json
from sleepnet.origin import named

RECORD, FROZEN = "start.json", "frozen.safetensors"
_KEYS = {"start": str, "kind": str, "digest": str, "frozen": str, "chain": list}


def digest(tree: Any) -> str:
    """sha256 of names, dtypes, shapes and bytes of a tree of arrays that this process holds, whatever the order of its dicts; "" of none."""
    leaves, told = named(tree), hashlib.sha256()
    for name in sorted(leaves):
        value = np.asarray(leaves[name])
        told.update(f"{name} {value.dtype.str} {value.shape} ".encode())
        told.update(np.ascontiguousarray(value).tobytes())
    return told.hexdigest() if leaves else ""


def read(workdir: Path) -> dict[str, Any]:
    """What start.json says; {} where there is none.

    Raises:
      UsageError: it is damaged.
    """
    path = workdir / RECORD
    if not path.exists():
        return {}
    record = read_json(path, "the run's folder is damaged")
    if any(not isinstance(record.get(key), kind) for key, kind in _KEYS.items()):
        raise UsageError(f"{path} needs {', '.join(_KEYS)}: the run's folder is damaged")
    return record


def write(workdir: Path, record: dict[str, Any], frozen: Any) -> None:
    """Writes what `read` and `load_frozen` read."""
    if jax.tree.leaves(frozen):
        write_bytes(workdir / FROZEN, in_bytes({name: np.ascontiguousarray(leaf) for name, leaf in named(frozen).items()}))
    write_json(workdir / RECORD, record)


def load_frozen(workdir: Path, like: Any) -> Any:
    """What the run never changes, as a tree of NumPy arrays like `like`, which has shapes and dtypes.

    Raises:
      UsageError: it is not there, damaged, or not what the run's record says.
    """
    path, record = workdir / FROZEN, read(workdir)
    if not jax.tree.leaves(like):
        return like
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}, which holds what the run does not change, can't be read ({error}): the run's folder is damaged") from error
    want = named(like)
    for name in sorted(want.keys() | found.keys()):
        have, need = (tuple(side[name].shape) if name in side else None for side in (found, want))
        if have != need:
            raise UsageError(f"{path}: {name} has shape {have}, the run's configuration asks for {need}: the run's folder is damaged")
    tree = jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in want])
    if digest(tree) != record.get("frozen"):
        raise UsageError(f"{path} is not what {workdir / RECORD} says (sha256 {digest(tree)[:12]}, not {str(record.get('frozen'))[:12]}): the run's folder is damaged")
    return tree
