"""Where a person says that a released model is: a folder, a GGUF file, or the name of one that comes as an installed package."""
import importlib.metadata
from pathlib import Path

from sleepnet import paths
from sleepnet.errors import UsageError
from sleepnet.hf.folder import Folder
from sleepnet.hf.gguf_model import GgufModel
from sleepnet.released import PACKAGED, fetched


def place(given: str | Path) -> Path:
    """The folder or file that `given` names.

    Raises:
      UsageError: it is a model's name, and its package is not installed.
    """
    path = paths.plain(given, "folder")
    if path.exists() or str(given) not in PACKAGED:
        return path
    package, _, file = PACKAGED[str(given)]  # found in the package's list of files, nothing of it is imported
    try:
        held = importlib.metadata.distribution(package).files or ()
    except importlib.metadata.PackageNotFoundError:
        held = ()
    found = next((Path(each.locate()) for each in held if each.name == file), None)
    if found is None or not found.is_file():
        raise UsageError(f"{given} comes as the package {package}, which is not installed here: {fetched(str(given))}")
    return found


def opened(given: str | Path) -> Folder:
    """The model's config.json and what lies beside it; `headers()` reads what its tensors are.

    Raises:
      UsageError: as `Folder` and `GgufModel`.
    """
    path = place(given)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(f"{given} is a file, and no .gguf: give the model's folder")
        return GgufModel(path)
    if path.is_dir() and not (path / "config.json").exists():
        inside = [*sorted(path.glob("*.gguf")), *(found.parent for found in sorted(path.glob("snapshots/*/config.json")))]  # the second: the hub's own cache
        if inside:
            raise UsageError(f"{given} has no config.json: give what lies in it, such as {inside[0]}")
    return Folder(path)
