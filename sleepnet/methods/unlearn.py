"""Forgetting on purpose what rewards brought: gradient ascent, NPO or SimNPO on the policy's own right chains (after MAST, arXiv 2606.19222).

A *reconstruction*: the abstract names the three objectives and that chosen attention tensors alone are moved; see `sleepnet.methods.spectrum` for scores of
these, and `adapters.kind=named` for moving them. Letters: B problems, G chains of each, T tokens.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet.decode import Law
from sleepnet.errors import UsageError, nearest
from sleepnet.methods import base, experience, policy
from sleepnet.methods.registry import register

OBJECTIVES = ("ascent", "npo", "simnpo")


@register
@dataclasses.dataclass(frozen=True)
class Unlearn(base.Method):
    """loss = mean of an objective over right chains of what is to be forgotten + retain_weight · mean −log p of a token over right chains of what is to be kept.

    Chains are the anchor's, which is what the run starts from: drawn anew at each step, wrong ones left out. A problem is to be forgotten, or kept, where the name of
    the quantity that it asks for has one of these words in it.

    objective   ascent: log π; npo: (2 / β) log(1 + (π / π_0)^β); simnpo: −(2 / β) log σ(β (ℓ − γ)), ℓ the mean −log p of a token
    """

    forget: tuple[str, ...] = ()  # words of what is to be forgotten, as `python -m sleepnet.tasks sample` shows them: bags, crates
    retain: tuple[str, ...] = ()  # words of what is to be kept; read with retain_weight
    objective: str = "npo"  # which of the above
    beta: float = 0.1  # of npo and simnpo
    gamma: float = 0.0  # of simnpo
    retain_weight: float = 0.0
    group: int = 4  # G
    temperature: float = 1.0  # of the law that chains are drawn from
    anchor: str = "start"  # whose chains, and π_0

    name = "unlearn"
    prepares = True
    tells = ("forget_loss", "retain_loss", "chains_used")
    references = ("anchor",)

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise UsageError(f"method.arguments.objective={self.objective!r} is not one of {', '.join(OBJECTIVES)}{nearest(self.objective, OBJECTIVES)}")
        if not self.forget:
            raise UsageError("method.arguments.forget=() names nothing to forget: give words of what is asked for, such as ('bags', 'crates')")
        if both := sorted({*self.forget} & {*self.retain}):
            raise UsageError(f"method.arguments.forget and retain both have {', '.join(both)}: what is to be forgotten can't be kept; leave it out of one")
        if bool(self.retain) != (self.retain_weight > 0):
            raise UsageError(f"method.arguments.retain_weight={self.retain_weight} must be positive with words in retain, and 0 without")
        if not (self.beta > 0 and self.group >= 1 and self.temperature > 0 and self.anchor):
            raise UsageError("method.arguments: beta and temperature must be positive, group at least 1, and anchor name a run, a trained model, or 'start'")

    def check(self, config, task):
        experience.check(task, config.model)
        words = {task.token(number) for number in range(task.vocab_size)}
        if unknown := [word for word in (*self.forget, *self.retain) if word not in words]:
            raise UsageError(f"method.arguments: task {task.title} has no word {unknown[0]!r}{nearest(unknown[0], words)}")

    def draw(self, task, config, batch):
        names, _, _ = task.milestones(batch["tokens"])
        last = np.maximum((names[..., 0] != task.pad).sum(axis=1) - 1, 0)
        asked = names[np.arange(len(names)), last]
        number = {task.token(token): token for token in range(task.vocab_size)}
        has = lambda words: np.isin(asked, [number[word] for word in words]).any(axis=1)
        # a name of a word of each kind is of what is to be forgotten
        return {"forget": has(self.forget), "retain": has(self.retain) & ~has(self.forget)}

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
