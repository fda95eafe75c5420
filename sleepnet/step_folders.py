"""Which folders in a run's `checkpoints/` are its checkpoints: those that are called like a step and hold no other step's.

A copy that was given another number, or a folder of other things, is no checkpoint; one that is damaged is, so that it can be told.
"""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

METADATA = "_CHECKPOINT_METADATA"  # Orbax's
ITEMS = ("state", "data")


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, in their order; none where there is no folder."""
    return sorted(int(path.name) for path in _numbered(folder) if not _foreign(path))


def foreign(folder: Path) -> list[str]:
    """What is called like a checkpoint in `folder` and is none, a few words on each."""
    return [f"{path} {what}" for path in _numbered(folder) if (what := _foreign(path))]


def _numbered(folder: Path) -> list[Path]:
    listed = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in listed if path.name.isdecimal() and str(int(path.name)) == path.name and path.is_dir())


def _foreign(path: Path) -> str:
    if not any((path / name).exists() for name in (METADATA, *ITEMS)):
        return "is no checkpoint"
    try:
        own = json.loads((path / "data" / "metadata").read_text(encoding="utf-8"))["next_index"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"holds step {own}" if own != int(path.name) else ""


class Names(ocp.path.step.NameFormat):
    """What Orbax's manager takes for a step."""

    def build_name(self, step: int) -> str:
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[ocp.path.step.Metadata]:
        for step in steps(Path(base_path)):
            yield self.find_step(base_path, step)

    def find_step(self, base_path: Any, step: int) -> ocp.path.step.Metadata:
        folder = ocp.path.step.build_step_path(base_path, self, step)
        if not folder.exists():
            raise ValueError(f"no checkpoint of step {step} in {base_path}")
        return ocp.path.step.Metadata(step=step, path=folder)
