"""Measures of continual learning: a matrix by hand, Avalanche's numbers by its own definitions, intervals that hold, the matrix of a run's validation."""
import dataclasses
import json

import numpy as np
import pytest

from sleepnet import methods, tasks
from sleepnet.errors import UsageError
from sleepnet.eval import continual
from sleepnet.pictures import png
from sleepnet.study import report
from sleepnet.study.report import kept, nights
from studies import outcome, spec

R = np.array([[0.8, 0.1, 0.2], [0.9, 0.7, 0.3], [0.5, 0.6, 1.0]])
BEFORE, JOINT = np.array([0.0, 0.05, 0.1]), np.array([0.9, 0.9, 0.9])


def test_a_matrix_by_hand():
    found = continual.measures(R, before=BEFORE, joint=JOINT)
    assert found == pytest.approx({
        "ACC": 2.1 / 3, "BWT": ((0.5 - 0.8) + (0.6 - 0.7)) / 2, "FWT": ((0.1 - 0.05) + (0.3 - 0.1)) / 2, "forgetting": ((0.9 - 0.5) + (0.7 - 0.6)) / 2,
        "intransigence": (0.1 + 0.2 - 0.1) / 3, "anytime": (0.8 + 0.8 + 0.7) / 3,
    })  # fmt: skip
    assert set(found) == set(continual.SOURCES)
    assert set(continual.measures(R)) == {"ACC", "BWT", "forgetting", "anytime"} and continual.measures([[0.4]]) == {"ACC": 0.4, "anytime": 0.4}
    stacked = continual.measures(np.stack([R, R.T]))
    assert stacked["BWT"].tolist() == pytest.approx([continual.measures(each)["BWT"] for each in (R, R.T)])


def test_avalanches_numbers():
    """Its forgetting of a day is the value right after it less the last one; its BWT the negative; averaged over days but the last."""
    generator = np.random.default_rng(0)
    for T in (2, 5):
        matrix = generator.random((T, T))
        theirs = np.mean([matrix[j, j] - matrix[-1, j] for j in range(T - 1)])
        ours = continual.measures(matrix)
        assert ours["BWT"] == pytest.approx(-theirs) and ours["forgetting"] >= theirs - 1e-12


def test_intervals_hold_what_is_true():
    """Of matrices drawn around a known one: the interval of ACC and BWT holds the truth about as often as it says."""
    truth, generator, hits = continual.measures(R), np.random.default_rng(1), {"ACC": 0, "BWT": 0}
    for trial in range(100):
        drawn = generator.binomial(60, R) / 60
        for name, (value, low, high) in continual.intervals(drawn, 60, resamples=200, seed=trial).items():
            assert low <= value <= high
            if name in hits:
                hits[name] += low <= truth[name] <= high
    assert all(88 <= held <= 100 for held in hits.values()), hits
    wide, narrow = (continual.intervals(R, answers)["ACC"] for answers in (20, 2000))
    assert narrow[2] - narrow[1] < (wide[2] - wide[1]) / 5
    runs = continual.over_runs([continual.measures(R, before=BEFORE), continual.measures(R / 2)])
    assert runs["ACC"] == pytest.approx((0.525, 0.35, 0.7)) and "FWT" not in runs


def test_the_matrix_of_a_runs_validation(tmp_path):
    lines = [{"step": 10 * i, "split": "validation", **{f"exact_accuracy_day{j}": row[j - 1] for j in (1, 2, 3)}} for i, row in enumerate([BEFORE, *R])]
    lines[2:2] = [{**lines[2], "exact_accuracy_day1": 0.0}, {"step": 20, "split": "train", "loss": 1.0}, {"step": 15, "split": "validation", "exact_accuracy_day1": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    matrix, before = continual.of_metrics(tmp_path / "metrics.jsonl", 10)
    np.testing.assert_array_equal(matrix, R)
    np.testing.assert_array_equal(before, BEFORE)
    with pytest.raises(UsageError, match="no validation of all 3 days at step 15: set train.eval_every to 15"):
        continual.of_metrics(tmp_path / "metrics.jsonl", 15)
    with pytest.raises(UsageError, match="graded by day"):
        continual.of_curve([{"step": 10}], 10)


def test_its_picture_has_every_number():
    figure = continual.picture(R, before=BEFORE, title="kept")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["0", ".05", ".10", ".80", ".10", ".20", ".90", ".70", ".30", ".50", ".60", "1"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["before", "after day 1", "after day 2", "after day 3"] and png(figure, 50)[:4] == b"\x89PNG"


def test_what_outlives_a_day():
    """Examples that are replayed, four bytes a token; F of what may change."""
    stream = {"kind": "stream", "days": 3, "facts": 4, "links": 0, "digits": 2, "window": 32, "questions": 2, "told": "nothing", "kept": 5}
    told, replayed = (tasks.get("days", **stream, **more) for more in ({}, {"replay": 10}))
    plain, anchored = methods.get("fine_tuning", learns="questions"), methods.get("fine_tuning", learns="questions", anchor=1.0)
    assert plain.keeps(told, 100) == 0 and plain.keeps(replayed, 100) == 2 * 5 * 4 * (2 * 6) and anchored.keeps(replayed, 100) == plain.keeps(replayed, 100) + 400
    read = dataclasses.replace(replayed, told="today")  # of which text it learns no question, and of questions no text
    assert plain.keeps(read, 100) == plain.keeps(replayed, 100) and methods.get("fine_tuning").keeps(read, 100) == 4 * 32 * 5 * 2


@pytest.mark.parametrize("arguments, message", [
    ({"R": [[0.5, 0.5]]}, "R has 1 rows and 2 columns"), ({"R": [[1.5]]}, "R must be accuracies from 0 to 1"), ({"R": [0.5]}, "at least 2 axes"),
    ({"R": R, "before": [0.1]}, "before has 1 days, R has 3"), ({"R": [[float("nan")]]}, "accuracies from 0 to 1"),
])  # fmt: skip
def test_what_is_no_matrix_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        continual.measures(**arguments)


def test_a_studys_phases_and_tests_are_such_a_matrix():
    """Where an arm's phases have tests of their names; the table is of these, whatever other phases and tests there are."""
    first, names = dict(name="base", overrides={"train.steps": 50}), ("one", "two", "three")
    days = [dict(name=name, overrides={"train.steps": 20}) for name in names]
    tests = [dict(name="other", task={"arguments.hops": 1}, examples=8), *(dict(name=name, task={"arguments.hops": at}, examples=8) for at, name in enumerate(names, 2))]
    study = spec([dict(name="life", label="", phases=[first, *days]), dict(name="short", label="", phases=[first])], tests=tests)
    runs = {upto: outcome(study, "life", 0, 0.5, upto=upto) for upto in (1, 2, 3)} | {4: outcome(study, "life", 0, 0.5)}
    for upto, run in runs.items():
        for j, name in enumerate(names):
            run.tests[name]["rows"][0]["exact_accuracy"] = float((BEFORE if upto == 1 else R[upto - 2])[j])
    found, inner = [runs[4]], [runs[1], runs[2], runs[3]]
    table = kept.tables(study, found, inner)[0]
    assert table.headers == ("arm", "seeds", "ACC", "BWT", "FWT", "forgetting", "anytime")
    want = continual.measures(R, before=BEFORE)
    assert [row[:2] for row in table.rows] == [("life", "1")] and [cell[:6].strip(" [") for cell in table.rows[0][2:]] == [f"{want[name]:.3f}" for name in table.headers[2:]]
    assert "Chaudhry" in table.note and not kept.tables(study, found, inner[:2])


def test_a_run_that_lived_through_days_has_one_too():
    """From its looks at the validation split, one at each day's end; and a picture."""
    study = spec([dict(name="life", label="", overrides={"train.steps": 30, "train.eval_every": 10, "train.eval_examples": 60})])
    run = outcome(study, "life", 0, 0.5)
    run.curve[:] = [{**run.curve[0], "step": 10 * i, **{f"exact_accuracy_day{j}": value for j, value in enumerate(row, 1)}} for i, row in enumerate(R, 1)]
    (table,) = kept.tables(study, [run], [])
    assert table.rows[0][2].startswith(f"{R[-1].mean():.3f} [") and list(kept.figures(study, [run])) == ["kept_by_life"]
    text = report.markdown(study, [run], [], ["kept_by_life"])
    assert "## What is kept" in text and "Accuracy of life on each day after each day" in text
    (cost,) = nights.tables(study, [run])
    assert cost.rows == [("life", f"{run.flops / 3:.2e}", "–", "0")] and "## What a day costs" in text
    run.config["adapters"].update(kind="low_rank", names="kernel")
    run.result["trained_parameters"] = 300
    assert nights.tables(study, [run])[0].rows[0][2:] == ("100", "1,200")
    run.config["method"].update(name="tuned", arguments={"fresh": True})
    assert nights.sizes(run, 3) == (900, 0)  # a LoRA of each day's own
    model = run.config["model"]
    run.config["adapters"].update(kind="sparse", names="")
    model["sparse"]["count"] = 3
    run.config["method"].update(name="seta", arguments={})
    run.curve[-1]["grown"] = 0.5
    n = 2 * model["width"] * (3 * model["mlp_width"] + 2 * model["heads"] * model["head_dim"])  # gate, up and down, q and v of both blocks
    assert nights.sizes(run, 3) == (n // 2 + 3 * 3 * (model["width"] + 1), 4 * n)
    run.curve.pop()
    assert not nights.tables(study, [run]) and not kept.tables(study, [run], []) and not kept.figures(study, [run])
