"""Dreaming: a life with it moves what a night may move, stopped anywhere; copies are isolated; what is chosen, what is rewarded; the skill that is held."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lives
from seeding_test import ROWS, STREAM, batch_of, expert, run_of
from sleepnet import build, decode, methods, tasks
from sleepnet.errors import UsageError
from sleepnet.methods.night import dreaming, dreams, isolated, skill
from sleepnet.models import experts, flops
from sleepnet.origin import named
from sleepnet.train.step import draw, learning_of

NIGHT = 3
DREAMS = {"own": 0.0, "dreams": 2, "dreaming": 2 * ROWS, "dreamt": 3, "questions": 2, "best": 1, "lucky": 1, "inner_rank": 1, "inner_steps": 3, "inner_rate": 0.1, "metric": "likelihood"}


def dreamer(**arguments):
    task = {"arguments": {**STREAM, "per_day": ROWS * NIGHT}}
    return run_of(task=task, model={"sleep": {"passes": 1}}, method={"name": "dreaming", "arguments": {**DREAMS, **arguments}}, train={"steps": 2 * NIGHT})


@pytest.fixture(scope="module")
def model():
    """A problem, and its parameters with two experts born that have learnt something."""
    config = dreamer()
    task = build.task_of(config)
    problem = learning_of(config, task).problem
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, task), nnx.Param)[1])())
    generator = np.random.default_rng(0)
    learnt = lambda leaves: {name: leaf if name == "born" else jnp.asarray(generator.normal(size=leaf.shape) * 0.5, jnp.float32) for name, leaf in leaves.items()}
    return problem, experts._changed(experts.grow(experts.grow(params)), change=learnt)


def _stubbed(patch):
    """In place of what is tested by itself below: dreams are any words, and all but the first that is tried are rewarded."""
    any_words = lambda problem, key, shape: (jax.random.randint(key, shape, 1, problem.task.vocab_size, jnp.int32), jnp.ones(shape, bool))
    rows = lambda state: state.window.tokens.shape[0]
    patch.setattr(dreaming, "dreamt", lambda problem, params, state, key, many, law, random_expert: any_words(problem, key, (many, rows(state), problem.task.question_tokens - 1)))
    patch.setattr(dreaming, "gradient_norms", lambda problem, params, words, valid: jnp.arange(len(words), dtype=jnp.float32))
    known = lambda words: {"likelihood": jnp.arange(len(words), dtype=jnp.float32), "exact": jnp.zeros(len(words))}
    patch.setattr(dreaming, "tried", lambda problem, params, words, *rest, **more: ({"likelihood": jnp.zeros(()), "exact": jnp.zeros(())}, known(words)))


@pytest.fixture(scope="module", params=["stubbed", pytest.param("whole", marks=pytest.mark.slow)])
def lived(request):
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        if request.param == "stubbed":
            _stubbed(patch)
        (learning, state, frozen, step), states, told = lives.begin(dreamer()), [], []
        for at in range(2 * NIGHT + 1):
            states.append(jax.tree.map(np.asarray, state))
            if at < 2 * NIGHT:
                state, numbers = step(state, frozen, batch_of(learning.problem.task, at), draw(0, "", at), 1)
                told.append({name: float(value) for name, value in numbers.items()})
    return learning, frozen, step, states, told


def test_a_night_that_dreams_moves_its_expert_and_nothing_else(lived):
    learning, frozen, _, states, told = lived
    assert set(named(frozen)).isdisjoint(named(states[0].params)) and all(".experts." in name for name in named(states[0].params))
    first, second = ([expert(state, which) for state in states] for which in (0, 1))
    for name in ("low_in", "low_out", "gate", "gate_bias"):
        assert first[NIGHT][name] == first[-1][name] and second[0][name] == second[NIGHT][name] != second[-1][name], name
    memories = [state.opt_state["memory"] for state in states]
    assert [int(memory["step"]) for memory in memories] == list(range(2 * NIGHT + 1))
    rounds = [memory["words"].tobytes() for memory in memories]
    dreamt = rounds[2] == rounds[3] == rounds[4], rounds[5] == rounds[6], rounds[0] == rounds[1] != rounds[2] != rounds[5] != rounds[0]
    assert all(dreamt)  # one round a night, kept to its end
    for at, numbers in enumerate(told):
        assert np.isfinite(list(numbers.values())).all() and set(numbers) == {"loss", "gradient_norm", "dream_coverage", "dream_right", "dream_rewarded"}
        assert numbers["dream_rewarded"] == pytest.approx(memories[at + 1]["rewarded"].mean())
    assert sum(numbers["dream_rewarded"] for numbers in told) > 0


@pytest.mark.slow  # compiles two losses; what is learnt beside seeding is tested below
def test_the_dreamer_learns_what_was_rewarded_with_the_day_read(model):
    """Rows go through all that was tried; those of a dream without reward count nowhere. Facts are learnt with S = 0."""
    problem, params = model
    batch = batch_of(problem.task, 0)
    held = {"words": jnp.arange(4 * 19, dtype=jnp.int32).reshape(4, 19), "valid": jnp.ones((4, 19), bool), "rewarded": jnp.asarray([0.0, 1.0])}
    lesson = lambda at, **more: jax.jit(lambda params: methods.of(dreamer(**more))._lesson(problem, params, held, jnp.int32(at), batch, 1))(params)
    told, facts, all_ = lesson(2), lesson(2, learns="facts"), lesson(2, learns="facts", rewarded=False)
    for each in (told, facts):
        assert each["dream_words"][:, 0].tolist() == [0, 19, 38, 57] and each["dream_words"].shape == (ROWS, 5)
        np.testing.assert_allclose(each["dream_weights"], np.repeat([0, 0, 1 / 10, 1 / 10], 5).reshape(ROWS, 5), rtol=1e-6)
    np.testing.assert_allclose(all_["dream_weights"], 1 / 20, rtol=1e-6)
    weights = lambda each: [np.asarray(leaf) for leaf in dreams.taken(problem, params, each, "dream_state").fast_weights.layers]
    read = nnx.merge(problem.graph, params)
    want = read.sleep(read.wake(batch["tokens"][::2, : problem.task.first_asked], read.init_state(2))[1], passes=1).fast_weights.layers
    assert not any(leaf.any() for leaf in weights(facts)) and all(np.abs(leaf).max() > 1e-3 for leaf in weights(told))
    for leaf, by_hand in zip(weights(told), want):
        np.testing.assert_allclose(leaf, np.repeat(by_hand, 2, axis=0), atol=1e-5)


def test_what_is_learnt_is_added_to_a_night(model):
    """Seeding's own loss, and beside it −Σ weights · log p of dreams, from the state that is laid beside them; seeding's alone, bit for bit, where nothing was rewarded."""
    problem, params = model
    method, n = methods.of(dreamer()), problem.task.question_tokens - 1
    words = jax.random.randint(jax.random.key(0), (ROWS, n), 1, problem.task.vocab_size, jnp.int32)
    weights = jnp.zeros((ROWS, n)).at[1, 2].set(0.25).at[3, 0].set(0.75)
    state = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.dtype == jnp.float32 else leaf, nnx.merge(problem.graph, params).init_state(ROWS))

    @jax.jit
    def of(params, weights):
        batch = {"sequence": words, "answers": words > 3, "law": jnp.full((ROWS, n, problem.task.vocab_size), -np.log(problem.task.vocab_size))}
        dreamt = {"dream_words": words, "dream_weights": weights, **dreams.laid(state, "dream_state")}
        plain = lambda params: methods.of(run_of()).loss(problem, params, batch, 1, 2.0)[0]
        both = lambda params: method.loss(problem, params, {**batch, **dreamt}, 1, 2.0)[0]
        read = jnp.concatenate([jnp.full((ROWS, 1), problem.task.ask, jnp.int32), words[:, :-1]], axis=1)
        logps = jax.nn.log_softmax(nnx.merge(problem.graph, params).wake(read, state)[0], axis=-1)
        return plain(params), both(params), -0.25 * logps[1, 2, words[1, 2]] - 0.75 * logps[3, 0, words[3, 0]]

    plain, both, by_hand = of(params, weights)
    assert float(both - plain) == pytest.approx(float(by_hand), rel=1e-4) and by_hand > 0.5
    plain, both, _ = of(params, jnp.zeros_like(weights))
    assert float(plain) == float(both) > 0


def test_stopped_among_its_dreams_it_ends_as_unbroken(lived):
    learning, frozen, step, states, _ = lived
    state = jax.tree.map(jnp.asarray, states[NIGHT + 2])  # behind the round, before the last step that learns from it; the round is what the checkpoint holds
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for at in range(NIGHT + 2, 2 * NIGHT):
            state, _ = step(state, frozen, batch_of(learning.problem.task, at), draw(0, "", at), 1)
    assert all(np.asarray(leaf).tobytes() == named(states[-1])[name].tobytes() for name, leaf in named(state).items())


def test_copies_learn_side_by_side_as_each_would_alone():
    """Down a valley by hand: each copy to its own end, whatever the others are given."""
    factors, ends, rate = {"a": jnp.asarray([1.0, 2.0])}, np.asarray([[0.0, 1.0], [5.0, -1.0], [2.0, 2.0]], np.float32), 0.1
    loss = lambda factors, end: jnp.sum(jnp.square(factors["a"] - end))
    found = isolated.each_learnt(loss, factors, jnp.asarray(ends), optax.sgd(rate), 4)["a"]
    want = np.tile(np.asarray([1.0, 2.0]), (3, 1))
    for _ in range(4):
        want -= rate * 2 * (want - ends)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_the_chosen_are_the_largest_and_others_by_chance():
    value, seen = jnp.asarray([3.0, 9.0, 1.0, 7.0, 5.0]), set()
    for chosen in jax.vmap(lambda seed: isolated.best_and_lucky(jax.random.key(seed), value, 2, 2))(jnp.arange(30, dtype=jnp.uint32)).tolist():
        assert chosen[:2] == [1, 3] and len(set(chosen)) == 4
        seen |= set(chosen[2:])
    assert seen == {0, 2, 4}


def test_a_copy_is_chosen_and_graded_by_hand(model):
    """Gradients of single dreams, what is known before, and that nothing is known otherwise where a dream has no word that counts."""
    problem, params = model
    task, graph = problem.task, problem.graph
    words = jnp.asarray(task.recalled)  # two dreams: days
    valid = jnp.asarray(words != 0).at[1].set(False)
    tokens, targets = (jnp.asarray(each)[0] for each in task.questions_of(("paraphrased", "reversed")))

    @jax.jit
    def of(params):
        before, after = dreaming.tried(problem, params, words, valid, tokens, targets, rank=2, optimizer=optax.sgd(0.5), steps=3)
        return dreaming.gradient_norms(problem, params, words, valid), before, after

    @jax.jit
    def by_hand(params):
        def loss(params):
            model = nnx.merge(graph, params)
            read = jnp.concatenate([jnp.full((len(words[0]), 1), task.ask), words[0, :, :-1]], axis=1)
            logps = jax.nn.log_softmax(model.wake(read, model.init_state(len(read)))[0], axis=-1) * jax.nn.one_hot(words[0], task.vocab_size)
            return -jnp.sum(jnp.where(valid[0][..., None], logps, 0.0)) / jnp.sum(valid[0].astype(jnp.float32))
        model = nnx.merge(graph, params)
        return jax.grad(loss)(params), jax.nn.log_softmax(model.wake(tokens, model.init_state(len(tokens)))[0], axis=-1)

    norms, before, after = of(params)
    grads, logps = by_hand(params)
    np.testing.assert_allclose(norms, [np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(grads))), 0.0], rtol=1e-4, atol=1e-7)
    labelled = np.asarray(targets) != 0
    right = [(logps[row].argmax(-1) == targets[row])[labelled[row]].all() for row in range(len(targets))]
    said = np.where(labelled, np.take_along_axis(np.asarray(logps), np.asarray(targets)[..., None], axis=-1)[..., 0], 0.0)
    assert float(before["exact"]) == np.mean(right) and float(before["likelihood"]) == pytest.approx(said.sum(axis=1).mean(), rel=1e-4)
    assert float(after["likelihood"][1]) == pytest.approx(float(before["likelihood"]), abs=1e-5) and abs(float(after["likelihood"][0] - before["likelihood"])) > 1e-4


def test_questions_of_a_day_are_true_and_all_there_are():
    task = tasks.get("days", **{**STREAM, "days": 3, "facts": 3, "links": 1, "digits": 3, "names": 9, "window": 24})
    tokens, targets = task.questions_of(("paraphrased", "two_hop"))
    assert tokens.shape == targets.shape == (3, 6, task.question_tokens)
    plain = tasks.get("days", **{**STREAM, "days": 3, "facts": 3, "links": 1, "digits": 3, "names": 9, "window": 24, "told": "nothing", "asks": ("paraphrased", "two_hop")})
    for day in range(3):
        assert len({row.tobytes() for row in tokens[day, ::2]}) == 3 and len({row.tobytes() for row in tokens[day, 1::2]}) == 1
        for row in range(6):
            graded = targets[day, row] != 0
            np.testing.assert_array_equal(plain.solve(tokens[day, row])[graded], targets[day, row][graded])


def test_dreams_have_an_expert_of_their_own_wide_open(model):
    problem, params = model
    opened = [experts.one_open(params, jax.random.key(seed))["blocks"][0]["experts"] for seed in range(8)]
    here = params["blocks"][0]["experts"]
    for leaves in opened:
        (wide,) = np.flatnonzero(np.asarray(leaves["gate_bias"]) == 30)
        assert not np.any(leaves["gate"][wide]) and float(jax.nn.sigmoid(leaves["gate_bias"][wide])) == 1
        other = 1 - wide
        assert all(np.array_equal(leaves[name][other], here[name][other]) for name in here) and all(np.array_equal(leaves[name], here[name]) for name in ("low_in", "low_out", "born"))
    assert {int(np.argmax(leaves["gate_bias"])) for leaves in opened} == {0, 1}
    asleep = experts.prune(params)
    assert all(np.asarray(leaf).tobytes() == named(asleep)[name].tobytes() for name, leaf in named(experts.one_open(asleep, jax.random.key(0))).items())


def test_days_that_never_were_have_other_names_and_digits():
    """Of one text, told thrice: three days, each of which keeps apart what the text does."""
    task = tasks.get("days", **STREAM)
    text = np.repeat(task.batch(0, "train", 0, 1)["tokens"][:, : task.first_asked], 3, axis=0)
    other = np.asarray(skill.never_was(task, jax.random.key(3), jnp.asarray(text)))
    for one, two in zip(text, other):
        pairs = [(task.token(int(a)), task.token(int(b))) for a, b in zip(one, two)]
        assert all(a == b for a, b in pairs if a.isalpha()) and len(set(pairs)) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert len({two.tobytes() for two in other}) == 3


@pytest.mark.slow
def test_days_that_never_were_are_answered_as_before_the_nights(model):
    """The teacher is the model without experts, with the S that reading such a day left; the student has read it, too. Alike where no expert says anything."""
    problem, params = model
    task, graph = problem.task, problem.graph
    text = jnp.asarray(task.batch(0, "train", 0, 3)["tokens"][:, : task.first_asked])
    @jax.jit
    def of(params):
        ready = skill.prepared(problem, params, jax.random.key(1), text, 2, 1, decode.Law(), jnp.arange(6) % 2 == 0)
        there = lambda params: skill.loss(problem, params, ready)
        return ready, *jax.value_and_grad(there)(params)

    @jax.jit
    def by_hand(params, sequence):
        days = skill.never_was(task, jax.random.fold_in(jax.random.key(1), 0), text)
        def law(who):
            model = nnx.merge(graph, who)
            state = model.sleep(model.wake(days, model.init_state(3))[1], passes=1)
            return jax.nn.log_softmax(model.wake(sequence, jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0) if leaf.ndim else leaf, state))[0], axis=-1)
        return law(experts.prune(params)), law(params)

    ready, loss, _ = of(params)
    base, own = (np.asarray(law, np.float64) for law in by_hand(params, ready["skill_sequence"]))
    np.testing.assert_allclose(ready["skill_law"], base, atol=1e-5)
    weights = np.asarray(ready["skill_weights"])
    assert float(loss) == pytest.approx((weights * (np.exp(base) * (base - own)).sum(-1)).sum(), rel=1e-4) and float(loss) > 1e-3 and weights.sum() == pytest.approx(1)
    _, loss, grads = of(experts.prune(params))
    assert abs(float(loss)) < 1e-6 and max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) < 1e-5


def test_student_and_teacher_have_read_for_themselves(model, monkeypatch):
    """Who reads leaves a mark: what is said is the teacher's, from its own S; what the student is asked from is its own."""
    problem, student = model
    marked, asked = lambda state, mark: jax.tree.map(lambda leaf: leaf + mark if leaf.dtype == jnp.float32 else leaf, state), []
    mark = lambda params: 1.0 if params is student else 2.0
    of = lambda state: float(state.fast_weights.layers[0].max())

    def read(graph, params, state, tokens, *, at, passes=1):
        asked.append((mark(params), of(state)))
        return jnp.zeros((*tokens.shape, problem.task.vocab_size)), marked(state, mark(params))

    def write(problem, params, state, keys, forced, law):
        asked.append((mark(params), of(state)))
        return jnp.ones((4, 5), jnp.int32), jnp.ones((4, 5), bool)

    monkeypatch.setattr(decode, "read", read)
    monkeypatch.setattr(dreams, "write", write)
    text = jnp.asarray(problem.task.batch(0, "train", 0, 2)["tokens"][:, : problem.task.first_asked])
    ready = skill.prepared(problem, student, jax.random.key(0), text, 2, 1, decode.Law(), None)
    assert asked == [(2, 0), (2, 2), (2, 2), (1, 0)] and of(dreams.taken(problem, student, ready, "skill_state")) == 1


def test_what_is_laid_into_a_batch_is_taken_out_again(model):
    problem, params = model
    blank = nnx.merge(problem.graph, params).init_state(3)
    state = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype) if leaf.ndim and leaf.dtype != bool else leaf, blank)
    again = dreams.taken(problem, params, dreams.laid(state, "held"), "held")
    assert jax.tree.structure(again) == jax.tree.structure(state) and all(np.array_equal(one, other) for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state)))


def test_what_dreaming_costs():
    config = dreamer()
    task, model = build.task_of(config), build.fit(config.model, build.task_of(config))
    cost = lambda **arguments: methods.get("dreaming", **{**DREAMS, **arguments}).flops(model, task, 2)
    plain, held = (methods.get("seeding", own=0.0, dreams=2, skill=value).flops(model, task, 2) for value in (0.0, 1.0))
    n = task.question_tokens - 1
    text = flops.pass_flops(model, 12) + flops.sleep_flops(model, 2)
    once, word = flops.pass_flops(model, n, context=12) + flops.head_flops(model, n), flops.wake_token_flops(model)
    asked = 4 * (flops.pass_flops(model, n + 1, context=12) + flops.head_flops(model, n + 1))  # two facts, paraphrased and reversed
    made, trials = text + 6 * (n * word + 3 * once), 2 * 2 * 3 * 3 * once + 3 * asked
    assert cost() == plain + ((text // 2 + 3 * once) * 2 * ROWS + made + trials) // (NIGHT * ROWS)
    assert cost(choose="random") < cost() < cost(choose="all") and cost(nights=2) != cost() and cost(learns="facts") < cost()
    assert held - plain == 2 * text // 2 + n * word + 4 * once


@pytest.mark.parametrize("arguments, message", [
    ({"choose": "some"}, "method.arguments.choose='some' is not one of gradient, random, all"), ({"metric": "loss"}, "is not one of exact, likelihood"),
    ({"dreaming": 3}, "method.arguments.dreaming=3 must be a multiple of train.batch_size=4 and less than task.arguments.per_day=12"), ({"dreaming": 12}, "less than task.arguments.per_day=12"),
    ({"best": 3, "lucky": 1}, "are 4 dreams of dreamt=3"), ({"inner_steps": 0}, "inner_steps=0 must be at least 1"), ({"skill": -1.0}, "method.arguments.skill=-1.0 must be at least 0"),
])  # fmt: skip
def test_what_can_not_be_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        config = dreamer(**arguments)
        methods.of(config).check(config, build.task_of(config))


def test_a_day_that_is_only_asked_as_dreams_ask_has_no_measure():
    config = run_of(task={"arguments": {**STREAM, "asks": ("asked",), "per_day": ROWS * NIGHT}}, method={"name": "dreaming", "arguments": DREAMS}, train={"steps": 2 * NIGHT})
    with pytest.raises(UsageError, match="has nothing that a dream does not ask: add 'paraphrased', 'reversed' or 'two_hop'"):
        methods.of(config).check(config, build.task_of(config))
