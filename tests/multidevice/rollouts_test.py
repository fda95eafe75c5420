"""Eight devices draw what one draws, and give the same rewards (see `rollouts_cases.py`)."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow  # a process of its own that compiles the sampler twice; that rows draw alike on a mesh is in mesh_test
def test_rewards_are_the_same_on_eight_devices():
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("rollouts_cases.py"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, eight = json.loads(done.stdout.splitlines()[-1]).values()
    assert one["devices"] == 1 and eight["devices"] == 8
    said = [np.array(each["said"]) for each in (one, eight)]
    alike = (said[0] == said[1]).all(axis=-1)
    assert alike.mean() > 0.95  # a rounding may move a draw
    np.testing.assert_allclose(np.array(one["rewards"])[alike], np.array(eight["rewards"])[alike], atol=1e-6)
    whole = alike.all(axis=1)
    np.testing.assert_allclose(np.array(one["advantages"])[whole], np.array(eight["advantages"])[whole], atol=1e-4)
    assert len(np.unique(said[0].reshape(24, -1), axis=0)) > 20
