"""Tables of hints: of a study's folder, of one run's questions; what is refused."""
import json

import numpy as np
import pytest
from mem_pi_test import SEEN

from sleepnet.errors import UsageError
from sleepnet.eval import hints, hints_plot
from sleepnet.methods.rl import gates


def outcome(arm, seed, looks, **arguments):
    told = {name: 0.25 for name in gates.NAMES}
    curve = [{"step": step} | told | {"regret": regret} for step, regret in looks]
    return {"arm": arm, "seed": seed, "config": {"method": {"arguments": arguments}}, "curve": curve}


def test_a_folder_becomes_a_table_by_cost_and_regret(tmp_path):
    for arm, seed, regret, arguments in (("late", 0, 0.1, {"cost": 0.2}), ("worse", 0, 0.5, {}), ("better", 1, 0.2, {}), ("better", 0, 0.3, {})):
        (tmp_path / f"{arm}-seed{seed}.json").write_text(json.dumps(outcome(arm, seed, [(0, 0.9), (9, regret)], **arguments)))
    (tmp_path / "sft-seed0.json").write_text(json.dumps({"arm": "sft", "seed": 0, "config": {}, "curve": [{"step": 5}]}))
    lines = hints.table(hints.read(tmp_path))
    assert lines[2:] == [
        "| `better` | 0.05 | 0.250, 0.250 | 0.250, 0.250 | 0.250, 0.250 | 0.250, 0.250 | 0.250, 0.250 | 0.300, 0.200 | 0.250, 0.250 |",
        "| `worse` | 0.05 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | 0.500 | 0.250 |", "| `late` | 0.2 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | 0.100 | 0.250 |",
    ]  # fmt: skip


def test_arms_that_differ_in_c_alone_are_drawn_as_a_line(tmp_path):
    for arm, cost in (("score05", 0.05), ("score1", 0.1), ("once", 0.05)):
        (tmp_path / f"{arm}-seed0.json").write_text(json.dumps(outcome(arm, 0, [(0, 0.9), (9, cost)], cost=cost)))
    (tmp_path / "score1-seed1.json").write_text(json.dumps(outcome("score1", 1, [(0, 0.9), (9, 0.3)], cost=0.1)))
    assert hints.plot(hints.read(tmp_path), tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    regret = hints_plot.draw(hints.read(tmp_path)).axes[1]
    lines = {line.get_label(): line for line in regret.get_lines() if not line.get_label().startswith("_")}
    np.testing.assert_allclose(lines["score"].get_xydata(), [[0.05, 0.05], [0.1, (0.1 + 0.3) / 2]])
    assert [*lines] == ["score"] and sorted(y for line in regret.get_lines() if line not in lines.values() for y in line.get_ydata()) == [0.05, 0.1, 0.3]
    with pytest.raises(UsageError, match="must end in .png"):
        hints.plot(hints.read(tmp_path), tmp_path / "costs.jpg")
    (tmp_path / "score7-seed0.json").write_text(json.dumps(outcome("score7", 0, [(0, 0.9), (9, 0.3)], cost=0.1)))
    with pytest.raises(UsageError, match="score1 and score7 as one form, and both have c = 0.1"):
        hints_plot.draw(hints.read(tmp_path))
    for name in ("score7-seed0", "score1-seed0", "score1-seed1"):
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(UsageError, match="no two arms differ in it alone"):
        hints.plot(hints.read(tmp_path), tmp_path / "costs.png")
    for arguments, message in ((["--workdir=run", "--plot=costs.png"], "--plot draws a study's arms"), ([f"--outcomes={tmp_path}", "--workdir=run"], "give one of")):
        hints.FLAGS(["hints", *arguments])
        with pytest.raises(UsageError, match=message):
            hints.main([])
        hints.FLAGS.unparse_flags()


def test_questions_by_difficulty():
    lines = hints.by_difficulty(SEEN, np.array([1, 2, 1, 2]))
    assert lines[2:] == [
        "| all | 4 | 0.500 | 0.750 | 1.000 | 0.250 | 0.750 | 0.250 | 0.500 |", "| 1 | 2 | 0.000 | 1.000 | 1.000 | 0.500 | 0.500 | 0.500 | 0.500 |", "| 2 | 2 | 1.000 | 0.500 | 1.000 | 0.000 | 1.000 | 0.000 | 0.500 |",
    ]  # fmt: skip
    assert hints.policies(gates.told(SEEN, 0.1))[2:4] == ["| `never` | 0.500 | 0.000 | 0.500 |", "| `always` | 0.750 | 1.000 | 0.625 |"]


def test_what_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished run that gives hints"):
        hints.read(tmp_path)
    spoilt = outcome("a", 0, [(0, 0.1)])
    del spoilt["config"]
    (tmp_path / "a-seed0.json").write_text(json.dumps(spoilt))
    with pytest.raises(UsageError, match="a-seed0.json does not tell 'config'"):
        hints.read(tmp_path)
    with pytest.raises(UsageError, match="nowhere.*holds no run"):
        hints.graded(tmp_path / "nowhere", 8)
