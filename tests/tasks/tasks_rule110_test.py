"""rule110 against cellpylib, against the exact facts of all 2**24 states, and its layout."""
import cellpylib
import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks.rule110.automaton import history, polynomial

# exact, width 24, periodic: P(label = 1), best constant 4/4, best predictor from the seven nearest cells 4/4
FACTS = {4: (0.5352, 0.082, 0.297), 8: (0.5406, 0.085, 0.171), 16: (0.5559, 0.096, 0.106), 32: (0.5617, 0.0995, 0.100)}


def parse(task, tokens):
    """Reads (steps shown or None, rows of cells) back from the tokens of one example."""
    words = [task.token(int(t)) for t in tokens]
    assert words[-task.strings :] == ["?"] * task.strings
    words = words[: -task.strings]
    depths = {w for w in words if w.startswith("<")}
    rows = "".join(w for w in words if w in "01")
    assert len(rows) == task.strings * task.width and len(depths) <= 1
    shown = [int(d[3:-1]) for d in depths]
    return (shown or [None])[0], np.array(list(map(int, rows))).reshape(task.strings, task.width)


@pytest.mark.parametrize("rule", [30, 90, 110, 184, 1, 0, 255])
def test_labels_agree_with_cellpylib(rule):
    steps, cell = 9, 5
    task = tasks.get("rule110", rule=rule, width=13, strings=3, steps=steps, cell=cell)
    batch = task.batch(0, "train", 0, 12)
    for i in range(12):
        for row, label in zip(parse(task, batch["tokens"][i])[1], batch["targets"][i, -3:]):
            after = cellpylib.evolve(
                row[None], timesteps=steps + 1, memoize=False, apply_rule=lambda n, c, t: cellpylib.nks_rule(n, rule)
            )
            assert task.token(int(label)) == str(after[-1, cell])


def test_all_cells_agree_with_cellpylib():
    task = tasks.get("rule110", width=11, strings=3, steps=(0, 5), cell=9, cells=4)
    assert (task.seq_len, task.window, task.predicts, task.answers) == (39 + 26 + 4, 13, (False,) * 3 + (True,) * 3, 4)
    batch = task.batch(0, "train", 0, 40)
    for tokens, targets, answer, steps in zip(batch["tokens"], batch["targets"], batch["answer"], batch["difficulty"]["steps"]):
        assert len(set(steps.tolist())) == 1
        for string in range(3):
            depth, name, *row = [task.token(int(token)) for token in tokens[string * 13 : string * 13 + 13]]
            assert (depth, name) == (f"<t={steps[0]}>", f"#{string + 1}")
            row = np.array(row, int)
            after = cellpylib.evolve(
                row[None], timesteps=int(steps[0]) + 1, memoize=False, apply_rule=lambda n, c, t: cellpylib.nks_rule(n, 110)
            )[-1]
            at = 39 + 13 * string + np.arange(4)
            assert [task.token(int(t)) for t in tokens[at]] == [f"#{string + 1}"] * 4
            assert (targets[at] - 1).tolist() == after[[9, 10, 0, 1]].tolist()
            assert answer[at].tolist() == [0, 1, 2, 3]
    assert ((batch["answer"] >= 0).sum(1) == 12).all() and (batch["loss_mask"] == (batch["answer"] >= 0)).all()


@pytest.mark.parametrize("strings, window", [(1, 40), (3, None)])
def test_a_chain_of_thought_is_the_rows_on_the_way(strings, window):
    arguments = dict(width=9, strings=strings, steps=(1, 4), cell=7, cells=3)
    task = tasks.get("rule110", **arguments, chain_of_thought=True, window=window)
    unit = 9 + 1 + (strings > 1)
    before = -(-strings * unit // task.window) * task.window
    assert (task.seq_len, task.answers) == (before + strings * 36, 3) and task.predicts == tuple(a >= before for a in range(0, task.seq_len, task.window))
    batch = task.batch(0, "train", 0, 40)
    for tokens, targets, mask, answer, steps in zip(*(batch[key] for key in ("tokens", "targets", "loss_mask", "answer")), batch["difficulty"]["steps"][:, 0]):
        said = np.full(task.seq_len, -1)
        for string in range(strings):
            *head, row = np.split(tokens[before - strings * unit :][string * unit : (string + 1) * unit], [unit - 9])
            assert [task.token(int(t)) for t in head[0]] == [f"<t={steps}>"] + [f"#{string + 1}"] * (strings > 1)
            rows = cellpylib.evolve((row - 1)[None], timesteps=int(steps) + 1, memoize=False, apply_rule=lambda n, c, t: cellpylib.nks_rule(n, 110))[1:]
            at = before + 36 * string + np.arange(9 * steps)
            assert (targets[at] - 1).tolist() == rows.ravel().tolist() and mask[at].all()
            assert task.token(int(tokens[at[0]])) == (f"#{string + 1}" if strings > 1 else "?") and tokens[at[1:]].tolist() == targets[at[:-1]].tolist()
            said[at[-9:][[7, 8, 0]]] = [0, 1, 2]
        assert answer.tolist() == said.tolist() and mask.sum() == strings * 9 * steps
        np.testing.assert_array_equal(task.solve(tokens)[mask], targets[mask])
    assert "label of the token before it" in task.describe()


@pytest.mark.parametrize("boundary", ["periodic", "zero"])
def test_every_rule_from_its_definition(boundary):
    cells = np.random.Generator(np.random.Philox(0)).integers(0, 2, (70, 7), np.uint8)
    for rule in range(256):
        row, want = cells, [cells]
        for _ in range(3):
            around = np.pad(row, ((0, 0), (1, 1)), mode="wrap" if boundary == "periodic" else "constant")
            row = (rule >> (4 * around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]) & 1).astype(np.uint8)
            want.append(row)
        wanted = np.array([6, 0, 1])
        got = history(cells, rule=rule, steps=3, boundary=boundary, wanted=wanted)
        np.testing.assert_array_equal(got, np.stack(want).transpose(0, 2, 1)[:, wanted])
    assert polynomial(110) == (1, 2, 3, 7)


@pytest.mark.parametrize("steps", FACTS)
def test_label_means_are_the_exact_ones(steps):
    labels = tasks.get("rule110", steps=steps).batch(1, "train", 0, 50_000)["targets"][:, -4:] - 1
    p = FACTS[steps][0]
    assert labels.mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / labels.size) + 5e-5)


def test_baselines_are_the_exact_ones():
    baselines = tasks.get("rule110", steps=(4, 32)).baselines()
    for steps, (p, constant, seven) in FACTS.items():
        at = {name: baseline["by"]["steps"][steps] for name, baseline in baselines.items()}
        assert at["chance"] == {"label": 0.5, "exact": 1 / 16}
        # the test split holds a 64th of the states, hence the tolerance
        assert at["constant"]["label"] == pytest.approx(p, abs=0.003)
        assert at["constant"]["exact"] == pytest.approx(constant, abs=0.002)
        assert at["seven_cells"]["exact"] == pytest.approx(seven, abs=0.003)


def test_constant_baseline_is_what_a_constant_scores():
    task = tasks.get("rule110", width=30, strings=2, steps=4)
    labels = task.batch(0, "test", 0, 5000)["targets"][:, -2:] == 2
    constant = task.baselines()["constant"]
    assert labels.mean() == pytest.approx(constant["label"], abs=0.025)
    assert labels.all(1).mean() == pytest.approx(constant["exact"], abs=0.03)


def test_zero_boundary_is_the_easy_one():
    task = tasks.get("rule110", steps=4, boundary="zero")
    assert task.baselines()["constant"]["exact"] == pytest.approx(0.88, abs=0.01)
    assert tasks.get("rule110", steps=14, boundary="zero").baselines()["constant"]["exact"] > 0.999


def test_layout():
    task = tasks.get("rule110")
    assert (task.seq_len, task.window, task.vocab_size, task.answers) == (100, 24, 4, 1)
    assert task.predicts == (False,) * 4 + (True,)
    example = task.example(0, "train", 0)
    assert example["loss_mask"].tolist() == [False] * 96 + [True] * 4
    assert example["answer"].tolist() == [-1] * 96 + [0] * 4

    ranged = tasks.get("rule110", steps=(2, 5))
    assert (ranged.seq_len, ranged.window, ranged.vocab_size) == (104, 25, 8)
    batch = ranged.batch(0, "train", 0, 4000)
    steps = batch["difficulty"]["steps"][:, 0]
    assert (batch["tokens"][:, :100:25] == 4 + steps[:, None] - 2).all()
    assert [parse(ranged, t)[0] for t in batch["tokens"][:50]] == steps[:50].tolist()
    assert np.bincount(steps, minlength=6)[2:] == pytest.approx(1000, abs=5 * np.sqrt(750))


def test_held_out_states_are_never_trained_on():
    seen = {}
    for split, size in (("train", 60_000), ("validation", 2000), ("test", 2000)):
        task = tasks.get("rule110", width=12, strings=4, steps=1)
        rows = task.batch(0, split, 0, size)["tokens"][:, :48].reshape(-1, 12) - 1
        seen[split] = set((rows @ (1 << np.arange(12))).tolist())
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 2**12
    other = tasks.get("rule110", width=12, strings=2, steps=7).batch(9, "test", 0, 500)["tokens"][:, :24].reshape(-1, 12) - 1
    assert set((other @ (1 << np.arange(12))).tolist()) <= seen["test"]


def test_the_largest_t_rises_with_the_training_examples_only():
    arguments = {"width": 16, "strings": 2, "steps": (2, 4)}
    task, plain = tasks.get("rule110", **arguments, steps_rise=(100, 200)), tasks.get("rule110", **arguments)
    by_stage = [task.batch(0, "train", start, 100)["difficulty"]["steps"] for start in (0, 100, 200, 5000)]
    assert [sorted(set(t.ravel().tolist())) for t in by_stage] == [[2], [2, 3], [2, 3, 4], [2, 3, 4]]
    for split, start in (("test", 0), ("train", 200)):
        np.testing.assert_array_equal(task.batch(0, split, start, 50)["tokens"], plain.batch(0, split, start, 50)["tokens"])
    for index in (0, 99, 100, 250):
        np.testing.assert_array_equal(task.example(0, "train", index)["tokens"], task.batch(0, "train", index, 1)["tokens"][0])
    with pytest.raises(UsageError, match="steps_rise"):
        tasks.get("rule110", steps=4, steps_rise=(10,))
