"""Memory: what outlives a window. Fast weights alone, the newest keys and values too, or everything, as in a transformer.

The arms without eviction are the ceiling that sleep is to be measured by: they never forget a token, and pay for all of them at every token
awake. Matched steps, and `…_matched` with the FLOPs of four passes.

Command:   python -m sleepnet.study --config=experiments/ablations/memory.py --results=experiments/results/memory_quickstart --reuse=experiments/results
           (memory.py:variables_cpu for variable tracking, memory.py:selective_copy_cpu; one run: --only=sliding --seeds=0)
Hardware:  two CPU cores, a core a run
Wall time: 2 to 20 minutes a run by its FLOPs; see README.md
Score:     see REPORT.md
"""
from sleepnet.study import factor

BASES = ("quickstart", "variables_cpu", "selective_copy_cpu")
_QUICKSTART = factor.module(__file__, "quickstart")
_N, _ONCE = {"model.sleep.passes": 4}, {"model.sleep.passes": 1}
_CACHE = {**_ONCE, "model.pattern": "AA", "model.sleep.eviction": "none"}
_ARMS = [
    *_QUICKSTART["ARMS"]["all_arms"],
    dict(name="sliding", label="N = 4, the newest L − 1 keys and values stay", overrides={**_N, "model.sleep.eviction": "sliding"}),
    dict(name="once_sliding", label="N = 1, the newest L − 1 keys and values stay", overrides={**_ONCE, "model.sleep.eviction": "sliding"}),
    dict(name="hybrid_cache", label="N = 1, nothing evicted", overrides={**_ONCE, "model.sleep.eviction": "none"}),
    dict(
        name="hybrid_cache_matched", label="N = 1, nothing evicted, as much compute as N = 4", overrides={**_ONCE, "model.sleep.eviction": "none"}, match="sleep4",
    ),
    dict(name="full_cache_matched", label="attention alone, nothing evicted, as much compute as N = 4", overrides=_CACHE, match="sleep4"),
    *(
        dict(
            name=f"full_cache_matched_rate_{name}", label=f"the same at {name} the rate", match="sleep4",
            overrides={**_CACHE, "optim.learning_rate": 1.5e-2 * share, "optim.adam_rate": 2.25e-3 * share},
        )
        for name, share in (("half", 1 / 2), ("quarter", 1 / 4), ("eighth", 1 / 8))
    ),
    dict(name="fast_weights_only", label="N = 4, two fast-weight blocks, no attention", overrides={**_N, "model.pattern": "GG"}),
]
_SHOWN = {
    "quickstart": (
        "sleep4", "once", "sliding", "once_sliding", "hybrid_cache", "hybrid_cache_matched", "full_cache",
        "full_cache_matched", "full_cache_matched_rate_half", "full_cache_matched_rate_quarter", "full_cache_matched_rate_eighth", "full_cache_deep",
        "fast_weights_only",
    ),
    "variables_cpu": ("sleep4", "full_cache_matched"),
    "selective_copy_cpu": ("sleep4", "full_cache_matched"),
}


def get_config(base: str = "quickstart"):
    """The study's configuration."""
    return factor.over(
        __file__, base, BASES, factor.named(_ARMS, *_SHOWN.get(base, ())), title="Memory",
        question="How near do fast weights come to a cache that keeps everything, and what does either cost?",
    )
