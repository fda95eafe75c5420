"""Knowledge seeding: a night carries what the fast weights hold of a day into a new expert (after Behrouz et al., arXiv 2606.03979).

The steps of a day's examples are its night. The teacher is the model before it, with the fast weights S that reading the day left; the student is the
same with S = 0 and one expert more, which alone learns. There is no text for the student: the teacher asks itself what it knows, and these dreams are all data.

That the sender is S is ours; in the paper it is a faster level of MLPs. Its mix of the teacher's and of the student's own samples, and that only a
newborn expert learns, are the paper's; its learning to imitate, a reward over samples, is not here yet. Letters: B rows, n words of a dream, V vocabulary.
"""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.errors import UsageError
from sleepnet.methods import base
from sleepnet.methods.divergence import generalised
from sleepnet.methods.registry import register
from sleepnet.models import experts, flops
from sleepnet.state import fork

TEACHERS, PROMPTS = ("today", "another_day", "nothing"), ("dreams", "keys")


@register
@dataclasses.dataclass(frozen=True)
class Seeding(base.Method):
    """loss = mean over words of answers of D(teacher with S ‖ student with S = 0); see `divergence.generalised`.

    Rows read the day's text, asleep with N passes, one for `dreams` of them; then each dreams: from the word that asks on, a key and a value, drawn from the teacher.
    Of a share `own` of the rows the student completes the dream's key itself; the teacher's law on what it says is then the target.
    """

    dreams: int = 8  # rows that go on from one reading of the day
    own: float = 0.5  # λ: of the rows, those whose answers the student has drawn itself; 0: none is drawn, 1: no target is of a teacher's answer
    beta: float = 0.0  # of the divergence: 0 forward, 1 reverse, between Jensen–Shannon
    temperature: float = 1.0  # of what is drawn
    teacher: str = "today"  # whose S: today's; controls: another_day (the day's text with other names and digits), nothing (S = 0). Dreams are always today's
    prompts: str = "dreams"  # what is asked: the teacher's own dreams, or all true keys in turn
    grow: bool = True  # a new expert each night; False: all nights go into one

    name = "seeding"
    prepares = True
    tells = ("dream_coverage", "dream_right")

    def __post_init__(self):
        for key, known in (("teacher", TEACHERS), ("prompts", PROMPTS)):
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(known)}")
        for key in ("own", "beta"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must lie between 0 and 1")
        if self.dreams < 1:
            raise UsageError(f"method.arguments.dreams={self.dreams} must be at least 1")
        if not self.temperature > 0:
            raise UsageError(f"method.arguments.temperature={self.temperature} must be positive")

    def check(self, config, task):
        if task.name != "days" or (task.kind, task.told) != ("stream", "today"):
            raise UsageError("method.name='seeding' lives through days: it needs task.name='days' with task.arguments.kind='stream' and told='today'")
        if task.order == "mixed" or task.replay:
            raise UsageError(f"a night is of one day: task.arguments.order={task.order!r} and replay={task.replay} must be 'given' or 'shuffled', and 0")
        if "G" not in config.model.pattern:
            raise UsageError(f"model.pattern={config.model.pattern!r} has no fast weights that a night could carry away: add a G")
        if config.model.sleep.after_predicting:
            raise UsageError("model.sleep.after_predicting=True: a model that dreams sleeps over what it was told alone; set it to False")
        if config.model.sleep.predict_passes != 1:
            raise UsageError(f"model.sleep.predict_passes={config.model.sleep.predict_passes}: a model that dreams reads word by word, in one pass; set it to 1")
        if config.adapters.kind != "newest_expert":
            raise UsageError(f"adapters.kind={config.adapters.kind!r} with method.name='seeding', which moves the newest expert alone: set it to 'newest_expert'")
        size, first = config.train.batch_size, config.train.first_example
        if task.per_day % size or first % task.per_day:
            raise UsageError(f"task.arguments.per_day={task.per_day} must be a multiple of train.batch_size={size} and divide train.first_example={first}: a night is of one day")
        if size % self.dreams:
            raise UsageError(f"train.batch_size={size} must be a multiple of method.arguments.dreams={self.dreams}")
        nights, most = -(-config.train.steps // self.every(config, task)) if self.grow else 1, config.model.experts.count
        if nights > most:
            raise UsageError(f"train.steps={config.train.steps} are {nights} nights, and model.experts.count={most} has no expert for each: set it to {nights} or more")

    def check_start(self, config, task, params):
        nights, free = -(-config.train.steps // self.every(config, task)), experts.left(params)
        if self.grow and nights > free:
            raise UsageError(f"{nights} nights need as many experts, and of the {config.model.experts.count} in the model that this starts from {free} are still asleep: allocate more there, model.experts.count")

    def every(self, config, task):
        return task.per_day // config.train.batch_size

    def night(self, params):
        return experts.grow(params, only_first=not self.grow)

    def draw(self, task, config, batch):
        return {"day": batch["difficulty"]["day"]}

    def examined(self, task):
        return dataclasses.replace(task, told="nothing")

    def prepare(self, problem, params, memory, batch, key, passes):
        task, teacher = problem.task, experts.without_newest(params)
        of = lambda params: nnx.merge(problem.graph, params)
        rows, n = batch["tokens"].shape[0], task.question_tokens - 1
        blank, text = of(params).init_state(rows), batch["tokens"][:: self.dreams, : task.first_asked]
        read = lambda text: fork(decode.read(problem.graph, teacher, of(params).init_state(len(text)), text, at=0, passes=passes)[1], self.dreams)
        law, asks = decode.Law(self.temperature), jnp.full((rows,), task.ask, jnp.int32)
        keys = lambda stream: jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, stream), row))(jnp.arange(rows, dtype=jnp.uint32))
        write = lambda params, state, stream, forced: decode.write(
            problem.graph, params, state, asks, keys(stream), at=0, steps=n, law=law, stop=(task.end,), forced_BxT=forced
        )  # fmt: skip
        today = read(text)
        facts_BxFxn = jnp.asarray(task.recalled)[batch["day"][:, 0] - 1]
        place = jnp.arange(n, dtype=jnp.int32)[None]
        asked = lambda words: place < task.key_length(words[:, :1])
        forced = None
        if self.prompts == "keys":
            fact = facts_BxFxn[jnp.arange(rows), jnp.arange(rows) % task.facts]
            forced = jnp.where(asked(fact), fact, decode.FREE)
        dream = write(teacher, today, 0, forced)
        words, valid = jnp.maximum(dream.tokens, 0), dream.valid
        dreamt = words
        if self.own:
            mine = write(params, blank, 1, jnp.where(asked(words), words, decode.FREE))
            own_Bx1 = (jnp.arange(rows) < round(self.own * rows))[:, None]
            words, valid = jnp.where(own_Bx1, jnp.maximum(mine.tokens, 0), words), jnp.where(own_Bx1, mine.valid, valid)
        sequence = jnp.concatenate([asks[:, None], words[:, :-1]], axis=1)
        sender = {"today": lambda: today, "another_day": lambda: read(task.another(text)), "nothing": lambda: blank}[self.teacher]()
        logits = decode.read(problem.graph, teacher, sender, sequence, at=0)[0]
        hit_BxF = jnp.all(dreamt[:, None] == facts_BxFxn, axis=-1)
        share = jnp.full((rows,), 1 / rows, jnp.float32)
        return {
            **batch,
            "sequence": sequence,
            "answers": valid & ~asked(words),
            "law": jax.nn.log_softmax(logits, axis=-1),
            "dream_coverage": share * jnp.mean(jnp.any(hit_BxF, axis=0).astype(jnp.float32)),
            "dream_right": share * jnp.any(hit_BxF, axis=1).astype(jnp.float32),
        }, memory

    def count(self, batch):
        return jnp.maximum(jnp.sum(batch["answers"].astype(jnp.float32)), 1.0)

    def loss(self, problem, params, batch, passes, count):
        blank = nnx.merge(problem.graph, params).init_state(batch["sequence"].shape[0])
        logits = decode.read(problem.graph, params, blank, batch["sequence"], at=0)[0]
        apart = generalised(batch["law"], jax.nn.log_softmax(logits, axis=-1), self.beta)
        return jnp.sum(jnp.where(batch["answers"], apart, 0.0)) / count, {"logits": logits}

    def tell(self, problem, batch, seen, count):
        return {key: jnp.sum(batch[key]) for key in self.tells}

    def flops(self, model, task, passes):
        n, windows = task.question_tokens - 1, task.first_asked // model.window
        text = windows * (flops.pass_flops(model, model.window, context=model.window + model.survivors) + (flops.sleep_flops(model, passes) if passes > 1 else 0))
        once = flops.pass_flops(model, n, context=model.window + model.survivors) + flops.head_flops(model, n)
        written = n * flops.wake_token_flops(model)
        return text * (1 + (self.teacher == "another_day")) // self.dreams + written * (1 + bool(self.own)) + once + 3 * once

