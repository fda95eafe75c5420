"""Foreign chains: they say what a right chain says, in words of the task, where the task's own stood; the prompt, the answer and its place stay."""
import numpy as np
import pytest
from rewards_test import ROWS, problems, solved, words_of

from exprl_test import VALUES
from sleepnet import build, methods
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.methods.rl import foreign


def test_foreign_chains_say_the_same_in_other_words():
    task, batch, milestones, _ = problems()
    made = foreign.written(np.asarray(milestones.names), np.asarray(milestones.values), batch, task.grammar, task.opening, task.answer_marker)
    assert (made["tokens"][:, : task.window] == batch["tokens"][:, : task.window]).all() and (made["targets"][:, -1] == batch["targets"][:, -1]).all()
    for row in range(ROWS):
        _, values, core = solved(row)
        words = words_of(task, made["tokens"][row, task.window :])
        said = [sentence.strip() for sentence in " ".join(words[1:-1]).split(" .") if sentence.strip()]
        assert sorted(said) == sorted(f"{values[what, town]} = The number of {what} in {town}" for what, town in core)
        counted = np.flatnonzero(made["loss_mask"][row])
        assert len(counted) == len(words) and counted[-1] == task.seq_len - 1 and (batch["answer"][row] >= 0)[counted[-1]]
        assert made["tokens"][row, counted[0]] == task.opening and (made["targets"][row, counted[:-1]] == made["tokens"][row, counted[1:]]).all()


def test_what_there_is_no_room_for_is_refused(monkeypatch):
    config = from_dict(RunConfig, {**VALUES, "method": {"name": "foreign", "arguments": {}}})
    task, method = build.task_of(config), methods.of(config)
    method.check(config, task)
    monkeypatch.setattr(type(task), "milestones", lambda self, tokens: (np.zeros((1, 40, 5), np.int32), None, None))
    with pytest.raises(UsageError, match="foreign chains of 362 tokens are longer than the"):
        method.check(config, task)
