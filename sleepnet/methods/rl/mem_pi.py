"""Mem-π: a memory that learns when to give a frozen solver a hint, and which (after arXiv 2605.21463; no code was released, so all of this is a *reconstruction*).

A memory reads and sleeps over the context that a solver reads as well, then the question; it decides whether to give a hint, and says it. What the solver then answers
is the only reward. Terms: `sleepnet.methods.rl.hints`; what is said and answered: `hinting`; what policies would have got: `gates`. Letters: B contexts, G hints of each, R tokens of one.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sleepnet.config import to_dict
from sleepnet.decode import GREEDY
from sleepnet.errors import UsageError, nearest
from sleepnet.methods.registry import register
from sleepnet.methods.rl import advantages, experience, gates, hinting, hints, policy, rewards
from sleepnet.methods.rl.method import FromDraws
from sleepnet.tasks.base import PAD
from sleepnet.tasks.hinted import Hinted

DECISIONS, CONTROLS = ("exact", "score", "coupled", "always"), ("", "wrong_reference")
BANK = 4096  # training examples among which `retrieval` finds the nearest
_CHOICES = {"decision": DECISIONS, "gate": hints.GATES, "control": CONTROLS}


@register
@dataclasses.dataclass(frozen=True)
class MemPi(FromDraws):
    """r_0 = R(x, ∅), r_j = R(x, m_j) − c |m_j|, Δ = mean_j r_j − r_0; loss = mean over contexts of L_decision + L_content, each batch being learnt from once.

    decision   exact: −Δ π(GEN | x); score: −A_GEN log π(GEN | x) − A_ABS log π(ABS | x); always: a hint is always given, and nothing learnt of when
               coupled: decision and hint are one chain, G + 1 of which are drawn freely and compared with each other (GRPO): as many calls of the solver
    content    −mean_j mean_t min(ρ A_j, clip(ρ) A_j) + kl_weight · KL(π ‖ π¹), A_j = (r_j − mean) / std where the gate is open; always and coupled have none
    gate       gain: contexts with Δ > 0; sample: hints with r_j > r_0; none: all
    control    wrong_reference: the solver reads the hint that was made for the batch's next context
    """

    solver: str = ""  # who answers, a run's folder: trained on the same `hinted` as a solver; its weights never change
    solver_passes: int = 1  # N of its sleep, as it was trained
    decision: str = "exact"  # which of the above
    gate: str = "gain"  # which of the above
    group: int = 6  # G
    cost: float = 0.05  # c, of a token of a hint
    free: int = 0  # steps without it
    rising: int = 1  # steps behind these, over which it rises in a line
    control: str = ""  # which of the above
    temperature: float = 1.0  # of the law that hints are drawn from
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_weight: float = 0.01
    anchor: str = "start"  # π¹
    looked: int = 512  # prompts of the validation split that a look is of
    tried: int = 64  # of these, prompts of which the solver must answer more with the right hint than without before the first step; 0: no look

    name = "mem_pi"
    prepares = True
    tells = ("reward", "gives", "open", "length", "kl", "cost")
    looks = gates.NAMES
    references = ("solver", "anchor")

    def __post_init__(self):
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(map(repr, known))}{nearest(getattr(self, key), known)}")
        if not self.solver:
            raise UsageError("method.arguments.solver='' names nobody who could answer: give the folder of a run that was trained as a solver")
        if self.gate != "gain" and self.decision in ("coupled", "always"):
            raise UsageError(f"method.arguments.gate={self.gate!r} with decision={self.decision!r}, which has no gate: leave it out")
        if not (self.cost >= 0 and self.free >= 0 and self.rising >= 1):
            raise UsageError(f"method.arguments: cost={self.cost} and free={self.free} must be at least 0, rising={self.rising} at least 1")
        if not (self.solver_passes >= 1 and self.looked >= 2 and self.tried >= 0):
            raise UsageError("method.arguments: solver_passes must be at least 1, looked at least 2, tried at least 0")
        self.check_terms("hint")

    def check(self, config, task):
        if not isinstance(task, Hinted) or task.role != "memory":
            raise UsageError(f"task {task.title} asks no memory for a hint: set task.name to 'hinted', and task.arguments.role to 'memory'")
        if config.model.sleep.predict_passes != 1 or config.model.memory_blocks.count:
            raise UsageError("model.sleep.predict_passes must be 1 and model.memory_blocks.count 0: a model that writes reads token by token, in one pass")
        self.check_other_row(config.train.batch_size, "hint")

    def check_reference(self, argument, config, task, known, model):
        if argument != "solver":
            return
        own = lambda asked: {key: value for key, value in asked.arguments.items() if key not in ("role", "shares", "told", "hops_rise")}
        if not isinstance(known, Hinted) or known.role != "solver":
            raise UsageError(f"method.arguments.solver={self.solver} was trained on {known.title}, which has no slot for a hint: name a run on task hinted with role='solver'")
        if differing := [key for key, value in own(task).items() if value != own(known)[key]]:
            key = differing[0]
            raise UsageError(f"method.arguments.solver={self.solver} was trained with task.arguments.{key}={own(known)[key]!r}, here it is {own(task)[key]!r}: a solver reads what the memory says in the same words and room")
        if model.sleep.passes != self.solver_passes:
            raise UsageError(f"method.arguments.solver_passes={self.solver_passes}, but {self.solver} sleeps N = {model.sleep.passes} passes: set it to that")
        ours, theirs = (to_dict(dataclasses.replace(each, sleep=dataclasses.replace(each.sleep, passes=1), vocab_size=0, window=0)) for each in (config.model, model))
        if differing := [key for key in ours if ours[key] != theirs[key]]:
            key = differing[0]
            raise UsageError(f"method.arguments.solver={self.solver} has model.{key}={theirs[key]!r}, the memory {ours[key]!r}: they must be alike but for the passes of their sleep")

    def check_model(self, config, problem, params):
        if not self.tried:
            return
        seen = self.seen(config, problem, params, self.tried)
        without, told = float(np.mean(seen["without"])), float(np.mean(seen["right_hint"]))
        if told <= without:
            raise UsageError(f"method.arguments.solver={self.solver} answers {told:.3f} of {self.tried} questions with the right hint and {without:.3f} without one: hints can teach nothing there; train it with some in its slot")

    def memory(self, batch_size, params):
        return {"step": jnp.zeros((), jnp.int32), "cost": jnp.asarray(self.cost, jnp.float32)}  # c as a value: arms of several c are one program

    def draw(self, task, config, batch):
        return task.oracle(batch["tokens"])

    def cost_at(self, memory: dict[str, jax.Array]) -> jax.Array:
        """c of a step, float32."""
        return memory["cost"] * jnp.clip((memory["step"] + 1 - self.free).astype(jnp.float32) / self.rising, 0.0, 1.0)

    def prepare(self, problem, params, memory, batch, key, passes):
        state, decision = hinting.asked(problem, params, batch["tokens"], passes)
        rows, coupled = len(batch["tokens"]), self.decision == "coupled"
        gives = jnp.ones((rows, self.group + coupled), bool)
        if coupled:
            gives = jax.random.bernoulli(jax.random.fold_in(key, 1), jnp.exp(decision[:, 1:]), gives.shape)
        said = hinting.drawn(problem, params, state, jax.random.fold_in(key, 0), gives, self.law)
        shown = rewards.wrong_reference(said.slots) if self.control else said.slots
        slots = shown if coupled else hinting.with_empty(shown)  # who abstains in a chain of its own has an empty slot already
        answered = hinting.answers(problem, problem.references["solver"], batch["tokens"], slots, self.solver_passes)
        right = (answered == batch["solution"][:, None]).astype(jnp.float32)
        cost = self.cost_at(memory)
        with_hint = right[:, -said.lengths.shape[1] :] + rewards.length_cost(said.lengths, cost)
        ready = {
            **batch, "said": said.tokens, "valid": said.valid, "given": gives, "lengths": said.lengths, "right": right, "with_hint": with_hint,
            "without": with_hint[:, 0] * 0 if coupled else right[:, 0], "cost_now": jnp.full((rows,), cost), "row_share": jnp.full((rows,), 1 / rows, jnp.float32),
        }  # fmt: skip
        if self.anchor:
            anchor = problem.references["anchor"]
            logits = hinting.read_again(problem, anchor, hinting.asked(problem, anchor, batch["tokens"], passes)[0], said.tokens)
            ready["anchor_laws"] = self.law.log_probs(logits)
        return ready, {**memory, "step": memory["step"] + 1}

    def count(self, batch):
        return jnp.ones((), jnp.float32)

    def loss(self, problem, params, batch, passes, count):
        state, decision = hinting.asked(problem, params, batch["tokens"], passes)
        laws = self.law.log_probs(hinting.read_again(problem, params, state, batch["said"]))
        logps = experience.chosen(laws, batch["said"])
        lengths = jnp.maximum(jnp.sum(batch["valid"].astype(jnp.float32), axis=-1), 1.0)
        of_hints = lambda values: jnp.mean(jnp.sum(jnp.where(batch["valid"], values, 0.0), axis=-1) / lengths, axis=1)
        told = self._coupled(decision, logps, batch) if self.decision == "coupled" else self._apart(decision, logps, batch)
        apart = of_hints(policy.kl(laws, batch["anchor_laws"])) if self.anchor else jnp.zeros_like(told)
        mean = lambda values: jnp.sum(values * batch["row_share"])
        return mean(told + self.kl_weight * apart), {"decision": decision, "laws": laws, "kl": mean(apart)}

    def _apart(self, decision, logps, batch):
        """L_decision + L_content without its divergence, [B]."""
        without, with_hint = batch["without"], batch["with_hint"]
        gain, of_decision = advantages.two_branches(without, with_hint)[0], 0.0
        if self.decision == "exact":
            of_decision = hints.decision_exact(decision[:, 1], gain)
        if self.decision == "score":
            of_decision = hints.decision_score(decision[:, 1], decision[:, 0], without, with_hint)
        gate = "none" if self.decision == "always" else self.gate
        return of_decision + hints.content(logps, jax.lax.stop_gradient(logps), batch["valid"], without, with_hint, gate, self.clip_low, self.clip_high)

    def _coupled(self, decision, logps, batch):
        """GRPO on whole chains, [B]: the decision is their first token."""
        scores = advantages.group_normalised(batch["with_hint"], jnp.ones_like(batch["given"]))
        first = jnp.where(batch["given"], decision[:, 1:], decision[:, :1])
        chains = jnp.concatenate([first[..., None], logps], axis=-1)
        mask = jnp.concatenate([jnp.ones_like(batch["given"])[..., None], batch["valid"]], axis=-1)
        gains = policy.surrogate(chains, jax.lax.stop_gradient(chains), scores[..., None], self.clip_low, self.clip_high)
        return -jnp.mean(jnp.sum(jnp.where(mask, gains, 0.0), axis=-1) / jnp.sum(mask.astype(jnp.float32), axis=-1), axis=1)

    def tell(self, problem, batch, seen, count):
        mean = lambda values: jnp.sum(values * batch["row_share"])
        given = jnp.maximum(jnp.sum(batch["given"].astype(jnp.float32), axis=1), 1.0)
        if self.decision == "coupled":
            learns = jnp.max(batch["with_hint"], axis=1) > jnp.min(batch["with_hint"], axis=1)
        else:
            learns = jnp.mean(batch["with_hint"], axis=1) > batch["without"]
        return {
            "reward": mean(jnp.mean(batch["with_hint"], axis=1)), "gives": mean(jnp.exp(seen["decision"][:, 1])), "open": mean(learns.astype(jnp.float32)), "kl": seen["kl"],
            "length": mean(jnp.sum(batch["lengths"], axis=1) / given), "cost": mean(batch["cost_now"]),
            "exact": jnp.sum(batch["right"]), "answered": jnp.asarray(batch["right"].size, jnp.float32),
        }  # fmt: skip

    def look(self, config, problem, params):
        return gates.told(self.seen(config, problem, params, self.looked), self.cost)

    def seen(self, config, problem, params, count, split="validation"):
        """What is known of `count` questions, by name, NumPy arrays [count]: see `gates.told`."""
        batch = problem.task.batch(config.seed, split, 0, count)
        shown = problem.task.batch(config.seed, "train", 0, BANK)["tokens"]
        given = {"tokens": batch["tokens"], "known": shown, "known_hint": problem.task.oracle(shown)["right_hint"], **problem.task.oracle(batch["tokens"])}
        given = {key: jnp.asarray(value) for key, value in given.items()}
        plain = dataclasses.replace(problem, references={})
        seen = _answered(plain, config.model.sleep.passes, self.solver_passes, params, problem.references["solver"], given)
        return {key: np.asarray(value) for key, value in jax.device_get(seen).items()}

    def flops(self, model, task, passes):
        own = hinting.asked_flops(model, task, passes)
        said, again = experience.said_flops(model, task, task.room), experience.again_flops(model, task, task.room)
        readings, group = 3 + bool(self.anchor), self.group + (self.decision == "coupled")
        return own * (1 + readings) + group * (said + readings * again) + hinting.solver_flops(model, task, self.solver_passes, self.group + 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _answered(problem, passes, solver_passes, params, solver, given):
    """Of each question π(GEN), and whether the solver is right without a hint, with the memory's greedy one, the right one, as many names of the context, the hint for the next one, and the right one of the nearest training text."""
    tokens, rows = given["tokens"], len(given["tokens"])
    state, decision = hinting.asked(problem, params, tokens, passes)
    own = hinting.drawn(problem, params, state, jax.random.key(0), jnp.ones((rows, 1), bool), GREEDY).slots[:, 0]
    context = tokens[:, experience.prompt_tokens(problem.task) - 2 * problem.task.nodes : experience.prompt_tokens(problem.task)]
    names = jnp.take_along_axis(context, jax.random.randint(jax.random.key(0), own.shape, 0, context.shape[1], jnp.int32), axis=1)
    near = given["known_hint"][hinting.nearest(problem.task, tokens, given["known"])]
    slots = [own, given["right_hint"], jnp.where(own != PAD, names, PAD), rewards.wrong_reference(own), near]
    right = hinting.answers(problem, solver, tokens, hinting.with_empty(jnp.stack(slots, axis=1)), solver_passes) == given["solution"][:, None]
    length = lambda slot: jnp.sum((slot != PAD).astype(jnp.float32), axis=-1)
    told = {name: right[:, i] for i, name in enumerate(("without", "own_hint", "right_hint", "random_hint", "other_hint", "near_hint"))}
    return told | {"generate": jnp.exp(decision[:, 1]), "own_length": length(own), "right_length": length(given["right_hint"]), "near_length": length(near)}
