"""Sparse shared and unique experts, day after day (after the abstract of SETA, arXiv 2606.07500; its tables, formulas and code are not known: a reconstruction).

The steps of a day's examples are its night, in two parts. In the survey nothing moves: it is measured which entries matter to the day. Then the top of these are divided
into what is shared and what is the day's own, see `sleepnet.models.sparse`, and these alone learn, with the day's row of the gate. The task's name is read in training
alone. Letters: B rows, D days, H features, n entries, d today, g the gate.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import losses
from sleepnet.config import SparseConfig
from sleepnet.errors import UsageError
from sleepnet.methods import base
from sleepnet.methods.answers import graded
from sleepnet.methods.registry import register
from sleepnet.models import flops, gated, sparse
from sleepnet.models.sparse import SPARSE

UTILITIES, SPLITS = ("gradient", "random"), ("overlap", "all_shared", "all_unique")


@register
@dataclasses.dataclass(frozen=True)
class Seta(base.Method):
    """loss = mean over labels of −log softmax(logits under d)[target] + λ / 2 · Σ_{open, shared} F (Δ − Δ*)² + router · KL(g_old(h') ‖ g(h')) + gate · −log g(h)[d].

    The utility of an entry is |θ · mean over the survey of ∂loss / ∂θ|, θ = W_0 + Δ_shared. F is the mean over days of the squared gradient of each row's log-likelihood,
    over `sampled` rows of a day's last step, divided by its mean over shared entries; Δ* is Δ where the day began. λ = anchor · overlap, or anchor alone. h' is drawn from
    Gaussians with the mean and variance of the features of days before, g_old is the gate where the day began.
    """

    top: float = 0.05  # of each matrix, the entries that a day has
    utility: str = "gradient"  # or, as a control, random
    split: str = "overlap"  # what is shared: entries of other days where they overlap by more than chance, or all_shared, or all_unique
    kappa: float = 0.2  # overlap below which nothing is shared
    anchor: float = 100.0  # λ_0
    adaptive: bool = True  # λ grows with the overlap; False: it is λ_0
    router: float = 1.0  # μ, how much the gate is held where it was on features of days before
    gate: float = 1.0  # ν, how much today's features are to choose today
    survey: int = 320  # examples of a day by which utility is measured, its first, at which nothing moves
    sampled: int = 16  # rows that F is made of

    name = "seta"
    prepares = True
    tells = ("overlap", "chance", "grown", "gate_right")

    def __post_init__(self):
        for key, known in (("utility", UTILITIES), ("split", SPLITS)):
            if getattr(self, key) not in known:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)!r} is not one of {', '.join(known)}")
        if not 0 < self.top <= 1 or not 0 <= self.kappa <= 1:
            raise UsageError(f"method.arguments.top={self.top} must lie above 0, kappa={self.kappa} at 0 or above, both at most at 1")
        for key in ("anchor", "router", "gate"):
            if not getattr(self, key) >= 0:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must be at least 0")
        for key in ("survey", "sampled"):
            if getattr(self, key) < 1:
                raise UsageError(f"method.arguments.{key}={getattr(self, key)} must be at least 1")

    def check(self, config, task):
        here = "method.name='seta'"
        if getattr(task, "kind", "") != "stream" or "day" not in task.difficulty_axes:
            raise UsageError(f"{here} lives through days: it needs a task with them, such as task.name='skills' with task.arguments.kind='stream'")
        if task.order == "mixed" or task.replay:
            raise UsageError(f"a night is of one day: task.arguments.order={task.order!r} and replay={task.replay} must be 'given' or 'shuffled', and 0")
        if config.adapters.kind != "sparse":
            raise UsageError(f"adapters.kind={config.adapters.kind!r} with {here}, which moves sparse increments alone: set it to 'sparse'")
        size, first, most = config.train.batch_size, config.train.first_example, config.model.sparse.count
        if task.per_day % size or first % task.per_day:
            raise UsageError(f"task.arguments.per_day={task.per_day} must be a multiple of train.batch_size={size} and divide train.first_example={first}: a night is of one day")
        every = self.every(config, task)
        days = -(-config.train.steps // every)
        if days > most:
            raise UsageError(f"train.steps={config.train.steps} are {days} days, and model.sparse.count={most} has no place for each: set it to {days} or more")
        if self.survey % size or self.survey // size + 1 >= every:
            raise UsageError(f"method.arguments.survey={self.survey} must be a multiple of train.batch_size={size} that leaves some of the task.arguments.per_day={task.per_day} to learn from")
        self._check_gate(config, task)
        if self.sampled > size:
            raise UsageError(f"method.arguments.sampled={self.sampled} is more than train.batch_size={size}: set it to that or less")

    @staticmethod
    def _check_gate(config, task):
        """That what the gate goes by is there, and holds no answer that it is to choose for."""
        reads = config.model.sparse.reads or task.window
        if reads > task.window:
            raise UsageError(f"model.sparse.reads={reads} is more than the window of {task.window}: set it to that or less, or to 0")
        batch = task.batch(0, "test", 0, 32)
        told = (batch["answer"][:, :-1] >= 0) & (batch["tokens"][:, 1:] == batch["targets"][:, :-1])  # what follows is the answer
        first = int(np.argmax(told.any(axis=0))) + 1
        if told.any() and first < reads and config.model.sparse.gate in ("top1", "soft"):
            raise UsageError(f"model.sparse.reads={config.model.sparse.reads} shows the gate answers of {task.title} that it is to choose for: set it to {first} or less, but not to 0")

    def check_start(self, config, task, params):
        seen, most = int(params[SPARSE]["seen"]), config.model.sparse.count
        if seen + -(-config.train.steps // self.every(config, task)) > most:
            raise UsageError(f"{seen} days were learnt where this starts, and model.sparse.count={most} has no place for so many more: allocate more there")

    def every(self, config, task):
        return task.per_day // config.train.batch_size

    def dusk(self, config, task):
        return self.survey // config.train.batch_size

    def night(self, params, memory):
        leaves = params[SPARSE]
        mask = sparse.top_share(jnp.abs(memory["utility"]), [leaves["open"][matrix].size for matrix in sorted(leaves["open"])], self.top)
        at = (jnp.arange(leaves["mean"].shape[0], dtype=jnp.int32) == leaves["seen"].astype(jnp.int32))[:, None]
        mean = memory["features"]
        variance = jnp.maximum(memory["squares"] - jnp.square(mean), 0.0)
        begun = {**leaves, "mean": jnp.where(at, mean, leaves["mean"]), "variance": jnp.where(at, variance, leaves["variance"])}
        return {**params, SPARSE: sparse.divided(begun, mask, self.split, self.kappa)}

    def memory(self, batch_size, params):
        leaves, nothing = params[SPARSE], jnp.zeros_like(params[SPARSE]["delta"])
        one = jnp.zeros_like(leaves["mean"][0])
        return {
            "step": jnp.zeros((), jnp.int32), "utility": nothing, "features": one, "squares": one,
            "matters": nothing, "days": jnp.zeros((), jnp.float32), "start": leaves["delta"], "gate": leaves["gate"],
        }  # fmt: skip

    def prepare(self, problem, params, memory, batch, key, passes):
        task, rows, leaves = problem.task, batch["tokens"].shape[0], params[SPARSE]
        every = task.per_day // rows
        at = memory["step"] % every
        h_BxH = gated.features(nnx.merge(problem.graph, params), batch["tokens"])
        at_first = lambda held: jnp.where(at == 0, jnp.zeros_like(held), held)
        dusk = self.survey // rows
        surveys = at < dusk

        def likelihood(added, gate_D, rows):
            logits = self._logits(problem, params, gate_D, rows["tokens"], passes, added)
            return -losses.cross_entropy(logits, rows["targets"], rows["loss_mask"], jnp.ones((), jnp.float32))

        asked = {name: batch[name] for name in ("tokens", "targets", "loss_mask")}
        none, nothing = jnp.zeros_like(leaves["overlap"]), jnp.zeros_like(leaves["delta"])

        def useful():
            if self.utility == "random":
                return jnp.where(at == 0, jax.random.uniform(jax.random.fold_in(key, 0), nothing.shape), 0.0)
            where = sparse.places(params, nnx.merge(problem.graph, params).config.sparse.names)
            here = sparse.vector(params, where) + sparse.increment(leaves, none)
            return here * jax.grad(likelihood)(nothing, none, asked) / self.count(batch)

        def squares():
            each = jax.vmap(jax.grad(likelihood), in_axes=(None, None, 0))
            grads = each(nothing, self._today(leaves), jax.tree.map(lambda leaf: leaf[: self.sampled, None], asked))
            return (memory["matters"] * memory["days"] + jnp.mean(jnp.square(grads), axis=0)) / (memory["days"] + 1)

        last = at == every - 1
        now = lambda held: surveys.astype(jnp.float32) * held / dusk
        begins = lambda new, old: jnp.where(at == dusk, new, old)
        memory = {
            "step": memory["step"] + 1,
            "utility": at_first(memory["utility"]) + jax.lax.cond(surveys, useful, lambda: nothing),
            "features": at_first(memory["features"]) + now(jnp.mean(h_BxH, axis=0)),
            "squares": at_first(memory["squares"]) + now(jnp.mean(jnp.square(h_BxH), axis=0)),
            "matters": jax.lax.cond(last, squares, lambda: memory["matters"]),
            "days": memory["days"] + last.astype(jnp.float32),
            "start": begins(leaves["delta"], memory["start"]),
            "gate": begins(leaves["gate"], memory["gate"]),
        }
        each = lambda row: jax.random.fold_in(jax.random.fold_in(key, 1), row)
        before = jnp.maximum(leaves["seen"] - 1, 1.0)

        def remembered(key):
            day = jnp.floor(jax.random.uniform(key) * before).astype(jnp.int32)
            return leaves["mean"][day] + jnp.sqrt(leaves["variance"][day]) * jax.random.normal(jax.random.fold_in(key, 0), leaves["mean"].shape[1:])

        share = jnp.full((rows,), 1 / rows, jnp.float32)
        of_today = lambda values: jnp.sum(jnp.where(self._today(leaves) > 0, values, 0.0))
        right = jax.vmap(lambda h, first: sparse.gate_of(leaves, "top1", h, first, 0))(h_BxH, batch["tokens"][:, 0]) @ self._today(leaves)
        return {
            **batch,
            "features": h_BxH,
            "remembered": jax.vmap(remembered)(jax.vmap(each)(jnp.arange(rows, dtype=jnp.uint32))),
            "learns": jnp.broadcast_to(~surveys, (rows,)),
            "overlap": share * of_today(leaves["overlap"]),
            "chance": share * of_today(leaves["chance"]),
            "grown": share * jnp.mean((leaves["owner"] != sparse.NOBODY).astype(jnp.float32)),
            "gate_right": share * right,
        }, memory

    def moves(self, batch):
        return batch["learns"][0]

    @staticmethod
    def _today(leaves):
        """[D] one at today."""
        return (jnp.arange(leaves["overlap"].shape[0], dtype=jnp.int32) == leaves["seen"].astype(jnp.int32) - 1).astype(jnp.float32)

    @staticmethod
    def _logits(problem, params, gate_D, tokens, passes, added=None):
        """By the increments that one gate lets in, with `added` [n] on top."""
        names = nnx.merge(problem.graph, params).config.sparse.names
        params = params if added is None else sparse.beside(params, sparse.places(params, names), added)
        return gated.under(nnx.merge(problem.graph, params), gate_D).ungated(tokens, passes=passes, predicts=problem.task.predicts)

    def loss(self, problem, params, batch, passes, count):
        leaves, held = params[SPARSE], problem.memory
        logits = self._logits(problem, params, self._today(leaves), batch["tokens"], passes)
        answers = losses.cross_entropy(logits, batch["targets"], batch["loss_mask"], count)
        rows = jnp.sum(batch["loss_mask"].astype(jnp.float32), axis=1) / count  # of the whole batch, as the answers
        loss = answers
        if self.anchor:
            strength = self.anchor * (jnp.sum(self._today(leaves) * leaves["overlap"]) if self.adaptive else 1.0)
            loss += jnp.sum(rows) * strength * anchored(leaves, held["start"], held["matters"])
        if self.router:
            loss += self.router * jnp.sum(rows * jax.vmap(lambda h: held_gate(leaves, held["gate"], h))(batch["remembered"]))
        if self.gate:
            day = jnp.maximum(leaves["seen"].astype(jnp.int32) - 1, 0)
            chosen = lambda h: -_scores(leaves["gate"], leaves["seen"], h)[day]
            loss += self.gate * jnp.sum(rows * jnp.where(leaves["seen"] > 0, jax.vmap(chosen)(batch["features"]), 0.0))
        return loss, {"logits": logits}

    def tell(self, problem, batch, seen, count):
        return {**graded(problem, batch, seen["logits"]), **{key: jnp.sum(batch[key]) for key in self.tells}}

    def keeps(self, task, trained):
        return super().keeps(task, trained) + bool(self.anchor) * 4 * trained  # F; what the gate remembers of a day is among its parameters

    def flops(self, model, task, passes):
        learnt = base.read_and_learn(dataclasses.replace(model, sparse=SparseConfig()), task, passes)
        once_more = self.sampled + self.survey * (self.utility == "gradient")
        return learnt + flops.gate_flops(model, task.seq_len) + learnt * once_more // task.per_day


def anchored(leaves: sparse.Tree, start: jax.Array, matters: jax.Array) -> jax.Array:
    """½ Σ F (Δ − Δ*)² over shared entries that are open, F of mean 1 over shared ones; 0 with zero gradient at Δ*."""
    shared = leaves["owner"] == sparse.SHARED
    mean = jnp.sum(jnp.where(shared, matters, 0.0)) / jnp.maximum(jnp.sum(shared.astype(jnp.float32)), 1.0)
    F = jnp.where(shared & sparse.opened(leaves), matters / jnp.maximum(mean, 1e-30), 0.0)
    return 0.5 * jnp.sum(F * jnp.square(leaves["delta"] - start))


def held_gate(leaves: sparse.Tree, old_gate: jax.Array, h: jax.Array) -> jax.Array:
    """KL(g_old ‖ g) at features h [H], both over days: g_old without today. 0 on the first day, and where today is never chosen and the other rows are the old ones."""
    old, new = _scores(old_gate, leaves["seen"] - 1, h), _scores(leaves["gate"], leaves["seen"], h)
    known = jnp.isfinite(old)
    return jnp.sum(jnp.where(known, jnp.exp(old) * (jnp.where(known, old, 0.0) - jnp.where(known, new, 0.0)), 0.0))


def _scores(gate: jax.Array, seen: jax.Array, h: jax.Array) -> jax.Array:
    """[D] log of the gate over `seen` days, −∞ elsewhere."""
    there = jnp.arange(gate.shape[0], dtype=jnp.int32) < seen.astype(jnp.int32)
    scores = gate @ h
    most = jnp.max(jnp.where(there, scores, -jnp.inf))
    most = jnp.where(jnp.isfinite(most), jax.lax.stop_gradient(most), 0.0)
    total = jnp.sum(jnp.where(there, jnp.exp(jnp.where(there, scores, 0.0) - most), 0.0))
    return jnp.where(there, scores - most - jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)
