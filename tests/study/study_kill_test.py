"""A study killed at random moments, again and again, ends with the numbers of one that was not."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from study_command_test import CONFIG

# of an outcome, all that the clock does not touch
COMPARED = ("arm", "seed", "config", "steps", "flops", "rows", "curve")


def command(folder):
    return [sys.executable, "-m", "sleepnet.study", f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'runs'}", "--cores_per_run=1"]


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def kill(pid, how):
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass


def outcomes(folder):
    found = {}
    for path in sorted((folder / "runs").glob("*/seed*/outcome.json")):
        values = json.loads(path.read_text())
        found[f"{values['arm']}/{values['seed']}"] = {key: values[key] for key in COMPARED} | {"loss": values["result"].get("loss")}
    return found


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.py").write_text(CONFIG.replace("steps=12", "steps=60"))
    start = time.monotonic()
    subprocess.run(command(tmp_path / "unbroken"), check=True, capture_output=True)
    whole = time.monotonic() - start
    draw, kills, status = random.Random(0), 0, None
    for how in (*[signal.SIGKILL] * 5, signal.SIGTERM):
        study = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 0.9) * whole)
        victims = children(study.pid)
        # the study alone, whose workers must notice; its workers alone, as when memory runs out; or all at once
        for pid in draw.choice([[study.pid], victims, [study.pid, *victims]]):
            kill(pid, how)
            kills += 1
        status = study.wait()
    assert kills >= 5 and status is not None
    subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True)
    assert len(outcomes(tmp_path / "unbroken")) == 2
    assert outcomes(tmp_path / "killed") == outcomes(tmp_path / "unbroken")
