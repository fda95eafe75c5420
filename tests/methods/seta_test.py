"""SETA after the abstract: a day moves its own entries and nothing else; masks, promotion, anchor, router term and gate by what must hold of them; what is refused."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, methods, tasks
from sleepnet.config import RunConfig, SparseConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.night import seta, tuned
from sleepnet.models import flops, gated, sparse
from sleepnet.origin import named
from sleepnet.train.step import draw, learning_of
import lives

ROWS, DAY, SURVEY, DAYS = 4, 4, 2, 3
STREAM = {"kind": "stream", "days": DAYS, "overlap": 4, "per_day": ROWS * DAY}
VALUES = {
    "task": {"name": "skills", "arguments": STREAM},
    "model": {"pattern": "A", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "sleep": {"passes": 1}, "sparse": {"count": DAYS}},
    "adapters": {"kind": "sparse"}, "method": {"name": "seta", "arguments": {"survey": SURVEY * ROWS, "sampled": 2, "top": 0.1}},
    "optim": {"warmup": 0, "adam_rate": 0.05, "weight_decay": 0.1}, "train": {"steps": DAYS * DAY, "batch_size": ROWS},
}  # fmt: skip


def run_of(**changes) -> RunConfig:
    return from_dict(RunConfig, {**VALUES, **{key: {**VALUES[key], **value} for key, value in changes.items()}})


def batch_of(task, step):
    batch = task.batch(0, "train", ROWS * step, ROWS)
    return {key: jnp.asarray(batch[key]) for key in ("tokens", "targets", "loss_mask", "answer")}


@pytest.fixture(scope="module")
def lived():
    """Three days of four steps, two of them survey: the learning, what is frozen, and the state before each step."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        (learning, state, frozen, step), states, told = lives.begin(run_of()), [], []
        for at in range(DAYS * DAY + 1):
            states.append(jax.tree.map(np.asarray, state))
            if at < DAYS * DAY:
                state, numbers = step(state, frozen, batch_of(learning.problem.task, at), draw(0, "", at), 1)
                told.append({key: float(value) for key, value in numbers.items()})
    assert all(np.isfinite(list(numbers.values())).all() for numbers in told)
    return learning, frozen, states, told


def leaves(state):
    return state.params[sparse.SPARSE]


def model_of(lived, state):
    learning, frozen, *_ = lived
    return nnx.merge(learning.problem.graph, jax.tree.map(jnp.asarray, {**frozen, **state.params}))


def test_in_the_survey_nothing_moves_and_then_only_what_is_open(lived):
    _, frozen, states, _ = lived
    assert not set(named(frozen)) & set(named(states[0].params)) and all(name.startswith("sparse.") for name in named(states[0].params))
    for day in range(DAYS):
        first = DAY * day
        same = lambda a, b: all(named(a.params)[name].tobytes() == leaf.tobytes() for name, leaf in named(b.params).items())
        assert all(same(states[first], states[first + at]) for at in range(1, SURVEY + 1)), day
        before, after = leaves(states[first + SURVEY]), leaves(states[first + DAY])
        opened = np.asarray(sparse.opened(after))
        assert opened.any() and (before["delta"][~opened].tobytes() == after["delta"][~opened].tobytes())
        assert (before["delta"] != after["delta"])[opened].mean() > 0.9  # weight decay and momentum included, what is shut stands still
        rows = [(before["gate"][d] == after["gate"][d]).all() for d in range(DAYS)]
        assert rows == [d != day or day == 0 for d in range(DAYS)] and after["seen"] == day + 1  # on the first day there is nothing to choose


def test_owners_are_few_and_apart(lived):
    """Each entry has one owner; a day opens the top share of each matrix less what it may not have; all shared entries had an owner before."""
    _, _, states, told = lived
    before = np.zeros_like(leaves(states[0])["owner"])
    for day in range(1, DAYS + 1):
        now = leaves(states[DAY * day])
        opened = {matrix: np.asarray(mask) for matrix, mask in now["open"].items()}
        counts = {matrix: (mask.sum(), int(np.ceil(0.1 * mask.size))) for matrix, mask in opened.items()}
        assert all(have == most if day == 1 else have <= most for have, most in counts.values()), counts
        whole = np.concatenate([opened[matrix] for matrix in sorted(opened)]) > 0
        owner = now["owner"]
        assert set(np.unique(owner[whole])) <= {sparse.SHARED, day} and not (whole & (owner == day) & (before != 0)).any()
        assert ((owner == sparse.SHARED) & (before == 0)).sum() == 0  # S ⊆ U
        assert (owner[~whole] == before[~whole]).all()
        np.testing.assert_allclose(told[DAY * day - 1]["grown"], (owner != 0).mean(), rtol=1e-6)
        before = owner


def test_a_gate_is_a_law_over_the_days_that_were_learnt(lived):
    _, _, states, _ = lived
    generator = np.random.default_rng(0)
    for at, seen in ((0, 0), (DAY, 1), (2 * DAY, 2)):
        now = jax.tree.map(jnp.asarray, leaves(states[at]))
        now["gate"] = now["gate"].at[seen:].set(9.0)  # what was not learnt is not chosen, whatever it scores
        for kind in sparse.GATES:
            gate = np.asarray(sparse.gate_of(now, kind, jnp.asarray(generator.random(9), jnp.float32), jnp.int32(8), 8))
            np.testing.assert_allclose(gate.sum(), 1.0 if seen else 0.0, rtol=1e-6)
            assert (gate[seen:] == 0).all() and (gate >= 0).all() and (kind == "soft" or kind == "uniform" or set(gate) <= {0.0, 1.0})


def test_a_gate_goes_by_the_tokens_that_it_reads_alone():
    """So that no answer behind them can choose: other words behind leave all features, bit for bit; another word among them does not."""
    config = run_of(model={**VALUES["model"], "sparse": {"count": DAYS, "reads": 3}})
    task = build.task_of(config)
    model = build.model_of(config, task)
    tokens = jnp.asarray(task.batch(0, "train", 0, ROWS)["tokens"])
    of = jax.jit(lambda tokens: gated.features(model, tokens))
    here, behind, among = (np.asarray(of(each)) for each in (tokens, tokens.at[:, 3:].set(1), tokens.at[:, 2].set(1)))
    assert here.tobytes() == behind.tobytes() and (np.abs(here - among).max(axis=1) > 1e-6).all()
    assert flops.gate_flops(model.config, task.seq_len) < flops.gate_flops(dataclasses.replace(model.config, sparse=SparseConfig(count=DAYS)), task.seq_len)


@pytest.mark.parametrize("reads, gate, message", [
    (0, "top1", "model.sparse.reads=0 shows the gate answers of days.* that it is to choose for: set it to 3 or less, but not to 0"),
    (4, "soft", "model.sparse.reads=4 shows the gate answers"), (17, "top1", "model.sparse.reads=17 is more than the window of 16"), (3, "top1", ""), (0, "uniform", ""),
])  # fmt: skip
def test_a_gate_that_would_read_its_answers_is_refused(reads, gate, message):
    """`ask`, two names, then the digits that are asked for."""
    arguments = {"kind": "stream", "days": DAYS, "facts": 2, "links": 0, "digits": 2, "window": 16, "told": "nothing", "asks": ("asked",), "per_day": ROWS * DAY}
    config = run_of(task={"name": "days", "arguments": arguments}, model={**VALUES["model"], "sparse": {"count": DAYS, "reads": reads, "gate": gate}})
    check = lambda: methods.of(config).check(config, build.task_of(config))
    if message:
        with pytest.raises(UsageError, match=message):
            check()
    else:
        check()


def test_at_birth_and_with_all_increments_out_it_is_the_base(lived):
    """Bit for bit before the first day; and, whatever was learnt, under a gate that is shut where nothing is shared."""
    learning, frozen, states, _ = lived
    tokens = batch_of(learning.problem.task, 0)["tokens"]
    plain = nnx.merge(nnx.split(build.model_of(run_of(model={**VALUES["model"], "sparse": {}}, adapters={"kind": "all"}, method={"name": "answers", "arguments": {}}), learning.problem.task), nnx.Param)[0], jax.tree.map(jnp.asarray, frozen))
    want = plain.forward(tokens, predicts=(True,))
    born = gated.under(model_of(lived, states[0]), jnp.ones(DAYS)).ungated(tokens, predicts=(True,))
    assert np.asarray(born).tobytes() == np.asarray(want).tobytes()
    np.testing.assert_allclose(model_of(lived, states[0]).forward(tokens, predicts=(True,)), want, atol=1e-5)
    one_day = gated.under(model_of(lived, states[DAY]), jnp.zeros(DAYS)).ungated(tokens, predicts=(True,))
    assert (leaves(states[DAY])["owner"] != sparse.SHARED).all() and np.asarray(one_day).tobytes() == np.asarray(want).tobytes()
    learnt = model_of(lived, states[-1])
    gates = np.asarray(gated.chosen(learnt, tokens))
    by_row = [gated.under(learnt, jnp.asarray(gate)).ungated(tokens[row : row + 1], predicts=(True,))[0] for row, gate in enumerate(gates)]
    np.testing.assert_allclose(learnt.forward(tokens, predicts=(True,)), np.stack(by_row), atol=1e-5)
    with pytest.raises(ValueError, match="sparse.count=3: which increments count is told by the beginning of a row"):
        learnt.wake(tokens, learnt.init_state(ROWS))


def made_leaves(owner, delta, days=3):
    zeros = jnp.zeros
    return {
        "delta": jnp.asarray(delta, jnp.float32), "owner": jnp.asarray(owner, jnp.float32), "open": {0: zeros(2), 1: zeros(len(owner) - 2)}, "seen": jnp.float32(2),
        "gate": zeros((days, 3)), "mean": zeros((days, 3)), "variance": zeros((days, 3)), "overlap": zeros(days), "chance": zeros(days),
    }  # fmt: skip


def test_promotion_leaves_what_its_day_says():
    """Entries of day 1 become shared with their value: nothing changes under day 1's gate, and they count under day 2's from then on."""
    delta = np.arange(1, 9)
    old = made_leaves([1, 1, 1, 2, 2, 0, 0, 0], delta)
    mask = jnp.asarray([1, 1, 0, 0, 0, 1, 0, 0], bool)
    new = sparse.divided(old, mask, "overlap", kappa=0.2)
    assert new["owner"].tolist() == [1, 1, 1, 2, 2, 3, 0, 0] and new["open"][1].tolist() == [0, 0, 0, 1, 0, 0]  # 2 of 3, chance 5 of 8: not more than three standard deviations
    many = made_leaves([1, 1, 1] + [0] * 97, np.arange(100))
    new = sparse.divided(many, jnp.arange(100) < 4, "overlap", kappa=0.2)
    assert new["owner"].tolist() == [-1, -1, -1, 3] + [0] * 96 and sparse.opened(new).sum() == 4 and float(new["overlap"][2]) == 0.75
    for gate, same in (([1, 0, 0], True), ([0, 1, 0], False)):
        was, now = (np.asarray(sparse.increment(each, jnp.asarray(gate, jnp.float32))) for each in (many, new))
        assert (was[:3] == now[:3]).all() == same
    assert sparse.divided(many, jnp.arange(100) < 4, "overlap", kappa=0.8)["owner"].tolist() == [1, 1, 1, 3] + [0] * 96
    assert sparse.divided(many, jnp.arange(100) < 4, "all_shared", kappa=0.2)["owner"].tolist() == [-1] * 4 + [0] * 96
    assert sparse.divided(many, jnp.arange(100) < 4, "all_unique", kappa=0.2)["owner"].tolist() == [1, 1, 1, 3] + [0] * 96


def test_random_masks_overlap_by_chance():
    generator, misses = np.random.default_rng(0), 0
    for _ in range(50):
        mask = sparse.top_share(jnp.asarray(generator.random(2000), jnp.float32), [500, 1500], 0.05)
        used = jnp.asarray(generator.random(2000) < 0.2)
        assert mask[:500].sum() == 25 and mask[500:].sum() == 75
        o, q, s = (float(value) for value in sparse.overlap(mask, used))
        np.testing.assert_allclose(s, np.sqrt(q * (1 - q) / 100), rtol=1e-5)
        misses += abs(o - q) > 4 * s
    assert not misses
    with pytest.raises(UsageError, match="masks of 2000 and of 10 entries have no overlap"):
        sparse.overlap(mask, jnp.ones(10, bool))


def test_anchor_and_router_term_hold_at_nothing():
    """The anchor is 0 with zero gradient at Δ*, by hand elsewhere, and of shared entries alone; the router term 0 where today is never chosen, else by hand."""
    owner = [-1, -1, 1, 0]
    held = {**made_leaves(owner, [1, 2, 3, 4]), "open": {0: jnp.ones(2), 1: jnp.ones(2)}}
    start, matters = jnp.asarray([1.0, 2, 3, 4]), jnp.asarray([1.0, 3, 5, 7])
    at = lambda delta: seta.anchored({**held, "delta": delta}, start, matters)
    value, slope = jax.value_and_grad(at)(start)
    assert value == 0 and (slope == 0).all()
    np.testing.assert_allclose(at(start + jnp.asarray([2.0, 1, 9, 9])), 0.5 * (0.5 * 4 + 1.5 * 1))
    h, gate = jnp.asarray([1.0, -1, 1]), jnp.asarray([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    never = {**held, "seen": jnp.float32(3), "gate": gate.at[2].set(jnp.asarray([0, 0, -1e4]))}
    np.testing.assert_allclose(seta.held_gate(never, gate, h), 0.0, atol=1e-6)
    even = {**never, "gate": gate}  # today's row is 0
    p, q = np.exp([1.0, -1]) / np.exp([1.0, -1]).sum(), np.exp([1.0, -1, 0]) / np.exp([1.0, -1, 0]).sum()
    np.testing.assert_allclose(seta.held_gate(even, gate, h), np.sum(p * np.log(p / q[:2])), rtol=1e-5)
    assert seta.held_gate({**even, "seen": jnp.float32(1)}, gate, h) == 0


@pytest.mark.parametrize("changes, message", [
    ({"task": {"name": "days", "arguments": {"days": 1}}}, "method.name='seta' lives through days: it needs a task with them, such as task.name='skills'"),
    ({"task": {"arguments": {**STREAM, "order": "mixed"}}}, "a night is of one day: task.arguments.order='mixed'"),
    ({"adapters": {"kind": "all"}}, "adapters.kind='all' with method.name='seta'.*set it to 'sparse'"),
    ({"model": {**VALUES["model"], "sparse": {"count": 2}}}, "train.steps=12 are 3 days, and model.sparse.count=2 has no place for each: set it to 3 or more"),
    ({"method": {"name": "seta", "arguments": {"survey": 12}}}, "method.arguments.survey=12 must be a multiple of train.batch_size=4 that leaves some of the task.arguments.per_day=16 to learn from"),
    ({"method": {"name": "seta", "arguments": {"split": "half"}}}, "method.arguments.split='half' is not one of overlap, all_shared, all_unique"),
    ({"model": {**VALUES["model"], "sparse": {}}}, "adapters.kind='sparse' needs increments: set model.sparse.count"),
    ({"model": {**VALUES["model"], "sparse": {"count": 3, "reads": -1}}}, "model.sparse.reads=-1 must be at least 0"),
    ({"model": {**VALUES["model"], "sparse": {"count": 3, "gate": "told"}}}, "model.sparse.gate='told' reads the day off the first token: set model.sparse.told_from"),
    ({"model": {**VALUES["model"], "sparse": {"count": 3, "names": "moe"}}}, "model.sparse.names='moe' matches no matrix of the model"),
])  # fmt: skip
def test_what_can_not_be_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        config = run_of(**changes)
        task = build.task_of(config)
        learning_of(config, task)


def test_a_lora_a_day_begins_as_it_was_born():
    method = tuned.Tuned(fresh=True)
    params = {"mlp": {"up": {"kernel": {"low_rank_a": jnp.ones((2, 1)), "low_rank_b": jnp.ones((1, 2))}}}}
    fresh = method.night(params, ())
    assert (fresh["mlp"]["up"]["kernel"]["low_rank_a"] == 1).all() and (fresh["mlp"]["up"]["kernel"]["low_rank_b"] == 0).all()
    config = run_of(adapters={"kind": "named", "names": "mlp"}, method={"name": "tuned", "arguments": {"fresh": True}}, model={**VALUES["model"], "sparse": {}})
    with pytest.raises(UsageError, match="method.arguments.fresh=True begins a LoRA each day, and adapters.kind='named' is none"):
        method.check(config, tasks.get("skills", **STREAM))


def test_its_cost_is_that_of_its_parts():
    """Each row is learnt from and its features read; survey and squared gradients come on top, and the terms of the gate cost nothing beside."""
    model = build.fit(run_of().model, tasks.get("skills", **STREAM))
    task, method = tasks.get("skills", **STREAM), seta.Seta(survey=8, sampled=2)
    plain = dataclasses.replace(model, sparse=SparseConfig())
    once = flops.forward_flops(plain, task.predicts, task.seq_len, 1)
    first = flops.pass_flops(plain, task.seq_len)  # of the only block
    assert flops.forward_flops(model, task.predicts, task.seq_len, 1) == once + first
    assert method.flops(model, task, 1) == 3 * once + first + 3 * once * (8 + 2) // 16
    assert dataclasses.replace(method, utility="random").flops(model, task, 1) == 3 * once + first + 3 * once * 2 // 16
