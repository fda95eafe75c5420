"""One run of the quickstart's sleeping arm, alone: Depo on 8 one-token names, k ≤ 4, N = 4.

Command:   python -m sleepnet.train --config=experiments/depo_cpu.py --workdir=runs/depo
Hardware:  one CPU core
Wall time: 300 s
Score:     k = 4 .993 exact on held-out cycles; chance .062
"""
import importlib.util
from pathlib import Path


def get_config():
    """The run's configuration."""
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).with_name("quickstart.py"))
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    return quickstart.base()
