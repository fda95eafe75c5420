"""The rule: what must a fast-weight block do with a window, so that four passes over it answer what one pass can't?

The default (gated delta, decaying little at first, write strengths up to 1, fixed convolution) and each part of it changed alone. Every
arm makes as many steps of four passes; FLOPs differ by the rule's own.

Command:   python -m sleepnet.study --config=experiments/ablations/rule.py --results=experiments/results/rule_quickstart --reuse=experiments/results
           (rule.py:variables_cpu for variable tracking; one run: --only=kda --seeds=0)
Hardware:  two CPU cores, a core a run
Wall time: 5 to 10 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.study import factor

BASES = ("quickstart", "variables_cpu")
_QUICKSTART = factor.module(__file__, "quickstart")
_ARMS = [*_QUICKSTART["ARMS"]["all_arms"], *_QUICKSTART["RULES"]]
_SHOWN = {
    "quickstart": ("sleep4", "delta", "hebbian", "linear_attention", "kda", "momentum", "beta2", "dynamic_conv", "mamba2_start"),
    "variables_cpu": ("sleep4", "delta", "hebbian"),
}


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    return factor.over(
        __file__, base, BASES, factor.named(_ARMS, *_SHOWN.get(base, ())), title="The rule",
        question="Which fast-weight rule does the work when the loop, the data and the steps are the same?",
        seeds=(0, 1) if base == "quickstart" else (0,),
    )
