"""A folder that an export fills: the examples are whole or not there, whatever the folder is mounted on.

They are written to a hidden folder inside it, so that no rename leaves its file system; the manifest comes over last, and a folder without one
holds no export. What a killed export left behind is finished, or removed, by the next.
"""
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from sleepnet import lock

MANIFEST = "manifest.json"
_PART = ".sleepnet-export.part"


def is_free(folder: Path) -> bool:
    """Whether nothing lies there, or what a killed export left behind, which `filling` looks through."""
    if not folder.is_dir():
        return not folder.exists()
    names = {path.name for path in folder.iterdir()} - {lock.NAME}
    return not names or _PART in names


def files(folder: Path) -> dict[str, Path]:
    """Returns the files of an export, without its manifest, by the names that a manifest gives them."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if name not in (MANIFEST, lock.NAME) and not name.startswith(f"{_PART}/")}


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path | None]:
    """Yields where to write the export's files, its manifest among them; at the end they lie in `folder`, on an error nothing new does.

    Yields None where another export has been finished there.

    Raises:
      UsageError: another export is at work there.
    """
    made = not folder.exists()
    try:
        with lock.held(folder, "an export"):
            part = folder / _PART
            if (part / MANIFEST).exists():
                _move(part, folder)
            shutil.rmtree(part, ignore_errors=True)
            if not is_free(folder):
                yield None
                return
            try:
                part.mkdir()
                yield part
                _move(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _move(part: Path, folder: Path) -> None:
    """The manifest last: where the process dies in between, the next export goes on."""
    names = sorted((path.name for path in part.iterdir()), key=lambda name: name == MANIFEST)
    try:
        for name in names:
            (part / name).rename(folder / name)
    except BaseException:
        for path in (folder / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise
