"""Dreaming (after Behrouz et al., arXiv 2606.03979; its rewards and its outer loop as in SEAL, which it says it follows): what a night dreams is tried before it is learnt.

At the end of a night the model reads the day once more, with a random expert wide open in each block dreams m times of some questions with their answers, and chooses
some of these dreams. Each is tried on a copy of the model that is isolated from it and from the others: low-rank increments that learn this dream by heart, S = 0. It is
rewarded where then more of the day is known, asked in ways that no dream has. The steps that are left of the night are one round of ReST-EM: the dreamer, which has read
the day, is made likelier to dream what was rewarded; or, with learns="facts", what such a dream says is learnt with S = 0.

Letters: B rows, m dreams, K of them tried, J questions of a dream, n words of one, Q questions that are asked of a copy, T tokens of one, D days.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sleepnet import decode
from sleepnet.errors import UsageError
from sleepnet.methods.base import Problem
from sleepnet.methods.night import dreams, isolated
from sleepnet.methods.night.seeding import Seeding
from sleepnet.methods.registry import register
from sleepnet.models import experts, flops
from sleepnet.state import State, fork
from sleepnet.tasks.base import PAD
from sleepnet.tasks.days.layout import MOST_DIGITS

CHOICES, METRICS, LEARNS = ("gradient", "random", "all"), ("exact", "likelihood"), ("dreamer", "facts")
_WORDS = 2 * MOST_DIGITS + 1  # the most of a dream: a key, a value, END


@register
@dataclasses.dataclass(frozen=True)
class Dreaming(Seeding):
    """Knowledge seeding, see `Seeding`; in the last `dreaming` examples of a night the loss is its own − mean over words of rewarded dreams of log softmax(logits)[word].

    Where nothing was rewarded a night is one of seeding. `dream_rewarded` is the share of dreams tried last that were.
    """

    dreaming: int = 640  # examples of a night, its last, in which it learns from dreams that were tried, too
    nights: int = 1  # it dreams in every so many-th night
    dreamt: int = 16  # m
    questions: int = 4  # J, of a dream, with their answers
    choose: str = "gradient"  # to be tried: `best` of largest gradient and `lucky` others; or best + lucky at random; or all
    best: int = 4
    lucky: int = 2
    random_expert: bool = True  # wide open in each block, while it dreams
    metric: str = "exact"  # of a copy: the share of questions that it answers right; or likelihood, of the true answers
    rewarded: bool = True  # what is learnt was rewarded; False, as a control: all that was tried
    learns: str = "dreamer"  # with the text read, as it was dreamt; or facts, with S = 0
    inner_rank: int = 4  # of a copy's increments
    inner_steps: int = 20
    inner_rate: float = 1e-3  # Adam's; SEAL's

    name = "dreaming"

    def __post_init__(self):
        super().__post_init__()
        for key, known in (("choose", CHOICES), ("metric", METRICS), ("learns", LEARNS)):
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(known)}")
        for key, least in (("dreaming", 1), ("nights", 1), ("dreamt", 1), ("questions", 1), ("best", 0), ("lucky", 0), ("inner_rank", 1), ("inner_steps", 1)):
            if getattr(self, key) < least:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must be at least {least}")
        if not self.inner_rate > 0:
            raise UsageError(f"method.arguments.inner_rate={self.inner_rate} must be positive")
        if self.choose != "all" and not 1 <= self.best + self.lucky <= self.dreamt:
            raise UsageError(f"method.arguments.best={self.best} and lucky={self.lucky} are {self.best + self.lucky} dreams of dreamt={self.dreamt}: choose one or more, as many as there are at most")

    @property
    def tells(self):
        return (*super().tells, "dream_rewarded")

    @property
    def tried(self) -> int:
        """K."""
        return self.dreamt if self.choose == "all" else self.best + self.lucky

    def check(self, config, task):
        super().check(config, task)
        if not _kinds(task):
            raise UsageError(f"task.arguments.asks={task.asks} has nothing that a dream does not ask: add 'paraphrased', 'reversed' or 'two_hop'")
        size = config.train.batch_size
        if self.dreaming % size or self.dreaming >= task.per_day:
            raise UsageError(f"method.arguments.dreaming={self.dreaming} must be a multiple of train.batch_size={size} and less than task.arguments.per_day={task.per_day}")

    def memory(self, batch_size, params):
        rows = self.tried * self.questions
        return {
            "seeding": super().memory(batch_size, params), "step": jnp.zeros((), jnp.int32), "rewarded": jnp.zeros((self.tried,), jnp.float32),
            "words": jnp.full((rows, _WORDS), PAD, jnp.int32), "valid": jnp.zeros((rows, _WORDS), bool),
        }  # fmt: skip

    def prepare(self, problem, params, memory, batch, key, passes):
        rows = batch["tokens"].shape[0]
        every, last = problem.task.per_day // rows, self.dreaming // rows
        night, at = jnp.divmod(memory["step"], every)
        now = (at >= every - last) & ((night + 1) % self.nights == 0)
        ready, seeding = super().prepare(problem, params, memory["seeding"], batch, key, passes)
        held = {name: memory[name] for name in ("words", "valid", "rewarded")}
        held = jax.lax.cond(now & (at == every - last), lambda: self._round(problem, params, batch, jax.random.fold_in(key, 6), passes), lambda: held)
        lesson = lambda: self._lesson(problem, params, held, at, batch, passes)
        nothing = lambda: jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(lesson))
        told = {"dream_rewarded": jnp.broadcast_to(jnp.mean(held["rewarded"]) / rows, (rows,))}
        return {**ready, **jax.lax.cond(now, lesson, nothing), **told}, {"seeding": seeding, "step": memory["step"] + 1, **held}

    def _lesson(self, problem, params, held, at, batch, passes):
        """What rows learn in step `at` of a night, in turn all that was tried: words, which of them count, and the state that they are said from."""
        rows, many = batch["tokens"].shape[0], self.tried * self.questions
        of_row = (jnp.arange(rows, dtype=jnp.int32) + at * rows) % many
        counts = (held["rewarded"] > 0)[of_row // self.questions] | (not self.rewarded)
        blank, n = lambda rows: nnx.merge(problem.graph, params).init_state(rows), problem.task.question_tokens - 1
        if self.learns == "facts":
            state = blank(rows)
        else:
            text = batch["tokens"][:: self.dreams, : problem.task.first_asked]
            state = fork(decode.read(problem.graph, params, blank(len(text)), text, at=0, passes=passes)[1], self.dreams)
        learnt = (held["valid"][of_row, :n] & counts[:, None]).astype(jnp.float32)
        return {"dream_words": held["words"][of_row, :n], "dream_weights": learnt / jnp.maximum(jnp.sum(learnt), 1.0), **dreams.laid(state, "dream_state")}

    def _round(self, problem, params, batch, key, passes):
        """A round of dreams: the words of those that were tried, K J rows of them, and which dreams were rewarded."""
        task, many = problem.task, self.questions
        state = decode.read(problem.graph, params, nnx.merge(problem.graph, params).init_state(1), batch["tokens"][:1, : task.first_asked], at=0, passes=passes)[1]
        words, valid = dreamt(problem, params, fork(state, many), jax.random.fold_in(key, 0), self.dreamt, decode.Law(self.temperature), self.random_expert)
        if self.choose != "all":
            value = gradient_norms(problem, params, words, valid) if self.choose == "gradient" else jax.random.uniform(jax.random.fold_in(key, 1), (self.dreamt,))
            which = isolated.best_and_lucky(jax.random.fold_in(key, 2), value, self.best, self.lucky)
            words, valid = words[which], valid[which]
        asked = tuple(jnp.asarray(each)[batch["day"][0, 0] - 1] for each in task.questions_of(_kinds(task)))
        before, after = tried(problem, params, words, valid, *asked, rank=self.inner_rank, optimizer=optax.adam(self.inner_rate), steps=self.inner_steps)
        risen = after[self.metric] > before[self.metric]
        flat = lambda array: jnp.pad(array.reshape(-1, array.shape[-1]), ((0, 0), (0, _WORDS - array.shape[-1])))
        return {"words": flat(words), "valid": flat(valid), "rewarded": risen.astype(jnp.float32)}

    def loss(self, problem, params, batch, passes, count):
        loss, seen = super().loss(problem, params, batch, passes, count)
        said = lambda: said_BxN(problem, params, dreams.taken(problem, params, batch, "dream_state"), batch["dream_words"])
        learnt = lambda: -jnp.sum(jnp.where(batch["dream_weights"] > 0, batch["dream_weights"] * said(), 0.0))
        return loss + jax.lax.cond(jnp.any(batch["dream_weights"] > 0), learnt, lambda: jnp.zeros(())), seen

    def flops(self, model, task, passes):
        n, period, learnt = task.question_tokens - 1, task.per_day * self.nights, self.dreaming
        text, once, asked = dreams.text_flops(model, task, passes), dreams.scored_flops(model, n), dreams.scored_flops(model, n + 1) * len(_kinds(task)) * task.facts
        made = text + self.dreamt * self.questions * (n * flops.wake_token_flops(model) + 3 * once * (self.choose == "gradient"))
        trials = self.tried * (self.questions * self.inner_steps * 3 * once + asked) + asked
        each = text * (self.learns == "dreamer") // self.dreams + 3 * once
        return super().flops(model, task, passes) + (each * learnt + made + trials) // period


def _kinds(task: Any) -> tuple[str, ...]:
    """How a day can be asked for but as a dream does."""
    return tuple(kind for kind in task.asks if kind != "asked")


def said_BxN(problem: Problem, params: Any, state: State, words_BxN: jax.Array) -> jax.Array:
    """[B, n] float32, log-probability of each word of a dream, behind the word that asks, where reading has left `state`."""
    sequence = jnp.concatenate([jnp.full_like(words_BxN[:, :1], problem.task.ask), words_BxN[:, :-1]], axis=1)
    logits = decode.read(problem.graph, params, state, sequence, at=0)[0]
    return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), words_BxN[..., None], axis=-1)[..., 0]


def by_heart(problem: Problem, params: Any, words_JxN: jax.Array, valid_JxN: jax.Array) -> jax.Array:
    """Mean over words of a dream of −log p, S = 0: what a copy goes down, and the gradient of which a dream is chosen by; float32 scalar."""
    said = said_BxN(problem, params, nnx.merge(problem.graph, params).init_state(len(words_JxN)), words_JxN)
    return -jnp.sum(jnp.where(valid_JxN, said, 0.0)) / jnp.maximum(jnp.sum(valid_JxN.astype(jnp.float32)), 1.0)


def dreamt(problem: Problem, params: Any, state: State, key: jax.Array, many: int, law: decode.Law, random_expert: bool) -> tuple[jax.Array, jax.Array]:
    """Dreams [m, J, n] of a model, `state` that of J rows: words, and which of them count; each dream with an expert of its own wide open, if `random_expert`."""
    rows = jnp.arange(state.window.tokens.shape[0], dtype=jnp.uint32)

    def one(number):
        own = jax.random.fold_in(key, number)
        who = experts.one_open(params, jax.random.fold_in(own, 0)) if random_expert else params
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(own, 1), row))(rows)
        return dreams.write(problem, who, state, keys, None, law)

    return jax.vmap(one)(jnp.arange(many, dtype=jnp.uint32))


def gradient_norms(problem: Problem, params: Any, words_mxJxN: jax.Array, valid_mxJxN: jax.Array) -> jax.Array:
    """[m] float32, the size of the gradient of `by_heart` of each dream with respect to all of the model's parameters."""
    of = jax.grad(lambda params, words, valid: by_heart(problem, params, words, valid))
    return jax.vmap(lambda words, valid: optax.global_norm(of(params, words, valid)))(words_mxJxN, valid_mxJxN)


def known(problem: Problem, params: Any, tokens_QxT: jax.Array, targets_QxT: jax.Array) -> dict[str, jax.Array]:
    """With S = 0: `exact`, the share of questions all of whose labels are the likeliest words, and `likelihood`, the mean over questions of their labels' log-probability; float32 scalars."""
    logits = decode.read(problem.graph, params, nnx.merge(problem.graph, params).init_state(len(tokens_QxT)), tokens_QxT, at=0)[0]
    labelled = targets_QxT != PAD
    right = jnp.all((jnp.argmax(logits, axis=-1) == targets_QxT) | ~labelled, axis=1)
    said = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), targets_QxT[..., None], axis=-1)[..., 0]
    return {"exact": jnp.mean(right.astype(jnp.float32)), "likelihood": jnp.mean(jnp.sum(jnp.where(labelled, said, 0.0), axis=1))}


def tried(
    problem: Problem, params: Any, words_KxJxN: jax.Array, valid_KxJxN: jax.Array, tokens_QxT: jax.Array, targets_QxT: jax.Array, *,
    rank: int, optimizer: optax.GradientTransformation, steps: int,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:  # fmt: skip
    """What the model knows of the questions, see `known`, and what each of K copies knows, [K], once it has learnt its dream; nothing of `params` changes."""
    factors, whole = isolated.born(params, rank)
    of = lambda factors, dream: by_heart(problem, whole(factors), *dream)
    copies = isolated.each_learnt(of, factors, (words_KxJxN, valid_KxJxN), optimizer, steps)
    asked = lambda params: known(problem, params, tokens_QxT, targets_QxT)
    return asked(params), jax.vmap(lambda factors: asked(whole(factors)))(copies)
