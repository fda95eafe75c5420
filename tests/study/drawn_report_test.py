"""What a report says of chains that were drawn."""
import numpy as np
import pytest

from sleepnet.eval import pass_at_k
from sleepnet.study import report
from sleepnet.study.report import drawn
from studies import outcome, spec

BEFORE = {1: [0, 3, 0, 64], 2: [0, 0, 0, 1]}  # problems of each difficulty → right ones of 64 chains
AGAIN = {1: [0, 4, 2, 64], 2: [0, 0, 1, 0]}  # the same start, drawn again
AFTER = {1: [32, 0, 64, 64], 2: [0, 16, 0, 0]}
CHAINS = [dict(name="learns", label="", phases=[dict(name="one", start="runs/base", overrides={"train.steps": 50}), dict(name="two", overrides={"train.steps": 20})])]


def rows(right, run, other=None):
    """Of each difficulty and of all, as the runner has them; another axis that splits nothing."""
    whole = lambda counts: [count for each in counts.values() for count in each]
    of = lambda counts: {("all", None): whole(counts), **{("ops", value): each for value, each in counts.items()}, ("reverse", 0): whole(counts)}
    chosen = of(other) if other else {}
    return [
        {**run.rows[0], "axis": axis, "value": value, **pass_at_k.told(np.array(counts), 64, keep=True), **({pass_at_k.OTHER_DRAW: chosen[axis, value]} if other else {})}
        for (axis, value), counts in of(right).items()
    ]


def studied(seed=0, chains=CHAINS):
    study = spec(chains, seeds=(0, 1))
    first, last = outcome(study, "learns", seed, 0.5, upto=1), outcome(study, "learns", seed, 0.5)
    first.begun[:], last.begun[:] = rows(BEFORE, last, AGAIN), rows(AFTER, last, AFTER)
    first.rows[:] = last.rows[:] = rows(AFTER, last)
    return study, last, first


def test_chains_by_difficulty_and_what_they_started_from():
    """One start of two seeds is one; what differs is told as a range."""
    (study, last, first), (_, other, begun) = studied(), studied(1)
    other.rows[:] = rows({**AFTER, 1: [0, 0, 0, 0]}, other)
    every, _ = drawn.tables(study, [last, other], [first, begun])
    assert [row[:3] for row in every.rows] == [*[("before (runs/base)", words, "1") for words in ("all", "ops 1", "ops 2")], *[("learns", words, "2") for words in ("all", "ops 1", "ops 2")]]
    assert every.rows[1][3] == f"{67 / 256:.3f}" and every.rows[1][-1] == "0.500" and every.rows[4][3] == f"{80 / 256:.3f} [0.000–{160 / 256:.3f}]" and every.rows[4][-1] == "0.375 [0.000–0.750]"


def test_what_was_never_solved_is_that_of_the_first_start_in_its_other_draw():
    """Not of the second phase's own, which began where the first had ended; beside it what the start has by luck."""
    study, last, first = studied()
    (_, table) = drawn.tables(study, [last], [first])
    assert [row[:4] for row in table.rows[3:]] == [("learns", "all", "4", f"{(32 + 16) / 64 / 4:.3f}"), ("learns", "ops 1", "1", "0.500"), ("learns", "ops 2", "3", f"{16 / 64 / 3:.3f}")]
    assert [row[:4] for row in table.rows[:3]] == [("before (runs/base)", "all", "4", f"{1 / 64 / 4:.3f}"), ("before (runs/base)", "ops 1", "1", "0.000"), ("before (runs/base)", "ops 2", "3", f"{1 / 64 / 3:.3f}")]
    assert table.rows[5][-1] == "0.333" and table.rows[5][4] == f"{pass_at_k.estimate(64, 16, 4) / 3:.3f}"
    assert "## Of what was never solved before" in report.markdown(study, [last], [], [], [first])


def test_a_first_phase_that_does_not_tell_is_not_replaced_by_the_second():
    study, last, first = studied()
    for row in first.begun:
        del row[pass_at_k.OTHER_DRAW]
    assert [table.title for table in drawn.tables(study, [last], [first])] == ["Chains drawn"] == [table.title for table in drawn.tables(study, [last], [])]
    before = drawn.tables(study, [last], [first])[0].rows[0]
    assert before[:2] == ("before (runs/base)", "all") and "before" not in drawn.tables(study, [last], [])[0].rows[0][0]
    for row in first.begun:  # shown right chains first: none was drawn
        del row["pass_at"]
    assert "before" not in drawn.tables(study, [last], [first])[0].rows[0][0]
    assert drawn.tables(study, [outcome(study, "learns", 0, 0.5)], [first]) == []


def test_a_start_that_solved_all_leaves_nothing():
    study, last, first = studied()
    (row,) = [row for row in rows({1: [1, 1], 2: [0, 1]}, last, {1: [1, 1], 2: [1, 2]}) if row["axis"] == "all"]
    assert drawn.of_unsolved(row, row) is None and drawn.of_unsolved(last.rows[0], row) is None and drawn.of_unsolved(None, row) is None


@pytest.mark.parametrize("keep", [False, True])
def test_counts_are_kept_where_answers_are(keep):
    assert pass_at_k.told(np.array([2, 0]), 4, keep=keep).get("right_chains") == ([2, 0] if keep else None)
