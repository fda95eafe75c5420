"""Keys that make no sense together are refused by name, with the fix, before anything is trained; what is merely odd is not."""
import re

import pytest

from sleepnet import tasks
from sleepnet.config import ModelConfig, RunConfig, from_dict, to_dict
from sleepnet.errors import UsageError
from sleepnet.eval import runner
from sleepnet.study.spec import apply

S = "model.sleep."
ONCE = {S + "passes": 1}
# what is set → what the one line must say: the key at fault, and the fix
REFUSED = [
    ({"model.pattern": "GG", S + "eviction": "sliding"}, "model.sleep.eviction='sliding'", "set it to 'hard', or add an A"),
    ({"model.pattern": "GG", S + "eviction": "none"}, "model.sleep.eviction='none'", "set it to 'hard', or add an A"),
    ({**ONCE, "model.pattern": "AA", "model.rule": "kda"}, "model.rule='kda'", "leave it at 'gated_delta', or add a G"),
    ({**ONCE, "model.pattern": "AA", "model.conv": "dynamic"}, "model.conv='dynamic'", "leave it at 'fixed', or add a G"),
    ({**ONCE, "model.pattern": "AA", "model.beta_max": 2.0}, "model.beta_max=2.0", "leave it at 1.0, or add a G"),
    ({**ONCE, "model.pattern": "AA", "model.decay_start": "mamba2"}, "model.decay_start='mamba2'", "or add a G"),
    ({"model.pattern": "AA"}, "model.sleep.passes=4", "set passes to 1"),
    ({"model.pattern": "AA", **ONCE, "train.random_passes": (1, 2)}, "model.sleep.passes=2", "set passes to 1"),
    ({"model.rule": "hebbian", "model.beta_max": 2.0}, "model.beta_max=2.0", "set it to 1.0, or use a delta rule"),
    ({"model.rule": "gated_hebbian", "model.beta_max": 1.5}, "model.beta_max=1.5", "set it to 1.0"),
    ({"model.rule": "delta", "model.decay_start": "mamba2"}, "model.decay_start='mamba2'", "leave it at 'windows'"),
    ({"model.rule": "hebbian", "model.decay_start": "mamba2"}, "model.decay_start='mamba2'", "leave it at 'windows'"),
    ({S + "loop_stop": 1}, "model.sleep.loop_start=0, loop_stop=1", "take a G into it"),
    ({"model.pattern": "GAAG", S + "loop_start": 1, S + "loop_stop": 3}, "model.sleep.loop_start=1, loop_stop=3", "take a G into it"),
    ({**ONCE, S + "reset_fast_weights": True}, "model.sleep.reset_fast_weights=True", "set it to False"),
    ({"model.pattern": "AA", S + "eviction": "none", S + "reset_fast_weights": True}, "model.sleep.reset_fast_weights=True", "set it to False"),
    ({**ONCE, S + "rewrite": True}, "model.sleep.rewrite=True with passes=1", "set it to False"),
    ({"model.pattern": "AA", S + "eviction": "none", S + "rewrite": True}, "model.sleep.rewrite=True", "set it to False"),
    ({S + "rewrite": True, S + "reset_fast_weights": True}, "model.sleep.reset_fast_weights=True with model.sleep.rewrite=True", "use False"),
    ({S + "rewrite": True, "model.turn_keys": "passes"}, "model.turn_keys='passes' with model.sleep.rewrite=True", "use 'windows'"),
    ({S + "rewrite": True, S + "predict_passes": 3}, "model.sleep.predict_passes=3 with model.sleep.rewrite=True", "use 1"),
    ({S + "gradient": "last", S + "gradient_passes": 4}, "model.sleep.gradient='last'", "set that, or fewer passes"),
    ({**ONCE, S + "gradient": "last"}, "gradient_passes=1 of 1 passes", "gradient='full': set that"),
    ({S + "gradient": "last", S + "gradient_passes": 8, "train.random_passes": (2, 8)}, "gradient_passes=8 of 8 passes", "or fewer passes"),
    ({**ONCE, S + "gradient": "implicit"}, "model.sleep.gradient='implicit'", "set it to 'full', or more passes"),
    ({S + "gradient_passes": 2}, "model.sleep.gradient_passes=2", "set gradient to 'last'"),
]
# all of these are arms that somebody may want
TAKEN = [
    {"model.pattern": "GG"},
    {**ONCE, "model.pattern": "AA"},
    {**ONCE, "model.pattern": "AA", S + "eviction": "none"},
    {"model.pattern": "AA", S + "eviction": "none"},
    {"model.pattern": "AA", S + "eviction": "sliding"},
    {"model.pattern": "AA", **ONCE, S + "predict_passes": 4},
    {**ONCE, S + "loop_stop": 1},
    {**ONCE, S + "carry": "hidden"},
    {"model.rule": "momentum", "model.beta_max": 2.0},
    {"model.rule": "kda", "model.decay_start": "mamba2"},
    {S + "reset_fast_weights": True, "train.random_passes": (1, 4)},
    {S + "rewrite": True, "train.random_passes": (1, 4), "model.turn_keys": "windows"},
    {S + "predict_passes": 4, S + "carry": "hidden"},
    {**ONCE, S + "predict_passes": 4, S + "gradient": "last", S + "gradient_passes": 2},
    {S + "gradient": "last", S + "gradient_passes": 4, "train.random_passes": (2, 8)},
    {**ONCE, S + "gradient": "implicit", "train.random_passes": (1, 2)},
    {S + "eviction": "none", S + "gradient": "implicit", S + "reset_fast_weights": True, "model.beta_max": 2.0},
]


@pytest.mark.parametrize("changes, key, fix", REFUSED, ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "")
def test_what_makes_no_sense_together_is_refused(changes, key, fix):
    with pytest.raises(UsageError, match=f"^{re.escape(key)}" if key.startswith("model") else re.escape(key)) as error:
        apply(RunConfig(), changes)
    assert fix in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("changes", TAKEN, ids=lambda value: " ".join(map(str, value.values())))
def test_what_is_merely_odd_is_taken(changes):
    run = apply(RunConfig(), changes)
    assert from_dict(RunConfig, to_dict(run)) == run


@pytest.mark.parametrize("pattern, passes, words", [("AG", (1,), "halt=0.1 .* passes=1"), ("AA", (4,), "halt=0.1 waits for fast weights")])
def test_a_halt_with_nothing_to_end(pattern, passes, words):
    task = tasks.get("rule110", width=12, strings=3, steps=0)

    class Model:
        config = ModelConfig(vocab_size=task.vocab_size, window=task.window, pattern=pattern)

    with pytest.raises(UsageError, match=words):
        runner.evaluate(Model(), task, passes=passes, examples=1, batch_size=1, halt=0.1)
