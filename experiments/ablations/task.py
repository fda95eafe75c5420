"""The task: four passes of sleep and one pass with as much compute, over all tasks at CPU sizes; three of them also with a chain of thought.

Each is the study of experiments/NAME.py; NAME_thought has the chain written after the sleep, before the answer: the sentences of the solution, the
products on the way, the rows on the way. It is learned. In the test it stands once as in training, written right, an upper bound, and once the
model writes its own, token by token, and the answer is what follows it: `python -m sleepnet.eval --own_chain` does the same. The report has both.

Command:   python -m sleepnet.study --config=experiments/ablations/task.py:khop_cpu --results=experiments/results/task_khop_cpu --reuse=experiments/results
           (--config=experiments/ablations/task.py alone is Depo, the quickstart)
Hardware:  two CPU cores, a core a run
Wall time: 5 to 25 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.errors import UsageError
from sleepnet.study import factor
from sleepnet.study.pair import ARMS

# what a chain needs besides `chain_of_thought`: a window that holds the solution; steps, where a chain makes each step dear
THOUGHT = {"gsm_cpu": (dict(window=44), None), "group_cpu": ({}, None), "rule110_cpu": ({}, 4000)}
BASES = (
    "quickstart", "depo_staircase", "rule110_cpu", "gsm_cpu", "mqar_cpu", "selective_copy_cpu", "group_cpu", "khop_cpu", "variables_cpu",
    *(f"{name}_thought" for name in THOUGHT),
)


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    if base not in BASES:
        raise UsageError(f"task.py:{base}: there is {', '.join(BASES)}")
    name = base.removesuffix("_thought")
    config = factor.module(__file__, name)["get_config"]()
    if base != name:
        arguments, steps = THOUGHT[name]
        config.title += ", with a chain of thought"
        config.base.task.arguments = {**config.base.task.arguments.to_dict(), "chain_of_thought": True, **arguments}
        config.base.train.steps = steps or config.base.train.steps
        config.arms = list(ARMS)
    return config
