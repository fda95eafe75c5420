"""Reasoning from rewards: hidden references as judges of a policy's own chains, and sparse rewards of answers (after ExpRL, arXiv 2606.17024, whose code is public).

A prompt is read and slept over once, its state forked, and G chains are drawn within the compiled step. A judge who knows a reference grades them 1 … 5; the
policy never sees it. Equations and coefficients are the authors'; judge, milestones, sizes and the exact KL are ours: a vocabulary is small here.
Letters: B prompts, G chains of each, T tokens, S steps of a chain, V vocabulary.
"""
import dataclasses

import jax
import jax.numpy as jnp

from sleepnet.errors import UsageError, nearest
from sleepnet.methods.registry import register
from sleepnet.methods.rl import advantages, experience, judge, policy, rewards
from sleepnet.methods.rl.method import FromDraws

REWARDS, ADVANTAGES = ("exact", "milestones", "sound"), ("group", "process", "end", "batch", "centred", "process+outcome")
CONTROLS, ESTIMATORS = ("", "wrong_reference", "random_reward"), ("exact", "low_variance")
_CHOICES = {
    "reward": REWARDS, "advantage": ADVANTAGES, "control": CONTROLS, "kl": ESTIMATORS, "judged": ("prefix", "step"), "scores": tuple(rewards.MAPS),
    "scale": ("std", "none"), "single_step": ("formula", "code"), "truncated": ("zero", "mask"), "unparsable": ("zero", "mask"), "silence": ("step", "stand"), "mean_over": ("tokens", "chains", "room"),
}  # fmt: skip


@register
@dataclasses.dataclass(frozen=True)
class ExpRL(FromDraws):
    """loss = −mean over tokens of min(ρ A, clip(ρ) A) + kl_weight · mean over tokens of KL(π ‖ π_0), each batch being learnt from once, so that ρ = 1.

    reward      exact: 1 for a right answer (GRPO's); milestones: what the judge says of the chain; sound: what one says who knows no reference, the share of its
                sentences whose sums are right
    advantage   group: (s − mean) / std of a prompt's chains, the same for all tokens of a chain
                process: s_t − s_{t−1} of its steps, s_1 − s_S of the first; end: s_t − s_S; batch, centred: s_t less the batch's, or the group's, mean
                process+outcome: process and group together (ours: process alone adds up to 0 over a chain)
    controls    wrong_reference: milestones and answer of the batch's next problem; random_reward: scores of the batch, dealt anew
    """

    reward: str = "milestones"  # which of the above
    advantage: str = "group"  # which of the above; all but group need reward=milestones
    group: int = 8  # G
    control: str = ""  # which of the above
    judged: str = "prefix"  # what the judge of a step reads: all up to its end (the paper), or the step alone (the code)
    scores: str = "smooth"  # how grades become scores, see `rewards.MAPS`
    noise: float = 0.0  # share of grades that are drawn evenly from 1 … 5 instead; .356 misplaces .178 of them, as the paper's judge did
    single_step: str = "formula"  # advantage of a chain of one step: 0, or as in the authors' code its score
    scale: str = "std"  # of advantage=group: divided by the standard deviation, or none (arXiv 2503.20783)
    truncated: str = "zero"  # a chain that did not end: all its rewards are 0, or it is masked
    unparsable: str = "zero"  # a chain with a sentence that reads as none, or with no sentence: it has what the judge found in it, or it is masked
    silence: str = "step"  # a batch in which no chain has an advantage: a step is taken all the same, of the divergence alone, or nothing moves
    mean_over: str = "tokens"  # of the loss: all tokens alike; chains: each chain alike; room: divided by B G T
    temperature: float = 0.8  # of the law that chains are drawn from, and that is learnt
    clip_low: float = 0.2  # ε of ρ below 1
    clip_high: float = 0.28  # ε of ρ above 1; the authors' is .26 with advantage=process and with reward=exact
    kl_weight: float = 1e-3
    kl: str = "exact"  # or low_variance, the authors' estimate e^δ − δ − 1
    anchor: str = "start"  # π_0: what the run starts from, a run's folder, a trained model, or "": no divergence is told
    graded: int = 0  # chains of each test prompt that pass@k of a run's outcome is made of; 0: none
    tried: int = 16  # prompts of the validation split of which one must have a right answer among 64 chains before the first step; 0: no look

    name = "exprl"
    prepares = True
    tells = ("reward", "kl", "entropy", "length", "cut", "silent", "misplaced")
    references = ("anchor",)

    def __post_init__(self):
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(map(repr, known))}{nearest(getattr(self, key), known)}")
        if self.control == "wrong_reference" and self.reward == "sound":
            raise UsageError("method.arguments.control='wrong_reference' with reward='sound', which knows no reference: set reward='milestones', or control=''")
        if self.unparsable == "mask" and self.reward == "exact":
            raise UsageError("method.arguments.unparsable='mask' with reward='exact', which reads no sentence: set it to 'zero', or reward='milestones'")
        if self.advantage != "group" and self.reward == "exact":
            raise UsageError(f"method.arguments.advantage={self.advantage!r} is of steps, and reward='exact' tells of none: set reward='milestones', or advantage='group'")
        if not 0 <= self.noise <= 1:
            raise UsageError(f"method.arguments.noise={self.noise} must lie between 0 and 1")
        if not (self.tried >= 0 and self.graded >= 0):
            raise UsageError("method.arguments: tried and graded must be at least 0")
        self.check_terms("chain")

    def check(self, config, task):
        experience.check(task, config.model)
        if self.reward != "exact" and task.grammar is None:
            task.milestones(None)
        if self.reward == "sound" and task.grammar.zero < 0:
            raise UsageError(f"method.arguments.reward='sound' checks sums, of which chains of {task.title} have none: set it to 'milestones'")
        self.check_other_row(config.train.batch_size, "reference")

    def check_model(self, config, problem, params):
        if not self.tried:
            return
        batch = problem.task.batch(config.seed, "validation", 0, self.tried)
        passes, many = config.model.sleep.passes, dataclasses.replace(self, group=64)
        right = jax.jit(lambda params, tokens, targets: many.drawn_of(problem, params, tokens, targets, jax.random.key(0), passes)[1])
        if not bool(jnp.any(right(params, jnp.asarray(batch["tokens"]), jnp.asarray(batch["targets"])))):
            raise UsageError(f"what this starts from answers none of {self.tried} problems of {problem.task.title} in 64 chains, so no reward would tell it anything: "
                             "start from a model that was taught this task longer, or ask easier problems")

    def draw(self, task, config, batch):
        if self.reward != "milestones":
            return {}
        names, values, needs = task.milestones(batch["tokens"])
        return {"milestone_names": names, "milestone_values": values, "milestone_needs": needs}

    def drawn_of(self, problem, params, tokens, targets, key, passes):
        """What is said to each prompt, and which answers are right, [B, G] bool."""
        state = experience.opened(problem, params, tokens, passes)
        said = experience.drawn(problem, params, state, key, group=self.group, steps=experience.room(problem.task), law=self.law)
        return said, said.answers == targets[:, -1:]

    def prepare(self, problem, params, memory, batch, key, passes):
        said, right = self.drawn_of(problem, params, batch["tokens"], batch["targets"], jax.random.fold_in(key, 0), passes)
        counted = said.ended | (self.truncated == "zero")
        if self.unparsable == "mask":
            counted &= judge.reads_throughout(said.tokens, said.valid, problem.task.grammar)
        told = self.judgement(problem.task, batch, said, counted, jax.random.fold_in(key, 1))
        mask = said.valid & counted[..., None]
        lengths = said.lengths.astype(jnp.float32)
        weights = mask.astype(jnp.float32) / (lengths[..., None] if self.mean_over == "chains" else 1.0)
        ready = {
            **batch, "said": said.tokens, "said_logps": said.logps, "valid": said.valid, "ended": said.ended, "answers": said.answers, "weights": weights,
            "lengths": lengths, "rewards": told["rewards"], "advantages": jnp.where(mask, told["advantages"], 0.0), "right": right, "misplaced": told["misplaced"],
            "row_share": jnp.full((len(lengths), 1), 1 / len(lengths), jnp.float32),
        }  # fmt: skip
        if self.anchor:
            anchor = problem.references["anchor"]
            logits = experience.read_again(problem, anchor, experience.opened(problem, anchor, batch["tokens"], passes), said)
            ready["anchor_laws"] = self.law.log_probs(logits)
        return ready, memory

    def judgement(self, task, batch, said, counted, key):
        """`rewards` [B, G] of whole chains, `advantages` [B, G, T], and the share of grades `misplaced` by noise, [B] whose sum it is."""
        keys = [jax.random.fold_in(key, number) for number in range(4)]
        reference = {name: batch[name] for name in batch if name.startswith("milestone_")} | {"answer": batch["targets"][:, -1]}
        if self.control == "wrong_reference":
            reference = rewards.wrong_reference(reference)
        right = said.answers == reference["answer"][:, None]
        none = jnp.zeros((said.tokens.shape[0],), jnp.float32)
        if self.reward == "exact":
            scores = right.astype(jnp.float32)
            if self.control == "random_reward":
                scores = rewards.random_reward(keys[0], scores)
            return {"rewards": scores, "advantages": self._by_chain(scores, counted, said), "misplaced": none}
        sound = self.reward == "sound"
        if sound:
            right = jnp.ones_like(right)  # nobody knows the answer
        else:
            milestones = judge.Milestones(*(reference[f"milestone_{name}"] for name in ("names", "values", "needs")))
        step, steps = judge.steps_of(said.tokens, said.valid, task.grammar)
        prefix = judge.sound_shares(said.tokens, said.valid, task.grammar) if sound else judge.prefix_shares(said.tokens, milestones, task.grammar)
        at_ends = lambda values: judge.at_ends(values, step, said.valid, said.tokens.shape[-1])
        graded = lambda shares, right, key: rewards.noisy(key, rewards.grades(shares, right), self.noise)
        true = rewards.grades(prefix[..., -1], right)
        grade = graded(prefix[..., -1], right, keys[1])
        whole = jnp.where(said.ended, rewards.score(grade, self.scores), 0.0)
        if self.control == "random_reward":
            whole = rewards.random_reward(keys[0], whole)
        wrong = none + rewards.misplaced(grade, true, counted) / len(none)
        if self.advantage == "group":
            return {"rewards": whole, "advantages": self._by_chain(whole, counted, said), "misplaced": wrong}
        alone = lambda: judge.parsed(said.tokens, said.valid, task.grammar)[1].astype(jnp.float32) if sound else judge.step_shares(said.tokens, step, milestones, task.grammar)
        shares = at_ends(prefix if self.judged == "prefix" else alone())
        last = jax.lax.broadcasted_iota(jnp.int32, shares.shape, 2) == steps[..., None] - 1
        scores = rewards.score(graded(shares, right[..., None] & last, keys[2]), self.scores)
        there = jax.lax.broadcasted_iota(jnp.int32, shares.shape, 2) < steps[..., None]
        scores = jnp.where(there & said.ended[..., None], scores, 0.0)
        if self.control == "random_reward":
            scores = jnp.where(there, rewards.drawn_anew(keys[3], scores, there), 0.0)
        tokens = jnp.sum((step[..., None] == jax.lax.broadcasted_iota(jnp.int32, (*step.shape, shares.shape[-1]), 3)) & said.valid[..., None], axis=2).astype(jnp.float32)
        of_steps = {
            "process": lambda: advantages.step_differences(scores, steps, self.single_step), "end": lambda: advantages.end_differences(scores, steps),
            "batch": lambda: advantages.batch_centred(scores, counted, tokens, steps), "centred": lambda: advantages.group_centred(scores, counted, tokens, steps),
        }  # fmt: skip
        by_token = advantages.by_token(of_steps[self.advantage.partition("+")[0]](), step)
        if self.advantage == "process+outcome":
            by_token += self._by_chain(whole, counted, said)
        return {"rewards": whole, "advantages": by_token, "misplaced": wrong}

    def _by_chain(self, scores, counted, said):
        return jnp.broadcast_to(advantages.group_normalised(scores, counted, self.scale)[..., None], said.tokens.shape)

    def count(self, batch):
        if self.mean_over == "room":
            return jnp.asarray(batch["weights"].size, jnp.float32)
        return jnp.maximum(jnp.sum(batch["weights"]), 1.0)

    def moves(self, batch):
        return jnp.any(batch["advantages"] != 0) if self.silence == "stand" else None

    def loss(self, problem, params, batch, passes, count):
        said = experience.Experience(batch["said"], batch["said_logps"], batch["valid"], batch["ended"], batch["answers"])
        logits = experience.read_again(problem, params, experience.opened(problem, params, batch["tokens"], passes), said)
        laws = self.law.log_probs(logits)
        logps = experience.chosen(laws, said.tokens)
        gain = policy.surrogate(logps, jax.lax.stop_gradient(logps), batch["advantages"], self.clip_low, self.clip_high)
        counts, mean = batch["weights"] > 0, lambda values: policy.token_mean(batch["weights"] * values, counts, count)
        apart = jnp.zeros(())
        if self.anchor:
            anchor = batch["anchor_laws"]
            apart = mean(policy.kl(laws, anchor) if self.kl == "exact" else policy.kl_estimate(logps, experience.chosen(anchor, said.tokens)))
        loss = -mean(gain) + self.kl_weight * apart
        return loss, {"laws": laws, "kl": apart, "entropy": mean(policy.entropy(laws))}

    def tell(self, problem, batch, seen, count):
        rows, group = batch["rewards"].shape
        whole = batch["row_share"]  # a part of the batch tells its share of the batch's mean
        share = lambda values: jnp.sum(values * whole) / group
        spread = jnp.max(batch["rewards"], axis=1) > jnp.min(batch["rewards"], axis=1)
        told = {"reward": share(batch["rewards"]), "length": share(batch["lengths"]), "cut": share(1 - batch["ended"].astype(jnp.float32))}
        return {
            **told, "kl": seen["kl"], "entropy": seen["entropy"], "silent": jnp.sum(jnp.where(spread, 0.0, whole[:, 0])), "misplaced": jnp.sum(batch["misplaced"]),
            "exact": jnp.sum(batch["right"].astype(jnp.float32)), "answered": jnp.asarray(rows * group, jnp.float32),
        }  # fmt: skip

    def flops(self, model, task, passes):
        steps, prompt = experience.room(task), experience.prompt_flops(model, task, passes)
        said, again = experience.said_flops(model, task, steps), experience.again_flops(model, task, steps)
        readings = 3 + bool(self.anchor)
        return prompt * (1 + readings) + self.group * (said + readings * again)
