"""Capacity: laws against scipy's curve_fit and closed forms, held-out errors and bits by hand, what is refused, the command and its pictures."""
import dataclasses
import itertools
import json
import math
import types

import numpy as np
import pytest
import scipy.optimize
from matplotlib.colors import to_hex

from cli_test import call
from eval_pictures_test import clear
from sleepnet.errors import UsageError
from sleepnet.eval.capacity import __main__ as command, pictures, points, report
from sleepnet.eval.capacity.fit import Falls, fit, intervals
from sleepnet.eval.capacity.forms import FORMS
from sleepnet.eval.capacity.held_out import corners, hold_out, verdict

# the forms written once more, plainly; the constants that the points follow, in their order
LAWS = {
    "power": lambda rl, C, alpha, beta, b: C * rl[0] ** alpha * rl[1] ** -beta + b,
    "saturating": lambda rl, kappa, alpha, beta: math.log(10) * (1 - np.exp(-kappa * rl[0] ** alpha * rl[1] ** -beta)),
    "log_linear": lambda rl, a, alpha, beta: a + alpha * np.log(rl[0]) - beta * np.log(rl[1]),
}
TRUE = {"power": (1.5, 0.35, 0.3, 0.1), "saturating": (20.0, 0.9, 0.8), "log_linear": (2.0, 0.25, 0.25)}
RANKS, LENGTHS = (1, 2, 4, 8, 16, 32), (50, 100, 200, 400, 800, 1600)


def made(name, noise=0.02, seeds=5, constants=None):
    """Points on the experiment's grid that follow a form."""
    r, l, seed = (column.ravel() for column in np.meshgrid(RANKS, LENGTHS, range(seeds), indexing="ij"))
    fall = LAWS[name]((r.astype(float), l.astype(float)), *(constants or TRUE[name]))
    return Falls(r.astype(float), l.astype(float), fall + noise * np.random.default_rng(1).standard_normal(len(fall)), seed)


@pytest.fixture(scope="module")
def noisy():
    return {name: made(name) for name in LAWS}


@pytest.fixture(scope="module")
def apart(noisy):
    """form that made the points → form that is fitted → what it predicts."""
    return {name: {form: hold_out(form, have) for form in FORMS} for name, have in noisy.items()}


@pytest.mark.parametrize("name", LAWS)
def test_constants_are_those_of_scipys_curve_fit_and_near_the_truth(noisy, name):
    have = noisy[name]
    found = fit(name, have)
    told, _ = scipy.optimize.curve_fit(LAWS[name], (have.r, have.l), have.fall, p0=TRUE[name])
    assert list(found.constants) == list(FORMS[name].constants)
    assert list(found.constants.values()) == pytest.approx(told, rel=1e-4)
    assert list(found.constants.values()) == pytest.approx(TRUE[name], rel=0.06, abs=0.02)
    assert found.predict(have.r, have.l) == pytest.approx(LAWS[name]((have.r, have.l), *told), abs=1e-5)
    left = have.fall - LAWS[name]((have.r, have.l), *told)
    assert found.r2 == pytest.approx(1 - (left**2).mean() / have.fall.var(), abs=1e-6) and found.error == pytest.approx(math.sqrt((left**2).mean()), rel=1e-6)
    assert found.agreeing == found.starts and found.edges == () and have.noise() == pytest.approx(0.02, rel=0.15)


def test_without_b_the_law_is_the_regression_of_logarithms():
    have = made("power", 0.0, 1, (0.8, 0.4, 0.5, 0.0))
    columns = np.stack([np.ones(len(have)), np.log(have.r), -np.log(have.l)], 1)
    log_C, alpha, beta = np.linalg.lstsq(columns, np.log(have.fall), rcond=None)[0]
    assert list(fit("power", have).constants.values()) == pytest.approx([math.exp(log_C), alpha, beta, 0.0], abs=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_the_forms_are_told_apart_by_what_they_predict(apart, name):
    errors = {form: found.error for form, found in apart[name].items()}
    assert errors[name] == pytest.approx(0.02, rel=0.15) and errors[name] <= min(errors.values()) * 1.001
    assert all(error > 2 * errors[name] for form, error in errors.items() if form != name and (name, form) != ("log_linear", "power"))


@pytest.mark.parametrize("name", ["saturating", "log_linear"])
def test_a_law_that_would_have_to_bend_down_ends_as_its_logarithmic_limit(noisy, name):
    limit, line = fit("power", noisy[name]), fit("log_linear", noisy[name])
    assert limit.edges == ("C",) and limit.constants == {"C": math.inf, "alpha": 0.0, "beta": 0.0, "b": -math.inf}
    assert limit.predict(RANKS, [1600] * 6) == pytest.approx(line.predict(RANKS, [1600] * 6), abs=1e-3) and limit.error == pytest.approx(line.error, rel=1e-5)


def test_a_constant_that_would_go_further_is_named():
    """Where a larger rank learns less, α ends at 0."""
    have = made("log_linear", 0.0, 1, (3.0, -0.1, 0.3))
    assert "alpha" in fit("saturating", have).edges and "alpha" in fit("power", have).edges and fit("log_linear", have).edges == ()


@pytest.mark.parametrize("name", ["power", "saturating"])
def test_slopes_are_the_differences_of_values(name):
    form, x, y = FORMS[name], np.linspace(-1.5, 1.5, 7), np.linspace(1.2, -1.7, 7)
    for theta in ([0.7, 0.5, 0.3, 0.9], [0.7, 0.5, 0.3, 5e-4]) if name == "power" else ([0.2, 0.5, 0.3],):
        for i, slope in enumerate(form.slopes(theta, x, y).T):
            step = 1e-6 * np.eye(len(theta))[i]
            assert slope == pytest.approx((form.value(theta + step, x, y) - form.value(theta - step, x, y)) / 2e-6, abs=1e-4)


# Held out

def line(cells, shifts):
    """One point a cell on ΔL = 1 + .5 ln r − .25 ln ℓ, shifted."""
    r, l = np.array(cells, float).T
    return Falls(r, l, 1 + 0.5 * np.log(r) - 0.25 * np.log(l) + np.array(shifts, float), np.zeros(len(r), int))


def test_held_out_errors_by_hand():
    """Inside the box the line is exact. Outside: .3 off at small-long; .3 and −.4 at large-short; nothing at large-long."""
    inside = list(itertools.product((1, 2, 8), (50, 400)))
    have = line([*inside, (1, 800), (16, 50), (32, 50)], [0] * 6 + [0.3, 0.3, -0.4])
    found = hold_out("log_linear", have)
    assert found.inside.r2 == pytest.approx(1) and list(found.inside.constants.values()) == pytest.approx([1, 0.5, 0.25])
    assert found.corners == pytest.approx({"small r, short l": 0, "small r, long l": 0.3, "large r, short l": math.sqrt((0.09 + 0.16) / 2), "large r, long l": None}, abs=1e-12)
    assert found.points == {"small r, short l": 6, "small r, long l": 1, "large r, short l": 2, "large r, long l": 0}
    assert found.error == pytest.approx(math.sqrt((0.09 + 0.09 + 0.16) / 3))
    outside = have.fall[6:]
    assert found.r2 == pytest.approx(1 - 0.34 / ((outside - outside.mean()) ** 2).sum())


def test_in_the_box_each_cell_is_predicted_from_the_others():
    """Of a regression such an error is e / (1 − h), h the leverage (Allen's PRESS)."""
    inside = list(itertools.product((1, 2, 4, 8), (50, 100, 400)))
    have = line([*inside, (16, 800)], 0.1 * np.random.default_rng(3).standard_normal(13))
    X = np.stack([np.ones(12), np.log(have.r[:12]), np.log(have.l[:12])], 1)
    hat = X @ np.linalg.solve(X.T @ X, X.T)
    left = (np.eye(12) - hat) @ have.fall[:12] / (1 - np.diag(hat))
    assert hold_out("log_linear", have).corners["small r, short l"] == pytest.approx(math.sqrt((left**2).mean()))


def at_corners(*errors):
    return types.SimpleNamespace(corners=dict(zip(corners(line([(1, 1)], [0])), errors)))


@pytest.mark.parametrize("power, saturating, falsified, worse", [
    ((0.5, 0.5, 0.5, 0.1), (0.1, 0.1, 0.1, 0.1), True, 3),
    ((0.5, 0.5, 0.2, 0.1), (0.1, 0.1, 0.1, 0.1), False, 2),  # twice is not more than twice
    ((0.5, 0.5, None, 0.1), (0.1, 0.1, None, 0.1), None, 2),
    ((0.5, 0.1, None, 0.1), (0.1, 0.1, None, 0.1), False, 1),
    ((0.5, 0.5, 0.5, None), (0.1, 0.1, 0.1, None), True, 3),
    ((0.5, 0.5, 0.5, 0.0), (0.0, 0.1, 0.1, 0.0), True, 3),
])
def test_the_verdict_counts_corners(power, saturating, falsified, worse):
    said = verdict(at_corners(*power), at_corners(*saturating))
    assert (said.falsified, len(said.worse)) == (falsified, worse)
    lead = {True: "The law is falsified: ", False: "The law is not falsified: ", None: "Undecided: "}[falsified]
    assert said.sentence.startswith(f"{lead}its held-out error is more than 2 × the saturating form's at {worse} of {4 - power.count(None)} corners")
    assert ("large r, short l" in said.sentence) == (power[2] is None)


def test_made_up_points_that_saturate_falsify_the_law(apart):
    said = {name: verdict(found["power"], found["saturating"]) for name, found in apart.items()}
    assert {name: one.falsified for name, one in said.items()} == {"power": False, "saturating": True, "log_linear": False}


# Intervals

def test_intervals_hold_the_truth_and_depend_on_the_seed_alone(noisy):
    have = noisy["saturating"]
    best = fit("saturating", have)
    found = intervals(best, have, 60, seed=7)
    assert found.over == "seeds" and (found.fits, found.failed) == (60, 0)
    assert all(low <= best.constants[name] <= high and high - low < 0.1 * high for name, (low, high) in found.constants.items())
    assert found == intervals(best, have, 60, seed=7) != intervals(best, have, 60, seed=8)
    assert intervals(best, have[have.seed != 0], 20).over == "points"  # four seeds are too few to draw from


def test_resampled_seeds_move_all_their_points_together():
    """Each seed shifts its whole line, so a's interval is that of the mean of five shifts, and the exponents have none."""
    shifts = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    base = made("log_linear", 0.0)
    have = Falls(base.r, base.l, base.fall + shifts[base.seed], base.seed)
    found = intervals(fit("log_linear", have), have, 400).constants
    draws = np.random.default_rng(5).choice(shifts, (20_000, 5)).mean(1)
    assert found["a"] == pytest.approx(2 + np.percentile(draws, (2.5, 97.5)), abs=0.025)
    assert found["alpha"] == pytest.approx((0.25, 0.25)) and found["beta"] == pytest.approx((0.25, 0.25))


# Refusals

@pytest.mark.parametrize("form, cells, message", [
    ("power", [(1, 50), (1, 100), (2, 50), (2, 100)], "power: 4 different (r, l) can't settle 4 constants; give points at 5 or more"),
    ("saturating", [], "saturating: 0 different (r, l) can't settle 3 constants; give points at 4 or more"),
    ("log_linear", [(4, l) for l in (50, 60, 70, 80)], "log_linear: all points have r=4, so its exponent can't be settled; give points at 2 or more r"),
    ("log_linear", [(r, 50) for r in (1, 2, 3, 4)], "log_linear: all points have l=50, so its exponent can't be settled; give points at 2 or more l"),
])
def test_too_few_points_are_refused_by_name(form, cells, message):
    have = Falls(*np.array(cells, float).reshape(-1, 2).T, np.arange(len(cells), dtype=float), np.zeros(len(cells), int))
    with pytest.raises(UsageError) as refused:
        fit(form, have)
    assert str(refused.value) == message


def test_points_of_one_cell_count_once():
    with pytest.raises(UsageError, match="3 different"):
        fit("log_linear", line([(1, 50), (2, 50), (2, 60)] * 4, [0] * 12))


def test_what_does_not_converge_or_never_falls_is_refused(noisy):
    with pytest.raises(UsageError, match="^power: no search from 9 initial points converged within 2 evaluations; give points at more ranks and lengths$"):
        fit("power", noisy["power"], evaluations=2)
    level = Falls(noisy["power"].r, noisy["power"].l, np.full(180, 0.5), noisy["power"].seed)
    with pytest.raises(UsageError, match="^power: the loss falls by 0.5 at every point: there is no law to fit$"):
        fit("power", level)


def test_a_box_that_leaves_nothing_or_too_little_is_refused(noisy):
    with pytest.raises(UsageError, match="^power: no point has r > 32 or l > 1600, so nothing is held out; "):
        hold_out("power", noisy["power"], 32, 1600)
    with pytest.raises(UsageError, match=r"^fitted to r ≤ 2 and l ≤ 100, one \(r, l\) left out at a time: power: 4 different"):
        hold_out("power", noisy["power"], 2, 100)


# Bits

def test_bits_a_parameter_by_hand():
    assert points.bits_per_parameter(10, 10) == pytest.approx(3.321928094887362)
    assert points.yardstick_digits(4608) == pytest.approx(2774.3, abs=0.1)  # r = 4 on three kernels of 128 × 256
    assert points.bits_per_parameter(2774, 3 * 4 * (128 + 256)) == pytest.approx(2, abs=1e-3)
    run = points.Point(4, 1600, 0, 2.3, 1.0, 4608, 400)
    assert (run.recall, run.fall) == (0.25, pytest.approx(1.3)) and run.offered == pytest.approx(1600 * math.log(10, 2) / 4608)


def test_presentations_and_thresholds():
    curve = ((100, 0.2), (200, 0.98), (300, 0.99), (400, 0.97))
    assert points.presentations_to(curve) == 300 and points.presentations_to(curve[:2]) is None and points.presentations_to(curve, 0.5) == 200
    p, recalled = np.array([0.4, 0.5, 0.9, 0.1]), np.array([True, True, True, False])
    assert points.share_below_half(p, recalled) == pytest.approx(1 / 3) and points.share_below_half(p, recalled & False) is None


def test_rows_of_recall_pool_the_seeds():
    runs = [
        points.Point(2, 100, seed, 2.3, 0.5, 1152, recalled, "ot", curve, below)
        for seed, recalled, curve, below in ((0, 100, ((10, 0.5), (20, 1.0)), 10), (1, 50, ((10, 0.3), (20, 0.5)), 20), (2, 60, (), None))
    ]
    row, nothing = report.recall_rows([*runs, points.Point(4, 100, 0, 2.3, 2.3, 2304, 0, "ot", (), 0)])
    assert (nothing["recall"], nothing["below_half"], nothing["presentations"]) == (0, None, [])
    assert (row["recall"], row["least"], row["most"]) == (pytest.approx(0.7), 0.5, 1.0) and row["held"] == pytest.approx(70 * math.log2(10) / 1152)
    assert row["presentations"] == [20, None] and row["below_half"] == pytest.approx(30 / 150) and row["seeds"] == [0, 1, 2]


# The file

LINE = {"r": 2, "l": 50, "seed": 0, "loss_before": 2.3, "loss_after": 0.2, "parameters": 1152, "recalled_digits": 40}


def test_what_is_written_is_read(tmp_path):
    made_up = [*points.simulate("saturating", noise=0)[:7], points.Point(None, 50, 3, 2.4, 0, 9, 50, "full", ((1, 0.5), (2, 1)), 4)]
    points.write(tmp_path / "points.jsonl", made_up)
    assert points.read(tmp_path / "points.jsonl") == made_up
    (tmp_path / "short.jsonl").write_text(json.dumps(LINE) + "\n\n")
    assert points.read(tmp_path / "short.jsonl") == [points.Point(2, 50, 0, 2.3, 0.2, 1152, 40, "points", (), None)]


@pytest.mark.parametrize("change, message", [
    ({"r": 0}, "r=0 must be a whole number of at least 1"),
    ({"l": 2.5}, "l=2.5 must be a whole number of at least 1"),
    ({"seed": -1}, "seed=-1 must be a whole number from 0 to 18446744073709551615"),
    ({"loss_after": math.nan}, "loss_after=nan must be a number of nats of at least 0"),
    ({"loss_before": "2"}, "loss_before='2' must be a number of nats of at least 0"),
    ({"recalled_digits": 51}, "recalled_digits=51 is more than l=50: no more can be recalled than is to be known"),
    ({"recalled_below_half": 41}, "recalled_below_half=41 must be a whole number from 0 to recalled_digits=40"),
    ({"arm": "a/b"}, "arm='a/b' must be a name of letters, digits and any of _ . + -"),
    ({"curve": [[2, 0.1], [1, 0.2]]}, "curve must be pairs of presentations, increasing, and a recalled share from 0 to 1"),
    ({"curve": 3}, "curve must be pairs of presentations, increasing, and a recalled share from 0 to 1"),
    ({"recaled_digits": 3}, "unknown key 'recaled_digits'; did you mean 'recalled_digits'?"),
])
def test_a_line_that_can_not_be_is_refused_with_its_number(tmp_path, change, message):
    path = tmp_path / "points.jsonl"
    path.write_text(json.dumps(LINE | {"seed": 5}) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(UsageError) as refused:
        points.read(path)
    assert str(refused.value) == f"{path}, line 2: {message}"


@pytest.mark.parametrize("text, message", [
    ("", "has no points"), ("[1]\n", "line 1: list where"), ("{\n", "line 1: Expecting"), ('{"r": 1}\n', "line 1: l, seed, loss_before, loss_after, parameters, recalled_digits missing"),
    (f"{json.dumps(LINE)}\n" * 2, "line 2: arm=points r=2 l=50 seed=0 is on line 1 too; "),
])
def test_a_file_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "points.jsonl").write_text(text)
    with pytest.raises(UsageError, match=message):
        points.read(tmp_path / "points.jsonl")


@pytest.mark.parametrize("name", LAWS)
def test_made_up_points_follow_the_form(name):
    have = points.falls(points.simulate(name, noise=0))
    assert have.fall == pytest.approx(LAWS[name]((have.r, have.l), *TRUE[name])) and (have.fall > 0).all() and (have.fall <= math.log(10)).all()


# The command and its pictures

@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command.FLAGS.unparse_flags()
        for name in command.FLAGS:
            command.FLAGS[name].unparse()
        return call(monkeypatch, capsys, command.main, command.FLAGS, *arguments)

    return run


def test_the_examples_in_turn(run, tmp_path):
    examples = [line.split()[3:] for line in command.__doc__.splitlines() if line.startswith("  python ")]
    code, out, err = run(*examples[0], "--resamples=20")
    assert (code, err) == (0, "") and "saturating: The law is falsified: its held-out error is more than 2 × the saturating form's at 4 of 4 corners." in out
    told = json.loads((tmp_path / "runs/law/law.json").read_text(), parse_constant=pytest.fail)
    forms = told["arms"]["saturating"]["forms"]
    assert forms["saturating"]["constants"]["kappa"] == pytest.approx(20, rel=0.06) and forms["power"]["constants"]["C"] is None
    assert forms["saturating"]["interval"]["over"] == "seeds" and told["arms"]["saturating"]["verdict"]["falsified"] is True
    assert f"kappa {forms['saturating']['constants']['kappa']:.3g} [" in out and "[inf, inf]" in out
    names = {f"{name}-{theme}.png" for name in ("recall", "law_saturating") for theme in ("light", "dark")}
    assert {path.name for path in (tmp_path / "runs/law").iterdir()} == {*names, "law.json", "points.jsonl"}
    code, again, _ = run(*examples[1], "--resamples=20")
    assert code == 0 and "the box is r ≤ 4, l ≤ 200" in again and "The law is falsified" in again


def test_a_fall_may_be_counted_from_chance(run, tmp_path):
    """Points of a base that was sure of wrong digits are fitted as those of one that was not."""
    made = points.simulate("saturating", 0)
    points.write(tmp_path / "sure.jsonl", [dataclasses.replace(point, loss_before=4.4) for point in made])
    assert run("--points=sure.jsonl", "--out=here", "--resamples=20", "--before=chance")[0] == 0
    told = json.loads((tmp_path / "here/law.json").read_text())
    assert told["before"] == "chance" and told["arms"]["saturating"]["forms"]["saturating"]["constants"] == pytest.approx(fit("saturating", points.falls(made)).constants)


def test_points_without_a_law_still_say_what_was_recalled(run, tmp_path):
    points.write(tmp_path / "points.jsonl", [points.Point(r, 50, 0, 2.3, 1 / (1 + r), 1152 * r, 30, "sft") for r in (1, 2)])
    code, out, err = run("--points=points.jsonl", "--out=here")
    assert (code, err) == (2, "error: no arm's points settle the law; sft: power: 2 different (r, l) can't settle 4 constants; give points at 5 or more\n")
    assert "0.600 [0.600, 0.600]" in out and {path.name for path in (tmp_path / "here").iterdir()} == {"law.json", "recall-light.png", "recall-dark.png"}


@pytest.mark.parametrize("arguments, message", [
    (["--out=a"], "give one of --points=FILE, --outcomes=FOLDER and --simulate=FORM"),
    (["--points=a", "--simulate=power", "--out=a"], "give one of --points=FILE, --outcomes=FOLDER and --simulate=FORM"),
    (["--simulate=power"], "give --out=FOLDER for the results"),
    (["--simulate=linear", "--out=a"], "flag --simulate=linear: value should be one of <power|saturating|log_linear>"),
])
def test_the_command_refuses_in_one_line(run, arguments, message):
    assert run(*arguments) == (2, "", f"error: {message}\n")


def test_flags_name_the_forms_that_there_are():
    assert command._FORMS == list(FORMS)


def test_remarks_name_a_base_that_did_not_know_digits():
    runs = [points.Point(int(r), int(l), 0, 3.0, 3.0 - r / l, 9, 0) for r in RANKS for l in LENGTHS]
    said = report.judge("sft", runs, 8, 400, 20, 0)
    assert any(remark.startswith("loss_before is up to 0.697 nats from ln 10") for remark in said.remarks)
    assert "One seed at each (r, l): what is noise is not known." in said.remarks


@pytest.fixture(scope="module")
def judged():
    runs = points.simulate("saturating")
    return runs, report.judge("saturating", runs, 8, 400, 20, 0)


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_of_the_laws(judged, dark):
    figure = pictures.draw_laws(judged[1], 8, 400, dark)
    words = clear(figure)
    assert {"ΔL, nats a digit", "rank r", "fitted", "predicted", "ln 10", *(f"ℓ = {l}" for l in LENGTHS)} <= set(words)
    for panel, name in zip(figure.axes, FORMS):
        assert panel.get_title().startswith(name.replace("_", "-")) and (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        drawn = [line for line in panel.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
        full = sum(len(line.get_xdata()) for line in drawn if line.get_markerfacecolor() != "none")
        hollow = sum(len(line.get_xdata()) for line in drawn if line.get_markerfacecolor() == "none")
        assert (full, hollow) == (4 * 4 * 5, 20 * 5)


def test_the_picture_of_recall_has_means_and_bands():
    runs = [
        points.Point(r, 100, seed, 2.3, 0.5, 1152 * r, recalled + 10 * seed, arm)
        for arm, recalled in (("sft", 20), ("ot", 60)) for r in (1, 2) for seed in (0, 1)
    ]
    figure = pictures.draw_recall(runs)
    assert {"sft", "ot", "2 bits a parameter", "bits a parameter that there are to know"} <= set(clear(figure))
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert lines["ot"].get_xdata() == pytest.approx([100 * math.log2(10) / 2304, 100 * math.log2(10) / 1152])
    assert lines["ot"].get_ydata() == pytest.approx([0.65, 0.65]) and lines["sft"].get_ydata() == pytest.approx([0.25, 0.25])
    bands = {to_hex(band.get_facecolor()[0]): band.get_paths()[0].vertices[:, 1] for band in figure.axes[0].collections}
    assert (bands[lines["ot"].get_color().lower()].min(), bands[lines["ot"].get_color().lower()].max()) == (0.6, 0.7)
    x, y = lines["2 bits a parameter"].get_data()
    assert np.interp(4, x, y) == pytest.approx(0.5, abs=0.01) and np.interp(1, x, y) == 1
