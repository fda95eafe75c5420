"""What is in a checkpoint: tree, shapes, dtypes, sharding, config, versions, mesh, task. Reads no weights and needs none of the devices they were saved on."""
import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import logging

from sleepnet import cli, paths

EXAMPLES = """\
examples:
  python tools/inspect_checkpoint.py runs/depo
  python tools/inspect_checkpoint.py runs/depo --step 3200
  python tools/inspect_checkpoint.py runs/depo/checkpoints/3200

A run's newest checkpoint, another one, or the folder of one, wherever it was copied; `python -m sleepnet.train --help` makes this run.
The config lists the keys that are not at their defaults. A sharding is the spec over the mesh it was saved on; training restores it onto
any other. A checkpoint that is truncated, incomplete or none at all is told in one line with exit status 2; then
`python -m sleepnet.train … --config.resume=latest-good` goes on from the newest whole one."""


def within(path: Path) -> Path:
    """Where a run's checkpoints are; any other folder is such a place itself."""
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def find(path: Path, step: int | None) -> tuple[Path, list[int]]:
    """The checkpoint that is meant, and the steps beside it.

    Raises:
      UsageError: no checkpoint there, or not that step.
    """
    from sleepnet import step_folders
    from sleepnet.errors import UsageError

    if not path.is_dir():
        raise UsageError(f"{path}: there is no such folder; give a run's folder or one of its checkpoints")
    if path.name.isdigit() and not (path / "checkpoints").is_dir():
        if step is not None and step != int(path.name):
            raise UsageError(f"--step {step}: {path} is the checkpoint of step {path.name}; give the run's folder")
        return path, []
    folder = within(path)
    steps = step_folders.steps(folder)
    if not steps:
        raise UsageError(f"{path} holds no checkpoint: give a run's folder or one of its checkpoints")
    if step is not None and step not in steps:
        raise UsageError(f"--step {step}: {folder} holds {', '.join(map(str, steps))}")
    return folder / str(steps[-1] if step is None else step), steps


def changed(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys that are not at their defaults."""
    from sleepnet import origin
    from sleepnet.config import RunConfig, to_dict

    defaults = origin.flat(json.loads(json.dumps(to_dict(RunConfig()))))
    return {key: value for key, value in origin.flat(config).items() if key not in defaults or value != defaults[key]}


def head(folder: Path, steps: list[int], found: Any) -> list[tuple[str, str]]:
    """What is known about a checkpoint besides its tree, as (word, text)."""
    card, when = found.card, datetime.datetime.fromtimestamp(found.saved, datetime.timezone.utc)
    lines = [("checkpoint", str(folder) + (f" (there are {', '.join(map(str, steps))})" if len(steps) > 1 else ""))]
    lines += [("saved", f"{when:%Y-%m-%d %H:%M:%S} UTC"), ("next batch", str(found.step))]
    lines += [("ranked by", ", ".join(f"{key} {value:.4f}" for key, value in found.metrics.items()))] if found.metrics else []
    if not card:
        return [*lines, ("origin", "not recorded: written by an earlier version; config.json and task.json of its run say more")]
    mesh = dict(card["mesh"])
    where = f"{mesh.pop('processes', '?')} process(es), {mesh.pop('device', '?')}"
    arguments = ", ".join(f"{key}={value}" for key, value in card["task"].get("arguments", {}).items())
    return [
        *lines,
        ("tree version", str(card["tree_version"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in card["versions"].items())),
        ("mesh", " × ".join(f"{axis}={size}" for axis, size in mesh.items()) + f"; {where}"),
        ("task", f"{card['task']['name']} ({arguments})"),
        ("task hash", card["task"]["hash"]),
        *_past(card.get("start") or {}),
        *(("config" if not index else "", f"{key} = {value!r}") for index, (key, value) in enumerate(changed(card["config"]).items())),
    ]


def _past(start: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run started from, and what it never changes."""
    if not start:
        return []
    known = lambda value, words: "unknown" if value is None else format(value, words)
    chain = " → ".join(f"{link['name']} ({link['method']}, {known(link['steps'], ',')} steps)" for link in start["chain"])
    lines = [("started from", f"{chain or 'fresh parameters'}; sha256 {start['digest'][:12]}")]
    lines += [("before it", f"{known(start['flops'], '.3g')} FLOPs, {known(start['tokens'], ',')} tokens")] if chain else []
    lines += [("learns from", f"{name} is {told['start']}; sha256 {told['digest'][:12]}") for name, told in start.get("references", {}).items()]
    return lines + ([("unchanged", f"what frozen.safetensors holds, sha256 {start['frozen'][:12]}")] if start["frozen"] else [])


def rows(tree: Any) -> list[tuple[str, str, str, str, str]]:
    """name, shape, dtype, sharding, bytes of every array."""
    import numpy as np

    from sleepnet import origin

    def spec(sharding: Any) -> str:
        axes = getattr(sharding, "partition_spec", None)
        return "one device" if axes is None else f"P({', '.join(map(repr, axes))})"

    size = lambda leaf: int(np.prod(leaf.shape, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize
    return [(name, str(tuple(leaf.shape)), str(np.dtype(leaf.dtype)), spec(leaf.sharding), f"{size(leaf):,}") for name, leaf in origin.named(tree).items()]


def show(path: Path, step: int | None) -> None:
    """Prints it all."""
    from sleepnet import origin
    from sleepnet.errors import UsageError

    def read():
        folder, steps = find(path, step)
        try:
            found = origin.contents(folder)
        except origin.Unusable as error:
            raise UsageError(f"checkpoint {folder} is {error}; --step N shows another one") from error
        return found, head(folder, steps, found)

    found, top = origin.beside_a_run(within(path), read)
    for word, text in top:
        print(f"{word:12}  {text}")
    table = [("array", "shape", "dtype", "sharding", "bytes"), *rows(found.tree)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    print()
    for row in table:
        print("  ".join(cell.rjust(width) if column == 4 else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))))
    total = lambda start: sum(int(row[4].replace(",", "")) for row in table[1:] if row[0].startswith(start))
    print(f"\nparameters {total('params'):,} bytes, optimiser {total('opt_state'):,} bytes, all {total(''):,} bytes in {len(table) - 1} arrays")


def _run(argv: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="inspect_checkpoint.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="WORKDIR_OR_CHECKPOINT", help="a run's folder, or the folder of one checkpoint")
    parser.add_argument("--step", type=int, help="the checkpoint of this step (default: the newest)")
    options = parser.parse_args(argv)
    # After the flags are checked: JAX takes seconds to start, and must not take an accelerator that a training holds
    os.environ["JAX_PLATFORMS"] = "cpu"
    logging.set_verbosity(logging.ERROR)
    show(paths.readable(paths.plain(options.path)), options.step)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status."""
    return cli.guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
