"""Where documents come from: files of text, JSON lines, parquet, ArrayRecord of token ids, and TFDS data sets that are on disk."""
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sleepnet import paths
from sleepnet.errors import UsageError, first_line
from sleepnet.tasks.machinery.arguments import require
from sleepnet.tasks.text.corpus import key_of, library

_IDS = {"uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8"}
_RECORDS = (".array_record", ".arrayrecord", ".riegeli")
_ROWS = 1024  # of a parquet file or a data set that are read together


class Read(NamedTuple):
    """A document as it was found: a text, or ids that others have made of one."""

    name: str
    key: int
    content: str | np.ndarray


def files(given: Iterable[str], *, field: str = "text", ids: str = "uint16", suffixes: tuple[str, ...] = ()) -> Iterator[Read]:
    """The documents of files and folders, in order of their names: a text file is one, a line of .jsonl, a row of .parquet and a record of .array_record each another.

    A document that is a file belongs to a split by the file's name, below the folder that was given; all others by their content, so that none is in two.

    Args:
      given: files and folders; of a folder all files below it, but for hidden ones.
      field: of JSON lines and parquet, where the text stands.
      suffixes: of a folder, the files whose names end so; all if there are none.
      ids: of ArrayRecord, the type of an id; a record is a document's ids, one behind the other, little-endian.

    Raises:
      UsageError: a path that is not there, a text that is no UTF-8, a row without the field, a missing package; each names the file.
    """
    for text in given:
        path = paths.plain(text, "from")
        require(path.exists(), f"--from={text}: there is no such file or folder")
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and not any(part.startswith(".") for part in one.relative_to(path).parts)]
        inside = [one for one in inside if not suffixes or one.name.endswith(suffixes)]
        for one in inside if path.is_dir() else [path]:
            yield from _file(one, one.relative_to(path).as_posix() if path.is_dir() else one.name, field, ids)


def standard_library() -> Iterator[Read]:
    """The sources of the running Python's, in the splits that they have as bytes; raises UsageError where it has none."""
    for name, text in library().items():
        yield Read(name, key_of(name.encode()), text.decode())


def _file(path: Path, name: str, field: str, ids: str) -> Iterator[Read]:
    if path.suffix in (".jsonl", ".ndjson"):
        return _lines(path, name, field)
    if path.suffix == ".parquet":
        return _parquet(path, name, field)
    if path.suffix in _RECORDS:
        return _records(path, name, ids)
    return iter([Read(name, key_of(name.encode()), _text(path.read_bytes(), str(path)))])


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is no UTF-8: byte {error.start} is 0x{content[error.start]:02x}; convert it first (iconv -t UTF-8), or leave it out") from error


def _of(name: str, number: int, value: Any, field: str, where: str) -> Read:
    """A row's text as a document."""
    text = _text(value, where) if isinstance(value, bytes) else value
    require(isinstance(text, str), f"{where}: {field!r} is {type(value).__name__}, not a text; name another with --field")
    try:
        return Read(f"{name}:{number}", key_of(text.encode()), text)
    except UnicodeEncodeError as error:  # JSON can say so
        raise UsageError(f"{where} holds half a surrogate pair, which is no text: mend it, or leave it out") from error


def _lines(path: Path, name: str, field: str) -> Iterator[Read]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                found = json.loads(_text(line, where))
            except ValueError as error:
                if isinstance(error, UsageError):
                    raise
                raise UsageError(f"{where} is no JSON ({error})") from error
            require(isinstance(found, dict) and field in found, f"{where} has no {field!r}; name the field with --field")
            yield _of(name, number, found[field], field, where)


def _parquet(path: Path, name: str, field: str) -> Iterator[Read]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UsageError(f"{path} needs the package pyarrow: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UsageError(f"{path} can't be read as parquet ({first_line(error)})") from error
    with file:
        columns = file.schema_arrow.names
        require(field in columns, f"{path} has no column {field!r}, but {', '.join(columns)}; name one with --field")
        number = 0
        for batch in file.iter_batches(_ROWS, columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield _of(name, number, value, field, f"{path}, row {number}")


def _records(path: Path, name: str, ids: str) -> Iterator[Read]:
    require(ids in _IDS, f"--ids={ids} must be one of {', '.join(_IDS)}")
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise UsageError(f"{path} needs the package array_record: pip install array_record") from error
    size, reader = np.dtype(_IDS[ids]).itemsize, array_record_module.ArrayRecordReader(str(path))
    try:  # a file of something else has no records, and says why when it is closed
        for number in range(reader.num_records()):
            content = reader.read([number])[0]
            require(len(content) % size == 0, f"{path}, record {number}: {len(content)} bytes are no row of {ids}; say with --ids which they are")
            yield Read(f"{name}:{number}", key_of(content), np.frombuffer(content, _IDS[ids]))
        reader.close()
    except (RuntimeError, IndexError) as error:
        raise UsageError(f"{path} can't be read as ArrayRecord ({first_line(error)})") from error


def data_set(name: str, *, split: str, data_dir: str | None, field: str = "text") -> Iterator[Read]:
    """The documents of a TFDS data set, by its name: one that has been prepared, in array_record; nothing is fetched.

    Raises:
      UsageError: it is not on disk, or has no such split or field.
    """
    import tensorflow_datasets as tfds  # takes a second

    folder = None if data_dir is None else str(paths.plain(data_dir, "data_dir"))
    try:
        source = tfds.data_source(name, split=split, data_dir=folder, download=False)
    except (OSError, ValueError, KeyError, AssertionError, NotImplementedError, tfds.core.DatasetNotFoundError) as error:
        where = folder or "~/tensorflow_datasets"
        raise UsageError(f"--tfds={name}: split {split!r} is not prepared in {where} as array_record ({first_line(error)}); prepare it there, nothing is fetched here") from error
    for number in range(len(source)):
        row = source[number]
        require(field in row, f"--tfds={name} has no {field!r}, but {', '.join(row)}; name one with --field")
        value = row[field]
        yield _of(name, number, value.item() if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 else value, field, f"{name}, row {number}")
