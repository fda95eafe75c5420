"""Config files as a person writes them: with numpy's numbers, with a module beside them, with arguments that only the task knows; and broken ones."""
import json
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections.config_flags import config_flags

from sleepnet import build, cli, config_files, scalars, tasks
from sleepnet.config import RunConfig, default, from_dict, parse, to_dict
from sleepnet.errors import UsageError
from sleepnet.study import ablations, spec as specs
from studies import config as study_config

HEAD = "from sleepnet.config import default\n\ndef get_config():\n    config = default()\n"
DEPO = '    config.task.name = "depo"\n    config.task.arguments = dict(nodes=5, names=3, name_tokens=(1, 2))\n'


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a command with the config file `text`, from another folder: (exit code, stderr, the config)."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(text, *arguments, suffix=""):
        (tmp_path / "elsewhere/mine.py").write_text(text)
        values, seen = flags.FlagValues(), []
        config_flags.DEFINE_config_file("config", None, "a run's config file", lock_config=True, flag_values=values)
        monkeypatch.setattr(sys, "argv", ["program", f"--config=../elsewhere/mine.py{suffix}", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run(lambda argv: seen.append(values.config), values)
        return stop.value.code or 0, capsys.readouterr().err, seen[0] if seen else None

    return run


# numpy

NUMPY = HEAD.replace("from", "import numpy as np\nfrom", 1) + DEPO + """
    config.seed = np.uint32(7)
    config.optim.learning_rate = np.geomspace(1e-3, 1e-1, 3)[1]
    config.optim.adam_rate = np.float32(0.5)
    config.train.update(steps=np.int64(12), random_passes=tuple(np.arange(1, 3)))
    config.eval.passes = np.arange(1, 4)
    config.model.window_positions = np.bool_(False)
    config.task.arguments.nodes = np.int16(6)
    config.task.arguments.hops = np.int64(2)
    config.task.arguments.name_tokens = np.array([1, 2])
    return config
"""


def test_numpy_s_numbers_become_python_s(command):
    code, error, config = command(NUMPY)
    assert (code, error) == (0, "")
    run = parse(config)
    found = run.seed, run.optim.learning_rate, run.optim.adam_rate, run.train.steps, run.train.random_passes, run.eval.passes, run.model.window_positions
    assert found == (7, float(np.geomspace(1e-3, 1e-1, 3)[1]), 0.5, 12, (1, 2), (1, 2, 3), False)
    assert run.task.arguments == {"nodes": 6, "hops": 2, "names": 3, "name_tokens": (1, 2)}
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(run)))) == run  # nothing of numpy is left
    assert build.task_of(run).spec_hash == tasks.get("depo", nodes=6, hops=2, names=3, name_tokens=(1, 2)).spec_hash


def test_a_flag_changes_what_was_numpy_s(command):
    _, error, config = command(NUMPY, "--config.optim.learning_rate=0.25", "--config.train.steps=3", "--config.task.arguments.nodes=2")
    run = parse(config)
    assert error == "" and (run.optim.learning_rate, run.train.steps, run.task.arguments["nodes"]) == (0.25, 3, 2)


def test_they_are_taken_wherever_a_configuration_is_made():
    values = {"optim": {"clip": np.float64(2)}, "train": {"steps": np.int8(3)}, "task": {"arguments": {"nodes": np.int64(6)}}, "eval": {"passes": np.int64(2)}}
    assert from_dict(RunConfig, values) == from_dict(RunConfig, scalars.python(values)) == parse(values)
    assert tasks.get("rule110", width=np.int64(12), chain_of_thought=np.bool_(True), steps=np.array([1, 2])).spec() == tasks.get(
        "rule110", width=12, chain_of_thought=True, steps=(1, 2)
    ).spec()  # fmt: skip
    for wrong, message in (({"optim": {"clip": np.float64("nan")}}, "clip=nan must be a finite float"), ({"seed": np.float32(1)}, "seed=1.0 must be a int")):
        with pytest.raises(UsageError, match=message):
            from_dict(RunConfig, wrong)


def test_a_study_takes_them():
    arms = [dict(name="a", overrides={"model.sleep.passes": np.int64(2), "optim.learning_rate": np.float32(0.5)}, eval_passes=np.arange(1, 3)), dict(name="b")]
    config = study_config(arms, seeds=np.arange(2), claim=dict(arm="a", at_least=np.float64(0.5), axis="k", value=np.int64(2)))
    config.base.train.steps = np.int64(9)
    spec = specs.parse(config)
    assert specs.parse(json.loads(json.dumps(specs.to_dict(spec)))) == spec
    assert spec.seeds == (0, 1) and spec.base.train.steps == 9 and spec.arm("a").eval_passes == (1, 2)


def test_scalars_are_python_s():
    found = scalars.python({"a": [np.int64(1), (np.float32(0.5), "x")], "b": np.ones((1, 2), bool), "c": None, "d": 3, "e": np.array(2.0)})
    assert found == {"a": [1, (0.5, "x")], "b": ((True, True),), "c": None, "d": 3, "e": 2.0}
    assert [type(each) for each in (found["a"][0], found["a"][1][0], found["b"][0][0], found["e"])] == [int, float, bool, float]


# A task's own arguments

@pytest.mark.parametrize("words, wanted", [
    (["window=16"], {"window": 16}),
    (["nodes=(3, 5)"], {"nodes": (3, 5)}),
    (["nodes=3,5"], {"nodes": (3, 5)}),
    (["window", "16"], {"window": 16}),
    (["window=None"], {"window": None}),
    (["hops=2", "--config.train.steps=4"], {"hops": 2}),
])  # fmt: skip
def test_an_argument_that_the_file_does_not_name(command, words, wanted):
    code, error, config = command(HEAD + DEPO + "    return config\n", f"--config.task.arguments.{words[0]}", *words[1:])
    assert (code, error) == (0, "") and parse(config).task.arguments == {"nodes": 5, "names": 3, "name_tokens": (1, 2)} | wanted
    assert config.train.steps == (4 if len(words) > 1 and "steps" in words[1] else 1000)


def test_values_stay_of_their_kind(command):
    arguments = '    config.task.arguments = dict(order="1", power=0.5, thought=True)\n'
    flag = "--config.task.arguments."
    _, error, config = command(HEAD + arguments + "    return config\n", f"{flag}order=2", f"{flag}power=1", f"--no{flag[2:]}thought", f"{flag}more=TRUE")
    found = parse(config).task.arguments
    assert error == "" and repr(found) == repr(dict(more=True, order="2", power=1.0, thought=False))
    assert command(HEAD + arguments + "    return config\n", f"{flag}thought=0")[2].task.arguments.thought is False


def test_the_task_names_the_nearest_of_its_own(command):
    _, _, config = command(HEAD + DEPO + "    return config\n", "--config.task.arguments.windw=16")
    with pytest.raises(UsageError, match="task 'depo' has no argument 'windw'; did you mean 'window'?"):
        build.task_of(parse(config))
    code, error, _ = command(HEAD + DEPO + "    return config\n", "--config.tsk.arguments.window=16")
    assert code == 2 and error.startswith("error: unknown flag --config.tsk.arguments.window; did you mean '--config.task.arguments")
    code, error, _ = command(HEAD + DEPO + "    return config\n", "--config.task.arguments.window=16", "--config.trian.steps=3")
    assert (code, error) == (2, "error: unknown flag --config.trian.steps; did you mean '--config.train.steps'?\n")


def test_a_study_s_base_has_them_too(command):
    text = "from sleepnet.study.spec import default\n\ndef get_config():\n    return default()\n"
    _, error, config = command(text, "--config.base.task.arguments.window=16")
    assert error == "" and config.base.task.arguments.window == 16


# Beside the file

def test_a_module_beside_the_file_is_found_while_it_is_loaded(command, tmp_path, monkeypatch):
    name = "a_helper_of_this_test"
    for folder, steps in (("elsewhere", 3), ("here", 4)):  # not the one where the command is given
        (tmp_path / folder / f"{name}.py").write_text(f"STEPS = {steps}\n")
    before = list(sys.path)
    late = HEAD + f"    from {name} import STEPS\n    config.train.steps = STEPS\n    return config\n"
    for text in (f"import {name}\n" + HEAD + f"    config.train.steps = {name}.STEPS\n    return config\n", late):
        code, error, config = command(text)
        assert (code, error) == (0, "") and config.train.steps == 3 and sys.path == before
        sys.modules.pop(name)


def test_a_factor_s_too(tmp_path):
    (tmp_path / "another_helper_of_this_test.py").write_text("BASES = ()\n")
    (tmp_path / "factor.py").write_text("from another_helper_of_this_test import BASES\n")
    with pytest.raises(UsageError, match="no config file there says BASES"):
        ablations.suite(tmp_path, tmp_path)
    sys.modules.pop("another_helper_of_this_test")


@pytest.mark.parametrize("text, suffix, message", [
    (HEAD, "", ": get_config() returns nothing: it lacks a `return config`"),
    ("def get_config():\n    return 5\n", "", ": get_config() returns a int, not a config made of sleepnet.config.default()"),
    ("def getconfig():\n    pass\n", "", " defines no get_config(): a config file needs one that returns a config, made of sleepnet.config.default()"),
    ("x = 1\ndef get_config(:\n", "", ", line 2: SyntaxError: invalid syntax"),
    ("import no_such_module\n", "", ", line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    (HEAD + "    return {}['x']\n", "", ", line 5: KeyError: 'x'"),
    (HEAD + "    open('nowhere')\n", "", ", line 5: FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'"),
    (HEAD, ":x", ":x: TypeError: get_config() takes 0 positional arguments but 1 was given"),
    ("def get_config(x):\n    pass\n", "", ": TypeError: get_config() missing 1 required positional argument: 'x'"),
    ("def get_config(x):\n    assert x == 'a:b', x\n    return {}\n", ":a:b", None),
])  # fmt: skip
def test_a_file_that_gives_no_config_is_one_line(command, text, suffix, message):
    code, error, _ = command(text, suffix=suffix)
    if message is None:
        assert (code, error) == (0, "")
    else:
        assert code == 2 and error.startswith(f"error: ../elsewhere/mine.py{message}") and error.count("\n") == 1


def test_values_in_words():
    for text, wanted in {"3": 3, "1,2": (1, 2), "[1]": [1], "1e-2": 0.01, "True": True, "false": False, "None": None, "forward": "forward", "a,b": "a,b"}.items():
        assert config_files.value(text) == wanted and type(config_files.value(text)) is type(wanted)


def test_a_default_is_of_its_own():
    one, other = default(), default()
    one.model.sleep.passes = 9
    assert other.model.sleep.passes == 4 and parse(default()) == RunConfig()
