"""Every config file in experiments/ is a run, or a study whose every arm is one; models are built without memory."""
import functools
import runpy
from pathlib import Path

import pytest
from flax import nnx

from sleepnet import build
from sleepnet.config import RunConfig, parse
from sleepnet.study import resolve, spec as specs

FOLDER = Path(__file__).resolve().parents[1] / "experiments"


@functools.cache
def get_config_of(path: Path):
    return runpy.run_path(str(path)).get("get_config")


FILES = [path for path in sorted(FOLDER.rglob("*.py")) if get_config_of(path)]


def check(run: RunConfig) -> None:
    """The task exists, the model fits it and takes shape."""
    task = build.task_of(run)
    model = nnx.eval_shape(lambda: build.model_of(run, task))
    assert model.config.vocab_size >= task.vocab_size and model.config.window == task.window


def test_there_are_experiments():
    assert FILES or not FOLDER.is_dir()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_file_builds(path):
    config = get_config_of(path)()
    if "arms" not in config:
        check(parse(config))
        return
    study = specs.parse(config)
    runs = resolve.resolve(study)
    assert runs.keys() == {arm.name for arm in study.arms}
    models = {run.model: run for run in runs.values()}
    for run in models.values():
        check(run)


@pytest.mark.parametrize("path", [path for path in FILES if "BASES" in runpy.run_path(str(path))], ids=lambda path: path.stem)
def test_a_factor_is_a_study_over_each_of_its_bases(path):
    for base in runpy.run_path(str(path))["BASES"]:
        study = specs.parse(get_config_of(path)(base))
        assert len(study.arms) > 1 and resolve.resolve(study).keys() == {arm.name for arm in study.arms}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_file_says_what_it_is(path):
    """Command, hardware, wall time and score stand at its top; this holds the first, without which the others mean nothing."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""') and f"--config=experiments/{path.relative_to(FOLDER)}" in text.split('"""')[1]
