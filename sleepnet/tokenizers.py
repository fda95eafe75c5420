"""Text ↔ ids: a tokenizer.json through the package `tokenizers`, or bytes, which need nothing."""
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from sleepnet import paths
from sleepnet.errors import UsageError

BYTES = 256


class Bytes:
    """Each byte of UTF-8 is its own id."""

    name, vocab_size = "bytes", BYTES
    sha256 = hashlib.sha256(b"bytes").hexdigest()  # there is no file to hash

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text."""
        del special
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text; what is no UTF-8 becomes U+FFFD."""
        return bytes(token for token in ids if token < BYTES).decode(errors="replace")


class Json:
    """tokenizer.json, as Hugging Face's `tokenizers` reads it; `content`, if given, in place of what is at `path`.

    Raises:
      UsageError: the package is not installed, or the file is not one of its.
    """

    def __init__(self, path: Path, content: bytes | None = None):
        try:
            import tokenizers
        except ImportError as error:
            raise UsageError(f"{path} needs the package tokenizers: pip install 'sleepnet[hf]'") from error
        try:
            self._content = path.read_bytes() if content is None else content
            self._held = tokenizers.Tokenizer.from_buffer(self._content)
        except Exception as error:  # of the package's own kind, which has no name
            raise UsageError(f"{path} can't be read ({str(error).splitlines()[0]}): fetch it again") from error
        self.name = path.name

    @functools.cached_property
    def vocab_size(self) -> int:
        """The largest id, and one more: ids need not be without gaps."""
        return max(self._held.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return hashlib.sha256(self._content).hexdigest()

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text, with what the tokenizer itself puts around it; without, if not `special`: of what a chat template has made, which has all of that."""
        return self._held.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text without special tokens."""
        return self._held.decode(list(ids), skip_special_tokens=True)


def file_of(given: str) -> Path:
    """The tokenizer.json that a person names, or the one in the folder that they name; raises UsageError where there is none."""
    path = paths.plain(given, "tokenizer")
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"tokenizer={given}: there is no tokenizer.json; give 'bytes', such a file, or its folder")
    return path


def hash_of(given: str) -> str:
    """`sha256` of a tokenizer by what a person calls it, without the package that reads it."""
    return Bytes.sha256 if given == Bytes.name else hashlib.sha256(file_of(given).read_bytes()).hexdigest()


def get(given: str) -> Bytes | Json:
    """The tokenizer that is called "bytes", or that of a tokenizer.json or of its folder; raises UsageError as `Json`."""
    return Bytes() if given == Bytes.name else Json(file_of(given))
