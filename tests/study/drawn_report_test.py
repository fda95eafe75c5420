"""What a report says of chains that were drawn."""
import numpy as np
import pytest

from sleepnet.eval import pass_at_k
from sleepnet.study import report
from sleepnet.study.report import drawn
from studies import outcome, spec

BEFORE = {1: [0, 3, 0, 64], 2: [0, 0, 0, 1]}  # problems of each difficulty → right ones of 64 chains
AFTER = {1: [32, 0, 64, 64], 2: [0, 16, 0, 0]}
CHAINS = [dict(name="learns", label="", phases=[dict(name="one", start="runs/base", overrides={"train.steps": 50}), dict(name="two", overrides={"train.steps": 20})])]


def rows(right, run, keep=True):
    """Of each difficulty and of all, as the runner has them; another axis that splits nothing."""
    told = lambda axis, value, counts: {**run.rows[0], "axis": axis, "value": value, **pass_at_k.told(np.array(counts), 64, keep=keep)}
    whole = [count for counts in right.values() for count in counts]
    return [told("all", None, whole), *(told("ops", value, counts) for value, counts in right.items()), told("reverse", 0, whole)]


def studied(keep=True):
    study = spec(CHAINS)
    first, last = outcome(study, "learns", 0, 0.5, upto=1), outcome(study, "learns", 0, 0.5)
    first.begun[:], first.rows[:], last.begun[:], last.rows[:] = rows(BEFORE, last, keep), rows(AFTER, last, keep), rows(AFTER, last, keep), rows(AFTER, last, keep)
    return study, last, first


def test_chains_by_difficulty_and_what_they_started_from():
    study, last, first = studied()
    every, _ = drawn.tables(study, [last], [first])
    assert [row[:3] for row in every.rows] == [("before (runs/base)", "all", "1"), ("before (runs/base)", "ops 1", "1"), ("before (runs/base)", "ops 2", "1"),
                                               ("learns", "all", "1"), ("learns", "ops 1", "1"), ("learns", "ops 2", "1")]  # fmt: skip
    assert every.rows[1][3] == f"{67 / 256:.3f}" and every.rows[1][-1] == "0.500" and every.rows[4][3] == f"{160 / 256:.3f}" and every.rows[4][-1] == "0.750"


def test_what_was_never_solved_is_that_of_the_first_start():
    """Not of the second phase's own, which began where the first had ended."""
    study, last, first = studied()
    (_, table) = drawn.tables(study, [last], [first])
    assert [row[1:4] for row in table.rows] == [("all", "5", f"{(32 + 64 + 16) / 64 / 5:.3f}"), ("ops 1", "2", "0.750"), ("ops 2", "3", "0.083")]
    assert table.rows[2][-1] == "0.333" and table.rows[2][4] == f"{pass_at_k.estimate(64, 16, 4) / 3:.3f}"
    assert "## Of what was never solved before" in report.markdown(study, [last], [], [], [first])


def test_outcomes_that_do_not_tell_have_no_such_table():
    study, last, first = studied(keep=False)
    assert [table.title for table in drawn.tables(study, [last], [first])] == ["Chains drawn"]
    assert drawn.of_unsolved(last, first) is None and drawn.of_unsolved(last, None) is None
    none = outcome(study, "learns", 0, 0.5)
    assert drawn.tables(study, [none], []) == []


def test_a_start_that_solved_all_leaves_nothing():
    study, last, first = studied()
    first.begun[:] = rows({1: [1, 1, 1, 1], 2: [0, 1, 1, 1]}, last)
    assert drawn.of_unsolved(last, first, "ops", 1) is None and drawn.of_unsolved(last, first, "ops", 2)["problems"] == 1


@pytest.mark.parametrize("keep", [False, True])
def test_counts_are_kept_where_answers_are(keep):
    assert pass_at_k.told(np.array([2, 0]), 4, keep=keep).get("right_chains") == ([2, 0] if keep else None)
