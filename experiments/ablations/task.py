"""The task: four passes of sleep and one pass with as much compute, over all tasks at CPU sizes; gsm also with its chain of thought.

Each is the study of experiments/NAME.py. The chain of thought stands in the test as it does in training, written right: what is graded is the
answer that follows it, an upper bound on what a model would answer after a chain of its own. It takes windows of 44 tokens instead of 24.

Command:   python -m sleepnet.study --config=experiments/ablations/task.py:khop_cpu --results=experiments/results/task_khop_cpu --reuse=experiments/results
           (--config=experiments/ablations/task.py alone is Depo, the quickstart)
Hardware:  two CPU cores, a core a run
Wall time: 5 to 25 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.errors import UsageError
from sleepnet.study import factor

THOUGHT = "gsm_cpu_thought"
BASES = (
    "quickstart", "depo_staircase", "rule110_cpu", "gsm_cpu", THOUGHT, "mqar_cpu", "selective_copy_cpu", "group_cpu", "khop_cpu", "variables_cpu",
)


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    if base not in BASES:
        raise UsageError(f"task.py:{base}: there is {', '.join(BASES)}")
    config = factor.module(__file__, "gsm_cpu" if base == THOUGHT else base)["get_config"]()
    if base == THOUGHT:
        config.title += ", with the solution written out"
        config.base.task.arguments = {**config.base.task.arguments.to_dict(), "chain_of_thought": True, "window": 44}
    return config
