"""A study of chains, killed in the middle of each phase, ends with the numbers of one that was not; each phase starts where the one before ended."""
import json
import os
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


def killed_in(folder, pattern):
    """Starts the study, and kills it with its worker once the run that `pattern` names has saved something and is on its way on."""
    study = subprocess.Popen([*command(folder), "--jobs=1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    subprocess.run([*command(tmp_path / "unbroken"), "--jobs=1"], check=True, capture_output=True)
    first = killed_in(tmp_path / "killed", "phases/*-first/seed0")
    assert not (first / "outcome.json").exists() and not (tmp_path / "killed/runs/more").exists()
    second = killed_in(tmp_path / "killed", "more/seed0")
    assert (first / "outcome.json").exists() and not (second / "outcome.json").exists()
    subprocess.run([*command(tmp_path / "killed"), "--jobs=1"], check=True, capture_output=True)
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
