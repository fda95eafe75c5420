"""The check of a GPU machine: nothing is skipped in silence, whatever keeps a part from running."""
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

from sleepnet_kernels import dispatch
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule.arg_specs import Shape

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import gpu_check  # noqa: E402
from gpu import parts as gpu_parts  # noqa: E402


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def status(folder):
    return {name: part["status"] for name, part in json.loads((folder / "report.json").read_text())["parts"].items()}


def test_a_part_that_passes_has_its_rows_in_the_report_and_what_is_excluded_is_told(tmp_path):
    assert gpu_check.check(tmp_path, True, {"rule110"}, {"device": 60, "fla": 60, "rule110": 60}) == 0
    assert status(tmp_path) == {"device": "passed", "fla": "excluded by --cpu", "rule110": "excluded by --skip"}
    report = (tmp_path / "report.md").read_text()
    assert "fla | excluded by --cpu | 0" in report and "## device" in report and f"{sys.version_info.major}.{sys.version_info.minor}." in report


def test_a_part_that_cannot_run_or_takes_too_long_is_told_and_ends_in_one(tmp_path):
    assert gpu_check.check(tmp_path / "no_gpu", False, set(), {"device": 60}) == 1
    assert "cpu and no GPU; --cpu checks a machine without one" in status(tmp_path / "no_gpu")["device"]
    assert gpu_check.check(tmp_path / "slow", True, set(), {"device": 0.05}) == 1
    assert status(tmp_path / "slow")["device"].startswith("failed: not done after")


def test_an_earlier_report_does_not_stand_in_for_a_part_that_fails(tmp_path):
    (tmp_path / "device.json").write_text('[{"device": "of yesterday"}]')
    gpu_check.check(tmp_path, True, set(), {"device": 0.05})
    assert "yesterday" not in (tmp_path / "report.md").read_text()


def test_the_limits_are_eight_minutes_together_and_every_part_has_one():
    assert sum(gpu_check.LIMITS.values()) <= 480 and gpu_check.LIMITS.keys() == gpu_parts.PARTS.keys()


def test_a_kernel_that_raises_or_refuses_is_a_row_and_ends_in_one(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such instruction\nand more")

    refuses = lambda q, *rest: "it takes bfloat16" if q.dtype != jnp.bfloat16 else None
    monkeypatch.setitem(delta_api.KERNELS, "broken", dispatch.Implementation(broken, refuses, platform="cpu"))
    monkeypatch.setattr(gpu_parts, "HOSTILE", {"moderate decay": {}})
    with pytest.raises(AssertionError, match="1 of 2 rows"), jax.numpy_dtype_promotion("standard"):
        gpu_parts._numerics(tmp_path / "kernels.json", False, [Shape(1, 4, 1, 8, 8)], ("float32", "bfloat16"), own_kernels=True)
        gpu_parts._raise_if_red(json.loads((tmp_path / "kernels.json").read_text()))
    results = [row["result"] for row in json.loads((tmp_path / "kernels.json").read_text())]
    assert results == ["can't run these arguments: it takes bfloat16", "raised RuntimeError: no such instruction"]


@pytest.mark.slow
def test_the_whole_check_passes_on_a_cpu(tmp_path):
    assert gpu_check.check(tmp_path, True, set(), {name: 1800 for name in gpu_check.LIMITS}) == 0
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    for name in ("depo", "rule110"):
        (row,) = parts[name]["rows"]
        assert row["tokens_per_second"] > row["steps_per_second"] > 0 and 0 < row["share_of_peak"] < 1
    assert {row["result"] for row in parts["numerics"]["rows"]} == {"within tolerance", "not for cpu: made for tpu alone", "not for cpu: made for gpu alone"}
    assert {(row["rule"], row["dtype"]) for row in parts["bench"]["rows"]} == {("delta", "float32"), ("delta", "bfloat16"), ("hebbian", "bfloat16")}
    assert (tmp_path / "bench.png").exists()
