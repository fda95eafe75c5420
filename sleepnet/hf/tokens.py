"""The tokenizer of a model's folder, and the ids that end an answer."""
import json
from pathlib import Path
from typing import Any

from sleepnet.files import read_json
from sleepnet.hf import sources
from sleepnet.released import RECORD
from sleepnet.tokenizers import BYTES, Bytes, Json, hash_of


class OnUse:
    """What stands for a tokenizer.json until somebody needs it: a model without text can do without the package."""

    def __init__(self, path: Path, content: bytes):
        self._given, self._made = (path, content), None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._made = self._made or Json(*self._given)
        return getattr(self._made, name)


def tokenizer_of(folder: str | Path, vocab_size: int) -> OnUse | Bytes | None:
    """The folder's tokenizer, read when it is first used; bytes for a vocabulary of exactly 256 without one; else None."""
    source = sources.opened(folder)
    if (held := source.beside("tokenizer.json")) is not None:
        return OnUse(source.path / "tokenizer.json", held)
    return Bytes() if vocab_size == BYTES else None


def told_of(folder: Path) -> tuple[str, str] | None:
    """(name, sha256) of the tokenizer that `tokenizer_of` gives for an imported model, without the package that reads it."""
    if (folder / "tokenizer.json").is_file():
        return "tokenizer.json", hash_of(str(folder))
    known = read_json(folder / RECORD, "import it again").get("model")
    return (Bytes.name, Bytes.sha256) if isinstance(known, dict) and known.get("vocab_size") == BYTES else None


def stops_of(folder: str | Path) -> tuple[int, ...]:
    """Ids that end an answer, as generation_config.json or config.json has them; a list stays one."""
    source = sources.opened(folder)
    for name in ("generation_config.json", "config.json"):
        try:
            found = json.loads(source.beside(name) or b"{}")
        except ValueError:
            continue
        for section in (found, found.get("text_config")) if isinstance(found, dict) else ():
            ids = section.get("eos_token_id") if isinstance(section, dict) else None
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
