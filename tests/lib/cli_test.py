"""Command lines: help that teaches, errors as one line, exit codes; and the one of `sleepnet.eval`."""
import dataclasses
import errno
import os
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from absl import flags, logging
from flax import nnx
from ml_collections.config_flags import config_flags

from sleepnet import cli, tasks
from sleepnet.config import ModelConfig, SleepConfig
from sleepnet.errors import UsageError
from sleepnet.eval import __main__ as evaluation
from sleepnet.eval import report
from sleepnet.models.hybrid import Hybrid

CONFIG = """
from sleepnet.config import default
def get_config():
    return default()
"""


def call(monkeypatch, capsys, main, flag_values, *arguments):
    """(exit code, stdout, stderr) of a command line."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run(main, flag_values)
    return stop.value.code or 0, *capsys.readouterr()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command with a config file, an integer flag and a `main` of the test's own."""
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, main=lambda argv: None):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "a run's config file", flag_values=values)
        flags.DEFINE_integer("number", 3, "how many", lower_bound=1, flag_values=values)
        return call(monkeypatch, capsys, lambda argv: main(values), values, *arguments)

    return run


def fail(error):
    def main(values):
        raise error

    return main


def test_flags_and_overrides_reach_main(command):
    seen = []
    assert command("--config=config.py", "--config.model.width=48", "--number=7", main=seen.append) == (0, "", "")
    assert seen[0].config.model.width == 48 and seen[0].number == 7
    assert command("--config", "config.py", main=lambda values: 5)[0] == 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=config.py", "--config.model.widht=3"], "unknown flag --config.model.widht; did you mean '--config.model.width'?"),
        (["--config=config.py", "--config.modle.width=3"], "unknown flag --config.modle.width; did you mean '--config.model.width'?"),
        (["--config=config.py", "--config.widht=3"], "unknown flag --config.widht; did you mean '--config.model.width'?"),
        (["--config=config.py", "--noconfig.resum"], "unknown flag --config.resum; did you mean '--config.resume'?"),
        (["--config=config.py", "--config.model.width=wide"], "flag --config.model.width=wide: invalid literal for int() with base 10: 'wide'"),
        (["--config.model.width=3"], "--config.model.width changes a config file: give --config=FILE before it"),
        (["--config=confg.py"], "--config=confg.py: there is no such file"),
        (["--config=bad.py"], "bad.py, line 3: width=3 must be even"),
        (["--numbre=4"], "unknown flag --numbre; did you mean '--number'?"),
        (["--number=0"], "flag --number=0: 0 is not a positive integer"),
        (["--number"], "Missing value for flag --number"),
        (["stray"], "unexpected argument 'stray': everything is given as --flag=value, see --help"),
    ],
)
def test_a_bad_flag_is_one_line(command, tmp_path, arguments, message):
    (tmp_path / "bad.py").write_text(
        "from sleepnet.errors import UsageError\ndef get_config():\n    raise UsageError('width=3 must be even')\n"
    )
    assert command(*arguments) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    "error, message",
    [
        (UsageError("width=3\n  must be even"), "width=3 must be even"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a"), "runs/a: No space left on device; free some space or write elsewhere"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; free some space or write elsewhere"),
        (OSError("quite\nbroken"), "quite broken"),
    ],
)
def test_what_main_raises_is_one_line(command, error, message):
    assert command(main=fail(error)) == (2, "", f"error: {message}\n")


def test_a_missing_file_is_named(command):
    assert command(main=lambda values: open("nowhere.txt")) == (2, "", "error: nowhere.txt: No such file or directory; check the path\n")


def test_interrupts_and_bugs_are_no_usage_errors(command):
    assert command(main=fail(KeyboardInterrupt())) == (130, "", "interrupted\n")
    with pytest.raises(ZeroDivisionError):
        command(main=fail(ZeroDivisionError()))


def test_help_shows_the_docstring_and_own_flags_only(command):
    code, out, err = command("--number=5", "--help")
    assert (code, err) == (0, "")
    assert out.startswith(__doc__) and "--config\n      a run's config file\n" in out and "--number\n      how many (default 3)" in out
    assert "helpfull" not in out and "logtostderr" not in out


def test_help_on_the_shared_flags_shows_the_modules_own(monkeypatch, capsys):
    name = "a_flag_of_this_test"
    flags.DEFINE_string(name, "x", "text")
    try:
        code, out, _ = call(monkeypatch, capsys, test_help_on_the_shared_flags_shows_the_modules_own, flags.FLAGS, "--help")
    finally:
        delattr(flags.FLAGS, name)
    assert code == 0 and f"--{name}\n      text (default x)" in out and "--verbosity" not in out


# python -m sleepnet.eval

RULE = tasks.get("rule110", width=12, strings=2, steps=(0, 2))


class Constant(nnx.Module):
    """Says 1 everywhere."""

    def __init__(self):
        sleep = SleepConfig(passes=3)
        self.config = ModelConfig(vocab_size=RULE.vocab_size, window=RULE.window, sleep=sleep)
        self.bias = nnx.Param(jnp.eye(RULE.vocab_size)[2])

    def forward(self, tokens, passes, predicts):
        return jnp.broadcast_to(self.bias[...][None, None], (*tokens.shape, self.config.vocab_size))


@dataclasses.dataclass
class Loaded:
    model: nnx.Module
    task: object
    config: object
    step: int


@pytest.fixture
def grade(monkeypatch, capsys, tmp_path):
    """Runs `python -m sleepnet.eval` with models that need no training."""
    checkpoint, zoo = types.ModuleType("sleepnet.checkpoint"), types.ModuleType("sleepnet.models.zoo")
    checkpoint.load_model = lambda workdir: Loaded(Constant(), RULE, None, 12)
    zoo.load = lambda name: (Constant(), RULE)
    zoo.about = lambda name: f"trained on what {name} needs"
    for module in (checkpoint, zoo):
        parent, name = module.__name__.rsplit(".", 1)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(sys.modules[parent], name, module, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        evaluation.FLAGS.unparse_flags()
        for name in evaluation.FLAGS:
            evaluation.FLAGS[name].unparse()
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return call(monkeypatch, capsys, evaluation.main, evaluation.FLAGS, *arguments)

    return run


def size():
    """The model as its evaluation says it first; parameters as they are in one that is made."""
    made = nnx.state(nnx.eval_shape(lambda: Hybrid(Constant().config, nnx.Rngs(0))), nnx.Param)
    return f"{sum(leaf.size for leaf in jax.tree.leaves(made)):,} parameters, blocks AG (A attention, G gated_delta), window {RULE.window}, N = 3"


def test_eval_of_a_run(grade, tmp_path):
    code, out, err = grade("--workdir=run", "--examples=50", "--batch_size=16", "--seed=4")
    assert (code, err.strip()) == (0, "")
    assert out.splitlines()[0] == f"run: {size()}; trained for 12 steps on rule110(width=12, strings=2, steps=(0, 2))"
    assert {"N = 3", "steps = 2", "chance"} <= {words for words in ("N = 3", "N = 1 ", "steps = 2", "chance") if words in out}
    assert out.endswith("wrote run/eval/test.jsonl\nwrote run/eval/test_steps.png\nwrote run/eval/test_steps_heat.png\n")
    rows = report.read_rows(tmp_path / "run/eval/test.jsonl")
    assert {row["passes"] for row in rows} == {3}
    batch = RULE.batch(4, "test", 0, 50)
    assert rows[0]["label_accuracy"] == (batch["targets"][batch["loss_mask"]] == 2).mean()
    for row in rows:
        assert (row["workdir"], row["step"], row["seed"], row["examples"], row["task"]) == ("run", 12, 4, 50, RULE.spec())
    assert (tmp_path / "run/eval/test_steps.png").stat().st_size > 5000


def test_eval_of_a_model_of_the_package(grade, tmp_path):
    code, out, _ = grade("--model=tiny", "--examples=8", "--split=validation")
    assert code == 0 and "wrote runs/eval/tiny/validation.jsonl" in out
    assert out.splitlines()[0] == f"tiny: {size()}; trained on what tiny needs"
    rows = report.read_rows(tmp_path / "runs/eval/tiny/validation.jsonl")
    assert [row["passes"] for row in rows if row["axis"] == "all"] == [1, 2, 3, 4, 8] and rows[0]["model"] == "tiny"
    code, out, _ = grade("--model=tiny", "--examples=8", "--passes=4,2", "--out=here")
    assert code == 0 and [row["passes"] for row in report.read_rows(tmp_path / "here/test.jsonl") if row["axis"] == "all"] == [2, 4]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give one of --workdir=FOLDER or --model=NAME"),
        (["--workdir=a", "--model=b"], "give either --workdir=FOLDER or --model=NAME, not both"),
        (["--model=b", "--passes=0"], "--passes=0 must be whole numbers of at least 1, such as --passes=1,2,4"),
        (["--model=b", "--passes=2,-1"], "--passes=2,-1 must be whole numbers of at least 1, such as --passes=1,2,4"),
        (["--model=b", "--passes=2,x"], "--passes=2,x must be whole numbers of at least 1, such as --passes=1,2,4"),
        (["--model=b", "--passes="], "--passes= must be whole numbers of at least 1, such as --passes=1,2,4"),
        (["--model=b", "--examples=0"], "flag --examples=0: 0 is not a positive integer"),
        (["--model=b", "--split=tset"], "flag --split=tset: value should be one of <test|validation|train>"),
        (["--model=b", "--pases=2"], "unknown flag --pases; did you mean '--passes'?"),
    ],
)
def test_eval_refuses_in_one_line(grade, arguments, message):
    assert grade(*arguments) == (2, "", f"error: {message}\n")


def test_libraries_remarks_are_not_for_a_person():
    found, before = [], logging.get_verbosity()
    assert cli.guarded(lambda: found.append(logging.get_verbosity())) == 0
    assert found == [logging.ERROR] and logging.get_verbosity() == before


def test_eval_finds_out_early_that_it_cannot_write(grade, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = grade("--model=b", "--out=file/inside")
    assert (code, out) == (2, "") and err.startswith(f"error: {tmp_path}/file/inside: Not a directory; ")


def test_eval_help(grade):
    code, out, err = grade("--help")
    assert (code, err) == (0, "") and "python -m sleepnet.eval --model=depo8_sleep4" in out
    for flag in ("workdir", "model", "passes", "examples", "batch_size", "seed", "split", "out"):
        assert f"\n  --{flag}\n" in out
