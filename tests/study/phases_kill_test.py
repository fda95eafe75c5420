"""A study of chains, killed in the middle of each phase, ends with the numbers of one that was not, also on other meshes; each phase starts where the one before ended."""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from studies import TINY
from study_kill_test import children, command, kill

CONFIG = TINY.replace("steps=12", "steps=60").replace("eval_every=4", "eval_every=20") + """    config.base.model.sleep.passes = 2
    config.base.optim.warmup = 4
    first = dict(name="first", overrides={"task.arguments.hops": 1})
    config.arms = [
        dict(name="more", label="and more of it", phases=[first, dict(name="then", overrides={})]),
        dict(name="slow", label="slowly", phases=[first, dict(name="then", overrides={"optim.adam_rate": 1e-4, "train.steps": 20})]),
    ]
    config.tests = [dict(name="near", task={"arguments.hops": 1}, examples=16)]
    return config
"""
# of an outcome, all that the clock does not touch
COMPARED = ("arm", "seed", "config", "steps", "flops", "rows", "curve", "before", "tests")


def outcomes(folder):
    found = {}
    for path in sorted((folder / "runs").glob("**/seed*/outcome.json")):
        values = json.loads(path.read_text())
        lines = [json.loads(line) for line in (path.parent / "train/metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["loss"] for line in lines if line.get("split") == "train"}
        found[f"{values['arm']}/{values['seed']}"] = {key: values[key] for key in COMPARED if key in values} | {"losses": losses}
    return found


# how a study is started on one device, and on four simulated ones
ONE = ([], {})
TWO_BY_TWO = (["--config.base.mesh.data=2", "--config.base.mesh.fsdp=2"], {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"})


def started(folder, where=ONE):
    flags, environment = where
    told = {name: f"{os.environ.get(name, '')} {value}".strip() for name, value in environment.items()}
    return {"args": [*command(folder), "--jobs=1", *flags], "env": {**os.environ, **told}}


def killed_in(folder, pattern, where=ONE):
    """Starts the study, and kills it with its worker once the run that `pattern` names has saved something and is on its way on."""
    study = subprocess.Popen(**started(folder, where), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(step.name.isdigit() for step in (folder / "runs").glob(f"{pattern}/train/checkpoints/*")):
        assert time.monotonic() < deadline and study.poll() is None
        time.sleep(0.05)
    for pid in [study.pid, *children(study.pid)]:
        kill(pid, signal.SIGKILL)
    study.wait()
    return next((folder / "runs").glob(f"{pattern}/worker.log")).parent


@pytest.mark.slow
def test_killed_in_each_phase_it_ends_with_the_same_numbers(tmp_path):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.py").write_text(CONFIG)
    subprocess.run(**started(tmp_path / "unbroken"), check=True, capture_output=True)
    first = killed_in(tmp_path / "killed", "phases/*-first/seed0")
    assert not (first / "outcome.json").exists() and not (tmp_path / "killed/runs/more").exists()
    second = killed_in(tmp_path / "killed", "more/seed0")
    assert (first / "outcome.json").exists() and not (second / "outcome.json").exists()
    subprocess.run(**started(tmp_path / "killed"), check=True, capture_output=True)
    whole = outcomes(tmp_path / "unbroken")
    assert len(whole) == 3 and outcomes(tmp_path / "killed") == whole
    # the first phase was trained once; the others start where it ended, and from nothing else
    home = next(name for name in whole if name.startswith("phases/"))
    end, begun = whole[home]["losses"][60], {arm: whole[f"{arm}/0"]["losses"][2] for arm in ("more", "slow")}
    assert whole[home]["losses"][2] > max(begun.values()) > 0 and end > 0
    assert [run["arm"] for run in whole["more/0"]["before"]] == [home.rpartition("/")[0]]
    lineage = [json.loads((tmp_path / "unbroken/runs" / arm / "seed0/train/start.json").read_text()) for arm in ("more", "slow")]
    assert lineage[0]["digest"] == lineage[1]["digest"]
    assert Path(os.path.realpath(tmp_path / "unbroken/runs/compiled")).is_dir() and not list((tmp_path / "unbroken/runs").glob("**/train/compiled"))


@pytest.mark.slow
def test_killed_on_one_device_it_goes_on_on_four(tmp_path):
    """Killed in the first phase on one device, in the second on 2 × 2, which ends it: all that is counted is equal, all that is computed is to rounding."""
    for name in ("unbroken", "moved"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.py").write_text(re.sub(r"\n *dict\(name=\"slow\".*", "", CONFIG))
    subprocess.run(**started(tmp_path / "unbroken"), check=True, capture_output=True)
    whole, folder = outcomes(tmp_path / "unbroken"), tmp_path / "moved"
    first = killed_in(folder, "phases/*-first/seed0")
    saved = max(int(step.name) for step in (first / "train/checkpoints").iterdir() if step.name.isdigit())
    second = killed_in(folder, "more/seed0", TWO_BY_TWO)
    assert (first / "outcome.json").exists() and not (second / "outcome.json").exists()
    subprocess.run(**started(folder, TWO_BY_TWO), check=True, capture_output=True)
    moved = outcomes(folder)
    assert moved.keys() == whole.keys() and len(whole) == 2
    for name, there in whole.items():
        here = moved[name]
        for key in ("arm", "seed", "steps", "flops"):
            assert here[key] == there[key], (name, key)
        assert here["config"] == {**there["config"], "mesh": {"data": 2, "fsdp": 2, "tensor": 1}}
        counted = lambda line: {key: value for key, value in line.items() if "accuracy" not in key and key != "loss"}
        assert [counted(line) for line in here["curve"]] == [counted(line) for line in there["curve"]]
        assert here["losses"].keys() == there["losses"].keys()
        assert list(here["losses"].values()) == pytest.approx(list(there["losses"].values()), rel=2e-3), name
        for row, other in zip(here["rows"], there["rows"], strict=True):
            assert (row["answers"], row["tokens_graded"], row["flops"]) == (other["answers"], other["tokens_graded"], other["flops"])
            assert row["label_accuracy"] == pytest.approx(other["label_accuracy"], abs=0.05)
        assert here["rows"][0]["label_loss"] == pytest.approx(there["rows"][0]["label_loss"], rel=2e-3)
    home = next(name for name in whole if name.startswith("phases/"))
    assert all(moved[home]["losses"][step] == loss for step, loss in whole[home]["losses"].items() if step <= saved), "to the checkpoint that went over, the same bits"
    card = lambda path: json.loads(next(path.glob("train/checkpoints/*/_CHECKPOINT_METADATA")).read_text())["custom_metadata"]["mesh"]
    assert card(second)["fsdp"] == 2 and card(second)["data"] == 2
