"""hinted: what stands in the slot and what a memory says, read by hand; depo's own cycles and answers; the solver's text made of a memory's."""
import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.tasks import hinted

ARGUMENTS = {"nodes": 7, "hops": 5, "names": 9, "room": 3, "told": 2}


def read(tokens, edges):
    """(after, name, k, what stands before the query, what stands behind the name) of an example, by a walk over its tokens."""
    context, asked = tokens[:edges][tokens[:edges] != 0], tokens[edges:]
    at = int(np.argmax(asked >= 3 + 2 * 9))
    return dict(zip(context[::2].tolist(), context[1::2].tolist())), int(asked[at + 1]), int(asked[at]) - (3 + 2 * 9) + 1, asked[:at].tolist(), asked[at + 2 :].tolist()


def walk(after, node, steps):
    for _ in range(steps):
        node = after[node]
    return node


@pytest.fixture(scope="module")
def solver():
    task = tasks.get("hinted", **ARGUMENTS, shares=(40, 40, 20))
    return task, task.batch(2, "train", 0, 600)


def test_slots_are_what_they_say(solver):
    task, batch = solver
    met = []
    for tokens, targets, k, slot in zip(batch["tokens"], batch["targets"], batch["difficulty"]["k"][:, 0], batch["difficulty"]["slot"][:, 0]):
        after, name, asked, before, behind = read(tokens, task.edge_tokens)
        assert asked == k and behind == [hinted.ANS] and targets[-1] == walk(after, name, k)
        hint, length = [word for word in before if word], min(k, 2)
        assert before == [0] * (3 - len(hint)) + hint and len(hint) == (0 if slot == 0 else length)
        right = [walk(after, name, k - length + i) for i in range(length)]
        assert slot == 0 or (hint == right) == (slot == 1) and set(hint) <= set(after)
        assert slot != 1 or after[hint[-1]] == targets[-1]
        met.append(slot)
    assert np.abs(np.bincount(met) / len(met) - [0.4, 0.4, 0.2]).max() < 0.06


def test_the_cycles_and_questions_are_depos(solver):
    task, batch = solver
    depo = tasks.get("depo", nodes=7, hops=5, names=9, queries=1, name_tokens=(1, 1), nodes_law="fixed", test_hops=(1, 2, 3, 4, 5))
    own = depo.batch(2, "train", 0, 600)
    np.testing.assert_array_equal(batch["tokens"][:, : task.edge_tokens], own["tokens"][:, : depo.edge_tokens])
    np.testing.assert_array_equal(batch["targets"][:, -1], own["targets"][own["answer"] == 0])
    assert task.vocab_size == depo.vocab_size and not np.isin([hinted.GIVE, hinted.ABSTAIN, hinted.END], own["tokens"]).any()


def test_a_memory_says_the_last_nodes_of_the_way(solver):
    memory = tasks.get("hinted", **ARGUMENTS, role="memory")
    batch, told = memory.batch(2, "train", 0, 600), memory.oracle(memory.batch(2, "train", 0, 600)["tokens"])
    np.testing.assert_array_equal(told["solution"], solver[1]["targets"][:, -1])
    gives = 0
    for tokens, targets, answer, hint in zip(batch["tokens"], batch["targets"], batch["answer"], told["right_hint"]):
        after, name, k, before, behind = read(tokens, memory.edge_tokens)
        length, said = min(k, 2), targets[memory.edge_tokens + 1 :].tolist()
        right = [walk(after, name, k - length + i) for i in range(length)]
        assert before == [] and hint.tolist() == [0] * (3 - length) + right
        assert behind[0] == said[0] in (hinted.GIVE, hinted.ABSTAIN)
        if said[0] == hinted.GIVE:
            assert said[1:] == (right + [hinted.END, 0])[:3] and behind[1:] == (right + [0])[:2] and (answer >= 0).sum() == length
            gives += 1
        else:
            assert said[1:] == behind[1:] + [0] == [0] * 3 and (answer < 0).all()
    assert abs(gives / 600 - 0.5) < 0.06
    assert memory.solver() == tasks.get("hinted", **ARGUMENTS) and memory.solver(shares=(100, 0, 0)).batch(0, "test", 0, 9)["difficulty"]["slot"].max() == 0


def test_examples_are_told_in_words(solver):
    task, batch = solver
    pick = lambda row: {key: batch[key][row] for key in ("tokens", "targets", "loss_mask", "answer")} | {"difficulty": {axis: values[row] for axis, values in batch["difficulty"].items()}}
    told = {slot: task.mark(pick(int(np.argmax(batch["difficulty"]["slot"][:, 0] == slot)))) for slot in range(3)}
    assert "With no hint:" in told[0] and "With the hint (" in told[1] and "With the wrong hint (" in told[2] and "PAD×3" in told[0]
    memory = tasks.get("hinted", **ARGUMENTS, role="memory")
    assert "<hint>" in memory.describe() and "a slot of 3 tokens" in " ".join(task.describe().split())
