"""`python -m sleepnet.tasks`: every command, what `check` notices, and one line for every request that can't be met."""
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.tasks import exported
from sleepnet.tasks.__main__ import COMMANDS, main
from sleepnet.tasks.machinery import check, stats

SMALL = {
    "rule110": {"width": 12, "strings": 2, "steps": (1, 3)},
    "depo": {"nodes": 6, "hops": 3, "queries": 4, "min_nodes": 4},
    "phonebook": {"kind": "context", "entries": 3},
    "days": {"days": 2, "facts": 4},
}
TEXT = {"rule110": ["width=12", "strings=2", "steps=1,3"], "depo": ["nodes=6", "hops=3", "queries=4", "min_nodes=4"], "phonebook": ["kind=context", "entries=3"], "days": ["days=2", "facts=4"]}
every_task = pytest.mark.parametrize("name", SMALL)


def test_list_and_describe(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(any(line.startswith(name) for line in listed.splitlines()) for name in tasks.names())
    assert main(["describe", "rule110", "--arguments", "width=12", "steps=1,3"]) == 0
    text = capsys.readouterr().out
    assert "steps=[1, 3]" in text and "window 1, sleeps: <t=" in text and "?→" in text and "seven_cells" in text
    assert main(["sample", "depo", "-n", "2", "--split", "train", "--arguments", "nodes=5"]) == 0
    assert capsys.readouterr().out.count("Query 1:") == 2


def test_help_teaches_every_command(capsys):
    for argv in (["--help"], *([command, "--help"] for command in ("list", *COMMANDS))):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert all(f"python -m sleepnet.tasks {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["chek", "depo"], "invalid choice: 'chek'"),
        (["describe", "deep"], "did you mean 'depo'"),
        (["describe", "depo", "--arguments", "nodes"], "takes key=value, not 'nodes'"),
        (["sample", "depo", "--split", "tets"], "did you mean 'test'"),
        (["sample", "depo", "-n", "0"], "-n=0"),
        (["sample", "depo", "--start", "-1"], "--start=-1"),
        (["check", "depo", "-n", "-3"], "-n=-3"),
        (["check", "depo", "-n", "many"], "invalid int value: 'many'"),
        (["check", "depo", "--split", "tets"], "did you mean 'test'"),
        (["check", "depo", "--arguments", "node=3"], "did you mean 'nodes'"),
        (["stats", "depo", "--seed", "-1"], "--seed=-1"),
        (["stats", "depo", "--split", "test"], "unrecognized arguments"),
        (["export", "depo", "-n", "3", "--out", "x"], "--format"),
        (["export", "depo", "--format", "npz", "--out", "x"], "-n"),
        (["export", "depo", "--format", "parquet", "-n", "3", "--out", "x"], "known: array_record, jsonl, npz"),
        (["export", "depo", "--format", "npz", "-n", "3", "--out", "/dev/null/x"], "Not a directory"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(argv, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and words in err
    assert not any(tmp_path.iterdir())


@every_task
def test_check_finds_nothing_wrong_and_says_how_much_it_looked_at(name, capsys):
    assert main(["check", name, "-n", "40", "--arguments", *TEXT[name]]) == 0
    out, err = capsys.readouterr()
    task = tasks.get(name, **SMALL[name])
    batches = [task.batch(0, split, 0, 40) for split in ("train", "validation", "test")]
    labels = sum(int(batch["loss_mask"].sum()) for batch in batches)
    answers = sum(len(set(row[row >= 0])) for batch in batches for row in batch["answer"])
    assert f"{labels} labels of {answers} answers in 120 examples" in out.replace(",", "") and "120 examples equal the plain" in out
    assert err == ""
    assert main(["check", name, "-n", "40", "--split", "validation", "--seed", "5", "--arguments", *TEXT[name]]) == 0
    assert "in 40 examples" in capsys.readouterr().out


def corrupted(task, damage, split="test", row=17):
    """Returns the task with one example of its vectorised path damaged."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Corrupted(type(task)):
        def batch_at(self, seed, of, indices):
            batch = super().batch_at(seed, of, indices)
            for at in np.flatnonzero(np.asarray(indices) == row) if of == split else ():
                damage(self, batch, at)
            return batch

    return Corrupted(**{key: getattr(task, key) for key in task.arguments})


def wrong_label(task, batch, row):
    place = np.flatnonzero(batch["answer"][row] >= 0)[-1]
    target = batch["targets"][row, place]
    batch["targets"][row, place] = target - 1 if target > 1 else target + 1


def set_to(field, place, value):
    def damage(task, batch, row):
        batch[field][row, np.flatnonzero(place(task, batch, row))[0]] = value

    return damage


def no_loss(task, batch, row):
    return ~batch["loss_mask"][row]


def a_loss(task, batch, row):
    return batch["loss_mask"][row]


def sleeping(task, batch, row):
    return np.arange(task.seq_len) == 3


def a_loss_asleep(task, batch, row):
    batch["loss_mask"][row, 3], batch["targets"][row, 3] = True, 1


def no_loss_at_all(task, batch, row):
    batch["loss_mask"][row], batch["targets"][row], batch["answer"][row] = False, 0, -1


def wrong_difficulty(task, batch, row):
    batch["difficulty"][task.difficulty_axes[0]][row, 0] += 1


def missing_difficulty(task, batch, row):
    batch["difficulty"][task.difficulty_axes[0]][row, 0] = -1


def other_dtype(task, batch, row):
    batch["tokens"] = batch["tokens"].astype(np.int64)


def other_axes(task, batch, row):
    batch["difficulty"] = {"depth": batch["difficulty"][task.difficulty_axes[0]]}


DAMAGE = {
    "a wrong label": (wrong_label, "example 17 of seed 0, split test: position .* the solver says"),
    "a token outside the vocabulary": (set_to("tokens", sleeping, 10**6), "example 17 .*a token outside 0"),
    "a negative token": (set_to("tokens", sleeping, -1), "a token outside 0"),
    "a target outside the vocabulary": (set_to("targets", a_loss, 10**6), "a target outside 0"),
    "PAD as a target": (set_to("targets", a_loss, 0), "PAD as a target"),
    "a target without loss": (set_to("targets", no_loss, 1), "a target other than PAD"),
    "a graded position without loss": (set_to("answer", no_loss, 0), "a graded position without a loss"),
    "an unknown answer group": (set_to("answer", a_loss, 99), "an answer group outside -1"),
    "a loss in a window that sleeps": (a_loss_asleep, "a loss in a window that sleeps"),
    "no loss": (no_loss_at_all, "no loss at all"),
    "a wrong difficulty": (wrong_difficulty, "example 17 .*of the vectorised path is not the plain path's"),
    "a missing difficulty": (missing_difficulty, "is there for a group that is not, or missing"),
    "another dtype": (other_dtype, "tokens is int64"),
    "other axes": (other_axes, "difficulty has depth, the task is graded by"),
}


@every_task
@pytest.mark.parametrize("damage", DAMAGE)
def test_check_notices(name, damage):
    do, words = DAMAGE[damage]
    with pytest.raises(check.Fault, match=words) as caught:
        check.check(corrupted(tasks.get(name, **SMALL[name]), do), count=20)
    assert "\n" not in str(caught.value)


@every_task
def test_check_notices_what_the_solver_can_not_read(name):
    def scramble(task, batch, row):
        batch["tokens"][row] = batch["tokens"][row, ::-1].copy()

    with pytest.raises(check.Fault, match="example 17 .*(can't read it|the solver says)"):
        check.check(corrupted(tasks.get(name, **SMALL[name]), scramble), count=20)


@every_task
def test_check_notices_an_instance_in_two_splits(name):
    task = tasks.get(name, **SMALL[name])

    def leak(task, batch, row):
        trained = super(type(task), task).batch_at(0, "train", [2])
        for field in ("tokens", "targets", "loss_mask", "answer"):
            batch[field][row] = trained[field][0]
        for axis in task.difficulty_axes:
            batch["difficulty"][axis][row] = trained["difficulty"][axis][0]

    with pytest.raises(check.Fault, match="example 17 of split test shares an instance with example 2 of split train"):
        check.check(corrupted(task, leak), count=20, splits=("validation",))


def test_the_same_instance_told_differently_is_still_the_same():
    task = tasks.get("depo", nodes=6, names=6, name_tokens=(1, 1), nodes_law="fixed", hops=2, queries=2)
    batch = task.batch(0, "train", 0, 400)
    rings = set()
    for tokens in batch["tokens"]:
        after = dict(tokens[:12].reshape(6, 2).tolist())
        ring = [min(after)]
        while len(ring) < 6:
            ring.append(after[ring[-1]])
        rings.add(tuple(ring))
    assert len(set.union(*map(task.instances, batch["tokens"]))) == len(rings) <= 120


def test_check_shows_the_first_offending_example(capsys, monkeypatch):
    task = corrupted(tasks.get("depo", **SMALL["depo"]), wrong_label)
    monkeypatch.setattr("sleepnet.tasks.__main__.get", lambda name, **arguments: task)
    assert main(["check", "depo", "-n", "20"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "depo is wrong: example 17 of seed 0, split test" in err
    assert "window 1, sleeps:" in out and "Query 1:" in out


def test_check_shows_numbers_where_words_fail(capsys, monkeypatch):
    task = corrupted(tasks.get("rule110", **SMALL["rule110"]), set_to("targets", a_loss, -9))
    monkeypatch.setattr("sleepnet.tasks.__main__.get", lambda name, **arguments: task)
    assert main(["check", "rule110", "-n", "20"]) == 1
    assert "targets: [" in capsys.readouterr().out


@every_task
def test_stats_are_counts(name):
    task, count = tasks.get(name, **SMALL[name]), 60
    for split, found in stats.collect(task, count=count, seed=2).items():
        examples = [task.example(2, split, index) for index in range(count)]
        for axis in task.difficulty_axes:
            values = [int(v) for e in examples for v in e["difficulty"][axis] if v >= 0]
            assert dict(found.difficulty[axis]) == {v: values.count(v) for v in set(values)}
        labels = [int(t) for e in examples for t, a in zip(e["targets"], e["answer"]) if a >= 0]
        assert dict(found.labels) == {t: labels.count(t) for t in set(labels)}
        lengths = [sum(int(t) != 0 for t in e["tokens"]) for e in examples]
        assert dict(found.lengths) == {n: lengths.count(n) for n in set(lengths)}


def test_stats_are_shown(capsys):
    assert main(["stats", "depo", "-n", "200", "--arguments", "nodes=30", "hops=4", "test_hops=1,4"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    by_k = {row[0]: row for row in (line.split() for line in out.split("answers by n")[0].splitlines()) if row and row[0] in "1234"}
    shares = [float(row[1].rstrip("%")) for row in by_k.values()]
    assert sum(shares) == pytest.approx(100, abs=0.2) and by_k["2"][-1].startswith("█") and len(by_k["2"]) == 3 and len(by_k["1"]) == 5
    assert "29 … 30" in out and "tokens other than PAD, of T = 180" in out and "92 others" in out
    assert rows["in_context"][3:] and "what guessing scores" in out


@pytest.mark.parametrize("values, want", [([3], [(3, 3)]), (range(16), [(i, i) for i in range(16)]), ([5, 1, 5, 2], [(1, 1), (2, 2), (5, 5)])])
def test_a_histogram_has_a_row_for_each_value_while_they_are_few(values, want):
    assert stats.bins(values) == want
    many = stats.bins([7 * v for v in range(100)])
    assert len(many) <= 16 and many[0][0] == 0 and many[-1][1] == 693
    assert sum(least <= 7 * v <= most for v in range(100) for least, most in many) == 100


def test_export_writes_says_so_and_refuses(capsys, tmp_path):
    export = ["export", "depo", "--format", "npz", "--split", "validation", "--seed", "4", "--out", str(tmp_path / "d"), "--arguments", *TEXT["depo"]]
    assert main([*export, "-n", "30"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'd'} holds 30 examples of split validation, seed 4" in out
    source, task = exported.load(tmp_path / "d"), tasks.get("depo", **SMALL["depo"])
    np.testing.assert_array_equal(source.batch(4, "validation", 0, 30)["tokens"], task.batch(4, "validation", 0, 30)["tokens"])
    assert json.loads((tmp_path / "d" / "manifest.json").read_text())["task"]["arguments"]["nodes"] == 6
    assert main([*export, "-n", "30"]) == 0
    capsys.readouterr()
    assert main([*export, "-n", "31"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "nothing is overwritten" in err


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m sleepnet.tasks sample depo -n 300 --arguments nodes=5 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[1] == "141" and done.stderr == ""
