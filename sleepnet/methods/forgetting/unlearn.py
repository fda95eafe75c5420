"""Forgetting on purpose what rewards brought: gradient ascent, NPO or SimNPO on the policy's own right chains (after MAST, arXiv 2606.19222).

A *reconstruction*: the abstract names the three objectives and that chosen attention tensors alone are moved; see `sleepnet.methods.forgetting.spectrum` for scores of
these, and `adapters.kind=heads` for moving the slices that score highest. Letters: B problems, G chains of each, T tokens.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet import adapters
from sleepnet.decode import GREEDY, Law
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base
from sleepnet.methods.forgetting import spectrum
from sleepnet.methods.registry import register
from sleepnet.methods.rl import experience, policy

_TRIED = 256  # problems of which one must be to be forgotten
OBJECTIVES = ("ascent", "npo", "simnpo")
# what heads' slices are ranked by → factors of the score, whether ranks are summed, whether coupling is a cosine
SCORES = {
    "mast": (spectrum.FACTORS, False, False), "ranks": (spectrum.FACTORS, True, False), "cosine": (spectrum.FACTORS, False, True), "off_principal": (("off_principal",), False, False),
    "magnitude": (("magnitude",), False, False), "coupling": (("coupling",), False, False), "bottom": (spectrum.FACTORS, False, False), "random": ((), False, False),
}  # fmt: skip


@register
@dataclasses.dataclass(frozen=True)
class Unlearn(base.Method):
    """loss = mean of an objective over right chains of what is to be forgotten + retain_weight · mean −log p of a token over right chains of what is to be kept.

    Chains are the anchor's, which is what the run starts from: drawn anew at each step, wrong ones left out. A problem is to be forgotten, or kept, where the name of
    the quantity that it asks for has one of these words in it. What is easier than `least` is never forgotten: looks tell it
    as *far*, the rest of what is not forgotten as *near*. Words of retain count at every difficulty.

    objective   ascent: log π; npo: (2 / β) log(1 + (π / π_0)^β); simnpo: −(2 / β) log σ(β (ℓ − γ)), ℓ the mean −log p of a token
    """

    forget: tuple[str, ...] = ()  # words of what is to be forgotten, as `python -m sleepnet.tasks sample` shows them: bags, crates
    retain: tuple[str, ...] = ()  # words of what is to be kept; read with retain_weight
    least: int = 0  # the least of the task's first difficulty, of gsm: operations, of what is to be forgotten
    objective: str = "npo"  # which of the above
    before: str = ""  # what rewards were added to: a run's folder, or a trained model; scores are of the increment since
    score: str = "mast"  # what `adapters.kind=heads` ranks slices by: a key of `SCORES`; bottom: the lowest by mast, random: drawn from the seed and `pick`
    pick: int = 0  # number of the random choice
    scored: int = 32  # prompts whose right chains the score's gradient is of
    looked: int = 128  # prompts of the validation split of which a look tells greedy answers
    beta: float = 0.1  # of npo and simnpo
    gamma: float = 0.0  # of simnpo
    retain_weight: float = 0.0
    group: int = 4  # G
    temperature: float = 1.0  # of the law that chains are drawn from
    anchor: str = "start"  # whose chains, and π_0

    name = "unlearn"
    prepares = True
    tells = ("forget_loss", "retain_loss", "chains_used")
    looks = ("forget_exact", "forget_asked", "near_exact", "near_asked", "near_kl", "far_exact", "far_asked")
    references = ("anchor", "before")

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise UsageError(f"method.arguments.objective={self.objective!r} is not one of {', '.join(OBJECTIVES)}{nearest(self.objective, OBJECTIVES)}")
        if not self.forget:
            raise UsageError("method.arguments.forget=() names nothing to forget: give words of what is asked for, such as ('bags', 'crates')")
        if both := sorted({*self.forget} & {*self.retain}):
            raise UsageError(f"method.arguments.forget and retain both have {', '.join(both)}: what is to be forgotten can't be kept; leave it out of one")
        if bool(self.retain) != (self.retain_weight > 0):
            raise UsageError(f"method.arguments.retain_weight={self.retain_weight} must be positive with words in retain, and 0 without")
        if self.score not in SCORES:
            raise UsageError(f"method.arguments.score={self.score!r} is not one of {', '.join(SCORES)}{nearest(self.score, SCORES)}")
        if not (self.pick >= 0 and self.least >= 0 and self.scored >= 1 and self.looked >= 1):
            raise UsageError("method.arguments: pick and least must be at least 0, scored and looked at least 1")
        if not (self.beta > 0 and self.group >= 1 and self.temperature > 0 and self.anchor):
            raise UsageError("method.arguments: beta and temperature must be positive, group at least 1, and anchor name a run, a trained model, or 'start'")

    def check(self, config, task):
        experience.check(task, config.model)
        words = {task.token(number) for number in range(task.vocab_size)}
        if unknown := [word for word in (*self.forget, *self.retain) if word not in words]:
            raise UsageError(f"method.arguments: task {task.title} has no word {unknown[0]!r}{nearest(unknown[0], words)}")
        if not self._kinds(task, task.batch(config.seed, "train", config.train.first_example, _TRIED))["forget"].any():
            raise UsageError(f"method.arguments: of {_TRIED} problems of {task.title} none asks for {', '.join(self.forget)} at least={self.least}: lower least, or ask harder problems in task.arguments")
        if config.adapters.kind == "heads" and self.score not in ("random", "coupling") and not self.before:
            raise UsageError(f"method.arguments.score={self.score!r} is of what rewards added to method.arguments.before, which is empty: name that run, or set score='random'")

    def draw(self, task, config, batch):
        return self._kinds(task, batch)

    def _kinds(self, task, batch):
        """Which problems are to be forgotten, which to be kept, which are far, [B] bool each."""
        names, _, _ = task.milestones(batch["tokens"])
        last = np.maximum((names[..., 0] != task.pad).sum(axis=1) - 1, 0)
        asked = names[np.arange(len(names)), last]
        number = {task.token(token): token for token in range(task.vocab_size)}
        has = lambda words: np.isin(asked, [number[word] for word in words]).any(axis=1)
        difficulty = batch["difficulty"][task.difficulty_axes[0]][:, -1]
        far = (difficulty >= 0) & (difficulty < self.least)  # -1: it has none
        # a name of a word of each kind is of what is to be forgotten
        return {"forget": has(self.forget) & ~far, "retain": has(self.retain) & ~has(self.forget), "far": far}

    def chosen(self, config, problem, params):
        of = lambda tree: {part: leaf for _, name, whole in adapters.check(config.adapters, tree) for part, leaf in spectrum.slices(name, whole, config.model.heads).items()}
        units = of(params)
        if self.score == "random":
            drawn = np.random.default_rng((config.seed, self.pick)).random(len(units))
            return spectrum.top(dict(zip(sorted(units), drawn.tolist())), config.adapters.share)
        factors, ranks, cosine = SCORES[self.score]
        gradients = of(self.gradient(config, problem)) if "coupling" in factors else units
        before = of(problem.references["before"]) if self.before else units
        found = spectrum.scores(before, units, gradients, factors=factors, ranks=ranks, cosine=cosine)
        return spectrum.top({name: -score for name, score in found.items()} if self.score == "bottom" else found, config.adapters.share)

    def gradient(self, config, problem):
        """∇ of the mean −log π of the anchor's right chains of what is to be forgotten, at the anchor: a tree of its parameters."""
        given = self._asked(problem, config.seed, "train", config.train.first_example, self.scored)
        found, count = _forget_gradient(self, dataclasses.replace(problem, references={}), config.model.sleep.passes, problem.references["anchor"], given)
        if not int(count):
            raise UsageError(f"what this starts from has no right chain of {', '.join(self.forget)} in {self.scored * self.group}, so that there is nothing to forget: "
                             "start from a model that was taught this task longer, or set method.arguments.scored higher")
        return found

    def look(self, config, problem, params):
        given = self._asked(problem, config.seed, "validation", 0, self.looked)
        right, apart = jax.device_get(_greedy(self, dataclasses.replace(problem, references={}), config.model.sleep.passes, params, problem.references["anchor"], given))
        forget, far = np.asarray(given["forget"]), np.asarray(given["far"])
        near = ~forget & ~far
        mean = lambda values, where: float(values[where].mean()) if where.any() else 0.0
        return {
            "forget_exact": mean(right, forget), "forget_asked": int(forget.sum()), "near_exact": mean(right, near), "near_asked": int(near.sum()), "near_kl": mean(apart, near),
            "far_exact": mean(right, far), "far_asked": int(far.sum()),
        }  # fmt: skip

    def _asked(self, problem, seed, split, first, count):
        batch = problem.task.batch(seed, split, first, count)
        return {"tokens": jnp.asarray(batch["tokens"]), "targets": jnp.asarray(batch["targets"]), **{kind: jnp.asarray(which) for kind, which in self._kinds(problem.task, batch).items()}}

    def prepare(self, problem, params, memory, batch, key, passes):
        anchor, law = problem.references["anchor"], Law(self.temperature)
        state = experience.opened(problem, anchor, batch["tokens"], passes)
        said = experience.drawn(problem, anchor, state, key, group=self.group, steps=experience.room(problem.task), law=law)
        right = said.answers == batch["targets"][:, -1:]
        ready = {
            **batch, "said": said.tokens, "said_logps": said.logps, "valid": said.valid, "ended": said.ended, "answers": said.answers,
            "forgotten": right & batch["forget"][:, None], "kept": right & batch["retain"][:, None],
        }  # fmt: skip
        if self.objective == "npo":
            logits = experience.read_again(problem, anchor, state, said)
            ready["anchor_logps"] = experience.chosen(jax.nn.log_softmax(logits, axis=-1), said.tokens)
        totals = lambda where: jnp.full((len(right),), jnp.sum(where.astype(jnp.float32)))
        return ready | {"forgotten_in_all": totals(ready["forgotten"]), "kept_tokens_in_all": totals(said.valid & ready["kept"][..., None])}, memory

    def count(self, batch):
        return jnp.ones((), jnp.float32)

    def loss(self, problem, params, batch, passes, count):
        said = experience.Experience(batch["said"], batch["said_logps"], batch["valid"], batch["ended"], batch["answers"])
        logits = experience.read_again(problem, params, experience.opened(problem, params, batch["tokens"], passes), said)
        logps = experience.chosen(jax.nn.log_softmax(logits, axis=-1), said.tokens)
        of_chains = {
            "ascent": lambda: policy.gradient_ascent(logps, said.valid), "npo": lambda: policy.npo(logps, batch["anchor_logps"], said.valid, self.beta),
            "simnpo": lambda: policy.simnpo(logps, said.valid, self.beta, self.gamma),
        }[self.objective]()  # fmt: skip
        mean = lambda values, where, total: jnp.sum(jnp.where(where, values, 0.0) / jnp.maximum(total.reshape(-1, *(1,) * (values.ndim - 1)), 1.0))
        forget = mean(of_chains, batch["forgotten"], batch["forgotten_in_all"])
        retain = mean(-logps, said.valid & batch["kept"][..., None], batch["kept_tokens_in_all"])
        return forget + self.retain_weight * retain, {"logps": logps, "forget_loss": forget, "retain_loss": retain}

    def moves(self, batch):
        return jnp.any(batch["forgotten"]) | jnp.any(batch["kept"])

    def tell(self, problem, batch, seen, count):
        used = jnp.sum((batch["forgotten"] | batch["kept"]).astype(jnp.float32))
        return {"forget_loss": seen["forget_loss"], "retain_loss": seen["retain_loss"], "chains_used": used}

    def flops(self, model, task, passes):
        steps, prompt = experience.room(task), experience.prompt_flops(model, task, passes)
        said, again = experience.said_flops(model, task, steps), experience.again_flops(model, task, steps)
        return prompt * 4 + self.group * (said + (3 + (self.objective == "npo")) * again)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _forget_gradient(method, problem, passes, anchor, given):
    """The gradient that scores are made of, and of how many chains it is."""
    state = experience.opened(problem, anchor, given["tokens"], passes)
    said = experience.drawn(problem, anchor, state, jax.random.key(0), group=method.group, steps=experience.room(problem.task), law=Law(method.temperature))
    used = (said.answers == given["targets"][:, -1:]) & given["forget"][:, None]
    count = jnp.sum(used.astype(jnp.float32))

    def cost(params):
        logits = experience.read_again(problem, params, experience.opened(problem, params, given["tokens"], passes), said)
        logps = experience.chosen(jax.nn.log_softmax(logits, axis=-1), said.tokens)
        return -jnp.sum(jnp.where(used, policy.row_sum(logps, said.valid), 0.0)) / jnp.maximum(count, 1.0)

    return jax.grad(cost)(anchor), count


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _greedy(method, problem, passes, params, anchor, given):
    """Whether the greedy chain to each prompt is right, and its mean KL(π ‖ π_0) a token: [B] each."""
    state = experience.opened(problem, params, given["tokens"], passes)
    said = experience.drawn(problem, params, state, jax.random.key(0), group=1, steps=experience.room(problem.task), law=GREEDY)
    laws = [
        jax.nn.log_softmax(experience.read_again(problem, weights, experience.opened(problem, weights, given["tokens"], passes), said)[:, 0], axis=-1)
        for weights in (params, anchor)
    ]
    valid = said.valid[:, 0]
    apart = jnp.sum(jnp.where(valid, policy.kl(*laws), 0.0), axis=-1) / jnp.maximum(jnp.sum(valid.astype(jnp.float32), axis=-1), 1.0)
    return said.answers[:, 0] == given["targets"][:, -1], apart
