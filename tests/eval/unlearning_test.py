"""Damage at equal forgetting: by hand, where it is never reached, and of a study's folder."""
import json
import math

import numpy as np
import pytest
from scipy import stats

from sleepnet.errors import UsageError
from sleepnet.eval import unlearning
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
    assert lines[2:] == ["| `better` | 1.00, 0.50 | 0.050, 0.050 | 0.450, – |", "| `worse` | 1.00 | 0.150 | 0.550 |"]


def test_what_is_far_has_a_table_of_its_own_and_arms_are_compared_seed_by_seed():
    told = lambda far: [{**look, "far_exact": far - 0.1 * at * by, "far_asked": 9} for at, look in enumerate(looks())]
    found = {}
    for arm, by in (("kind", 1.0), ("harsh", 2.0)):
        found[arm] = {seed: unlearning.curves(told(0.7 + seed / 10)) for seed in (0, 1)}
    assert found["kind"][1]["far"] == pytest.approx(0.8) and found["kind"][0]["near"] == pytest.approx(0.6)
    found["harsh"][2] = unlearning.curves(told(0.9))  # a seed that the other does not have is not compared
    np.testing.assert_allclose(found["harsh"][0]["damage_far"], [0, 0.2, 0.4, 0.6])
    lines = unlearning.table(found, [0.25], "far", "kind")
    assert lines[0] == "| arm | most forgotten | damage at 0.25 | above `kind` at 0.25 |"
    assert lines[2:] == ["| `kind` | 1.00, 1.00 | 0.100, 0.100 |  |", "| `harsh` | 1.00, 1.00, 1.00 | 0.200, 0.200, 0.200 | +0.100 (+0.100 … +0.100) |"]
    assert "damage_far" not in unlearning.curves([{**look, "far_exact": 0.0, "far_asked": 0} for look in looks()])


def test_the_command_prints_both_and_draws(tmp_path, capsys):
    for seed in (0, 1):
        curve = [{**look, "far_exact": 0.5, "far_asked": 9} for look in looks()]
        (tmp_path / f"a-seed{seed}.json").write_text(json.dumps({"arm": "a", "seed": seed, "curve": curve}))
    unlearning.FLAGS(["unlearning", f"--outcomes={tmp_path}", f"--plot={tmp_path / 'damage.png'}", "--arms=a", "--beside=a"])
    unlearning.main([])
    said = capsys.readouterr().out
    assert "near, of which before the first step were right 0.600, 0.600" in said and "far, of which before the first step were right 0.500, 0.500" in said
    assert (tmp_path / "damage.png").read_bytes().startswith(b"\x89PNG")
    for wrong, message in (("--beside=b", "has no arm 'b' that unlearns"), ("--arms=aa", "did you mean 'a'"), ("--plot=damage.txt", "must end in .png")):
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
