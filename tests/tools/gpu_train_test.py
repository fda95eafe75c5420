"""tools/gpu_train.py: legs on machines that forget end as an unbroken run does, and what is brought back is checked."""
import contextlib
import functools
import gc
import json
import signal
import time

import gpu_train
import jax
import numpy as np
import pytest
from gpu import packs

from sleepnet import build, checkpoint, optim
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.train import loop, preempt

CONFIG = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 0, "sleep": {"passes": 2}},
    "optim": {"warmup": 2, "adam_rate": 0.01},
    "train": {"steps": 9, "batch_size": 8, "log_every": 2, "save_every": 4, "keep": 2, "eval_every": 3, "eval_examples": 8},
    "eval": {"batch_size": 8},
})


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """The legs share their compiled step. Optax's Muon divides a power of a float by an int32, which strict promotion forbids."""
    monkeypatch.setattr(optim, "optimizer", functools.cache(optim.optimizer))
    monkeypatch.setattr(loop, "make_step", functools.cache(loop.make_step))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def state_of(workdir, step):
    """Everything that was saved: parameters, optimiser, position in the data."""
    manager = checkpoint.Checkpoints(workdir, create=False).manager
    saved = manager.restore(step, args=checkpoint.ocp.args.Composite(state=checkpoint.ocp.args.StandardRestore(), data=checkpoint.ocp.args.JsonRestore()))
    manager.close()
    return jax.tree_util.tree_leaves_with_path(saved.state), saved.data


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key and key != "input_share"} for row in rows]


def stopped_before(step, monkeypatch):
    @contextlib.contextmanager
    def watch():
        yield lambda now: now >= step

    monkeypatch.setattr(preempt, "watch", watch)


def test_legs_end_as_an_unbroken_run(tmp_path, monkeypatch, capsys):
    """Each leg on a machine of its own, that has what the last one left and nothing else."""
    loop.train(CONFIG, tmp_path / "whole", quiet=True)
    pack, far = tmp_path / "pack", time.monotonic() + 600
    for machine, (stop, reached) in enumerate([(5, 5), (99, 9)]):
        out = tmp_path / f"leg{machine}"
        with monkeypatch.context() as patch:
            stopped_before(stop, patch)
            done = gpu_train.leg(CONFIG, tmp_path / f"machine{machine}", pack, out, deadline=far, part_bytes=2000)
        assert done["step"] == reached and len(done["parts"]) > 2 and max(path.stat().st_size for path in out.glob("part*")) <= 2000
        assert {path.name for path in out.iterdir()} == {"manifest.json", *(part["name"] for part in done["parts"])}
        pack = out
    ours = tmp_path / "machine1"
    assert lines(ours) == lines(tmp_path / "whole")
    (one, place), (other, same_place) = state_of(ours, 9), state_of(tmp_path / "whole", 9)
    assert place == same_place and len(one) > 20
    for (path, leaf), (name, wanted) in zip(one, other, strict=True):
        assert path == name
        np.testing.assert_array_equal(leaf, wanted, err_msg=jax.tree_util.keystr(path))
    assert json.loads((ours / "result.json").read_text())["flops"] == json.loads((tmp_path / "whole" / "result.json").read_text())["flops"]
    said = gpu_train.told(ours, 0, CONFIG)
    assert "tokens/s" in said[0] and "% of the float32 peak" in said[0]
    length = build.task_of(CONFIG).seq_len
    assert [line.split()[0] for line in said[1:]] == [f"{step * 8 * length:,}" for step in (3, 6, 9)]


@pytest.fixture
def packed(tmp_path):
    """A made-up run of several files, packed."""
    run = tmp_path / "run"
    for step in (4, 8):
        (run / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (run / "checkpoints" / str(step) / "state" / "array").write_bytes(np.random.default_rng(step).bytes(5000))
    (run / "profile").mkdir()
    (run / "profile" / "trace").write_bytes(b"large")
    (run / "config.json").write_text("{}")
    packs.pack(run, tmp_path / "pack", part_bytes=1500)
    return run, tmp_path / "pack"


def test_a_pack_holds_the_newest_checkpoint_and_what_is_beside_it(packed, tmp_path):
    run, pack = packed
    assert packs.unpack(pack, tmp_path / "back") == 8
    files = {str(path.relative_to(tmp_path / "back")): path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()}
    assert files == {"config.json": b"{}", "checkpoints/8/state/array": (run / "checkpoints/8/state/array").read_bytes()}
    packs.pack(run, pack, part_bytes=10**6, every_checkpoint=True)
    assert len(list(pack.iterdir())) == 2
    packs.unpack(pack, tmp_path / "all")
    assert (tmp_path / "all/checkpoints/4/state/array").exists()


def test_a_pack_stays_whole_until_another_of_the_same_step_is(packed, tmp_path, monkeypatch):
    run, pack = packed
    before = {path.name: path.read_bytes() for path in pack.iterdir()}
    (run / "config.json").write_text('{"other": 1}')
    writes, real = [], packs._Parts.write

    def full(self, data):
        writes.append(self)
        if len(writes) > 3:
            raise OSError(28, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(packs._Parts, "write", full)
        packs.pack(run, pack, part_bytes=100)
    assert {path.name: path.read_bytes() for path in pack.iterdir()} == before and writes[0].closed and not writes[0].file
    gc.collect()  # what gzip still held is not written when it is thrown away
    assert {path.name: path.read_bytes() for path in pack.iterdir()} == before and not writes[0].file
    packs.pack(run, pack, part_bytes=1500)
    assert len(list(pack.iterdir())) == len(before) and packs.unpack(pack, tmp_path / "back") == 8
    assert (tmp_path / "back/config.json").read_text() == '{"other": 1}'


@pytest.mark.parametrize("harm, words", [
    (lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])), "part-8-01.tgz is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "part-8-01.tgz is damaged"),
    (lambda path: path.unlink(), "part-8-01.tgz is missing: bring the files of the leg to step 8 here again"),
    (lambda path: (path.parent / "manifest.json").write_text("{}"), "is no manifest of a pack"),
])
def test_a_harmed_pack_is_refused_before_anything_is_written(packed, tmp_path, harm, words):
    harm(packed[1] / "part-8-01.tgz")
    with pytest.raises(UsageError, match=words):
        packs.unpack(packed[1], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_run_that_is_behind_its_pack_is_not_overwritten(packed, tmp_path):
    behind = tmp_path / "behind"
    (behind / "checkpoints" / "4" / "state").mkdir(parents=True)
    with pytest.raises(UsageError, match="stands at step 4, .* at 8: give a new --workdir"):
        gpu_train.leg(CONFIG, behind, packed[1], packed[1], deadline=time.monotonic() + 60, part_bytes=1000)
    with pytest.raises(UsageError, match="is there already"):
        packs.unpack(packed[1], behind)


def test_time_is_up_once_for_the_run_and_harmless_else():
    handler = signal.getsignal(signal.SIGTERM)
    with gpu_train.ending_at(time.monotonic()):  # before the run watches, and while it does
        time.sleep(0.05)
        with preempt.watch() as told:
            assert not told(0)
            deadline = time.monotonic() + 10
            while not told(0) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert told(0)
    assert signal.getsignal(signal.SIGTERM) is handler
