"""What a run reads: batches by index, whatever the batch size or where it goes on, and the passes of each step."""
import dataclasses

import numpy as np
import pytest

from sleepnet import build, data
from sleepnet.config import RunConfig, from_dict
from sleepnet.costs import passes_at
from sleepnet.tasks.base import FIELDS

CONFIG = from_dict(RunConfig, {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"sleep": {"passes": 2}},
    "train": {"random_passes": (1, 2)},
})
TASK = build.task_of(CONFIG)


def test_batches_are_the_tasks_by_index():
    source = data.BatchSource(TASK, seed=3, batch_size=4, steps=9)
    for start in (0, 5):
        iterator = data.batches(source, start)
        for index in range(start, 9):
            assert iterator.get_state()["next_index"] == index
            batch, wanted = next(iterator), TASK.batch(3, "train", 4 * index, 4)
            for key in FIELDS:
                np.testing.assert_array_equal(batch[key], wanted[key], err_msg=key)
        with pytest.raises(StopIteration):
            next(iterator)


def test_the_first_examples_do_not_depend_on_the_batch_size():
    batches = lambda size: np.concatenate([data.BatchSource(TASK, seed=0, batch_size=size, steps=12 // size)[i]["tokens"] for i in range(12 // size)])
    np.testing.assert_array_equal(batches(2), batches(6))


def test_random_passes_are_a_function_of_seed_and_step():
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, random_passes=(1, 2, 5)))
    drawn = [passes_at(config, step) for step in range(300)]
    assert [passes_at(config, step) for step in reversed(range(300))] == drawn[::-1]
    assert all(70 < drawn.count(passes) < 130 for passes in (1, 2, 5))
    assert [passes_at(dataclasses.replace(config, seed=1), step) for step in range(300)] != drawn
    fixed = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, random_passes=()))
    assert {passes_at(fixed, step) for step in range(20)} == {2}
