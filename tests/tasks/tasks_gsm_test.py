"""gsm against sympy: every text is parsed back into equations by a small parser of its own, and solved."""
import collections
import math

import numpy as np
import pytest
import sympy
from gsm_by_hand import Text, X

from sleepnet import tasks
from sleepnet.errors import UsageError

SMALL = {"ops": (1, 3), "length": (80, 120), "places": 8, "things": 8, "limit": 60, "window": 32}
CASES = {
    "forward": {**SMALL, "ops": (1, 8), "length": (200, 300), "limit": 1000},
    "alike": {**SMALL, "fillers": "alike", "question": "last"},
    "told": {**SMALL, "ops": (0, 2), "fillers": "alike"},
    "reverse": {**SMALL, "ops": (1, 8), "length": (200, 300), "limit": 1000, "direction": "reverse", "fillers": "alike"},
    "depth-3": {**SMALL, "ops": (1, 8), "length": (230, 330), "limit": 1000, "depth": 3, "parts": 5, "direction": "both", "fillers": "alike"},
}
every_case = pytest.mark.parametrize("case", CASES)


def words_of(task, tokens):
    return [task.token(token) for token in tokens.tolist() if token]


def examples(task, split, size, seed=0):
    batch = task.batch(seed, split, 0, size)
    for i in range(size):
        difficulty = {axis: int(value[i, 0]) for axis, value in batch["difficulty"].items()}
        yield Text(words_of(task, batch["tokens"][i])), int(task.token(int(batch["targets"][i, -1]))), difficulty


@every_case
@pytest.mark.parametrize("split", ["train", "test"])
def test_texts_solved_by_sympy(case, split):
    task = tasks.get("gsm", **CASES[case])
    for text, label, difficulty in examples(task, split, 30):
        found, solutions = text.solve()
        assert sum(map(len, text.core().values())) == difficulty["ops"] and (solutions is not None) == difficulty["reverse"]
        assert solutions is None or len(solutions) == 1
        assert text.answer == label
        values = [value.subs(X, label) for value in found.values()]
        assert all(value.is_Integer and 0 <= value <= task.limit for value in values)
        # a sentence once, and no quantity told twice but the top of a reverse problem
        assert len(set(text.sentences)) == len(text.sentences)
        twice = [name for name, count in collections.Counter(text.told()).items() if count > 1]
        assert not twice or (difficulty["reverse"] and difficulty["ops"] == 1 and len(twice) == 1)


@every_case
def test_fillers_change_nothing_and_are_a_world_that_can_be(case):
    task, about = tasks.get("gsm", **CASES[case]), 0
    for text, label, _ in examples(task, "train", 20, seed=1):
        core = text.core()
        kept = [word for name, sentence in text.sentences if name in core for word in sentence]
        question = text.words[text.asked_at : text.asked_at + text.words[text.asked_at :].index("?") + 1]
        assert Text(question + kept).answer == label
        fillers = [name for name in text.told() if name not in core]
        assert fillers
        towns = {name[-1] for name in core}
        about += sum(other in core for name in fillers for other in text.rule(name)[0])
        if task.fillers == "plain":
            assert not towns & {name[-1] for name in fillers} and not {n[0] for n in core} & {n[0] for n in fillers}
        full = {name: value.subs(X, label) for name, value in every_value(text).items()}
        assert all(value.is_Integer and 0 <= value <= task.limit for value in full.values())
    assert (about > 0) == (task.fillers == "alike")


def every_value(text):
    """Returns {quantity: expression in x} of all that is told."""
    found = {}

    def visit(name):
        if name not in found:
            names, rule = text.rule(name)
            found[name] = sympy.expand(rule(*map(visit, names)))
        return found[name]

    for name in text.told():
        visit(name)
    return found


@every_case
@pytest.mark.parametrize("question", ["first", "last"])
def test_lengths_and_places(case, question):
    task = tasks.get("gsm", **{**CASES[case], "question": question})
    lengths = []
    for text, _, _ in examples(task, "train", 60):
        lengths.append(len(text.words) - 1)
        behind = len(text.words) - 1 - text.words.index("?")
        assert text.asked_at == 0 if question == "first" else behind == 1
        assert text.rest == ["Answer:"]
    assert task.length[0] <= min(lengths) and max(lengths) <= task.length[1]
    # uniform, less the rest that no sentence fits into
    assert np.mean(lengths) == pytest.approx(np.mean(task.length), abs=4 + 5 * (task.length[1] - task.length[0]) / math.sqrt(12 * 60))


@pytest.mark.parametrize("case", ["forward", "reverse", "depth-3"])
def test_chains_of_thought_are_right_step_by_step(case):
    task = tasks.get("gsm", **{**CASES[case], "chain_of_thought": True, "window": 400})
    batch = task.batch(2, "train", 0, 25)
    for row in range(25):
        read = words_of(task, batch["tokens"][row])
        text, label = Text(read), int(task.token(int(batch["targets"][row, -1])))
        found, _ = text.solve()
        steps = " ".join(text.rest[1:-1]).split(" .")
        assert text.rest[0] == "Solution:" and text.rest[-1] == "Answer:" and steps.pop() == ""
        done = set()
        for step in steps[: len(found)]:
            head, *sides = step.strip().split(" = ")
            name = Text([*head.split(), "equals", "0", "."]).told()[0]
            assert name not in done and set(text.rule(name)[0]) <= done
            done.add(name)
            for side in sides:
                assert sympy.expand(sympy.sympify(side.replace("×", "*")) - found[name]) == 0
        assert done == set(found)
        rest = [[sympy.sympify(side.replace("×", "*")) for side in step.split(" = ")] for step in steps[len(found) :]]
        if text.unknown is None:
            assert not rest
        else:
            # a + b·x = what is told, and x = the label
            (form, told), (x, value) = rest
            assert sympy.solve(sympy.Eq(form, told), X) == [value] == [label] and x == X and form in found.values()
        learned = np.flatnonzero(batch["loss_mask"][row])
        assert len(learned) == len(text.rest) and learned[-1] == task.seq_len - 1
        np.testing.assert_array_equal(batch["targets"][row, learned[:-1]], batch["tokens"][row, learned[1:]])
        assert (batch["answer"][row] >= 0).sum() == 1


@pytest.mark.parametrize("fillers", ["plain", "alike"])
def test_whether_words_tell_a_filler(fillers):
    arguments = {"depth": 3, "length": (350, 450), "limit": 1000, "fillers": fillers, "window": 450, "places": 16}
    counts, graded = {True: collections.Counter(), False: collections.Counter()}, []
    for i, (text, _, _) in enumerate(examples(tasks.get("gsm", **arguments), "train", 240)):
        core = text.core()
        for name, sentence in text.sentences:
            if i < 160:
                counts[name in core].update(set(sentence))
                counts[name in core]["sentences"] += 1
            else:
                graded.append((name in core, set(sentence)))
    vocabulary = set(counts[True]) | set(counts[False])
    log_odds = {}
    for word in vocabulary:
        p, q = ((counts[kind][word] + 1) / (counts[kind]["sentences"] + 2) for kind in (True, False))
        log_odds[word] = (math.log(p / q), math.log((1 - p) / (1 - q)) if word != "sentences" else 0)
    right = {True: [], False: []}
    for kind, sentence in graded:
        score = sum(log_odds[word][word not in sentence] for word in vocabulary if word != "sentences")
        right[kind].append((score > 0) == kind)
    balanced = np.mean([np.mean(right[True]), np.mean(right[False])])
    print(fillers, balanced, len(graded))
    assert balanced > 0.99 if fillers == "plain" else balanced < 0.56


def test_held_out_problems_are_never_trained_on():
    arguments = {"ops": 1, "length": (30, 60), "places": 4, "things": 4, "limit": 20, "window": 61, "fillers": "alike"}
    task, seen = tasks.get("gsm", **arguments), {}
    for split, size in (("train", 1000), ("validation", 60), ("test", 60)):
        seen[split] = set()
        for text, _, _ in examples(task, split, size):
            core = text.core()
            seen[split].add((text.asked, frozenset(sentence for name, sentence in text.sentences if name in core)))
    assert min(map(len, seen.values())) > 20
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_baselines_are_what_the_guesses_score(direction):
    task = tasks.get("gsm", ops=(1, 3), length=(80, 90), limit=200, direction=direction, window=91)
    size, baselines = 1000, task.baselines()
    batch, by = task.batch(0, "train", 0, size), collections.defaultdict(list)
    for row, target in enumerate(batch["targets"][:, -1]):
        by[int(batch["difficulty"]["ops"][row, 0]), int(batch["difficulty"]["reverse"][row, 0])].append(task.token(int(target)))
    bound = 5 * math.sqrt(0.25 / size)
    # uniform in ops and in direction
    assert len(by) == (3 if direction == "forward" else 6)
    assert all(abs(len(found) / size - 1 / len(by)) < bound for found in by.values())
    share = lambda found: max(collections.Counter(found).values()) / len(found)
    assert np.mean([share(found) for found in by.values()]) == pytest.approx(baselines["majority"]["exact"], abs=bound)
    assert share(sum(by.values(), [])) == pytest.approx(baselines["constant"]["exact"], abs=bound)
    for (ops, reverse), found in by.items():
        if direction == "forward":
            assert share(found) == pytest.approx(baselines["majority"]["by"]["ops"][ops]["exact"], abs=2 * bound)
    in_text = []
    for text, label, _ in examples(task, "train", 200):
        core = text.core()
        numbers = [word for name, sentence in text.sentences if name in core for word in sentence if word.isdigit()]
        in_text.append(numbers.count(str(label)) / len(numbers))
    assert np.mean(in_text) == pytest.approx(baselines["in_text"]["exact"], abs=5 * np.std(in_text) / math.sqrt(200))
    assert baselines["chance"]["label"] == pytest.approx(1 / 201)


def test_knowing_the_ops_helps_a_guess():
    baselines = tasks.get("gsm", ops=(4, 8)).baselines()
    of = {name: [score["exact"] for score in baselines[name]["by"]["ops"].values()] for name in ("constant", "majority")}
    assert all(a <= b for a, b in zip(of["constant"], of["majority"])) and sum(of["constant"]) < sum(of["majority"])


def test_layouts():
    paper = tasks.get("gsm")
    assert (paper.seq_len, paper.window, paper.predicts, paper.answers) == (4000, 2000, (False, True), 1)
    sliding = tasks.get("gsm", window=512)
    assert (sliding.seq_len, sliding.predicts) == (7 * 512, (False,) * 6 + (True,))
    np.testing.assert_array_equal(sliding.batch(0, "train", 0, 2)["tokens"], paper.batch(0, "train", 0, 2)["tokens"][:, 4000 - 7 * 512 :])
    tokens = paper.batch(0, "train", 0, 8)["tokens"]
    lengths = (tokens != 0).sum(1) - 1
    assert lengths.min() >= 2000 and lengths.max() <= 3300 and (tokens[:, -1] == tokens[0, -1]).all()
    for question, tail in (("first", 1), ("last", 10)):
        alone = tasks.get("gsm", **{**SMALL, "question": question, "answer_alone": True})
        assert (alone.seq_len, alone.predicts) == (128 + tail, (False,) * 4 + (True,))
        read = [alone.token(token) for token in alone.example(0, "train", 0)["tokens"]]
        assert read[127] == "." and read[-1] == "Answer:" and (read[128] == "What" or tail == 1)


def test_the_most_ops_rise_with_the_training_examples_only():
    arguments = {**SMALL, "ops": (1, 3)}
    task, plain = tasks.get("gsm", ops_rise=(30, 60), **arguments), tasks.get("gsm", **arguments)
    by_stage = [set(task.batch(0, "train", start, 30)["difficulty"]["ops"].ravel().tolist()) for start in (0, 30, 60)]
    assert by_stage == [{1}, {1, 2}, {1, 2, 3}]
    np.testing.assert_array_equal(task.batch(0, "test", 0, 5)["tokens"], plain.batch(0, "test", 0, 5)["tokens"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ops": 9}, "ops=9 must be a whole number from 0 to 8"),
        ({"ops": (0, 2), "direction": "both"}, "direction='both' hides a number.*use ops from 1 on"),
        ({"ops": (3, 2)}, "ops=2 must be a whole number from 3 to 8"),
        ({"ops": (1, 2, 3)}, "must be a number, or a range"),
        ({"depth": 4}, "depth=4"),
        ({"direction": "backward"}, "unknown direction='backward'"),
        ({"question": "frist"}, "did you mean 'first'"),
        ({"fillers": "like"}, "did you mean 'alike'"),
        ({"chain_of_thought": 1}, "chain_of_thought=1 must be True or False"),
        ({"length": 300}, "length=300 must be a pair"),
        ({"length": (60, 120)}, r"length=\(60, 120\) can't hold every problem of ops=8; use length=\(60, 180\)"),
        ({"length": (300, 303)}, r"use length=\(300, 308\)"),
        ({"limit": 50}, "limit=50 must be a whole number from 80 to 1000"),
        ({"places": 33}, "places=33 must be a whole number from 4 to 32"),
        ({"places": 8}, "places=8 with things=16 name 96 quantities.*raise places or things"),
        ({"chain_of_thought": True, "window": 60}, "window=60 can't hold the 140 tokens from which the answer follows; use window=140"),
        ({"window": 0}, "window=0"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.get("gsm", **arguments)


def test_words_for_readers():
    task = tasks.get("gsm", **SMALL)
    text, label, _ = next(examples(task, "test", 1))
    lines = task.narrate(task.example(0, "test", 0)).splitlines()
    assert lines[0].startswith("Question: What is the number of ") and lines[1] == f"Answer: {label}" and lines[-1].endswith(f": {label}")
    assert len(lines) == 3 + len(text.core())
    described = task.describe()
    assert "GSM" not in described and "majority" in described and f"Answer:→{label}*" in described
