"""Train-N × test-N: models trained with one N or with N drawn at random, each graded with N = 1 … 16.

Command:   python -m sleepnet.study --config=experiments/ablations/passes.py --results=experiments/results/passes_quickstart --reuse=experiments/results
           (one run: --only=random --seeds=0)
Hardware:  two CPU cores, a core a run
Wall time: 3 to 10 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.study import factor

BASES = ("quickstart",)
TEST_N = (1, 2, 3, 4, 6, 8, 12, 16)
_ARMS = [
    *(dict(name=f"n{n}", label=f"trained with N = {n}", overrides={"model.sleep.passes": n}, eval_passes=TEST_N) for n in (1, 2, 4, 8)),
    dict(
        name="random", label="trained with N drawn from 1, 2, 4, 8", eval_passes=TEST_N,
        overrides={"model.sleep.passes": 8, "train.random_passes": (1, 2, 4, 8)},
    ),
]


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    return factor.over(
        __file__, base, BASES, _ARMS, title="Train-N × test-N", reference="n4",
        question="Does a model use passes that it was not trained with, and does one trained on random N go on improving past the largest?",
    )
