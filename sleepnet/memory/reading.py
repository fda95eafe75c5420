"""A text of any length read into a memory: window by window, with a sleep behind each; nothing but one window and one piece of the file is held."""
import codecs
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import decode, paths
from sleepnet.errors import UsageError
from sleepnet.memory.file import VERSION, Memory
from sleepnet.memory.models import Model
from sleepnet.state import State

_PIECE = 1 << 16  # bytes that are tokenised at a time


def read(
    model: Model, text: str | Path, *, on: Memory | None = None, passes: int | None = None, progress: Callable[[int, int, int], None] = lambda done, total, windows: None
) -> Memory:
    """What the model remembers of a file of text, all of it slept over: also the last window, which may not be full.

    The file is tokenised in pieces of 64 KiB that end behind a line, where there is one: a tokenizer that joins across lines gives other tokens there.

    Args:
      model: as `open_model` gives it.
      text: a file in UTF-8.
      on: what it remembers already; nothing if None.
      passes: N of every sleep; the model's own if None.
      progress: is told after each window: bytes read, bytes of the file, windows.

    Raises:
      UsageError: no such file, an empty one, or one that is not UTF-8 (tells the byte); a memory of another model; S that is not finite.
    """
    path = paths.plain(text, "text")
    if not path.is_file():
        raise UsageError(f"--text={text}: there is no such file")
    config = model.model.config
    passes = config.sleep.passes if passes is None else passes
    if passes < 1:
        raise UsageError(f"passes={passes} must be at least 1")
    if on is not None and on.told["model"] != model.digest:
        raise UsageError(f"what it shall read on from is another model's memory (sha256 {on.told['model'][:12]}; {model.name} is {model.digest[:12]})")
    graph, params = nnx.split(model.model, nnx.Param)
    state, told, total = model.model.init_state(1) if on is None else on.state, hashlib.sha256(), path.stat().st_size
    tokens = windows = 0
    for ids, done in _windows(_pieces(path, told), model, config.window):
        state, whole = _slept(params, state, jnp.asarray(ids[None], jnp.int32), graph=graph, passes=passes)
        tokens, windows = tokens + len(ids), windows + 1
        if not bool(whole):
            raise UsageError(f"{text}: S is not finite behind window {windows}: with {passes} passes the model does not hold; try --passes=1, or train it with as many")
        progress(done, total, windows)
    if not tokens:
        raise UsageError(f"--text={text} holds no text: there is nothing to read")
    known = {"name": path.name, "bytes": total, "sha256": told.hexdigest(), "tokens": tokens, "windows": windows, "passes": passes}
    before = () if on is None else on.told["texts"]
    return Memory(state, {"version": VERSION, "model": model.digest, "name": model.name, "pattern": config.pattern, "window": config.window, "texts": [*before, known]})


@functools.partial(jax.jit, static_argnames=("graph", "passes"))
def _slept(params, state, tokens, *, graph, passes) -> tuple[State, jax.Array]:
    """The state behind a window, and whether it is finite."""
    size = state.window.tokens.shape[1]
    _, state = decode.read(graph, params, state, tokens, at=0, passes=passes)
    if tokens.shape[1] < size:
        state = nnx.merge(graph, params).sleep(state, passes)
    finite = [jnp.all(jnp.isfinite(layer)) for layer in state.fast_weights.layers]
    return state, jnp.all(jnp.stack(finite))


def _pieces(path: Path, told) -> Iterator[tuple[str, int]]:
    """(text, bytes read so far), piece after piece; `told` hashes them."""
    decoder, held, done = codecs.getincrementaldecoder("utf-8")(), "", 0
    with path.open("rb") as file:
        while True:
            block = file.read(_PIECE)
            told.update(block)
            waiting = len(decoder.getstate()[0])  # bytes of a letter that the last block has cut
            try:
                held += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UsageError(f"--text={path} is not UTF-8: byte {done - waiting + error.start:,} ({error.reason}); convert it first, for instance with iconv") from error
            done += len(block)
            if not block:
                break
            cut = held.rfind("\n") + 1 or len(held)
            if cut:
                yield held[:cut], done
            held = held[cut:]
    if held:
        yield held, done


def _windows(pieces: Iterator[tuple[str, int]], model: Model, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """(ids of a window, bytes read so far); the last may be shorter."""
    waiting, done, around = np.zeros(0, np.int64), 0, None
    for text, done in pieces:
        ids = model.tokenizer.encode(text)
        if around is None:
            around = model.tokenizer.encode("")
        elif around and ids[:len(around)] == around:  # what the tokenizer puts before a text stands before the first piece alone
            ids = ids[len(around):]
        ids = np.asarray(ids, np.int64)
        if len(ids) and ids.max() >= model.model.config.vocab_size:
            raise UsageError(f"{model.name} has tokens 0 … {model.model.config.vocab_size - 1}, and the text holds {ids.max()}: it is another model's")
        waiting = np.concatenate([waiting, ids])
        while len(waiting) >= size:
            yield waiting[:size], done
            waiting = waiting[size:]
    if len(waiting):
        yield waiting, done
