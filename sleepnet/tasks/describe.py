"""A task in words, and its examples marked: which windows sleep, where the loss is, what is graded."""
import textwrap
from collections.abc import Mapping
from typing import Any

from sleepnet.tasks.base import Task

_WIDTH = 110
_LEGEND = "reading → what must be predicted there; * marks what is graded; PAD×n is n paddings"


def describe(task: Task) -> str:
    """Returns what a task asks, its sizes, its baselines and its first test example."""
    sleeping = sum(not p for p in task.predicts)
    sizes = (
        f"T = {task.seq_len} tokens in {len(task.predicts)} windows of L = {task.window}: {sleeping} sleep, "
        f"{len(task.predicts) - sleeping} predict. Vocabulary {task.vocab_size}; answers per example {task.answers}; graded by "
        f"{' and '.join(task.difficulty_axes)}."
    )
    parts = [
        f"{task.name}, version {task.version}, spec {task.spec_hash[:12]}",
        "  " + ", ".join(f"{k}={v!r}" for k, v in task.arguments.items()),
        "",
        textwrap.fill(task.explain(), _WIDTH),
        textwrap.fill(sizes, _WIDTH),
        "",
        "What guessing scores on the test split (per label, exact):",
    ]
    parts += [f"  {name:12} {b['label']:.4f}  {b['exact']:.4f}  {b['meaning']}" for name, b in task.baselines().items()]
    parts += ["", "Example 0 of seed 0, split test:", mark(task, task.example(0, "test", 0))]
    return "\n".join(parts)


def mark(task: Task, example: Mapping[str, Any]) -> str:
    """Returns an example window by window, with its labels beside the tokens they belong to, and then in words."""
    lines = [f"({_LEGEND})"]
    for w, predicts in enumerate(task.predicts):
        words: list[str] = []
        pads = 0
        for t in range(w * task.window, min((w + 1) * task.window, task.seq_len)):
            word = task.token(int(example["tokens"][t]))
            if example["loss_mask"][t]:
                word += f"→{task.token(int(example['targets'][t]))}" + "*" * bool(example["answer"][t] >= 0)
            pads = pads + 1 if word == "PAD" else 0
            if pads > 1:
                words.pop()
            words.append(f"PAD×{pads}" if pads > 1 else word)
        head = f"window {w + 1}, {'predicts' if predicts else 'sleeps'}: "
        lines.append(textwrap.fill(head + " ".join(words), _WIDTH, subsequent_indent="    ", break_long_words=False))
    return "\n".join([*lines, task.narrate(example)])
