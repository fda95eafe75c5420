"""A model opened to be talked to: a prompt read and slept over window by window, then the likeliest token again and again."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.errors import UsageError
from sleepnet.hf import sources
from sleepnet.hf.folder import Folder
from sleepnet.models.hybrid import Hybrid


def greedy(model: Hybrid, prompt: Sequence[int], count: int, *, stop: tuple[int, ...] = (), passes: int = 1) -> list[int]:
    """Up to `count` tokens that follow, the stop token left out.

    Raises:
      UsageError: no prompt, a token outside the vocabulary, or a model that loops where it predicts.
    """
    config = model.config
    if not prompt or not all(0 <= token < config.vocab_size for token in prompt):
        raise UsageError(f"the prompt must be at least one token of 0 … {config.vocab_size - 1}, not {list(prompt)[:8]}: give some text")
    if config.sleep.predict_passes > 1:
        raise UsageError(f"the model loops {config.sleep.predict_passes} times where it predicts, which has no token by token here: use its forward")
    graph, params = nnx.split(model, nnx.Param)
    tokens, state = jnp.asarray([list(prompt)], jnp.int32), model.init_state(1)
    logits, state = jax.jit(lambda params, state, tokens: decode.read(graph, params, state, tokens, at=0, passes=passes))(params, state, tokens)
    first = jnp.argmax(logits[:, -1], axis=-1).astype(jnp.int32)
    said = [int(first[0])]
    stop = tuple(token for token in stop if token < config.vocab_size)
    if count > 1 and said[0] not in stop:
        at = len(prompt) % config.window
        write = jax.jit(lambda params, state, first: decode.write(graph, params, state, first, at=at, steps=count - 1, law=decode.GREEDY, stop=stop, passes=passes))
        told = write(params, state, first)
        said += [int(token) for token, valid in zip(told.tokens[0], told.valid[0]) if valid]
    return [token for token in said if token not in stop][:count]


def chat(folder: str | Path, text: str) -> str:
    """One turn of a person in the model's own template.

    Raises:
      UsageError: there is no template, or jinja2 is not installed.
    """
    source = sources.opened(folder)
    known, own = _object(source, "tokenizer_config.json"), source.beside("chat_template.jinja")
    template = known.get("chat_template") if own is None else own.decode(errors="replace")
    if not isinstance(template, str):
        raise UsageError(f"{folder} has no chat template: leave --chat out")
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UsageError("--chat needs the package jinja2: pip install 'sleepnet[hf]'") from error
    special = {key: value["content"] if isinstance(value, dict) else value for key, value in known.items() if key.endswith("_token") and value is not None}
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    return made.render(messages=[{"role": "user", "content": text}], add_generation_prompt=True, **special)


def _object(source: Folder, name: str) -> dict[str, Any]:
    """The JSON object in a file beside the weights, {} where there is none; raises UsageError where it is damaged."""
    try:
        found = json.loads(source.beside(name) or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{source.path / name} is no JSON object: fetch it again")
    return found
