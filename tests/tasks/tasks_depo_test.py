"""depo read back from its tokens alone, by a parser that shares nothing with the generator, and walked with networkx."""
import itertools
import math
import random

import networkx as nx
import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError

PAD, ANS = 0, 2


def split_names(tokens, letters):
    """Cuts tokens into names: a name ends at the first token of the upper half."""
    names, name = [], []
    for token in tokens:
        assert 3 <= token < 3 + 2 * letters
        name.append(token)
        if token >= 3 + letters:
            names.append(tuple(name))
            name = []
    assert not name
    return names


def parse(tokens, letters, edge_tokens):
    """Returns the edges [(name, name)] and the queries [(k, name, answer, position of <ans>)] of one example."""
    tokens = [int(t) for t in tokens]
    context = tokens[:edge_tokens]
    context = context[next((i for i, t in enumerate(context) if t != PAD), edge_tokens) :]
    ends = split_names(context, letters)
    edges = list(zip(ends[::2], ends[1::2], strict=True))
    queries, first_query = [], 3 + 2 * letters
    starts = [i for i in range(edge_tokens, len(tokens)) if tokens[i] >= first_query]
    for a, b in zip(starts, starts[1:] + [len(tokens)]):
        ans = tokens.index(ANS, a, b)
        end = next((i for i in range(ans, b) if tokens[i] == PAD), b)
        assert set(tokens[end:b]) <= {PAD}
        (name,), (answer,) = split_names(tokens[a + 1 : ans], letters), split_names(tokens[ans + 1 : end], letters)
        queries.append((tokens[a] - first_query + 1, name, answer, ans))
    assert PAD not in tokens[edge_tokens : starts[-1]]
    return edges, queries


def walk(edges, name, k):
    """Follows k edges."""
    after = dict(edges)
    for _ in range(k):
        name = after[name]
    return name


@pytest.mark.parametrize("hops_rise", [100, (200, 100), (1, 2, 3), (-1,)])
def test_a_curriculum_that_makes_no_sense_is_refused(hops_rise):
    with pytest.raises(UsageError, match="hops_rise"):
        tasks.get("depo", nodes=6, hops=3, queries=6, hops_rise=hops_rise)


def test_queries_may_fill_several_windows_only_where_none_is_cut():
    task = tasks.get("depo", nodes=8, hops=2, queries=8, names=16, name_tokens=(1, 1), nodes_law="fixed", window=16)
    assert task.predicts == (False, True, True) and task.seq_len == 48
    labels = task.batch(0, "test", 0, 20)["loss_mask"]
    assert not labels[:, :16].any() and labels[:, 16:32].any() and labels[:, 32:].any()
    with pytest.raises(UsageError, match="would cut a query"):
        tasks.get("depo", nodes=8, hops=2, queries=8, names=16, name_tokens=(1, 2), nodes_law="fixed", window=32)
    with pytest.raises(UsageError, match="would cut a query"):
        tasks.get("depo", nodes=8, hops=2, queries=8, names=16, name_tokens=(1, 1), nodes_law="fixed", window=18)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"nodes": 10, "hops": 4, "names": 12, "name_tokens": (1, 1)}, {"nodes": 8, "names": 3, "name_tokens": (2, 4), "min_nodes": 2}],
)
def test_every_query_walks_to_its_answer(arguments, split):
    task = tasks.get("depo", **arguments)
    batch = task.batch(2, split, 0, 60)
    for i in range(60):
        tokens = batch["tokens"][i]
        edges, queries = parse(tokens, task.names, task.edge_tokens)
        graph, n = nx.DiGraph(edges), len(edges)
        assert nx.is_strongly_connected(graph) and len(graph) == n == graph.number_of_edges()
        assert all(task.name_tokens[0] <= len(name) <= task.name_tokens[1] for name in graph)
        assert len({name for _, name, _, _ in queries}) == len(queries) == min(n, task.queries)
        assert n == task.nodes or (split == "train" and task.min_nodes <= n)

        targets, answer = np.zeros(task.seq_len), np.full(task.seq_len, -1)
        loss = np.zeros(task.seq_len, bool)
        for group, (k, name, reply, ans) in enumerate(queries):
            assert walk(edges, name, k) == reply
            assert k <= task.hops if split == "train" else k in task.test_hops
            for place in range(ans - 1, ans + len(reply)):
                targets[place], loss[place] = tokens[place + 1], True
                answer[place] = group if place >= ans else -1
            assert (batch["difficulty"]["k"][i, group], batch["difficulty"]["n"][i, group]) == (k, n)
        np.testing.assert_array_equal(batch["targets"][i], targets)
        np.testing.assert_array_equal(batch["loss_mask"][i], loss)
        np.testing.assert_array_equal(batch["answer"][i], answer)
        assert (batch["difficulty"]["k"][i, len(queries) :] == -1).all()


def test_a_question_may_leave_its_hops_to_the_passes():
    task = tasks.get("depo", nodes=7, names=9, name_tokens=(1, 1), queries=3, hops=1, follow_passes=True)
    for passes, hops in ((1, 1), (2, 1), (3, 2), (9, 8)):
        asked = task.at(passes)
        for split in ("train", "test"):
            batch, one = asked.batch(2, split, 0, 20), task.batch(2, split, 0, 20)
            context = slice(0, task.edge_tokens)
            np.testing.assert_array_equal(batch["tokens"][:, context], one["tokens"][:, context])  # the cycles are the same, whatever N is
            for i, tokens in enumerate(batch["tokens"]):
                edges, queries = parse(tokens, task.names, task.edge_tokens)
                assert all(told == 1 and walk(edges, name, hops) == reply for told, name, reply, _ in queries) and queries
                np.testing.assert_array_equal(asked.solve(tokens), batch["targets"][i])
                steps = asked.steps_of(asked.batch(2, split, i, 1), hops - 1)[0, -1]
                assert all(steps[2 * [a for a, _ in edges].index(name) + 1 + task.edge_tokens - 2 * len(edges)] == reply[0] for _, name, reply, _ in queries)
            assert set(batch["difficulty"]["k"].ravel()) - {-1} == {hops} == set(asked.baselines()["in_context"]["by"]["k"])
    assert "<query>" in task.describe() and "k = N − 1 of a sleep" in task.explain() and "3 steps after" in task.at(4).narrate(task.at(3).example(0, "test", 0))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"asked": 2}, "asked=2 says k where hops=16 lets each query tell its own: use hops=1"),
        ({"hops": 1, "asked": 0}, "asked=0 must be a whole number"),
        ({"hops": 1, "asked": 2, "follow_passes": True}, "leave out one"),
        ({"hops": 1, "follow_passes": 2}, "must be True or False"),
    ],
)
def test_hops_that_are_said_twice_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.get("depo", **arguments)


def test_the_worked_example():
    task = tasks.get("depo", nodes=5, names=3)
    token = {task.token(number): number for number in range(task.vocab_size)}
    text = "3 4 2 5 3 5 5 2 4 3 4 2 5 3 5 5 2 4 <query_1> 5 <ans> 2 4"
    tokens = [token[word] for word in text.split()]
    edges, queries = parse(tokens, letters=3, edge_tokens=18)
    as_text = [tuple("".join(map(task.token, name)) for name in edge) for edge in edges]
    assert as_text == [("34", "25"), ("35", "5"), ("24", "34"), ("25", "35"), ("5", "24")]
    assert list(itertools.accumulate(range(5), lambda at, _: dict(as_text)[at], initial="5")) == ["5", "24", "34", "25", "35", "5"]
    ((k, name, reply, _),) = queries
    assert walk(edges, name, k) == reply
    # all 3 + 9 names are spelled, differently, and none begins another
    names = [tuple(task.spell(number)) for number in range(12)]
    assert len(set(names)) == 12 and not any(a == b[: len(a)] for a in names for b in names if a != b)


def test_layout_of_the_paper():
    task = tasks.get("depo")
    assert (task.seq_len, task.window, task.vocab_size, task.answers, task.edge_tokens) == (360, 75, 119, 10, 300)
    assert task.predicts == (False,) * 4 + (True,) and task.test_hops == (1, 2, 4, 8, 16)
    batch = task.batch(0, "test", 0, 600)
    edges, queries = (batch["tokens"][:, :300] > 0).sum(1), (batch["tokens"][:, 300:] > 0).sum(1)
    assert 205 <= edges.min() and edges.max() <= 275 and 42 <= queries.min() and queries.max() <= 60
    # padding lies left of the edges and right of the queries
    assert (np.diff((batch["tokens"][:, :300] > 0).astype(int)) >= 0).all()
    assert (np.diff((batch["tokens"][:, 300:] > 0).astype(int)) <= 0).all()

    rng, plain = random.Random(0), []
    for _ in range(1000):
        names = set()
        while len(names) < 75:
            names.add(tuple(rng.randrange(50) for _ in range(rng.choice((1, 2)))))
        plain.append(2 * sum(map(len, names)))
    error = np.std(plain) * np.sqrt(1 / 1000 + 1 / 600)
    assert edges.mean() == pytest.approx(np.mean(plain), abs=5 * error)
    assert edges.std() == pytest.approx(np.std(plain), rel=0.15)


@pytest.mark.parametrize(
    "arguments, window, seq_len, windows",
    [
        ({"nodes": 10}, 60, 120, 2),
        ({"nodes": 10, "name_tokens": (1, 1)}, 40, 80, 2),
        ({"nodes": 75, "name_tokens": (1, 1), "names": 80}, 75, 190, 3),
        ({"nodes": 30}, 120, 180, 2),
        ({"nodes": 30, "window": 80}, 80, 220, 3),
        ({"nodes": 75, "queries": 13}, 300, 378, 2),
    ],
)
def test_windows(arguments, window, seq_len, windows):
    task = tasks.get("depo", **arguments)
    assert (task.window, task.seq_len, len(task.predicts)) == (window, seq_len, windows)
    assert task.edge_tokens % task.window == 0


def test_laws_of_n_k_and_starts():
    size = 8000
    task = tasks.get("depo", nodes=20, hops=6, queries=3)
    difficulty = task.batch(4, "train", 0, size)["difficulty"]
    n, k = difficulty["n"][:, 0], difficulty["k"]
    weight = np.array([1 / (m + math.sqrt(20)) for m in range(3, 21)])
    expected = size * weight / weight.sum()
    assert np.bincount(n, minlength=21)[3:] == pytest.approx(expected, abs=5 * np.sqrt(expected.max()))
    assert np.bincount(k.ravel(), minlength=7)[1:] == pytest.approx(k.size / 6, abs=5 * np.sqrt(k.size / 6))
    paper = np.array([1 / (m + math.sqrt(75)) for m in range(3, 76)])
    thresholds = np.array(tasks.get("depo").size_thresholds) / 2**53
    assert thresholds == pytest.approx((np.cumsum(paper) / paper.sum())[:-1])
    assert thresholds[16 - 3] == pytest.approx(0.40, abs=0.01)

    # where in the context a query's own edge stands is uniform
    fixed = tasks.get("depo", nodes=5, names=9, queries=2, nodes_law="fixed", name_tokens=(1, 1))
    places = np.zeros((2, 5))
    for tokens in fixed.batch(0, "train", 0, 2000)["tokens"]:
        edges, queries = parse(tokens, 9, fixed.edge_tokens)
        for q, (_, name, _, _) in enumerate(queries):
            places[q, [a for a, _ in edges].index(name)] += 1
    assert places == pytest.approx(400, abs=5 * np.sqrt(320))


def test_held_out_cycles_are_never_trained_on():
    task = tasks.get("depo", nodes=6, names=6, name_tokens=(1, 1), nodes_law="fixed", hops=2, queries=1)
    seen = {}
    for split in ("train", "validation", "test"):
        seen[split] = set()
        for seed in (0, 1):
            for tokens in task.batch(seed, split, 0, 600)["tokens"]:
                edges = dict(parse(tokens, 6, task.edge_tokens)[0])
                seen[split].add(tuple(itertools.accumulate(range(5), lambda at, _: edges[at], initial=min(edges))))
    assert all(seen.values())
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == math.factorial(5)


@pytest.mark.parametrize("arguments", [{"nodes": 16, "names": 4, "hops": 16}, {"nodes": 6, "hops": 3, "name_tokens": (1, 1)}])
def test_baselines_are_what_the_guesses_score(arguments):
    task = tasks.get("depo", **arguments)
    share, exact, constant, ks = [], [], {}, []
    for tokens in task.batch(0, "test", 0, 300)["tokens"]:
        edges, queries = parse(tokens, task.names, task.edge_tokens)
        for k, name, reply, _ in queries:
            others = [a for a, _ in edges if a != name] if k % len(edges) else [name]
            agree = [sum(a[:j] == reply[:j] for a in others) for j in range(len(reply) + 1)]
            share.append((sum(after / before for before, after in itertools.pairwise(agree)), len(reply)))
            exact.append(others.count(reply) / len(others))
            constant[reply] = constant.get(reply, 0) + 1
            ks.append(k)
    label = sum(s for s, _ in share) / sum(n for _, n in share)
    baselines = task.baselines()
    assert baselines["in_context"]["label"] == pytest.approx(label, abs=0.02)
    assert baselines["in_context"]["exact"] == pytest.approx(np.mean(exact), abs=0.02)
    for k in task.test_hops:
        want = np.mean([e for e, of in zip(exact, ks) if of == k])
        assert baselines["in_context"]["by"]["k"][k]["exact"] == pytest.approx(want)
    least, most = task.name_tokens
    assert baselines["chance"]["exact"] == 1 / sum(task.names**m for m in range(least, most + 1))
    short = [constant.get((3 + task.names + letter,), 0) / len(ks) for letter in range(task.names)]
    assert baselines["constant"]["exact"] == pytest.approx(np.mean(short), abs=0.005)
    assert baselines["constant"]["label"] == pytest.approx(len(ks) / sum(n for _, n in share) / task.names, abs=0.005)
