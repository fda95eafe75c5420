"""Documents as tokens: which split each belongs to, and the stretches that it is cut into.

Letters: N tokens of all documents, D documents, T tokens of a stretch.
"""
import dataclasses
import functools
import hashlib
import platform
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.tasks.machinery.splits import SPLITS
from sleepnet.tokenizers import Bytes

# of the standard library: what is no part of it, and its tests
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_TRAIN, _VALIDATION, _TEST = (SPLITS[name] for name in ("train", "validation", "test"))


def key_of(content: bytes) -> int:
    """64 bits that say which split a document belongs to: of its name where it has one of its own, else of its content."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Documents, one behind the other.

    Attributes:
      tokens: unsigned [N].
      starts: int64 [D + 1], where document d begins, and where the last ends.
      keys: uint64 [D], see `key_of`.
      sizes: int64 [D], bytes of each document's text; 0 where nobody knows.
      names: makes their names.
      about: what determines all of it, with hashes; plain JSON values.
      tokenizer: name, sha256 and vocab_size.
    """

    tokens: np.ndarray
    starts: np.ndarray
    keys: np.ndarray
    sizes: np.ndarray
    names: Callable[[], tuple[str, ...]]
    about: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    def members(self, split: str, held_out: int, least: int) -> np.ndarray:
        """int64, the documents of a split with at least so many tokens to predict. One of `held_out` is the test's, one validation's, all others train."""
        bucket = self.keys % np.uint64(held_out)
        belongs = {_TEST: bucket == 0, _VALIDATION: bucket == 1, _TRAIN: bucket > 1}[SPLITS[split]]
        return np.flatnonzero(belongs & (np.diff(self.starts) > least))


def library() -> dict[str, bytes]:
    """Name → text of each source of the running Python's standard library without its tests, in order of their names.

    Raises:
      UsageError: this Python has none, as one that is frozen into a program.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts)}
    if not found:
        raise UsageError(f"the standard library of this Python has no sources in {root}: give texts of your own (python -m sleepnet.tasks tokenize --from)")
    texts = {name: found[name].read_bytes() for name in sorted(found)}
    return {name: text for name, text in texts.items() if _is_utf8(text)}  # a handful are in codings of their own


def library_named() -> str:
    """What `library` is, in words."""
    return f"standard library of Python {platform.python_version()}, without tests"


@functools.cache
def standard_library() -> Corpus:
    """The sources of the running Python's standard library without its tests, in bytes; split by file name.

    Raises:
      UsageError: as `library`.
    """
    texts, digest = library(), hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    sizes = np.array([len(text) for text in texts.values()], np.int64)
    about = {"source": library_named(), "documents": len(texts), "tokens": int(sizes.sum()), "sha256": digest.hexdigest(), "tokenizer": Bytes.name}
    return Corpus(
        np.frombuffer(b"".join(texts.values()), np.uint8), np.concatenate([[0], np.cumsum(sizes)]), np.array([key_of(name.encode()) for name in texts], np.uint64), sizes,
        lambda: tuple(texts), about, {"name": Bytes.name, "sha256": Bytes.sha256, "vocab_size": Bytes.vocab_size},
    )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
