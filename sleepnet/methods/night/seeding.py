"""Knowledge seeding: a night carries what the fast weights hold of a day into a new expert (after Behrouz et al., arXiv 2606.03979).

The steps of a day's examples are its night. The teacher is the model before it, with the fast weights S that reading the day left; the student is the
same with S = 0 and one expert more, which alone learns. There is no text for the student: the teacher asks itself what it knows, and these dreams are all data.

That the sender is S is ours; in the paper it is a faster level of MLPs, which `sender="cms"` has. Its mix of the teacher's and of the student's own samples, and that only a
newborn expert learns, are the paper's, and so is learning to imitate, see `imitation`. Rehearsal, dreams of the model before the night with
S = 0, which are of earlier days, is ours too (as generative replay: Shin et al., arXiv 1705.08690). Letters: B rows, n words of a dream, V vocabulary.
"""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.errors import UsageError
from sleepnet.methods.divergence import generalised
from sleepnet.methods.night import cms, dreams, imitation, skill
from sleepnet.methods.night.by_night import ByNight, part_of, with_part
from sleepnet.methods.registry import register
from sleepnet.models import experts, flops
from sleepnet.state import fork

TEACHERS, PROMPTS, SENDERS = ("today", "another_day", "nothing"), ("dreams", "keys"), ("fast_weights", "cms")


@register
@dataclasses.dataclass(frozen=True)
class Seeding(ByNight):
    """loss = (1 − imitate) · mean over words of answers of D(teacher with S ‖ student with S = 0) + imitate · loss of imitation
    + skill · loss of the skill; see `divergence.generalised`, `imitation` and `skill`.

    Rows read the day's text, asleep with N passes, one for `dreams` of them; then each dreams: from the word that asks on, a key and a value, drawn from the teacher.
    Of a share `own` of the rows the student completes the dream's key itself; the teacher's law on what it says is then the target.
    A day is the same in all rows of a step, told in another order each time; `readings` of these teach together.
    With `rehearse`, in night n, a row is with probability (n − 1) / n, `rehearsed` at most, a dream of the model before the night, S = 0, and that its teacher; words of keys then count,
    too, so that the student learns what there is to be asked: a mixture of all days' keys, of which today's share is that of its rows, 1 − `rehearsed` at least. The days before
    then fade by `rehearsed` a night from what is dreamt of, unless dreams are `even`: words of keys weigh (n − 1) / n in all where their rows are of earlier days.
    """

    dreams: int = 8  # rows that go on from one reading of the day
    own: float = 0.5  # λ: of the rows, those whose answers the student has drawn itself; 0: none is drawn, 1: no target is of a teacher's answer
    beta: float = 0.0  # of the divergence: 0 forward, 1 reverse, between Jensen–Shannon
    temperature: float = 1.0  # of what is drawn
    sender: str = "fast_weights"  # what of the teacher holds the day: S; or cms, a faster level of MLP, as in the paper, see `cms`
    level_rank: int = 8  # of the faster level
    level_rate: float = 0.1  # by which a window moves it
    level_moves: int = 1  # times that a window does
    teacher: str = "today"  # whose S: today's; controls: another_day (the day's text with other names and digits), nothing (S = 0). Dreams are always today's
    reader: str = "before"  # who the teacher is: the model before the night, or the model without experts, whose reading no night has changed ("base")
    prompts: str = "dreams"  # what is asked: the teacher's own dreams, or all true keys in turn
    rehearse: bool = False  # dreams of earlier days among today's
    rehearsed: float = 1.0  # the most of a night's rows that are dreams of earlier days, however many these are
    even: bool = False  # words of keys weigh so that earlier days go on being dreamt of alike, where `rehearsed` leaves them fewer rows than their share
    rephrase: float = 0.0  # of the rows, those that the student and its teacher are asked in other words
    readings: int = 1  # of the day, each told in another order, of whose laws the teacher's is the mean
    imitate: float = 0.0  # 1 − α, how much learning to imitate counts; 0: none is drawn
    completions: int = 8  # G, of each dream that is begun
    gamma: float = 0.5  # γ, how much of the reward is for a completion that means the same
    skill: float = 0.0  # how much the student is held to what the model without experts says of days that never were; 0: not at all

    name = "seeding"
    prepares = True

    def __post_init__(self):
        for key, known in (("teacher", TEACHERS), ("prompts", PROMPTS), ("reader", ("before", "base")), ("sender", SENDERS)):
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(known)}")
        for key in ("own", "beta", "rephrase", "imitate", "gamma", "rehearsed"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must lie between 0 and 1")
        for key, least in (("dreams", 1), ("readings", 1), ("completions", 2), ("level_rank", 1), ("level_moves", 1)):
            if getattr(self, key) < least:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must be at least {least}")
        if self.even and not (self.rehearse and self.rehearsed):
            raise UsageError("method.arguments.even=True weighs dreams of earlier days, of which there are none: set rehearse=True, and rehearsed above 0")
        if not self.skill >= 0:
            raise UsageError(f"method.arguments.skill={self.skill} must be at least 0")
        for key in ("temperature", "level_rate"):
            if not getattr(self, key) > 0:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must be positive")
        if self.sender == "cms" and self.readings > 1:
            raise UsageError(f"method.arguments.readings={self.readings} with sender='cms', whose level all readings move: set it to 1")

    @property
    def tells(self):
        return ("dream_coverage", "dream_right", *["imitation_reward"] * bool(self.imitate))

    def check(self, config, task):
        super().check(config, task)
        if task.order == "mixed" or task.replay:
            raise UsageError(f"a night is of one day: task.arguments.order={task.order!r} and replay={task.replay} must be 'given' or 'shuffled', and 0")
        if "G" not in config.model.pattern and self.sender == "fast_weights":
            raise UsageError(f"model.pattern={config.model.pattern!r} has no fast weights that a night could carry away: add a G")
        if not config.model.has_mlp(0) and self.sender == "cms":
            raise UsageError("method.arguments.sender='cms' moves a level beside the MLP of block 0, and model.no_mlp or mlp_width=0 leaves it none: give it one")
        if config.model.sleep.after_predicting:
            raise UsageError("model.sleep.after_predicting=True: a model that dreams sleeps over what it was told alone; set it to False")
        if config.model.sleep.predict_passes != 1:
            raise UsageError(f"model.sleep.predict_passes={config.model.sleep.predict_passes}: a model that dreams reads word by word, in one pass; set it to 1")
        if config.train.batch_size % self.dreams:
            raise UsageError(f"train.batch_size={config.train.batch_size} must be a multiple of method.arguments.dreams={self.dreams}")
        if self.readings > config.train.batch_size // self.dreams:
            raise UsageError(f"method.arguments.readings={self.readings} are more than a step has, train.batch_size={config.train.batch_size} by method.arguments.dreams={self.dreams}: set it to {config.train.batch_size // self.dreams} or less")

    def memory(self, batch_size, params):
        if not self.rehearse:
            return ()
        return {"step": jnp.zeros((), jnp.int32), **({} if self.grow else {"start": params})}  # one expert for all nights: what it was before this one

    def prepare(self, problem, params, memory, batch, key, passes):
        task, rows = problem.task, batch["tokens"].shape[0]
        before = experts.without_newest(params)
        reader = before if self.reader == "before" else experts.prune(params)
        of = lambda params: nnx.merge(problem.graph, params)
        keys = lambda stream: jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, stream), row))(jnp.arange(rows, dtype=jnp.uint32))
        law = decode.Law(self.temperature)
        write = lambda params, state, stream, forced: dreams.write(problem, params, state, keys(stream), forced, law)
        blank, text = of(params).init_state(rows), batch["tokens"][:: self.dreams, : task.first_asked]
        if self.sender == "cms":
            lived = lambda text: (cms.lived(problem, reader, text, self.level_rank, self.level_rate, self.level_moves), blank)
        else:
            lived = lambda text: (reader, fork(decode.read(problem.graph, reader, of(params).init_state(len(text)), text, at=0, passes=passes)[1], self.dreams))
        who, today = lived(text)
        facts_BxFxn = jnp.asarray(task.recalled)[batch["day"][:, 0] - 1]
        forced = None
        if self.prompts == "keys":
            fact = facts_BxFxn[jnp.arange(rows), jnp.arange(rows) % task.facts]
            forced = jnp.where(dreams.asked(task, fact), fact, decode.FREE)
        words, valid = write(who, today, 0, forced)
        dreamt = words
        counts = jnp.zeros((), bool)
        if self.rehearse:
            night, at = (part.astype(jnp.float32) for part in jnp.divmod(memory["step"], task.per_day // rows))
            if not self.grow:
                start = jax.lax.cond(at == 0, lambda: part_of(memory["start"], params), lambda: memory["start"])
                before, memory = with_part(params, start), {**memory, "start": start}
            old_Bx1 = of_before(jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys(2)), night, self.rehearsed)
            again = write(before, blank, 3, None)
            words, valid = (jnp.where(old_Bx1, old, new) for old, new in zip(again, (words, valid)))
            memory, counts = {**memory, "step": memory["step"] + 1}, jnp.ones((), bool)
        share, more = jnp.full((rows,), 1 / rows, jnp.float32), {}
        if self.imitate:
            more, earned = imitation.completed(problem, params, jax.random.fold_in(key, 4), words, valid, self.completions, self.gamma, law)
            more["imitation_reward"] = share * earned
        if self.own:
            mine = write(params, blank, 1, jnp.where(dreams.asked(task, words), words, decode.FREE))
            own_Bx1 = (jnp.arange(rows) < round(self.own * rows))[:, None]
            words, valid = (jnp.where(own_Bx1, new, old) for new, old in zip(mine, (words, valid)))
        other_B = jnp.arange(rows) % max(self.dreams, 2) < round(self.rephrase * max(self.dreams, 2)) if self.rephrase else None
        if self.skill:
            more |= skill.prepared(problem, params, jax.random.fold_in(key, 5), text, self.dreams, passes, law, other_B)
        sequence, learnt = dreams.put(task, words, valid, counts, other_B)
        if self.even:
            answered = dreams.put(task, words, valid, jnp.zeros((), bool), other_B)[1]
            more["weights"] = jnp.where(learnt & ~answered, even_weights(old_Bx1, night, self.rehearsed), 1.0)
        teacher, sender = {"today": lambda: (who, today), "another_day": lambda: lived(task.another(text)), "nothing": lambda: (reader, blank)}[self.teacher]()
        target = lambda params, state: jax.nn.log_softmax(decode.read(problem.graph, params, state, sequence, at=0)[0], axis=-1)
        if self.readings > 1:
            other = lambda k: jax.tree.map(lambda leaf: jnp.roll(leaf, k * self.dreams, axis=0) if leaf.ndim else leaf, sender)
            told = jax.nn.logsumexp(jax.lax.map(lambda k: target(teacher, other(k)), jnp.arange(self.readings, dtype=jnp.int32)), axis=0) - math.log(self.readings)
        else:
            told = target(teacher, sender)
        if self.rehearse:
            told = jnp.where(old_Bx1[..., None], target(before, blank), told)
        hit_BxF = jnp.all(dreamt[:, None] == facts_BxFxn, axis=-1)
        return {
            **batch,
            **more,
            "sequence": sequence,
            "answers": learnt,
            "law": told,
            "dream_coverage": share * jnp.mean(jnp.any(hit_BxF, axis=0).astype(jnp.float32)),
            "dream_right": share * jnp.any(hit_BxF, axis=1).astype(jnp.float32),
        }, memory

    def count(self, batch):
        return jnp.maximum(jnp.sum(batch["answers"].astype(jnp.float32)), 1.0)

    def loss(self, problem, params, batch, passes, count):
        blank = nnx.merge(problem.graph, params).init_state(batch["sequence"].shape[0])
        logits = decode.read(problem.graph, params, blank, batch["sequence"], at=0)[0]
        apart = generalised(batch["law"], jax.nn.log_softmax(logits, axis=-1), self.beta)
        apart *= batch.get("weights", 1.0)
        loss = jnp.sum(jnp.where(batch["answers"], apart, 0.0)) / count
        if self.imitate:
            loss = (1 - self.imitate) * loss + self.imitate * imitation.loss(problem, params, batch)
        if self.skill:
            loss += self.skill * skill.loss(problem, params, batch)
        return loss, {"logits": logits}

    def tell(self, problem, batch, seen, count):
        return {key: jnp.sum(batch[key]) for key in self.tells}

    def flops(self, model, task, passes):
        n, text, scored = task.question_tokens - 1, dreams.text_flops(model, task, passes), functools.partial(dreams.scored_flops, model)
        once, written = scored(n + bool(self.rephrase)), n * flops.wake_token_flops(model)
        imitated = self.completions * (written + 3 * scored(n)) if self.imitate else 0
        lived = (1 + (self.teacher == "another_day")) * (text if self.sender == "fast_weights" else cms.lived_flops(model, task, self.level_moves))
        heard = 2 * text * bool(self.skill)  # days that never were, by teacher and by student
        held = bool(self.skill) * (written + 4 * once)
        return (lived + heard) // self.dreams + written * (1 + bool(self.own) + self.rehearse) + once * (self.readings + self.rehearse) + 3 * once + imitated + held


def of_before(chance: jax.Array, night: jax.Array, most: float) -> jax.Array:
    """Which rows are dreams of earlier days, bool: of even chances [...] in [0, 1) a share of min(night / (night + 1), most); `night` from 0, float32."""
    return chance * (night + 1) >= jnp.maximum(1.0, (1 - most) * (night + 1))


def even_weights(old: jax.Array, night: jax.Array, most: float) -> jax.Array:
    """What rows weigh, float32, so that those of earlier days, the `old`, weigh night / (night + 1) of all in the mean, whatever their share is; see `of_before`."""
    share = night / (night + 1)
    rows = jnp.minimum(share, most)
    return jnp.where(old, share / jnp.maximum(rows, 1e-6), (1 - share) / jnp.maximum(1 - rows, 1e-6))
