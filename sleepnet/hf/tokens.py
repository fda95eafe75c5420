"""Text ↔ ids: a folder's tokenizer.json through the package `tokenizers`, or bytes, which need nothing."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.files import json_object

BYTES = 256


class Bytes:
    """Each byte of UTF-8 is its own id."""

    name = "bytes"

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text; what is no UTF-8 becomes U+FFFD."""
        return bytes(token for token in ids if token < BYTES).decode(errors="replace")


class Json:
    """tokenizer.json, as Hugging Face's `tokenizers` reads it.

    Raises:
      UsageError: the package is not installed, or the file is not one of its.
    """

    def __init__(self, path: Path):
        try:
            import tokenizers
        except ImportError as error:
            raise UsageError(f"{path} needs the package tokenizers: pip install 'sleepnet[hf]'") from error
        try:
            self._held = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # of the package's own kind, which has no name
            raise UsageError(f"{path} can't be read ({str(error).splitlines()[0]}): fetch it again") from error
        self.name = path.name

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with what the tokenizer itself puts around it."""
        return self._held.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text without special tokens."""
        return self._held.decode(list(ids), skip_special_tokens=True)


class OnUse:
    """What stands for a tokenizer.json until somebody needs it: a model without text can do without the package."""

    def __init__(self, path: Path):
        self._path, self._made = path, None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._made = self._made or Json(self._path)
        return getattr(self._made, name)


def tokenizer_of(folder: str | Path, vocab_size: int) -> OnUse | Bytes | None:
    """The folder's tokenizer, read when it is first used; bytes for a vocabulary of exactly 256 without one; else None."""
    if (path := paths.plain(folder, "folder") / "tokenizer.json").is_file():
        return OnUse(path)
    return Bytes() if vocab_size == BYTES else None


def stops_of(folder: str | Path) -> tuple[int, ...]:
    """Ids that end an answer, as generation_config.json or config.json has them; a list stays one."""
    for name in ("generation_config.json", "config.json"):
        try:
            found = json_object(paths.plain(folder, "folder") / name)
        except (OSError, ValueError):
            continue
        for section in (found, found.get("text_config")):
            ids = section.get("eos_token_id") if isinstance(section, dict) else None
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
