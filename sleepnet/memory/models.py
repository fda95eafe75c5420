"""Models that can remember: one of the zoo, a run's, an imported or a released one, each with what makes its tokens of text."""
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import nnx

from sleepnet import checkpoint, hf, lineage, paths, talk, tokenizers
from sleepnet.errors import UsageError
from sleepnet.hf import say, tokens, trained
from sleepnet.models import zoo
from sleepnet.models.hybrid import Hybrid
from sleepnet.tokenizers import Bytes


class Ids:
    """For a model without a tokenizer: its tokens are numbers, with blanks between them."""

    name = "ids"

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text; raises UsageError where it has something else."""
        del special
        words = text.split()
        if wrong := next((word for word in words if not (word.isascii() and word.isdigit())), None):
            raise UsageError(f"this model has no tokenizer: give its tokens as numbers with blanks between them, not {wrong[:20]!r}")
        return [int(word) for word in words]

    def decode(self, ids: list[int]) -> str:
        """The numbers."""
        return " ".join(map(str, ids))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that can remember.

    Attributes:
      name: as a person called it.
      model: it.
      tokenizer: `encode(text) → [ids]`, `decode(ids) → text`.
      stop: ids that end an answer.
      chat: a person's words → the prompt, in the model's own template.
    """

    name: str
    model: Hybrid
    tokenizer: Any
    stop: tuple[int, ...]
    chat: Callable[[str], str]

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of its parameters."""
        return lineage.digest(nnx.to_pure_dict(nnx.split(self.model, nnx.Param)[1]))


def open_model(given: str | Path) -> Model:
    """A model of the zoo that comes trained, a run's folder, or what `sleepnet.hf.load` opens.

    Raises:
      UsageError: none of these; or a model that can't remember: without fast weights, with a cache that grows, or without token by token.
    """
    name, path = str(given), paths.plain(given, "MODEL")
    if (path / "task.json").is_file():
        found = _of_run(name, path)
    elif not path.exists() and name in zoo.names():
        found = Model(name, zoo.load(name)[0], Ids(), (), _no_chat(name))
    else:
        model, tokenizer = hf.load(given)
        found = Model(name, model, tokenizer or Ids(), tokens.stops_of(given), lambda text: say.chat(given, text))
    talk.check(found.model)
    config = found.model.config
    if "G" not in config.pattern:
        raise UsageError(f"{given} has no fast weights, and a sleep keeps nothing: import it with fast-weight blocks put in (--insert=G:…), and train those")
    if config.full_cache:
        raise UsageError(f"{given} never empties its cache (sleep.eviction='none'): what it remembers grows with the text; open one whose eviction is hard or sliding")
    return found


def _of_run(name: str, path: Path) -> Model:
    loaded = checkpoint.load_model(path)
    model, learnt = loaded.model, getattr(loaded.task, "corpus", None)  # of a run on text, with the tokenizer that its tokens are of
    if learnt is not None and (known := getattr(loaded.task, "tokenizer", "") or learnt.tokenizer["name"]) and (known == Bytes.name or Path(known).exists()):
        return Model(name, model, tokenizers.get(known), (), _no_chat(name))
    if (before := trained.began_with(path)) is None:
        return Model(name, model, Ids(), (), _no_chat(name))
    found = tokens.tokenizer_of(before, model.config.vocab_size)
    return Model(name, model, found or Ids(), tokens.stops_of(before), lambda text: say.chat(before, text))


def _no_chat(name: str) -> Callable[[str], str]:
    def refused(text: str) -> str:
        raise UsageError(f"{name} has no chat template: leave --chat out")

    return refused
