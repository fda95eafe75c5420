"""tools/soak.py: what it calls a difference, that it does kill, and (slow) a short soak of a real training."""
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
import soak
from flax import nnx

from sleepnet import checkpoint

PATH = Path(__file__).parents[2] / "tools" / "soak.py"
# a stand-in that writes a line of metrics every 10 ms, half a checkpoint every 10 lines, and ends after 400
STANDIN = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
with (folder / "metrics.jsonl").open("a") as file:
    for step in range(1, 401):
        file.write(json.dumps({"step": step}) + "\\n")
        file.flush()
        if step % 10 == 0:
            (folder / "checkpoints/5.orbax-checkpoint-tmp").mkdir(exist_ok=True)
        time.sleep(0.01)
(folder / "result.json").write_text("{}")
"""


class Two(nnx.Module):
    def __init__(self, value):
        self.a, self.b = nnx.Param(jnp.ones(3)), nnx.Param(jnp.asarray([1.0, value]))


def finished(folder, *, loss=2.5, value=1.0, seconds=1.0, rows=2):
    folder.mkdir()
    lines = [{"step": step, "split": "train", "loss": loss, "seconds": seconds * step, "input_share": seconds} for step in range(1, rows + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "value").write_text(repr(value))
    return folder


@pytest.mark.parametrize(
    "other, found",
    [
        ({"seconds": 3.0}, ""),
        ({"loss": 2.5000002}, "step 1, train: loss is 2.5 and 2.5000002"),
        ({"value": 1.0000001}, "parameter b"),
        ({"rows": 3}, "2 lines of metrics and 3"),
    ],
    ids=["none", "loss", "weight", "line"],
)
def test_the_first_difference_is_named(tmp_path, monkeypatch, other, found):
    monkeypatch.setattr(checkpoint, "load_model", lambda folder: SimpleNamespace(model=Two(float((folder / "value").read_text()))))
    assert soak.difference(finished(tmp_path / "one"), finished(tmp_path / "other", **other)) == found


@pytest.mark.parametrize("kind", ["time", "step", "save"])
def test_a_run_is_killed_at_a_moment_of_its_kind(tmp_path, kind):
    process = subprocess.Popen([sys.executable, "-c", STANDIN, str(tmp_path)])
    assert soak.break_once(process, tmp_path, kind, steps=20, seconds=0.5, dice=random.Random(1))
    assert process.returncode < 0 and soak.step_of(tmp_path) < 400
    assert kind != "save" or soak.saving(tmp_path)


def test_a_run_that_ends_by_itself_was_not_killed(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert not soak.break_once(process, tmp_path, "save", steps=20, seconds=0.5, dice=random.Random(1))


@pytest.mark.slow
def test_a_short_soak(tmp_path):
    (tmp_path / "config.py").write_text(
        "from sleepnet.config import default\n\n\ndef get_config():\n    config = default()\n    config.update({\n"
        "        'task': {'name': 'depo', 'arguments': {'nodes': 5, 'hops': 2, 'queries': 2, 'names': 3, 'name_tokens': (1, 2), 'min_nodes': 2}},\n"
        "        'model': {'pattern': 'G', 'width': 8, 'heads': 1, 'head_dim': 8, 'mlp_width': 0, 'sleep': {'passes': 1}},\n"
        "        'train': {'steps': 60, 'batch_size': 8, 'log_every': 1, 'save_every': 5, 'eval_every': 20, 'eval_examples': 8},\n"
        "    })\n    return config\n"
    )
    command = [sys.executable, str(PATH), f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'soak'}", "--kills=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads((tmp_path / "soak/soak.json").read_text())
    assert found["kills"] == 3 and found["differing"] == {} and found["runs"] >= 1
