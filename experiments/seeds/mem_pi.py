"""Mem-π (arXiv 2605.21463) at small size, a reconstruction: a memory that gives a frozen solver hints where they help; see mem_pi.md beside this file for what is asked and what was found.

A solver that reads a cycle once (N = 1) learns to answer with and without a hint, and is frozen. A memory of the same size reads the same cycle, sleeps over it
N = 4 passes, and learns to say right hints (stage 1). Then each arm learns from the solver's answers alone when to give one, and which.

The solver: python -m sleepnet.train --config=experiments/seeds/mem_pi.py:solver --workdir=runs/mem_pi_solver
What decides: python -m sleepnet.study --config=experiments/seeds/mem_pi.py:decisive --seeds=0
All:        python -m sleepnet.study --config=experiments/seeds/mem_pi.py
Tables:     python -m sleepnet.eval.hints --outcomes=runs/mem_pi
Hardware:   two CPU cores, a core an arm
Score:      c = .05, seeds 0, 1, 2: .859, .900, .924 right with every hint, .469, .496, .533 without, .695, .734, .727 of a memory that reads once; AUROC of the decision .857, .816, .871 (score05), .867, .829, .870 (coupled05)
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

SOLVER, BEGUN = "runs/mem_pi_solver", "depo8_sleep4"
TASK = dict(nodes=8, hops=4, names=16, room=2, told=1, window=16)
COSTS = {"0": 0.0, "05": 0.05, "1": 0.1, "2": 0.2}
CONTEXTS, SHOWN, STEPS, LOOKED = 32, 3000, 240, 512  # a step; steps of stage 1, and of what follows; questions of a look
COUPLED = {"decision": "coupled"}
# name → (what it is, the method's arguments, what else is so)
ARMS = {
    **{f"decoupled{word}": (f"decision and hint apart, c = {cost:g}", {"cost": cost}, {}) for word, cost in COSTS.items()},
    **{f"coupled{word}": (f"decision and hint one chain, c = {cost:g}", {**COUPLED, "cost": cost}, {}) for word, cost in COSTS.items()},
    **{f"score{word}": (f"apart, the decision by its score, c = {cost:g}", {"decision": "score", "cost": cost}, {}) for word, cost in COSTS.items()},
    "ungated": ("apart, all hints learnt from, c = 0.05", {"gate": "none"}, {}),
    "always": ("a hint always, c = 0.05", {"decision": "always"}, {}),
    "wrong_reference": ("the hint made for another context, c = 0.05", {"control": "wrong_reference"}, {}),
    "once": ("apart, c = 0.05, the memory reads once (N = 1), as much compute in each phase", {}, {"model.sleep.passes": 1}),
    "once_steps": ("the same, as many steps", {}, {"model.sleep.passes": 1}),
}
ONCE = (10190, 612)  # steps of both phases of `once` that cost what the other arms' do
DECISIVE = tuple(f"{how}{word}" for word in COSTS for how in ("decoupled", "coupled", "score"))


def get_config(which: str = "all") -> ml_collections.ConfigDict:
    """The study, all or decisive; or the run that is the solver of both."""
    if which == "solver":
        return _run({"role": "solver"}, 1, 600, 64, (7.5e-3, 1.1e-3), phase="solver", seed=100)
    if which not in ("all", "decisive"):
        raise UsageError(f"mem_pi.py:{which} is not one of solver, decisive, all")
    told = {"optim.learning_rate": 2e-3, "optim.adam_rate": 3e-4, "optim.warmup": 10, "optim.decay": 0.0}
    hints = {"solver": SOLVER, "looked": LOOKED}

    def arm(name: str) -> dict:
        label, arguments, others = ARMS[name]
        shown, steps = ONCE if name == "once" else (SHOWN, STEPS)
        arguments = {**hints, "free": steps // 5, "rising": steps // 5, **arguments}
        learns = dict(name="rewards", overrides={**told, "train.steps": steps, "train.eval_every": steps, "method.name": "mem_pi", "method.arguments": arguments})
        return dict(name=name, label=label, overrides=others, phases=[dict(name="stage1", start=BEGUN, overrides={"train.steps": shown}), learns])

    config = spec.default()
    config.title = "Mem-π: hints, given only when they help"
    config.question = "Does a memory that learns when to give a hint apart from which one regret less than one that learns both together, at equal calls of the solver?"
    config.base = _run({"role": "memory"}, 4, SHOWN, CONTEXTS, (4e-3, 3e-3))
    config.arms = [arm(name) for name in (ARMS if which == "all" else DECISIVE)]
    config.reference, config.seeds = "decoupled05", (0, 1, 2)
    return config


def _run(role: dict, passes: int, steps: int, rows: int, rates: tuple[float, float], phase: str = "", seed: int = 0) -> ml_collections.ConfigDict:
    config = presets.cpu_size("hinted", {**TASK, **role}, steps=steps, batch_size=rows)
    config.model.sleep.passes = passes
    config.optim.learning_rate, config.optim.adam_rate = rates
    config.train.update(save_every=1000, eval_every=0, log_every=20, eval_examples=256)
    config.eval.examples, config.eval.batch_size = 512, 256
    config.seed, config.phase, config.start = seed, phase, BEGUN if phase else ""
    return config
