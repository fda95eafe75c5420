"""`python -m sleepnet.models`: every model is listed with its figures, drawn, and a wrong name is told in one line."""
import re

import jax
import pytest
from flax import nnx

from sleepnet.models import __main__ as command, zoo
from sleepnet.models.hybrid import Hybrid


def test_the_list_has_every_model_with_its_parameters(capsys):
    assert command.main(["list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines}
    assert rows.keys() == set(zoo.names())
    for name in ("cpu_hybrid", "cpu_samba", "cpu_full_cache", "depo8_sleep4"):
        state = nnx.state(nnx.eval_shape(lambda: Hybrid(zoo.config_of(name), nnx.Rngs(0))), nnx.Param)
        assert int(rows[name][3].replace(",", "")) == sum(leaf.size for leaf in jax.tree.leaves(state)), name
    assert rows["depo8_sleep4"][7] == "yes" and rows["cpu_hybrid"][7] == "no"
    assert header.split()[:3] == ["model", "blocks", "N"]


@pytest.mark.parametrize("name, words", [
    ("paper_rule110", ["2605.26099", "N = 4 asleep", "S from pass to pass", "S [4, 64, 64]", "emptied", "whatever N is", "131,072 bytes"]),
    ("paper_samba", ["the newest 23 entries", "once, asleep and awake"]),
    ("cpu_full_cache", ["grows by 32 entries", "for every further window", "in the first window"]),
    ("cpu_looped", ["4 times where it predicts", "4 passes over its window"]),
    ("depo8_sleep4", ["experiments/quickstart.py", "k=4 0.99"]),
])
def test_a_model_is_drawn(name, words, capsys):
    assert command.main(["show", name]) == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []
    config = zoo.config_of(name)
    assert re.findall(r"^  [┌│ ]?[▶ ]? +\d+ ([AG])  ", text, re.M) == list(config.pattern)


def test_a_wrong_name_is_told_in_one_line(capsys):
    assert command.main(["show", "cpu_hybird"]) == 2
    assert "did you mean 'cpu_hybrid'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        command.main(["draw"])
    assert stop.value.code == 2
