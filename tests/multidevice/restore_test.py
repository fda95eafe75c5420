"""Checkpoints move between meshes bit for bit, and are read without the devices they were saved on (see `restore_cases.py`)."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("restore")


@pytest.fixture(scope="module")
def found(folder):
    """What the cases print; they run in a process of their own, with eight devices."""
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("restore_cases.py")), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("chain, devices, shards", [("8 → 1 → 4", [8, 1, 4], [[8, 16], [16, 32], [8, 32]]), ("fsdp → tensor → fsdp", [4] * 3, [[4, 32], [16, 8], [4, 32]])])
def test_the_state_moves_bit_for_bit_to_where_it_belongs(found, chain, devices, shards):
    steps = [found[chain][step] for step in "012"]
    assert [step["differ"] for step in steps] == [step["elsewhere"] for step in steps] == [[], [], []]
    assert [step["devices"] for step in steps] == devices
    assert [step["shards"] for step in steps] == [[shape] for shape in shards]


def inspect(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, str(ROOT / "tools/inspect_checkpoint.py"), *map(str, arguments)], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_a_checkpoint_of_eight_devices_is_read_on_one(found, folder):
    code, said, error = inspect(folder / "8", "--step", "1")
    assert (code, error) == (0, "")
    rows = [line.split() for line in said.splitlines()]
    assert ["mesh", "data=2", "×", "fsdp=2", "×", "tensor=2;", "1", "process(es),", "cpu"] in rows
    assert ["params.blocks.1.mixer.q.kernel", "(16,", "32)", "float32", "P('fsdp',", "'tensor')", "2,048"] in rows
    assert ["step", "()", "int32", "P()", "4"] in rows
    assert "model.width = 16" in said and "task hash" in said and "orbax-checkpoint" in said and "(there are 1, 2, 3)" in said
    assert f"{sum(int(row[-1].replace(',', '')) for row in rows if row and row[0].startswith(('params.', 'opt_state.', 'step', 'bad_step'))):,} bytes in" in said


def test_a_damaged_checkpoint_is_one_line(found, folder):
    target = folder / "fsdp/checkpoints/2/state/_METADATA"
    target.write_bytes(target.read_bytes()[:100])
    code, said, error = inspect(folder / "fsdp/checkpoints/2")
    assert (code, said) == (2, "") and error.count("\n") == 1
    assert error.startswith(f"error: checkpoint {folder}/fsdp/checkpoints/2 is truncated or damaged (state/_METADATA: ")
