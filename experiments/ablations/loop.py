"""The loop: passes asleep, passes at the answer, both, S reset, what is carried, which blocks, how gradients flow, depth, compute.

Each arm changes one thing of N = 4 passes of sleep. Controls at matched FLOPs are N = 1 with more steps, also at other rates; all others are at
matched steps. `deep` and `deep_middle` go together: four blocks, all of them or the middle two in the loop.

Command:   python -m sleepnet.study --config=experiments/ablations/loop.py --results=experiments/results/loop_quickstart --reuse=experiments/results
           (loop.py:variables_cpu for variable tracking; one run: --only=both --seeds=0)
Hardware:  two CPU cores, a core a run
Wall time: 3 to 12 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.study import factor

BASES = ("quickstart", "variables_cpu")
_QUICKSTART = factor.module(__file__, "quickstart")
_N = {"model.sleep.passes": 4}
_ARMS = [
    *_QUICKSTART["ARMS"]["rates"],
    dict(name="both", label="4 passes of sleep and 4 at the prediction windows", overrides={**_N, "model.sleep.predict_passes": 4}),
    dict(name="fast_weights_alone", label="N = 4, the fast-weight block alone in the loop", overrides={**_N, "model.sleep.loop_start": 1}),
    dict(name="deep", label="N = 4, four blocks, all in the loop", overrides={**_N, "model.pattern": "AGAG"}),
    dict(
        name="deep_middle", label="N = 4, four blocks, the middle two in the loop",
        overrides={**_N, "model.pattern": "AGAG", "model.sleep.loop_start": 1, "model.sleep.loop_stop": 3},
    ),
    dict(name="last1", label="N = 4, gradients through the last pass alone", overrides={**_N, "model.sleep.gradient": "last"}),
    dict(
        name="last2", label="N = 4, gradients through the last two passes",
        overrides={**_N, "model.sleep.gradient": "last", "model.sleep.gradient_passes": 2},
    ),
    dict(name="implicit", label="N = 4, implicit gradients", overrides={**_N, "model.sleep.gradient": "implicit"}),
]
_SHOWN = {
    "quickstart": (
        "sleep4", "once", "once_matched", "once_matched_rate_half", "once_matched_rate_twice", "once_deep", "reset", "loop_predict", "both",
        "paper_loop", "paper_loop_rate_half", "paper_loop_rate_twice", "fast_weights_alone", "deep", "deep_middle", "last1", "last2", "implicit",
    ),
    "variables_cpu": ("sleep4", "once_matched", "reset", "loop_predict", "paper_loop"),
}


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    return factor.over(
        __file__, base, BASES, factor.named(_ARMS, *_SHOWN.get(base, ())), title="The loop",
        question="Is it S carried from pass to pass, the hidden state, the depth, the compute, or where the passes are made?",
    )
