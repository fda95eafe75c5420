"""The benchmarks of a training step take the step that is trained: its figures come out, of a part that changes as of the whole."""
import dataclasses
import json
import sys
from types import SimpleNamespace

import bench_compile
import bench_step
import jax
import pytest

from sleepnet import data
from sleepnet.config import AdaptersConfig, RunConfig, from_dict, to_dict
from sleepnet.errors import UsageError

CONFIG = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8}, "train": {"steps": 4, "batch_size": 4},
})  # fmt: skip


@pytest.fixture(autouse=True)
def as_shipped():
    """Optax's Muon divides a power of a float by an int32, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow  # the quickstart's step, compiled as it ships
def test_what_a_step_compiles_to_is_told_and_timed(monkeypatch):
    monkeypatch.setitem(sys.modules, "quickstart", SimpleNamespace(base=lambda: to_dict(CONFIG)))
    row = bench_compile.measure("step", 2)
    assert row["step"] > 0 and row["compile"] > 0 and row["programs"] == 1 and row["instructions"] > 50


def test_a_part_that_changes_has_a_smaller_step():
    """Less memory; as many FLOPs are told, as adapters.py says."""
    batch = jax.device_put(data.BatchSource(bench_step.build.task_of(CONFIG), seed=0, batch_size=4, steps=1)[0])
    adapted = dataclasses.replace(CONFIG, adapters=AdaptersConfig("low_rank", "mlp", rank=2))
    rows = [bench_step.row_of(config, "full", "none", 1, batch) for config in (CONFIG, adapted)]
    bench_step.measure(rows, batch, 2)
    whole, part = rows
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in rows)
    size = lambda row: sum(leaf.nbytes for leaf in jax.tree.leaves(row.state.opt_state))
    assert size(part) < size(whole) / 2 and part.flops == whole.flops


@pytest.mark.slow  # two programs that learn
def test_methods_stand_side_by_side(tmp_path, capsys):
    """Each row learns by its own method, from one batch that holds what all of them read; told in FLOPs."""
    (tmp_path / "config.py").write_text(f"from sleepnet.config import default\n\n\ndef get_config():\n    config = default()\n    config.update({to_dict(CONFIG)!r})\n    return config\n")
    flags = [f"--config={tmp_path / 'config.py'}", "--passes=2", "--remat=none", "--steps=0", "--method=answers,taught", f"--json={tmp_path / 'told.json'}"]
    bench_step.FLAGS(["bench_step", *flags])
    assert bench_step.main([]) == 0
    plain, labelled = json.loads((tmp_path / "told.json").read_text())
    assert (plain["method"], labelled["method"]) == ("answers", "taught") and labelled["flops"] > plain["flops"]
    assert "taught    full      none" in capsys.readouterr().out


WRITES = from_dict(RunConfig, {
    "task": {"name": "gsm", "arguments": {"ops": 0, "length": (8, 28), "places": 4, "things": 4, "limit": 10, "window": 28, "answer_alone": True, "chain_of_thought": True}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 8, "window_positions": False}, "train": {"steps": 4, "batch_size": 2},
})  # fmt: skip


@pytest.mark.slow  # two programs that draw; what is refused is below
def test_rollouts_are_drawn_alike_and_their_rates_told(capsys):
    batch = jax.device_put(data.BatchSource(bench_step.build.task_of(WRITES), seed=0, batch_size=2, steps=1)[0])
    row = SimpleNamespace(state=0, step=lambda state, batch: (state + 1, {}))
    told = bench_step.rates(WRITES, 3, batch, row, 2)
    assert set(told) == {"sampler", "loop", "training"} and all(rate > 0 for rate in told.values()) and row.state == 3 and told["sampler"] > told["loop"]


def test_a_task_without_chains_has_no_rollouts():
    with pytest.raises(UsageError, match="has no chain of thought"):
        bench_step.rollouts(CONFIG, 2, {"tokens": None})
