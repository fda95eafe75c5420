"""The quickstart: does sleep answer what one pass can't, also at equal compute?

Depo on 8 of 16 one-token names: a directed cycle is told edge by edge in random order, then every node is asked for what lies
k = 1 … 4 steps on. Training asks k = 1 alone for 300 steps, k ≤ 2 up to step 1,500, then all, in every arm alike.

Two arms:  python -m sleepnet.study --config=experiments/quickstart.py
All arms:  python -m sleepnet.study --config=experiments/quickstart.py:all_arms --seeds=0,1
And rates: python -m sleepnet.study --config=experiments/quickstart.py:rates (all arms, and the controls at rates of their own)
And rules: python -m sleepnet.study --config=experiments/quickstart.py:rules (all of these, and other fast-weight rules)
Hardware:  two CPU cores
Wall time: 258 s, installation included, on two idle cores (two arms)
Score:     k = 4, exact, held-out cycles: N = 4 .993, 1.000, .993 (seeds 0, 1, 2), N = 1 with as much compute .280, .420, .307;
           chance .062, a guess in context .143
"""
from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import pair, spec

STEPS, BATCH = 3200, 32
ONE_PASS = {"model.sleep.passes": 1}

MORE = (
    dict(name="once", label="N = 1, as many steps", overrides=ONE_PASS),
    # As many steps and so more compute than sleep4: matched, they would end before the curriculum asked k = 4
    dict(name="once_deep", label="N = 1, 4 × untied depth, as many steps", overrides={**ONE_PASS, "model.pattern": "AG" * 4}),
    dict(name="reset", label="N = 4, S reset between passes", overrides={"model.sleep.passes": 4, "model.sleep.reset_fast_weights": True}),
    dict(
        name="loop_predict",
        label="4 passes at the prediction windows only",
        overrides={**ONE_PASS, "model.sleep.predict_passes": 4},
    ),
    dict(name="hebbian", label="N = 4, Hebbian instead of delta", overrides={"model.sleep.passes": 4, "model.rule": "gated_hebbian"}),
    dict(
        name="mamba2_start",
        label="N = 4, S decaying at first as in Mamba-2",
        overrides={"model.sleep.passes": 4, "model.decay_start": "mamba2"},
    ),
    dict(name="paper_loop", label="N = 4, the paper's loop (hidden state carried)", overrides={"model.sleep.passes": 4, "model.sleep.carry": "hidden"}),
    dict(name="full_cache", label="attention alone, nothing evicted, as many steps", overrides={**ONE_PASS, "model.pattern": "AA", "model.sleep.eviction": "none"}),
    dict(
        name="full_cache_deep",
        label="eight blocks of attention, nothing evicted, as many steps",
        overrides={**ONE_PASS, "model.pattern": "A" * 8, "model.sleep.eviction": "none"},
    ),
)


# One rule or convolution for another, all else the same; gated Hebbian is among the arms above
RULES = tuple(
    dict(name=name, label=f"N = 4, {label}", overrides={"model.sleep.passes": 4, **overrides})
    for name, label, overrides in (
        ("delta", "delta without decay", {"model.rule": "delta"}),
        ("kda", "delta with a decay per channel (KDA)", {"model.rule": "kda"}),
        ("momentum", "gated delta with momentum (after Titans)", {"model.rule": "momentum"}),
        ("beta2", "write strengths up to 2", {"model.beta_max": 2.0}),
        ("dynamic_conv", "dynamic convolution (Jet)", {"model.conv": "dynamic"}),
        ("linear_attention", "Hebbian without decay", {"model.rule": "hebbian"}),
    )
)
# The base's rate was chosen on sleep4: what do the controls do with others?
RATES = tuple(
    dict(name=f"{name}_rate_{word}", label=f"{label}, {word} the rate", overrides={**overrides, "optim.learning_rate": rate, "optim.adam_rate": 0.15 * rate}, **rest)
    for name, label, overrides, rest in (
        ("once_matched", "N = 1, as much compute", ONE_PASS, dict(match="sleep4")),
        ("paper_loop", "N = 4, the paper's loop", {"model.sleep.passes": 4, "model.sleep.carry": "hidden"}, {}),
    )
    for word, rate in (("half", 7.5e-3), ("twice", 3e-2))
)
ARMS = {"two_arms": pair.ARMS, "all_arms": pair.ARMS + MORE, "rates": pair.ARMS + MORE + RATES, "rules": pair.ARMS + MORE + RATES + RULES}


def get_config(arms: str = "two_arms"):
    """The study's configuration; `arms` is two_arms, all_arms, rates or rules."""
    if arms not in ARMS:
        raise UsageError(f"experiments/quickstart.py:{arms}: there is {', '.join(ARMS)}")
    config = spec.default()
    config.title = "Multi-hop retrieval, asleep and awake"
    config.question = "Can a model that read its context once answer k = 4 hops, or does it take N = 4 passes of sleep, at equal compute?"
    config.seeds = (0,)
    config.base = base()
    config.arms = list(ARMS[arms])
    config.reference = "sleep4"
    config.claim = dict(arm="sleep4", axis="k", value=4, at_least=0.95, against="once_matched", at_most=0.60)
    return config


def base():
    """The run that every arm starts from."""
    config = presets.cpu_size("depo", steps=STEPS, batch_size=BATCH, arguments=dict(
        nodes=8, hops=4, queries=8, names=16, name_tokens=(1, 1), nodes_law="fixed", test_hops=(1, 2, 3, 4),
        window=16,
        hops_rise=(300 * BATCH, 1500 * BATCH, 1500 * BATCH),
    ))
    config.optim.decay = 0.3
    config.train.save_every = 600
    config.train.eval_every = 150
    config.eval.examples = 1024
    return config
