"""Damage at equal forgetting: by hand, where it is never reached, and of a study's folder."""
import json
import math

import numpy as np
import pytest
from scipy import stats

from sleepnet.errors import UsageError
from sleepnet.eval import unlearning, unlearning_plot
from sleepnet.eval.intervals import mean_difference

LOOKS = [(0, 0.8, 0.6, 0.0), (2, 0.6, 0.55, 0.1), (4, 0.4, 0.3, 0.2), (6, 0.0, 0.0, 2.0)]


def looks(rows=LOOKS):
    return [dict(zip(("step", "forget_exact", "near_exact", "near_kl"), row)) for row in rows]


def test_damage_is_read_where_so_much_is_gone():
    curve = unlearning.curves(looks())
    np.testing.assert_allclose(curve["forgotten"], [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(curve["damage"], [0, 0.05, 0.3, 0.6])
    at = lambda level: unlearning.at_level(curve["forgotten"], curve["damage"], level)
    assert at(0.25) == pytest.approx(0.05) and at(0.375) == pytest.approx(0.175) and at(0.75) == pytest.approx(0.45) and at(1.0) == pytest.approx(0.6)
    back = np.array([0, 0.5, 0.2, 0.9])  # the first time counts
    assert unlearning.at_level(back, np.array([0.0, 0.1, 0.9, 0.9]), 0.4) == pytest.approx(0.08) and math.isnan(unlearning.at_level(back, back, 0.95))


def test_a_folder_becomes_a_table_least_damage_on_top(tmp_path):
    worse = [(step, forget, near - 0.1 * (step > 0), kl) for step, forget, near, kl in LOOKS]
    for arm, seed, rows in (("worse", 0, worse), ("better", 0, LOOKS), ("better", 1, LOOKS[:3])):
        told = {"arm": arm, "seed": seed, "curve": looks(rows)}
        (tmp_path / f"{arm}-seed{seed}.json").write_text(json.dumps(told))
    (tmp_path / "rl-seed0.json").write_text(json.dumps({"arm": "rl", "seed": 0, "curve": [{"step": 5, "exact_accuracy": 0.5}]}))
    lines = unlearning.table(unlearning.read(tmp_path), [0.25, 0.75])
    assert lines[2:] == ["| `better` | 1.00, 0.50 | 0.050, 0.050 | 0.450, – | 0.600, 0.300 |", "| `worse` | 1.00 | 0.150 | 0.550 | 0.700 |"]


def told(far, by=1.0):
    """Looks of which what is far falls by .1 · `by` between two."""
    return [{**look, "far_exact": far - 0.1 * at * by, "far_asked": 9} for at, look in enumerate(looks())]


def test_what_is_far_has_a_table_of_its_own_and_arms_are_compared_seed_by_seed():
    found = {"kind": {seed: unlearning.curves(told(0.7 + seed / 10, 1 + seed)) for seed in (0, 1)}, "harsh": {seed: unlearning.curves(told(0.7, 2 + seed)) for seed in (0, 1, 2)}}
    assert found["kind"][1]["far"] == pytest.approx(0.8) and found["kind"][0]["near"] == pytest.approx(0.6) and found["kind"][0]["forget"] == pytest.approx(0.8)
    np.testing.assert_allclose(found["harsh"][0]["damage_far"], [0, 0.2, 0.4, 0.6])
    lines = unlearning.table(found, [0.25], "far", "kind")
    assert lines[0] == "| arm | most forgotten | damage at 0.25 | at the end | above `kind` at 0.25 |"
    # .2 − .1 of seed 0 and .3 − .2 of seed 1 are alike; seed 2 is in one arm alone
    assert lines[2:] == [
        "| `kind` | 1.00, 1.00 | 0.100, 0.200 | 0.300, 0.600 |  |", "| `harsh` | 1.00, 1.00, 1.00 | 0.200, 0.300, 0.400 | 0.600, 0.900, 1.200 | +0.100 (+0.100 … +0.100) |",
    ]  # fmt: skip
    alone = unlearning.curves([{**look, "far_exact": 0.0, "far_asked": 0, "near_asked": 0} for look in looks()])
    assert not {"damage_far", "damage", "near", "far"} & {*alone}


def test_arms_that_were_asked_other_things_are_no_company():
    """By what was right before the first step, seed by seed; an outcome of before there was anything far goes with those that had as much right of the rest."""
    other = [{**look, "near_exact": look["near_exact"] / 2} for look in told(0.7)]
    found = {"a": {0: unlearning.curves(told(0.7)), 1: unlearning.curves(told(0.8))}, "swapped": {0: unlearning.curves(other)}, "b": {1: unlearning.curves(told(0.8, 2.0))}, "old": {0: unlearning.curves(looks())}}
    assert [[*group] for group in unlearning.alike(found)] == [["a", "b", "old"], ["swapped"]]


def test_a_picture_s_lines_are_means_over_seeds_as_far_as_all_go():
    found = {"a": {0: unlearning.curves(told(0.7)), 1: unlearning.curves(told(0.7, 3.0)[:3])}, "b": {0: unlearning.curves(looks())}}
    near, far = unlearning_plot.draw(found).axes
    lines = {panel: {line.get_label(): line for line in panel.get_lines() if not line.get_label().startswith("_")} for panel in (near, far)}
    assert [*lines[near]] == ["a", "b"] and [*lines[far]] == ["a"]
    np.testing.assert_allclose(lines[far]["a"].get_xydata(), [[0, 0], [0.25, 0.2], [0.5, 0.4]], atol=1e-12)
    np.testing.assert_allclose(lines[near]["b"].get_xydata(), [[0, 0], [0.25, 0.05], [0.5, 0.3], [1, 0.6]], atol=1e-12)


def test_the_command_prints_both_and_draws(tmp_path, capsys):
    for arm, seed, curve in (("a", 0, told(0.5)), ("a", 1, told(0.6)), ("b", 1, told(0.6)), ("b", 2, looks()), ("c", 0, looks())):
        (tmp_path / f"{arm}-seed{seed}.json").write_text(json.dumps({"arm": arm, "seed": seed, "curve": curve}))
    unlearning.FLAGS(["unlearning", f"--outcomes={tmp_path}", f"--plot={tmp_path / 'damage.png'}", "--arms=b", "--beside=a"])
    unlearning.main([])
    near, far = capsys.readouterr().out.split("The rest: ")[1:]
    assert near.startswith("near, of which before the first step were right 0.600 (seed 0), 0.600 (seed 1), 0.600 (seed 2)") and far.startswith("far, of which before the first step were right 0.500 (seed 0), 0.600 (seed 1)")
    assert all("`a`" in table and "`b`" in table and "`c`" not in table for table in (near, far)) and "| `b` | 1.00 |" in far  # its other seed was not asked anything far
    assert all("above `a` at 0.5" in table for table in (near, far))
    assert (tmp_path / "damage.png").read_bytes().startswith(b"\x89PNG")
    for wrong, message in (("--beside=d", "has no arm 'd' that unlearns"), ("--arms=aa", "did you mean 'a'"), ("--plot=damage.txt", "must end in .png")):
        unlearning.FLAGS.unparse_flags()
        unlearning.FLAGS(["unlearning", f"--outcomes={tmp_path}", "--arms=a", "--beside=a", wrong])
        with pytest.raises(UsageError, match=message):
            unlearning.main([])


def test_the_interval_of_a_mean_difference_is_student_s():
    values = [0.1, 0.3, -0.05, 0.2, 0.15]
    mean, low, high = mean_difference(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert mean_difference([0.5]) == (0.5, -math.inf, math.inf) and all(map(math.isnan, mean_difference([0.1, math.nan]) + mean_difference([])))


def test_what_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished run that unlearns"):
        unlearning.read(tmp_path)
    with pytest.raises(UsageError, match="begin before the first step"):
        unlearning.curves(looks(LOOKS[1:]))
    with pytest.raises(UsageError, match="known before the first step"):
        unlearning.curves(looks([(0, 0.0, 0.5, 0.0)]))
    (tmp_path / "a-seed0.json").write_text(json.dumps({"arm": "a", "seed": 0, "curve": [{"step": 0, "forget_exact": 0.5}]}))
    with pytest.raises(UsageError, match="a-seed0.json does not tell 'near_exact'"):
        unlearning.read(tmp_path)
