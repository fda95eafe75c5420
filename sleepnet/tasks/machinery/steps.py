"""The steps of a task's computation for readers, and against the task's own solver."""
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

_SHOWN = 3
_WIDTH = 110


def mark(task, example: Mapping[str, Any]) -> str:
    """Returns what a solver of `task` holds after 0, 1, … steps at the tokens of each window that sleeps; "" where the task has no steps."""
    if task.most_steps == 0:
        return ""
    most = _SHOWN if task.most_steps is None else min(_SHOWN, task.most_steps)
    told = task.steps_of({key: np.asarray(example[key])[None] for key in ("tokens", "targets")}, most)[0]
    lines = ["What passes can be taught by: what stands there after so many steps, where anything does."]
    for w, predicts in enumerate(task.predicts):
        window = told[:, w * task.window : (w + 1) * task.window]
        places = np.flatnonzero(window.any(axis=0))
        for step in range(most + 1) if places.size and not predicts else ():
            words = " ".join(task.token(int(token)) if token else "·" for token in window[step, places])
            lines.append(textwrap.fill(f"window {w + 1}, {step} step{'s' * (step != 1)}: {words}", _WIDTH, subsequent_indent="    ", break_long_words=False))
    return "\n".join(lines)


def disagreement(task, tokens: np.ndarray, told: np.ndarray) -> str | None:
    """Returns where `told`, int32 [most + 1, T], is not what the task's plain solver reads from the tokens; None where it is."""
    solved = task.solve_steps(tokens, len(told) - 1)
    wrong = np.argwhere(told != solved)
    if not wrong.size:
        return None
    step, place = wrong[0]
    return f"position {place}, {step} steps: told {task.token(int(told[step, place]))}, the solver says {task.token(int(solved[step, place]))}"
