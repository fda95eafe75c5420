"""The contract every task keeps, and the random words below it.

The golden hashes are made by running this file: `python tests/tasks/tasks_test.py` prints them.
"""
import hashlib
import itertools
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks import base, registry
from sleepnet.tasks.machinery import check, philox, splits

FIELDS = ("tokens", "targets", "loss_mask", "answer")
CASES = {
    "rule110": ("rule110", {}),
    "rule110-range": ("rule110", {"width": 12, "strings": 3, "steps": (0, 9)}),
    "rule110-wide": ("rule110", {"width": 70, "rule": 30, "steps": 5, "boundary": "zero", "cell": 69, "window": 140}),
    "rule110-all-cells": ("rule110", {"width": 12, "strings": 2, "steps": (1, 4), "cell": 7, "cells": 12}),
    "rule110-thinking": ("rule110", {"width": 14, "strings": 2, "steps": (1, 3), "cell": 7, "cells": 4, "steps_rise": (1003, 1010), "chain_of_thought": True, "window": 48}),
    "depo": ("depo", {}),
    "depo-small": ("depo", {"nodes": 10, "hops": 4, "nodes_law": "fixed", "name_tokens": (1, 1), "test_hops": (1, 2, 3, 4)}),
    "depo-all-names": ("depo", {"nodes": 9, "names": 9, "hops": 20, "name_tokens": (1, 1), "window": 45}),
    "depo-long-names": ("depo", {"nodes": 7, "names": 3, "queries": 9, "name_tokens": (5, 7), "min_nodes": 2}),
    "depo-asked": ("depo", {"nodes": 9, "hops": 1, "asked": 5, "names": 6, "queries": 4, "min_nodes": 2}),
    "mqar": ("mqar", {}),
    "mqar-range": ("mqar", {"vocabulary": 30, "length": 40, "pairs": (2, 6), "queries": 2, "noise": "pad", "window": 6}),
    "group": ("group", {}),
    "group-running": ("group", {"group": "A5", "length": (3, 7), "running": True, "window": 4}),
    "group-sum": ("group", {"group": "Z60", "length": (2, 5), "length_rise": (1002, 1010), "window": 2}),
    "group-thinking": ("group", {"group": "A5", "length": (2, 6), "chain_of_thought": True, "window": 4}),
    "group-last": ("group", {"group": "A5", "length": 7, "asked": 3, "spans": "growing", "window": 3}),
    "selective_copy": ("selective_copy", {}),
    "selective_copy-range": ("selective_copy", {"length": 31, "copies": (3, 7), "letters": 30, "window": 10}),
    "phonebook": ("phonebook", {"entries": 300, "share_rise": (1004, 1012)}),
    "phonebook-string": ("phonebook", {"kind": "string", "digits": 70, "content": 5, "window": 30}),
    "phonebook-context": ("phonebook", {"kind": "context", "entries": 5, "window": 30}),
    "phonebook-awake": ("phonebook", {"kind": "context", "listed": "awake", "names": 3}),
    "days": ("days", {}),
    "days-three": ("days", {"days": 3, "facts": 5, "links": 2, "names": 9, "digits": 2, "questions": 3, "asks": ("two_hop", "asked"), "window": 27}),
    "days-stream": ("days", {"kind": "stream", "days": 5, "facts": 4, "per_day": 20, "order": "shuffled", "replay": 30, "kept": 7}),
    "days-all-told": ("days", {"kind": "stream", "days": 3, "facts": 6, "told": "all", "content": 4, "questions": 2, "per_day": 7, "order": "mixed"}),
    "days-not-told": ("days", {"kind": "stream", "days": 3, "facts": 3, "links": 0, "told": "nothing", "window": 30}),
    "skills": ("skills", {}),
    "skills-stream": ("skills", {"kind": "stream", "days": 5, "overlap": 6, "per_day": 20, "order": "shuffled", "replay": 30, "kept": 7}),
    "skills-told": ("skills", {"kind": "stream", "days": 3, "overlap": 2, "content": 4, "tells": True, "per_day": 7, "order": "mixed", "window": 70}),
    "khop": ("khop", {}),
    "khop-many": ("khop", {"length": 30, "letters": 3, "hops": (2, 9), "queries": 5, "hops_rise": (1003, 1010), "window": 10}),
    "hinted": ("hinted", {}),
    "hinted-room": ("hinted", {"nodes": 6, "hops": 5, "names": 9, "room": 3, "told": 2, "shares": (10, 50, 40), "hops_rise": (1003, 1010), "window": 7}),
    "hinted-memory-room": ("hinted", {"role": "memory", "nodes": 6, "hops": 5, "room": 3, "told": 2}),
    "variables": ("variables", {}),
    "variables-shuffled": ("variables", {"chains": 2, "hops": 3, "noise": (0, 9), "order": "shuffled", "queries": 4, "names": 8, "values": 5, "hops_rise": (1003, 1010), "window": 9}),
    "gsm": ("gsm", {}),
    "gsm-small": ("gsm", {"ops": (1, 3), "length": (60, 120), "places": 8, "things": 8, "limit": 60, "fillers": "alike", "window": 32}),
    "gsm-thinking": ("gsm", {"ops": (2, 4), "ops_rise": (1003, 1010), "depth": 3, "direction": "both", "question": "last", "chain_of_thought": True, "length": (150, 200), "fillers": "alike", "answer_alone": True, "window": 190}),
}
GOLDEN = {
    "rule110": "1:465487d564ea1d2f",
    "rule110-range": "1:5463d2ee9d154f5b",
    "rule110-wide": "1:4fd58fe579f7a5d2",
    "rule110-thinking": "1:9f2884c73412cf24",
    "rule110-all-cells": "1:58e02d4bd0e4c314",
    "depo": "1:7730dd958e4d01b5",
    "depo-small": "1:8785ed2428d34be2",
    "depo-all-names": "1:b901ebbb43b38997",
    "depo-long-names": "1:8bbdec0347ce5c78",
    "depo-asked": "1:ce5233b21db9c3fa",
    "mqar": "1:4fdff39e6c8f0f08",
    "mqar-range": "1:b2b7daf14812a4d9",
    "group": "1:52fbfe952373cce0",
    "group-running": "1:5c6821f2f925c8c4",
    "group-sum": "1:2d37d5aee2069bc2",
    "group-thinking": "1:ea35977752ee1e94",
    "group-last": "1:ce096ad63fa3c64c",
    "selective_copy": "1:a98619a1a5fe2c78",
    "selective_copy-range": "1:2eb6f71743452a2e",
    "phonebook": "1:ac5488e86a8b1d74",
    "phonebook-string": "1:798396d81e577972",
    "phonebook-context": "1:ecbb2d8fdeccc6b3",
    "phonebook-awake": "1:972e01b4e577907e",
    "days": "1:17aa35ff4fd4197c",
    "days-three": "1:0216b71034e46331",
    "days-stream": "1:a6a9c20da4e53450",
    "days-all-told": "1:8e5b62766c1a62ad",
    "days-not-told": "1:823eaa372f776154",
    "skills": "1:696840201630dc8f",
    "skills-stream": "1:6b1f91a6c341482c",
    "skills-told": "1:039b657ee3b8a104",
    "khop": "1:bbe4f9f40f4425f8",
    "khop-many": "1:2f682c41d81c7038",
    "hinted": "1:0dce57480611b3b9",
    "hinted-room": "1:8e07919f9bbff103",
    "hinted-memory-room": "1:e145565b6587d2af",
    "variables": "1:0007bf3eb22a5ae6",
    "variables-shuffled": "1:8bbd6cfb5cae215f",
    "gsm": "1:ca171d3534b33b93",
    "gsm-small": "1:8820a997801a4d86",
    "gsm-thinking": "1:fc4f55b6bacc1ef3",
}

every_case = pytest.mark.parametrize("case", CASES)


def make(case):
    name, arguments = CASES[case]
    return tasks.get(name, **arguments)


def assert_same(got, want, where):
    for field in FIELDS:
        assert got[field].dtype == want[field].dtype, (field, where)
        np.testing.assert_array_equal(got[field], want[field], err_msg=f"{field} {where}")
    assert got["difficulty"].keys() == want["difficulty"].keys()
    for axis, value in got["difficulty"].items():
        assert value.dtype == want["difficulty"][axis].dtype == np.int32
        np.testing.assert_array_equal(value, want["difficulty"][axis], err_msg=f"{axis} {where}")


def pick(batch, rows):
    return {f: batch[f][rows] for f in FIELDS} | {"difficulty": {k: v[rows] for k, v in batch["difficulty"].items()}}


def digest(task):
    parts = hashlib.sha256()
    for split in splits.SPLITS:
        batch = task.batch(7, split, 0, 16)
        for array in [batch[f] for f in FIELDS] + [batch["difficulty"][axis] for axis in task.difficulty_axes]:
            parts.update(np.ascontiguousarray(array).tobytes())
    return f"{task.version}:{parts.hexdigest()[:16]}"


def test_words_are_those_of_numpy():
    index = np.array([0, 1, 2**31, 2**64 - 1], np.uint64)
    attempt = np.array([0, 3, 2**32, 9])
    for key, stream, count in itertools.product([(0, 0), (2**64 - 1, 2)], [0, 5], [1, 4, 11, 150]):
        got = philox.words(key, index, stream, attempt, count)
        assert got.shape == (4, count) and got.dtype == np.uint64
        for row in range(4):
            counter = np.array([0, stream, attempt[row], index[row]], np.uint64)
            want = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(count)
            np.testing.assert_array_equal(got[row], want)
            one = philox.stream(key, int(index[row]), stream, int(attempt[row]))
            assert list(itertools.islice(one, count)) == want.tolist()


def test_words_do_not_depend_on_the_chunk():
    whole = philox.words((1, 2), np.arange(700), 3, 0, 61)
    np.testing.assert_array_equal(whole[650:], philox.words((1, 2), np.arange(650, 700), 3, 0, 61))


def test_integers_below_a_bound_are_exact():
    rng = np.random.Generator(np.random.Philox(1))
    x, y = rng.integers(0, 2**64, (2, 1000), np.uint64)
    high = philox.multiply_high(x, y)
    assert [int(h) for h in high] == [int(a) * int(b) >> 64 for a, b in zip(x, y)]
    for bound in (75, 2**32 - 1, 2**32, 2**64 - 1):
        assert [int(h) for h in philox.multiply_high(x, np.uint64(bound))] == [philox.below(int(a), bound) for a in x]


def test_mixing_is_one_function_written_twice():
    x = np.random.Generator(np.random.Philox(2)).integers(0, 2**64, 1000, np.uint64)
    mixed = splits.mix64(x)
    assert [int(m) for m in mixed] == [splits.mix64_int(int(a)) for a in x]
    members = np.stack([splits.belongs(mixed, number) for number in splits.SPLITS.values()])
    np.testing.assert_array_equal(members.sum(0), 1)
    assert [splits.belongs(int(m), 2) for m in mixed] == members[2].tolist()


@every_case
def test_what_a_task_says_of_itself_holds(case):
    task = make(case)
    assert len(task.predicts) == -(-task.seq_len // task.window)
    for split in splits.SPLITS:
        batch = task.batch(3, split, 5, 40)
        for field in FIELDS:
            assert batch[field].shape == (40, task.seq_len)
            assert batch[field].dtype == (bool if field == "loss_mask" else np.int32)
        assert tuple(batch["difficulty"]) == task.difficulty_axes
        assert batch["tokens"].min() >= 0 and batch["tokens"].max() < task.vocab_size
        assert batch["targets"].max() < task.vocab_size
        assert (batch["targets"][batch["loss_mask"]] != base.PAD).all()
        assert (batch["targets"][~batch["loss_mask"]] == base.PAD).all()
        assert batch["loss_mask"][batch["answer"] >= 0].all()
        for w, predicts in enumerate(task.predicts):
            assert batch["loss_mask"][:, w * task.window : (w + 1) * task.window].any() == predicts
        for axis in task.difficulty_axes:
            value = batch["difficulty"][axis]
            assert value.shape == (40, task.answers)
            graded = (batch["answer"][:, None, :] == np.arange(task.answers)[:, None]).any(-1)
            np.testing.assert_array_equal(value >= 0, graded)


@every_case
@pytest.mark.parametrize("split", splits.SPLITS)
def test_batch_equals_examples(case, split):
    task, size = make(case), 24
    batch = task.batch(11, split, 1000, size)
    for i in range(size):
        assert_same(task.example(11, split, 1000 + i), pick(batch, i), (split, i))


@every_case
@pytest.mark.parametrize("split", splits.SPLITS)
def test_the_solver_agrees_from_the_tokens_alone(case, split):
    task = make(case)
    batch = task.batch(13, split, 200, 12)
    for tokens, targets, loss_mask in zip(batch["tokens"], batch["targets"], batch["loss_mask"]):
        solved = task.solve(tokens)
        assert solved.shape == (task.seq_len,) and solved.dtype == np.int32
        np.testing.assert_array_equal(solved[loss_mask], targets[loss_mask])


@every_case
def test_the_solver_notices_a_wrong_target(case):
    task = make(case)
    batch = task.batch(13, "train", 900, 4)
    for row in range(4):
        assert check.disagreement(task, pick(batch, row)) is None
        for place in np.flatnonzero(batch["loss_mask"][row]):
            wrong = pick(batch, row) | {"targets": batch["targets"][row].copy()}
            wrong["targets"][place] += 1 if wrong["targets"][place] < task.vocab_size - 1 else -1
            assert f"position {place}: " in check.disagreement(task, wrong)


@every_case
def test_a_batch_does_not_depend_on_how_it_is_cut(case):
    task = make(case)
    for split in splits.SPLITS:
        whole = task.batch(5, split, 0, 90)
        assert_same(task.batch(5, split, 37, 20), pick(whole, slice(37, 57)), split)
        scattered = [88, 3, 3, 41]
        assert_same(task.batch_at(5, split, scattered), pick(whole, scattered), split)


@every_case
def test_seed_split_and_index_matter(case):
    task = make(case)
    seen = [task.batch(seed, split, 0, 8)["tokens"][i].tobytes() for seed in (0, 1) for split in splits.SPLITS for i in range(8)]
    if task.by_heart:  # all splits have the same instances, and without training the seed decides nothing
        held = [[sorted(task.instances(np.frombuffer(tokens, np.int32))) for tokens in part] for part in (seen, seen[8:24], seen[32:48])]
        assert held[1] == held[2] and len({str(each) for each in held[0]}) < len(seen)
    else:
        assert len(set(seen)) == 48


@every_case
def test_goldens(case):
    assert digest(make(case)) == GOLDEN[case], "the same arguments give other examples: raise the task's version"


@every_case
def test_baselines_have_the_agreed_form(case):
    task = make(case)
    baselines = task.baselines()
    assert {"chance", "constant"} <= baselines.keys() and task.baselines() is baselines
    held = task.batch(0, "test", 0, 200)["difficulty"]
    for baseline in baselines.values():
        assert baseline["meaning"].endswith(".") and 0 <= baseline["exact"] <= baseline["label"] <= 1
        assert tuple(baseline["by"]) == task.difficulty_axes
        for axis, scores in baseline["by"].items():
            assert set(np.unique(held[axis][held[axis] >= 0])) <= set(scores)
            for metric in ("label", "exact"):
                assert np.mean([s[metric] for s in scores.values()]) == pytest.approx(baseline[metric])


def test_spec_hash_is_of_the_resolved_arguments():
    task = tasks.get("depo")
    assert task.spec_hash == tasks.get("depo", window=75, name_tokens=[1, 2], test_hops=[16, 8, 4, 2, 1]).spec_hash
    assert tasks.get("rule110", steps=[1, 4]) == tasks.get("rule110", steps=(np.int64(1), 4), width=np.int32(24))
    hashes = {make(case).spec_hash for case in CASES}
    assert len(hashes) == len(CASES) and all(len(h) == 64 for h in hashes)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("rule11", {}, "did you mean 'rule110'"),
        ("depo", {"node": 10}, "did you mean 'nodes'"),
        ("rule110", {"steps": -1}, "steps=-1 must be a whole number of at least 0"),
        ("rule110", {"steps": (4, 2)}, r"steps\[1\]=2"),
        ("rule110", {"rule": 256}, "rule=256"),
        ("rule110", {"width": True}, "width=True"),
        ("rule110", {"boundary": "perodic"}, "did you mean 'periodic'"),
        ("rule110", {"window": 25}, "window=25 must divide"),
        ("rule110", {"width": 12, "strings": 13}, "strings=13 queries must fit"),
        ("rule110", {"width": 12, "cells": 13}, "cells=13 must be a whole number from 1 to 12"),
        ("rule110", {"width": 12, "cells": 6, "window": 4}, "cells=6 queries must fit"),
        ("rule110", {"width": 12, "cells": 6, "boundary": "zero"}, "cells=6 needs boundary='periodic'"),
        ("rule110", {"width": 3, "strings": 1}, "split 'validation' is empty"),
        ("depo", {"name_tokens": (1, 1)}, "names=50.*fewer than nodes=75; raise names"),
        ("depo", {"name_tokens": 2}, "name_tokens=2 must be a pair"),
        ("depo", {"name_tokens": (1, 9)}, r"more than 2\*\*40"),
        ("depo", {"nodes_law": "inverted"}, "did you mean 'inverse'"),
        ("depo", {"nodes": 2}, "min_nodes=3 must be a whole number from 2 to 2"),
        ("depo", {"test_hops": (1, 17)}, "test_hops=17 must be a whole number from 1 to 16"),
        ("depo", {"test_hops": ()}, "must be a list of hops"),
        ("depo", {"window": 59}, "use window=60 or queries=9"),
        ("depo", {"nodes": 3, "names": 3, "name_tokens": (1, 1)}, "is empty"),
        ("hinted", {"role": "solvr"}, "did you mean 'solver'"),
        ("hinted", {"told": 3}, "told=3 nodes are longer than the room=2 of the slot; raise room"),
        ("hinted", {"hops": 8}, "hops=8 leads round the cycle of nodes=8"),
        ("hinted", {"shares": (50, 50, 1)}, "100 together"),
        ("hinted", {"window": 4}, r"window=4 can't hold the 5 tokens .* use window=5 or more, or room=1"),
        ("hinted", {"names": 2}, "names=2 must be a whole number of at least 3"),
    ],
)
def test_impossible_requests_name_the_fix(name, arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get(name, **arguments)


def test_impossible_examples():
    task = tasks.get("depo", nodes=5)
    for call in (task.example, lambda *a: task.batch(*a, 4)):
        with pytest.raises(UsageError, match="did you mean 'test'"):
            call(0, "tests", 0)
        with pytest.raises(UsageError, match="seed=-1"):
            call(-1, "test", 0)
    with pytest.raises(UsageError, match="at least 0"):
        task.batch(0, "test", -2, 4)
    with pytest.raises(UsageError, match="index=-2"):
        task.example(0, "test", -2)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="two tasks"):
        registry.register(type(tasks.get("depo")))


def test_a_file_or_a_folder_adds_a_task(tmp_path):
    """In a copy of the package, as a newcomer would: nothing else has to know the task."""
    package = shutil.copytree(pathlib.Path(base.__file__).parents[1], tmp_path / "sleepnet", ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    text = (package / "tasks/mqar.py").read_text()
    (package / "tasks/filed.py").write_text(text.replace('"mqar"', '"filed"'))
    (package / "tasks/foldered").mkdir()
    (package / "tasks/foldered/__init__.py").write_text("from sleepnet.tasks.foldered.task import Mqar")
    (package / "tasks/foldered/task.py").write_text(text.replace('"mqar"', '"foldered"'))
    code = "from sleepnet import tasks; print(*(tasks.get(name).seq_len for name in ('filed', 'foldered')), tasks.__file__)"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told == f"112 112 {package / 'tasks/__init__.py'}\n"


def test_tasks_need_no_jax():
    code = "import sys, sleepnet.tasks as t; t.names(); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


RISES = {  # task → arguments, the curriculum's, the difficulty that it raises, and its first value
    "depo": ({"nodes": 6, "hops": 3, "queries": 6, "nodes_law": "fixed"}, "hops_rise", "k", 1),
    "group": ({"length": (2, 4)}, "length_rise", "k", 2),
    "khop": ({"hops": (2, 4)}, "hops_rise", "k", 2),
    "variables": ({"chains": 2, "hops": 2, "queries": 2}, "hops_rise", "hops", 0),
}


@pytest.mark.parametrize("name", RISES)
def test_what_is_asked_rises_with_the_training_examples_only(name):
    arguments, key, axis, least = RISES[name]
    task, plain = tasks.get(name, **arguments, **{key: (100, 200)}), tasks.get(name, **arguments)
    by_stage = [task.batch(0, "train", start, 100)["difficulty"][axis] for start in (0, 100, 200, 5000)]
    assert [sorted(set(asked.ravel().tolist())) for asked in by_stage] == [[*range(least, least + more)] for more in (1, 2, 3, 3)]
    np.testing.assert_array_equal(task.batch(0, "test", 0, 50)["tokens"], plain.batch(0, "test", 0, 50)["tokens"])
    np.testing.assert_array_equal(task.batch(0, "train", 200, 50)["tokens"], plain.batch(0, "train", 200, 50)["tokens"])
    for index in (0, 99, 100, 250):
        np.testing.assert_array_equal(task.example(0, "train", index)["tokens"], task.batch(0, "train", index, 1)["tokens"][0])


if __name__ == "__main__":
    for case in CASES:
        print(f'    "{case}": "{digest(make(case))}",')
