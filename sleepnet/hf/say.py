"""A model opened to be talked to: a prompt read and slept over window by window, then the likeliest token again and again."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sleepnet import talk
from sleepnet.errors import UsageError
from sleepnet.hf import sources
from sleepnet.hf.folder import Folder
from sleepnet.models.hybrid import Hybrid


def greedy(model: Hybrid, prompt: Sequence[int], count: int, *, stop: tuple[int, ...] = (), passes: int = 1) -> list[int]:
    """Up to `count` tokens that follow, the stop token left out; raises UsageError as `sleepnet.talk.follow`, which does more."""
    return talk.follow(model, prompt, count, stop=stop, passes=passes)[0].tokens


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
