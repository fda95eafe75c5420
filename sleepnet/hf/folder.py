"""A folder from the Hugging Face hub, or shaped like one: config.json and safetensors. Nothing is fetched, unpickled or run."""
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sleepnet import paths
from sleepnet.errors import UsageError, first_line
from sleepnet.files import read_json

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
PUT_IN, PREFIX = "sleepnet.safetensors", "sleepnet."  # of blocks that were put in, where transformers looks for neither
_WHAT = "sleepnet"  # in the metadata of that file: keys of ModelConfig that config.json does not say
# what goes along with weights unread, byte for byte
ALONG = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "LICENSE", "README.md",
)
_FLOATS = ("F64", "F32", "F16", "BF16")


class Folder:
    """What lies in the folder; its tensors are read one by one.

    Attributes:
      path: of the folder.
      described: the file that config.json is, or stands in.
      config: config.json.
      shapes, dtypes: of every tensor, by name, from the files' headers; dtypes as safetensors calls them.
      put_in: keys of ModelConfig that config.json does not say, where the folder has blocks that were put in; known with the headers.

    Raises:
      UsageError: no such folder, no config.json, no safetensors, a file that is missing or damaged, or an index that does not say what is there.
    """

    put_in: Mapping[str, Any] = {}

    def __init__(self, given: str | Path):
        self.path = paths.plain(given, "folder")
        if not self.path.is_dir():
            raise UsageError(f"{given} is no folder: fetch the model first (`hf download NAME --local-dir={given}`); nothing is fetched here")
        if (self.path / "task.json").is_file():
            raise UsageError(f"{given} is a run's folder: `say` and `export` take it, python -m sleepnet.eval and tools/inspect_checkpoint.py tell of it")
        if not (self.path / "config.json").is_file():
            raise UsageError(f"{given} has no config.json: give the folder of a model as the Hugging Face hub has it")
        self.config = read_json(self.path / "config.json", "fetch it again")
        self.described = self.path / "config.json"
        self._file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}

    def has_weights(self) -> bool:
        """Whether there are any, or an index that names some; pickled ones count."""
        return any(path.name == INDEX or path.suffix in (".safetensors", ".bin", ".pt", ".pth") for path in self.path.iterdir())

    def headers(self) -> "Folder":
        """Reads the headers of the safetensors, and gives itself."""
        wanted = self._index()
        for file in [*(sorted(set(wanted.values())) if wanted else [WHOLE]), *([PUT_IN] if (self.path / PUT_IN).is_file() else [])]:
            if not (self.path / file).is_file():
                raise UsageError(f"{self.path / file} is missing: {self._instead() if not wanted else 'fetch it again, the index names it'}")
            with self._opened(self.path / file) as held:
                self.put_in = self._said(held) if file == PUT_IN else {}
                for name in held.keys():
                    if name in self.shapes:
                        raise UsageError(f"{self.path}: tensor {name} is in {self._file_of[name].name} and in {file}: take one of the files away")
                    piece = held.get_slice(name)
                    self._file_of[name], self.shapes[name], self.dtypes[name] = self.path / file, tuple(piece.get_shape()), piece.get_dtype()
        for name, file in wanted.items():
            if self._file_of.get(name, Path()).name != file:
                raise UsageError(f"{self.path}: the index has tensor {name} in {file}, where it is not: fetch both again")
        for name, dtype in self.dtypes.items():
            if dtype not in _FLOATS and not name.endswith("inv_freq"):
                raise UsageError(f"{self.path}: tensor {name} is {dtype}; only {', '.join(_FLOATS)} are read: a quantised model needs its weights as numbers")
        return self

    def _said(self, held) -> dict[str, Any]:
        """What the file of blocks that were put in says of the model with them."""
        try:
            said = json.loads((held.metadata() or {})[_WHAT])
        except (KeyError, ValueError):
            said = None
        if not isinstance(said, dict):
            raise UsageError(f"{self.path / PUT_IN} does not say what model its blocks are of: export it again with this version, or take the file away for the model without them")
        return said

    def read(self, name: str) -> np.ndarray:
        """One tensor; bfloat16 as ml_dtypes has it.

        Raises:
          UsageError: it holds numbers that are not finite.
        """
        with self._opened(self._file_of[name]) as held:
            value = held.get_tensor(name)
        return self.finite(name, value, self._file_of[name])

    def finite(self, name: str, value: np.ndarray, path: Path) -> np.ndarray:
        """`value`, a tensor of the file; raises UsageError where it holds numbers that are not finite."""
        if not np.isfinite(value.astype(np.float32) if value.dtype.itemsize == 2 else value).all():
            raise UsageError(f"{path}: tensor {name} holds numbers that are not finite; the file is damaged, or was made so: fetch it again")
        return value

    def beside(self, name: str) -> bytes | None:
        """A file of the folder; None where it has none of that name."""
        return (self.path / name).read_bytes() if (self.path / name).is_file() else None

    def files(self) -> list[Path]:
        """The safetensors, by name."""
        return sorted(set(self._file_of.values()))

    def origin(self) -> list[dict[str, Any]]:
        """Name, size and sha256 of each of them."""
        return [{"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in self.files()]

    def license(self) -> str:
        """As the model's card or its config.json says; "" where neither does."""
        if (card := self.path / "README.md").is_file():
            head = card.read_text(encoding="utf-8", errors="replace").split("---")
            if len(head) > 2 and (found := re.search(r"^license(?:_name)?:\s*(\S+)", head[1], re.M)):
                return found[1]
        return str(self.config.get("license") or "")

    def remote_code(self) -> list[str]:
        """Files of Python, which are left alone."""
        return sorted(path.name for path in self.path.glob("*.py"))

    def _index(self) -> dict[str, str]:
        if not (self.path / INDEX).is_file():
            return {}
        found = read_json(self.path / INDEX, "fetch it again").get("weight_map")
        if not isinstance(found, dict) or not all(isinstance(file, str) and file == Path(file).name and file.endswith(".safetensors") for file in found.values()):
            raise UsageError(f"{self.path / INDEX} needs weight_map, from tensors to names of safetensors beside it")
        return found

    def _instead(self) -> str:
        if list(self.path.glob("*.bin")) + list(self.path.glob("*.pt*")):
            return "pickled weights are not opened, they can run anything; have them saved as safetensors"
        return "fetch the model's weights into the folder"

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        try:
            with safe_open(path, framework="numpy") as held:
                yield held
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} can't be read ({first_line(error)}): fetch it again") from error


def blocks_put_in(said: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> bytes:
    """The file of blocks that were put in, by parameter name; `said`: keys of ModelConfig that config.json does not say."""
    return save({PREFIX + name: value for name, value in values.items()}, metadata={_WHAT: json.dumps(said, sort_keys=True)})  # one key: several are written in no order


def _sha256(path: Path) -> str:
    told = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            told.update(block)
    return told.hexdigest()
