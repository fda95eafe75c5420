"""Saves that are none: declined, under another's number, not to be read back, met by a limit; and a folder's one writer."""
import os
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from checkpoint_test import CONFIG, TASK, fingerprint, params_at, refused, saved, workdir  # noqa: F401, fixtures among them
from sleepnet import checkpoint, lock, origin, step_folders
from sleepnet.checkpoint import Checkpoints, claim, load_model
from sleepnet.errors import UsageError
from sleepnet.train import loop


def test_a_copy_under_another_number_is_no_checkpoint_and_hides_none(workdir):  # noqa: F811
    """`checkpoints/20240101`, a copy of step 4, used to be the newest: nothing was saved behind it, and old weights passed for its step."""
    shutil.copytree(workdir / "checkpoints/4", workdir / "checkpoints/20240101")
    (workdir / "checkpoints/77").mkdir()
    (workdir / "checkpoints/77/notes.txt").write_text("mine")
    strays = {name: fingerprint(workdir / "checkpoints" / name) for name in ("20240101", "77")}
    assert load_model(workdir).step == 4
    checkpoints = Checkpoints(workdir, origin.card(CONFIG, TASK), keep=2)
    like = {"params": params_at(6), "other": jnp.ones(3)}
    assert checkpoints.latest() == 4 and checkpoints.restore(4, like)[1] == {"next_index": 4}
    with pytest.raises(UsageError, match="checkpoints/20240101 is that of step 4"):
        checkpoints.restore(20240101, like)
    checkpoints.save(6, like, {"next_index": 6})
    checkpoints.wait()
    with pytest.raises(UsageError, match="checkpoints/77 is where the checkpoint of step 77 has to be: move it away, the same command goes on from step 6"):
        checkpoints.save(77, like, {"next_index": 77})
    checkpoints.close()
    assert load_model(workdir).step == 6 and step_folders.steps(workdir / "checkpoints") == [4, 6]
    assert strays == {name: fingerprint(workdir / "checkpoints" / name) for name in strays}
    told = step_folders.foreign(workdir / "checkpoints")
    assert [line.removeprefix(f"{workdir}/checkpoints/") for line in told] == ["20240101 holds step 4", "77 is no checkpoint"]


def test_a_save_that_orbax_declines_is_an_error(workdir):  # noqa: F811
    checkpoints = Checkpoints(workdir)
    refused(workdir, "Orbax declines a checkpoint of step 3, the newest there being of 4", lambda: checkpoints.save(3, {"params": jnp.ones(3)}, {"next_index": 3}))
    checkpoints.close()


@pytest.mark.parametrize("harm, words", [
    ("path", r"it is truncated or damaged \(state/: there is no manifest.ocdbt in it\)"),
    ("bytes", r"it is not what was saved \(other\)"),
    ("lost", r"it is incomplete \(there is no state/ in it\)"),
])
def test_the_first_save_is_read_back(tmp_path, monkeypatch, harm, words):
    """A path that Orbax can't read in, were it let through; arrays that came back other ones; a file system that forgets."""
    workdir, state = tmp_path / ("runs[1]" if harm == "path" else "run"), {"params": jnp.ones(5), "other": jnp.arange(2)}
    monkeypatch.setattr(checkpoint.paths, "readable", lambda path, name: path)
    checkpoints = Checkpoints(workdir)
    wait = checkpoints.wait

    def harmed():
        wait()
        folder = workdir / "checkpoints/2"
        if harm == "bytes":
            saved = Checkpoints(tmp_path / "other")
            saved.save(2, {"params": jnp.ones(5), "other": jnp.arange(2) + 1}, {"next_index": 2})
            saved.close()
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "other/checkpoints/2", folder)
        elif harm == "lost":
            shutil.rmtree(folder / "state")

    checkpoints.wait = harmed
    with pytest.raises(UsageError, match=f"checkpoints/2 can't be read back: {words}; nothing is trained without checkpoints: give a --workdir elsewhere") as caught:
        checkpoints.save(2, state, {"next_index": 2})
    assert "\n" not in str(caught.value)
    checkpoints.close()


@pytest.mark.parametrize("said, words", [
    ("OUT_OF_RANGE: Error writing local file: Failed to write: File too large [os_error_code='27']", "file too large, a checkpoint could not be written; raise the limit"),
    ("RESOURCE_EXHAUSTED: Error writing: Disk quota exceeded [os_error_code='122']", "disk quota exceeded, a checkpoint could not be written; free some of your quota, then run the same command again"),
])
def test_a_limit_that_tensorstore_meets_is_one_line(tmp_path, monkeypatch, said, words):
    checkpoints = Checkpoints(tmp_path)

    def fails(*_, **__):
        raise ValueError(said)

    monkeypatch.setattr(checkpoints.manager, "save", fails)
    with pytest.raises(UsageError, match=words):
        checkpoints.save(2, {"params": jnp.ones(3)}, {"next_index": 2})
    checkpoints.close()


# a process that holds a folder until it is told to end, or is killed
HOLDER = """
import sys
from pathlib import Path
from sleepnet import lock
with lock.held(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_comes_second_is_told_who_is_first(holder, tmp_path):
    words = rf"run is in use by a training, pid {holder.pid} on {os.uname().nodename}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}: wait for it or end it, or give another folder$"
    for action in (lambda: loop.train(CONFIG, tmp_path / "run", quiet=True), lambda: lock.held(tmp_path / "run", "an export").__enter__()):
        with pytest.raises(UsageError, match=words) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "run") == [".lock"], "the second has written nothing"
    holder.communicate("\n")
    assert os.listdir(tmp_path / "run") == []


def test_a_lock_dies_with_its_process(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run/.lock").exists()
    claim(tmp_path / "run", CONFIG, TASK)  # what it left is in nobody's way
    with lock.held(tmp_path / "run", "a training"):
        assert f"pid {os.getpid()} " in (tmp_path / "run/.lock").read_text()
    assert not (tmp_path / "run/.lock").exists()


def test_a_waiting_process_comes_after_the_first(holder, tmp_path):
    script = HOLDER.replace('"a training")', '"a worker", wait=True)')
    waiting = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    holder.communicate("\n")
    assert waiting.stdout.readline() == "held\n" and f"pid {waiting.pid} " in (tmp_path / "run/.lock").read_text()
    waiting.communicate("\n")


def test_reading_beside_a_writer_is_free(workdir):  # noqa: F811
    with lock.held(workdir, "a training"):
        assert load_model(workdir).step == 4


@pytest.mark.parametrize("number, said", [(38, 1), (95, 1), (30, 0)], ids=["ENOSYS", "ENOTSUP", "EROFS"])
def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch, capsys, number, said):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", fails)
    with lock.held(tmp_path, "a training"):
        pass
    error = capsys.readouterr().err
    assert error.count("\n") == said and error.count("this file system knows no locks") == said
