"""A token file: a folder of documents as tokens, written once, read a window at a time by as many processes as there are.

    manifest.json    what it is of: tokenizer, documents, tokens, hash of the source; sizes and sha256 of the files
    tokens.bin       the tokens of all documents, little-endian; uint8, uint16 or uint32 as the vocabulary needs
    starts.npy       int64 [documents + 1], where each begins, in tokens
    keys.npy         uint64 [documents], by which a document belongs to a split
    sizes.npy        int64 [documents], bytes of its text
    names.jsonl      a document's name a line
"""
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.files import named, read_json, write_json
from sleepnet.tasks.machinery.arguments import require
from sleepnet.tasks.machinery.export_folder import MANIFEST, files, filling, is_free
from sleepnet.tasks.text.corpus import Corpus

_KIND = "tokens of text, 1"  # a change of layout raises the number
_FILES = ("tokens.bin", "starts.npy", "keys.npy", "sizes.npy", "names.jsonl")
_FIX = "write it again: python -m sleepnet.tasks tokenize"


class Document(NamedTuple):
    """A document before it is written: its name, the key of its split, its ids and the bytes of its text (0: nobody knows)."""

    name: str
    key: int
    ids: Any
    size: int


def write(folder: str | Path, documents: Iterable[Document], *, source: str, tokenizer: Mapping[str, Any], progress: Callable[[int], None] = lambda more: None) -> Path:
    """Writes the documents and returns the folder; what is stopped, or fails, leaves nothing there.

    Args:
      folder: new, or empty.
      documents: read once; those with fewer than two tokens hold nothing to predict and are left out.
      source: what they are, in words.
      tokenizer: name, sha256 and vocab_size of what made the ids.
      progress: called with 1 for each document.

    Raises:
      UsageError: a folder that holds something, an id outside the vocabulary, or no document.
    """
    folder = paths.plain(folder, "out")
    require(is_free(folder), f"{folder} is not empty; nothing is overwritten, give the name of a new folder")
    with filling(folder) as part, named(folder):
        require(part is not None, f"{folder} has just been filled by another; nothing is overwritten")
        about = _fill(part, documents, tokenizer, progress) | {"source": source}
        sizes = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in files(part).items()}
        write_json(part / MANIFEST, {"kind": _KIND, **about, "tokenizer": dict(tokenizer), "files": sizes})
    return folder


def _fill(part: Path, documents: Iterable[Document], tokenizer: Mapping[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    most = int(tokenizer["vocab_size"])
    dtype = np.dtype("u1" if most <= 1 << 8 else "<u2" if most <= 1 << 16 else "<u4")
    starts, keys, sizes, short, digest = [0], [], [], 0, hashlib.sha256()
    with (part / "tokens.bin").open("wb") as tokens, (part / "names.jsonl").open("w", encoding="utf-8") as names:
        for document in documents:
            progress(1)
            ids = np.asarray(document.ids, np.int64)
            digest.update(f"{document.name}\0{len(ids)}\0".encode() + ids.astype("<u4").tobytes())
            if len(ids) < 2:
                short += 1
                continue
            least, largest = int(ids.min()), int(ids.max())
            require(0 <= least and largest < most, f"{document.name} holds id {least if least < 0 else largest}, the tokenizer {tokenizer['name']} has 0 … {most - 1}: another tokenizer's ids")
            tokens.write(ids.astype(dtype).tobytes())
            names.write(json.dumps(document.name, ensure_ascii=False) + "\n")
            starts.append(starts[-1] + len(ids))
            keys.append(document.key)
            sizes.append(document.size)
    require(bool(keys), "no document with two tokens or more: there is nothing to predict")
    for name, values in (("starts", np.array(starts, np.int64)), ("keys", np.array(keys, np.uint64)), ("sizes", np.array(sizes, np.int64))):
        np.save(part / f"{name}.npy", values)
    return {"documents": len(keys), "tokens": starts[-1], "left_out": short, "dtype": dtype.str, "sha256": digest.hexdigest()}


def load(folder: str | Path) -> Corpus:
    """The corpus in a folder; its tokens stay on the disk until they are asked for.

    Raises:
      UsageError: no manifest, one of something else, or files that are not as long as it says.
    """
    folder = paths.plain(folder, "task.arguments.tokens")
    require(folder.is_dir(), f"task.arguments.tokens={folder}: there is no such folder; make one with python -m sleepnet.tasks tokenize")
    return _load(folder, (folder / MANIFEST).stat().st_mtime_ns if (folder / MANIFEST).is_file() else 0)


@functools.lru_cache(maxsize=8)
def _load(folder: Path, stamp: int) -> Corpus:
    del stamp  # a folder that has been written again is read again
    require((folder / MANIFEST).is_file(), f"{folder} is no token file: it has no {MANIFEST}; {_FIX}")
    manifest = read_json(folder / MANIFEST, _FIX)
    require(manifest.get("kind") == _KIND, f"{folder / MANIFEST} is not of {_KIND.split(',')[0]}, or of another version of its layout; {_FIX}")
    for name in _FILES:
        there, told = folder / name, manifest.get("files", {}).get(name, {}).get("bytes")
        require(there.is_file() and there.stat().st_size == told, f"{folder} is damaged: {name} does not have the {told} bytes that the manifest says; {_FIX}")
    try:
        starts, keys, sizes = (np.load(folder / f"{name}.npy") for name in ("starts", "keys", "sizes"))
        tokens = np.memmap(folder / "tokens.bin", np.dtype(manifest["dtype"]), "r")
        about = {key: manifest[key] for key in ("source", "documents", "tokens", "sha256")} | {"tokenizer": manifest["tokenizer"]["name"], "tokenizer_sha256": manifest["tokenizer"]["sha256"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder} is damaged ({error}); {_FIX}") from error
    names = lambda: tuple(json.loads(line) for line in (folder / "names.jsonl").read_text(encoding="utf-8").splitlines())
    return Corpus(tokens, starts, keys, sizes, names, about, manifest["tokenizer"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
