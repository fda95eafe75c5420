"""A run's folder as a few small files that can be carried by hand: one compressed archive, split, with a manifest of hashes.

    manifest.json           step, files and parts, each part with its bytes and SHA-256
    part-STEP-00.tgz …      the archive's bytes in order
"""
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from sleepnet import step_folders
from sleepnet.errors import UsageError
from sleepnet.files import write_json

MANIFEST = "manifest.json"
# what a run can do without: traces, and the curves that metrics.jsonl has too
_LEFT = ("profile", "tensorboard", "damaged")


def newest(workdir: Path) -> int:
    """Step of a run's newest checkpoint, 0 without one."""
    folder = workdir / "checkpoints"
    return max(step_folders.steps(folder), default=0) if folder.is_dir() else 0


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a pack, None if there is none.

    Raises:
      UsageError: it is no manifest.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {"step": int(manifest["step"]), "parts": [(part["name"], part["bytes"], part["sha256"]) for part in manifest["parts"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / MANIFEST} is no manifest of a pack ({error!r}): bring it here again, or give another --pack") from error


def pack(workdir: Path, folder: Path, *, part_bytes: int, every_checkpoint: bool = False) -> dict[str, Any]:
    """Writes the run in `workdir` to `folder` and returns the manifest; a pack that is there stays whole until the new one is.

    Args:
      workdir: the run's folder; nothing may be at work there.
      folder: of the pack.
      part_bytes: most bytes of a part.
      every_checkpoint: not the newest alone.
    """
    step = newest(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in folder.glob("part-*.tgz")}
    parts = _Parts(folder, _free(step, before), part_bytes)
    try:
        with parts, gzip.GzipFile(filename="", fileobj=parts, mode="wb", compresslevel=3, mtime=0) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for path in sorted(workdir.iterdir()):
                if path.name in _LEFT or path.name.startswith("."):
                    continue
                if path.name != "checkpoints" or every_checkpoint:
                    archive.add(path, path.name)
                elif step:
                    archive.add(path / str(step), f"checkpoints/{step}")
        manifest = {"step": step, "parts": parts.done}
        write_json(folder / MANIFEST, manifest)
    except BaseException:
        before = {path.name for path in folder.glob("part-*.tgz")} - before
        raise
    finally:
        for name in before:
            (folder / name).unlink()
    return manifest


def _free(step: int, names: set[str]) -> str:
    """How to begin the names of a pack's parts beside these: the one before of the same step stays whole, too."""
    starts = itertools.chain([f"part-{step}"], (f"part-{step}.{again}" for again in itertools.count(2)))
    return next(start for start in starts if not any(name.startswith(f"{start}-") for name in names))


def unpack(folder: Path, workdir: Path) -> int:
    """Makes `workdir` the run that was packed, and returns its step; everything is checked before anything is written.

    Raises:
      UsageError: a part is missing or not what the manifest says, or `workdir` is there.
    """
    manifest = read(folder)
    if manifest is None:
        raise UsageError(f"{folder} holds no pack: there is no {MANIFEST} in it")
    for name, size, digest in manifest["parts"]:
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _sha256(path) != digest:
            raise UsageError(f"{path} is {'damaged' if path.is_file() else 'missing'}: bring the files of the leg to step {manifest['step']} here again")
    if workdir.exists():
        raise UsageError(f"{workdir} is there already: give a new --workdir")
    beside = workdir.with_name(f".{workdir.name}.{os.getpid()}.part")
    beside.mkdir(parents=True)
    try:
        chain = io.BufferedReader(_Chain([folder / name for name, *_ in manifest["parts"]]))
        with gzip.GzipFile(fileobj=chain) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(beside, filter="data")
        beside.rename(workdir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest["step"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Parts(io.RawIOBase):
    """A stream to write to whose bytes go to one file after the other; `done` tells of each."""

    def __init__(self, folder: Path, start: str, size: int):
        super().__init__()
        self.folder, self.start, self.size = folder, start, size
        self.done, self.file = [], None

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        data = memoryview(data).cast("B")
        if self.closed:  # after a failure, when gzip throws its buffer away: the pack is gone by then, and must not get a part again
            return len(data)
        length = len(data)
        while len(data):
            if self.file is None:
                self.path = self.folder / f"{self.start}-{len(self.done):02d}.tgz"
                self.file, self.room, self.hash = self.path.open("wb"), self.size, hashlib.sha256()
            piece, data = data[:self.room], data[self.room:]
            self.file.write(piece)
            self.hash.update(piece)
            self.room -= len(piece)
            if not self.room:
                self._end()
        return length

    def _end(self) -> None:
        self.file.close()
        self.file = None
        self.done.append({"name": self.path.name, "bytes": self.size - self.room, "sha256": self.hash.hexdigest()})

    def close(self) -> None:
        if self.file is not None:
            self._end()
        super().close()


class _Chain(io.RawIOBase):
    """Files read as one stream."""

    def __init__(self, paths: list[Path]):
        super().__init__()
        self.waiting, self.file = list(paths), None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self.file or self.waiting:
            self.file = self.file or self.waiting.pop(0).open("rb")
            if count := self.file.readinto(buffer):
                return count
            self.file.close()
            self.file = None
        return 0
