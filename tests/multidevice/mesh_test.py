"""One mesh or another: the same losses, arrays where they belong, and a run that moves from mesh to mesh (see `cases.py`)."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the cases print; they run in a process of their own, with four devices."""
    script = Path(__file__).with_name("cases.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path_factory.mktemp("mesh"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_same(run, reference, from_step=0):
    """Losses and gradients' norms to fp32 rounding, which training amplifies from step to step."""
    np.testing.assert_allclose(run["loss"][from_step:], reference["loss"][from_step:], rtol=2e-4)
    np.testing.assert_allclose(run["loss"][:1], reference["loss"][:1], rtol=2e-6)
    np.testing.assert_allclose(run["norm"][from_step:], reference["norm"][from_step:], rtol=2e-3)
    assert run["params"].keys() == reference["params"].keys()
    for name, values in reference["params"].items():
        values = np.array(values)
        assert np.linalg.norm(run["params"][name] - values) <= 2e-3 * max(np.linalg.norm(values), 1e-3), name


@pytest.mark.parametrize("mesh", ["data", "fsdp", "cut"])
def test_every_mesh_trains_the_same_model(found, mesh):
    assert_same(found["runs"][mesh], found["runs"]["1"])


def test_the_losses_are_not_alike_by_accident(found):
    losses = found["runs"]["1"]["loss"]
    assert len(losses) == 8 and np.ptp(losses) > 0.01 * losses[0]


@pytest.mark.parametrize("way", ["4 → 1", "fsdp → tensor"])
def test_a_run_goes_on_on_another_mesh(found, way):
    assert_same(found["moved"][way], found["runs"]["1"])


def test_gradients_are_summed_over_data_once_and_not_in_every_window(found):
    assert found["sums"]["loops"] >= 2 and found["sums"]["within"] == 0 < found["sums"]["all"]


def test_arrays_live_where_the_rules_say(found):
    places = found["places"]
    assert places["parameter"] == ["fsdp", "tensor"] and places["shards"] == [[8, 8]]
    assert places["optimizer"] and all(spec == ["fsdp", "tensor"] for spec in places["optimizer"].values())
    assert places["batch"][0] == ["data", "fsdp"] and places["same_batch"]
    assert places["fast_weights"][:2] in ([["data", "fsdp"], "tensor"], ["fsdp", "tensor"])
    assert "all-reduce" in places["collectives"] or "reduce-scatter" in places["collectives"]


@pytest.mark.parametrize("mesh, shard", [("data", [4, 2, 8, 8]), ("cut", [4, 1, 8, 8])])
def test_rows_say_on_a_mesh_what_they_say_on_one_device(found, mesh, shard):
    alone, cut = found["said"]["1"], found["said"][mesh]
    assert cut["tokens"] == alone["tokens"] and len({tuple(row) for row in alone["tokens"]}) == 8
    np.testing.assert_allclose(cut["logps"], alone["logps"], atol=2e-6)
    assert cut["shards"] == [shard] and alone["shards"] == [[8, 2, 8, 8]]
