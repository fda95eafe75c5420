"""Several processes on loopback train what one trains; they stop together, and none waits for one that is gone or that runs something else."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT, SCRIPT, STEPS = Path(__file__).parents[2], Path(__file__).with_name("processes_run.py"), 30
CONFIG = """
from sleepnet.config import default

def get_config():
    config = default()
    config.update({
        "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 6, "name_tokens": (1, 1), "min_nodes": 2}},
        "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 0, "sleep": {"passes": 1}},
        "optim": {"warmup": 2},
        "train": {"steps": 30, "batch_size": 16, "log_every": 1, "save_every": 5, "eval_every": 15, "eval_examples": 16},
        "eval": {"batch_size": 16},
    })
    return config
"""


TEXT = """
from sleepnet.config import default

def get_config():
    config = default()
    config.update({
        "task": {"name": "text", "arguments": {"window": 16, "windows": 3}},
        "model": {"pattern": "AG", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 0, "pad_id": -1, "sleep": {"passes": 2, "after_predicting": True}},
        "optim": {"warmup": 2},
        "train": {"steps": 8, "batch_size": 8, "log_every": 1, "save_every": 4, "eval_every": 4, "eval_examples": 8},
        "eval": {"batch_size": 8},
    })
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "config.py").write_text(CONFIG)
    return folder


def start(folder, workdir, count, devices=1, *, config="config.py", seconds=0.0, differ=(), flags=()):
    """The processes of a run; the last one gets the flags of `differ` besides."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "SECONDS_A_BATCH": str(seconds),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(SCRIPT), f"--config={folder / config}", f"--workdir={folder / workdir}", f"--config.compile_cache={folder / 'compiled'}", *flags]

    def one(number):
        where = [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}", f"--process_id={number}"] if count > 1 else []
        arguments = [*command, *where, *(differ if number == count - 1 else ())]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return [one(number) for number in range(count)]


def ended(processes, timeout=600):
    """(code, stdout, lines of stderr that are ours) of each; Gloo writes to stdout, too."""
    said = [process.communicate(timeout=timeout) for process in processes]
    ours = lambda text, keep: [line for line in text.splitlines() if keep(line)]
    return [
        (process.returncode, "\n".join(ours(out, lambda line: not line.startswith("[Gloo]"))), ours(error, lambda line: line.startswith("error:")))
        for process, (out, error) in zip(processes, said)
    ]


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key and key != "input_share"} for row in rows]


def steps_written(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def reached(workdir, step, processes, timeout=300):
    until = time.monotonic() + timeout
    while steps_written(workdir) < step:
        assert time.monotonic() < until and all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)


def appears(path, timeout=60):
    """Checkpoints are written beside the training."""
    until = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one(folder):
    """The lines of one process with two devices."""
    assert ended(start(folder, "one", 1, 2))[0][0] == 0
    return lines(folder / "one")


def test_two_processes_train_what_one_does_bit_for_bit(folder, one):
    """The same mesh; a sum of two is the same in either order."""
    codes = ended(start(folder, "two", 2))
    assert [code for code, _, _ in codes] == [0, 0], codes
    assert lines(folder / "two") == one and len({row["loss"] for row in one if row["split"] == "train"}) == STEPS
    assert "30 steps" in codes[0][1] and codes[1][1] == ""
    assert len(list((folder / "two/tensorboard").iterdir())) == 1


@pytest.mark.slow  # two minutes on two busy cores
def test_two_processes_read_the_text_that_one_reads(folder):
    """Losses and those of the held-out documents, bit for bit."""
    (folder / "text.py").write_text(TEXT)
    for workdir, count, devices in (("text_one", 1, 2), ("text_two", 2, 1)):
        codes = ended(start(folder, workdir, count, devices, config="text.py"))
        assert [code for code, _, _ in codes] == [0] * count, codes
    one, two = lines(folder / "text_one"), lines(folder / "text_two")
    assert one == two and [row["step"] for row in one if row["split"] == "validation"] == [4, 8] and len({row["loss"] for row in one}) == 10


@pytest.mark.slow  # a minute and more on two busy cores
def test_four_processes_train_the_same_within_rounding(folder, one):
    codes = ended(start(folder, "four", 4))
    assert [code for code, _, _ in codes] == [0] * 4, codes
    losses = [[row["loss"] for row in rows if row["split"] == "train"] for rows in (lines(folder / "four"), one)]
    np.testing.assert_allclose(losses[0][:1], losses[1][:1], rtol=2e-6)
    np.testing.assert_allclose(*losses, rtol=2e-4)


def test_sigterm_to_one_stops_all_and_they_go_on_bit_for_bit(folder, one):
    processes = start(folder, "term", 2, seconds=0.5)
    reached(folder / "term", 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes = ended(processes)
    assert [code for code, _, _ in codes] == [0, 0], codes
    saved = max(int(path.name) for path in (folder / "term/checkpoints").iterdir() if path.name.isdigit())
    assert codes[0][1] == f"preempted at step {saved} of 30; the same command goes on from there" and 3 <= saved < STEPS
    assert [code for code, _, _ in ended(start(folder, "term", 2))] == [0, 0]
    assert lines(folder / "term") == one


@pytest.mark.slow  # a minute and more on two busy cores
def test_a_run_goes_on_in_fewer_processes(folder, one):
    """Four, then two, then one: the same steps, each once."""
    for count, until in ((4, 8), (2, 16)):
        processes = start(folder, "fewer", count, seconds=0.25)
        reached(folder / "fewer", until, processes)
        processes[-1].send_signal(signal.SIGTERM)
        codes = ended(processes)
        assert [code for code, _, _ in codes] == [0] * count and "preempted at step" in codes[0][1], codes
    assert max(int(path.name) for path in (folder / "fewer/checkpoints").iterdir() if path.name.isdigit()) < STEPS
    assert ended(start(folder, "fewer", 1))[0][0] == 0
    assert [(row["step"], row["split"]) for row in lines(folder / "fewer")] == [(row["step"], row["split"]) for row in one]
    losses = [[row["loss"] for row in rows if row["split"] == "train"] for rows in (lines(folder / "fewer"), one)]
    np.testing.assert_allclose(*losses, rtol=2e-4)


@pytest.mark.slow  # half a minute: two processes start, one is killed
def test_the_others_end_within_a_minute_when_one_dies(folder):
    processes = start(folder, "dead", 2, seconds=0.5)
    reached(folder / "dead", 6, processes)
    appears(folder / "dead/checkpoints/5")
    processes[1].kill()
    killed = time.monotonic()
    code, _, error = ended(processes[:1], timeout=90)[0]
    assert time.monotonic() - killed < 60 and code != 0
    assert len(error) == 1 and f"process 1 of 2 ({socket.gethostname()}, pid {processes[1].pid}) has died" in error[0]
    processes[1].communicate()
    assert not (folder / "dead/result.json").exists() and (folder / "dead/checkpoints/5").is_dir()


def test_the_coordinator_is_named_when_it_dies(folder):
    """JAX aborts the others at once; somebody has to say why."""
    processes = start(folder, "headless", 2, seconds=0.2)
    reached(folder / "headless", 3, processes)
    processes[0].kill()
    began = time.monotonic()
    ((code, _, error),) = ended(processes[1:], timeout=60)
    assert code != 0 and time.monotonic() - began < 60
    assert len(error) == 1 and f"process 0 of 2 ({socket.gethostname()}, pid {processes[0].pid}), the coordinator, has died" in error[0], error
    assert "run the same command" in error[0]
    processes[0].communicate()


@pytest.mark.parametrize(
    "differ, message",
    [
        (["--config.model.width=16"], "process 1 of 2 (HOST) runs something else than process 0: config.model.width is 8 in process 0 and 16 there"),
        (["--workdir=ELSEWHERE"], "is not shared: process 1 of 2 (HOST) can't see what process 0 wrote there"),
    ],
    ids=["config", "workdir"],
)
def test_a_host_that_differs_is_refused_by_all_before_anything_is_written(folder, tmp_path, differ, message):
    workdir = folder / f"refused{len(message)}"
    processes = start(folder, workdir.name, 2, differ=[flag.replace("ELSEWHERE", str(tmp_path / "other")) for flag in differ])
    codes = ended(processes)
    for code, out, error in codes:
        assert (code, out, len(error)) == (2, "", 1), codes
        assert message.replace("HOST", f"{socket.gethostname()}, pid {processes[1].pid}") in error[0]
    assert not workdir.exists() and not (tmp_path / "other").exists()
