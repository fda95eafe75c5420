"""One run of a chain of thought, alone: Rule 110 on a ring of 16, t = 1 … 6, one pass, the rows on the way written after the sleep.

The arm `once_matched` of ablations/task.py:rule110_cpu_thought.

Command:   python -m sleepnet.train --config=experiments/rule110_thought_cpu.py --workdir=runs/rule110_thought
           python -m sleepnet.eval --workdir=runs/rule110_thought --own_chain --examples=6000
Hardware:  one CPU core
Wall time: 430 s
Score:     every cell right at t = 1 … 6, after a chain of its own as well (seeds 0, 1); N = 8 without a chain has .986, .692 and .663 at t = 6
"""
import runpy
from pathlib import Path


def get_config():
    """The run's configuration."""
    config = runpy.run_path(str(Path(__file__).with_name("rule110_cpu.py")))["get_config"]().base
    config.task.arguments = {**config.task.arguments.to_dict(), "chain_of_thought": True}
    config.model.sleep.passes = 1
    config.train.steps = 5797
    return config
