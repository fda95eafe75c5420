"""What guessing scores on gsm, counted over a sample of problems. The same sample chooses the commonest answer: if anything, it
scores a fraction of a percent too much."""
from collections import Counter
from collections.abc import Callable
from typing import Any

from sleepnet.tasks.gsm.problem import Problem


def guesses(problems: dict[tuple[int, ...], list[Problem]], axes: tuple[str, ...], limit: int) -> dict[str, Any]:
    """Returns the baselines of a task, as `Task.baselines` has them.

    `problems` are samples of one size per cell, a cell being a value of each difficulty; all cells are as frequent.
    """
    answers = {cell: [problem.answer for problem in sample] for cell, sample in problems.items()}
    common = {cell: Counter(found).most_common(1)[0] for cell, found in answers.items()}
    always = Counter(answer for found in answers.values() for answer in found).most_common(1)[0][0]
    return {
        name: {"meaning": meaning, **_scores({cell: right(cell) for cell in problems}, axes)}
        for name, meaning, right in (
            ("chance", f"Any number of 0 … {limit}, alike.", lambda cell: 1 / (limit + 1)),
            ("constant", f"The commonest answer, always: {always}.", lambda cell: answers[cell].count(always) / len(answers[cell])),
            (
                "majority", "The commonest answer among problems of as many ops, forward or reverse as the problem is.",
                lambda cell: common[cell][1] / len(answers[cell]),
            ),
            ("in_text", "Any number of the sentences that the answer hangs on, alike, once these are found: with no operation that is the task.", lambda cell: _told(problems[cell])),
        )
    }


def _scores(score: dict[tuple[int, ...], float], axes: tuple[str, ...]) -> dict[str, Any]:
    """Returns the mean over all cells, and by each axis."""

    def mean(wanted: Callable[[tuple[int, ...]], bool]) -> dict[str, float]:
        some = [value for cell, value in score.items() if wanted(cell)]
        return dict.fromkeys(("label", "exact"), sum(some) / len(some))

    by = {
        axis: {value: mean(lambda cell, at=at, value=value: cell[at] == value) for value in sorted({cell[at] for cell in score})}
        for at, axis in enumerate(axes)
    }
    return {**mean(lambda cell: True), "by": by}


def _told(problems: list[Problem]) -> float:
    """Returns how often a number of the text is the answer."""
    shares = [numbers.count(problem.answer) / len(numbers) for problem in problems for numbers in [problem.numbers()]]
    return sum(shares) / len(shares)
