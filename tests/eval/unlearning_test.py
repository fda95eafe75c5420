"""Damage at equal forgetting: by hand, where it is never reached, and of a study's folder."""
import json
import math

import numpy as np
import pytest

from sleepnet.errors import UsageError
from sleepnet.eval import unlearning

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
