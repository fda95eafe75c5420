"""variables against Python itself, which runs the statements, and against plain sampling."""
import itertools
import math
import random

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks.variables import FILLERS

CASES = [
    {},
    {"chains": 2, "hops": 3, "noise": (0, 9), "order": "shuffled", "queries": 4, "names": 8, "values": 5, "window": 9},
    {"chains": 1, "hops": 1, "noise": 0, "queries": 2},
]


def read(task, tokens):
    """Returns (statements as lists of three words, variables asked) of one example."""
    words = [task.token(int(token)) for token in tokens]
    context, asked = words[: -task.queries], words[-task.queries :]
    start = next(i for i, word in enumerate(context) if word != "PAD")
    assert "PAD" not in context[start:] and (len(context) - start) % 3 == 0
    return [context[i : i + 3] for i in range(start, len(context), 3)], asked


def run(task, statements):
    """Returns what all variables hold, and after how many copies: by letting Python run the statements until nothing is missing."""
    assignments = [s for s in statements if s[1] == "="]
    held, copies, waiting = {}, {}, assignments
    while waiting:
        missing = []
        for target, _, source in waiting:
            try:
                exec(f"{target} = {source}", {}, held)
                copies[target] = copies[source] + 1 if source in copies else 0
            except NameError:
                missing.append([target, "=", source])
        assert len(missing) < len(waiting) and (not missing or task.order == "shuffled")
        waiting = missing
    assert len(held) == len(assignments)
    return held, copies


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", CASES)
def test_python_holds_the_labels(arguments, split):
    task = tasks.get("variables", **arguments)
    batch = task.batch(4, split, 0, 60)
    least, most = (task.noise, task.noise) if isinstance(task.noise, int) else task.noise
    backwards = 0
    for i in range(60):
        statements, asked = read(task, batch["tokens"][i])
        held, copies = run(task, statements)
        assert sorted(copies.values()) == sorted(list(range(task.hops + 1)) * task.chains)
        assert len(set(held.values())) == task.chains and all(1 <= value <= task.values for value in held.values())
        noise = [statement for statement in statements if statement[1] != "="]
        assert least <= len(noise) <= most and all(set(statement) <= set(FILLERS) for statement in noise)
        assert len(set(asked)) == len(asked) == task.queries
        labels = [task.token(int(token)) for token in batch["targets"][i]]
        assert labels == ["PAD"] * (task.seq_len - task.queries) + [str(held[variable]) for variable in asked]
        assert batch["difficulty"]["hops"][i].tolist() == [copies[variable] for variable in asked]
        assert batch["difficulty"]["noise"][i].tolist() == [len(noise)] * task.queries
        np.testing.assert_array_equal(task.solve(batch["tokens"][i]), batch["targets"][i])
        (instance,) = task.instances(batch["tokens"][i])
        assert sorted(instance) == sorted((s[0], s[2]) for s in statements if s[1] == "=")
        order = [statement[0] for statement in statements]
        backwards += any(s[2] in order[j:] for j, s in enumerate(statements) if s[1] == "=")
    assert (backwards > 40) if task.order == "shuffled" else backwards == 0


def test_layout():
    task = tasks.get("variables")
    assert (task.seq_len, task.window, task.vocab_size, task.answers) == (130, 30, 114, 10)
    assert task.predicts == (False,) * 4 + (True,)
    small = tasks.get("variables", chains=2, hops=3, noise=(0, 9), queries=4, window=9)
    assert (small.seq_len, small.predicts) == (58, (False,) * 6 + (True,))
    assert tasks.get("variables", noise=3).window == 69
    assert (small.batch(0, "train", 0, 9)["answer"][:, -4:] == np.arange(4)).all()


def test_laws_of_statements_and_questions():
    task, size = tasks.get("variables", chains=2, hops=2, noise=(3, 4), queries=2, names=9, values=7), 6000
    batch = task.batch(0, "train", 0, size)
    hops = batch["difficulty"]["hops"]
    assert np.bincount(hops.ravel()) == pytest.approx(2 * size / 3, abs=5 * np.sqrt(size / 2))
    few = batch["difficulty"]["noise"][:, 0] == 3
    assert few.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / size))
    # where assignments stand: the ends of the context, as for six of nine statements drawn blindly
    context = batch["tokens"][few][:, task.seq_len - 29 : -2].reshape(-1, 9, 3)
    assigned = context[..., 1] == 1
    assert assigned.mean(0) == pytest.approx(6 / 9, abs=5 * np.sqrt(0.25 / few.sum()))
    # of the six, any three are one chain's
    chain = {}
    for row in context[:1500]:
        pairs = [(a, b) for a, equals, b in row.tolist() if equals == 1]
        root = {}
        for target, source in pairs:
            root[target] = root.get(source, source)
        pattern = tuple(root[target] == root[pairs[0][0]] for target, _ in pairs)
        chain[pattern] = chain.get(pattern, 0) + 1
    assert len(chain) == math.comb(5, 2)
    assert list(chain.values()) == pytest.approx([150] * 10, abs=5 * np.sqrt(150))
    words = np.bincount(batch["tokens"][batch["tokens"] > 1], minlength=30)
    for part in (slice(2, 14), slice(14, 23), slice(23, 30)):
        assert words[part] == pytest.approx(words[part].mean(), abs=6 * np.sqrt(2 * words[part].mean()))


def test_held_out_programs_are_never_trained_on():
    task, seen = tasks.get("variables", chains=2, hops=1, noise=1, queries=1, names=5, values=5, order="shuffled"), {}
    for split, size in (("train", 9000), ("validation", 400), ("test", 400)):
        tokens = np.concatenate([task.batch(seed, split, 0, size)["tokens"][:, :15] for seed in (0, 1)]).reshape(-1, 5, 3)
        seen[split] = {frozenset((a, b) for a, equals, b in row if equals == 1) for row in tokens.tolist()}
    assert all(seen.values())
    # four of five names in order, two numbers in order, the two chains alike
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == math.perm(5, 4) * math.perm(5, 2) // 2


def test_baselines_are_what_the_guesses_score():
    task = tasks.get("variables", chains=3, hops=2, noise=(1, 2), queries=3, values=9)
    baselines, rng = task.baselines(), random.Random(0)
    right = {name: {hops: [] for hops in range(3)} for name in ("chance", "constant", "in_context", "own_number")}
    for tokens in task.batch(0, "train", 0, 1500)["tokens"]:
        statements, asked = read(task, tokens)
        held, copies = run(task, statements)
        numbers, own = [s[2] for s in statements if s[2].isdigit()], {s[0]: s[2] for s in statements if s[1] == "="}
        for variable in asked:
            any_number = rng.choice(numbers)
            guess = {
                "chance": rng.randrange(1, 10), "constant": 4, "in_context": any_number,
                "own_number": own[variable] if own[variable].isdigit() else any_number,
            }
            for name, value in guess.items():
                right[name][copies[variable]].append(int(value) == held[variable])
    for name, hops in itertools.product(right, range(3)):
        by = baselines[name]["by"]["hops"][hops]
        assert by["label"] == by["exact"] == pytest.approx(np.mean(right[name][hops]), abs=0.05)
    for name in right:
        assert baselines[name]["label"] == pytest.approx(np.mean(sum(right[name].values(), [])), abs=0.03)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"names": 19}, "chains=4 with hops=4 use 20 variables, more than names=19; use names=20"),
        ({"values": 3}, "chains=4 need as many numbers, more than values=3; use values=4"),
        ({"queries": 21}, "queries=21 are more than the 20 variables to ask for at first; use queries=20"),
        ({"queries": 5, "hops_rise": (1, 2, 3, 4)}, "more than the 4 variables to ask for at first"),
        ({"hops_rise": (1, 2, 3, 4, 5)}, "hops_rise"),
        ({"hops": 0}, "hops=0 must be a whole number of at least 1"),
        ({"noise": (4, 2)}, "noise=2 must be a whole number of at least 4"),
        ({"noise": (4,)}, "must be a number, or a range"),
        ({"order": "forwards"}, "did you mean 'forward'"),
        ({"window": 31}, "window=31 would cut a statement; use window=33"),
        ({"window": 9}, "queries=10 must fit into one window of 9 tokens"),
        ({"chains": 1, "hops": 1, "queries": 1, "names": 2, "values": 2, "noise": 0}, "is empty"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("variables", **arguments)


def test_words_for_readers():
    task = tasks.get("variables", chains=2, hops=1, noise=2, queries=4)
    example = task.example(0, "test", 0)
    statements, asked = read(task, example["tokens"])
    held, copies = run(task, statements)
    source = {s[0]: s[2] for s in statements if s[1] == "="}
    want = [
        f"{v} = {held[v]}: no copy." if copies[v] == 0 else f"{v} = {source[v]} = {held[v]}: 1 copy." for v in asked
    ]
    assert task.narrate(example).splitlines() == want
    assert "2 chains" in task.describe() and f"{asked[0]}→{held[asked[0]]}*" in task.describe()
