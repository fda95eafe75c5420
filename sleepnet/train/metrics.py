"""Where a run's numbers go: a progress line, JSON lines and TensorBoard; and where its seconds go."""
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from sleepnet import files
from sleepnet.train.board import Board


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{seconds:02d}s"


class Seconds:
    """What a stretch of a run was spent on.

    Waiting for a batch costs nothing while the devices still compute an earlier step: it counts as `input` only where they had run dry by the
    time that the batch came (all of the wait then, so `input` errs upwards). `compute` is what is left: compiling, computing, bookkeeping.
    """

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        self.mark, self.spent = time.monotonic(), {"input": 0.0, "checkpoint": 0.0, "evaluation": 0.0}

    @contextlib.contextmanager
    def of(self, kind: str, computing: Any = None) -> Iterator[None]:
        """Counts the time within as `kind`; not if an array of `computing`, a pytree, is still being computed at its end."""
        start = time.monotonic()
        yield
        if all(leaf.is_ready() for leaf in jax.tree.leaves(computing) if isinstance(leaf, jax.Array)):
            self.spent[kind] += time.monotonic() - start

    def take(self) -> dict[str, float]:
        """Seconds of each kind since the last call, and the share of `input`; then a new stretch begins."""
        whole, spent = time.monotonic() - self.mark, self.spent
        self._begin()
        seconds = {"input": spent["input"], "compute": whole - sum(spent.values()), "checkpoint": spent["checkpoint"], "evaluation": spent["evaluation"]}
        return {"input_share": round(spent["input"] / max(whole, 1e-9), 4), **{f"{kind}_seconds": round(value, 4) for kind, value in seconds.items()}}


class Metrics:
    """Writes `metrics.jsonl` and `tensorboard/` in a run's folder, and a line on the terminal.

    A resumed run first drops what was written after its checkpoint, so that the file reads like an unbroken run's. With `writes=False`, in a
    process that leaves this to another, nothing is written or shown.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, quiet: bool, writes: bool = True):
        self.path, self.writes = workdir / "metrics.jsonl", writes
        self.steps, self.quiet = steps, quiet
        self.mark, self.marked_step, self.seconds = time.monotonic(), start, 0.0
        if writes:
            kept = self._kept(start)
            files.write_text(self.path, "".join(kept))
            self.seconds = json.loads(kept[-1])["seconds"] if kept else 0.0
            self.file = self.path.open("ab", buffering=0)
            self.board = Board(workdir / "tensorboard", start + 1 if start else None)

    def _kept(self, start: int) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = list(files.json_lines(text, "step", "seconds"))
        if spoilt := text.count("\n") - len(whole):  # what a kill cut in two has no end
            print(f"{self.path}: {spoilt} damaged line{'s are' if spoilt > 1 else ' is'} left out", file=sys.stderr)
        return [line for line, values in whole if values["step"] <= start]

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """One line of numbers of `split`, with the seconds that the run has taken so far, all its legs together."""
        if not self.writes:
            return
        now = time.monotonic()
        self.seconds += now - self.mark
        rate = (step - self.marked_step) / max(now - self.mark, 1e-9)
        self.mark, self.marked_step = now, step
        self._append({"step": step, "split": split, **values})
        self.board.write(step, {f"{split}/{key}": value for key, value in values.items()})
        if not self.quiet:
            self._show(step, split, values, rate)

    def note(self, step: int, changed: dict[str, Any]) -> None:
        """A line, of the split "config", about keys of the configuration that are other ones from this step on."""
        if self.writes and changed:
            self._append({"step": step, "split": "config", "changed": changed})

    def _append(self, values: dict[str, Any]) -> None:
        line = (json.dumps(values | {"seconds": round(self.seconds, 3)}) + "\n").encode()
        with files.named(self.path):
            while line:  # a disk that becomes full takes a part first
                line = line[self.file.write(line):]

    def _show(self, step: int, split: str, values: dict[str, Any], rate: float) -> None:
        line = f"step {step}/{self.steps}  {split:10s}" + (f" exact {values['exact_accuracy']:.3f}" if "exact_accuracy" in values else "")
        line += f" loss {values['loss']:.4f}" if split != "train" and "loss" in values else ""
        if split == "train":
            line += f"  loss {values['loss']:.4f}  waits for input {values['input_share']:.0%}"
            tokens = values["tokens"] / step * rate
            line += f"  {tokens:,.0f} tokens/s  eta {_clock((self.steps - step) / max(rate, 1e-9))}"
        end = "\n" if split != "train" or not sys.stderr.isatty() else "\r"
        print(line.ljust(120) if end == "\r" else line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Lets go of the files."""
        if self.writes:
            self.file.close()
            self.board.close()
