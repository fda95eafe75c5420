"""A memory as a value and as a file: what outlives a window, and what it was made of.

    mem.safetensors    fast_weights.i [1, H, K, V] float32 of each fast-weight block; keys.i, values.i, valid, conv_tails.i where the model keeps such things
    its metadata       sleepnet.memory: version, model (sha256 of its parameters), name, pattern, window, texts (name, bytes, sha256, tokens, windows, passes)
"""
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as in_bytes

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.files import write_bytes
from sleepnet.memory.models import Model
from sleepnet.state import State

_META, VERSION = "sleepnet.memory", 1
_FIX = "it is no memory, or damaged: read the text again"


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a model remembers.

    Attributes:
      state: of one sequence, at the beginning of a window.
      told: version, model, name, pattern, window, texts; see the module.
    """

    state: State
    told: dict[str, Any]

    def save(self, out: str | Path) -> Path:
        """Writes it; raises UsageError where something is there already."""
        path = free(out)
        write_bytes(path, in_bytes({name: np.asarray(value) for name, value in parts(self.state).items()}, metadata={_META: json.dumps(self.told)}))
        return path

    def norms(self) -> dict[int, np.ndarray]:
        """Block, from 0 → [H], the Frobenius norm of each head's S."""
        return _norms(self.told["pattern"], [np.asarray(layer) for layer in self.state.fast_weights.layers])


def free(out: str | Path) -> Path:
    """The path of a file to write; raises UsageError where something is there."""
    path = paths.plain(out, "out")
    if path.exists() or path.is_symlink():
        raise UsageError(f"--out={out} is there already: give a new file, nothing is overwritten")
    return path


def parts(state: State) -> dict[str, jax.Array]:
    """Name → array of what outlives a window; the rest of a state at a window's beginning is blank."""
    cache = state.window.kv_cache
    kept = cache.valid.shape[1] - state.window.tokens.shape[1]
    found = {f"fast_weights.{i}": layer for i, layer in enumerate(state.fast_weights.layers)}
    found |= {f"conv_tails.{i}": tail for i, tail in enumerate(state.conv_tails)}
    if kept:
        found |= {f"keys.{i}": keys[:, :kept] for i, keys in enumerate(cache.keys)} | {f"values.{i}": values[:, :kept] for i, values in enumerate(cache.values)}
        found["valid"] = cache.valid[:, :kept]
    return found


def load(file: str | Path, model: Model) -> Memory:
    """A memory of this model.

    Raises:
      UsageError: no such file, a damaged one, or another model's.
    """
    told, held = contents(file)
    if told["model"] != model.digest:
        raise UsageError(f"{file} is what another model remembers ({told['name']}, sha256 {told['model'][:12]}; {model.name} is {model.digest[:12]}): give that one")
    blank = model.model.init_state(1)
    wanted = parts(blank)
    for name in sorted(wanted.keys() | held.keys()):
        have, want = ((side[name].shape, side[name].dtype) if name in side else None for side in (held, wanted))
        if have != want:
            raise UsageError(f"{file}: {name} is {_tell(have)}, the model as it is opened asks for {_tell(want)}; open it with the window and eviction that it read with")
    put = lambda old, new: jax.lax.dynamic_update_slice(old, jnp.asarray(new), (0,) * old.ndim)
    cache, tails = blank.window.kv_cache, tuple(jnp.asarray(held[f"conv_tails.{i}"]) for i in range(len(blank.conv_tails)))
    layers = dataclasses.replace(blank.fast_weights, layers=tuple(jnp.asarray(held[f"fast_weights.{i}"]) for i in range(len(blank.fast_weights.layers))))
    if "valid" in held:
        rows = lambda old, kind: tuple(put(each, held[f"{kind}.{i}"]) for i, each in enumerate(old))
        cache = dataclasses.replace(cache, keys=rows(cache.keys, "keys"), values=rows(cache.values, "values"), valid=put(cache.valid, held["valid"]))
    window = dataclasses.replace(blank.window, fast_weights=layers, conv_tails=tails or blank.window.conv_tails, kv_cache=cache)
    return Memory(State(layers, window, tails), told)


def contents(file: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file tells, and its arrays by name; raises UsageError where it is none."""
    path = paths.plain(file, "memory")
    if not path.is_file():
        raise UsageError(f"{file}: there is no such file; `python -m sleepnet.memory read MODEL --text=TEXT --out={file}` writes one")
    try:
        with safe_open(path, framework="numpy") as held:
            told = json.loads((held.metadata() or {}).get(_META, "null"))
            arrays = {name: held.get_tensor(name) for name in held.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{file} can't be read ({str(error).splitlines()[0]}): {_FIX}") from error
    if not isinstance(told, dict) or told.get("version") != VERSION or not _whole(told):
        raise UsageError(f"{file} does not say what a memory of version {VERSION} says: {_FIX}")
    if wrong := next((name for name, value in arrays.items() if value.dtype != bool and not np.isfinite(value.astype(np.float32)).all()), None):
        raise UsageError(f"{file}: {wrong} holds numbers that are not finite: {_FIX}")
    return told, arrays


def norms_of(told: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """`Memory.norms` of what `contents` gives, which needs no model."""
    return _norms(told["pattern"], [arrays[f"fast_weights.{i}"] for i in range(told["pattern"].count("G")) if f"fast_weights.{i}" in arrays])


def _norms(pattern, layers):
    blocks = [index for index, kind in enumerate(pattern) if kind == "G"]
    return {index: np.sqrt(np.square(layer).sum(axis=(0, 2, 3))) for index, layer in zip(blocks, layers)}


def _whole(told: dict[str, Any]) -> bool:
    kinds = {"model": str, "name": str, "pattern": str, "window": int, "texts": list}
    of_text = ("name", "bytes", "sha256", "tokens", "windows", "passes")
    return all(isinstance(told.get(key), kind) for key, kind in kinds.items()) and all(isinstance(text, dict) and text.keys() >= set(of_text) for text in told["texts"])


def _tell(found: tuple | None) -> str:
    return "none" if found is None else f"{found[1]}{list(found[0])}"
