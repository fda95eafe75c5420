"""What a report says of looks that methods tell more at: damage where half is forgotten, and hints."""
import pytest

from sleepnet.study import report
from sleepnet.study.report import looked
from studies import outcome, spec

ARMS = [dict(name=name, label="", overrides={"train.steps": 50}) for name in ("kind", "harsh", "plain", "gives")]
LOOKS = [(0, 0.8, 0.6, 0.9), (2, 0.6, 0.55, 0.85), (4, 0.2, 0.35, 0.95)]


def studied():
    study = spec(ARMS, seeds=(0, 1))
    runs = {(arm["name"], seed): outcome(study, arm["name"], seed, 0.5) for arm in ARMS for seed in (0, 1)}
    for name, seed in (("kind", 0), ("kind", 1), ("harsh", 0)):
        told = [dict(zip(("step", "forget_exact", "near_exact", "far_exact"), look), near_kl=0.0, far_asked=9) for look in LOOKS]
        if name == "kind" and seed:
            told[2]["near_exact"] = 0.55
        runs[name, seed].curve[:] = told if name == "kind" else told[:2]
    runs["gives", 0].curve[:] = [{"step": 0, "learned_accuracy": 0.1, "regret": 0.9}, {"step": 9, "learned_accuracy": 0.5, "regret": 0.25, "never_accuracy": 0.4}]
    return study, list(runs.values())


def test_damage_stands_where_half_is_gone():
    """Half of .8 is reached midway from .6 to .2: near is midway from .55 to .35 with one seed and .55 with the other, far midway from .85 to .95."""
    study, runs = studied()
    lost, hints = looked.tables(study, runs)
    assert lost.rows == [("kind", "2", "0.750 [0.750–0.750]", f"{(0.15 + 0.05) / 2:.3f} [0.050–0.150]", "0.000 [0.000–0.000]"), ("harsh", "1", "0.250", "–", "–")]
    assert hints.rows == [("gives", "1", "0.400", "0.500", "–", "–", "–", "0.250", "–")]
    said = report.markdown(study, runs, [], [])
    assert "## Damage where 0.5 is forgotten" in said and "## Hints given" in said


def test_runs_that_tell_nothing_have_no_table():
    study, runs = studied()
    assert looked.tables(study, [run for run in runs if run.arm == "plain"]) == []
    late = next(run for run in runs if (run.arm, run.seed) == ("harsh", 0))
    late.curve[:] = late.curve[1:]  # no look from before the first step
    assert looked.tables(study, [late]) == []


@pytest.mark.parametrize("far", [0, None])
def test_nothing_far_was_asked(far):
    study, runs = studied()
    first = next(run for run in runs if (run.arm, run.seed) == ("kind", 0))
    for look in first.curve:
        look["far_asked"] = far
    assert looked.tables(study, [first])[0].rows[0][-2:] == ("0.150", "–")
