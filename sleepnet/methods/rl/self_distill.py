"""Distillation from oneself: the same weights, once with the reference in context and once without, on chains that the latter has drawn (a baseline of ExpRL, arXiv 2606.17024).

The teacher reads the problem, then one window more in which every milestone stands as a sentence of the chain's own grammar, `The number of jars in Ashford = 5 .`,
in the order in which they follow from each other; both windows sleep. The student reads the problem alone. That a reference is read so is ours.
Letters: B problems, G chains of each, T tokens of one, M milestones, W words of a name, L window, V vocabulary.
"""
import dataclasses

import jax.numpy as jnp
import numpy as np

from sleepnet import decode
from sleepnet.errors import UsageError
from sleepnet.methods.divergence import generalised
from sleepnet.methods.registry import register
from sleepnet.methods.rl import experience, policy, rewards
from sleepnet.methods.rl.method import FromDraws
from sleepnet.tasks.base import PAD, Grammar

_BESIDE = 4  # words of a sentence beside the name: The, =, the value, the stop
_CONTROLS = ("", "wrong_reference")


@register
@dataclasses.dataclass(frozen=True)
class SelfDistill(FromDraws):
    """loss = mean over tokens of D(π' ‖ π), π' the law of the same weights behind problem and reference, through which no gradient goes; see `divergence.generalised`.

    controls    wrong_reference: milestones of the batch's next problem
    """

    group: int = 8  # G
    beta: float = 1.0  # of the divergence: 1 reverse, as in the authors' baseline; 0 forward, between Jensen–Shannon
    teacher: str = ""  # whose weights read the reference: "" the policy's own at every step, "start" those that the run starts from, a run's folder or a trained model
    control: str = ""  # which of the above
    temperature: float = 0.8  # of the law that chains are drawn from, and that is learnt
    graded: int = 0  # chains of each test prompt that pass@k of a run's outcome is made of; 0: none

    name = "self_distill"
    prepares = True
    tells = ("apart", "entropy", "length", "cut")
    references = ("teacher",)

    def __post_init__(self):
        if self.control not in _CONTROLS:
            raise UsageError(f"method.arguments.control={self.control!r} is not one of {', '.join(map(repr, _CONTROLS))}")
        if self.group < 1:
            raise UsageError(f"method.arguments.group={self.group} must be at least 1")
        if not 0 <= self.beta <= 1:
            raise UsageError(f"method.arguments.beta={self.beta} must lie between 0 and 1")
        if not self.temperature > 0:
            raise UsageError(f"method.arguments.temperature={self.temperature} must be positive: a greedy law has no gradient")
        if self.graded < 0:
            raise UsageError(f"method.arguments.graded={self.graded} must be at least 0")

    def check(self, config, task):
        experience.check(task, config.model)
        names = task.milestones(task.batch(0, "train", 0, 1)["tokens"])[0]
        needed = names.shape[1] * (names.shape[2] + _BESIDE)
        if needed > task.window:
            raise UsageError(f"a reference of {needed} tokens is longer than the window that it is read in: set task.arguments.window to {needed} or more, or task.arguments.ops to fewer")
        self.check_other_row(config.train.batch_size, "reference")

    def draw(self, task, config, batch):
        names, values, _ = task.milestones(batch["tokens"])
        return {"reference": sentences(names, values, task.grammar, task.window)}

    def prepare(self, problem, params, memory, batch, key, passes):
        state = experience.opened(problem, params, batch["tokens"], passes)
        said = experience.drawn(problem, params, state, key, group=self.group, steps=experience.room(problem.task), law=self.law)
        reference = rewards.wrong_reference(batch["reference"]) if self.control else batch["reference"]
        teacher = problem.references["teacher"] if self.teacher else params
        known = experience.opened(problem, teacher, batch["tokens"], passes) if self.teacher else state
        told = decode.read(problem.graph, teacher, known, reference, at=0, passes=passes)[1]
        rows = len(reference)
        return {
            **batch, "said": said.tokens, "said_logps": said.logps, "valid": said.valid, "ended": said.ended, "answers": said.answers,
            "laws": self.law.log_probs(experience.read_again(problem, teacher, told, said)), "row_share": jnp.full((rows, 1), 1 / rows, jnp.float32),
        }, memory  # fmt: skip

    def count(self, batch):
        return jnp.maximum(jnp.sum(batch["valid"].astype(jnp.float32)), 1.0)

    def loss(self, problem, params, batch, passes, count):
        said = experience.Experience(batch["said"], batch["said_logps"], batch["valid"], batch["ended"], batch["answers"])
        logits = experience.read_again(problem, params, experience.opened(problem, params, batch["tokens"], passes), said)
        laws = self.law.log_probs(logits)
        mean = lambda values: policy.token_mean(values, batch["valid"], count)
        apart = mean(generalised(batch["laws"], laws, self.beta))
        return apart, {"laws": laws, "apart": apart, "entropy": mean(policy.entropy(laws))}

    def tell(self, problem, batch, seen, count):
        rows, group = batch["ended"].shape
        share = lambda values: jnp.sum(values.astype(jnp.float32) * batch["row_share"]) / group
        right = batch["answers"] == batch["targets"][:, -1:]
        return {
            "apart": seen["apart"], "entropy": seen["entropy"], "length": share(jnp.sum(batch["valid"], axis=-1)), "cut": share(~batch["ended"]),
            "exact": jnp.sum(right.astype(jnp.float32)), "answered": jnp.asarray(rows * group, jnp.float32),
        }  # fmt: skip

    def flops(self, model, task, passes):
        steps, prompt = experience.room(task), experience.prompt_flops(model, task, passes)
        said, again = experience.said_flops(model, task, steps), experience.again_flops(model, task, steps)
        window = prompt // task.predicts.count(False)
        return prompt * (4 + bool(self.teacher)) + window + self.group * (said + 4 * again)


def sentences(names: np.ndarray, values: np.ndarray, grammar: Grammar, window: int) -> np.ndarray:
    """Milestones as text, int32 [B, L]: `The NAME = VALUE .` one after the other, paddings before them as before a problem.

    Args:
      names: int32 [B, M, W], PAD behind each name; one of PADs alone is no milestone.
      values: int32 [B, M], tokens.
      grammar: of the task.
      window: L, at least M (W + 4).
    """
    text = np.full((len(names), window), PAD, np.int32)
    for row, (of_row, told) in enumerate(zip(names, values)):
        words = [word for name, value in zip(of_row, told) if name[0] != PAD for word in (grammar.begins, *name[name != PAD], grammar.equals, value, grammar.stop)]
        text[row, window - len(words) :] = words
    return text
