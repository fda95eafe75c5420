"""phonebook: content that hangs on nothing but its number, an order that hangs on the seed alone, and recall with the model's own tokens."""
import collections
import math

import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.eval import own_chain
from sleepnet.tasks.__main__ import main
from sleepnet.tasks.machinery import check

CONTEXTS = [{}, {"entries": 9}, {"entries": 6, "digits": 3, "window": 14, "names": 3}, {"listed": "awake"}, {"listed": "awake", "entries": 2, "digits": 1, "names": 2}]


def words(task, tokens):
    return [task.token(int(token)) for token in tokens]


def presented(task, start, count, seed=0, split="train"):
    """The keys that examples ask for, in order."""
    return [tuple(row) for row in task.batch(seed, split, start, count)["tokens"][:, :2].tolist()]


def memory(task):
    """What a book says, read off its examples: key → digits. Raises where an entry has two numbers."""
    batch, book = task.batch(0, "test", 0, task.entries), {}
    for tokens, targets in zip(batch["tokens"], batch["targets"]):
        assert book.setdefault(tuple(tokens[:2].tolist()), targets.tobytes()) == targets.tobytes()
    return book


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", CONTEXTS)
def test_a_fresh_book_tells_the_number_that_is_asked_for(arguments, split):
    task = tasks.get("phonebook", kind="context", **arguments)
    batch, entry = task.batch(5, split, 0, 40), 3 + task.digits
    for row in range(40):
        text = words(task, batch["tokens"][row])
        context, question = text[: -task.digits - 2], text[-task.digits - 2 :]
        listed = [word for word in context if word != "PAD"]
        entries = [listed[a : a + entry] for a in range(0, len(listed), entry)]
        book = {tuple(told[:2]): told[3:] for told in entries}
        assert len(book) == task.entries and all(told[2] == ":" for told in [*entries, question])
        labels = words(task, batch["targets"][row])
        assert labels == ["PAD"] * (len(text) - task.digits) + book[tuple(question[:2])] and question[3:] == labels[-task.digits : -1]
        back = [tuple(told[:2]) for told in entries[::-1]].index(tuple(question[:2])) + 1
        alike = sum(told[0] == question[0] or told[1] == question[1] for told in entries) - 1
        assert [int(batch["difficulty"][axis][row, 0]) for axis in ("place", "alike")] == [back, 2 ** int(math.log2(alike)) if alike else 0]
        for a in range(0, len(context), task.window):  # no entry is cut in two
            assert len([word for word in context[a : a + task.window] if word != "PAD"]) % entry == 0


def test_layouts():
    book, string = tasks.get("phonebook", entries=256), tasks.get("phonebook", kind="string", digits=150)
    asleep, awake = (tasks.get("phonebook", kind="context", listed=listed) for listed in ("asleep", "awake"))
    assert (book.seq_len, book.predicts, book.window) == (12, (True,), 64) and (string.seq_len, string.predicts) == (152, (True,) * 3)
    assert (asleep.seq_len, asleep.predicts) == (64 + 12, (False, True)) and (awake.seq_len, awake.predicts) == (64, (True,))
    assert tasks.get("phonebook", kind="context", entries=9).predicts == (False,) * 3 + (True,)
    # one model reads them all, and is asked in one way
    assert len({(task.vocab_size, task.window) for task in (book, string, asleep, awake)}) == 1
    shapes = {tuple(word[0] if word[0] in "ns:" else "digit" for word in words(task, task.example(1, "train", 3)["tokens"][-12:])) for task in (book, asleep, awake)}
    assert shapes == {("n", "s", ":", *["digit"] * 9)}
    assert book.answers == string.answers == 1 and string.example(0, "test", 0)["answer"].tolist() == [-1, -1] + [0] * 150
    assert book.by_heart and string.by_heart and not asleep.by_heart and not tasks.get("depo").by_heart


@pytest.mark.parametrize("arguments", [{"entries": 40}, {"kind": "string", "digits": 130}, {"entries": 16, "names": 4, "digits": 2}])
def test_content_hangs_on_its_number_alone(arguments):
    task = tasks.get("phonebook", **arguments)
    want = memory(task)
    assert len(want) == task.entries
    for seed in (0, 1, 2**64 - 1):
        for split in ("train", "validation", "test"):
            batch = task.batch(seed, split, 3, 2 * task.entries)
            assert {tuple(tokens[:2].tolist()): targets.tobytes() for tokens, targets in zip(batch["tokens"], batch["targets"])} == want
    assert memory(tasks.get("phonebook", **arguments, content=1)) != want
    assert memory(tasks.get("phonebook", **arguments, order="fixed", share_rise=(7, 20))) == want


def test_shorter_content_is_the_beginning_of_longer():
    short, long = memory(tasks.get("phonebook", entries=20)), memory(tasks.get("phonebook", entries=300))
    assert short.items() <= long.items() and list(short) == list(long)[:20]
    short, long = (tasks.get("phonebook", kind="string", digits=digits).example(0, "test", 0)["targets"] for digits in (60, 400))
    np.testing.assert_array_equal(short, long[:62])


def test_content_is_random():
    task = tasks.get("phonebook", entries=4096)  # every key there is
    book = memory(task)
    assert len(book) == 4096
    digits = np.stack([np.frombuffer(number, np.int32)[2:] for number in book.values()]) - 2
    counts = np.bincount(digits.ravel(), minlength=10)
    assert len(counts) == 10 and ((counts - 4096) ** 2).sum() / 4096 < 30  # chi², 9 degrees of freedom
    assert len({row.tobytes() for row in digits}) == 4096
    assert task.bits == pytest.approx(4096 * 33.2192809489)
    assert tasks.get("phonebook", kind="string", digits=100).bits == pytest.approx(332.192809489) and tasks.get("phonebook", kind="context").bits == 0


@pytest.mark.parametrize("order", ["shuffled", "fixed"])
def test_every_epoch_presents_each_entry_once(order):
    task = tasks.get("phonebook", entries=37, order=order)
    epochs = [presented(task, 37 * epoch, 37) for epoch in range(6)]
    assert all(set(epoch) == set(memory(task)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == (6 if order == "shuffled" else 1)
    assert presented(task, 0, 37, seed=1) != epochs[0] and presented(task, 30, 44) == (epochs[0] + epochs[1])[30:]
    assert presented(task, 3, 80, split="test") == (3 * list(memory(task)))[3:83] == presented(task, 3, 80, seed=9, split="validation")


@pytest.mark.parametrize("order", ["shuffled", "fixed"])
@pytest.mark.parametrize("rise", [(50, 90, 131, 300), (70, 200), ()])
def test_a_curriculum_adds_fifths_of_one_list(order, rise):
    task = tasks.get("phonebook", entries=23, order=order, share_rise=rise)
    starts, sizes = [0, *rise], [math.ceil(23 * share / 5) for share in (1, 2, 3, 4, 5)][4 - len(rise) :]
    sets = []
    for start, stop, size in zip(starts, [*rise, starts[-1] + 69], sizes):
        keys = presented(task, start, stop - start, seed=4)
        epochs = [keys[a : a + size] for a in range(0, len(keys), size)]
        whole = [epoch for epoch in epochs if len(epoch) == size]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs) and {frozenset(epoch) for epoch in whole} == {frozenset(whole[0])}
        assert (len(set(map(tuple, whole))) == 1) == (order == "fixed")
        sets.append(set(keys))
    assert all(small < large for small, large in zip(sets, sets[1:])) and sets[-1] == set(memory(task))
    # each set is the beginning of the list as the seed shuffles it once
    listed = presented(tasks.get("phonebook", entries=23, order="fixed"), 0, 23, seed=4)
    assert [set(listed[:size]) for size in sizes] == sets
    for index in (0, 49, 50, 131, 299, 300, 301):
        np.testing.assert_array_equal(task.example(4, "train", index)["tokens"], task.batch(4, "train", index, 1)["tokens"][0])


def test_what_reorders_changes_no_example():
    task = tasks.get("phonebook", entries=12)
    assert set(task.reorders) == {"order", "share_rise"} and tasks.get("depo").reorders == ()
    others = [tasks.get("phonebook", entries=12, **told) for told in ({"order": "fixed"}, {"share_rise": (24, 48, 72, 96)}, {"order": "fixed", "share_rise": (60,)})]

    def bag(task, split, start):
        batch = task.batch(3, split, start, 48)
        rows = zip(*(batch[field] for field in ("tokens", "targets", "loss_mask", "answer")), *batch["difficulty"].values())
        return collections.Counter(b"".join(part.tobytes() for part in row) for row in rows)

    for other in others:
        assert bag(other, "train", 120) == bag(task, "train", 120)  # whole epochs of all
        assert bag(other, "test", 5) == bag(task, "test", 5) and set(bag(other, "train", 0)) <= set(bag(task, "train", 0))
        assert other.spec_hash != task.spec_hash


@pytest.mark.parametrize("arguments", [{}, {"kind": "string", "digits": 90}, {"kind": "context"}, {"kind": "context", "listed": "awake"}])
def test_a_model_writes_all_digits_but_the_first_itself(arguments):
    task = tasks.get("phonebook", **arguments)
    batch = {key: jnp.asarray(value) for key, value in task.batch(0, "test", 0, 8).items() if key != "difficulty"}
    own = np.asarray(own_chain.written(batch["tokens"], batch["targets"], batch["loss_mask"]))
    assert task.thinks and task.answer_marker is None and own.sum() == 8 * (task.digits - 1)
    assert own[:, -task.digits + 1 :].all()
    assert not tasks.get("phonebook", digits=1).thinks


def test_baselines_are_what_guessing_scores():
    task = tasks.get("phonebook", entries=200, digits=2)
    numbers = [number[8:] for number in memory(task).values()]
    digits = np.stack([np.frombuffer(number, np.int32) for number in numbers]) - 2
    found = task.baselines()
    commonest = np.bincount(digits.ravel()).argmax()
    assert found["constant"]["label"] == pytest.approx((digits == commonest).mean()) and found["constant"]["exact"] == pytest.approx((digits == commonest).all(1).mean())
    assert found["one_number"]["exact"] == max(collections.Counter(numbers).values()) / 200
    assert found["one_number"]["label"] == pytest.approx(max((digits == one).mean() for one in digits))
    assert found["chance"]["exact"] == pytest.approx(0.01) and "one_number" not in tasks.get("phonebook", kind="string").baselines()
    task = tasks.get("phonebook", kind="context", entries=3, digits=2)
    rows = task.batch(0, "test", 0, 4000)
    first = np.stack([rows["tokens"][:, task.places[0] + 3 + place] for place in range(2)], 1) == rows["targets"][:, -2:]
    assert task.baselines()["in_context"]["label"] == pytest.approx(first.mean(), abs=0.02) and task.baselines()["in_context"]["exact"] == pytest.approx(first.all(1).mean(), abs=0.03)


def test_the_solver_finds_what_makers_get_wrong(monkeypatch):
    task = tasks.get("phonebook", entries=8)
    real = type(task)._content.func

    def swapped(task):
        (a, number), (b, other), *rest = real(task)
        return [(a, other), (b, number), *rest]

    monkeypatch.setattr(type(task)._content, "func", swapped)
    wrong = tasks.get("phonebook", entries=8).example(0, "test", 0)
    assert "position 2: " in check.disagreement(task, wrong) and check.disagreement(task, task.example(0, "test", 5)) is None


def test_commands(capsys):
    assert main(["check", "phonebook", "-n", "40", "--arguments", "entries=12"]) == 0
    assert "12 instances, 12 of them in every split, to be known by heart: nothing is held out" in capsys.readouterr().out
    assert main(["check", "phonebook", "-n", "40", "--arguments", "kind=context"]) == 0
    assert "none in two splits" in capsys.readouterr().out
    assert main(["describe", "phonebook", "--arguments", "entries=12", "share_rise=10,20", "order=fixed"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "399 bits" in text and "train, validation and test ask about the same instances" in text and "12 examples being all of it" in text
    assert "in the same order each time (another fifth of the shuffled list joins after 10, 20 training examples)" in text
    assert main(["sample", "phonebook", "--arguments", "kind=string", "digits=5"]) == 0
    assert "The number of n31 s27 is 69833." in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"kind": "strings"}, "did you mean 'string'"),
        ({"entries": 65, "names": 8}, "entries=65 are more than the 64 keys of names=8; use names=9"),
        ({"kind": "string", "entries": 2}, "entries=2 need kind='book'"),
        ({"kind": "context", "content": 1}, "content=1 says nothing where kind='context'"),
        ({"kind": "context", "order": "fixed"}, "order='fixed' says nothing where kind='context'"),
        ({"kind": "context", "share_rise": (5,)}, r"share_rise=\(5,\) says nothing"),
        ({"listed": "awake"}, "listed='awake' says nothing where kind='book'"),
        ({"kind": "context", "window": 12}, "window=12 can't hold the 13 tokens of an entry; use window=13"),
        ({"kind": "context", "listed": "awake", "entries": 5}, "window=64 can't hold the 77 tokens of entries=5 and the question; use window=77"),
        ({"share_rise": (1, 2, 3, 4, 5)}, "5 thresholds; 5 difficulties have at most 4"),
        ({"order": "sorted"}, "unknown order='sorted'"),
        ({"content": -1}, "content=-1"),
        ({"window": 2}, "window=2 must be a whole number of at least 3"),
        ({"kind": "context", "names": 1, "entries": 1, "digits": 1}, "is empty"),
    ],
)
def test_impossible_arguments(arguments, told):
    with pytest.raises(UsageError, match=told):
        tasks.get("phonebook", **arguments)
