"""group against sympy's permutations and groups, against the fold of a word by hand, and its layout."""
import functools

import numpy as np
import pytest
from sympy.combinatorics import Permutation, PermutationGroup
from sympy.combinatorics.named_groups import AlternatingGroup, SymmetricGroup

from sleepnet import tasks
from sleepnet.errors import UsageError

GROUPS = {"S5": SymmetricGroup(5), "A5": AlternatingGroup(5), "S4": PermutationGroup(Permutation(4)(0, 1, 2, 3), Permutation(4)(0, 1))}


def words(task, tokens):
    return [task.token(int(token)) for token in tokens]


def element(word):
    """A permutation from its spelling."""
    return Permutation([int(letter) - 1 for letter in word])


def product(group, word):
    """The spelling of the product of spelled elements, the first applied first."""
    if group == "Z60":
        return str(sum(map(int, word)) % 60)
    total = functools.reduce(lambda a, b: a * b, map(element, word))
    return "".join(str(total(i) + 1) for i in range(5))


@pytest.mark.parametrize("group", ["S5", "A5", "S4", "Z60"])
def test_elements_are_those_of_the_group(group):
    task = tasks.get("group", group=group)
    spelled = [task.token(number) for number in range(task.vocab_size)]
    assert spelled[0] == "PAD" and spelled[-1] == "?"
    if group == "Z60":
        assert spelled[1:-1] == [str(i) for i in range(60)]
    else:
        assert {element(word) for word in spelled[1:-1]} == set(GROUPS[group].elements)
        assert spelled[1:-1] == sorted(set(spelled[1:-1])) and len(spelled) == GROUPS[group].order() + 2


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("group", ["S5", "A5", "S4", "Z60"])
def test_products_agree_with_sympy(group, split):
    for task in (tasks.get("group", group=group), tasks.get("group", group=group, length=(2, 9), window=4)):
        batch = task.batch(5, split, 0, 60)
        for tokens, targets, k in zip(batch["tokens"], batch["targets"], batch["difficulty"]["k"]):
            read = words(task, tokens)
            word = read[read.count("PAD") : -1]
            assert read[-1] == "?" and "PAD" not in word and len(word) == k[0]
            assert task.token(int(targets[-1])) == product(group, word)
            assert {tuple(map(task.token, instance)) for instance in task.instances(tokens)} == {tuple(word)}
            np.testing.assert_array_equal(task.solve(tokens), targets)


def test_the_order_of_a_product():
    task = tasks.get("group")
    number = {task.token(token): token for token in range(task.vocab_size)}
    # 1 goes to 2 by the first, and 2 to 3 by the second
    tokens = np.array([0] * 18 + [number["21345"], number["13245"], number["?"]])
    assert task.token(int(task.solve(tokens)[-1])) == "31245" == product("S5", ["21345", "13245"])


@pytest.mark.parametrize("group", ["S5", "Z60"])
def test_running_products_agree_with_sympy(group):
    task = tasks.get("group", group=group, length=(3, 7), running=True, window=4)
    assert (task.seq_len, task.predicts, task.answers) == (7, (True, True), 5)
    batch = task.batch(0, "test", 0, 40)
    assert batch["loss_mask"].all() and (batch["answer"] == [-1, -1, 0, 1, 2, 3, 4]).all()
    assert (batch["difficulty"]["k"] == [3, 4, 5, 6, 7]).all()
    for tokens, targets in zip(batch["tokens"], batch["targets"]):
        word = words(task, tokens)
        assert words(task, targets) == [product(group, word[: i + 1]) for i in range(7)]
        np.testing.assert_array_equal(task.solve(tokens), targets)


@pytest.mark.parametrize("group", ["A5", "Z60"])
def test_a_chain_of_thought_is_the_products_on_the_way(group):
    task, plain = (tasks.get("group", group=group, length=(2, 6), window=3, chain_of_thought=chain) for chain in (True, False))
    assert (task.seq_len, task.predicts, task.answers, task.thinks) == (6 + 5, (False, False, True, True), 1, True)
    batch, without = task.batch(1, "test", 0, 60), plain.batch(1, "test", 0, 60)
    np.testing.assert_array_equal(batch["tokens"][:, :6], without["tokens"][:, :6])
    for tokens, targets, mask, answer, k in zip(*(batch[key] for key in ("tokens", "targets", "loss_mask", "answer")), batch["difficulty"]["k"][:, 0]):
        word = [w for w in words(task, tokens[:6]) if w != "PAD"]
        chain = [product(group, word[:n]) for n in range(2, k + 1)]
        rest = ["PAD"] * (5 - len(chain))
        assert words(task, targets[6:]) == chain + rest and words(task, tokens[6:]) == ["?", *chain[:-1]] + rest
        assert mask.tolist() == [False] * 6 + [True] * (k - 1) + [False] * (6 - k)
        assert np.flatnonzero(answer == 0).tolist() == [6 + k - 2] and (answer >= 0).sum() == 1
        assert {tuple(map(task.token, instance)) for instance in task.instances(tokens)} == {tuple(word)}
        assert task.narrate({"tokens": tokens, "targets": targets, "loss_mask": mask}) == f"{' · '.join(word)} = {chain[-1]}"
    np.testing.assert_array_equal(batch["targets"][answer_at(batch)], without["targets"][:, -1])


def answer_at(batch):
    return np.arange(len(batch["answer"])), batch["answer"].argmax(axis=1)


def test_a_task_without_its_chain_has_the_spec_it_had():
    assert "chain_of_thought" not in tasks.get("group").spec()["arguments"]
    assert tasks.get("group", chain_of_thought=True).spec_hash != tasks.get("group").spec_hash == "f5983c3803359cb3eb66e5eb4aafb2991bd0d220113376e1a7e0d4ed29a7d523"


def test_layout():
    task = tasks.get("group")
    assert (task.seq_len, task.window, task.vocab_size, task.predicts, task.answers) == (21, 20, 122, (False, True), 1)
    task = tasks.get("group", length=10, window=4, group="A5")
    assert (task.seq_len, task.window, task.vocab_size, task.predicts) == (13, 4, 62, (False, False, False, True))


def test_laws_of_k_and_of_elements():
    task, size = tasks.get("group", group="A5", length=(3, 6)), 8000
    batch = task.batch(2, "train", 0, size)
    assert np.bincount(batch["difficulty"]["k"][:, 0])[3:] == pytest.approx(size / 4, abs=5 * np.sqrt(size * 3 / 16))
    for field, part in (("tokens", slice(3, 6)), ("targets", slice(6, 7))):
        drawn = batch[field][:, part]
        share = np.bincount(drawn.ravel(), minlength=61)[1:61] / drawn.size
        assert share == pytest.approx(1 / 60, abs=5 * np.sqrt(1 / 60 / drawn.size))


def test_held_out_words_are_never_trained_on():
    seen = {}
    for split, size in (("train", 40_000), ("validation", 1000), ("test", 1000)):
        task = tasks.get("group", group="Z60", length=2)
        seen[split] = set(map(tuple, task.batch(0, split, 0, size)["tokens"][:, :2].tolist()))
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 3600
    # whatever the padding before them
    longer = tasks.get("group", group="Z60", length=(2, 5)).batch(1, "test", 0, 1000)
    short = longer["tokens"][longer["difficulty"]["k"][:, 0] == 2]
    assert len(short) > 100 and set(map(tuple, short[:, 3:5].tolist())) <= seen["test"]


@pytest.mark.parametrize("group", ["S5", "A5", "S4", "Z60"])
def test_baselines_are_what_the_guesses_score(group):
    task, size = tasks.get("group", group=group, length=(2, 3)), 4000
    batch, baselines = task.batch(0, "train", 0, size), task.baselines()
    labels, elements = batch["targets"][:, -1], task.vocab_size - 2
    bound = 5 * np.sqrt(1 / elements / size)
    share = np.bincount(labels, minlength=elements + 2)[1:-1] / size
    assert share == pytest.approx(baselines["constant"]["exact"], abs=bound) and baselines["chance"]["exact"] == 1 / elements
    assert (batch["tokens"][:, -2] == labels).mean() == pytest.approx(baselines["last"]["label"], abs=bound)
    # what is left of an element when order does not count is its coset of the commutators
    alike = 1 if group == "Z60" else GROUPS[group].derived_subgroup().order()
    assert baselines["unordered"]["label"] == 1 / alike


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"group": "S6"}, "did you mean 'S5'"),
        ({"length": 1}, "length=1 must be a whole number of at least 2"),
        ({"length": (5, 4)}, "length=4 must be a whole number of at least 5"),
        ({"length": (5,)}, "must be a number, or a range"),
        ({"running": 1}, "running=1 must be True or False"),
        ({"running": True, "length_rise": (5,)}, "length_rise needs running=False"),
        ({"length": 5, "length_rise": (5,)}, "length_rise"),
        ({"chain_of_thought": 1}, "chain_of_thought=1 must be True or False"),
        ({"chain_of_thought": True, "running": True}, "chain_of_thought needs running=False"),
        ({"window": 0}, "window=0 must be a whole number"),
        ({"asked": 3}, "asked=3 asks for a product of a word's last elements: use one length"),
        ({"length": 4, "asked": 5}, "asked=5 is more than the 4 elements of a word"),
        ({"length": 4, "asked": 0}, "asked=0 must be a whole number of at least 1"),
        ({"length": 4, "running": True, "follow_passes": True}, "follow_passes=True asks for a product of a word's last elements: use one length, running=False"),
        ({"length": 4, "asked": 2, "follow_passes": True}, "leave out one"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.get("group", **arguments)


def test_the_last_elements_of_a_word_agree_with_sympy():
    task = tasks.get("group", group="A5", length=8, spans="growing", follow_passes=True)
    for passes in (1, 2, 5, 8, 20):
        asked = task.at(passes)
        batch, whole = asked.batch(5, "test", 0, 20), task.batch(5, "test", 0, 20)
        np.testing.assert_array_equal(batch["tokens"], whole["tokens"])  # the words are the same, whatever N is
        assert set(batch["difficulty"]["k"].ravel()) == {min(passes, 8)} == set(asked.baselines()["last"]["by"]["k"])
        for row, tokens in enumerate(batch["tokens"]):
            *word, _ = words(task, tokens)
            assert task.token(int(batch["targets"][row, -1])) == product("A5", word[-passes:])
            assert task.token(int(whole["targets"][row, -1])) == product("A5", word)
            np.testing.assert_array_equal(asked.solve(tokens), batch["targets"][row])
        np.testing.assert_array_equal(asked.steps_of(batch, passes - 1)[:, -1, -1], batch["targets"][:, -1])
    assert task.at(1).baselines()["last"]["exact"] == 1 and task.at(2).baselines()["last"]["exact"] == 1 / 60
    assert tasks.get("group", length=8, follow_passes=True).at(3).asked == 4, "spans that double"
    assert "the last N, N being the passes" in task.explain() and task.chain_shape is None and " | " in task.at(3).narrate(task.at(3).example(0, "test", 0))


def test_words_for_readers():
    task = tasks.get("group", group="Z60", length=3)
    example = task.example(0, "test", 0)
    *word, _ = words(task, example["tokens"])
    assert task.narrate(example) == f"{' · '.join(word)} = {product('Z60', word)}"
    assert "?→" in task.describe() and "added modulo 60" in task.explain()
    assert "Nothing sleeps" in tasks.get("group", running=True).describe()
